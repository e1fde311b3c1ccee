//! The database file: opened, checked, given its schema.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Raised with every change of the tables; a file of a later version is refused, one of an earlier is migrated.
const SCHEMA_VERSION: i64 = 1;

/// A blob column holds what columns need not be searched for: the alert as it came (`watchfire.agent.v1.Alert`).
const SCHEMA: &str = "
CREATE TABLE alerts (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    id          BLOB NOT NULL UNIQUE,
    host        BLOB NOT NULL,
    boot        BLOB NOT NULL,
    incarnation INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    happened    INTEGER NOT NULL,
    stored      INTEGER NOT NULL,
    rule        TEXT NOT NULL,
    level       INTEGER NOT NULL,
    tgid        INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    exe         BLOB NOT NULL,
    alert       BLOB NOT NULL
) STRICT;
CREATE INDEX alerts_by_stream ON alerts (host, boot, incarnation, sequence);
CREATE INDEX alerts_by_rule ON alerts (rule, number);
CREATE INDEX alerts_by_time ON alerts (happened);
CREATE TABLE hosts (
    host          BLOB PRIMARY KEY,
    hostname      TEXT NOT NULL,
    os            TEXT NOT NULL,
    kernel        TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    boot          BLOB NOT NULL,
    incarnation   INTEGER NOT NULL,
    first_seen    INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL
) STRICT;
";

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AlertDbError {
    /// The file is damaged, or no database at all. It is never replaced by an empty one.
    #[error("{}: damaged, or no alert database; restore a copy, or move it away to start with an empty one", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of this program.
    #[error("{}: schema version {found}, this program knows up to {SCHEMA_VERSION}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
    },
    /// The disk, or the quota, is full. What was stored is still there.
    #[error("{}: no space left to store alerts", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Anything else.
    #[error("{}: {attempt}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A stored alert cannot be read back.
    #[error("{}: alert number {number} is damaged", path.display())]
    DamagedAlert {
        /// The file.
        path: PathBuf,
        /// Its row.
        number: i64,
        /// What is wrong with it.
        source: watchfire_wire::ConversionError,
    },
}

/// Alerts and hosts. One connection behind a lock: writes are few, and a list is read in milliseconds.
#[derive(Debug)]
pub struct AlertDb {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl AlertDb {
    /// Opens the database, and makes it where there is no file yet.
    ///
    /// # Errors
    /// A damaged file, one from a later version, or one that cannot be opened.
    pub fn open(path: &Path) -> Result<AlertDb, AlertDbError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let wrap = |attempt| move |source| classify(path, attempt, source);
        let connection = Connection::open_with_flags(path, flags).map_err(wrap("open"))?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(wrap("set the busy timeout"))?;
        // WAL with FULL: an alert is on the disk before it is acknowledged, at one fsync for each batch.
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            .map_err(wrap("set up the journal"))?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(wrap("read the schema's version"))?;
        match found {
            0 => create(&connection).map_err(wrap("make the tables"))?,
            SCHEMA_VERSION => check(&connection).map_err(wrap("check the file"))?,
            _ => return Err(AlertDbError::TooNew { path: path.into(), found }),
        }
        Ok(AlertDb { path: path.into(), connection: Mutex::new(connection) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while the lock was held has rolled its transaction back: the connection is as good as before.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn failed(&self, attempt: &'static str) -> impl Fn(rusqlite::Error) -> AlertDbError + '_ {
        move |source| classify(&self.path, attempt, source)
    }
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))
}

/// Finds what a crash of the machine or a stray write may have done. Costs a pass over the file.
fn check(connection: &Connection) -> rusqlite::Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(verdict)))
}

fn classify(path: &Path, attempt: &'static str, source: rusqlite::Error) -> AlertDbError {
    let path = path.into();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => AlertDbError::Corrupt { path, source },
        Some(ErrorCode::DiskFull) => AlertDbError::Full { path, source },
        _ => AlertDbError::Failed { path, attempt, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        let garbage = vec![b'x'; 8192];
        fs::write(&path, &garbage).unwrap();
        let error = AlertDb::open(&path).unwrap_err();
        assert!(matches!(error, AlertDbError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("alerts.sqlite"));
        assert_eq!(fs::read(&path).unwrap(), garbage);
    }

    #[test]
    fn a_truncated_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        drop(AlertDb::open(&path).unwrap());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::Corrupt { .. }));
    }

    #[test]
    fn a_later_schema_is_refused_by_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        AlertDb::open(&path).unwrap().lock().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::TooNew { found: 99, .. }));
    }
}
