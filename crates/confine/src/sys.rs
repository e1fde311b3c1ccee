//! The system calls that neither rustix nor the standard library has, and the hook before exec.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;

use crate::steps::Steps;

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h; with id 0, the calling thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The same on every architecture (asm-generic/unistd.h); not every libc names it.
const SYS_LANDLOCK_RESTRICT_SELF: libc::c_long = 446;

/// Runs `steps` in the child of `command`, after all else and right before exec.
pub(crate) fn before_exec(command: &mut Command, steps: Steps) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `Steps::run` allocates nothing, takes no
    // lock and makes system calls only, on descriptors and buffers that were made before the fork.
    unsafe { command.pre_exec(move || steps.run().map_err(io::Error::from)) };
}

/// Sets the scheduling policy of the calling thread to one that has no static priority (`SCHED_BATCH`, `SCHED_IDLE`).
/// Raw, because musl's function of this name always fails.
pub(crate) fn set_scheduling_policy(policy: libc::c_int) -> Result<(), Errno> {
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one `struct sched_param`, which is a single int, from the address of a live local.
    check(unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) })
}

/// Sets the I/O priority of the calling thread: class in bits 13 to 15, level in the low ones.
pub(crate) fn set_io_priority(value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })
}

/// Puts the calling thread under a Landlock ruleset.
pub(crate) fn restrict_self(ruleset: impl AsFd) -> Result<(), Errno> {
    // SAFETY: integers only; the descriptor is open as long as it is borrowed.
    check(unsafe { libc::syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset.as_fd().as_raw_fd(), 0) })
}

fn check(result: libc::c_long) -> Result<(), Errno> {
    // Reading errno is async-signal-safe.
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
