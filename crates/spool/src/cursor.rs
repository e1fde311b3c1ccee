//! The file that says what is delivered.
//!
//! ```text
//! 24 bytes, little endian   "WFcurs" and a version u16 | released through u64 | salt u32 | crc32 u32
//! ```
//! It is replaced as a whole: written under another name, then renamed. The salt is in it a second time, beside
//! the segments' headers, so that one damaged header does not make a segment's records unreadable.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::directory;
use crate::error::SpoolError;
use crate::record::checksum;

pub(crate) const CURSOR: &str = "cursor";
pub(crate) const CURSOR_TEMPORARY: &str = "cursor.tmp";
pub(crate) const CURSOR_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"WFcurs\x01\0";

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Everything through this number is delivered.
    pub(crate) released: u64,
    pub(crate) salt: u32,
}

/// What was found in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Missing,
    Damaged,
    Good(Cursor),
}

/// Reads the file of the spool in `dir`.
pub(crate) fn read(dir: &Path) -> Stored {
    let path = dir.join(CURSOR);
    if fs::symlink_metadata(&path).is_err() {
        return Stored::Missing;
    }
    let mut bytes = Vec::new();
    let read =
        directory::open(&path).and_then(|file| file.take(CURSOR_BYTES as u64 + 1).read_to_end(&mut bytes));
    let good = read.ok().and_then(|_| decode(&bytes));
    good.map_or(Stored::Damaged, Stored::Good)
}

/// Writes the file; a power cut leaves the old one or the new one if `durable`.
pub(crate) fn write(dir: &Path, cursor: Cursor, durable: bool) -> Result<(), SpoolError> {
    let attempt = "write the cursor";
    let temporary = dir.join(CURSOR_TEMPORARY);
    let replaced = replace(dir, &temporary, cursor, durable);
    replaced.map_err(|error| {
        // The first error is the one to tell; what is left is removed by the next opening.
        directory::remove(&temporary).ok();
        SpoolError::io(attempt, &temporary)(error)
    })
}

fn replace(dir: &Path, temporary: &Path, cursor: Cursor, durable: bool) -> std::io::Result<()> {
    let file: File = directory::create_new(temporary)?;
    file.write_all_at(&encode(cursor), 0)?;
    if durable {
        rustix::fs::fdatasync(&file)?;
    }
    fs::rename(temporary, dir.join(CURSOR))
}

fn encode(cursor: Cursor) -> [u8; CURSOR_BYTES] {
    let mut bytes = [0; CURSOR_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&cursor.released.to_le_bytes());
    bytes[16..20].copy_from_slice(&cursor.salt.to_le_bytes());
    let sum = checksum(0, &bytes[..20], &[]);
    bytes[20..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Cursor> {
    let [_, _, _, _, _, _, _, _, released @ .., a, b, c, d, _, _, _, _] =
        *bytes.first_chunk::<CURSOR_BYTES>()?;
    let cursor = Cursor { released: u64::from_le_bytes(released), salt: u32::from_le_bytes([a, b, c, d]) };
    // The last number is never given, so it cannot be released.
    (bytes == encode(cursor) && cursor.released < u64::MAX).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_any_other_bytes_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Stored::Missing);
        let cursor = Cursor { released: 0x0102_0304_0506_0708, salt: 0x090a_0b0c };
        for durable in [false, true] {
            write(dir.path(), cursor, durable).unwrap();
            assert_eq!(read(dir.path()), Stored::Good(cursor));
        }
        assert!(!dir.path().join(CURSOR_TEMPORARY).exists());
        let good = encode(cursor);
        for bit in 0..CURSOR_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None);
        }
        for bytes in [&good[..23], &[&good[..], &[0]].concat(), &[0; 24], &[]] {
            fs::write(dir.path().join(CURSOR), bytes).unwrap();
            assert_eq!(read(dir.path()), Stored::Damaged);
        }
    }
}
