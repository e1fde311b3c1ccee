//! The agent: a master that supervises, and workers that do the business.
//!
//! The way of one event: an app in `apps/` drains its source on the sensor worker's loop (`worker/sensor.rs`); `worker/pipeline.rs` resolves
//! each sighting to an event and has it judged; event and alerts go by `worker/outbound.rs` → socket pair → `relay.rs` → `outbox/` →
//! `uplink.rs` → server.
//!
//! What keeps it from hurting its host: `master.rs` starts each worker (`workers.rs`, `worker_process.rs`) under `confinement.rs`, watches it and
//! the host (`watch.rs`), and stops it while a breaker is open. Each change is an event (`reports.rs`). Who looks after the master is the
//! host's service manager, or `supervisor.rs`.
//!
//! External plug-ins: `plugins.rs` (`plugin_command.rs`: keys and signatures).
//!
//! Settings: `settings.rs` (checked) ← `configuration.rs` (file, applied, kept) ← `control.rs` (`watchfire-agent config`); `catalog.rs` lists
//! the apps.

mod apps;
mod catalog;
mod command;
mod configuration;
mod confinement;
mod control;
mod doctor;
mod lock;
mod master;
mod notify;
mod outbox;
mod own_use;
mod plugin_command;
mod plugins;
mod relay;
mod reports;
mod settings;
mod signals;
mod supervisor;
mod uplink;
mod watch;
mod worker;
mod worker_log;
mod worker_process;
mod workers;

pub use catalog::Catalog;
pub use command::AgentCommand;
pub use configuration::read_untrusted;
pub use plugins::RawPlugins;
pub use settings::{
    AgentSettings, RawHostLimits, RawLimits, RawRules, RawSpool, RawUplink, RawWorkerLimits, SettingsError,
    SpoolWhenFull,
};
pub use watchfire_detect::rule_id;
pub use watchfire_logfile::{LogError, LogFile, LogSettings, Severity};
pub use workers::WorkerName;
