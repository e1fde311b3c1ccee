//! The agent: a master that supervises, and workers that do the business.
//!
//! The way of one event: `worker/sensor.rs` polls the sources (`worker/sources.rs`), resolves each sighting to an event,
//! has it judged, and hands event and alerts to `worker/outbound.rs` → socket pair → `master.rs` → `outbox/` →
//! `uplink.rs` → server.
//!
//! What keeps it from hurting its host: `master.rs` starts the worker (`worker_process.rs`) under `confinement.rs`, watches it and
//! the host (`watch.rs`), and stops it while a breaker is open.

mod command;
mod confinement;
mod doctor;
mod lock;
mod master;
mod notify;
mod outbox;
mod own_use;
mod settings;
mod uplink;
mod watch;
mod worker;
mod worker_log;
mod worker_process;

pub use command::AgentCommand;
pub use settings::{
    AgentSettings, ModuleWatch, ProcessSource, RawHostLimits, RawLimits, RawSettings, RawSpool,
    RawWorkerLimits, SettingsError, SpoolWhenFull,
};
pub use watchfire_detect::rule_id;
pub use watchfire_logfile::{LogError, LogFile, LogSettings, Severity};
