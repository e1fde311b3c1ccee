//! How large things may grow and how long they may wait.

use std::time::Duration;

use crate::error::LakeError;

/// Settings of one lake, checked by [`crate::Lake::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeSettings {
    /// A segment of the log is closed when it has grown to this size.
    pub segment_bytes: u64,
    /// Size of the log at which `append` refuses more. Archived segments are deleted, so it is reached only when the
    /// archiver cannot keep up or cannot write; what is not archived yet is never dropped.
    pub log_max_bytes: u64,
    /// Least time between two `fdatasync` of the log. One sync serves all who wait for it: at 20 ms a storm costs 50 of
    /// them a second however many batches it has, and an acknowledgement waits no longer than that plus the disk.
    pub sync_interval: Duration,
    /// The archiver runs when this many rows wait in the log …
    pub flush_rows: u64,
    /// … or when the oldest of them has waited this long.
    pub flush_age: Duration,
    /// Rows of one row group: what the writer holds in memory, encoded, per partition.
    pub row_group_rows: usize,
    /// How many streams (runs of agents) are remembered; the one that was silent longest is forgotten first, its
    /// counts with it. A host makes one stream per start of its agent.
    pub max_streams: usize,
}

impl Default for LakeSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            log_max_bytes: 1 << 30,
            sync_interval: Duration::from_millis(20),
            flush_rows: 100_000,
            flush_age: Duration::from_secs(60),
            row_group_rows: 32_768,
            max_streams: 4096,
        }
    }
}

impl LakeSettings {
    pub(crate) fn check(&self) -> Result<(), LakeError> {
        let range = |name, given: u64, least: u64, most: u64| {
            let within = (least..=most).contains(&given);
            if within { Ok(()) } else { Err(LakeError::Setting { name, given, least, most }) }
        };
        range("segment_bytes", self.segment_bytes, 4 << 10, 1 << 30)?;
        // Two segments at least, or the log could fill before its first segment is closed and may go.
        range("log_max_bytes", self.log_max_bytes, self.segment_bytes.saturating_mul(2), 1 << 40)?;
        let millis = u64::try_from(self.sync_interval.as_millis()).unwrap_or(u64::MAX);
        range("sync_interval (ms)", millis, 0, 10_000)?;
        range("flush_rows", self.flush_rows, 1, 10_000_000)?;
        range("flush_age (s)", self.flush_age.as_secs(), 0, 3600)?;
        range("row_group_rows", self.row_group_rows as u64, 1, 1_000_000)?;
        range("max_streams", self.max_streams as u64, 1, 1_000_000)?;
        Ok(())
    }
}
