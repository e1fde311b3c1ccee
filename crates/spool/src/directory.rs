//! The spool's directory: who may use it, and what lies in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::cursor::{CURSOR, CURSOR_TEMPORARY};
use crate::error::SpoolError;
use crate::segment;

const LOCK: &str = "lock";

/// A directory that nobody else uses as a spool while this lives.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// Holds the flock.
    _lock: File,
}

/// What lies in it.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// First numbers of all segments, ascending.
    pub(crate) segments: Vec<u64>,
    /// What is no file of a spool.
    pub(crate) foreign: Vec<PathBuf>,
}

impl Directory {
    /// Makes the directory if it is missing, and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self, SpoolError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(SpoolError::io("make the spool's directory", path))?;
        let lock = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&lock)
            .map_err(SpoolError::io("create the lock", &lock))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Directory { path: path.to_owned(), _lock: file }),
            Err(Errno::WOULDBLOCK) => Err(SpoolError::InUse { path: lock }),
            Err(error) => Err(SpoolError::io("lock", &lock)(error.into())),
        }
    }

    /// Removes files that a kill left half made, and lists the rest.
    pub(crate) fn tidy(&self) -> Result<Contents, SpoolError> {
        let failed = || SpoolError::io("list the spool's directory", &self.path);
        let mut contents = Contents::default();
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let name = entry.file_name();
            match name.to_str().filter(|_| is_file) {
                Some(LOCK | CURSOR) => {}
                Some(name) if name == CURSOR_TEMPORARY || segment::is_temporary(name) => {
                    remove(&entry.path())?;
                }
                Some(name) => match segment::first_in_name(name) {
                    Some(first) => contents.segments.push(first),
                    None => contents.foreign.push(entry.path()),
                },
                None => contents.foreign.push(entry.path()),
            }
        }
        contents.segments.sort_unstable();
        Ok(contents)
    }

    /// Makes names made, changed or removed in it durable.
    pub(crate) fn sync(&self) -> Result<(), SpoolError> {
        let synced = File::open(&self.path).and_then(|opened| opened.sync_all());
        synced.map_err(SpoolError::io("sync the directory", &self.path))
    }
}

/// Opens a file of the spool for reading and writing; a link or a pipe in its place does no harm.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Makes a new file that only the owner may use, in place of one that an earlier failure left.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Removes a file that may already be gone.
pub(crate) fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SpoolError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
