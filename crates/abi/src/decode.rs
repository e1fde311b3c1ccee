//! From the bytes of a ring record to a sighting.

use std::mem::offset_of;

use watchfire_event::{
    Actor, Body, BootNanos, Flow, Kind, MountActivity, NamespaceActivity, Outcome, ProcessKey,
    PtraceActivity, Sighting, Transport, What,
};

use crate::exec::decode_exec;
use crate::layout::{
    ABI_VERSION, EventBpf, EventCredentialsChange, EventExit, EventFlow, EventFork, EventHeader, EventMemfd,
    EventModule, EventMount, EventNamespace, EventPtrace,
};
use crate::reader::{Reader, join_path, until_nul};

const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;

/// Why bytes are no record. The sensor counts it and goes on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the kind needs.
    #[error("record of {size} bytes, {needed} needed")]
    Short {
        /// Bytes there.
        size: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The record says another size than it has.
    #[error("record of {size} bytes says it has {told}")]
    Size {
        /// Bytes there.
        size: usize,
        /// What its header says.
        told: usize,
    },
    /// Written by objects of another version.
    #[error("record of ABI version {0}, this decoder knows {ABI_VERSION}")]
    Version(u8),
    /// The strings do not fill the record.
    #[error("a string of {told} bytes where {left} are left")]
    Strings {
        /// Size of the string; 0 when bytes were left over at the end.
        told: usize,
        /// Bytes left.
        left: usize,
    },
    /// A number outside of its list.
    #[error("{number} is no {what}")]
    Number {
        /// What it should be.
        what: &'static str,
        /// The number.
        number: u64,
    },
}

/// The kind of a record, from its first bytes alone: what the books need of a record that stays in its ring, or that
/// does not decode.
pub fn kind_of(record: &[u8]) -> Option<Kind> {
    let number = record.get(offset_of!(EventHeader, kind))?;
    Kind::try_from(*number).ok()
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] when the bytes are not what `event.h` describes.
pub fn decode(record: &[u8]) -> Result<Sighting, DecodeError> {
    let header = Reader::new(record, size_of::<EventHeader>())?;
    let version = header.u8(offset_of!(EventHeader, version))?;
    if version != ABI_VERSION {
        return Err(DecodeError::Version(version));
    }
    let told = usize::from(header.u16(offset_of!(EventHeader, size))?);
    if told != record.len() {
        return Err(DecodeError::Size { size: record.len(), told });
    }
    let number = header.u8(offset_of!(EventHeader, kind))?;
    let unknown = DecodeError::Number { what: "kind of record", number: u64::from(number) };
    let at = BootNanos(header.u64(offset_of!(EventHeader, boot_ns))?);
    let started = BootNanos(header.u64(offset_of!(EventHeader, started))?);
    let tgid = header.u32(offset_of!(EventHeader, tgid))?;
    let key = ProcessKey { tgid, started };
    let what = match Kind::try_from(number).map_err(|_| unknown)? {
        Kind::Exec => What::Exec(Box::new(decode_exec(record, at, key)?)),
        Kind::Fork => decode_fork(record)?,
        Kind::Exit => decode_exit(record)?,
        Kind::Connect => What::Done(Body::Connect(decode_flow(record)?)),
        Kind::Accept => What::Done(Body::Accept(decode_flow(record)?)),
        Kind::Listen => What::Done(Body::Listen(decode_flow(record)?)),
        Kind::UdpSend => What::Done(Body::UdpSend(decode_flow(record)?)),
        Kind::Credentials => What::Done(decode_credentials(record)?),
        Kind::Ptrace => What::Done(Body::Ptrace(decode_ptrace(record)?)),
        Kind::Memfd => What::Done(decode_memfd(record)?),
        Kind::ModuleLoad => What::Done(decode_module(record)?),
        Kind::BpfLoad => What::Done(decode_bpf(record)?),
        Kind::Mount => What::Done(Body::Mount(decode_mount(record)?)),
        Kind::Namespace => What::Done(Body::Namespace(decode_namespace(record)?)),
        _ => return Err(DecodeError::Number { what: "kind of record", number: u64::from(number) }),
    };
    let actor = Actor { tgid, started: (started != BootNanos(0)).then_some(started) };
    Ok(Sighting { at, actor, what })
}

fn decode_fork(record: &[u8]) -> Result<What, DecodeError> {
    let reader = Reader::new(record, size_of::<EventFork>())?;
    let tgid = reader.u32(offset_of!(EventFork, child_tgid))?;
    let started = BootNanos(reader.u64(offset_of!(EventFork, child_started))?);
    let child_ns_tgid = reader.u32(offset_of!(EventFork, child_ns_tgid))?;
    reader.end()?;
    Ok(What::Fork { child: ProcessKey { tgid, started }, child_ns_tgid })
}

fn decode_exit(record: &[u8]) -> Result<What, DecodeError> {
    let reader = Reader::new(record, size_of::<EventExit>())?;
    let [signal, code, ..] = reader.u32(offset_of!(EventExit, status))?.to_le_bytes();
    reader.end()?;
    // Bit 7 of the signal byte tells of a core dump.
    Ok(What::Exit { code, signal: signal & 0x7f })
}

