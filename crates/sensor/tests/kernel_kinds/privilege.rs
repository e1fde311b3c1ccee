//! Credentials, ptrace, memfd, eBPF programs, mounts, namespaces.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use watchfire_event::{Body, What};

use crate::child::{fork, last_errno, mark, wait};
use crate::watch::{Report, Watch, same};

pub(crate) fn run(watch: &mut Watch, report: &mut Report) {
    report.case("credentials", regains_root(watch));
    report.case("ptrace (traceme)", traceme(watch));
    report.case("ptrace (attach, pokedata)", attaches(watch));
    report.case("ptrace (seize)", seizes(watch));
    report.case("ptrace (process_vm_writev)", writes(watch));
    report.case("memfd", memfd(watch));
    report.case("bpf_load", loads_program(watch));
    report.case("bpf_load (refused)", loads_nonsense(watch));
    report.case("mount", mounts(watch));
    report.case("mount (move_mount, fsmount)", mounts_anew(watch));
    report.case("mount (pivot_root, fails)", pivots(watch));
    report.case("namespace (unshare)", unshares(watch));
    report.case("namespace (setns)", enters(watch));
    report.case("namespace (clone)", clones(watch));
}

/// The first body by process `tgid` that `pick` takes.
fn told<T>(watch: &mut Watch, tgid: i32, mut pick: impl FnMut(&Body) -> Option<T>) -> Result<T, String> {
    let tgid = u32::try_from(tgid).expect("a pid");
    let found = watch.wait(|sighting| match &sighting.what {
        What::Done(body) if sighting.actor.tgid == tgid && sighting.actor.started.is_some() => pick(body),
        _ => None,
    });
    found.ok_or_else(|| "not told".to_owned())
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// A child that drops to another user, keeping uid 0 saved, and comes back.
fn regains_root(watch: &mut Watch) -> Result<(), String> {
    // SAFETY: integers only.
    let pid = fork(|| unsafe { libc::setresuid(1001, 1001, 0) | libc::setresuid(1001, 0, 0) });
    same("the child", wait(pid), 0)?;
    let (before, after) = told(watch, pid, |body| match body {
        Body::Credentials { before, after } => Some((*before, *after)),
        _ => None,
    })?;
    same("before", (before.uid, before.euid, before.suid), (1001, 1001, 0))?;
    same("after", (after.uid, after.euid, after.suid), (1001, 0, 0))?;
    same("capabilities came back", before.cap_effective == 0 && after.cap_effective != 0, true)?;
    let mut drops = 0;
    let tgid = u32::try_from(pid).expect("a pid");
    drops += watch.count(|sighting| {
        sighting.actor.tgid == tgid && matches!(sighting.what, What::Done(Body::Credentials { .. }))
    });
    same("the drop itself is not told", drops, 1)
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: acts on our own child or on ourselves; the numbers are passed as they are, a wrong address gives EIO.
    unsafe { libc::ptrace(request, pid, address, data) }
}

fn request(watch: &mut Watch, tgid: i32, name: &str) -> Result<(u32, i32), String> {
    told(watch, tgid, |body| match body {
        Body::Ptrace(activity) if activity.request == name => Some((activity.target, activity.result)),
        _ => None,
    })
}

fn traceme(watch: &mut Watch) -> Result<(), String> {
    let pid = fork(|| i32::from(ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0));
    same("the child", wait(pid), 0)?;
    same("target, result", request(watch, pid, "traceme")?, (0, 0))
}

/// A child that sleeps until it is killed.
fn sleeper() -> i32 {
    fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(60));
        0
    })
}

fn end(pid: i32) {
    // SAFETY: integers only; our own child, not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid);
}

static TARGET: u64 = 0;

fn attaches(watch: &mut Watch) -> Result<(), String> {
    let pid = sleeper();
    same("attach", ptrace(libc::PTRACE_ATTACH, pid, 0, 0), 0)?;
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    // The child is our copy: the same address is there, and its own.
    let poked = ptrace(libc::PTRACE_POKEDATA, pid, (&raw const TARGET).addr(), 1);
    let detached = ptrace(libc::PTRACE_DETACH, pid, 0, 0);
    end(pid);
    same("poke, detach", (poked, detached), (0, 0))?;
    same("attach", request(watch, own_pid(), "attach")?, (pid.cast_unsigned(), 0))?;
    same("pokedata", request(watch, own_pid(), "pokedata")?, (pid.cast_unsigned(), 0))
}

