//! Seccomp: system calls that no worker needs, refused with EPERM.
//!
//! A list of what is denied, not of what is allowed: the libraries under a worker may start to use any harmless call with
//! their next version, and a sensor that dies of an update is worse than one that could still call `getrandom`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::net::AddressFamily;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// What a worker's work may need of what is denied otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Execute programs.
    Exec,
    /// Load and read BPF.
    Bpf,
    /// Open perf events: uprobes, and tracepoints without raw ones.
    PerfEvents,
    /// Watch files.
    Fanotify,
    /// Open files by handle, as events of fanotify name them.
    FileHandles,
    /// Enter the namespaces of others.
    EnterNamespaces,
    /// Make a mount that hangs nowhere, to read a file system of the kernel's where the host has not mounted it. It cannot be put
    /// in anybody's way: that takes `move_mount`.
    DetachedMounts,
}

/// What a process may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syscalls {
    /// Of what is denied otherwise.
    pub needs: BTreeSet<Need>,
    /// Sockets of these families may be made, no others.
    pub families: Vec<AddressFamily>,
}

impl Default for Syscalls {
    /// No special need; Unix sockets only.
    fn default() -> Self {
        Syscalls { needs: BTreeSet::new(), families: vec![AddressFamily::UNIX] }
    }
}

/// kexec_file_load; musl's headers for aarch64 lack its number.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: i64 = 294;
#[cfg(not(target_arch = "aarch64"))]
const KEXEC_FILE_LOAD: i64 = libc::SYS_kexec_file_load;
/// The same on every architecture (Linux 6.15); libc has no name for it yet.
const OPEN_TREE_ATTR: i64 = 467;

/// Denied to every worker.
const DENIED: &[i64] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    // Requests in a ring pass by this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // What is mounted where.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // The kernel itself.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    // Clocks.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // Namespaces of its own: they open up kernel code that is otherwise root's.
    libc::SYS_unshare,
];

/// Denied as well, where they exist.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];

/// Denied to those without the need.
const NEEDED: &[(Need, &[i64])] = &[
    (Need::Exec, &[libc::SYS_execve, libc::SYS_execveat]),
    (Need::Bpf, &[libc::SYS_bpf]),
    (Need::PerfEvents, &[libc::SYS_perf_event_open]),
    (Need::Fanotify, &[libc::SYS_fanotify_init, libc::SYS_fanotify_mark]),
    (Need::FileHandles, &[libc::SYS_open_by_handle_at]),
    (Need::EnterNamespaces, &[libc::SYS_setns]),
    (Need::DetachedMounts, &[libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount]),
];

/// `clone` with any of these makes a namespace. (`CLONE_NEWTIME` shares a bit with the exit signal, so `clone` cannot ask
/// for it.)
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Requests of `ioctl` that put input into a terminal as if typed there.
const TYPE_INTO_TERMINAL: [u64; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];

// Instructions of classic BPF (linux/bpf_common.h, linux/seccomp.h).
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
#[cfg(target_arch = "x86_64")]
const JUMP_IF_NOT_BELOW: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;
const RETURN_ERRNO: u32 = 0x0005_0000;
/// Set in the number of each call of the x32 ABI, which has x86-64's architecture and so would pass by all rules.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

