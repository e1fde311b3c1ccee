//! From an event of `tracing` to a line.

use std::error::Error;
use std::fmt::{self, Write};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Context;
use watchfire_event::UnixNanos;

use crate::line::{LINE_MAX, Line};
use crate::{LogFile, Severity};

/// The field that overrides the severity.
const SYSLOG: &str = "syslog";
/// An error's causes below it that are written; a longer chain is a loop.
const CAUSES_MAX: usize = 16;

/// Writes events to a [`LogFile`].
#[derive(Debug)]
pub(crate) struct LogLayer {
    log: LogFile,
}

impl LogLayer {
    pub(crate) fn new(log: LogFile) -> Self {
        LogLayer { log }
    }
}

/// Which events may be grave enough. It decides by the place in the program alone, so that tracing asks once and a place
/// that is not wanted costs nothing later.
pub(crate) fn wanted(level: Severity) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |metadata| {
        metadata.is_event()
            && (Severity::from(*metadata.level()) <= level || metadata.fields().field(SYSLOG).is_some())
    })
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let severity = severity(event);
        if !self.log.wants(severity) {
            return;
        }
        let now = Instant::now();
        let Some(suppressed) = self.log.admit(metadata.callsite(), now) else { return };
        // Formatted before the file is locked: a value's own formatting may log.
        let mut told = Told::default();
        event.record(&mut told);
        let mut line = Line::new(UnixNanos::now(), severity, metadata.target());
        line.message(told.message.as_bytes());
        for (name, value) in &told.fields {
            line.field(name, value.as_bytes());
        }
        line.left_out(told.left_out);
        self.log.append(line, suppressed, now);
    }
}

fn severity(event: &Event<'_>) -> Severity {
    let metadata = event.metadata();
    let mut named = Named(None);
    if metadata.fields().field(SYSLOG).is_some() {
        event.record(&mut named);
    }
    named.0.unwrap_or_else(|| Severity::from(*metadata.level()))
}

/// Looks for the field that overrides the severity.
struct Named(Option<Severity>);

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == SYSLOG {
            self.0 = value.parse().ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == SYSLOG {
            self.0 = format!("{value:?}").parse().ok();
        }
    }
}

/// An event's message and fields as text, no more of it than a line could take.
#[derive(Default)]
struct Told {
    message: String,
    fields: Vec<(&'static str, String)>,
    taken: usize,
    left_out: usize,
}

impl Told {
    fn take(&mut self, field: &Field, format: impl FnOnce(&mut Bounded) -> fmt::Result) {
        let mut bounded = Bounded { text: String::new(), room: LINE_MAX - self.taken, left_out: 0 };
        // What a value's own formatting calls an error ends that value; the rest of the line is not its concern.
        if format(&mut bounded).is_err() {
            bounded.text.push_str("(cannot be formatted)");
        }
        self.taken = (self.taken + bounded.text.len()).min(LINE_MAX);
        self.left_out += bounded.left_out;
        match field.name() {
            "message" => self.message = bounded.text,
            // It stands in the line already.
            SYSLOG if bounded.text.parse::<Severity>().is_ok() => {}
            name => self.fields.push((name, bounded.text)),
        }
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, |text| text.write_str(value));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.take(field, |text| {
            write!(text, "{error}")?;
            let causes = std::iter::successors(error.source(), |cause| (**cause).source());
            causes.take(CAUSES_MAX).try_for_each(|cause| write!(text, ": {cause}"))
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, |text| write!(text, "{value:?}"));
    }
}

/// Takes text up to its room, and counts the rest.
struct Bounded {
    text: String,
    room: usize,
    left_out: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let fits = piece.floor_char_boundary(self.room - self.text.len());
        let kept = if self.left_out > 0 { 0 } else { fits };
        self.text.push_str(&piece[..kept]);
        self.left_out += piece.len() - kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io};