fn seizes(watch: &mut Watch) -> Result<(), String> {
    let pid = sleeper();
    let seized = ptrace(libc::PTRACE_SEIZE, pid, 0, 0);
    end(pid);
    same("seize", seized, 0)?;
    same("target, result", request(watch, own_pid(), "seize")?, (pid.cast_unsigned(), 0))
}

fn writes(watch: &mut Watch) -> Result<(), String> {
    let pid = sleeper();
    let mut place = Box::new(0u64);
    let bytes = libc::iovec { iov_base: (&raw mut *place).cast(), iov_len: 8 };
    // SAFETY: both vectors name eight bytes that exist here and, at the same address, in the child, our copy.
    let written = unsafe { libc::process_vm_writev(pid, &raw const bytes, 1, &raw const bytes, 1, 0) };
    end(pid);
    same("written", written, 8)?;
    same("target, result", request(watch, own_pid(), "process_vm_writev")?, (pid.cast_unsigned(), 8))
}

fn memfd(watch: &mut Watch) -> Result<(), String> {
    let name = CString::new(mark("named")).expect("no NUL");
    // SAFETY: the name outlives the call; the descriptor is new and owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), 0)) });
    told(watch, own_pid(), |body| match body {
        Body::Memfd { name: found } if found.as_slice() == name.as_bytes() => Some(()),
        _ => None,
    })
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
    name: [u8; 16],
}

fn load_program(code: &[u64], name: &[u8]) -> i32 {
    let mut attr = ProgramLoad {
        program_type: 1, // socket filter
        instructions: u32::try_from(code.len()).expect("short"),
        code: code.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        ..ProgramLoad::default()
    };
    attr.name[..name.len()].copy_from_slice(name);
    // SAFETY: `attr` and what it points to outlive the call, and its size is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 5, &raw const attr, size_of::<ProgramLoad>()) };
    if fd < 0 {
        return last_errno();
    }
    let fd = i32::try_from(fd).expect("a descriptor");
    // SAFETY: the descriptor is new and owned by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    fd
}

fn program(watch: &mut Watch, wanted: &[u8]) -> Result<(u32, i32), String> {
    told(watch, own_pid(), |body| match body {
        Body::BpfLoad { program_type, name, result } if name == wanted => Some((*program_type, *result)),
        _ => None,
    })
}

fn loads_program(watch: &mut Watch) -> Result<(), String> {
    // r0 = 0; exit
    let fd = load_program(&[0xb7, 0x95], b"wf_kinds");
    same("loaded", fd >= 0, true)?;
    same("type, result", program(watch, b"wf_kinds")?, (1, fd))
}

fn loads_nonsense(watch: &mut Watch) -> Result<(), String> {
    // exit without a value in r0: the verifier refuses.
    let result = load_program(&[0x95], b"wf_bad");
    same("type, result", program(watch, b"wf_bad")?, (1, result))?;
    same("refused", result < 0, true)
}

/// A child in a mount namespace of its own.
fn in_private_mounts(body: impl FnOnce() -> i32) -> i32 {
    fork(|| {
        // SAFETY: integers and strings that outlive the calls; changes this child's own namespace only.
        let made = unsafe {
            libc::unshare(libc::CLONE_NEWNS)
                | libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                )
        };
        if made == 0 { body() } else { 99 }
    })
}

fn mount_of(watch: &mut Watch, tgid: i32, call: &str) -> Result<watchfire_event::MountActivity, String> {
    told(watch, tgid, |body| match body {
        Body::Mount(activity) if activity.call == call && activity.fstype != b"" => Some(activity.clone()),
        Body::Mount(activity) if activity.call == call && call != "mount" => Some(activity.clone()),
        _ => None,
    })
}

