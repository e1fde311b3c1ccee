//! Sensors: from the kernel to sightings, from sightings to events.
//!
//! `ebpf/` (rings) · `fanotify.rs` · `audit.rs`, `proc_connector.rs` (fallbacks) · `auth_log.rs` → [`Source`] → `processes.rs`
//! (the process table) → `watchfire_event::Event`.

mod source;

pub use source::{Source, SourceError};
