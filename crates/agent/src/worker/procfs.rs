//! The process table's window to this host.

use std::collections::HashMap;
use std::path::Path;

use tracing::debug;
use watchfire_event::{ContainerId, Process};
use watchfire_host::{Cgroups, ProcReader};
use watchfire_sensor::ProcessReader;

/// The most processes taken in at start; one beyond it is healed when it acts.
const SNAPSHOT_LIMIT: usize = 8192;

/// The most cgroups whose container is remembered; then all are asked again.
const CGROUPS_KEPT: usize = 4096;

/// /proc and the cgroup tree of this host.
pub(crate) struct HostProcesses {
    proc: ProcReader,
    cgroups: Cgroups,
    // By cgroup id, which the kernel does not use again while it runs.
    containers: HashMap<u64, Option<ContainerId>>,
}

impl HostProcesses {
    pub(crate) fn new() -> Self {
        HostProcesses {
            proc: ProcReader::new("/proc"),
            cgroups: Cgroups::new(Path::new("/proc")),
            containers: HashMap::new(),
        }
    }

    /// This process.
    pub(crate) fn own(&self) -> Process {
        self.proc.read_process(std::process::id()).unwrap_or_default()
    }

    /// Every process that runs now.
    pub(crate) fn snapshot(&self) -> Vec<Process> {
        self.proc.snapshot(SNAPSHOT_LIMIT)
    }
}

impl ProcessReader for HostProcesses {
    fn read(&mut self, tgid: u32) -> Option<Process> {
        match self.proc.read_process(tgid) {
            Ok(process) => Some(process),
            Err(error) => {
                debug!(
                    tgid,
                    error = &error as &dyn std::error::Error,
                    "a missed process could not be healed"
                );
                None
            }
        }
    }

    /// Of a cgroup not met before, a member tells at the cost of a few small files; only when that one is gone already is
    /// the tree walked, which happens once a second at most.
    fn container(&mut self, cgroup: u64, member: u32) -> Option<ContainerId> {
        if let Some(known) = self.containers.get(&cgroup) {
            return known.clone();
        }
        let told = self.proc.read_process(member).ok().filter(|process| process.cgroup == cgroup);
        let Some(process) = told else { return self.cgroups.container(cgroup) };
        if self.containers.len() >= CGROUPS_KEPT {
            self.containers.clear();
        }
        self.containers.insert(cgroup, process.container.clone());
        process.container
    }
}