fn mounts(watch: &mut Watch) -> Result<(), String> {
    let target = std::env::temp_dir().join(mark("mount"));
    std::fs::create_dir_all(&target).expect("make a mount point");
    let point = CString::new(target.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: strings that outlive the calls.
    let pid = in_private_mounts(|| unsafe {
        libc::mount(
            c"watchfire".as_ptr(),
            point.as_ptr(),
            c"tmpfs".as_ptr(),
            libc::MS_NOSUID,
            std::ptr::null(),
        ) | libc::umount2(point.as_ptr(), libc::MNT_DETACH)
    });
    let status = wait(pid);
    std::fs::remove_dir(&target).expect("remove the mount point");
    same("the child", status, 0)?;
    let mount = mount_of(watch, pid, "mount")?;
    same("source", mount.source.as_slice(), b"watchfire")?;
    same("target", mount.target.as_slice(), point.as_bytes())?;
    same("fstype", mount.fstype.as_slice(), b"tmpfs")?;
    same("flags, result", (mount.flags, mount.result), (libc::MS_NOSUID, 0))?;
    let umount = mount_of(watch, pid, "umount")?;
    same("umount", (umount.target.as_slice(), umount.flags, umount.result), (point.as_bytes(), 2, 0))
}

fn mounts_anew(watch: &mut Watch) -> Result<(), String> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsmount, fsopen,
        move_mount,
    };
    let target = std::env::temp_dir().join(mark("move"));
    std::fs::create_dir_all(&target).expect("make a mount point");
    let pid = in_private_mounts(|| {
        let moved = fsopen("tmpfs", FsOpenFlags::empty())
            .and_then(|context| fsconfig_create(&context).map(|()| context))
            .and_then(|context| fsmount(&context, FsMountFlags::empty(), MountAttrFlags::MOUNT_ATTR_NOSUID))
            .and_then(|mount| {
                move_mount(&mount, "", rustix::fs::CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            });
        i32::from(moved.is_err())
    });
    let status = wait(pid);
    std::fs::remove_dir(&target).expect("remove the mount point");
    same("the child", status, 0)?;
    let made = mount_of(watch, pid, "fsmount")?;
    same("fsmount", (made.fstype.as_slice(), made.flags, made.result), (b"tmpfs".as_slice(), 2, 0))?;
    let moved = mount_of(watch, pid, "move_mount")?;
    same("move_mount", (moved.target.as_slice(), moved.result), (target.as_os_str().as_bytes(), 0))
}

fn pivots(watch: &mut Watch) -> Result<(), String> {
    // SAFETY: strings that outlive the call; / is no mount point beside itself, so nothing changes.
    let pid = in_private_mounts(|| unsafe {
        libc::syscall(libc::SYS_pivot_root, c"/proc/self".as_ptr(), c"/proc/self/fd".as_ptr());
        last_errno().abs()
    });
    let errno = wait(pid) >> 8;
    let pivot = mount_of(watch, pid, "pivot_root")?;
    same(
        "paths",
        (pivot.source.as_slice(), pivot.target.as_slice()),
        (b"/proc/self".as_slice(), b"/proc/self/fd".as_slice()),
    )?;
    same("result", pivot.result, -errno)
}

fn namespace(watch: &mut Watch, tgid: i32, call: &str) -> Result<(u64, i32), String> {
    told(watch, tgid, |body| match body {
        Body::Namespace(activity) if activity.call == call => Some((activity.flags, activity.result)),
        _ => None,
    })
}

fn unshares(watch: &mut Watch) -> Result<(), String> {
    let flags = libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: integers only; changes the child's own namespaces.
    let pid = fork(|| unsafe { libc::unshare(flags | libc::CLONE_FS) });
    same("the child", wait(pid), 0)?;
    same("flags, result", namespace(watch, pid, "unshare")?, (flags.cast_unsigned().into(), 0))
}

fn enters(watch: &mut Watch) -> Result<(), String> {
    let file = std::fs::File::open("/proc/self/ns/uts").map_err(|error| error.to_string())?;
    // SAFETY: integers only; its own namespace, so that nothing changes. Type 0: whatever the descriptor is.
    let pid = fork(|| unsafe { libc::setns(file.as_raw_fd(), 0) });
    same("the child", wait(pid), 0)?;
    same("flags, result", namespace(watch, pid, "setns")?, (libc::CLONE_NEWUTS.cast_unsigned().into(), 0))
}

fn clones(watch: &mut Watch) -> Result<(), String> {
    let flags = libc::CLONE_NEWUTS | libc::CLONE_NEWPID;
    let pid = fork(|| {
        // SAFETY: like fork, with new namespaces for the child, which ends at once.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match i32::try_from(child).expect("a pid") {
            // SAFETY: ends the child without running the parent's exit handlers.
            0 => unsafe { libc::_exit(0) },
            failed if failed < 0 => 1,
            child => wait(child),
        }
    });
    same("the child", wait(pid), 0)?;
    same("flags, result", namespace(watch, pid, "clone")?, (flags.cast_unsigned().into(), 0))
}
