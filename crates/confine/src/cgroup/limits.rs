//! Limits, and the files that take them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::{Controller, Place, Version};
use crate::measure::{Applied, Measure, Outcome};

/// Length of the period that the quota is of, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;
/// `cpu.weight` and `cpu.shares` of a cgroup for which no one asked for anything else.
const USUAL_WEIGHT: u64 = 100;
const USUAL_SHARES: u64 = 1024;

/// Limits of a worker's cgroup; `None` leaves one open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupLimits {
    /// CPU time in percent of one core: 20 is a fifth of one, 200 is two. At least 1.
    pub cpu_percent: Option<u32>,
    /// Share of the CPUs when others want them too: 1 to 10,000, where a cgroup that nobody touched has 100.
    pub cpu_weight: Option<u32>,
    /// Bytes of memory, page cache included; no swap beyond it. A worker that needs more is ended by the kernel, whole
    /// on v2, its fattest process on v1.
    pub memory: Option<u64>,
    /// Processes and threads together.
    pub tasks: Option<u32>,
}

/// One limit as it is written.
struct Setting {
    measure: Measure,
    controller: Controller,
    v2: (&'static str, String),
    v1: Vec<(&'static str, String)>,
}

impl CgroupLimits {
    /// The controllers these limits need.
    pub(super) fn controllers(&self) -> Vec<Controller> {
        let mut needed: Vec<_> = self.settings().iter().map(|setting| setting.controller).collect();
        needed.dedup();
        needed
    }

    /// The measures that hold only for members of a cgroup under this controller.
    pub(super) fn measures(&self, controller: Controller) -> Vec<Measure> {
        let settings = self.settings();
        settings.iter().filter(|setting| setting.controller == controller).map(|s| s.measure).collect()
    }

    /// Writes each limit where its controller is.
    pub(super) fn write(&self, places: &[Place], applied: &mut Applied) {
        for setting in self.settings() {
            let place = places.iter().find(|place| place.controllers.contains(&setting.controller));
            match place {
                Some(place) => applied.note_result(setting.measure, setting.write(place)),
                None => {
                    let name = setting.controller.name();
                    applied
                        .note(setting.measure, Outcome::NotHeld(format!("no {name} controller to be had")));
                }
            }
        }
        let memory = places.iter().find(|place| place.controllers.contains(&Controller::Memory));
        if let Some(place) = memory.filter(|place| self.memory.is_some() && place.version == Version::V2) {
            // A worker that lost one of its processes is no worker. Linux 4.19; without it, only one is ended.
            drop(write(&place.path.join("memory.oom.group"), "1"));
        }
    }

    fn settings(&self) -> Vec<Setting> {
        use {Controller as C, Measure as M};
        let mut all = Vec::new();
        let mut add = |measure, controller, v2, v1| all.push(Setting { measure, controller, v2, v1 });
        if let Some(percent) = self.cpu_percent {
            let quota = u64::from(percent.max(1)) * PERIOD / 100;
            let v1 = vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
            add(M::CpuQuota, C::Cpu, ("cpu.max", format!("{quota} {PERIOD}")), v1);
        }
        if let Some(weight) = self.cpu_weight {
            let weight = weight.clamp(1, 10_000);
            // The kernel takes no fewer than 2 shares.
            let shares = (u64::from(weight) * USUAL_SHARES / USUAL_WEIGHT).max(2);
            add(
                M::CpuWeight,
                C::Cpu,
                ("cpu.weight", weight.to_string()),
                vec![("cpu.shares", shares.to_string())],
            );
        }
        if let Some(bytes) = self.memory {
            let bytes = bytes.to_string();
            let v1 = vec![("memory.limit_in_bytes", bytes.clone())];
            add(M::MemoryLimit, C::Memory, ("memory.max", bytes.clone()), v1);
            // v1 counts memory and swap together, and takes no less than the limit on memory alone.
            let v1 = vec![("memory.memsw.limit_in_bytes", bytes)];
            add(M::SwapLimit, C::Memory, ("memory.swap.max", "0".to_owned()), v1);
        }
        if let Some(tasks) = self.tasks {
            let tasks = tasks.to_string();
            add(M::TaskLimit, C::Pids, ("pids.max", tasks.clone()), vec![("pids.max", tasks)]);
        }
        all
    }
}

impl Setting {
    fn write(&self, place: &Place) -> io::Result<()> {
        let files = match place.version {
            Version::V1 => self.v1.as_slice(),
            Version::V2 => std::slice::from_ref(&self.v2),
        };
        files.iter().try_for_each(|(file, value)| write(&place.path.join(file), value))
    }
}

/// Writes to a file of the kernel's; never makes one.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).open(path).map_err(named)?;
    file.write_all(value.as_bytes()).map_err(named)
}
