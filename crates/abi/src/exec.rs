//! Decoding of exec records: all that is known of a new image.

use std::mem::offset_of;

use watchfire_event::{BootNanos, Image, Namespaces, Process, ProcessKey, ProcessOrigin, Stdio, Tty};

use crate::decode::DecodeError;
use crate::layout::{EventExec, EventStdio, exec_flag};
use crate::reader::{Reader, join_path, until_nul};

/// Audit's "unset" for login uid and session.
const UNSET: u32 = u32::MAX;

pub(crate) fn decode_exec(record: &[u8], at: BootNanos, key: ProcessKey) -> Result<Process, DecodeError> {
    let mut reader = Reader::new(record, size_of::<EventExec>())?;
    let flags = reader.u32(offset_of!(EventExec, flags))?;
    let filename = until_nul(reader.string(offset_of!(EventExec, filename_size))?).to_vec();
    let exe = join_path(reader.string(offset_of!(EventExec, exe_size))?, flags & exec_flag::EXE_CUT != 0);
    let cwd = join_path(reader.string(offset_of!(EventExec, cwd_size))?, flags & exec_flag::CWD_CUT != 0);
    let tty_name = until_nul(reader.string(offset_of!(EventExec, tty_size))?).to_vec();
    let argv = reader.string(offset_of!(EventExec, argv_size))?.to_vec();
    let process = Process {
        key,
        parent: parent(&reader)?,
        origin: ProcessOrigin::Exec,
        since: at,
        exe,
        filename,
        image: image(&reader, flags)?,
        argv,
        argv_len: reader.u32(offset_of!(EventExec, argv_len))?,
        comm: until_nul(&reader.array::<16>(offset_of!(EventExec, comm))?).to_vec(),
        cwd,
        credentials: reader.credentials(offset_of!(EventExec, credentials))?,
        login_uid: set(reader.u32(offset_of!(EventExec, login_uid))?),
        audit_session: set(reader.u32(offset_of!(EventExec, audit_session))?),
        session: reader.u32(offset_of!(EventExec, session))?,
        group: reader.u32(offset_of!(EventExec, group))?,
        tty: if flags & exec_flag::HAS_TTY != 0 { Some(tty(&reader, tty_name)?) } else { None },
        namespaces: namespaces(&reader)?,
        ns_tgid: reader.u32(offset_of!(EventExec, ns_tgid))?,
        cgroup: reader.u64(offset_of!(EventExec, cgroup))?,
        container: None,
        stdio: [stdio(&reader, 0)?, stdio(&reader, 1)?, stdio(&reader, 2)?],
    };
    reader.end()?;
    Ok(process)
}

fn set(number: u32) -> Option<u32> {
    (number != UNSET).then_some(number)
}

fn parent(reader: &Reader<'_>) -> Result<Option<ProcessKey>, DecodeError> {
    let tgid = reader.u32(offset_of!(EventExec, parent_tgid))?;
    let started = BootNanos(reader.u64(offset_of!(EventExec, parent_started))?);
    Ok((tgid != 0).then_some(ProcessKey { tgid, started }))
}

fn image(reader: &Reader<'_>, flags: u32) -> Result<Image, DecodeError> {
    Ok(Image {
        device: user_device(reader.u32(offset_of!(EventExec, image_device))?),
        inode: reader.u64(offset_of!(EventExec, image_inode))?,
        mode: reader.u32(offset_of!(EventExec, image_mode))?,
        uid: reader.u32(offset_of!(EventExec, image_uid))?,
        links: reader.u32(offset_of!(EventExec, image_links))?,
        memfd: flags & exec_flag::MEMFD != 0,
    })
}

/// The kernel's `dev_t` (major << 20 | minor) as `stat` shows it.
fn user_device(device: u32) -> u64 {
    let (major, minor) = (u64::from(device >> 20), u64::from(device & 0xf_ffff));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn tty(reader: &Reader<'_>, name: Vec<u8>) -> Result<Tty, DecodeError> {
    let major = reader.u32(offset_of!(EventExec, tty_major))?;
    let minor = reader.u32(offset_of!(EventExec, tty_minor))?;
    Ok(Tty { name, device: (major, minor) })
}

fn namespaces(reader: &Reader<'_>) -> Result<Namespaces, DecodeError> {
    Ok(Namespaces {
        mnt: reader.u32(offset_of!(EventExec, ns_mnt))?,
        pid: reader.u32(offset_of!(EventExec, ns_pid))?,
        net: reader.u32(offset_of!(EventExec, ns_net))?,
        user: reader.u32(offset_of!(EventExec, ns_user))?,
    })
}

fn stdio(reader: &Reader<'_>, index: usize) -> Result<Stdio, DecodeError> {
    let base = offset_of!(EventExec, stdio) + index * size_of::<EventStdio>();
    let inode = reader.u64(base + offset_of!(EventStdio, inode))?;
    let family = reader.u16(base + offset_of!(EventStdio, family))?;
    let port = reader.u16(base + offset_of!(EventStdio, port))?;
    Ok(match reader.u8(base + offset_of!(EventStdio, what))? {
        0 => Stdio::Unknown,
        1 => Stdio::Closed,
        2 => Stdio::File,
        3 => Stdio::Null,
        4 => Stdio::Tty,
        5 => Stdio::Pipe(inode),
        6 => Stdio::Inet(reader.address(base + offset_of!(EventStdio, address), port, family)?),
        7 => Stdio::Socket { family, inode },
        8 => Stdio::Other,
        other => return Err(DecodeError::Number { what: "kind of descriptor", number: u64::from(other) }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_the_one_stat_shows() {
        // 8:1 and 259:5 as `stat -c %d` prints them; 8:300 shows the split minor.
        assert_eq!(user_device(8 << 20 | 1), 2049);
        assert_eq!(user_device(259 << 20 | 5), 66309);
        assert_eq!(user_device(8 << 20 | 300), 0x0010_082c);
    }
}
