//! Where an agent's log lines go: files that cannot fill a disk, lines that cannot lie.
//!
//! `layer.rs` (what tracing tells) or [`LogFile::relay`] (what a worker printed) → `severity.rs` (is it wanted) →
//! `limit.rs` (too often?) → `line.rs` (one safe line) → `pair.rs` (two files that rotate into each other).
//! `stderr.rs` says so when a line could not be kept.
//!
//! Logging never stops what logs: what cannot be written is counted ([`LogCounts`]), and the first line that can be is
//! preceded by how many could not.

#![forbid(unsafe_code)]

mod layer;
mod limit;
mod line;
mod logfile;
mod pair;
mod settings;
mod severity;
mod stderr;

pub use logfile::{LogCounts, LogFile};
pub use settings::{LineLimit, LogError, LogSettings};
pub use severity::{Severity, UnknownSeverity};
