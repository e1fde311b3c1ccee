//! What can go wrong with the database.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use watchfire_event::AlertId;
use watchfire_wire::ConversionError;

/// Why the database could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AlertDbError {
    /// The disk (or a quota) is full. Nothing stored is lost; the call may be repeated when there is space.
    #[error("{path}: no space left to {attempt}; free some, nothing stored is lost", path = path.display())]
    NoSpace {
        /// What was attempted.
        attempt: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file is not what was written. It is left as it is.
    #[error(
        "{path}: {problem}. It is left untouched: restore it from a backup, or move it (and the files beside it that begin \
         with its name) away to begin with an empty one",
        path = path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A later version of this program wrote it.
    #[error("{path}: its schema is version {found}, this program knows up to {known}; use a newer program", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest known.
        known: i64,
    },
    /// SQLite failed otherwise.
    #[error("{path}: cannot {attempt}", path = path.display())]
    Sqlite {
        /// What was attempted.
        attempt: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A file beside or before SQLite failed.
    #[error("{path}: cannot {attempt}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A stored alert cannot be read.
    #[error("{path}: alert {id} cannot be read", path = path.display())]
    BadAlert {
        /// The database.
        path: PathBuf,
        /// The alert.
        id: AlertId,
        /// Why.
        source: ConversionError,
    },
    /// There is no such alert to go on from.
    #[error("there is no alert {0}")]
    NoSuchAlert(AlertId),
}

impl AlertDbError {
    /// Whether the same call may succeed later without anyone repairing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, AlertDbError::NoSpace { .. })
    }

    pub(crate) fn sqlite(attempt: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> AlertDbError {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => AlertDbError::NoSpace { attempt, path, source },
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    AlertDbError::Damaged { path, problem: source.to_string() }
                }
                _ => AlertDbError::Sqlite { attempt, path, source },
            }
        }
    }

    pub(crate) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AlertDbError {
        let path = path.to_owned();
        move |source| AlertDbError::Io { attempt, path, source }
    }
}
