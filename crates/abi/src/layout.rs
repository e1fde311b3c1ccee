//! The structures of `event.h`, field by field. They are never built: only their sizes and offsets are used.

/// `EVENT_ABI_VERSION`: the decoder refuses records of another version.
pub const ABI_VERSION: u8 = 1;

/// No record is longer: the fixed part of an exec, three strings and a terminal name, and argv.
pub const RECORD_MAX: usize = size_of::<EventExec>() + 3 * 4096 + 64 + 32768;

/// One mirrored structure, for the comparison with BTF.
#[cfg(test)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    pub(crate) fields: &'static [(&'static str, usize)],
}

macro_rules! mirror {
    ($($(#[$doc:meta])* $rust:ident = $c:literal, $size:literal { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[allow(dead_code, reason = "only offsets are used, and not of every structure")]
            pub(crate) struct $rust { $(pub(crate) $field: $kind),* }

            const _: () = assert!(size_of::<$rust>() == $size, "layout changed: raise EVENT_ABI_VERSION");
        )*

        /// Every mirrored structure.
        #[cfg(test)]
        pub(crate) const LAYOUTS: &[Layout] = &[$(Layout {
            name: $c,
            size: $size,
            fields: &[$((stringify!($field), std::mem::offset_of!($rust, $field))),*],
        }),*];
    };
}

mirror! {
    /// What every record starts with.
    EventHeader = "event_header", 24 { boot_ns: u64, started: u64, tgid: u32, size: u16, kind: u8, version: u8 }

    EventCredentials = "event_credentials", 40 {
        uid: u32, euid: u32, suid: u32, gid: u32, egid: u32, _pad: u32, cap_effective: u64, cap_permitted: u64,
    }

    EventStdio = "event_stdio", 32 { inode: u64, address: [u8; 16], family: u16, port: u16, what: u8, _pad: [u8; 3] }

    /// Strings: filename, exe, cwd, tty, argv.
    EventExec = "event_exec", 288 {
        header: EventHeader,
        parent_started: u64, image_inode: u64, cgroup: u64,
        credentials: EventCredentials,
        stdio: [EventStdio; 3],
        parent_tgid: u32, image_device: u32, image_mode: u32, image_uid: u32, image_links: u32,
        login_uid: u32, audit_session: u32, session: u32, group: u32, tty_major: u32, tty_minor: u32,
        ns_mnt: u32, ns_pid: u32, ns_net: u32, ns_user: u32, ns_tgid: u32,
        argv_len: u32, flags: u32,
        filename_size: u16, exe_size: u16, cwd_size: u16, tty_size: u16, argv_size: u16,
        comm: [u8; 16], _pad: [u8; 6],
    }

    EventFork = "event_fork", 40 { header: EventHeader, child_started: u64, child_tgid: u32, child_ns_tgid: u32 }

    EventExit = "event_exit", 32 { header: EventHeader, status: u32, _pad: u32 }

    EventFlow = "event_flow", 72 {
        header: EventHeader, local: [u8; 16], remote: [u8; 16], local_port: u16, remote_port: u16, family: u16,
        transport: u8, established: u8, error: i32, _pad: u32,
    }

    EventCredentialsChange = "event_credentials_change", 104 {
        header: EventHeader, before: EventCredentials, after: EventCredentials,
    }

    EventPtrace = "event_ptrace", 40 { header: EventHeader, request: u32, target: u32, result: i32, _pad: u32 }

    /// String: name.
    EventMemfd = "event_memfd", 32 { header: EventHeader, name_size: u16, _pad: [u8; 6] }

    /// Strings: file, name.
    EventModule = "event_module", 40 {
        header: EventHeader, result: i32, file_size: u16, name_size: u16, call: u8, _pad: [u8; 7],
    }

    EventBpf = "event_bpf", 48 { header: EventHeader, program_type: u32, result: i32, name: [u8; 16] }

    /// Strings: source, target, fstype.
    EventMount = "event_mount", 48 {
        header: EventHeader, flags: u64, result: i32, source_size: u16, target_size: u16, fstype_size: u16, call: u8,
        _pad: [u8; 5],
    }

    EventNamespace = "event_namespace", 40 { header: EventHeader, flags: u64, result: i32, call: u8, _pad: [u8; 3] }

    EventCounts = "event_counts", 32 { begun: u64, written: u64, ring_full: u64, fault: u64 }
}

/// Flags of an exec record.
pub(crate) mod exec_flag {
    pub(crate) const MEMFD: u32 = 1;
    pub(crate) const EXE_CUT: u32 = 2;
    pub(crate) const CWD_CUT: u32 = 4;
    pub(crate) const HAS_TTY: u32 = 16;
}

/// The kernel's own books of one kind (`struct event_counts`), of one CPU or summed over all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelCounts {
    /// Records a hook set out to write.
    pub begun: u64,
    /// Written to the ring.
    pub written: u64,
    /// Not written: no room.
    pub ring_full: u64,
    /// Not written: what it needs could not be read or remembered.
    pub fault: u64,
}

impl KernelCounts {
    /// Begun records whose fate is known.
    pub fn ended(self) -> u64 {
        self.written + self.ring_full + self.fault
    }
}

/// The words in the order of the structure, as map values are read.
impl From<[u64; 4]> for KernelCounts {
    fn from([begun, written, ring_full, fault]: [u64; 4]) -> Self {
        KernelCounts { begun, written, ring_full, fault }
    }
}

impl std::ops::AddAssign for KernelCounts {
    fn add_assign(&mut self, other: Self) {
        self.begun += other.begun;
        self.written += other.written;
        self.ring_full += other.ring_full;
        self.fault += other.fault;
    }
}
