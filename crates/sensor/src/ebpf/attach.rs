//! Finding the places programs are attached to, without changing anything on the host: where tracefs or cgroup2 is not
//! mounted, they are opened through a mount that belongs to no namespace and goes away with its descriptor.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::{CgroupAttachMode, Program, ProgramError};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::error::{EbpfError, refused_or};
use super::object::{Hook, Object, Place};
use super::sys;

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What keeps a program attached; dropped, it is detached.
pub(super) enum Link {
    /// A link that the program itself holds.
    InProgram,
    /// A perf event.
    Event(#[expect(dead_code, reason = "kept for its drop")] OwnedFd),
}

/// The directories hooks are looked up in, opened at first use.
#[derive(Default)]
pub(super) struct Places {
    tracefs: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
}

impl Places {
    /// Attaches a loaded program.
    pub(super) fn attach(
        &mut self,
        object: Object,
        hook: &Hook,
        program: &mut Program,
    ) -> Result<Link, EbpfError> {
        match (hook.place, program) {
            (Place::Raw(name), Program::RawTracePoint(raw)) => match raw.attach(name) {
                Ok(_) => Ok(Link::InProgram),
                Err(error) => Err(failed(object, hook, error)),
            },
            (Place::Syscall(name), Program::TracePoint(tracepoint)) => {
                let id = self.tracepoint_id(name).map_err(|error| failed(object, hook, error))?;
                let fd = tracepoint.fd().map_err(|error| failed(object, hook, error))?;
                let event =
                    sys::attach_tracepoint(id, fd.as_fd()).map_err(|error| failed(object, hook, error))?;
                Ok(Link::Event(event))
            }
            (Place::Cgroup, Program::CgroupSockAddr(cgroup)) => {
                let root = self.cgroup_root().map_err(|error| failed(object, hook, error))?;
                // By link, so always beside other programs; `AllowMultiple` is refused with EINVAL.
                match cgroup.attach(root, CgroupAttachMode::Single) {
                    Ok(_) => Ok(Link::InProgram),
                    Err(error) => Err(failed(object, hook, error)),
                }
            }
            (_, other) => Err(failed(
                object,
                hook,
                io::Error::other(format!("a program of type {:?}", other.prog_type())),
            )),
        }
    }

    fn tracepoint_id(&mut self, name: &str) -> io::Result<u64> {
        let tracefs = match self.tracefs.take() {
            Some(open) => self.tracefs.insert(open),
            None => self.tracefs.insert(open_tracefs()?),
        };
        let file = openat(
            &*tracefs,
            format!("events/syscalls/{name}/id"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let text = io::read_to_string(fs::File::from(file))?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn cgroup_root(&mut self) -> io::Result<BorrowedFd<'_>> {
        let root = match self.cgroup.take() {
            Some(open) => self.cgroup.insert(open),
            None => self.cgroup.insert(open_cgroup2()?),
        };
        Ok((*root).as_fd())
    }
}

fn failed(object: Object, hook: &Hook, source: impl std::error::Error + Send + Sync + 'static) -> EbpfError {
    let hook = hook.place.to_string();
    if super::error::errno(&source).is_some_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return EbpfError::MissingHook { object, hook };
    }
    let attempt = format!("attach to {hook}");
    refused_or(object, attempt, source, |source| EbpfError::Attach { object, hook, source })
}

fn open_tracefs() -> io::Result<OwnedFd> {
    for place in TRACEFS {
        if Path::new(place).join("events").is_dir() {
            return open_directory(Path::new(place));
        }
    }
    open_detached("tracefs")
}

/// The root of the cgroup2 hierarchy wherever it is mounted.
fn open_cgroup2() -> io::Result<OwnedFd> {
    match find_cgroup2(&fs::read("/proc/self/mountinfo")?) {
        Some(mount) => open_directory(&mount),
        None => open_detached("cgroup2"),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the root of a file system that need not be mounted anywhere.
fn open_detached(fstype: &str) -> io::Result<OwnedFd> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The mount point of a cgroup2 mount that shows the whole hierarchy, from the text of `/proc/self/mountinfo`.
fn find_cgroup2(mountinfo: &[u8]) -> Option<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line));
    lines.into_iter().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let whole = root == "/" && filesystem.split(' ').next() == Some("cgroup2");
        // A mount point with a space or newline is escaped; such a host gets a detached mount instead.
        (whole && !point.contains('\\')).then(|| PathBuf::from(point))
    })
}

/// Loads a program; says what the verifier said.
pub(super) fn load_program(object: Object, hook: &Hook, program: &mut Program) -> Result<(), EbpfError> {
    let loaded = match program {
        Program::RawTracePoint(program) => program.load(),
        Program::TracePoint(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        other => {
            let source = io::Error::other(format!("a program of type {:?}", other.prog_type()));
            return Err(failed(object, hook, source));
        }
    };
    match loaded {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            Err(load_error(object, hook, io_error, &verifier_log.to_string()))
        }
        Err(error) => Err(failed(object, hook, error)),
    }
}

/// The verifier's own word for a bad access is EACCES, too: a policy refuses without a log.
fn load_error(object: Object, hook: &Hook, source: io::Error, log: &str) -> EbpfError {
    if source.kind() == io::ErrorKind::PermissionDenied && log.trim().is_empty() {
        let attempt = format!("load program {}", hook.program);
        return EbpfError::Refused { object, attempt, source: Box::new(source) };
    }
    EbpfError::Verifier { object, program: hook.program, tail: last_lines(log), source }
}

/// The end of a verifier's log, where the reason stands.
fn last_lines(log: &str) -> String {
    const LINES: usize = 8;
    let lines: Vec<_> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            36 31 0:33 / /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let inside_container = b"41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(inside_container), None);
        assert_eq!(find_cgroup2(b"nonsense\n\xff\n"), None);
    }

    #[test]
    fn the_reason_stands_at_the_end_of_a_log() {
        let log = (0..20).map(|line| format!("{line}\n\n")).collect::<String>();
        assert_eq!(last_lines(&log), "12 | 13 | 14 | 15 | 16 | 17 | 18 | 19");
    }
}
