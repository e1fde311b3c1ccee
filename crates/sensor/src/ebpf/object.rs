//! The objects, their hooks, and what is not seen when a hook is missing.

use std::fmt;
use std::path::Path;

use watchfire_event::Kind;

use super::error::EbpfError;
use super::settings::ModuleHooks;

/// One built object of `bpf/objects`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// exec, fork, exit.
    Process,
    /// TCP connect, accept, listen.
    Network,
    /// The first datagram of each UDP flow.
    Udp,
    /// Credentials, ptrace, memfd, eBPF programs, mounts, namespaces.
    Privilege,
    /// Kernel modules.
    Module,
}

/// Every object, in the order they are worth loading.
pub const OBJECTS: &[Object] =
    &[Object::Process, Object::Network, Object::Udp, Object::Privilege, Object::Module];

impl Object {
    /// The source's name.
    pub fn name(self) -> &'static str {
        match self {
            Object::Process => "ebpf process",
            Object::Network => "ebpf network",
            Object::Udp => "ebpf udp",
            Object::Privilege => "ebpf privilege",
            Object::Module => "ebpf module",
        }
    }

    /// What a loss in its ring is called.
    pub(super) fn ring_name(self) -> &'static str {
        match self {
            Object::Process => "ring process",
            Object::Network => "ring network",
            Object::Udp => "ring udp",
            Object::Privilege => "ring privilege",
            Object::Module => "ring module",
        }
    }

    /// The kinds it can yield.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Object::Process => &[Kind::Exec, Kind::Fork, Kind::Exit],
            Object::Network => &[Kind::Connect, Kind::Accept, Kind::Listen],
            Object::Udp => &[Kind::UdpSend],
            Object::Privilege => {
                &[Kind::Credentials, Kind::Ptrace, Kind::Memfd, Kind::BpfLoad, Kind::Mount, Kind::Namespace]
            }
            Object::Module => &[Kind::ModuleLoad],
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A raw tracepoint.
    Raw(&'static str),
    /// A single-syscall tracepoint: `sys_enter_ptrace`.
    Syscall(&'static str),
    /// The root of the cgroup2 hierarchy.
    Cgroup,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Raw(name) => write!(f, "raw tracepoint {name}"),
            Place::Syscall(name) => write!(f, "tracepoint syscalls/{name}"),
            Place::Cgroup => f.write_str("cgroup2 hierarchy"),
        }
    }
}

/// One program and its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) place: Place,
    /// What is not seen without it; `None` when the object is of no use without it.
    pub(super) blind: Option<&'static str>,
}

/// A built object: bytes and hooks.
pub(super) struct Image {
    pub(super) bytes: &'static [u8],
    pub(super) hooks: &'static [&'static [Hook]],
}

const fn needed(program: &'static str, place: Place) -> Hook {
    Hook { program, place, blind: None }
}

const fn optional(program: &'static str, place: Place, blind: &'static str) -> Hook {
    Hook { program, place, blind: Some(blind) }
}

/// An entry and exit pair of one system call.
macro_rules! pair {
    ($enter:literal, $exit:literal, $call:literal, $blind:literal) => {
        [
            optional($enter, Place::Syscall(concat!("sys_enter_", $call)), $blind),
            optional($exit, Place::Syscall(concat!("sys_exit_", $call)), $blind),
        ]
    };
}

const PROCESS: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/process.o"),
    hooks: &[&[
        needed("on_exec", Place::Raw("sched_process_exec")),
        needed("on_fork", Place::Raw("sched_process_fork")),
        needed("on_exit", Place::Raw("sched_process_exit")),
    ]],
};

const NETWORK: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/network.o"),
    hooks: &[&[
        needed("on_state", Place::Raw("inet_sock_set_state")),
        optional("on_accept", Place::Syscall("sys_exit_accept"), "accept by accept()"),
        optional("on_accept", Place::Syscall("sys_exit_accept4"), "accept by accept4()"),
    ]],
};

