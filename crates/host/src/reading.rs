//! Reads of small files with a limit: /proc and the files beside it are partly written by whoever is being watched.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// At most `limit` bytes of the file at `path`.
pub(crate) fn file(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    bytes(&mut File::open(path)?, limit)
}

/// At most `limit` bytes of the file `name` in the open directory `dir`.
pub(crate) fn file_at(dir: impl AsFd, name: &str, limit: usize) -> io::Result<Vec<u8>> {
    let opened =
        rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    bytes(&mut File::from(opened), limit)
}

/// Opens a directory only to look below it: the descriptor keeps naming the same process when its number is reused.
pub(crate) fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Where the symbolic link `name` in `dir` points.
pub(crate) fn link_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// How many bytes the file `name` in `dir` holds, counted up to `limit` without keeping them.
pub(crate) fn length_at(dir: impl AsFd, name: &str, limit: usize) -> io::Result<usize> {
    let opened = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let counted = io::copy(&mut File::from(opened).take(limit as u64), &mut io::sink())?;
    Ok(usize::try_from(counted).unwrap_or(limit))
}

fn bytes(source: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut taken = Vec::new();
    source.take(limit as u64).read_to_end(&mut taken)?;
    Ok(taken)
}
