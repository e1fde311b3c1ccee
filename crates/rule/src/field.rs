//! The one table of field names: what rules may ask for, in which kinds of event it exists, and where it stands in ours.
//!
//! Three vocabularies share it. *Ours* (`process.exe`, `file.path`, …) says all our events know. *Sigma's* (`Image`,
//! `TargetFilename`, …) follows Sysmon for Linux, as public rules do. *audit's* (`type`, `a0`, `SYSCALL`, …) speaks as far
//! as our events have an equal: one event stands for all the records the audit system would have written for it, so
//! `type` has several values at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::LazyLock;

use rsigma_eval::EventValue;
use watchfire_event::{
    Body, Credentials, FileActivity, Flow, Kind, LoginAttempt, MountActivity, NamespaceActivity, Outcome,
    Process, ProcessKey, PtraceActivity, Report, Stdio,
};

use crate::adapter::RuleEvent;
use crate::kinds::KindSet;

/// One field that rules may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldDoc {
    /// Its name.
    pub name: &'static str,
    /// The kinds of event that have it.
    pub kinds: KindSet,
}

/// Every field that rules may ask for.
pub fn fields() -> impl Iterator<Item = FieldDoc> {
    FIELDS.iter().map(|field| FieldDoc { name: field.name, kinds: field.kinds })
}

type Getter = for<'e> fn(&'e RuleEvent<'e>) -> Option<EventValue<'e>>;

struct Field {
    name: &'static str,
    kinds: KindSet,
    get: Getter,
}

const ANY: KindSet = KindSet::ALL;
const EXEC: KindSet = KindSet::of(&[Kind::Exec]);
const FILE: KindSet = KindSet::FILE;
const MOVED: KindSet = KindSet::of(&[Kind::FileRename, Kind::FileLink]);
const NET: KindSet = KindSet::NETWORK;
const PATHS: KindSet = KindSet::of(&[
    Kind::Exec,
    Kind::FileCreate,
    Kind::FileWrite,
    Kind::FileRename,
    Kind::FileUnlink,
    Kind::FileAttrib,
    Kind::FileLink,
    Kind::FileOpen,
]);
/// What audit rules can be about: all but the bookkeeping of processes and of losses, and what apps tell of themselves.
pub(crate) const AUDIT: KindSet =
    ANY.without(&[Kind::Fork, Kind::Exit, Kind::Loss, Kind::Report, Kind::Credentials]);
const RESULT: KindSet =
    KindSet::of(&[Kind::Ptrace, Kind::Mount, Kind::Namespace, Kind::ModuleLoad, Kind::BpfLoad, Kind::Login]);
const CREDENTIALS: KindSet = KindSet::of(&[Kind::Credentials]);
const PTRACE: KindSet = KindSet::of(&[Kind::Ptrace]);
const MEMFD: KindSet = KindSet::of(&[Kind::Memfd]);
const MODULE: KindSet = KindSet::of(&[Kind::ModuleLoad]);
const BPF: KindSet = KindSet::of(&[Kind::BpfLoad]);
const MOUNT: KindSet = KindSet::of(&[Kind::Mount]);
const NAMESPACE: KindSet = KindSet::of(&[Kind::Namespace]);
const LOGIN: KindSet = KindSet::of(&[Kind::Login]);
const FORK: KindSet = KindSet::of(&[Kind::Fork]);
const EXIT: KindSet = KindSet::of(&[Kind::Exit]);
const LOSS: KindSet = KindSet::of(&[Kind::Loss]);
const REPORT: KindSet = KindSet::of(&[Kind::Report]);
/// What stands before the name of a field that an app made up.
const REPORT_FIELD: &str = "report.fields.";

const CAP_SETUID: u32 = 7;
const CAP_SYS_ADMIN: u32 = 21;

macro_rules! table {
    ($($kinds:ident { $($name:literal => $get:expr),* $(,)? })*) => {
        static FIELDS: &[Field] = &[$($(Field { name: $name, kinds: $kinds, get: $get }),*),*];
    };
}

