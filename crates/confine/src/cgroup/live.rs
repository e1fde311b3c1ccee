//! The cgroup of one worker while it runs.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{CgroupLimits, Controller, Place, Version, tree};
use crate::measure::{Applied, Measure, Outcome};
use crate::steps::{Planned, Step};

/// A worker's cgroup: a directory in each hierarchy. It stays when this is dropped; [`Cgroup::remove`] it.
#[derive(Debug, Clone)]
pub struct Cgroup {
    pub(super) places: Vec<Place>,
    pub(super) limits: CgroupLimits,
}

/// What the kernel counted for a cgroup since it was made; `None` where it does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupUsage {
    /// CPU time of all members, ended ones included.
    pub cpu: Option<Duration>,
    /// How long members stood still because the quota was used up, summed over CPUs.
    pub throttled: Option<Duration>,
    /// Bytes of memory now, page cache included.
    pub memory: Option<u64>,
    /// The most there ever were. Linux 5.19 on v2.
    pub memory_peak: Option<u64>,
    /// Members the kernel ended because memory ran out, here or on the whole host.
    pub oom_kills: Option<u64>,
    /// Processes and threads now.
    pub tasks: Option<u64>,
}

impl Cgroup {
    /// The directories, one in each hierarchy.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.path.as_path())
    }

    /// Reads the counters.
    pub fn usage(&self) -> CgroupUsage {
        let read = |controller: Option<Controller>, v2: &str, v1: &str| {
            let place = self.places.iter().find(|place| match controller {
                Some(controller) => place.controllers.contains(&controller),
                None => place.version == Version::V2,
            })?;
            let file = if place.version == Version::V2 { v2 } else { v1 };
            // The largest of them, memory.stat, is not read here; these have a few lines.
            fs::read_to_string(place.path.join(file)).ok()
        };
        let of = |controller, v2, v1| number(&read(Some(controller), v2, v1)?);
        let cpu_v2 = || value(&read(None, "cpu.stat", "")?, "usage_usec").map(Duration::from_micros);
        let cpu_v1 = || of(Controller::Cpuacct, "", "cpuacct.usage").map(Duration::from_nanos);
        let throttled = || {
            let stat = read(Some(Controller::Cpu), "cpu.stat", "cpu.stat")?;
            let v2 = value(&stat, "throttled_usec").map(Duration::from_micros);
            v2.or_else(|| value(&stat, "throttled_time").map(Duration::from_nanos))
        };
        let oom = read(Some(Controller::Memory), "memory.events", "memory.oom_control");
        CgroupUsage {
            cpu: cpu_v2().or_else(cpu_v1),
            throttled: throttled(),
            memory: of(Controller::Memory, "memory.current", "memory.usage_in_bytes"),
            memory_peak: of(Controller::Memory, "memory.peak", "memory.max_usage_in_bytes"),
            oom_kills: oom.and_then(|text| value(&text, "oom_kill")),
            tasks: of(Controller::Pids, "pids.current", "pids.current"),
        }
    }

    /// Ends every member, children that left the worker's process group included; takes no longer than `within`.
    ///
    /// # Errors
    /// `TimedOut` when some were still there: in uninterruptible sleep, or not this process' to kill.
    pub fn kill_all(&self, within: Duration) -> io::Result<()> {
        let roots: Vec<PathBuf> = self.paths().map(Path::to_owned).collect();
        tree::kill(&roots, Instant::now() + within)
    }

    /// Removes the directories; those above them too when they are empty then. A member that is ending is waited for, no
    /// longer than `within`.
    ///
    /// # Errors
    /// The first directory's that stayed: `ResourceBusy` when it has members.
    pub fn remove(self, within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        let results: Vec<_> = self.paths().map(|path| tree::remove(path, deadline)).collect();
        results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    pub(crate) fn exists(&self) -> bool {
        !self.places.is_empty()
    }

    /// The steps by which the child enters it.
    pub(crate) fn joins(&self, applied: &mut Applied) -> Vec<Planned> {
        let mut joins = Vec::new();
        for place in &self.places {
            let limits = place.controllers.iter().flat_map(|controller| self.limits.measures(*controller));
            let serves: Vec<_> = std::iter::once(Measure::Cgroup).chain(limits).collect();
            match OpenOptions::new().write(true).open(place.path.join("cgroup.procs")) {
                Ok(file) => joins.push(Planned { step: Step::JoinCgroup(OwnedFd::from(file)), serves }),
                Err(error) => {
                    let outcome = Outcome::NotHeld(format!("{}: {error}", place.path.display()));
                    serves.into_iter().for_each(|measure| applied.note(measure, outcome.clone()));
                }
            }
        }
        joins
    }
}

/// A file with one number.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind `name` in a file of `NAME VALUE` lines.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "oom"), None);
        assert_eq!(value("oom_kill x\n", "oom_kill"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _seen = (number(&text), value(&text, "a"));
        }
    }
}
