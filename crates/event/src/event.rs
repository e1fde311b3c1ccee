//! Events: facts from a host. `Kind` names what happened, `Body` carries what that kind knows, and the process it
//! happened in hangs beside it, shared by all its events.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::BootNanos;
use crate::ids::ProcessKey;
use crate::process::{Credentials, Process};
use crate::report::Report;

/// One fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When the kernel saw it.
    pub at: BootNanos,
    /// When this agent had decoded and enriched it.
    pub decoded: BootNanos,
    /// Who did it. For a fork this is the parent, for an exec the new image.
    pub process: Arc<Process>,
    /// The parent as the process table knew it at that moment.
    pub parent: Option<Arc<Process>>,
    /// What happened.
    pub body: Body,
}

impl Event {
    /// The kind of fact.
    pub fn kind(&self) -> Kind {
        self.body.kind()
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal),* $(,)?) => {
        /// What sort of fact an event is. The numbers are stored and sent: never renumber.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The word used in output, rules and partitions.
            pub fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $word),* }
            }
        }
    };
}

kinds! {
    /// A new image began to run.
    Exec = 1 "exec",
    /// A process was made (fork, vfork, clone; threads are left out).
    Fork = 2 "fork",
    /// A process ended.
    Exit = 3 "exit",
    /// A TCP connection was tried, with its outcome.
    Connect = 4 "connect",
    /// A TCP connection was accepted.
    Accept = 5 "accept",
    /// A TCP socket began to listen.
    Listen = 6 "listen",
    /// The first datagram of a UDP flow was sent.
    UdpSend = 7 "udp_send",
    /// A file came to be.
    FileCreate = 8 "file_create",
    /// A file that was open for writing was closed.
    FileWrite = 9 "file_write",
    /// A file got another name.
    FileRename = 10 "file_rename",
    /// A name of a file was removed.
    FileUnlink = 11 "file_unlink",
    /// Mode, owner, times or another attribute of a file changed.
    FileAttrib = 12 "file_attrib",
    /// A file got one more name.
    FileLink = 13 "file_link",
    /// One of the listed secrets was opened.
    FileOpen = 14 "file_open",
    /// A process gained uid 0 or capabilities without exec.
    Credentials = 15 "credentials",
    /// A process attached to another to trace it or to write its memory.
    Ptrace = 16 "ptrace",
    /// A file that lives in memory was made.
    Memfd = 17 "memfd",
    /// A kernel module was loaded, or tried to be.
    ModuleLoad = 18 "module_load",
    /// An eBPF program was loaded, or tried to be.
    BpfLoad = 19 "bpf_load",
    /// A file system was mounted or moved.
    Mount = 20 "mount",
    /// A process entered or made a namespace.
    Namespace = 21 "namespace",
    /// Someone logged in, or failed to.
    Login = 22 "login",
    /// A source lost events: how many and why.
    Loss = 23 "loss",
    /// An app told something in fields of its own.
    Report = 24 "report",
}

/// A number or word that names no kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no event kind")]
pub struct UnknownKind(pub String);

impl TryFrom<u8> for Kind {
    type Error = UnknownKind;

    fn try_from(number: u8) -> Result<Self, UnknownKind> {
        let index = usize::from(number).checked_sub(1).ok_or_else(|| UnknownKind(number.to_string()))?;
        Kind::ALL.get(index).copied().ok_or_else(|| UnknownKind(number.to_string()))
    }
}

impl std::str::FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let found = Kind::ALL.iter().copied().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// What each kind knows beyond its process.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Everything is in the process.
    Exec,
    /// The child that came to be.
    Fork {
        /// Key of the child.
        child: ProcessKey,
    },
    /// How it ended.
    Exit {
        /// The argument of exit(2), 0 when a signal ended it.
        code: u8,
        /// The signal that ended it, or 0.
        signal: u8,
    },
    /// See [`Kind::Connect`].
    Connect(Flow),
    /// See [`Kind::Accept`].
    Accept(Flow),
    /// See [`Kind::Listen`]; `remote` is the unspecified address.
    Listen(Flow),
    /// See [`Kind::UdpSend`].
    UdpSend(Flow),
    /// The seven file kinds.
    File(FileActivity),
    /// See [`Kind::Credentials`].
    Credentials {
        /// Before the call.
        before: Credentials,
        /// After it.
        after: Credentials,
    },
    /// See [`Kind::Ptrace`].
    Ptrace(PtraceActivity),
    /// See [`Kind::Memfd`].
    Memfd {
        /// The name given to it.
        name: Vec<u8>,
    },
    /// See [`Kind::ModuleLoad`].
    ModuleLoad {
        /// The module's name or file, as far as the call tells.
        name: Vec<u8>,
        /// `init_module` or `finit_module`.
        call: &'static str,
        /// The call's return value: 0 or a negative errno.
        result: i32,
    },
    /// See [`Kind::BpfLoad`].
    BpfLoad {
        /// `enum bpf_prog_type` of the kernel.
        program_type: u32,
        /// The program's name.
        name: Vec<u8>,
        /// A file descriptor, or a negative errno.
        result: i32,
    },
    /// See [`Kind::Mount`].
    Mount(MountActivity),
    /// See [`Kind::Namespace`].
    Namespace(NamespaceActivity),
    /// See [`Kind::Login`].
    Login(LoginAttempt),
    /// See [`Kind::Loss`].
    Loss {
        /// The source that lost them, in words: `ring process`, `fanotify`, `audit`.
        source: String,
        /// How many since the last such event.
        count: u64,
    },
    /// See [`Kind::Report`]; the event's process is the one that tells it.
    Report(Report),
}

