//! The ledger to and from the wire.

use watchfire_event::{Books, Counts, DropReason, Stage};

use crate::batch::kind_from;
use crate::process::ConversionError;
use crate::v1;

/// The message for `books` as they stand after batch number `after_batch`.
pub fn encode_books(books: &Books, after_batch: u64) -> v1::Ledger {
    let rows = books.rows().map(|row| v1::LedgerRow {
        stage: row.stage as u32,
        kind: row.kind as u32,
        seen: row.counts.seen,
        passed: row.counts.passed,
        filtered: row.counts.filtered,
        held: row.counts.held,
        dropped: row
            .counts
            .dropped
            .iter()
            .map(|(reason, count)| v1::Dropped { reason: *reason as u32, count: *count })
            .collect(),
    });
    v1::Ledger { after_batch, rows: rows.collect() }
}

/// The books in a message.
pub fn decode_books(ledger: &v1::Ledger) -> Result<Books, ConversionError> {
    let mut books = Books::default();
    for row in &ledger.rows {
        let mut counts = Counts {
            seen: row.seen,
            passed: row.passed,
            filtered: row.filtered,
            held: row.held,
            ..Counts::default()
        };
        for dropped in &row.dropped {
            let reason = DropReason::try_from(byte("drop reason", dropped.reason)?)?;
            counts.dropped.insert(reason, dropped.count);
        }
        let stage = Stage::try_from(byte("stage", row.stage)?)?;
        *books.entry(stage, kind_from(row.kind)?) = counts;
    }
    Ok(books)
}

fn byte(what: &'static str, value: u32) -> Result<u8, ConversionError> {
    u8::try_from(value).map_err(|_| ConversionError::BadValue { what, value: value.into() })
}
