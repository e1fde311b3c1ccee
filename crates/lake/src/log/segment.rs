//! One file of the log.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::LakeError;

/// `WFLOG` and a version, then the first offset (little endian).
pub(crate) const SEGMENT_HEADER: u64 = 16;
const SEGMENT_MAGIC: [u8; 8] = *b"WFLOG\0\0\x01";

/// A segment that is part of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Offset of its first record.
    pub(crate) first: u64,
    /// Offset after its last record.
    pub(crate) next: u64,
    /// Bytes of it that are the log.
    pub(crate) end: u64,
    /// Damaged stretches between good records.
    pub(crate) holes: Arc<Vec<Range<u64>>>,
    /// Damage was found while it was read: it is kept when it is archived.
    pub(crate) damaged: Arc<AtomicBool>,
}

impl Segment {
    /// Makes the file and writes its header. Leaves nothing behind when that fails.
    pub(crate) fn create(dir: &Path, first: u64) -> Result<Segment, LakeError> {
        let path = dir.join(file_name(first));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(LakeError::io("create a segment of the event log", &path))?;
        if let Err(error) = file.write_all_at(&header(first), 0) {
            drop(file);
            // The first error is the one to tell; a leftover is an empty segment, which recovery removes.
            crate::disk::remove(&path).ok();
            return Err(LakeError::io("create a segment of the event log", &path)(error));
        }
        let (holes, damaged) = Default::default();
        Ok(Segment { path, file: Arc::new(file), first, next: first, end: SEGMENT_HEADER, holes, damaged })
    }

    /// Writes one encoded record at the end. When that fails the segment is as before: what was half written lies behind
    /// its end, where the next record overwrites it and recovery truncates it.
    pub(crate) fn append(&mut self, record: &[u8]) -> Result<(), LakeError> {
        if let Err(error) = self.file.write_all_at(record, self.end) {
            // Gives the space back; not being able to is no second failure.
            self.file.set_len(self.end).ok();
            return Err(LakeError::io("append to the event log", &self.path)(error));
        }
        self.end += record.len() as u64;
        self.next += 1;
        Ok(())
    }

    /// Whether it holds records below `offset` only.
    pub(crate) fn below(&self, offset: u64) -> bool {
        self.next <= offset
    }
}

/// The name of the segment that begins with `first`.
pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// The first offset in a segment's name; `None` for any other file.
pub(crate) fn offset_in_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

pub(crate) fn header(first: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..].copy_from_slice(&first.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_offsets_do_and_foreign_names_are_left_alone() {
        assert_eq!(offset_in_name(&file_name(u64::MAX)), Some(u64::MAX));
        assert!(file_name(9) < file_name(10));
        for foreign in [
            "1.seg",
            "0000000000000000000a.seg",
            "00000000000000000001.seg.damaged",
            "+0000000000000000001.seg",
        ] {
            assert_eq!(offset_in_name(foreign), None, "{foreign}");
        }
    }
}
