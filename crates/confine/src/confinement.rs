//! What to apply to a worker, and starting one under it.

use std::io;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use crate::cgroup::{Cgroup, CgroupHome, CgroupLimits};
use crate::lockdown::Lockdown;
use crate::measure::{Applied, Measure, Outcome};
use crate::report::{self, Reports};
use crate::steps::{Planned, Step, Steps};
use crate::sys;

/// How long a child that could not execute its program may take to leave its cgroup.
const LEAVING: Duration = Duration::from_millis(200);
/// Bits that the I/O priority's class is shifted by (linux/ioprio.h).
const IO_CLASS_SHIFT: u32 = 13;

/// How a process stands in the queue for the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// `SCHED_BATCH`: its share like any other's, but it interrupts no one.
    Batch,
    /// `SCHED_IDLE`: only what nobody else wants. On a host that is busy for minutes it hardly runs.
    Idle,
}

/// How a process stands in the queue for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoPriority {
    /// Only when no one else asks.
    Idle,
    /// Behind all others of the usual class (best effort, level 7).
    Lowest,
}

/// Another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id; there are no supplementary groups.
    pub gid: u32,
}

/// Everything that is done to a worker before its program starts. Plain data; `None` and `false` leave the agent's own
/// state as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Confinement {
    /// Lead a process group of its own.
    pub own_group: bool,
    /// End with the thread that started it. With the *thread*: the one that calls [`Confinement::spawn`] has to live as
    /// long as the worker (prctl(2), `PR_SET_PDEATHSIG`).
    pub die_with_parent: bool,
    /// No executable gives it more privileges than it has. Implied by `lockdown`.
    pub no_new_privileges: bool,
    /// Leave no core dumps: they hold what the worker has seen.
    pub no_core_dumps: bool,
    /// -1000 to 1000; the higher, the earlier the kernel ends it when memory runs out.
    pub oom_score_adj: Option<i16>,
    /// -20 to 19; the higher, the smaller its share of the CPU.
    pub nice: Option<i8>,
    /// Its scheduling class.
    pub policy: Option<SchedulingPolicy>,
    /// Its I/O class.
    pub io_priority: Option<IoPriority>,
    /// `RLIMIT_NOFILE`: descriptors.
    pub open_files: Option<u64>,
    /// `RLIMIT_AS`: bytes of address space. It counts what is mapped and not what is used: BPF rings, thread stacks and
    /// allocators map far more than they fill.
    pub address_space: Option<u64>,
    /// The capabilities it keeps, of those the agent has; all others leave every set, for good.
    pub capabilities: Option<CapabilitySet>,
    /// Run as this user. Without `capabilities` it has none then.
    pub user: Option<User>,
    /// Limits of its cgroup.
    pub cgroup: CgroupLimits,
    /// Closed before exec, for programs that do not close it themselves; has to grant [`Need::Exec`](crate::Need::Exec)
    /// and, under Landlock, execution of the program.
    pub lockdown: Option<Lockdown>,
}

impl Default for Confinement {
    /// What no worker can mind: own group, ends with its parent, no new privileges, no core dumps, first to go when
    /// memory runs out.
    fn default() -> Self {
        Confinement {
            own_group: true,
            die_with_parent: true,
            no_new_privileges: true,
            no_core_dumps: true,
            oom_score_adj: Some(1000),
            nice: None,
            policy: None,
            io_priority: None,
            open_files: None,
            address_space: None,
            capabilities: None,
            user: None,
            cgroup: CgroupLimits::default(),
            lockdown: None,
        }
    }
}

/// A worker that was started.
#[derive(Debug)]
pub struct Confined {
    /// Its process.
    pub child: Child,
    /// Its cgroup, where one could be made.
    pub cgroup: Option<Cgroup>,
    /// What holds for it.
    pub applied: Applied,
}

impl Confinement {
    /// Starts `command` under all of this, as `worker` below `home`; without a home, in the agent's own cgroup.
    ///
    /// The measures are taken after everything else that `command` asks for, its own `pre_exec` hooks included. They stay
    /// with `command`: start no second child with it.
    ///
    /// # Errors
    /// What [`Command::spawn`] says; `ECHILD` when the thread that called this was gone before the child could bind its
    /// life to it. A measure that does not hold is no error.
    pub fn spawn(
        &self,
        command: &mut Command,
        home: Option<&CgroupHome>,
        worker: &str,
    ) -> io::Result<Confined> {
        let mut applied = Applied::default();
        let cgroup = home.map(|home| home.create(worker, &self.cgroup, &mut applied));
        let planned = self.plan(cgroup.as_ref(), &mut applied);
        let (reporter, reports) = match report::pipe() {
            Ok((reporter, reports)) => (Some(reporter), Ok(reports)),
            Err(error) => (None, Err(error)),
        };
        let (steps, serves): (Vec<_>, Vec<_>) =
            planned.into_iter().map(|planned| (planned.step, planned.serves)).unzip();
        sys::before_exec(command, Steps { steps, reporter });
        match command.spawn() {
            Ok(child) => {
                note_reports(&serves, reports, &mut applied);
                Ok(Confined { child, cgroup: cgroup.filter(Cgroup::exists), applied })
            }
            Err(error) => {
                // The child is gone or about to be; what stays is a leftover for the agent's next start.
                cgroup.map(|cgroup| cgroup.remove(LEAVING));
                Err(error)
            }
        }
    }