impl Syscalls {
    /// Compiles the filter for the architecture this runs on. A call of another architecture (32-bit code) kills the
    /// process: its numbers mean other calls.
    ///
    /// # Errors
    /// `Unsupported` on an architecture without rules.
    pub(crate) fn filter(&self) -> io::Result<BpfProgram> {
        let architecture = TargetArch::try_from(std::env::consts::ARCH)
            .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error.to_string()))?;
        let rules = self.rules().map_err(io::Error::other)?;
        let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, eperm, architecture)
            .and_then(BpfProgram::try_from)
            .map_err(io::Error::other)?;
        // Jumps are relative, so instructions can be put before them.
        let mut program = first_instructions();
        program.extend(filter);
        Ok(program)
    }

    /// The numbers that are denied whatever the arguments.
    fn denied(&self) -> impl Iterator<Item = i64> {
        let unneeded = NEEDED.iter().filter(|(need, _)| !self.needs.contains(need));
        let unneeded = unneeded.flat_map(|(_, numbers)| numbers.iter());
        DENIED.iter().chain(DENIED_HERE).chain(unneeded).copied()
    }

    fn rules(&self) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            self.denied().map(|number| (number, vec![])).collect();
        let is = |argument, operator, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        };
        let other_family = self
            .families
            .iter()
            .map(|family| is(0, SeccompCmpOp::Ne, u64::from(family.as_raw())))
            .collect::<Result<Vec<_>, _>>()?;
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            // Without an allowed family the rule has no condition: every socket is denied.
            let rule =
                if other_family.is_empty() { vec![] } else { vec![SeccompRule::new(other_family.clone())?] };
            rules.insert(number, rule);
        }
        let mut new_namespace = Vec::new();
        for flag in NAMESPACES {
            let flag = u64::from(flag.unsigned_abs());
            new_namespace.push(SeccompRule::new(vec![is(0, SeccompCmpOp::MaskedEq(flag), flag)?])?);
        }
        rules.insert(libc::SYS_clone, new_namespace);
        let mut typing = Vec::new();
        for request in TYPE_INTO_TERMINAL {
            typing.push(SeccompRule::new(vec![is(1, SeccompCmpOp::Eq, request)?])?);
        }
        rules.insert(libc::SYS_ioctl, typing);
        Ok(rules)
    }
}

