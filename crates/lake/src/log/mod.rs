//! The event log: append-only segment files in `DIR/log/`, one record per batch, numbered for ever.
//!
//! `EventLog::append` → `Segment` (`NNNNNNNNNNNNNNNNNNNN.seg`, named by its first offset) → `Tail` (a snapshot of what is
//! not archived) → `TailReader` → archiver and queries. `recover` finds the end of the log after a crash.

mod event_log;
mod record;
mod recover;
mod segment;
mod tail;

pub use record::MAX_BATCH;

pub(crate) use event_log::{EventLog, SyncWork};
pub(crate) use record::Record;
pub(crate) use tail::{Place, Tail, TailReader};
