//! The apps: what each worker can do.
//!
//! Of the sensor worker: `processes.rs`, `kernel.rs` (network, udp, privilege, modules), `files.rs`, `logins.rs`; each attaches a source and
//! hands on what that saw (`tap.rs`). Of the collector: `clock_steps.rs`, `listeners/`.

mod clock_steps;
mod files;
mod kernel;
mod listeners;
mod logins;
mod processes;
mod tap;

pub(crate) use clock_steps::ClockSteps;
pub(crate) use files::Files;
pub(crate) use kernel::{Modules, Network, Privilege, Udp};
pub(crate) use listeners::Listeners;
pub(crate) use logins::Logins;
pub(crate) use processes::{PROCESSES, Processes};
