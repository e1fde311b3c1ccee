//! What keeps a worker process from hurting its host.
//!
//! [`Confinement::spawn`] (parent: cgroups, filters and rulesets are made) → `steps.rs` (child, between fork and exec)
//! → exec → [`lock_down`] (the worker itself, once it has opened what it needs).
//!
//! Each measure is tried by itself. On a host where it is not to be had (no root, a container, an old kernel) it is
//! reported in [`Applied`] and the worker runs without it: a sensor without a CPU limit is better than no sensor, and
//! the caller knows what it has.

mod cgroup;
mod confinement;
mod files;
mod lockdown;
mod measure;
mod report;
mod steps;
mod sys;
mod syscalls;

pub use cgroup::{Cgroup, CgroupHome, CgroupLimits, CgroupUsage, Leftovers};
pub use confinement::{Confined, Confinement, IoPriority, SchedulingPolicy, User};
pub use files::FileAccess;
pub use lockdown::{Lockdown, lock_down};
pub use measure::{Applied, Measure, Outcome};
pub use rustix::net::AddressFamily;
pub use rustix::thread::CapabilitySet;
pub use syscalls::{Need, Syscalls};
