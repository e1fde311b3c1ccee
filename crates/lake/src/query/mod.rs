//! Reading events back: the newest that match, from the Parquet files and the log's tail as one, each exactly once.
//!
//! `select` finds which rows match, reading only the columns it must, newest file first, and stops when no older file can hold
//! anything newer; `fetch` then reads just those rows, in time order, some at a time.

mod fetch;
mod select;

use std::sync::Arc;

use watchfire_event::{BootId, Event, HostId, Kind, UnixNanos};

pub use fetch::EventRows;

pub(crate) use fetch::Snapshot;

/// How many events a query gives when it does not say.
pub const DEFAULT_LIMIT: usize = 1000;
/// The most a query can ask for: each costs some 50 bytes while the query runs.
pub const MAX_LIMIT: usize = 1_000_000;

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Of these kinds; all kinds when empty.
    pub kinds: Vec<Kind>,
    /// At this time or later.
    pub since: Option<UnixNanos>,
    /// Before this time.
    pub until: Option<UnixNanos>,
    /// Of this host.
    pub host: Option<HostId>,
    /// Of the process with this thread group id.
    pub tgid: Option<u32>,
    /// The newest so many of those that match; at most [`MAX_LIMIT`].
    pub limit: usize,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { kinds: Vec::new(), since: None, until: None, host: None, tgid: None, limit: DEFAULT_LIMIT }
    }
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The host it is from.
    pub host: HostId,
    /// That host's name when it sent it.
    pub hostname: Arc<str>,
    /// That host's boot.
    pub boot: BootId,
    /// When it happened, on the wall clock.
    pub time: UnixNanos,
    /// Number of its batch in the log; with `log_row` it names the event for ever.
    pub log_offset: u64,
    /// Its place in the batch.
    pub log_row: u32,
    /// The event. Of its parent (and of a ptrace target) a Parquet file keeps key, executable, arguments and real uid; the
    /// rest is empty then.
    pub event: Event,
}

impl EventQuery {
    fn wants_kind(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    fn wants_time(&self, time: UnixNanos) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Whether anything from `min` to `max`, both included, can be wanted.
    fn wants_span(&self, min: i64, max: i64) -> bool {
        self.since.is_none_or(|since| max >= since.0) && self.until.is_none_or(|until| min < until.0)
    }
}
