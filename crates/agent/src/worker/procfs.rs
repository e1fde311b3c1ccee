//! The process table's window to this host.

use std::path::Path;

use tracing::debug;
use watchfire_event::{ContainerId, Process};
use watchfire_host::{Cgroups, ProcReader};
use watchfire_sensor::ProcessReader;

/// The most processes taken in at start; one beyond it is healed when it acts.
const SNAPSHOT_LIMIT: usize = 8192;

/// /proc and the cgroup tree of this host.
pub(crate) struct HostProcesses {
    proc: ProcReader,
    cgroups: Cgroups,
}

impl HostProcesses {
    pub(crate) fn new() -> Self {
        HostProcesses { proc: ProcReader::new("/proc"), cgroups: Cgroups::new(Path::new("/proc")) }
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

    fn container(&mut self, cgroup: u64) -> Option<ContainerId> {
        self.cgroups.container(cgroup)
    }
}
