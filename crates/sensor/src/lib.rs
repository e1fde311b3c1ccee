//! Sensors: from the kernel to sightings, from sightings to events.
//!
//! `ebpf/` (rings) · `fanotify.rs` · `audit.rs`, `proc_connector.rs` (fallbacks) · `auth_log.rs` → [`Source`] → `processes.rs`
//! (the process table) → `watchfire_event::Event`.

mod audit;
mod auth_log;
pub mod ebpf;
mod fallback;
mod fanotify;
mod netlink;
mod proc_connector;
mod processes;
mod source;

pub use audit::{AuditError, AuditSource};
pub use auth_log::AuthLog;
pub use fallback::{ProcessFallback, choose_process_fallback};
pub use fanotify::{FanotifyError, FanotifySource, FileSettings, MarkMode};
pub use proc_connector::{ProcConnector, ProcConnectorError};
pub use processes::{ProcessReader, ProcessTable, TableCounts, TableLimits};
pub use source::{Source, SourceError};
