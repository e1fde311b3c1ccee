//! Reading a segment through a bounded buffer, and finding the next good record in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::record::{self, Head, RECORD_HEADER};

/// What is read at once when less is asked for.
const BLOCK: usize = 256 << 10;
/// What one search behind damage may spend on stretches that turn out to be no records. A payload may be made to look like
/// headers all over, and each would cost a checksum over what it claims: past this the rest of the segment counts as damaged.
const SEARCH_BYTES: usize = 64 << 20;

/// A file, and the stretch of it that is in memory: a block, or one record.
#[derive(Debug)]
pub(crate) struct Window {
    file: File,
    at: u64,
    buffer: Vec<u8>,
}

/// A good record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) at: u64,
    pub(crate) number: u64,
    length: usize,
}

impl Found {
    /// The byte after it.
    pub(crate) fn end(&self) -> u64 {
        self.at + (RECORD_HEADER + self.length) as u64
    }
}

impl Window {
    pub(crate) fn new(file: File) -> Self {
        Window { file, at: 0, buffer: Vec::new() }
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// `length` bytes at `at`. Nothing from `end` on is read, since that may still change.
    pub(crate) fn bytes(&mut self, at: u64, length: usize, end: u64) -> io::Result<&[u8]> {
        let here = at.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        let from = match here {
            Some(from) if from + length <= self.buffer.len() => from,
            _ => {
                self.fill(at, length, end)?;
                0
            }
        };
        Ok(&self.buffer[from..from + length])
    }

    /// The first good record in `from..end` whose number is `floor` or above.
    pub(crate) fn find(&mut self, from: u64, end: u64, floor: u64, salt: u32) -> io::Result<Option<Found>> {
        let mut left = SEARCH_BYTES;
        let mut at = from;
        while let Some(head) = self.head(at, end)? {
            if head.plausible(end - at, floor) {
                if record::is_sound(self.bytes(at, head.whole(), end)?, salt) {
                    return Ok(Some(Found { at, number: head.number, length: head.length }));
                }
                let Some(rest) = left.checked_sub(head.whole()) else { return Ok(None) };
                left = rest;
            }
            at += 1;
        }
        Ok(None)
    }

    /// What would be the header of a record at `at`; `None` when there is no room for one.
    pub(crate) fn head(&mut self, at: u64, end: u64) -> io::Result<Option<Head>> {
        if end.saturating_sub(at) < RECORD_HEADER as u64 {
            return Ok(None);
        }
        let bytes = self.bytes(at, RECORD_HEADER, end)?;
        Ok(bytes.first_chunk().map(Head::parse))
    }

    /// What the record holds.
    pub(crate) fn payload(&mut self, found: &Found) -> io::Result<&[u8]> {
        self.bytes(found.at + RECORD_HEADER as u64, found.length, found.end())
    }

    /// Whether `from..end` holds nothing but zeros.
    pub(crate) fn is_zero(&mut self, from: u64, end: u64) -> io::Result<bool> {
        let mut at = from;
        while at < end {
            let length = usize::try_from(end - at).map_or(BLOCK, |left| left.min(BLOCK));
            if self.bytes(at, length, end)?.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }

    fn fill(&mut self, at: u64, length: usize, end: u64) -> io::Result<()> {
        let there = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = there.min(length.max(BLOCK));
        if wanted < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = at;
        self.buffer.resize(wanted, 0);
        // Gives back what one large record took.
        self.buffer.shrink_to(BLOCK);
        let read = self.file.read_exact_at(&mut self.buffer, at);
        if read.is_err() {
            self.buffer.clear();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn window(bytes: &[u8]) -> Window {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Window::new(file)
    }

    fn record(number: u64, salt: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        record::encode(&mut bytes, salt, number, payload);
        bytes
    }

    #[test]
    fn the_search_goes_on_behind_damage_and_takes_no_stale_or_foreign_record() {
        let parts = [
            vec![0xff; 100],
            record(4, 9, b"stale"),
            record(6, 8, b"foreign"),
            record(6, 9, b"good"),
            vec![0; 3],
        ];
        let bytes = parts.concat();
        let mut window = window(&bytes);
        let end = bytes.len() as u64;
        let found = window.find(0, end, 5, 9).unwrap().unwrap();
        assert_eq!((found.number, found.end()), (6, end - 3));
        assert_eq!(window.payload(&found).unwrap(), b"good");
        assert_eq!(window.find(found.end(), end, 7, 9).unwrap(), None);
    }

    #[test]
    fn a_large_record_is_in_memory_alone_and_is_given_back() {
        let large = vec![7; record::MAX_RECORD];
        let bytes = [record(1, 0, &large), record(2, 0, b"small"), vec![0; 2 * BLOCK]].concat();
        let mut window = window(&bytes);
        let end = bytes.len() as u64;
        let first = window.find(0, end, 1, 0).unwrap().unwrap();
        assert_eq!(window.payload(&first).unwrap(), large);
        assert!(window.buffer.capacity() <= record::MAX_RECORD + BLOCK);
        let second = window.find(first.end(), end, 2, 0).unwrap().unwrap();
        assert_eq!(window.payload(&second).unwrap(), b"small");
        assert!(window.is_zero(second.end(), end).unwrap());
        assert!(window.buffer.capacity() <= BLOCK);
    }

    #[test]
    fn a_payload_full_of_false_headers_ends_the_search() {
        let mut bytes = Vec::new();
        while bytes.len() < 4 << 20 {
            bytes.extend_from_slice(&((1u32 << 20).to_le_bytes()));
            bytes.extend_from_slice(&5u64.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        let mut window = window(&bytes);
        assert_eq!(window.find(0, bytes.len() as u64, 1, 3).unwrap(), None);
    }
}