impl Body {
    /// The kind this body belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Body::Exec => Kind::Exec,
            Body::Fork { .. } => Kind::Fork,
            Body::Exit { .. } => Kind::Exit,
            Body::Connect(_) => Kind::Connect,
            Body::Accept(_) => Kind::Accept,
            Body::Listen(_) => Kind::Listen,
            Body::UdpSend(_) => Kind::UdpSend,
            Body::File(file) => file.action.kind(),
            Body::Credentials { .. } => Kind::Credentials,
            Body::Ptrace(_) => Kind::Ptrace,
            Body::Memfd { .. } => Kind::Memfd,
            Body::ModuleLoad { .. } => Kind::ModuleLoad,
            Body::BpfLoad { .. } => Kind::BpfLoad,
            Body::Mount(_) => Kind::Mount,
            Body::Namespace(_) => Kind::Namespace,
            Body::Login(_) => Kind::Login,
            Body::Loss { .. } => Kind::Loss,
            Body::Report(_) => Kind::Report,
        }
    }
}

/// A network flow as its process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// TCP or UDP.
    pub transport: Transport,
    /// This host's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// How a connect ended; `Succeeded` for the other kinds.
    pub outcome: Outcome,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// How a connection attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Established.
    Succeeded,
    /// The peer answered with a reset (ECONNREFUSED).
    Refused,
    /// Nothing answered in time (ETIMEDOUT).
    TimedOut,
    /// Another errno; 0 when the socket was closed before an answer came.
    Failed(i32),
}

impl Outcome {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Refused => "refused",
            Outcome::TimedOut => "timed_out",
            Outcome::Failed(_) => "failed",
        }
    }
}

/// Something done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileActivity {
    /// What was done.
    pub action: FileAction,
    /// Where; for a rename and a link the old name, empty when only the new one is known.
    pub path: Vec<u8>,
    /// The new name of a rename or link.
    pub new_path: Option<Vec<u8>>,
    /// `st_mode` after the action, when it could still be read.
    pub mode: Option<u32>,
    /// Owner after the action, when it could still be read.
    pub uid: Option<u32>,
}

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAction {
    /// Created.
    Create,
    /// Closed after being open for writing.
    Write,
    /// Renamed.
    Rename,
    /// Unlinked.
    Unlink,
    /// Mode, owner, times changed.
    Attrib,
    /// Hard-linked.
    Link,
    /// Opened (secrets only).
    Open,
}

impl FileAction {
    /// The kind of event this makes.
    pub fn kind(self) -> Kind {
        match self {
            FileAction::Create => Kind::FileCreate,
            FileAction::Write => Kind::FileWrite,
            FileAction::Rename => Kind::FileRename,
            FileAction::Unlink => Kind::FileUnlink,
            FileAction::Attrib => Kind::FileAttrib,
            FileAction::Link => Kind::FileLink,
            FileAction::Open => Kind::FileOpen,
        }
    }

    /// The action behind one of the file kinds.
    pub fn of_kind(kind: Kind) -> Option<FileAction> {
        Some(match kind {
            Kind::FileCreate => FileAction::Create,
            Kind::FileWrite => FileAction::Write,
            Kind::FileRename => FileAction::Rename,
            Kind::FileUnlink => FileAction::Unlink,
            Kind::FileAttrib => FileAction::Attrib,
            Kind::FileLink => FileAction::Link,
            Kind::FileOpen => FileAction::Open,
            _ => return None,
        })
    }
}

/// One process reaching into another.
#[derive(Debug, Clone, PartialEq)]
pub struct PtraceActivity {
    /// The call: `attach`, `seize`, `poketext`, `pokedata`, `setregs`, `traceme`, `process_vm_writev`.
    pub request: &'static str,
    /// The target's tgid; 0 for `traceme`.
    pub target: u32,
    /// The target as the process table knew it.
    pub target_process: Option<Arc<Process>>,
    /// The call's return value: 0 (or bytes) or a negative errno.
    pub result: i32,
}

/// A mount call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountActivity {
    /// The call: `mount`, `move_mount`, `fsmount`, `umount`, `pivot_root`.
    pub call: &'static str,
    /// Device or source path.
    pub source: Vec<u8>,
    /// Mount point.
    pub target: Vec<u8>,
    /// File system type.
    pub fstype: Vec<u8>,
    /// `MS_*` flags.
    pub flags: u64,
    /// 0 or a negative errno.
    pub result: i32,
}

/// A namespace call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceActivity {
    /// The call: `unshare`, `setns`, `clone`.
    pub call: &'static str,
    /// `CLONE_NEW*` flags.
    pub flags: u64,
    /// 0 or a negative errno.
    pub result: i32,
}

/// A login or a failed one, as the host's login service wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginAttempt {
    /// `sshd`, `su`, `sudo`, `login`.
    pub service: Vec<u8>,
    /// Name that was tried.
    pub user: Vec<u8>,
    /// Where from, if over the network.
    pub remote: Option<SocketAddr>,
    /// `password`, `publickey`, …; empty when the log does not say.
    pub method: Vec<u8>,
    /// Whether it was let in.
    pub accepted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_from_its_number_and_its_word() {
        for kind in Kind::ALL {
            assert_eq!(Kind::try_from(*kind as u8), Ok(*kind));
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        assert!(Kind::try_from(0).is_err() && Kind::try_from(99).is_err() && "Exec".parse::<Kind>().is_err());
    }
}
