//! Why a spool could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

/// A failed call. What was stored before stays stored.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk (or a quota) is full. Nothing stored is lost; the call may be repeated when there is space.
    #[error("{path}: no space left to {attempt}", path = path.display())]
    NoSpace {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file could not be worked with.
    #[error("{path}: cannot {attempt}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another `Spool`, in this process or another, has the directory.
    #[error("{path}: the spool is in use by another process", path = path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// A record that no spool of these settings can hold.
    #[error("a record of {bytes} bytes: 1 to {limit} are taken")]
    RecordSize {
        /// Its size.
        bytes: usize,
        /// The largest that is taken.
        limit: u64,
    },
    /// The files name the last number there is: they were not written by a spool.
    #[error("the spool has no record numbers left")]
    NumbersExhausted,
    /// A setting out of range.
    #[error("setting {name}: {given} is not in {least}..={most}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        given: u64,
        /// The lowest allowed.
        least: u64,
        /// The highest allowed.
        most: u64,
    },
}

impl SpoolError {
    /// Whether the same call may succeed later without anyone repairing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, SpoolError::NoSpace { .. })
    }

    pub(crate) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SpoolError::NoSpace { attempt, path, source }
            }
            _ => SpoolError::Io { attempt, path, source },
        }
    }
}
