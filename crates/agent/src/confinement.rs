//! What each worker is held to: the least it needs, and shares of the host that it cannot exceed.

use std::path::Path;

use watchfire_confine::{
    AddressFamily, Applied, CapabilitySet, CgroupHome, CgroupLimits, Confinement, IoPriority, Lockdown, Need,
    Outcome, Syscalls,
};

use crate::settings::RawWorkerLimits;
use crate::workers::WorkerName;

/// Threads of a worker, with room: its loop, its writer, its watchdog, one for each app, and what a library may start.
const TASKS: u32 = 32;
/// Descriptors of the sensor worker: rings, programs, maps and links are some 150; fanotify opens a pidfd for each event until it is read.
const OPEN_FILES: u64 = 4096;

/// What the sources of the sensor worker need, each with its reason.
fn sensor_capabilities() -> CapabilitySet {
    // Load and attach eBPF programs (5.8 and newer).
    CapabilitySet::BPF
        | CapabilitySet::PERFMON
        // fanotify with file ids; eBPF before 5.8; programs at the root of the cgroup tree.
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::NET_ADMIN
        // /proc of other users' processes: executable, descriptors, working directory.
        | CapabilitySet::SYS_PTRACE
        // Logs and files by handle, whoever owns them; nothing is written.
        | CapabilitySet::DAC_READ_SEARCH
        // Directories of others, without leaving an access time on them (O_NOATIME).
        | CapabilitySet::FOWNER
        // The fallback source of processes.
        | CapabilitySet::AUDIT_CONTROL
        | CapabilitySet::AUDIT_READ
        // Before 5.11 rings count against the lockable memory.
        | CapabilitySet::SYS_RESOURCE
}

/// What the apps of the other workers need.
fn reporting_capabilities() -> CapabilitySet {
    // /proc of other users' processes.
    CapabilitySet::SYS_PTRACE
        // Files, whoever owns them; nothing is written.
        | CapabilitySet::DAC_READ_SEARCH
}

/// How the master starts a worker.
pub(crate) fn of(worker: WorkerName, limits: &RawWorkerLimits) -> Confinement {
    let capabilities = match worker {
        WorkerName::Sensor => sensor_capabilities(),
        WorkerName::Collector | WorkerName::Scanner | WorkerName::Extension => reporting_capabilities(),
    };
    Confinement {
        // Without root there is nothing to cut, and nothing to keep.
        capabilities: rustix::process::geteuid().is_root().then_some(capabilities),
        ..in_the_background(limits)
    }
}

/// What holds for whatever the master starts.
pub(crate) fn in_the_background(limits: &RawWorkerLimits) -> Confinement {
    let mib = |mib: u32| u64::from(mib) << 20;
    Confinement {
        nice: Some(limits.nice),
        io_priority: Some(IoPriority::Lowest),
        open_files: Some(OPEN_FILES),
        cgroup: CgroupLimits {
            cpu_percent: Some(limits.cpu_cap_percent),
            cpu_weight: None,
            memory: Some(mib(limits.memory_cap_mib)),
            tasks: Some(TASKS),
        },
        ..Confinement::default()
    }
}

/// What a worker denies itself before its first thread starts. No Landlock: under it a process may not read `/proc/PID/exe` of
/// others, whatever its capabilities.
pub(crate) fn lock_down(worker: WorkerName) -> Applied {
    let needs: &[Need] = match worker {
        // A detached mount of tracefs or cgroup2 serves where the host has none.
        WorkerName::Sensor => {
            &[Need::Bpf, Need::PerfEvents, Need::Fanotify, Need::FileHandles, Need::DetachedMounts]
        }
        WorkerName::Collector | WorkerName::Scanner | WorkerName::Extension => &[],
    };
    let families = vec![AddressFamily::UNIX, AddressFamily::NETLINK];
    let syscalls = Syscalls { needs: needs.iter().copied().collect(), families };
    watchfire_confine::lock_down(&Lockdown { syscalls: Some(syscalls), files: None })
}

/// The cgroups of the agent whose state lies here: the same after a restart, another for another agent on the host.
pub(crate) fn home(state_dir: &Path) -> std::io::Result<CgroupHome> {
    use std::os::unix::fs::MetadataExt;
    let folder = std::fs::metadata(state_dir)?;
    Ok(CgroupHome::find("/proc", &format!("agent-{:x}-{:x}", folder.dev(), folder.ino())))
}

/// Says once what does not hold.
pub(crate) fn report(worker: &str, applied: &Applied) {
    for (measure, outcome) in applied.shortfalls() {
        match outcome {
            Outcome::Held => {}
            Outcome::InPart(why) => tracing::info!(worker, %measure, why, "confined in part"),
            Outcome::NotHeld(why) => tracing::warn!(worker, %measure, why, "not confined"),
        }
    }
}
