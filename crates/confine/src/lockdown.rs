//! The last door: system calls and files. Our own workers close it themselves, behind what they have opened; for an
//! external plug-in it is closed before exec.

use std::io;

use crate::files::FileAccess;
use crate::measure::{Applied, Measure};
use crate::sys;
use crate::syscalls::Syscalls;

/// What a process is left with. `None` leaves that side open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lockdown {
    /// System calls (seccomp).
    pub syscalls: Option<Syscalls>,
    /// Files (Landlock). Not for a worker that inspects other processes; see [`FileAccess`].
    pub files: Option<FileAccess>,
}

/// Locks this process down, for good; what it has open stays open.
///
/// Call it before the first thread is started. The seccomp filter reaches all threads (`SECCOMP_FILTER_FLAG_TSYNC`), but
/// Landlock restricts the calling thread and those that it starts later. Sets `no_new_privs`, without which an
/// unprivileged process may do neither.
pub fn lock_down(lockdown: &Lockdown) -> Applied {
    let mut applied = Applied::default();
    applied.note_result(
        Measure::NoNewPrivileges,
        rustix::thread::set_no_new_privs(true).map_err(io::Error::from),
    );
    if let Some(files) = &lockdown.files {
        let (ruleset, outcome) = files.ruleset();
        applied.note(Measure::Files, outcome);
        if let Some(ruleset) = ruleset {
            applied.note_result(Measure::Files, sys::restrict_self(ruleset).map_err(io::Error::from));
        }
    }
    if let Some(syscalls) = &lockdown.syscalls {
        let installed = syscalls
            .filter()
            .and_then(|filter| seccompiler::apply_filter_all_threads(&filter).map_err(io::Error::other));
        applied.note_result(Measure::Syscalls, installed);
    }
    applied
}
