//! The embedded event log and the Parquet lake behind it. On one machine the log stands where Kafka stands in a cluster.
//!
//! `append` → log (`DIR/log/`, durable after `sync`) → archiver (a thread that calls `archive_due`) →
//! Parquet files (`DIR/lake/events/dt=…/hour=…/`) + manifest → `query` reads the files and the log's tail as one.
//!
//! An event is in exactly one of the two: below the *archived offset* it is a row of a file that the manifest names, from
//! there on it is in the log. The manifest records the offset and the files in one line, so a crash at any point neither
//! loses nor doubles a row. The columns are described in `docs/lake-schema.md`.
//!
//! Nothing here knows of agents or of an async runtime; every call may block on the disk.

#![forbid(unsafe_code)]

mod archive;
#[cfg(test)]
mod damage_tests;
mod disk;
mod error;
mod lake;
mod log;
mod query;
mod settings;
mod streams;

pub use archive::Archived;
pub use error::{LakeError, LakeFault};
pub use lake::{Append, Lake, LakeStats};
pub use log::MAX_BATCH;
pub use query::{DEFAULT_LIMIT, EventQuery, EventRows, MAX_LIMIT, StoredEvent};
pub use settings::LakeSettings;
pub use streams::StreamMeta;