table! {
    ANY {
        // Ours.
        "event.kind" => |e| word(e.event.kind().as_str()),
        "process.exe" => |e| bytes(&e.event.process.exe),
        "process.name" => |e| bytes(e.event.process.exe_name()),
        "process.argv" => |e| word(e.command_line()),
        "process.args" => |e| Some(args(&e.event.process)),
        "process.argc" => |e| number(e.event.process.args().count()),
        "process.filename" => |e| bytes(&e.event.process.filename),
        "process.comm" => |e| bytes(&e.event.process.comm),
        "process.cwd" => |e| bytes(&e.event.process.cwd),
        "process.key" => |e| Some(key(e.event.process.key)),
        "process.tgid" => |e| number(e.event.process.key.tgid),
        "process.session" => |e| number(e.event.process.session),
        "process.group" => |e| number(e.event.process.group),
        "process.origin" => |e| word(e.event.process.origin.as_str()),
        "process.uid" => |e| number(e.event.process.credentials.uid),
        "process.euid" => |e| number(e.event.process.credentials.euid),
        "process.suid" => |e| number(e.event.process.credentials.suid),
        "process.gid" => |e| number(e.event.process.credentials.gid),
        "process.egid" => |e| number(e.event.process.credentials.egid),
        "process.login_uid" => |e| number(e.event.process.login_uid?),
        "process.cap_sys_admin" => |e| Some(capability(&e.event.process.credentials, CAP_SYS_ADMIN)),
        "process.cap_setuid" => |e| Some(capability(&e.event.process.credentials, CAP_SETUID)),
        "process.container" => |e| word(&e.event.process.container.as_ref()?.0),
        "process.in_container" => |e| flag(e.event.process.container.is_some()),
        "process.tty" => |e| bytes(&e.event.process.tty.as_ref()?.name),
        "process.stdin" => |e| word(e.event.process.stdio[0].as_str()),
        "process.stdout" => |e| word(e.event.process.stdio[1].as_str()),
        "process.stderr" => |e| word(e.event.process.stdio[2].as_str()),
        "process.stdin.remote_ip" => |e| peer_ip(e.event.process.stdio[0]),
        "process.stdin.remote_port" => |e| peer_port(e.event.process.stdio[0]),
        "process.stdout.remote_ip" => |e| peer_ip(e.event.process.stdio[1]),
        "process.stdout.remote_port" => |e| peer_port(e.event.process.stdio[1]),
        "process.image.memfd" => |e| flag(e.event.process.image.memfd),
        "process.image.unlinked" => |e| flag(e.event.process.image.unlinked()),
        "process.image.setuid" => |e| flag(e.event.process.image.mode & 0o4000 != 0),
        "process.image.setgid" => |e| flag(e.event.process.image.mode & 0o2000 != 0),
        "process.image.world_writable" => |e| flag(e.event.process.image.mode & 0o002 != 0),
        "process.image.uid" => |e| number(e.event.process.image.uid),
        "process.image.inode" => |e| number(e.event.process.image.inode),
        "parent.exe" => |e| bytes(&e.event.parent.as_ref()?.exe),
        "parent.name" => |e| bytes(e.event.parent.as_ref()?.exe_name()),
        "parent.argv" => |e| word(e.parent_command_line()?),
        "parent.comm" => |e| bytes(&e.event.parent.as_ref()?.comm),
        "parent.cwd" => |e| bytes(&e.event.parent.as_ref()?.cwd),
        "parent.key" => |e| Some(key(e.event.process.parent?)),
        "parent.tgid" => |e| number(e.event.process.parent?.tgid),
        "parent.uid" => |e| number(e.event.parent.as_ref()?.credentials.uid),
        "parent.euid" => |e| number(e.event.parent.as_ref()?.credentials.euid),
        "parent.container" => |e| word(&e.event.parent.as_ref()?.container.as_ref()?.0),
        // Sigma's.
        "Image" => |e| bytes(&e.event.process.exe),
        "CommandLine" => |e| word(e.command_line()),
        "CurrentDirectory" => |e| bytes(&e.event.process.cwd),
        "User" => |e| Some(user(e.event.process.credentials.uid)),
        "LogonId" => |e| number(e.event.process.login_uid?),
        "ProcessId" => |e| number(e.event.process.key.tgid),
        "ParentProcessId" => |e| number(e.event.process.parent?.tgid),
        "ParentImage" => |e| bytes(&e.event.parent.as_ref()?.exe),
        "ParentCommandLine" => |e| word(e.parent_command_line()?),
        "ParentUser" => |e| Some(user(e.event.parent.as_ref()?.credentials.uid)),
        "TerminalSessionId" => |e| number(e.event.process.audit_session?),
        // audit's.
        "exe" => |e| bytes(&e.event.process.exe),
        "comm" => |e| bytes(&e.event.process.comm),
        "cwd" => |e| bytes(&e.event.process.cwd),
        "proctitle" => |e| word(e.command_line()),
        "pid" => |e| number(e.event.process.key.tgid),
        "ppid" => |e| number(e.event.process.parent?.tgid),
        "uid" => |e| number(e.event.process.credentials.uid),
        "euid" => |e| number(e.event.process.credentials.euid),
        "suid" => |e| number(e.event.process.credentials.suid),
        "gid" => |e| number(e.event.process.credentials.gid),
        "egid" => |e| number(e.event.process.credentials.egid),
        "auid" => |e| number(e.event.process.login_uid.unwrap_or(u32::MAX)),
        "ses" => |e| number(e.event.process.audit_session.unwrap_or(u32::MAX)),
        "tty" => |e| e.event.process.tty.as_ref().map_or(word("(none)"), |tty| bytes(&tty.name)),
    }
    AUDIT {
        "type" => |e| Some(words(record_types(e.event.kind()))),
        "SYSCALL" => |e| syscall(&e.event.body),
        "syscall" => |e| syscall(&e.event.body),
    }
    EXEC {
        "a0" => |e| arg(&e.event.process, 0),
        "a1" => |e| arg(&e.event.process, 1),
        "a2" => |e| arg(&e.event.process, 2),
        "a3" => |e| arg(&e.event.process, 3),
        "a4" => |e| arg(&e.event.process, 4),
        "a5" => |e| arg(&e.event.process, 5),
        "a6" => |e| arg(&e.event.process, 6),
        "a7" => |e| arg(&e.event.process, 7),
        "a8" => |e| arg(&e.event.process, 8),
        "a9" => |e| arg(&e.event.process, 9),
        "argc" => |e| number(e.event.process.args().count()),
    }
    PATHS {
        "name" => |e| Some(audit_names(e)),
        "nametype" => |e| word(name_type(e.event.kind())),
    }
    RESULT {
        "success" => |e| word(if succeeded(&e.event.body)? { "yes" } else { "no" }),
    }
    FILE {
        "file.path" => |e| bytes(&file(e)?.path),
        "file.target" => |e| bytes(target(file(e)?)),
        "file.paths" => |e| Some(both_paths(file(e)?)),
        "file.name" => |e| bytes(base_name(target(file(e)?))),
        "file.mode" => |e| word_owned(format!("{:o}", file(e)?.mode?)),
        "file.setuid" => |e| flag(file(e)?.mode? & 0o4000 != 0),
        "file.executable" => |e| flag(file(e)?.mode? & 0o111 != 0),
        "file.uid" => |e| number(file(e)?.uid?),
        "TargetFilename" => |e| bytes(target(file(e)?)),
    }
    MOVED {
        "file.new_path" => |e| bytes(file(e)?.new_path.as_deref()?),
        "SourceFilename" => |e| bytes(&file(e)?.path),
    }
    NET {
        "net.transport" => |e| word(flow(e)?.transport.as_str()),
        "net.remote_ip" => |e| Some(ip(flow(e)?.remote)),
        "net.remote_port" => |e| number(flow(e)?.remote.port()),
        "net.local_ip" => |e| Some(ip(flow(e)?.local)),
        "net.local_port" => |e| number(flow(e)?.local.port()),
        "net.outcome" => |e| word(flow(e)?.outcome.as_str()),
        "net.succeeded" => |e| flag(flow(e)?.outcome == Outcome::Succeeded),
        // Sysmon's source is the side that began the connection.
        "SourceIp" => |e| Some(ip(ends(e)?.0)),
        "SourcePort" => |e| number(ends(e)?.0.port()),
        "DestinationIp" => |e| Some(ip(ends(e)?.1)),
        "DestinationPort" => |e| number(ends(e)?.1.port()),
        "DestinationIsIpv6" => |e| flag(ends(e)?.1.is_ipv6()),
        "SourceIsIpv6" => |e| flag(ends(e)?.0.is_ipv6()),
        "Protocol" => |e| word(flow(e)?.transport.as_str()),
        "Initiated" => |e| flag(matches!(e.event.kind(), Kind::Connect | Kind::UdpSend)),
    }
    CREDENTIALS {
        "credentials.before.uid" => |e| number(gained(e)?.0.uid),
        "credentials.before.euid" => |e| number(gained(e)?.0.euid),
        "credentials.before.suid" => |e| number(gained(e)?.0.suid),
        "credentials.before.cap_setuid" => |e| Some(capability(gained(e)?.0, CAP_SETUID)),
        "credentials.before.cap_sys_admin" => |e| Some(capability(gained(e)?.0, CAP_SYS_ADMIN)),
        "credentials.after.uid" => |e| number(gained(e)?.1.uid),
        "credentials.after.euid" => |e| number(gained(e)?.1.euid),
        "credentials.after.cap_setuid" => |e| Some(capability(gained(e)?.1, CAP_SETUID)),
        "credentials.after.cap_sys_admin" => |e| Some(capability(gained(e)?.1, CAP_SYS_ADMIN)),
    }
    PTRACE {
        "ptrace.request" => |e| word(ptrace(e)?.request),
        "ptrace.target" => |e| number(ptrace(e)?.target),
        "ptrace.target_exe" => |e| bytes(&ptrace(e)?.target_process.as_ref()?.exe),
        "ptrace.target_name" => |e| bytes(ptrace(e)?.target_process.as_ref()?.exe_name()),
        "ptrace.target_uid" => |e| number(ptrace(e)?.target_process.as_ref()?.credentials.uid),
        "ptrace.target_is_child" => |e| flag(ptrace(e)?.target_process.as_ref()?.parent == Some(e.event.process.key)),
        "ptrace.result" => |e| number(ptrace(e)?.result),
        "ptrace.succeeded" => |e| flag(succeeded(&e.event.body)?),
    }
    MEMFD {
        "memfd.name" => |e| match &e.event.body { Body::Memfd { name } => bytes(name), _ => None },
    }
    MODULE {
        "module.name" => |e| match &e.event.body { Body::ModuleLoad { name, .. } => bytes(name), _ => None },
        "module.call" => |e| match &e.event.body { Body::ModuleLoad { call, .. } => word(call), _ => None },
        "module.result" => |e| match &e.event.body { Body::ModuleLoad { result, .. } => number(*result), _ => None },
        "module.succeeded" => |e| flag(succeeded(&e.event.body)?),
        "ImageLoaded" => |e| match &e.event.body { Body::ModuleLoad { name, .. } => bytes(name), _ => None },
    }
    BPF {
        "bpf.name" => |e| match &e.event.body { Body::BpfLoad { name, .. } => bytes(name), _ => None },
        "bpf.type" => |e| match &e.event.body { Body::BpfLoad { program_type, .. } => number(*program_type), _ => None },
        "bpf.result" => |e| match &e.event.body { Body::BpfLoad { result, .. } => number(*result), _ => None },
        "bpf.succeeded" => |e| flag(succeeded(&e.event.body)?),
    }
    MOUNT {
        "mount.call" => |e| word(mount(e)?.call),
        "mount.source" => |e| bytes(&mount(e)?.source),
        "mount.target" => |e| bytes(&mount(e)?.target),
        "mount.fstype" => |e| bytes(&mount(e)?.fstype),
        "mount.flags" => |e| number(mount(e)?.flags),
        "mount.bind" => |e| flag(mount(e)?.flags & 0x1000 != 0),
        "mount.result" => |e| number(mount(e)?.result),
        "mount.succeeded" => |e| flag(succeeded(&e.event.body)?),
    }
    NAMESPACE {
        "namespace.call" => |e| word(namespace(e)?.call),
        "namespace.types" => |e| Some(namespace_types(namespace(e)?.flags)),
        "namespace.flags" => |e| number(namespace(e)?.flags),
        "namespace.result" => |e| number(namespace(e)?.result),
        "namespace.succeeded" => |e| flag(succeeded(&e.event.body)?),
    }
    LOGIN {
        "login.service" => |e| bytes(&login(e)?.service),
        "login.user" => |e| bytes(&login(e)?.user),
        "login.remote_ip" => |e| Some(ip(login(e)?.remote?)),
        "login.remote_port" => |e| number(login(e)?.remote?.port()),
        "login.method" => |e| bytes(&login(e)?.method),
        "login.accepted" => |e| flag(login(e)?.accepted),
        "acct" => |e| bytes(&login(e)?.user),
        "addr" => |e| Some(ip(login(e)?.remote?)),
    }
    FORK {
        "fork.child" => |e| match &e.event.body { Body::Fork { child } => number(child.tgid), _ => None },
    }
    EXIT {
        "exit.code" => |e| match &e.event.body { Body::Exit { code, .. } => number(*code), _ => None },
        "exit.signal" => |e| match &e.event.body { Body::Exit { signal, .. } => number(*signal), _ => None },
    }
    LOSS {
        "loss.source" => |e| match &e.event.body { Body::Loss { source, .. } => word(source), _ => None },
        "loss.count" => |e| match &e.event.body { Body::Loss { count, .. } => number(*count), _ => None },
    }
    // And `report.fields.NAME` of whatever fields the report has.
    REPORT {
        "report.app" => |e| word(report(e)?.app()),
        "report.topic" => |e| word(report(e)?.topic()),
    }
}

