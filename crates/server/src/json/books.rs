//! The ledger in JSON: its lines, then the verdict.

use std::collections::BTreeMap;

use serde::Serialize;
use watchfire_event::{LedgerRow, StreamId};

/// One stage and kind.
#[derive(Debug, Serialize)]
pub(crate) struct LedgerRowView<'a> {
    host: &'a str,
    /// Which run of the host's agent: its boot and when it began there.
    run: String,
    stage: &'static str,
    kind: &'static str,
    seen: u64,
    passed: u64,
    filtered: u64,
    dropped: BTreeMap<&'static str, u64>,
    held: u64,
}

impl<'a> LedgerRowView<'a> {
    /// The view of one line of the books of one run of the agent on `host`.
    pub(crate) fn new(row: &LedgerRow, host: &'a str, stream: StreamId) -> Self {
        let dropped = row.counts.dropped.iter().filter(|(_, count)| **count > 0);
        LedgerRowView {
            host,
            run: format!("{}@{}", stream.boot, stream.incarnation.0),
            stage: row.stage.as_str(),
            kind: row.kind.as_str(),
            seen: row.counts.seen,
            passed: row.counts.passed,
            filtered: row.counts.filtered,
            dropped: dropped.map(|(reason, count)| (reason.as_str(), *count)).collect(),
            held: row.counts.held,
        }
    }
}

/// Whether the books close; the last line.
#[derive(Debug, Serialize)]
pub(crate) struct VerdictView {
    pub(crate) balanced: bool,
    pub(crate) faults: Vec<String>,
    /// When the oldest of the snapshots was taken; none without one.
    pub(crate) time: Option<String>,
}