fn decode_flow(record: &[u8]) -> Result<Flow, DecodeError> {
    let reader = Reader::new(record, size_of::<EventFlow>())?;
    let family = reader.u16(offset_of!(EventFlow, family))?;
    let local_port = reader.u16(offset_of!(EventFlow, local_port))?;
    let remote_port = reader.u16(offset_of!(EventFlow, remote_port))?;
    let transport = match reader.u8(offset_of!(EventFlow, transport))? {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        other => return Err(DecodeError::Number { what: "transport", number: u64::from(other) }),
    };
    let error = reader.i32(offset_of!(EventFlow, error))?;
    let outcome = match (reader.u8(offset_of!(EventFlow, established))?, error) {
        (0, ECONNREFUSED) => Outcome::Refused,
        (0, ETIMEDOUT) => Outcome::TimedOut,
        (0, other) => Outcome::Failed(other),
        _ => Outcome::Succeeded,
    };
    let local = reader.address(offset_of!(EventFlow, local), local_port, family)?;
    let remote = reader.address(offset_of!(EventFlow, remote), remote_port, family)?;
    reader.end()?;
    Ok(Flow { transport, local, remote, outcome })
}

fn decode_credentials(record: &[u8]) -> Result<Body, DecodeError> {
    let reader = Reader::new(record, size_of::<EventCredentialsChange>())?;
    let before = reader.credentials(offset_of!(EventCredentialsChange, before))?;
    let after = reader.credentials(offset_of!(EventCredentialsChange, after))?;
    reader.end()?;
    Ok(Body::Credentials { before, after })
}

fn decode_ptrace(record: &[u8]) -> Result<PtraceActivity, DecodeError> {
    let reader = Reader::new(record, size_of::<EventPtrace>())?;
    let request = match reader.u32(offset_of!(EventPtrace, request))? {
        1 => "attach",
        2 => "seize",
        3 => "poketext",
        4 => "pokedata",
        5 => "setregs",
        6 => "traceme",
        7 => "process_vm_writev",
        other => return Err(DecodeError::Number { what: "ptrace request", number: u64::from(other) }),
    };
    let target = reader.u32(offset_of!(EventPtrace, target))?;
    let result = reader.i32(offset_of!(EventPtrace, result))?;
    reader.end()?;
    Ok(PtraceActivity { request, target, target_process: None, result })
}

fn decode_memfd(record: &[u8]) -> Result<Body, DecodeError> {
    let mut reader = Reader::new(record, size_of::<EventMemfd>())?;
    let dentry = until_nul(reader.string(offset_of!(EventMemfd, name_size))?);
    reader.end()?;
    // The kernel names the dentry `memfd:NAME`.
    Ok(Body::Memfd { name: dentry.strip_prefix(b"memfd:").unwrap_or(dentry).to_vec() })
}

fn decode_module(record: &[u8]) -> Result<Body, DecodeError> {
    let mut reader = Reader::new(record, size_of::<EventModule>())?;
    let call = match reader.u8(offset_of!(EventModule, call))? {
        1 => "init_module",
        2 => "finit_module",
        other => return Err(DecodeError::Number { what: "module call", number: u64::from(other) }),
    };
    let result = reader.i32(offset_of!(EventModule, result))?;
    let file = reader.string(offset_of!(EventModule, file_size))?;
    let module = until_nul(reader.string(offset_of!(EventModule, name_size))?);
    reader.end()?;
    let name = if file.is_empty() { module.to_vec() } else { join_path(file, false) };
    Ok(Body::ModuleLoad { name, call, result })
}

fn decode_bpf(record: &[u8]) -> Result<Body, DecodeError> {
    let reader = Reader::new(record, size_of::<EventBpf>())?;
    let program_type = reader.u32(offset_of!(EventBpf, program_type))?;
    let result = reader.i32(offset_of!(EventBpf, result))?;
    let name = until_nul(&reader.array::<16>(offset_of!(EventBpf, name))?).to_vec();
    reader.end()?;
    Ok(Body::BpfLoad { program_type, name, result })
}

fn decode_mount(record: &[u8]) -> Result<MountActivity, DecodeError> {
    let mut reader = Reader::new(record, size_of::<EventMount>())?;
    let call = match reader.u8(offset_of!(EventMount, call))? {
        1 => "mount",
        2 => "move_mount",
        3 => "fsmount",
        4 => "umount",
        5 => "pivot_root",
        other => return Err(DecodeError::Number { what: "mount call", number: u64::from(other) }),
    };
    let flags = reader.u64(offset_of!(EventMount, flags))?;
    let result = reader.i32(offset_of!(EventMount, result))?;
    let source = until_nul(reader.string(offset_of!(EventMount, source_size))?).to_vec();
    let target = until_nul(reader.string(offset_of!(EventMount, target_size))?).to_vec();
    let fstype = until_nul(reader.string(offset_of!(EventMount, fstype_size))?).to_vec();
    reader.end()?;
    Ok(MountActivity { call, source, target, fstype, flags, result })
}

fn decode_namespace(record: &[u8]) -> Result<NamespaceActivity, DecodeError> {
    let reader = Reader::new(record, size_of::<EventNamespace>())?;
    let call = match reader.u8(offset_of!(EventNamespace, call))? {
        1 => "unshare",
        2 => "setns",
        3 => "clone",
        other => return Err(DecodeError::Number { what: "namespace call", number: u64::from(other) }),
    };
    let flags = reader.u64(offset_of!(EventNamespace, flags))?;
    let result = reader.i32(offset_of!(EventNamespace, result))?;
    reader.end()?;
    Ok(NamespaceActivity { call, flags, result })
}
