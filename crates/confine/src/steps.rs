//! What the child does between fork and exec.
//!
//! The parent may have had many threads, so the child must not allocate, lock or call into libc's state: everything is
//! built before the fork, and each step is a few bare system calls. A step that fails is told to the parent and the
//! next one runs, with one exception: a child whose parent is gone already has no one to run for.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{self, Pid, Resource, Rlimit, Signal};
use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid};
use seccompiler::BpfProgram;

use crate::confinement::User;
use crate::measure::Measure;
use crate::report::Reporter;
use crate::sys;

/// Numbers of capabilities; the sets are 64 bits wide.
const CAPABILITY_BITS: u32 = 64;

/// One thing to do in the child.
#[derive(Debug)]
pub(crate) enum Step {
    /// Lead a process group of its own.
    ProcessGroup,
    /// Enter the cgroup whose `cgroup.procs` this is.
    JoinCgroup(OwnedFd),
    /// Write this to `oom_score_adj`.
    OomScore(Vec<u8>),
    Nice(i32),
    SchedulingPolicy(libc::c_int),
    IoPriority(libc::c_int),
    NoCoreDumps,
    /// Lower a limit, soft and hard.
    Limit(Resource, u64),
    /// Leave the bounding set as this.
    BoundCapabilities(CapabilitySet),
    /// User 0 is like any other, for good.
    RootWithoutPowers,
    /// Become another user; whether permitted capabilities survive that.
    User(User, bool),
    /// Keep only these, across exec.
    Capabilities(CapabilitySet),
    /// End when the parent, which is this process, ends.
    ParentDeath(Pid),
    NoNewPrivileges,
    /// Enter the ruleset.
    Landlock(OwnedFd),
    Seccomp(BpfProgram),
}

/// The steps of one child, in their order, each with the measures that do not hold when it fails.
#[derive(Debug)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    pub(crate) reporter: Option<Reporter>,
}

/// A step and what it serves.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) step: Step,
    pub(crate) serves: Vec<Measure>,
}

impl Steps {
    /// Runs in the child. An error keeps it from exec.
    pub(crate) fn run(&self) -> Result<(), Errno> {
        for (index, step) in self.steps.iter().enumerate() {
            let result = step.run();
            if let Some(reporter) = &self.reporter {
                reporter.tell(index, result);
            }
            if let (Step::ParentDeath(_), Err(Errno::CHILD)) = (step, result) {
                return Err(Errno::CHILD);
            }
        }
        Ok(())
    }
}

impl Step {
    fn run(&self) -> Result<(), Errno> {
        match self {
            Step::ProcessGroup => process::setpgid(None, None),
            // "0" is whoever writes.
            Step::JoinCgroup(members) => write_whole(members, b"0"),
            Step::OomScore(score) => oom_score(score),
            Step::Nice(nice) => process::setpriority_process(None, *nice),
            Step::SchedulingPolicy(policy) => sys::set_scheduling_policy(*policy),
            Step::IoPriority(value) => sys::set_io_priority(*value),
            Step::NoCoreDumps => no_core_dumps(),
            Step::Limit(resource, value) => lower(*resource, *value),
            Step::BoundCapabilities(keep) => bound_capabilities(*keep),
            Step::RootWithoutPowers => root_without_powers(),
            Step::User(user, keep_capabilities) => become_user(*user, *keep_capabilities),
            Step::Capabilities(keep) => keep_capabilities(*keep),
            Step::ParentDeath(parent) => end_with(*parent),
            Step::NoNewPrivileges => thread::set_no_new_privs(true),
            Step::Landlock(ruleset) => sys::restrict_self(ruleset),
            Step::Seccomp(filter) => apply_filter(filter),
        }
    }
}

fn write_whole(file: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    match rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

fn oom_score(score: &[u8]) -> Result<(), Errno> {
    // Opened here: the parent's /proc/self is the parent's.
    let file =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write_whole(&file, score)
}

/// A limit of one byte, because it stops both ways: no file is written below one page, and a handler that
/// `core_pattern` pipes to, which a limit of 0 does not stop, is not started at exactly 1 (fs/coredump.c).
fn no_core_dumps() -> Result<(), Errno> {
    let to = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    process::setrlimit(Resource::Core, to(1)).or_else(|_| process::setrlimit(Resource::Core, to(0)))
}

/// A hard limit that is lower already stays.
fn lower(resource: Resource, value: u64) -> Result<(), Errno> {
    let value = process::getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
    process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

fn one_capability(bit: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << bit)
}

fn bound_capabilities(keep: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..CAPABILITY_BITS {
        let capability = one_capability(bit);
        if keep.contains(capability) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Without this, exec as user 0 makes the whole bounding set permitted (capabilities(7), "Capabilities and execution of
/// programs by root").
fn root_without_powers() -> Result<(), Errno> {
    let bits = thread::capabilities_secure_bits()?;
    let locked = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    thread::set_capabilities_secure_bits(bits | locked)
}

fn become_user(user: User, keep_capabilities: bool) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    if keep_capabilities {
        thread::set_keep_capabilities(true)?;
    }
    thread::set_thread_res_uid(uid, uid, uid)
}

/// Permitted, effective and inheritable become what is kept of what there is; the ambient set carries it over exec,
/// for user 0 without powers as for any other.
fn keep_capabilities(keep: CapabilitySet) -> Result<(), Errno> {
    let keep = keep & thread::capabilities(None)?.permitted;
    thread::set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable: keep })?;
    thread::clear_ambient_capability_set()?;
    for bit in 0..CAPABILITY_BITS {
        if keep.contains(one_capability(bit)) {
            thread::configure_capability_in_ambient_set(one_capability(bit), true)?;
        }
    }
    Ok(())
}

/// After the change of user, which would clear the signal again (prctl(2)).
fn end_with(parent: Pid) -> Result<(), Errno> {
    process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended between fork and here, and then no signal comes any more.
    if process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::CHILD) }
}

fn apply_filter(filter: &BpfProgram) -> Result<(), Errno> {
    seccompiler::apply_filter(filter).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
        }
        _ => Errno::INVAL,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_whose_parent_is_another_by_now_does_not_run() {
        let mut command = Command::new("true");
        sys::before_exec(&mut command, Steps { steps: vec![Step::ParentDeath(Pid::INIT)], reporter: None });
        assert_eq!(command.spawn().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_step_that_fails_stops_neither_the_next_one_nor_the_program() {
        let (reporter, reports) = crate::report::pipe().unwrap();
        let closed = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let steps = vec![Step::JoinCgroup(closed.unwrap()), Step::Nice(1)];
        let mut command = Command::new("true");
        sys::before_exec(&mut command, Steps { steps, reporter: Some(reporter) });
        assert!(command.status().unwrap().success());
        assert_eq!(reports.read(), [(0, Err(Errno::BADF)), (1, Ok(()))]);
    }
}
