//! The archiver: from the log's tail to Parquet files, and the manifest that says which of them count.
//!
//! `run` (records → rows) → `columns` (rows → Arrow arrays) → `partition` (one file per UTC hour) → `manifest` (one line per
//! commit); `reconcile` puts files and manifest in order after a crash; `events` reads rows back.

mod cells;
mod columns;
mod events;
mod manifest;
mod partition;
mod reconcile;
mod rows;
mod run;

pub use run::Archived;

pub(crate) use events::{Columns, event_at};
pub(crate) use manifest::{FileEntry, Manifest};
pub(crate) use reconcile::reconcile;
#[cfg(test)]
pub(crate) use run::crash::pull_the_plug_at;
pub(crate) use run::{Commit, CommitRun, claimed_counts};
