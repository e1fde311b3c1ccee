//! Alerts and hosts in SQLite: what a person looks at first, durable before it is acknowledged.
//!
//! `open.rs` (file, schema, refusal of a damaged file) · `alerts.rs` · `hosts.rs`

#![forbid(unsafe_code)]

mod alerts;
mod hosts;
mod open;

pub use alerts::{AlertQuery, StoredAlert};
pub use hosts::HostRecord;
pub use open::{AlertDb, AlertDbError};
