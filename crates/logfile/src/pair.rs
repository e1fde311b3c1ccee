//! Two files that rotate into each other, so that a log never takes more than twice its cap.
//!
//! `NAME.log` is written; a line that would take it over the cap first makes it `NAME.log.1`, over the one before. The
//! file is asked for its size before each line instead of being counted along: so the bound also holds when the file was
//! there before, was cut by someone, or is gone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use watchfire_event::{UnixNanos, printable};

use crate::line::Line;
use crate::{LogError, Severity, stderr};

const PRIVATE: u32 = 0o600;
/// How often it is looked whether the path still names the open file, and how often a file that is not open is tried.
const LOOK: Duration = Duration::from_secs(1);
/// A log that fails on and off says so on standard error no more often.
const NOTE: Duration = Duration::from_secs(600);

/// Both files of one log.
#[derive(Debug)]
pub(crate) struct Pair {
    path: PathBuf,
    older: PathBuf,
    cap: u64,
    current: Option<Current>,
    looked: Instant,
    /// Lines that failed since the last that did not.
    failed: u64,
    noted: Option<Instant>,
}

#[derive(Debug)]
struct Current {
    file: File,
    id: (u64, u64),
    /// The last byte is no newline: a line was written in part, by us or by who died writing it.
    torn: bool,
}

impl Pair {
    pub(crate) fn open(path: &Path, cap: u64, now: Instant) -> Result<Self, LogError> {
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        let older = PathBuf::from(older);
        make_directory(path)?;
        for file in [path, &older] {
            keep_newest(file, cap).map_err(|source| LogError::Open { path: file.to_owned(), source })?;
        }
        let current =
            Current::open(path).map_err(|source| LogError::Open { path: path.to_owned(), source })?;
        let path = path.to_owned();
        Ok(Pair { path, older, cap, current: Some(current), looked: now, failed: 0, noted: None })
    }

    /// Appends a line, which ends with a newline and is far shorter than the cap. One that fails is lost, and the next
    /// that does not is preceded by a line with the number of the lost.
    pub(crate) fn append(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        let told = self.tell_failed(now).and_then(|()| self.write(line, now));
        if let Err(error) = &told {
            self.failed += 1;
            self.note(error, now);
        }
        told
    }

    fn tell_failed(&mut self, now: Instant) -> io::Result<()> {
        if self.failed == 0 {
            return Ok(());
        }
        let mut line = Line::new(UnixNanos::now(), Severity::Err, module_path!());
        line.message(b"log lines were lost");
        line.field("failed", self.failed.to_string().as_bytes());
        self.write(&line.finish(0), now)?;
        self.failed = 0;
        Ok(())
    }

    fn write(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        let size = self.size(now)?;
        let torn = self.current.as_ref().is_some_and(|current| current.torn);
        if size + u64::from(torn) + line.len() as u64 > self.cap {
            self.rotate()?;
        }
        self.current.as_mut().ok_or(ErrorKind::NotConnected)?.write(line)
    }

    /// The size of the file that is open, which is opened anew if it is not the one at the path.
    fn size(&mut self, now: Instant) -> io::Result<u64> {
        let due = now.saturating_duration_since(self.looked) >= LOOK;
        if due {
            self.looked = now;
        }
        let Some(current) = &self.current else {
            // As often as every line would cost a busy agent on a broken disk too much.
            return if due { self.reopen() } else { Err(ErrorKind::NotConnected.into()) };
        };
        let open = current.file.metadata()?;
        let moved = due && fs::symlink_metadata(&self.path).map_or(true, |named| id(&named) != current.id);
        if open.nlink() == 0 || moved { self.reopen() } else { Ok(open.size()) }
    }

    fn reopen(&mut self) -> io::Result<u64> {
        self.current = None;
        make_directory(&self.path).map_err(|error| match error {
            LogError::Open { source, .. } => source,
            LogError::OutOfRange { .. } => io::Error::other(error),
        })?;
        let current = Current::open(&self.path)?;
        let size = current.file.metadata()?.size();
        self.current = Some(current);
        Ok(size)
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, &self.older) {
            Ok(()) => {}
            // Someone else moved it: what is needed is a new one.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.current = None;
        self.current = Some(Current::open(&self.path)?);
        Ok(())
    }

    fn note(&mut self, error: &io::Error, now: Instant) {
        if self.noted.is_some_and(|at| now.saturating_duration_since(at) < NOTE) {
            return;
        }
        self.noted = Some(now);
        let path = self.path.as_os_str().as_encoded_bytes();
        stderr::note(&format!(
            "log file {}: {error}; lines are lost until it can be written",
            printable(path)
        ));
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let file = open_private(path, OFlags::APPEND | OFlags::CREATE)?;
        let metadata = file.metadata()?;
        let mut last = [b'\n'];
        if let Some(at) = metadata.size().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(Current { file, id: id(&metadata), torn: last != [b'\n'] })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        // `write` and not `write_all`: how much of a line is there decides whether it is torn.
        let wrote = loop {
            match self.file.write(line) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if wrote == line.len() {
            return Ok(());
        }
        self.torn = wrote > 0;
        Err(ErrorKind::StorageFull.into())
    }
}

/// Opens a regular file and nothing else, for its owner and nobody else. A symbolic link or a pipe put in the log's place
/// neither takes the lines elsewhere nor holds up who logs.
fn open_private(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(PRIVATE))?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.mode() & 0o7777 != PRIVATE {
        file.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
    }
    Ok(file)
}

/// Makes the directory of `path` if it is missing; the one above must be there.
fn make_directory(path: &Path) -> Result<(), LogError> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Ok(());
    };
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(LogError::Open { path: directory.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Cuts a file from a time with a larger cap down to its newest lines, in place.
fn keep_newest(path: &Path, cap: u64) -> io::Result<()> {
    let file = match open_private(path, OFlags::empty()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let size = file.metadata()?.size();
    let Some(mut from) = size.checked_sub(cap).filter(|over| *over > 0) else { return Ok(()) };
    let mut block = vec![0; 64 << 10];
    let head = file.read_at(&mut block, from)?;
    let newline = block[..head].iter().position(|byte| *byte == b'\n');
    from += newline.map_or(0, |at| at as u64 + 1);
    let mut to = 0;
    loop {
        let read = file.read_at(&mut block, from)?;
        if read == 0 {
            break;
        }
        file.write_all_at(&block[..read], to)?;
        from += read as u64;
        to += read as u64;
    }
    file.set_len(to)
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests;