/// FNV-1a: the names are ours and short, and a lookup stands in the middle of every rule.
#[derive(Default)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

static BY_NAME: LazyLock<HashMap<&'static str, &'static Field, BuildHasherDefault<Fnv>>> =
    LazyLock::new(|| FIELDS.iter().map(|field| (field.name, field)).collect());

/// The value of a field, or `None` where this event has none.
pub(crate) fn value<'e>(event: &'e RuleEvent<'e>, name: &str) -> Option<EventValue<'e>> {
    // Before the table, which knows no name that an app made up: other kinds pay one comparison.
    if let Body::Report(report) = &event.event.body
        && let Some(name) = name.strip_prefix(REPORT_FIELD)
    {
        return report.field(name).and_then(word);
    }
    let field = BY_NAME.get(name).filter(|field| field.kinds.holds(event.event.kind()))?;
    (field.get)(event)
}

/// The kinds of event that have a field of this name; `None` for a name no event knows.
pub(crate) fn kinds_of(name: &str) -> Option<KindSet> {
    if name.strip_prefix(REPORT_FIELD).is_some_and(Report::is_label) {
        return Some(REPORT);
    }
    Some(BY_NAME.get(name)?.kinds)
}

/// The values a field can have in events of one kind, where that is a short fixed list.
pub(crate) fn words_of(name: &str, kind: Kind) -> Option<Vec<&'static str>> {
    Some(match name {
        "event.kind" => vec![kind.as_str()],
        "type" => record_types(kind).to_vec(),
        "SYSCALL" | "syscall" => syscalls_of(kind).to_vec(),
        "nametype" => vec![name_type(kind)],
        _ => return None,
    })
}