    /// The child's steps. Their order matters: what needs privileges comes before they are dropped, the parent's death
    /// after the change of user (which clears it), and the filter of system calls last.
    fn plan(&self, cgroup: Option<&Cgroup>, applied: &mut Applied) -> Vec<Planned> {
        let mut plan = Vec::new();
        let mut add = |step, measure| plan.push(Planned { step, serves: vec![measure] });
        if self.own_group {
            add(Step::ProcessGroup, Measure::ProcessGroup);
        }
        if let Some(score) = self.oom_score_adj {
            add(Step::OomScore(score.to_string().into_bytes()), Measure::OomScore);
        }
        if let Some(nice) = self.nice {
            add(Step::Nice(nice.into()), Measure::Nice);
        }
        if let Some(policy) = self.policy {
            add(Step::SchedulingPolicy(policy.number()), Measure::SchedulingPolicy);
        }
        if let Some(priority) = self.io_priority {
            add(Step::IoPriority(priority.value()), Measure::IoPriority);
        }
        if self.no_core_dumps {
            add(Step::NoCoreDumps, Measure::CoreDumps);
        }
        if let Some(files) = self.open_files {
            add(Step::Limit(Resource::Nofile, files), Measure::OpenFiles);
        }
        if let Some(bytes) = self.address_space {
            add(Step::Limit(Resource::As, bytes), Measure::AddressSpace);
        }
        if let Some(keep) = self.capabilities {
            add(Step::BoundCapabilities(keep), Measure::CapabilityBounds);
            add(Step::RootWithoutPowers, Measure::RootWithoutPowers);
        }
        if let Some(user) = self.user {
            let keep = self.capabilities.is_some_and(|keep| !keep.is_empty());
            add(Step::User(user, keep), Measure::User);
        }
        if let Some(keep) = self.capabilities {
            add(Step::Capabilities(keep), Measure::Capabilities);
        }
        if self.die_with_parent {
            add(Step::ParentDeath(rustix::process::getpid()), Measure::ParentDeath);
        }
        if self.no_new_privileges || self.lockdown.is_some() {
            add(Step::NoNewPrivileges, Measure::NoNewPrivileges);
        }
        if let Some(lockdown) = &self.lockdown {
            plan_lockdown(lockdown, &mut plan, applied);
        }
        // First of all: from here on it is counted and can be found.
        let joins = cgroup.map(|cgroup| cgroup.joins(applied)).unwrap_or_default();
        plan.splice(..0, joins);
        plan
    }
}

fn plan_lockdown(lockdown: &Lockdown, plan: &mut Vec<Planned>, applied: &mut Applied) {
    if let Some(files) = &lockdown.files {
        let (ruleset, outcome) = files.ruleset();
        applied.note(Measure::Files, outcome);
        plan.extend(ruleset.map(|fd| Planned { step: Step::Landlock(fd), serves: vec![Measure::Files] }));
    }
    match lockdown.syscalls.as_ref().map(crate::syscalls::Syscalls::filter) {
        Some(Ok(filter)) => {
            plan.push(Planned { step: Step::Seccomp(filter), serves: vec![Measure::Syscalls] });
        }
        Some(Err(error)) => applied.note(Measure::Syscalls, Outcome::NotHeld(error.to_string())),
        None => {}
    }
}

/// Sets what the child told against what it was to do; a step it did not tell of did not happen as far as anyone knows.
fn note_reports(serves: &[Vec<Measure>], reports: io::Result<Reports>, applied: &mut Applied) {
    let told = reports.map(|reports| reports.read()).unwrap_or_default();
    for (index, measures) in serves.iter().enumerate() {
        let outcome = match told.iter().find(|(told, _)| *told == index) {
            Some((_, Ok(()))) => Outcome::Held,
            Some((_, Err(errno))) => Outcome::NotHeld(io::Error::from(*errno).to_string()),
            None => Outcome::NotHeld("the child did not report it".to_owned()),
        };
        measures.iter().for_each(|measure| applied.note(*measure, outcome.clone()));
    }
}

impl SchedulingPolicy {
    fn number(self) -> libc::c_int {
        match self {
            SchedulingPolicy::Batch => libc::SCHED_BATCH,
            SchedulingPolicy::Idle => libc::SCHED_IDLE,
        }
    }
}

impl IoPriority {
    fn value(self) -> libc::c_int {
        let (class, level) = match self {
            IoPriority::Idle => (3, 0),
            IoPriority::Lowest => (2, 7),
        };
        (class << IO_CLASS_SHIFT) | level
    }
}
