//! A process in JSON.

use std::borrow::Cow;

use serde::Serialize;
use watchfire_event::{Credentials, Image, Process, Stdio, UnixNanos};

use super::line::{hex, text, text_hex};

/// A process as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessView<'a> {
    tgid: u32,
    /// 0 when the parent is not known.
    ppid: u32,
    exe: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<String>,
    filename: Cow<'a, str>,
    comm: Cow<'a, str>,
    argv: Vec<Cow<'a, str>>,
    /// Each argument in hexadecimal, when one of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    argv_hex: Option<Vec<String>>,
    argv_len: u32,
    argv_truncated: bool,
    cwd: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd_hex: Option<String>,
    uid: u32,
    euid: u32,
    gid: u32,
    egid: u32,
    caps: CapsView,
    login_uid: Option<u32>,
    audit_session: Option<u32>,
    session: u32,
    group: u32,
    tty: Option<Cow<'a, str>>,
    namespaces: NamespacesView,
    ns_tgid: u32,
    cgroup: u64,
    container: Option<&'a str>,
    image: ImageView,
    stdio: Vec<StdioView>,
    origin: &'static str,
    /// Start of the process on the wall clock.
    started: String,
    /// When this image began.
    since: String,
    /// Exact identity inside one boot: tgid and start in nanoseconds since boot.
    key: String,
}

#[derive(Debug, Serialize)]
struct CapsView {
    effective: String,
    permitted: String,
}

#[derive(Debug, Serialize)]
struct NamespacesView {
    mnt: u32,
    pid: u32,
    net: u32,
    user: u32,
}

#[derive(Debug, Serialize)]
struct ImageView {
    device: u64,
    inode: u64,
    mode: String,
    uid: u32,
    links: u32,
    unlinked: bool,
    memfd: bool,
    setuid: bool,
    setgid: bool,
}

#[derive(Debug, Serialize)]
struct StdioView {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<u16>,
}

impl<'a> ProcessView<'a> {
    /// The view of `process` on a host that booted at `booted`.
    pub(crate) fn new(process: &'a Process, booted: UnixNanos) -> Self {
        let readable = process.args().all(|arg| std::str::from_utf8(arg).is_ok());
        ProcessView {
            tgid: process.key.tgid,
            ppid: process.parent.map_or(0, |parent| parent.tgid),
            exe: text(&process.exe),
            exe_hex: text_hex(&process.exe),
            filename: text(&process.filename),
            comm: text(&process.comm),
            argv: process.args().map(text).collect(),
            argv_hex: (!readable).then(|| process.args().map(hex).collect()),
            argv_len: process.argv_len,
            argv_truncated: process.argv_truncated(),
            cwd: text(&process.cwd),
            cwd_hex: text_hex(&process.cwd),
            uid: process.credentials.uid,
            euid: process.credentials.euid,
            gid: process.credentials.gid,
            egid: process.credentials.egid,
            caps: CapsView::new(&process.credentials),
            login_uid: process.login_uid,
            audit_session: process.audit_session,
            session: process.session,
            group: process.group,
            tty: process.tty.as_ref().map(|tty| text(&tty.name)),
            namespaces: NamespacesView {
                mnt: process.namespaces.mnt,
                pid: process.namespaces.pid,
                net: process.namespaces.net,
                user: process.namespaces.user,
            },
            ns_tgid: process.ns_tgid,
            cgroup: process.cgroup,
            container: process.container.as_ref().map(|container| container.0.as_str()),
            image: ImageView::new(&process.image),
            stdio: process.stdio.iter().map(|stdio| StdioView::new(*stdio)).collect(),
            origin: process.origin.as_str(),
            started: process.key.started.on_wall(booted).to_string(),
            since: process.since.on_wall(booted).to_string(),
            key: format!("{}@{}", process.key.tgid, process.key.started.0),
        }
    }
}

impl CapsView {
    fn new(credentials: &Credentials) -> Self {
        CapsView {
            effective: format!("{:016x}", credentials.cap_effective),
            permitted: format!("{:016x}", credentials.cap_permitted),
        }
    }
}

impl ImageView {
    fn new(image: &Image) -> Self {
        ImageView {
            device: image.device,
            inode: image.inode,
            mode: octal_mode(image.mode),
            uid: image.uid,
            links: image.links,
            unlinked: image.unlinked(),
            memfd: image.memfd,
            setuid: image.mode & 0o4000 != 0,
            setgid: image.mode & 0o2000 != 0,
        }
    }
}

impl StdioView {
    fn new(stdio: Stdio) -> Self {
        let (inode, family) = match stdio {
            Stdio::Pipe(inode) => (Some(inode), None),
            Stdio::Socket { family, inode } => (Some(inode), Some(family)),
            _ => (None, None),
        };
        StdioView {
            what: stdio.as_str(),
            remote: stdio.remote().map(|remote| remote.to_string()),
            inode,
            family,
        }
    }
}

/// Permission bits, set-id bits included, as `chmod` takes them: `4755`.
pub(super) fn octal_mode(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_event::{BootNanos, ProcessKey};

    #[test]
    fn an_argument_that_is_no_utf8_comes_escaped_and_in_hex() {
        let process = Process { argv: b"sh\0\xff\x1b\0".to_vec(), argv_len: 5, ..Process::default() };
        let view = serde_json::to_value(ProcessView::new(&process, UnixNanos(0))).unwrap();
        assert_eq!(view["argv"], serde_json::json!(["sh", "\\xff\\x1b"]));
        assert_eq!(view["argv_hex"], serde_json::json!(["7368", "ff1b"]));
    }

    #[test]
    fn a_plain_process_has_no_hex_and_its_start_is_on_the_wall() {
        let key = ProcessKey { tgid: 7, started: BootNanos(2_500_000_000) };
        let image = Image { mode: 0o104_755, links: 1, ..Image::default() };
        let process = Process { key, argv: b"ls\0".to_vec(), argv_len: 40_000, image, ..Process::default() };
        let view = serde_json::to_value(ProcessView::new(&process, UnixNanos(1_000_000_000))).unwrap();
        assert_eq!(view["started"], "1970-01-01T00:00:03.500Z");
        assert_eq!(view["key"], "7@2500000000");
        assert_eq!(view["argv_truncated"], true);
        assert_eq!(view["image"]["mode"], "4755");
        assert_eq!(view["image"]["setuid"], true);
        assert!(view.get("argv_hex").is_none() && view.get("exe_hex").is_none());
    }
}
