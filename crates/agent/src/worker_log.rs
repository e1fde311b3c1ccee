//! What a worker prints, a line at a time, into the agent's log: under its own limit, so that no worker can fill it.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::thread;

use watchfire_logfile::{LogFile, Severity};

/// A line is cut here; the log cuts it again, with a mark.
const LINE_LIMIT: u64 = 32 << 10;

/// Reads `output` to its end in a thread of its own. The thread ends with the worker that holds the other end.
pub(crate) fn relay(
    worker: Arc<str>,
    output: impl Read + Send + 'static,
    log: LogFile,
) -> std::io::Result<()> {
    thread::Builder::new().name("worker log".into()).spawn(move || {
        let mut output = BufReader::new(output);
        while let Some(line) = next(&mut output) {
            let (severity, text) = told(&line);
            log.relay(severity, &worker, text);
        }
    })?;
    Ok(())
}

/// The next line, or what fits of it; `None` at the end.
fn next(output: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    match output.take(LINE_LIMIT).read_until(b'\n', &mut line) {
        Ok(count) if count > 0 => Some(line),
        Ok(_) | Err(_) => None,
    }
}

/// The level that our own workers put behind the time, and the text behind both; anything else, such as a panic, is a warning.
fn told(line: &[u8]) -> (Severity, &[u8]) {
    let line = line.trim_ascii();
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (Some(_time), Some(rest)) = (words.next(), words.next()) else { return (Severity::Warning, line) };
    let rest = rest.trim_ascii_start();
    let levels: [(&[u8], Severity); 5] = [
        (b"ERROR ", Severity::Err),
        (b"WARN ", Severity::Warning),
        (b"INFO ", Severity::Info),
        (b"DEBUG ", Severity::Debug),
        (b"TRACE ", Severity::Debug),
    ];
    let known = levels.into_iter().find_map(|(word, severity)| Some((severity, rest.strip_prefix(word)?)));
    known.unwrap_or((Severity::Warning, line))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use watchfire_logfile::LogSettings;

    use super::*;

    #[test]
    fn a_level_is_understood_and_anything_else_is_a_warning() {
        let line = b"2026-01-02T03:04:05Z  INFO watchfire_agent: ready\n";
        assert_eq!(told(line), (Severity::Info, &b"watchfire_agent: ready"[..]));
        assert_eq!(told(b"t ERROR x: y"), (Severity::Err, &b"x: y"[..]));
        for odd in [&b"thread 'main' panicked at x"[..], b"", b"\n", b"one", b"t INFOX z", b"\xff \xff"] {
            assert_eq!(told(odd), (Severity::Warning, odd.trim_ascii()));
        }
    }

    #[test]
    fn a_worker_that_floods_its_output_is_read_to_the_end_and_limited() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LogSettings::new(dir.path().join("agent.log"));
        let log = LogFile::open(&settings).unwrap();
        let (output, mut worker) = std::io::pipe().unwrap();
        relay("sensor".into(), output, log.clone()).unwrap();
        let flood = vec![b'x'; 100_000];
        for _ in 0..50 {
            std::io::Write::write_all(&mut worker, &flood).unwrap();
            std::io::Write::write_all(&mut worker, b"\nt ERROR last: words\n").unwrap();
        }
        drop(worker);
        let deadline = Instant::now() + Duration::from_secs(30);
        // Each flood is four pieces of at most 32 KiB.
        while log.counts().written + log.counts().suppressed < 250 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let counts = log.counts();
        assert_eq!((counts.written + counts.suppressed, counts.failed), (250, 0));
        assert!(counts.suppressed > 0, "{counts:?}");
        let text = std::fs::read_to_string(&settings.path).unwrap();
        assert!(
            text.lines().any(|line| line.ends_with(" err sensor: last: words")),
            "{:?}",
            text.lines().nth(4)
        );
    }
}