/// Whether all events of one kind have the same values in a field of [`words_of`].
pub(crate) fn same_in_all(name: &str, kind: Kind) -> bool {
    match name {
        "event.kind" | "type" | "nametype" => true,
        "SYSCALL" | "syscall" => !RESULT.holds(kind),
        _ => false,
    }
}

/// What a rule of bare keywords looks through: the texts an audit or process log line would hold.
pub(crate) fn keyword_texts<'e>(event: &'e RuleEvent<'e>) -> impl Iterator<Item = Cow<'e, str>> {
    let process = &event.event.process;
    let of_process = [&process.exe, &process.comm, &process.filename].into_iter().map(|bytes| &bytes[..]);
    let of_body: Vec<&[u8]> = match &event.event.body {
        Body::Exec => Vec::new(),
        Body::File(file) => vec![&file.path, file.new_path.as_deref().unwrap_or_default()],
        Body::Mount(mount) => vec![&mount.source, &mount.target, &mount.fstype],
        Body::Login(login) => vec![&login.service, &login.user, &login.method],
        Body::Memfd { name } | Body::ModuleLoad { name, .. } | Body::BpfLoad { name, .. } => vec![name],
        Body::Report(report) => {
            let values = report.fields().iter().map(|(_, value)| value.as_bytes());
            [report.app().as_bytes(), report.topic().as_bytes()].into_iter().chain(values).collect()
        }
        _ => Vec::new(),
    };
    let line = (event.event.kind() == Kind::Exec).then(|| Cow::Borrowed(event.command_line()));
    let given = of_process.chain(of_body).filter(|bytes| !bytes.is_empty()).map(String::from_utf8_lossy);
    given.chain(process.args().map(String::from_utf8_lossy).take(256)).chain(line)
}