/// What the compiler of rules cannot say: the x32 ABI, and `clone3`, whose flags lie in memory where no filter can read
/// them. "No such call" makes every libc use `clone` instead.
fn first_instructions() -> BpfProgram {
    let op = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let errno = |errno: libc::c_int| op(RETURN, 0, RETURN_ERRNO | errno.unsigned_abs());
    let clone3 = u32::try_from(libc::SYS_clone3).expect("numbers of calls are small");
    vec![
        op(LOAD_WORD, 0, NUMBER),
        #[cfg(target_arch = "x86_64")]
        op(JUMP_IF_NOT_BELOW, 1, X32_BIT),
        #[cfg(target_arch = "x86_64")]
        errno(libc::EPERM),
        op(JUMP_IF_EQUAL, 1, clone3),
        errno(libc::ENOSYS),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{Lockdown, lock_down};

    const ROLE: &str = "WATCHFIRE_TEST_SYSCALLS_ROLE";
    const FAMILIES: [(AddressFamily, &str); 3] =
        [(AddressFamily::UNIX, "unix"), (AddressFamily::NETLINK, "netlink"), (AddressFamily::INET, "inet")];

    /// Calls with these arguments and gives the error, 0 for none.
    fn errno_of(number: i64, arguments: [i64; 3]) -> i32 {
        let [a, b, c] = arguments;
        // SAFETY: each pointer among the arguments is -1 or null, which the kernel refuses to read and to write; no
        // number below changes anything with such arguments (see `denied_calls`).
        match unsafe { libc::syscall(number, a, b, c, -1, -1, -1) } {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }

    /// Every denied number with -1 for all arguments: an invalid pointer, descriptor, flag, magic, length and "no change"
    /// for ids, so that none of them does anything even where nothing denies it.
    fn denied_calls(syscalls: &Syscalls) -> Vec<(i64, i32)> {
        syscalls.denied().map(|number| (number, errno_of(number, [-1; 3]))).collect()
    }

    fn socket(family: AddressFamily) -> i32 {
        // An invalid type, so that none is made.
        errno_of(libc::SYS_socket, [family.as_raw().into(), -1, 0])
    }

    /// Runs in a process of its own, because a lockdown is for good.
    fn in_own_process(role: &str) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "syscalls::tests::role", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(told.contains(&format!("role {role} done")), "{told}");
    }

    #[test]
    #[ignore = "started by the other tests"]
    fn role() {
        let role = std::env::var(ROLE).expect("started by the other tests");
        match role.as_str() {
            "strict" => strict(),
            "all needs" => all_needs(),
            "no sockets" => no_sockets(),
            other => panic!("no role {other}"),
        }
        println!("role {role} done");
    }

    fn lock(syscalls: &Syscalls) {
        let applied = lock_down(&Lockdown { syscalls: Some(syscalls.clone()), files: None });
        assert_eq!(applied.shortfalls().collect::<Vec<_>>(), []);
        assert_eq!(applied.iter().count(), 2);
    }

    fn strict() {
        let syscalls = Syscalls::default();
        let free = denied_calls(&syscalls);
        // As root hardly any of them is refused for want of privileges: what follows is the filter's doing.
        let refused = free.iter().filter(|(_, errno)| *errno == libc::EPERM).count();
        assert!(refused * 2 < free.len(), "{free:?}");
        let (go, told) = std::sync::mpsc::channel::<()>();
        let earlier = std::thread::spawn(move || {
            told.recv().unwrap();
            errno_of(libc::SYS_mount, [-1; 3])
        });
        lock(&syscalls);
        let passed: Vec<_> =
            denied_calls(&syscalls).into_iter().filter(|(_, errno)| *errno != libc::EPERM).collect();
        assert_eq!(passed, []);
        go.send(()).unwrap();
        assert_eq!(earlier.join().unwrap(), libc::EPERM, "a thread that was there before");
        // With CLONE_FS a new user namespace is invalid anyway.
        let namespace = i64::from(libc::CLONE_NEWUSER | libc::CLONE_FS);
        assert_eq!(errno_of(libc::SYS_clone, [namespace, 0, 0]), libc::EPERM);
        assert_eq!(errno_of(libc::SYS_clone3, [-1, 0, 0]), libc::ENOSYS);
        for request in TYPE_INTO_TERMINAL {
            assert_eq!(errno_of(libc::SYS_ioctl, [-1, request.cast_signed(), 0]), libc::EPERM);
        }
        assert_eq!(errno_of(libc::SYS_ioctl, [-1, 0x5401, 0]), libc::EBADF);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(errno_of(i64::from(X32_BIT) | libc::SYS_getpid, [0; 3]), libc::EPERM);
        let sockets = FAMILIES.map(|(family, name)| (name, socket(family) == libc::EPERM));
        assert_eq!(sockets, [("unix", false), ("netlink", true), ("inet", true)]);
        // The high half of the argument does not count for the kernel, so it must not for the filter.
        let disguised = i64::from(AddressFamily::INET.as_raw()) | 1 << 32;
        assert_eq!(errno_of(libc::SYS_socket, [disguised, -1, 0]), libc::EPERM);
        ordinary_work();
    }

    fn ordinary_work() {
        assert!(std::fs::read("/proc/self/status").is_ok());
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        let (mut one, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut one, b"x").unwrap();
        std::io::Read::read_exact(&mut other, &mut [0]).unwrap();
        let error = Command::new("true").status().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    fn all_needs() {
        let needs: BTreeSet<_> = NEEDED.iter().map(|(need, _)| *need).collect();
        let families = FAMILIES.map(|(family, _)| family).to_vec();
        lock(&Syscalls { needs, families });
        for (need, numbers) in NEEDED {
            for number in *numbers {
                assert_ne!(errno_of(*number, [-1; 3]), libc::EPERM, "{need:?}");
            }
        }
        FAMILIES.iter().for_each(|(family, name)| assert_ne!(socket(*family), libc::EPERM, "{name}"));
        assert_eq!(errno_of(libc::SYS_mount, [-1; 3]), libc::EPERM);
        assert!(Command::new("true").status().unwrap().success());
    }

    fn no_sockets() {
        lock(&Syscalls { families: vec![], ..Syscalls::default() });
        FAMILIES.iter().for_each(|(family, name)| assert_eq!(socket(*family), libc::EPERM, "{name}"));
    }

    #[test]
    fn what_no_worker_needs_is_refused_and_ordinary_work_goes_on() {
        in_own_process("strict");
    }

    #[test]
    fn each_need_opens_what_it_names_and_nothing_else() {
        in_own_process("all needs");
    }

    #[test]
    fn without_a_family_there_is_no_socket() {
        in_own_process("no sockets");
    }
}
