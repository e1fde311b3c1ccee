//! A cgroup for each worker, on v1, v2 and hybrid hosts.
//!
//! `home.rs` (where they go: [`CgroupHome`]) → `limits.rs` (which file gets which number) → `live.rs` (one that runs:
//! [`Cgroup`]) → `tree.rs` (ending members, removing directories).
//!
//! The layout is `<base>/watchfire/<agent>/<worker>` in each hierarchy. The base is the agent's own cgroup where that
//! was delegated to it, and the top of the hierarchy otherwise.

mod home;
mod limits;
mod live;
mod tree;

pub use home::{CgroupHome, Leftovers};
pub use limits::CgroupLimits;
pub use live::{Cgroup, CgroupUsage};

/// The two generations of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Controllers that are used here. On v2, counting CPU time and freezing need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Freezer,
}

impl Controller {
    const ALL: [Controller; 5] =
        [Controller::Cpu, Controller::Cpuacct, Controller::Memory, Controller::Pids, Controller::Freezer];

    fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Freezer => "freezer",
        }
    }
}

/// One hierarchy, or the worker's directory in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    version: Version,
    /// Those that are switched on at this place.
    controllers: Vec<Controller>,
    path: std::path::PathBuf,
}