fn bytes(bytes: &[u8]) -> Option<EventValue<'_>> {
    Some(EventValue::Str(String::from_utf8_lossy(bytes)))
}

fn word(text: &str) -> Option<EventValue<'_>> {
    Some(EventValue::Str(Cow::Borrowed(text)))
}

fn word_owned<'e>(text: String) -> Option<EventValue<'e>> {
    Some(EventValue::Str(Cow::Owned(text)))
}

fn words<'e>(texts: &[&'static str]) -> EventValue<'e> {
    EventValue::Array(texts.iter().map(|text| EventValue::Str(Cow::Borrowed(*text))).collect())
}

fn number<'e, N: TryInto<i64>>(number: N) -> Option<EventValue<'e>> {
    Some(EventValue::Int(number.try_into().unwrap_or(i64::MAX)))
}

fn flag<'e>(flag: bool) -> Option<EventValue<'e>> {
    Some(EventValue::Bool(flag))
}

fn capability<'e>(credentials: &Credentials, bit: u32) -> EventValue<'e> {
    EventValue::Bool(credentials.cap_effective >> bit & 1 == 1)
}

fn key<'e>(key: ProcessKey) -> EventValue<'e> {
    EventValue::Str(Cow::Owned(format!("{}:{}", key.tgid, key.started.0)))
}

