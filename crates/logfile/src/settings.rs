//! What a log file needs to be told.

use std::io;
use std::path::PathBuf;

use crate::Severity;

/// Why a log file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A value is out of its range.
    #[error("log setting {key} = {value}: allowed is {allowed}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The range, in words.
        allowed: &'static str,
    },
    /// The directory could not be made, or a file not be opened: also when it is a symbolic link, a pipe or a device.
    #[error("open log file {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How often one message may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimit {
    /// Lines at once after a quiet spell, 1 to 100,000.
    pub burst: u32,
    /// Lines a minute after that, 1 to 1,000,000.
    pub per_minute: u32,
}

/// Settings of one log file.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// The file that is written, `…/NAME.log`; the one before it is kept as `…/NAME.log.1`. Its directory is made, with
    /// mode 0700, when it is not there. One process to a file.
    pub path: PathBuf,
    /// Neither file grows beyond this, in bytes; 64 KiB to 1 GiB.
    pub max_bytes: u64,
    /// Messages less grave than this are left out.
    pub level: Severity,
    /// For each place in the program that logs.
    pub messages: LineLimit,
    /// For each source of [`crate::LogFile::relay`].
    pub sources: LineLimit,
}

impl LogSettings {
    /// Twice 20 MB, from `info` on; 20 lines at once and then 10 a minute from a place in the program, 200 and then 60
    /// from a worker's standard error, where a backtrace shall pass whole.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        LogSettings {
            path: path.into(),
            max_bytes: 20_000_000,
            level: Severity::Info,
            messages: LineLimit { burst: 20, per_minute: 10 },
            sources: LineLimit { burst: 200, per_minute: 60 },
        }
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        let out = |key, value, allowed| Err(LogError::OutOfRange { key, value, allowed });
        if !(64 << 10..=1 << 30).contains(&self.max_bytes) {
            return out("max_bytes", self.max_bytes.to_string(), "64 KiB to 1 GiB");
        }
        if self.path.file_name().is_none() {
            return out("path", format!("{:?}", self.path), "the path of a file");
        }
        let LineLimit { burst, per_minute } = self.messages;
        let sources = self.sources;
        for (key, value) in [("messages.burst", burst), ("sources.burst", sources.burst)] {
            if !(1..=100_000).contains(&value) {
                return out(key, value.to_string(), "1 to 100000");
            }
        }
        for (key, value) in [("messages.per_minute", per_minute), ("sources.per_minute", sources.per_minute)]
        {
            if !(1..=1_000_000).contains(&value) {
                return out(key, value.to_string(), "1 to 1000000");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_what_is_not_is_refused_by_name() {
        let good = LogSettings::new("/x/agent.log");
        assert!(good.check().is_ok());
        let none = LineLimit { burst: 0, per_minute: 1 };
        let never = LineLimit { burst: 1, per_minute: 0 };
        for (key, bad) in [
            ("max_bytes", LogSettings { max_bytes: 65_535, ..good.clone() }),
            ("max_bytes", LogSettings { max_bytes: (1 << 30) + 1, ..good.clone() }),
            ("path", LogSettings { path: "/".into(), ..good.clone() }),
            ("messages.burst", LogSettings { messages: none, ..good.clone() }),
            ("sources.burst", LogSettings { sources: none, ..good.clone() }),
            ("messages.per_minute", LogSettings { messages: never, ..good.clone() }),
            ("sources.per_minute", LogSettings { sources: never, ..good.clone() }),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("log setting {key} = ")), "{error}");
        }
    }
}
