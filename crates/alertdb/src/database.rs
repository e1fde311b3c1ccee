//! The file: made once, checked at every open, never replaced.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::AlertDbError;

/// `application_id` of the file: "WFal".
const APPLICATION: i64 = 0x5746_616c;
/// `user_version` of the schema below.
const VERSION: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Up to this size every page is checked at open (some 0.5 s); above, the sizes only.
const WHOLE_CHECK_BYTES: u64 = 256 << 20;

/// Alerts and hosts. Share it in an `Arc`; every method may be called from any thread, and blocks on the disk.
#[derive(Debug)]
pub struct AlertDb {
    path: PathBuf,
    writer: Mutex<Writer>,
    /// Readers of a WAL database never wait for the writer.
    reader: Mutex<Connection>,
}

/// The connections that write, under one lock.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Every commit reaches the disk before it returns (`synchronous = FULL`).
    pub(crate) durable: Connection,
    /// Commits reach the disk with the next durable one (`synchronous = NORMAL`): for what may be lost in a power cut.
    pub(crate) lazy: Connection,
}

impl AlertDb {
    /// Opens the database, and makes it when there is none.
    pub fn open(path: &Path) -> Result<AlertDb, AlertDbError> {
        let wal = beside(path, "-wal");
        if path.exists() {
            check_file(path)?;
        } else if fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 0) {
            let problem = format!("the database is gone, but {} is still there", wal.display());
            return Err(AlertDbError::Damaged { path: path.to_owned(), problem });
        } else {
            create(path)?;
        }
        let durable = connect(path, "FULL")?;
        check_schema(path, &durable)?;
        check_pages(path, &durable)?;
        let lazy = connect(path, "NORMAL")?;
        let reader = connect(path, "NORMAL")?;
        let writer = Mutex::new(Writer { durable, lazy });
        Ok(AlertDb { path: path.to_owned(), writer, reader: Mutex::new(reader) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SQLite rolls back what a panic left open, so a poisoned lock is used on.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, attempt: &'static str) -> impl Fn(rusqlite::Error) -> AlertDbError {
        AlertDbError::sqlite(attempt, &self.path)
    }
}

/// Makes a whole database under another name first, so that a file that is empty or half made is never a crash at creation.
fn create(path: &Path) -> Result<(), AlertDbError> {
    let fresh = beside(path, ".new");
    for leftover in [&fresh, &beside(&fresh, "-journal")] {
        if leftover.exists() {
            fs::remove_file(leftover).map_err(AlertDbError::io("remove", leftover))?;
        }
    }
    let failed = AlertDbError::sqlite("create the alert database", path);
    let connection = Connection::open(&fresh).map_err(&failed)?;
    let made = connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL;
         BEGIN;
         {SCHEMA}
         PRAGMA application_id = {APPLICATION};
         PRAGMA user_version = {VERSION};
         COMMIT;"
    ));
    drop(connection);
    if let Err(error) = made {
        fs::remove_file(&fresh).ok();
        return Err(failed(error));
    }
    fs::rename(&fresh, path).map_err(AlertDbError::io("name the new alert database", path))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(AlertDbError::io("sync the directory", dir))
}

/// What can be told without SQLite, which takes an empty file for a new database.
fn check_file(path: &Path) -> Result<(), AlertDbError> {
    let attempt = "read the alert database";
    let mut file = File::open(path).map_err(AlertDbError::io(attempt, path))?;
    let length = file.metadata().map_err(AlertDbError::io(attempt, path))?.len();
    let mut header = Vec::with_capacity(100);
    file.by_ref().take(100).read_to_end(&mut header).map_err(AlertDbError::io(attempt, path))?;
    let damaged = |problem: String| Err(AlertDbError::Damaged { path: path.to_owned(), problem });
    if length == 0 {
        return damaged("the alert database is empty".to_owned());
    }
    if header.len() < 100 || !header.starts_with(MAGIC) {
        return damaged("not a SQLite database".to_owned());
    }
    // Database file format, <https://www.sqlite.org/fileformat2.html>: page size at 16 (1 means 65536), pages at 28.
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65_536,
        page => page,
    };
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    if length < page * pages {
        return damaged(format!(
            "the alert database was cut short: {length} bytes instead of {}",
            page * pages
        ));
    }
    Ok(())
}

fn connect(path: &Path, synchronous: &str) -> Result<Connection, AlertDbError> {
    let failed = AlertDbError::sqlite("open the alert database", path);
    // Without SQLITE_OPEN_CREATE: what is not there any more is not made anew.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(&failed)?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = {synchronous};
             PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 16777216;"
        ))
        .map_err(&failed)?;
    Ok(connection)
}

fn check_schema(path: &Path, connection: &Connection) -> Result<(), AlertDbError> {
    let failed = AlertDbError::sqlite("read the schema of the alert database", path);
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(&failed)?;
    let found = pragma("user_version").map_err(&failed)?;
    if application != APPLICATION || found < 1 {
        let problem = "a SQLite database, but not Watchfire's alert database".to_owned();
        return Err(AlertDbError::Damaged { path: path.to_owned(), problem });
    }
    if found > VERSION {
        return Err(AlertDbError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    Ok(())
}

fn check_pages(path: &Path, connection: &Connection) -> Result<(), AlertDbError> {
    let failed = AlertDbError::sqlite("check the alert database", path);
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > WHOLE_CHECK_BYTES) {
        return Ok(());
    }
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(AlertDbError::Damaged {
        path: path.to_owned(),
        problem: format!("the alert database is damaged: {verdict}"),
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