/// Names of users live in a directory that a pure crate cannot ask; root has one name everywhere.
fn user<'e>(uid: u32) -> EventValue<'e> {
    EventValue::Str(if uid == 0 { Cow::Borrowed("root") } else { Cow::Owned(uid.to_string()) })
}

fn args(process: &Process) -> EventValue<'_> {
    EventValue::Array(process.args().filter_map(bytes).collect())
}

fn arg(process: &Process, index: usize) -> Option<EventValue<'_>> {
    bytes(process.args().nth(index)?)
}

fn peer_ip<'e>(stdio: Stdio) -> Option<EventValue<'e>> {
    Some(ip(stdio.remote()?))
}

fn peer_port<'e>(stdio: Stdio) -> Option<EventValue<'e>> {
    number(stdio.remote()?.port())
}

/// An IPv4 address that reached us mapped into IPv6 is shown as IPv4, so that one CIDR serves both.
fn ip<'e>(address: SocketAddr) -> EventValue<'e> {
    EventValue::Str(Cow::Owned(address.ip().to_canonical().to_string()))
}

fn file<'e>(event: &'e RuleEvent<'e>) -> Option<&'e FileActivity> {
    match &event.event.body {
        Body::File(file) => Some(file),
        _ => None,
    }
}

/// The name the file has after the action.
fn target(file: &FileActivity) -> &[u8] {
    file.new_path.as_deref().unwrap_or(&file.path)
}

fn both_paths(file: &FileActivity) -> EventValue<'_> {
    let paths = [Some(file.path.as_slice()), file.new_path.as_deref()];
    EventValue::Array(paths.into_iter().flatten().filter(|path| !path.is_empty()).filter_map(bytes).collect())
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn flow<'e>(event: &'e RuleEvent<'e>) -> Option<&'e Flow> {
    match &event.event.body {
        Body::Connect(flow) | Body::Accept(flow) | Body::Listen(flow) | Body::UdpSend(flow) => Some(flow),
        _ => None,
    }
}

/// The side that began the connection, and the other.
fn ends(event: &RuleEvent<'_>) -> Option<(SocketAddr, SocketAddr)> {
    match &event.event.body {
        Body::Connect(flow) | Body::UdpSend(flow) => Some((flow.local, flow.remote)),
        Body::Accept(flow) | Body::Listen(flow) => Some((flow.remote, flow.local)),
        _ => None,
    }
}

fn gained<'e>(event: &'e RuleEvent<'e>) -> Option<(&'e Credentials, &'e Credentials)> {
    match &event.event.body {
        Body::Credentials { before, after } => Some((before, after)),
        _ => None,
    }
}

fn ptrace<'e>(event: &'e RuleEvent<'e>) -> Option<&'e PtraceActivity> {
    match &event.event.body {
        Body::Ptrace(ptrace) => Some(ptrace),
        _ => None,
    }
}

fn mount<'e>(event: &'e RuleEvent<'e>) -> Option<&'e MountActivity> {
    match &event.event.body {
        Body::Mount(mount) => Some(mount),
        _ => None,
    }
}

fn namespace<'e>(event: &'e RuleEvent<'e>) -> Option<&'e NamespaceActivity> {
    match &event.event.body {
        Body::Namespace(namespace) => Some(namespace),
        _ => None,
    }
}

fn login<'e>(event: &'e RuleEvent<'e>) -> Option<&'e LoginAttempt> {
    match &event.event.body {
        Body::Login(login) => Some(login),
        _ => None,
    }
}

fn report<'e>(event: &'e RuleEvent<'e>) -> Option<&'e Report> {
    match &event.event.body {
        Body::Report(report) => Some(report),
        _ => None,
    }
}

