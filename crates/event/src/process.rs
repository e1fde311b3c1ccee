//! What is known of a process. All names are bytes an attacker may have chosen; escape them at the edge
//! ([`crate::printable`]), never here.

use std::net::SocketAddr;

use crate::clock::BootNanos;
use crate::ids::{ContainerId, ProcessKey};

/// A process as one image of it: a new exec makes a new `Process` with the same key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Boot-wide identity.
    pub key: ProcessKey,
    /// The real parent at the time of the exec or fork; `None` only for the first process and for what could not be known.
    pub parent: Option<ProcessKey>,
    /// Where this knowledge comes from, and so how complete it is.
    pub origin: ProcessOrigin,
    /// When this image began: the exec, or the fork for a process that has not called exec.
    pub since: BootNanos,
    /// Path of the executable in its own mount namespace; empty for a kernel thread. A memfd shows as `/memfd:NAME`.
    pub exe: Vec<u8>,
    /// What was asked for: for a `#!` script the script's path, otherwise as `exe` or the name given to exec.
    pub filename: Vec<u8>,
    /// The executable's file.
    pub image: Image,
    /// Arguments as the kernel keeps them: each ended by NUL, cut at 32 KiB.
    pub argv: Vec<u8>,
    /// True length of the argument area in bytes; more than `argv.len()` when it was cut.
    pub argv_len: u32,
    /// The thread group leader's command name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Ids and capabilities.
    pub credentials: Credentials,
    /// Audit login uid; `None` when no one has logged in (daemons: 4294967295 in the kernel).
    pub login_uid: Option<u32>,
    /// Audit session id; `None` when unset.
    pub audit_session: Option<u32>,
    /// Session id (setsid) in the initial pid namespace.
    pub session: u32,
    /// Process group id in the initial pid namespace.
    pub group: u32,
    /// Controlling terminal.
    pub tty: Option<Tty>,
    /// Inode numbers of the namespaces.
    pub namespaces: Namespaces,
    /// The process' id inside its own pid namespace.
    pub ns_tgid: u32,
    /// Inode of the cgroup v2 directory (or of the v1 memory cgroup where v2 holds no controllers).
    pub cgroup: u64,
    /// The container by its cgroup; `None` on the host itself.
    pub container: Option<ContainerId>,
    /// stdin, stdout, stderr.
    pub stdio: [Stdio; 3],
}

impl Process {
    /// The arguments, without their NULs.
    pub fn args(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.argv.strip_suffix(b"\0").unwrap_or(&self.argv);
        let count = if self.argv.is_empty() { 0 } else { usize::MAX };
        whole.split(|byte| *byte == 0).take(count)
    }

    /// Whether `argv` holds less than the process was given.
    pub fn argv_truncated(&self) -> bool {
        self.argv_len as usize > self.argv.len()
    }

    /// The last component of `exe`.
    pub fn exe_name(&self) -> &[u8] {
        self.exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// Where a process' record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessOrigin {
    /// The kernel told of its exec: complete.
    #[default]
    Exec,
    /// It was forked and has not called exec: its parent's image, its own key.
    Fork,
    /// Read from /proc at start.
    Snapshot,
    /// Missed, and read from /proc at its next event.
    Healed,
    /// Missed, and gone before it could be read: only its key and what the event carried.
    Unknown,
}

impl ProcessOrigin {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            ProcessOrigin::Exec => "exec",
            ProcessOrigin::Fork => "fork",
            ProcessOrigin::Snapshot => "snapshot",
            ProcessOrigin::Healed => "healed",
            ProcessOrigin::Unknown => "unknown",
        }
    }
}

/// The file an image was loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Image {
    /// Device number as `stat` shows it (`makedev(major, minor)`).
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits as in `st_mode`; set-uid is 0o4000.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Hard links left; 0 means unlinked or never linked.
    pub links: u32,
    /// The image lives in memory only (memfd).
    pub memfd: bool,
}

impl Image {
    /// Unlinked from every directory, yet running.
    pub fn unlinked(&self) -> bool {
        self.links == 0
    }
}

/// Ids and capabilities of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Saved user id.
    pub suid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Effective capabilities as a bit set, `CAP_CHOWN` being bit 0.
    pub cap_effective: u64,
    /// Permitted capabilities.
    pub cap_permitted: u64,
}

/// Inode numbers of `/proc/PID/ns/*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Mount namespace.
    pub mnt: u32,
    /// Pid namespace of the process' children.
    pub pid: u32,
    /// Network namespace.
    pub net: u32,
    /// User namespace.
    pub user: u32,
}

/// A controlling terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tty {
    /// Name as the kernel has it: `pts0`, `tty1`.
    pub name: Vec<u8>,
    /// Major and minor number.
    pub device: (u32, u32),
}

/// What one of the three standard descriptors is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdio {
    /// Not open.
    Closed,
    /// A regular file.
    File,
    /// `/dev/null`.
    Null,
    /// A terminal.
    Tty,
    /// A pipe or FIFO, with its inode: two ends of one pipe carry the same number.
    Pipe(u64),
    /// A TCP or UDP socket with its remote address.
    Inet(SocketAddr),
    /// A socket of another family (AF_UNIX is 1), or an unconnected one, with its inode.
    Socket {
        /// Address family.
        family: u16,
        /// The socket's inode.
        inode: u64,
    },
    /// Anything else: directory, device, anonymous inode.
    Other,
    /// Not known: the source could not tell.
    #[default]
    Unknown,
}

impl Stdio {
    /// The word used in rules and output: `socket` for every kind of socket.
    pub fn as_str(self) -> &'static str {
        match self {
            Stdio::Closed => "closed",
            Stdio::File => "file",
            Stdio::Null => "null",
            Stdio::Tty => "tty",
            Stdio::Pipe(_) => "pipe",
            Stdio::Inet(_) => "inet",
            Stdio::Socket { .. } => "socket",
            Stdio::Other => "other",
            Stdio::Unknown => "unknown",
        }
    }

    /// The remote address, if this is a connected internet socket.
    pub fn remote(self) -> Option<SocketAddr> {
        match self {
            Stdio::Inet(remote) => Some(remote),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_split_at_nul_and_keep_empty_ones() {
        let process = |argv: &[u8]| Process { argv: argv.to_vec(), ..Process::default() };
        let args = |argv: &[u8]| process(argv).args().map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(args(b"sh\0-c\0\0x\0"), [&b"sh"[..], b"-c", b"", b"x"]);
        assert_eq!(args(b"cut"), [b"cut"]);
        assert!(args(b"").is_empty());
        assert_eq!(args(b"\0"), [b""]);
    }
}
