//! The ledger in JSON: its lines, then the verdict.

use std::collections::BTreeMap;

use serde::Serialize;
use watchfire_event::LedgerRow;

/// One stage and kind.
#[derive(Debug, Serialize)]
pub(crate) struct LedgerRowView<'a> {
    host: &'a str,
    stage: &'static str,
    kind: &'static str,
    seen: u64,
    passed: u64,
    filtered: u64,
    dropped: BTreeMap<&'static str, u64>,
    held: u64,
}

impl<'a> LedgerRowView<'a> {
    /// The view of one line of the books of `host`.
    pub(crate) fn new(row: &LedgerRow, host: &'a str) -> Self {
        let dropped = row.counts.dropped.iter().filter(|(_, count)| **count > 0);
        LedgerRowView {
            host,
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
