//! What can go wrong, and what had gone wrong before.

use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

/// Why the lake could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The disk (or a quota) is full. Nothing stored is lost; the call may be repeated when there is space.
    #[error("{path}: no space left to {attempt}; free some, nothing stored is lost", path = path.display())]
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
    /// The log holds as much as it may, because the archiver is behind.
    #[error("{path}: the event log is full ({held} of {limit} bytes wait to be archived)", path = path.display())]
    LogFull {
        /// The log's directory.
        path: PathBuf,
        /// Bytes it holds.
        held: u64,
        /// Bytes it may hold.
        limit: u64,
    },
    /// A batch larger than [`crate::MAX_BATCH`].
    #[error("a batch of {bytes} bytes: at most {limit} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// A sync failed earlier. What the page cache holds can no longer be trusted, so nothing more is taken until the lake is
    /// opened again.
    #[error("{path}: an earlier sync failed ({problem}); restart to recover from what is on disk", path = path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was said then.
        problem: String,
    },
    /// Another process has it open.
    #[error("{path}: in use by another process", path = path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Bytes that are not what was written.
    #[error("{path}: damaged at byte {position}: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A Parquet file could not be written or read.
    #[error("{path}: cannot {attempt}", path = path.display())]
    Parquet {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the library said.
        source: ParquetError,
    },
    /// A row of a Parquet file does not describe an event.
    #[error("{path}: column {column} holds what is no event", path = path.display())]
    BadRow {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
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

impl LakeError {
    /// Whether the same call may succeed later without anyone repairing anything: a full disk, a full log.
    pub fn is_temporary(&self) -> bool {
        matches!(self, LakeError::NoSpace { .. } | LakeError::LogFull { .. })
    }

    pub(crate) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LakeError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                LakeError::NoSpace { attempt, path, source }
            }
            _ => LakeError::Io { attempt, path, source },
        }
    }

    pub(crate) fn parquet(attempt: &'static str, path: &Path) -> impl FnOnce(ParquetError) -> LakeError {
        let path = path.to_owned();
        move |source| match source {
            // The writer's own I/O errors travel inside; a full disk must be told from a bad file.
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(io) => LakeError::io(attempt, &path)(*io),
                Err(inner) => LakeError::Parquet { attempt, path, source: ParquetError::External(inner) },
            },
            source => LakeError::Parquet { attempt, path, source },
        }
    }
}

/// Damage that was found on the disk, and what became of it. The lake works on without the damaged piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what was done.
    pub problem: String,
}

impl LakeFault {
    pub(crate) fn report(faults: &mut Vec<LakeFault>, path: &Path, problem: String) {
        tracing::error!(file = %path.display(), %problem, "damage in the data directory");
        faults.push(LakeFault { path: path.to_owned(), problem });
    }
}
