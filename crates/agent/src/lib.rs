//! The agent: a master that supervises, and workers that do the business.
//!
//! The way of one event: `worker/sensor.rs` polls the sources (`worker/sources.rs`), resolves each sighting to an event,
//! has it judged, and hands event and alerts to `worker/outbound.rs` → socket pair → `master.rs` → `backlog.rs` →
//! `uplink.rs` → server.

mod backlog;
mod command;
mod master;
mod own_use;
mod settings;
mod uplink;
mod worker;

pub use command::AgentCommand;
pub use settings::{AgentSettings, ModuleWatch, ProcessSource, RawSettings, SettingsError};
pub use watchfire_detect::rule_id;
