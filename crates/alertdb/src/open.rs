//! The database file: opened, checked, given its schema.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Raised with every change of the tables; a file of a later version is refused, one of an earlier is migrated.
const SCHEMA_VERSION: i64 = 1;

/// The first bytes of every SQLite file, <https://www.sqlite.org/fileformat2.html>.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: u64 = 100;

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
    #[error("{}: no space left to store alerts; free some, nothing stored is lost", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file, or what lies beside it, could not be worked with before SQLite had a part in it.
    #[error("{}: {attempt}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
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
        if path.exists() {
            check_file(path)?;
        } else {
            make(path)?;
        }
        // Without the flag to create: what is gone between the two is not made anew in silence.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
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
            0 => return Err(corrupt(path, "a SQLite database, but not of alerts")),
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

/// Makes a whole database under another name and then renames it, so that a file that is empty or half made is damage and
/// never a crash at creation.
fn make(path: &Path) -> Result<(), AlertDbError> {
    if has_wal(path) {
        return Err(corrupt(path, "the file is gone, but its -wal, which holds alerts, is still there"));
    }
    let fresh = beside(path, ".new");
    for leftover in [&fresh, &beside(&fresh, "-journal")] {
        remove(leftover)?;
    }
    let made = Connection::open(&fresh).and_then(|connection| create(&connection));
    if let Err(error) = made {
        remove(&fresh)?;
        return Err(classify(path, "make the tables", error));
    }
    let failed = |attempt| move |source| AlertDbError::Io { path: path.into(), attempt, source };
    fs::rename(&fresh, path).map_err(failed("name the new file"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the directory of"))
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))
}

/// What SQLite would not say: to it an empty file is a new database, and a short one is sound until a missing page is read.
fn check_file(path: &Path) -> Result<(), AlertDbError> {
    let failed = |source| AlertDbError::Io { path: path.into(), attempt: "read", source };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut header = Vec::new();
    file.take(HEADER).read_to_end(&mut header).map_err(failed)?;
    if length == 0 {
        return Err(corrupt(path, "the file is empty"));
    }
    if length < HEADER || !header.starts_with(MAGIC) {
        return Err(corrupt(path, "not a SQLite database"));
    }
    // Page size at byte 16 (1 stands for 65536), number of pages at 28, both big endian.
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        page => page,
    };
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    // A checkpoint that a full disk stopped has written the first page, which tells the new length, and not the last ones:
    // those are still in the -wal, and SQLite reads them there.
    if length < page * pages && !has_wal(path) {
        return Err(corrupt(path, "the file was cut short"));
    }
    Ok(())
}

fn has_wal(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|metadata| metadata.len() > 0)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<(), AlertDbError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AlertDbError::Io { path: path.into(), attempt: "remove", source })
        }
        _ => Ok(()),
    }
}