    use tempfile::TempDir;
    use tracing::{debug, error, info, trace, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{LineLimit, LogCounts, LogError, LogSettings};

    struct Bench {
        dir: TempDir,
        log: LogFile,
    }

    impl Bench {
        fn new(level: Severity) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let messages = LineLimit { burst: 20, per_minute: 1 };
            let settings = LogSettings { level, messages, ..LogSettings::new(dir.path().join("agent.log")) };
            Bench { log: LogFile::open(&settings).unwrap(), dir }
        }

        /// What `work` logged, each line from its severity on.
        fn lines(&self, work: impl FnOnce()) -> Vec<String> {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(self.log.layer()), work);
            let text = fs::read_to_string(self.dir.path().join("agent.log")).unwrap();
            let time = "2026-11-26T08:15:30.250Z ".len();
            text.lines().map(|line| line[time..].to_owned()).collect()
        }
    }

    #[test]
    fn levels_messages_and_fields_become_lines() {
        let lines = Bench::new(Severity::Debug).lines(|| {
            error!(target: "a", code = 7, "broken");
            warn!(target: "a", name = "x y", ok = true, "odd");
            info!(target: "a", path = ?"/tmp/a\nb", list = ?[1, 2], "all well");
            debug!(target: "a", ratio = 0.5, "detail {}", 1);
            trace!(target: "a", "more detail");
        });
        let expected = [
            "err a: broken code=7",
            "warning a: odd name=\"x y\" ok=true",
            "info a: all well path=/tmp/a\\\\nb list=\"[1, 2]\"",
            "debug a: detail 1 ratio=0.5",
            "debug a: more detail",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_field_overrides_the_severity_that_is_shown_and_that_decides() {
        let lines = Bench::new(Severity::Notice).lines(|| {
            info!(target: "a", "not wanted");
            info!(target: "a", syslog = "notice", "worth knowing");
            debug!(target: "a", syslog = %Severity::Crit, worker = "sensor", "grave");
            warn!(target: "a", syslog = "info", "not grave");
            error!(target: "a", syslog = "loud", "no such word");
        });
        let expected =
            ["notice a: worth knowing", "crit a: grave worker=sensor", "err a: no such word syslog=loud"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        let source = io::Error::other("disk\nfire");
        let error = LogError::Open { path: "/x".into(), source };
        let lines = Bench::new(Severity::Info).lines(|| {
            error!(target: "a", error = &error as &(dyn Error + 'static), "no log");
        });
        assert_eq!(lines, ["err a: no log error=\"open log file /x: disk\\x0afire\""]);
    }

    #[test]
    fn one_place_that_repeats_itself_is_held_back_and_others_are_not() {
        let bench = Bench::new(Severity::Info);
        let lines = bench.lines(|| {
            for number in 0..1000 {
                info!(target: "a", number, "again");
            }
            info!(target: "a", "another");
        });
        let LogCounts { written, suppressed, failed } = bench.log.counts();
        assert_eq!((written + suppressed, failed), (1001, 0));
        assert_eq!(lines.len() as u64, written);
        assert!((21..100).contains(&written), "{written}");
        assert_eq!(lines.last().map(String::as_str), Some("info a: another"));
    }

    /// Logs while it is formatted.
    struct Talker;

    impl fmt::Display for Talker {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            info!(target: "a", "inner");
            f.write_str("outer")
        }
    }

    struct Unable;

    impl fmt::Debug for Unable {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            Err(fmt::Error)
        }
    }

    #[test]
    fn values_that_log_or_fail_while_they_are_formatted_hold_up_nothing() {
        let lines = Bench::new(Severity::Info).lines(|| {
            info!(target: "a", value = %Talker, "said");
            info!(target: "a", value = ?Unable, next = 1, "tried");
        });
        assert!(lines.contains(&"info a: said value=outer".to_owned()), "{lines:?}");
        let unable = "info a: tried value=\"half(cannot be formatted)\" next=1".to_owned();
        assert!(lines.contains(&unable), "{lines:?}");
    }

    #[test]
    fn values_of_many_megabytes_are_cut_and_the_count_of_what_was_left_out_is_exact() {
        let huge = "烽".repeat(1 << 20);
        let lines = Bench::new(Severity::Info).lines(|| info!(target: "a", huge, other = "lost", "cut"));
        let line = &lines[0];
        assert!(line.len() < LINE_MAX);
        let kept = line.matches('烽').count() * "烽".len();
        // The second field is lost with its name.
        let cut = huge.len() - kept + " other=".len() + "lost".len();
        assert!(
            line.starts_with("info a: cut huge=烽烽") && line.ends_with(&format!(" [cut {cut} bytes]")),
            "{cut}"
        );
    }

    #[test]
    fn the_layers_filter_leaves_other_layers_theirs() {
        let bench = Bench::new(Severity::Err);
        let all = Bench::new(Severity::Debug);
        let both = tracing_subscriber::registry().with(bench.log.layer()).with(all.log.layer());
        tracing::subscriber::with_default(both, || debug!(target: "a", "for one of them"));
        assert_eq!((bench.log.counts().written, all.log.counts().written), (0, 1));
    }
}
