//! Whole-system scenarios: the real program, the real kernel, one file for each capability under `tests/`.
//!
//! This library holds what they share: a running `watchfire up` with its own data directory ([`Installation`]), what its API
//! and its commands say, the processes it started, and what an agent has in the kernel.

#![forbid(unsafe_code)]

mod installation;
mod leftovers;
mod numbered;
mod patience;
mod processes;

pub use installation::{Begun, Ground, Installation, free_port, program};
pub use leftovers::{cgroup_name, cgroups_named, hooks, hooks_of, orphaned_hooks};
pub use numbered::{argument, await_numbered, numbered, run_numbered, run_with, runs_in};
pub use patience::eventually;
pub use processes::{alive, descendants, with_words};

/// The reason why a scenario cannot run here at all, if there is one: print it after `skipped: `.
pub fn obstacle() -> Option<&'static str> {
    (!rustix::process::geteuid().is_root()).then_some("needs root")
}
