//! The handle that threads share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::Subscriber;
use tracing::callsite::Identifier;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;
use watchfire_event::UnixNanos;

use crate::layer::{LogLayer, wanted};
use crate::limit::Limiter;
use crate::line::Line;
use crate::pair::Pair;
use crate::{LogError, LogSettings, Severity};

/// Places in a program that log, told apart by their limits. The agent has some hundreds.
const MESSAGES_MAX: usize = 1024;
/// Workers and their like.
const SOURCES_MAX: usize = 256;

/// A log file, open. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct LogFile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    level: Severity,
    messages: Limiter<Identifier>,
    sources: Limiter<Box<str>>,
    pair: Mutex<Pair>,
    written: AtomicU64,
    suppressed: AtomicU64,
    failed: AtomicU64,
}

/// What became of the lines that were grave enough; each is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// They are in the file.
    pub written: u64,
    /// They came too often.
    pub suppressed: u64,
    /// The file did not take them.
    pub failed: u64,
}

impl LogFile {
    /// Opens the file for appending, or makes it, with its directory if that is missing.
    ///
    /// # Errors
    /// A setting out of its range, or a path that cannot be opened. Later trouble with the file is only counted.
    pub fn open(settings: &LogSettings) -> Result<Self, LogError> {
        settings.check()?;
        let now = Instant::now();
        let shared = Shared {
            level: settings.level,
            messages: Limiter::new(settings.messages, MESSAGES_MAX, now),
            sources: Limiter::new(settings.sources, SOURCES_MAX, now),
            pair: Mutex::new(Pair::open(&settings.path, settings.max_bytes, now)?),
            written: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Ok(LogFile { shared: Arc::new(shared) })
    }

    /// What `tracing` needs to write here. It brings its own filter by [`LogSettings::level`], and leaves other layers
    /// theirs. Fields of spans are not written.
    ///
    /// A field `syslog` with a word of [`Severity`] overrides the event's level, for the filter too:
    /// `error!(syslog = "crit", "…")`.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        LogLayer::new(self.clone()).with_filter(wanted(self.shared.level))
    }

    /// Writes a line that came from elsewhere, such as a worker's standard error, under the name of its source. A
    /// newline at its end is dropped, one inside is escaped. Each source has its own limit,
    /// [`LogSettings::sources`].
    pub fn relay(&self, severity: Severity, source: &str, line: &[u8]) {
        self.relay_at(severity, source, line, Instant::now());
    }

    /// The counts so far.
    pub fn counts(&self) -> LogCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogCounts {
            written: read(&self.shared.written),
            suppressed: read(&self.shared.suppressed),
            failed: read(&self.shared.failed),
        }
    }

    fn relay_at(&self, severity: Severity, source: &str, text: &[u8], now: Instant) {
        if !self.wants(severity) {
            return;
        }
        let key = source[..source.floor_char_boundary(64)].into();
        let Some(suppressed) = self.counted(self.shared.sources.admit(key, now)) else { return };
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let mut line = Line::new(UnixNanos::now(), severity, source);
        line.message(text);
        self.append(line, suppressed, now);
    }

    pub(crate) fn wants(&self, severity: Severity) -> bool {
        severity <= self.shared.level
    }

    /// Whether the message of this place in the program may pass now, and how many like it did not before.
    pub(crate) fn admit(&self, callsite: Identifier, now: Instant) -> Option<u64> {
        self.counted(self.shared.messages.admit(callsite, now))
    }

    pub(crate) fn append(&self, line: Line, suppressed: u64, now: Instant) {
        let bytes = line.finish(suppressed);
        // A thread that panicked elsewhere must not silence the others; the pair asks the file, not its memory.
        let mut pair = self.shared.pair.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = match pair.append(&bytes, now) {
            Ok(()) => &self.shared.written,
            Err(_) => &self.shared.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self, admitted: Option<u64>) -> Option<u64> {
        if admitted.is_none() {
            self.shared.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::LineLimit;

    fn settings(dir: &Path) -> LogSettings {
        LogSettings { max_bytes: 64 << 10, ..LogSettings::new(dir.join("agent.log")) }
    }

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join("agent.log")).unwrap()
    }

    #[test]
    fn what_a_worker_printed_stands_under_its_name_on_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::open(&settings(dir.path())).unwrap();
        log.relay(Severity::Notice, "worker sensor", b"thread panicked\x1b[0m\nat \xff\r\n");
        log.relay(Severity::Debug, "worker sensor", b"not wanted");
        let text = text(dir.path());
        assert!(text.ends_with(" notice worker sensor: thread panicked\\x1b[0m\\x0aat \\xff\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(log.counts(), LogCounts { written: 1, ..LogCounts::default() });
    }

    #[test]
    fn each_source_has_its_own_limit_and_the_next_line_says_what_it_cost() {
        let dir = tempfile::tempdir().unwrap();
        let sources = LineLimit { burst: 2, per_minute: 1 };
        let log = LogFile::open(&LogSettings { sources, ..settings(dir.path()) }).unwrap();
        let now = Instant::now();
        (0..10).for_each(|_| log.relay_at(Severity::Info, "loud", b"again", now));
        log.relay_at(Severity::Info, "quiet", b"once", now);
        log.relay_at(Severity::Info, "loud", b"later", now + Duration::from_secs(61));
        let text = text(dir.path());
        assert!(text.contains(" quiet: once\n"));
        assert!(text.ends_with(" loud: later suppressed=8\n"), "{text}");
        assert_eq!(log.counts(), LogCounts { written: 4, suppressed: 8, failed: 0 });
    }

    #[test]
    fn threads_that_log_at_once_write_whole_lines_within_the_bound_and_the_counts_close() {
        const THREADS: u64 = 4;
        const LINES: u64 = 2000;
        let dir = tempfile::tempdir().unwrap();
        let sources = LineLimit { burst: 1500, per_minute: 1 };
        let log = LogFile::open(&LogSettings { sources, ..settings(dir.path()) }).unwrap();
        std::thread::scope(|threads| {
            for thread in 0..THREADS {
                let log = log.clone();
                threads.spawn(move || {
                    for number in 0..LINES {
                        log.relay(
                            Severity::Info,
                            &format!("worker{thread}"),
                            format!("line {number} end").as_bytes(),
                        );
                    }
                });
            }
        });
        let counts = log.counts();
        assert_eq!(counts.written + counts.suppressed, THREADS * LINES);
        assert!(counts.suppressed > 0 && counts.failed == 0, "{counts:?}");
        let older = fs::read_to_string(dir.path().join("agent.log.1")).unwrap();
        for file in [text(dir.path()), older] {
            assert!(file.len() <= 64 << 10);
            assert!(
                file.lines().all(|line| line.contains(" info worker") && line.contains(" end")),
                "{file}"
            );
        }
    }

    #[test]
    fn lines_for_a_file_that_is_gone_are_counted_and_nobody_panics() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("log");
        let log = LogFile::open(&settings(&below)).unwrap();
        fs::remove_dir_all(&below).unwrap();
        fs::write(&below, "in the way").unwrap();
        (0..5).for_each(|_| log.relay(Severity::Err, "worker", b"lost"));
        assert_eq!(log.counts(), LogCounts { failed: 5, ..LogCounts::default() });
    }
}