fn succeeded(body: &Body) -> Option<bool> {
    Some(match body {
        Body::Ptrace(ptrace) => ptrace.result >= 0,
        Body::Mount(mount) => mount.result >= 0,
        Body::Namespace(namespace) => namespace.result >= 0,
        Body::ModuleLoad { result, .. } | Body::BpfLoad { result, .. } => *result >= 0,
        Body::Login(login) => login.accepted,
        _ => return None,
    })
}

/// `CLONE_NEW*` of linux/sched.h.
fn namespace_types<'e>(flags: u64) -> EventValue<'e> {
    const TYPES: [(u64, &str); 8] = [
        (0x0002_0000, "mnt"),
        (0x0200_0000, "cgroup"),
        (0x0400_0000, "uts"),
        (0x0800_0000, "ipc"),
        (0x1000_0000, "user"),
        (0x2000_0000, "pid"),
        (0x4000_0000, "net"),
        (0x0000_0080, "time"),
    ];
    let given: Vec<&'static str> =
        TYPES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    words(&given)
}

/// The audit records that would have been written for an event of this kind.
fn record_types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Exec => &["SYSCALL", "EXECVE", "CWD", "PATH", "PROCTITLE"],
        Kind::Connect | Kind::Accept | Kind::Listen | Kind::UdpSend => &["SYSCALL", "SOCKADDR", "PROCTITLE"],
        Kind::Login => &["USER_LOGIN", "USER_AUTH"],
        Kind::Ptrace => &["SYSCALL", "OBJ_PID", "PROCTITLE"],
        Kind::ModuleLoad => &["SYSCALL", "KERN_MODULE", "PROCTITLE"],
        Kind::BpfLoad => &["SYSCALL", "BPF", "PROCTITLE"],
        Kind::Memfd | Kind::Mount | Kind::Namespace => &["SYSCALL", "PROCTITLE"],
        kind if KindSet::FILE.holds(kind) => &["SYSCALL", "CWD", "PATH", "PROCTITLE"],
        _ => &[],
    }
}

/// The calls that may stand behind an event of this kind. Where our events do not keep which one of a family it was, the
/// whole family answers.
fn syscalls_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Exec => &["execve"],
        Kind::Connect => &["connect"],
        Kind::Accept => &["accept", "accept4"],
        Kind::Listen => &["listen"],
        Kind::UdpSend => &["sendto", "sendmsg"],
        Kind::FileCreate => &["open", "openat", "creat"],
        Kind::FileWrite | Kind::FileOpen => &["open", "openat"],
        Kind::FileRename => &["rename", "renameat", "renameat2"],
        Kind::FileUnlink => &["unlink", "unlinkat"],
        Kind::FileLink => &["link", "linkat"],
        Kind::Ptrace => &["ptrace", "process_vm_writev"],
        Kind::Memfd => &["memfd_create"],
        Kind::ModuleLoad => &["init_module", "finit_module"],
        Kind::BpfLoad => &["bpf"],
        Kind::Mount => &["mount", "move_mount", "fsmount", "umount", "umount2", "pivot_root"],
        Kind::Namespace => &["unshare", "setns", "clone", "clone3"],
        _ => &[],
    }
}

fn syscall<'e>(body: &Body) -> Option<EventValue<'e>> {
    let one = |call: &'static str| Some(EventValue::Str(Cow::Borrowed(call)));
    match body {
        Body::ModuleLoad { call, .. } => one(call),
        Body::Mount(mount) => one(mount.call),
        Body::Namespace(namespace) => one(namespace.call),
        Body::Ptrace(ptrace) if ptrace.request == "process_vm_writev" => one("process_vm_writev"),
        Body::Ptrace(_) => one("ptrace"),
        body => match syscalls_of(body.kind()) {
            [] => None,
            [call] => one(call),
            calls => Some(words(calls)),
        },
    }
}

fn audit_names<'e>(event: &'e RuleEvent<'e>) -> EventValue<'e> {
    match file(event) {
        Some(file) => both_paths(file),
        None => EventValue::Array(
            [bytes(&event.event.process.filename), bytes(&event.event.process.exe)]
                .into_iter()
                .flatten()
                .collect(),
        ),
    }
}