const UDP: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/udp.o"),
    hooks: &[&[
        needed("on_send4", Place::Cgroup),
        needed("on_connect4", Place::Cgroup),
        optional("on_send6", Place::Cgroup, "UDP over IPv6"),
        optional("on_connect6", Place::Cgroup, "connected UDP over IPv6"),
    ]],
};

const PRIVILEGE: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/privilege.o"),
    hooks: &[
        &pair!("enter_credentials", "exit_credentials", "setuid", "gain of credentials by setuid"),
        &pair!("enter_credentials", "exit_credentials", "setreuid", "gain of credentials by setreuid"),
        &pair!("enter_credentials", "exit_credentials", "setresuid", "gain of credentials by setresuid"),
        &pair!("enter_credentials", "exit_credentials", "capset", "gain of capabilities by capset"),
        &pair!("enter_ptrace", "exit_ptrace", "ptrace", "ptrace"),
        &pair!("enter_vm_writev", "exit_vm_writev", "process_vm_writev", "process_vm_writev"),
        &[optional("exit_memfd", Place::Syscall("sys_exit_memfd_create"), "memfd_create")],
        &pair!("enter_bpf", "exit_bpf", "bpf", "loads of eBPF programs"),
        &pair!("enter_mount", "exit_mount", "mount", "mount"),
        &pair!("enter_move_mount", "exit_move_mount", "move_mount", "move_mount"),
        &pair!("enter_fsmount", "exit_fsmount", "fsmount", "fsmount"),
        &pair!("enter_umount", "exit_umount", "umount", "umount"),
        &pair!("enter_pivot_root", "exit_pivot_root", "pivot_root", "pivot_root"),
        &pair!("enter_unshare", "exit_unshare", "unshare", "unshare"),
        &pair!("enter_setns", "exit_setns", "setns", "setns"),
        &[optional("on_clone", Place::Raw("sched_process_fork"), "namespaces made by clone")],
    ],
};

const MODULE: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/module.o"),
    hooks: &[&[
        needed("enter_finit_module", Place::Syscall("sys_enter_finit_module")),
        needed("exit_finit_module", Place::Syscall("sys_exit_finit_module")),
        needed("enter_init_module", Place::Syscall("sys_enter_init_module")),
        needed("exit_init_module", Place::Syscall("sys_exit_init_module")),
        optional("on_module", Place::Raw("module_load"), "the name of a module loaded by init_module"),
    ]],
};

const MODULE_CALLS: Image = Image {
    bytes: aya::include_bytes_aligned!("../../../../bpf/objects/module_calls.o"),
    hooks: &[&[
        needed("on_enter", Place::Raw("sys_enter")),
        needed("on_leave", Place::Raw("sys_exit")),
        optional("on_module", Place::Raw("module_load"), "the name of a module loaded by init_module"),
    ]],
};

/// The built object that does it on this host.
///
/// # Errors
/// [`EbpfError::NothingToSee`] where there are no modules and the settings do not ask for attempts.
pub(super) fn image(object: Object, modules: ModuleHooks) -> Result<&'static Image, EbpfError> {
    match object {
        Object::Process => Ok(&PROCESS),
        Object::Network => Ok(&NETWORK),
        Object::Udp => Ok(&UDP),
        Object::Privilege => Ok(&PRIVILEGE),
        Object::Module => match modules {
            ModuleHooks::EverySyscall if cfg!(not(target_arch = "x86_64")) => Err(EbpfError::NothingToSee {
                object,
                reason: "looking at every system call is for x86-64 only",
            }),
            ModuleHooks::EverySyscall => Ok(&MODULE_CALLS),
            // The file is there exactly when the kernel was built to load modules.
            ModuleHooks::Auto if !Path::new("/proc/modules").exists() => {
                Err(EbpfError::NothingToSee { object, reason: "this kernel has no loadable modules" })
            }
            ModuleHooks::Auto | ModuleHooks::Tracepoints => Ok(&MODULE),
        },
    }
}
