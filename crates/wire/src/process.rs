//! A process and its parts, to and from the wire.

use std::net::{IpAddr, SocketAddr};

use watchfire_event::{
    BootNanos, ContainerId, Credentials, Image, Namespaces, Process, ProcessKey, ProcessOrigin, ReportError,
    Stdio, Tty, UnknownKind,
};

use crate::v1;

/// Why a message does not describe what it should.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// The bytes are no protobuf message of this type.
    #[error("not a {what}")]
    Malformed {
        /// The message's name.
        what: &'static str,
        /// What protobuf said.
        source: prost::DecodeError,
    },
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An index points outside its table.
    #[error("{what} {index} is outside its table of {length}")]
    OutOfTable {
        /// What the index names.
        what: &'static str,
        /// The index.
        index: u32,
        /// The table's length.
        length: usize,
    },
    /// A number that stands for nothing.
    #[error("{what}: {value} stands for nothing")]
    BadValue {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A number that names no kind, stage or reason.
    #[error(transparent)]
    Unknown(#[from] UnknownKind),
    /// A report beyond its limits.
    #[error(transparent)]
    Report(#[from] ReportError),
}

pub(crate) fn encode_process(process: &Process) -> v1::Process {
    let parent = process.parent.unwrap_or_default();
    v1::Process {
        tgid: process.key.tgid,
        started: process.key.started.0,
        parent_tgid: parent.tgid,
        parent_started: parent.started.0,
        has_parent: process.parent.is_some(),
        origin: origin_number(process.origin),
        since: process.since.0,
        exe: process.exe.clone(),
        filename: process.filename.clone(),
        image: Some(encode_image(&process.image)),
        argv: process.argv.clone(),
        argv_len: process.argv_len,
        comm: process.comm.clone(),
        cwd: process.cwd.clone(),
        credentials: Some(encode_credentials(&process.credentials)),
        login_uid: process.login_uid,
        audit_session: process.audit_session,
        session: process.session,
        group: process.group,
        tty: process.tty.as_ref().map(encode_tty),
        ns_mnt: process.namespaces.mnt,
        ns_pid: process.namespaces.pid,
        ns_net: process.namespaces.net,
        ns_user: process.namespaces.user,
        ns_tgid: process.ns_tgid,
        cgroup: process.cgroup,
        container: process.container.as_ref().map(|container| container.0.clone()),
        stdio: process.stdio.iter().map(encode_stdio).collect(),
    }
}

/// Appends the fields of `v1::Process` to `buffer`, the same bytes that [`encode_process`] leads to, without a message object
/// between: no name is copied twice.
pub(crate) fn append_process(process: &Process, buffer: &mut Vec<u8>) {
    use prost::encoding::{bool, bytes, message, string, uint32, uint64};
    let parent = process.parent.unwrap_or_default();
    let number = |tag, value: u32, buffer: &mut Vec<u8>| {
        if value != 0 {
            uint32::encode(tag, &value, buffer);
        }
    };
    let long = |tag, value: u64, buffer: &mut Vec<u8>| {
        if value != 0 {
            uint64::encode(tag, &value, buffer);
        }
    };
    let name = |tag, value: &Vec<u8>, buffer: &mut Vec<u8>| {
        if !value.is_empty() {
            bytes::encode(tag, value, buffer);
        }
    };
    number(1, process.key.tgid, buffer);
    long(2, process.key.started.0, buffer);
    number(3, parent.tgid, buffer);
    long(4, parent.started.0, buffer);
    if process.parent.is_some() {
        bool::encode(5, &true, buffer);
    }
    number(6, origin_number(process.origin), buffer);
    long(7, process.since.0, buffer);
    name(8, &process.exe, buffer);
    name(9, &process.filename, buffer);
    message::encode(10, &encode_image(&process.image), buffer);
    name(11, &process.argv, buffer);
    number(12, process.argv_len, buffer);
    name(13, &process.comm, buffer);
    name(14, &process.cwd, buffer);
    message::encode(15, &encode_credentials(&process.credentials), buffer);
    process.login_uid.iter().for_each(|uid| uint32::encode(16, uid, buffer));
    process.audit_session.iter().for_each(|session| uint32::encode(17, session, buffer));
    number(18, process.session, buffer);
    number(19, process.group, buffer);
    process.tty.iter().for_each(|tty| message::encode(20, &encode_tty(tty), buffer));
    number(21, process.namespaces.mnt, buffer);
    number(22, process.namespaces.pid, buffer);
    number(23, process.namespaces.net, buffer);
    number(24, process.namespaces.user, buffer);
    number(25, process.ns_tgid, buffer);
    long(26, process.cgroup, buffer);
    process.container.iter().for_each(|container| string::encode(27, &container.0, buffer));
    process.stdio.iter().for_each(|stdio| message::encode(28, &encode_stdio(stdio), buffer));
}

pub(crate) fn decode_process(process: v1::Process) -> Result<Process, ConversionError> {
    let parent = ProcessKey { tgid: process.parent_tgid, started: BootNanos(process.parent_started) };
    let mut stdio = [Stdio::Unknown; 3];
    for (slot, sent) in stdio.iter_mut().zip(&process.stdio) {
        *slot = decode_stdio(sent)?;
    }
    Ok(Process {
        key: ProcessKey { tgid: process.tgid, started: BootNanos(process.started) },
        parent: process.has_parent.then_some(parent),
        origin: origin_from(process.origin)?,
        since: BootNanos(process.since),
        exe: process.exe,
        filename: process.filename,
        image: process.image.map(decode_image).unwrap_or_default(),
        argv: process.argv,
        argv_len: process.argv_len,
        comm: process.comm,
        cwd: process.cwd,
        credentials: process.credentials.map(decode_credentials).unwrap_or_default(),
        login_uid: process.login_uid,
        audit_session: process.audit_session,
        session: process.session,
        group: process.group,
        tty: process.tty.map(|tty| Tty { name: tty.name, device: (tty.major, tty.minor) }),
        namespaces: Namespaces {
            mnt: process.ns_mnt,
            pid: process.ns_pid,
            net: process.ns_net,
            user: process.ns_user,
        },
        ns_tgid: process.ns_tgid,
        cgroup: process.cgroup,
        container: process.container.map(ContainerId),
        stdio,
    })
}

pub(crate) fn encode_credentials(credentials: &Credentials) -> v1::Credentials {
    v1::Credentials {
        uid: credentials.uid,
        euid: credentials.euid,
        suid: credentials.suid,
        gid: credentials.gid,
        egid: credentials.egid,
        cap_effective: credentials.cap_effective,
        cap_permitted: credentials.cap_permitted,
    }
}

pub(crate) fn decode_credentials(credentials: v1::Credentials) -> Credentials {
    Credentials {
        uid: credentials.uid,
        euid: credentials.euid,
        suid: credentials.suid,
        gid: credentials.gid,
        egid: credentials.egid,
        cap_effective: credentials.cap_effective,
        cap_permitted: credentials.cap_permitted,
    }
}

fn encode_tty(tty: &Tty) -> v1::Tty {
    v1::Tty { name: tty.name.clone(), major: tty.device.0, minor: tty.device.1 }
}

fn encode_image(image: &Image) -> v1::Image {
    v1::Image {
        device: image.device,
        inode: image.inode,
        mode: image.mode,
        uid: image.uid,
        links: image.links,
        memfd: image.memfd,
    }
}

fn decode_image(image: v1::Image) -> Image {
    Image {
        device: image.device,
        inode: image.inode,
        mode: image.mode,
        uid: image.uid,
        links: image.links,
        memfd: image.memfd,
    }
}

fn origin_number(origin: ProcessOrigin) -> u32 {
    match origin {
        ProcessOrigin::Exec => 1,
        ProcessOrigin::Fork => 2,
        ProcessOrigin::Snapshot => 3,
        ProcessOrigin::Healed => 4,
        ProcessOrigin::Unknown => 5,
    }
}

fn origin_from(number: u32) -> Result<ProcessOrigin, ConversionError> {
    Ok(match number {
        1 => ProcessOrigin::Exec,
        2 => ProcessOrigin::Fork,
        3 => ProcessOrigin::Snapshot,
        4 => ProcessOrigin::Healed,
        5 => ProcessOrigin::Unknown,
        other => return Err(ConversionError::BadValue { what: "process origin", value: other.into() }),
    })
}

fn encode_stdio(stdio: &Stdio) -> v1::Stdio {
    let plain = |what| v1::Stdio { what, ..v1::Stdio::default() };
    match *stdio {
        Stdio::Unknown => plain(0),
        Stdio::Closed => plain(1),
        Stdio::File => plain(2),
        Stdio::Null => plain(3),
        Stdio::Tty => plain(4),
        Stdio::Pipe(inode) => v1::Stdio { inode, ..plain(5) },
        Stdio::Inet(remote) => v1::Stdio { remote: Some(encode_address(remote)), ..plain(6) },
        Stdio::Socket { family, inode } => v1::Stdio { family: family.into(), inode, ..plain(7) },
        Stdio::Other => plain(8),
    }
}

fn decode_stdio(stdio: &v1::Stdio) -> Result<Stdio, ConversionError> {
    Ok(match stdio.what {
        0 => Stdio::Unknown,
        1 => Stdio::Closed,
        2 => Stdio::File,
        3 => Stdio::Null,
        4 => Stdio::Tty,
        5 => Stdio::Pipe(stdio.inode),
        6 => Stdio::Inet(decode_address(stdio.remote.as_ref())?),
        7 => {
            let bad = |_| ConversionError::BadValue { what: "address family", value: stdio.family.into() };
            Stdio::Socket { family: u16::try_from(stdio.family).map_err(bad)?, inode: stdio.inode }
        }
        8 => Stdio::Other,
        other => return Err(ConversionError::BadValue { what: "stdio", value: other.into() }),
    })
}

pub(crate) fn encode_address(address: SocketAddr) -> v1::Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    v1::Address { ip, port: address.port().into() }
}

pub(crate) fn decode_address(address: Option<&v1::Address>) -> Result<SocketAddr, ConversionError> {
    let address = address.ok_or(ConversionError::Missing("address"))?;
    let port = u16::try_from(address.port)
        .map_err(|_| ConversionError::BadValue { what: "port", value: address.port.into() })?;
    let ip: IpAddr = if let Ok(octets) = <[u8; 4]>::try_from(address.ip.as_slice()) {
        octets.into()
    } else if let Ok(octets) = <[u8; 16]>::try_from(address.ip.as_slice()) {
        octets.into()
    } else {
        return Err(ConversionError::BadValue {
            what: "length of an IP address",
            value: address.ip.len() as u64,
        });
    };
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use watchfire_event::arbitrary::any_process;

    use super::*;

    proptest! {
        #[test]
        fn a_process_written_directly_is_the_message_byte_for_byte(process in any_process()) {
            let mut direct = Vec::new();
            append_process(&process, &mut direct);
            prop_assert_eq!(direct, encode_process(&process).encode_to_vec());
        }
    }
}