fn corrupt(path: &Path, problem: &str) -> AlertDbError {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
    AlertDbError::Corrupt {
        path: path.into(),
        source: rusqlite::Error::SqliteFailure(code, Some(problem.to_owned())),
    }
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
    // A full disk shows first in the -shm file, which SQLite grows before it writes, and then it speaks of an I/O error
    // (`unixShmMap` in its os_unix.c).
    let extended = source.sqlite_error().map(|error| error.extended_code);
    if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
        return AlertDbError::Full { path, source };
    }
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => AlertDbError::Corrupt { path, source },
        Some(ErrorCode::DiskFull) => AlertDbError::Full { path, source },
        _ => AlertDbError::Failed { path, attempt, source },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_database_that_is_cut_short_emptied_or_overwritten_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        drop(AlertDb::open(&path).unwrap());
        let whole = fs::read(&path).unwrap();
        let garbage_header = [&[0x5a; 100][..], &whole[100..]].concat();
        let mut garbage_page = whole.clone();
        garbage_page[4096..8192].fill(0x5a);
        let cases = [
            ("half", whole[..whole.len() / 2].to_vec()),
            ("a byte less", whole[..whole.len() - 1].to_vec()),
            ("empty", Vec::new()),
            ("garbage header", garbage_header),
            ("garbage page", garbage_page),
        ];
        for (what, bytes) in cases {
            fs::write(&path, &bytes).unwrap();
            let error = AlertDb::open(&path).unwrap_err();
            assert!(matches!(error, AlertDbError::Corrupt { .. }), "{what}: {error:?}");
            let message = error.to_string();
            assert!(
                message.contains(path.to_str().unwrap()) && message.contains("move it away"),
                "{message}"
            );
            assert_eq!(fs::read(&path).unwrap(), bytes, "{what}: the file was changed");
        }
    }

    /// What lies on the disk when a checkpoint runs out of space between the first page and the last.
    #[test]
    fn a_file_whose_checkpoint_a_full_disk_stopped_is_whole_with_its_wal_and_damaged_without() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        let db = AlertDb::open(&path).unwrap();
        let fill = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE filler (bytes BLOB) STRICT;
            INSERT INTO filler VALUES (zeroblob(200000));";
        db.lock().execute_batch(fill).unwrap();
        let (short, wal) = (fs::read(&path).unwrap(), fs::read(beside(&path, "-wal")).unwrap());
        db.lock().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let first_page = fs::read(&path).unwrap()[..4096].to_vec();
        drop(db);

        let stopped = dir.path().join("stopped.sqlite");
        fs::write(&stopped, [&first_page, &short[4096..]].concat()).unwrap();
        assert!(matches!(AlertDb::open(&stopped).unwrap_err(), AlertDbError::Corrupt { .. }));
        fs::write(beside(&stopped, "-wal"), wal).unwrap();
        let db = AlertDb::open(&stopped).unwrap();
        let bytes: i64 =
            db.lock().query_row("SELECT length(bytes) FROM filler", [], |row| row.get(0)).unwrap();
        assert_eq!(bytes, 200_000);
    }

    #[test]
    fn a_file_cut_short_beside_a_wal_that_lacks_its_pages_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        drop(AlertDb::open(&path).unwrap());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        fs::write(beside(&path, "-wal"), b"no frame").unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::Corrupt { .. }));
    }

    #[test]
    fn another_programs_database_is_refused_and_gets_no_tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        let foreign = Connection::open(&path).unwrap();
        foreign.execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::Corrupt { .. }));
        let tables: i64 =
            foreign.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }

    #[test]
    fn a_database_that_is_gone_beside_its_wal_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        fs::write(dir.path().join("alerts.sqlite-wal"), b"frames").unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::Corrupt { .. }));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_at_creation_leaves_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        fs::write(dir.path().join("alerts.sqlite.new"), b"half").unwrap();
        AlertDb::open(&path).unwrap();
        assert!(!dir.path().join("alerts.sqlite.new").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_file_with_wild_bytes_in_it_is_refused_or_read_and_never_replaced(
            at: prop::sample::Index, value: u8, length in 1..400usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("alerts.sqlite");
            drop(AlertDb::open(&path).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            bytes[at..end].fill(value);
            fs::write(&path, &bytes).unwrap();
            if let Ok(db) = AlertDb::open(&path) {
                drop((db.alerts(&crate::AlertQuery { limit: 9, ..Default::default() }), db.hosts()));
            }
            prop_assert!(fs::metadata(&path).unwrap().len() >= bytes.len() as u64);
        }
    }

    #[test]
    fn a_disk_too_full_for_the_shared_memory_file_is_called_full() {
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_IOERR_SHMSIZE] {
            let source = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let error = classify(Path::new("alerts.db"), "set up the journal", source);
            assert!(matches!(error, AlertDbError::Full { .. }), "{code}: {error:?}");
        }
    }

    #[test]
    fn a_later_schema_is_refused_by_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.sqlite");
        AlertDb::open(&path).unwrap().lock().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(AlertDb::open(&path).unwrap_err(), AlertDbError::TooNew { found: 99, .. }));
    }
}
