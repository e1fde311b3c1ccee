//! Where a spool lies, how large it may grow, and what happens then.

use std::path::PathBuf;

use crate::error::SpoolError;

const MIB: u64 = 1 << 20;
/// Each segment costs some 100 bytes of memory: with this many of them that stays below what one record may take.
const MOST_SEGMENTS: u64 = 1 << 16;

/// What `append` does when the spool holds as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest whole segments go, each record that was not released shown to the caller: for records whose worth fades.
    DropOldest,
    /// The new record is refused: for records of which the first are worth most, or whose sender can wait.
    DropNewest,
}

/// Settings of one spool, checked by [`crate::Spool::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The directory, which is the spool's own. Made with mode 0700 when it is missing; an existing one keeps its mode.
    pub directory: PathBuf,
    /// A segment is closed when the next record would take it past this size; one that holds a single record may be larger.
    /// In bytes, 4 KiB to 1 GiB, at most half and at least a 65536th of `max_bytes`.
    pub segment_bytes: u64,
    /// What all files of the spool together may take, in bytes: 1 MiB to 1 TiB. When it is lowered below what is there, the next
    /// `append` brings the spool below it (or refuses). Records larger than it are refused.
    pub max_bytes: u64,
    /// What happens then.
    pub when_full: WhenFull,
}

impl SpoolSettings {
    /// The usual sizes: segments of 1 MiB, which bounds what is dropped or read again at once, in 64 MiB, which no host misses.
    pub fn new(directory: impl Into<PathBuf>, when_full: WhenFull) -> Self {
        SpoolSettings { directory: directory.into(), segment_bytes: MIB, max_bytes: 64 * MIB, when_full }
    }

    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        let range = |name, given: u64, least: u64, most: u64| {
            let within = (least..=most).contains(&given);
            if within { Ok(()) } else { Err(SpoolError::Setting { name, given, least, most }) }
        };
        range("max_bytes", self.max_bytes, MIB, MIB << 20)?;
        // Two segments at least, or nothing could be dropped but the one being written.
        let (least, most) =
            ((self.max_bytes / MOST_SEGMENTS).max(4 << 10), (self.max_bytes / 2).min(1 << 30));
        range("segment_bytes", self.segment_bytes, least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_refused_by_name() {
        let refused = |segment_bytes, max_bytes| {
            let settings =
                SpoolSettings { segment_bytes, max_bytes, ..SpoolSettings::new("d", WhenFull::DropNewest) };
            settings.check().err().map(|error| error.to_string())
        };
        assert_eq!(refused(1 << 20, 64 << 20), None);
        assert_eq!(refused(1 << 19, 1 << 20), None);
        assert_eq!(refused(16 << 20, 1 << 40), None);
        for (segment, max, named) in [
            (4096, (1 << 20) - 1, "max_bytes"),
            (1 << 30, (1 << 40) + 1, "max_bytes"),
            (4095, 1 << 20, "segment_bytes"),
            ((1 << 19) + 1, 1 << 20, "segment_bytes"),
            ((16 << 20) - 1, 1 << 40, "segment_bytes"),
        ] {
            assert!(refused(segment, max).is_some_and(|error| error.contains(named)), "{segment} {max}");
        }
    }
}
