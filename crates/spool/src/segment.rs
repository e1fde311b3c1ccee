//! One file of the spool: its name, its header, and the little that is known of it in memory.
//!
//! ```text
//! header (24 bytes, little endian)   "WFspool" and a version | number of the first record u64 | salt u32 | crc32 u32
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::directory;
use crate::error::SpoolError;
use crate::gaps::Gaps;
use crate::record::checksum;

pub(crate) const SEGMENT_HEADER: usize = 24;
/// Name of the format, and its version.
pub(crate) const MAGIC: [u8; 8] = *b"WFspool\x01";
const SUFFIX: &str = ".spool";
const TEMPORARY: &str = ".spool.tmp";

/// A segment; its records are in the file alone.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The number in its name.
    pub(crate) first: u64,
    /// Numbers below this are not its own: `first`, unless an older segment reaches into it.
    pub(crate) begin: u64,
    /// The number after its last record.
    pub(crate) next: u64,
    /// The byte after its last record.
    pub(crate) end: u64,
    /// Bytes of the file.
    pub(crate) file_bytes: u64,
    pub(crate) salt: u32,
    pub(crate) gaps: Gaps,
    /// Nothing was written since it was last made durable.
    pub(crate) synced: bool,
}

impl Segment {
    /// Makes the file with nothing but its header. It has its name only once the header is whole. Leaves nothing behind when
    /// that fails.
    pub(crate) fn create(dir: &Path, first: u64, salt: u32) -> Result<(Segment, File), SpoolError> {
        let attempt = "create a segment";
        let (path, temporary) = (path(dir, first), dir.join(name(first, TEMPORARY)));
        let file = directory::create_new(&temporary).map_err(SpoolError::io(attempt, &temporary))?;
        let named =
            file.write_all_at(&header(first, salt), 0).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = named {
            // The first error is the one to tell; what is left is removed by the next opening.
            directory::remove(&temporary).ok();
            return Err(SpoolError::io(attempt, &path)(error));
        }
        let bytes = SEGMENT_HEADER as u64;
        let gaps = Gaps::default();
        let segment = Segment {
            first,
            begin: first,
            next: first,
            end: bytes,
            file_bytes: bytes,
            salt,
            gaps,
            synced: false,
        };
        Ok((segment, file))
    }

    /// Records of it that wait when everything through `released` is delivered.
    pub(crate) fn held(&self, released: u64) -> u64 {
        let from = self.begin.max(released.saturating_add(1));
        self.next.saturating_sub(from).saturating_sub(self.gaps.from(from))
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        path(dir, self.first)
    }
}

/// The file of the segment that begins with `first`.
pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(name(first, SUFFIX))
}

fn name(first: u64, suffix: &str) -> String {
    format!("{first:016x}{suffix}")
}

/// The first number in a segment's name; `None` for any other file.
pub(crate) fn first_in_name(file: &str) -> Option<u64> {
    let first = u64::from_str_radix(file.strip_suffix(SUFFIX)?, 16).ok()?;
    // One spelling only: signs, capitals and short forms are other people's files.
    (name(first, SUFFIX) == file).then_some(first)
}

/// Whether this is the name of a segment under way.
pub(crate) fn is_temporary(file: &str) -> bool {
    file.strip_suffix(".tmp").is_some_and(|segment| first_in_name(segment).is_some())
}

pub(crate) fn header(first: u64, salt: u32) -> [u8; SEGMENT_HEADER] {
    let mut bytes = [0; SEGMENT_HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    bytes[16..20].copy_from_slice(&salt.to_le_bytes());
    let sum = checksum(0, &bytes[..20], &[]);
    bytes[20..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The salt in the header of the segment that begins with `first`; `None` when the header is damaged.
pub(crate) fn salt_in_header(bytes: &[u8; SEGMENT_HEADER], first: u64) -> Option<u32> {
    let salt = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    (*bytes == header(first, salt)).then_some(salt)
}

/// Whether a whole header speaks of another version of this format.
pub(crate) fn is_other_version(bytes: &[u8; SEGMENT_HEADER]) -> bool {
    let sound = checksum(0, &bytes[..20], &[]).to_le_bytes() == bytes[20..];
    sound && bytes[..7] == MAGIC[..7] && bytes[7] != MAGIC[7]
}

/// Whether this may be a damaged header of the segment that begins with `first`: one of its parts is as it was written.
pub(crate) fn is_like_header(bytes: &[u8; SEGMENT_HEADER], first: u64) -> bool {
    bytes[..8] == MAGIC || bytes[8..16] == first.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_do_and_foreign_names_are_left_alone() {
        for first in [0, 9, 10, u64::MAX] {
            assert_eq!(first_in_name(&name(first, SUFFIX)), Some(first));
            assert!(is_temporary(&name(first, TEMPORARY)));
        }
        assert!(name(9, SUFFIX) < name(10, SUFFIX) && name(10, SUFFIX) < name(16, SUFFIX));
        for foreign in [
            "1.spool",
            "000000000000000A.spool",
            "+000000000000001.spool",
            "0000000000000001.spool.old",
            ".spool",
        ] {
            assert_eq!(first_in_name(foreign), None, "{foreign}");
            assert!(!is_temporary(foreign) && !is_temporary(&format!("{foreign}.tmp")), "{foreign}");
        }
    }

    #[test]
    fn one_changed_bit_of_a_header_is_noticed() {
        let good = header(77, 0xdead_beef);
        assert_eq!(salt_in_header(&good, 77), Some(0xdead_beef));
        assert_eq!(salt_in_header(&good, 78), None);
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(salt_in_header(&bytes, 77), None);
            assert!(!is_other_version(&bytes));
        }
    }
}