fn name_type(kind: Kind) -> &'static str {
    match kind {
        Kind::FileCreate | Kind::FileLink | Kind::FileRename => "CREATE",
        Kind::FileUnlink => "DELETE",
        _ => "NORMAL",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use watchfire_event::{BootNanos, Event, FileAction};

    use super::*;

    fn event(body: Body) -> Event {
        let process = Process {
            exe: b"/usr/bin/\xffsh".to_vec(),
            argv: b"sh\0-c\0id \xff\0".to_vec(),
            ..Process::default()
        };
        let parent = Some(Arc::new(Process { exe: b"/sbin/init".to_vec(), ..Process::default() }));
        Event { at: BootNanos(1), decoded: BootNanos(2), process: Arc::new(process), parent, body }
    }

    fn text(event: &Event, name: &str) -> Option<String> {
        let adapter = RuleEvent::new(event);
        value(&adapter, name).map(|value| value.to_json().to_string())
    }

    #[test]
    fn no_name_stands_twice() {
        assert_eq!(BY_NAME.len(), FIELDS.len());
    }

    #[test]
    fn bytes_that_are_not_utf8_reach_rules_lossily() {
        let exec = event(Body::Exec);
        assert_eq!(text(&exec, "Image").unwrap(), "\"/usr/bin/\u{fffd}sh\"");
        assert_eq!(text(&exec, "process.argv").unwrap(), "\"sh -c id \u{fffd}\"");
        assert_eq!(text(&exec, "a1").unwrap(), "\"-c\"");
        assert_eq!(text(&exec, "a3"), None);
        assert_eq!(text(&exec, "ParentImage").unwrap(), "\"/sbin/init\"");
    }

    #[test]
    fn fixed_words_are_what_the_events_say() {
        for sample in [event(Body::Exec), event(Body::Memfd { name: b"x".to_vec() })] {
            for name in ["event.kind", "type", "SYSCALL", "nametype"] {
                let Some(kinds) = kinds_of(name).filter(|kinds| kinds.holds(sample.kind())) else { continue };
                assert!(kinds.holds(sample.kind()) && same_in_all(name, sample.kind()));
                let told = text(&sample, name).unwrap();
                assert!(
                    words_of(name, sample.kind()).unwrap().iter().all(|word| told.contains(word)),
                    "{name}: {told}"
                );
            }
        }
    }

    #[test]
    fn a_field_answers_only_in_the_kinds_it_names() {
        let flow = Flow {
            transport: watchfire_event::Transport::Tcp,
            local: "[::ffff:10.0.0.1]:80".parse().unwrap(),
            remote: "10.0.0.9:4444".parse().unwrap(),
            outcome: Outcome::Succeeded,
        };
        let moved = FileActivity {
            action: FileAction::Rename,
            path: b"/a/old".to_vec(),
            new_path: Some(b"/a/new".to_vec()),
            mode: Some(0o104755),
            uid: None,
        };
        let samples = [
            event(Body::Exec),
            event(Body::Accept(flow)),
            event(Body::File(moved)),
            event(Body::Memfd { name: b"x".to_vec() }),
            event(Body::BpfLoad { program_type: 1, name: b"p".to_vec(), result: -1 }),
            event(Body::Namespace(NamespaceActivity { call: "unshare", flags: 0x1000_0000, result: 0 })),
            event(Body::Report(Report::new("agent", "breaker", [("state.now", "open")]).unwrap())),
        ];
        for sample in &samples {
            for field in FIELDS {
                let found = text(sample, field.name).is_some();
                assert!(!found || field.kinds.holds(sample.kind()), "{} in {:?}", field.name, sample.kind());
            }
        }
        assert_eq!(text(&samples[1], "SourceIp").unwrap(), "\"10.0.0.9\"");
        assert_eq!(text(&samples[1], "DestinationIp").unwrap(), "\"10.0.0.1\"");
        assert_eq!(text(&samples[1], "Initiated").unwrap(), "false");
        assert_eq!(text(&samples[2], "TargetFilename").unwrap(), "\"/a/new\"");
        assert_eq!(text(&samples[2], "file.paths").unwrap(), r#"["/a/old","/a/new"]"#);
        assert_eq!(text(&samples[2], "file.setuid").unwrap(), "true");
        assert_eq!(text(&samples[5], "namespace.types").unwrap(), r#"["user"]"#);
        assert_eq!(text(&samples[6], "report.topic").unwrap(), "\"breaker\"");
        assert_eq!(text(&samples[6], "report.fields.state.now").unwrap(), "\"open\"");
        assert_eq!(text(&samples[6], "report.fields.state"), None);
        assert!(samples[..6].iter().all(|sample| text(sample, "report.fields.state.now").is_none()));
    }
}
