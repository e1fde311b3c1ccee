//! The table's columns, all of them, in their order. Names are stable: a column is added or left, never renamed and never given
//! another meaning. `docs/lake-schema.md` is this table in words, and a test compares the two.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use watchfire_event::{
    Body, Credentials, FileActivity, Flow, Kind, LoginAttempt, MountActivity, Outcome, Process, ProcessKey,
    PtraceActivity, Report, Stdio,
};

use super::cells::{Column, bytes, clock, flag, number, pairs, text, time};
use super::rows::{Row, wall_micros};

const FLOW: &[Kind] = &[Kind::Connect, Kind::Accept, Kind::Listen, Kind::UdpSend];
const REMOTE: &[Kind] = &[Kind::Connect, Kind::Accept, Kind::Listen, Kind::UdpSend, Kind::Login];
const FILE: &[Kind] = &[
    Kind::FileCreate,
    Kind::FileWrite,
    Kind::FileRename,
    Kind::FileUnlink,
    Kind::FileAttrib,
    Kind::FileLink,
    Kind::FileOpen,
];
const CALL: &[Kind] = &[Kind::Ptrace, Kind::ModuleLoad, Kind::Mount, Kind::Namespace];
const RESULT: &[Kind] = &[Kind::Ptrace, Kind::ModuleLoad, Kind::BpfLoad, Kind::Mount, Kind::Namespace];
const NAME: &[Kind] = &[Kind::Memfd, Kind::ModuleLoad, Kind::BpfLoad];

/// Every column, in the order of the file.
pub(crate) const COLUMNS: &[Column] = &[
    // Where and when.
    text("host", |r| borrowed(&r.origin.host), "Host id, 32 hexadecimal digits"),
    text("hostname", |r| borrowed(&r.origin.hostname), "The host's name when it sent this"),
    text("boot", |r| borrowed(&r.origin.boot), "Boot id, 32 hexadecimal digits"),
    number(
        "incarnation",
        |r| Some(r.origin.incarnation.cast_signed()),
        "Boot nanoseconds at which the agent's run began that sent this",
    ),
    time(
        "time",
        |r| Some(wall_micros(r.wall())),
        "When it happened: booted_ns + boot_ns, cut to microseconds",
    ),
    clock(
        "boot_ns",
        |r| Some(r.event.at.0.cast_signed()),
        "When it happened, in nanoseconds since boot: the kernel's own clock, exact",
    ),
    number(
        "booted_ns",
        |r| Some(r.origin.booted.0),
        "Wall time of the boot, unix nanoseconds, as the agent knew it",
    ),
    clock(
        "decode_latency_ns",
        |r| Some(r.event.decoded.0.wrapping_sub(r.event.at.0).cast_signed()),
        "From the kernel to the decoded event, nanoseconds",
    ),
    time(
        "received",
        |r| Some(wall_micros(r.origin.received)),
        "When the server appended the batch to its log, by its own clock",
    ),
    number(
        "log_offset",
        |r| Some(r.origin.offset.cast_signed()),
        "Number of the batch in the event log; with log_row it names a row for ever",
    ),
    number("log_row", |r| Some(r.index.into()), "Place of the event in its batch"),
    text("kind", |r| word(r.event.kind().as_str()), "What happened: exec, fork, exit, connect, …"),
    // The process.
    number("tgid", |r| Some(p(r).key.tgid.into()), "Thread group id in the initial pid namespace"),
    clock(
        "started_ns",
        |r| Some(p(r).key.started.0.cast_signed()),
        "Start of the process, nanoseconds since boot; (boot, tgid, started_ns) is unique",
    ),
    number("ppid", |r| p(r).parent.map(tgid), "The parent's tgid at the time of the exec or fork"),
    number("ppid_started_ns", |r| p(r).parent.map(started), "The parent's start"),
    text(
        "origin",
        |r| word(p(r).origin.as_str()),
        "Where the knowledge of the process comes from: exec, fork, snapshot, healed, unknown",
    ),
    clock("since_ns", |r| Some(p(r).since.0.cast_signed()), "When this image began"),
    bytes("exe", |r| Some(&p(r).exe), "Path of the executable"),
    bytes("filename", |r| Some(&p(r).filename), "What exec was asked for; the script for a #! script"),
    number("image_device", |r| Some(p(r).image.device.cast_signed()), "Device of the executable's file"),
    number("image_inode", |r| Some(p(r).image.inode.cast_signed()), "Its inode"),
    number("image_mode", |r| Some(p(r).image.mode.into()), "Its type and permission bits, as in st_mode"),
    number("image_uid", |r| Some(p(r).image.uid.into()), "Its owner"),
    number("image_links", |r| Some(p(r).image.links.into()), "Its hard links; 0 = unlinked"),
    flag("image_memfd", |r| Some(p(r).image.memfd), "It lives in memory only"),
    bytes("argv", |r| Some(&p(r).argv), "Arguments, each ended by NUL, at most 32 KiB"),
    number("argv_len", |r| Some(p(r).argv_len.into()), "True length of the arguments in bytes"),
    flag("argv_truncated", |r| Some(p(r).argv_truncated()), "argv holds less than the process was given"),
    bytes("comm", |r| Some(&p(r).comm), "Command name, at most 15 bytes"),
    bytes("cwd", |r| Some(&p(r).cwd), "Working directory"),
    number("uid", |r| Some(c(r).uid.into()), "Real user id"),
    number("euid", |r| Some(c(r).euid.into()), "Effective user id"),
    number("suid", |r| Some(c(r).suid.into()), "Saved user id"),
    number("gid", |r| Some(c(r).gid.into()), "Real group id"),
    number("egid", |r| Some(c(r).egid.into()), "Effective group id"),
    number(
        "cap_effective",
        |r| Some(c(r).cap_effective.cast_signed()),
        "Effective capabilities, CAP_CHOWN is bit 0",
    ),
    number("cap_permitted", |r| Some(c(r).cap_permitted.cast_signed()), "Permitted capabilities"),
    number("login_uid", |r| p(r).login_uid.map(i64::from), "Audit login uid; NULL when no one logged in"),
    number("audit_session", |r| p(r).audit_session.map(i64::from), "Audit session id; NULL when unset"),
    number("sid", |r| Some(p(r).session.into()), "Session id"),
    number("pgid", |r| Some(p(r).group.into()), "Process group id"),
    bytes(
        "tty",
        |r| p(r).tty.as_ref().map(|tty| &tty.name[..]),
        "Controlling terminal; NULL when there is none",
    ),
    number("tty_major", |r| p(r).tty.as_ref().map(|tty| tty.device.0.into()), "Its major number"),
    number("tty_minor", |r| p(r).tty.as_ref().map(|tty| tty.device.1.into()), "Its minor number"),
    number("ns_mnt", |r| Some(p(r).namespaces.mnt.into()), "Inode of the mount namespace"),
    number("ns_pid", |r| Some(p(r).namespaces.pid.into()), "Inode of the pid namespace of its children"),
    number("ns_net", |r| Some(p(r).namespaces.net.into()), "Inode of the network namespace"),
    number("ns_user", |r| Some(p(r).namespaces.user.into()), "Inode of the user namespace"),
    number("ns_tgid", |r| Some(p(r).ns_tgid.into()), "Its id in its own pid namespace"),
    number("cgroup", |r| Some(p(r).cgroup.cast_signed()), "Inode of its cgroup"),
    text(
        "container",
        |r| p(r).container.as_ref().map(|id| Cow::Borrowed(&id.0[..])),
        "Container id; NULL on the host itself",
    ),
    text(
        "stdin",
        |r| word(p(r).stdio[0].as_str()),
        "What descriptor 0 is: closed, file, null, tty, pipe, inet, socket, other, unknown",
    ),
    text("stdin_remote", |r| stdio_remote(p(r).stdio[0]), "inet: the remote address, ip:port"),
    number("stdin_inode", |r| stdio_inode(p(r).stdio[0]), "pipe, socket: its inode"),
    number("stdin_family", |r| stdio_family(p(r).stdio[0]), "socket: address family"),
    text("stdout", |r| word(p(r).stdio[1].as_str()), "What descriptor 1 is"),
    text("stdout_remote", |r| stdio_remote(p(r).stdio[1]), "As stdin_remote"),
    number("stdout_inode", |r| stdio_inode(p(r).stdio[1]), "As stdin_inode"),
    number("stdout_family", |r| stdio_family(p(r).stdio[1]), "As stdin_family"),
    text("stderr", |r| word(p(r).stdio[2].as_str()), "What descriptor 2 is"),
    text("stderr_remote", |r| stdio_remote(p(r).stdio[2]), "As stdin_remote"),
    number("stderr_inode", |r| stdio_inode(p(r).stdio[2]), "As stdin_inode"),
    number("stderr_family", |r| stdio_family(p(r).stdio[2]), "As stdin_family"),
    // The parent as the process table knew it.
    number(
        "parent_tgid",
        |r| parent(r).map(|parent| parent.key.tgid.into()),
        "The parent as known at that moment; NULL when it was not known",
    ),
    number("parent_started_ns", |r| parent(r).map(|parent| parent.key.started.0.cast_signed()), "Its start"),
    bytes("parent_exe", |r| parent(r).map(|parent| &parent.exe[..]), "Its executable"),
    bytes("parent_argv", |r| parent(r).map(|parent| &parent.argv[..]), "Its arguments, each ended by NUL"),
    number("parent_uid", |r| parent(r).map(|parent| parent.credentials.uid.into()), "Its real user id"),
    // By kind.
    number("child_tgid", |r| child(r).map(tgid), "The new process").of(&[Kind::Fork]),
    number("child_started_ns", |r| child(r).map(started), "Its start").of(&[Kind::Fork]),
    number("exit_code", |r| exit(r).map(|(code, _)| code.into()), "Argument of exit(2)").of(&[Kind::Exit]),
    number("exit_signal", |r| exit(r).map(|(_, signal)| signal.into()), "Signal that ended it, or 0")
        .of(&[Kind::Exit]),
    text("transport", |r| flow(r).and_then(|flow| word(flow.transport.as_str())), "tcp or udp").of(FLOW),
    text("local_ip", |r| flow(r).map(|flow| ip(flow.local)), "This host's address").of(FLOW),
    number("local_port", |r| flow(r).map(|flow| flow.local.port().into()), "This host's port").of(FLOW),
    text("remote_ip", |r| remote(r).map(ip), "The other end's address").of(REMOTE),
    number("remote_port", |r| remote(r).map(|remote| remote.port().into()), "The other end's port")
        .of(REMOTE),
    text(
        "outcome",
        |r| flow(r).and_then(|flow| word(flow.outcome.as_str())),
        "succeeded, refused, timed_out, failed",
    )
    .of(FLOW),
    number(
        "outcome_errno",
        |r| flow(r).and_then(outcome_errno),
        "failed: errno, 0 when closed before an answer",
    )
    .of(FLOW),
    bytes("path", |r| file(r).map(|file| &file.path[..]), "The file; for rename and link the old name")
        .of(FILE),
    bytes(
        "new_path",
        |r| file(r).and_then(|file| file.new_path.as_deref()),
        "The new name of a rename or link",
    )
    .of(FILE),
    number(
        "file_mode",
        |r| file(r).and_then(|file| file.mode).map(i64::from),
        "st_mode afterwards, when it could be read",
    )
    .of(FILE),
    number(
        "file_uid",
        |r| file(r).and_then(|file| file.uid).map(i64::from),
        "Owner afterwards, when it could be read",
    )
    .of(FILE),
    number("before_uid", |r| before(r).map(|c| c.uid.into()), "Real user id before the call")
        .of(&[Kind::Credentials]),
    number("before_euid", |r| before(r).map(|c| c.euid.into()), "Effective user id before the call")
        .of(&[Kind::Credentials]),
    number("before_suid", |r| before(r).map(|c| c.suid.into()), "Saved user id before the call")
        .of(&[Kind::Credentials]),
    number("before_gid", |r| before(r).map(|c| c.gid.into()), "Real group id before the call")
        .of(&[Kind::Credentials]),
    number("before_egid", |r| before(r).map(|c| c.egid.into()), "Effective group id before the call")
        .of(&[Kind::Credentials]),
    number(
        "before_cap_effective",
        |r| before(r).map(|c| c.cap_effective.cast_signed()),
        "Effective capabilities before the call",
    )
    .of(&[Kind::Credentials]),
    number(
        "before_cap_permitted",
        |r| before(r).map(|c| c.cap_permitted.cast_signed()),
        "Permitted capabilities before the call",
    )
    .of(&[Kind::Credentials]),
    number("after_uid", |r| after(r).map(|c| c.uid.into()), "Real user id after the call")
        .of(&[Kind::Credentials]),
    number("after_euid", |r| after(r).map(|c| c.euid.into()), "Effective user id after the call")
        .of(&[Kind::Credentials]),
    number("after_suid", |r| after(r).map(|c| c.suid.into()), "Saved user id after the call")
        .of(&[Kind::Credentials]),
    number("after_gid", |r| after(r).map(|c| c.gid.into()), "Real group id after the call")
        .of(&[Kind::Credentials]),
    number("after_egid", |r| after(r).map(|c| c.egid.into()), "Effective group id after the call")
        .of(&[Kind::Credentials]),
    number(
        "after_cap_effective",
        |r| after(r).map(|c| c.cap_effective.cast_signed()),
        "Effective capabilities after the call",
    )
    .of(&[Kind::Credentials]),
    number(
        "after_cap_permitted",
        |r| after(r).map(|c| c.cap_permitted.cast_signed()),
        "Permitted capabilities after the call",
    )
    .of(&[Kind::Credentials]),
    number(
        "target_tgid",
        |r| ptrace(r).map(|ptrace| ptrace.target.into()),
        "The process reached into; 0 for traceme",
    )
    .of(&[Kind::Ptrace]),
    number(
        "target_process_tgid",
        |r| target(r).map(|target| target.key.tgid.into()),
        "The target as the process table knew it; NULL when it did not",
    )
    .of(&[Kind::Ptrace]),
    number("target_started_ns", |r| target(r).map(|target| target.key.started.0.cast_signed()), "Its start")
        .of(&[Kind::Ptrace]),
    bytes("target_exe", |r| target(r).map(|target| &target.exe[..]), "Its executable").of(&[Kind::Ptrace]),
    bytes("target_argv", |r| target(r).map(|target| &target.argv[..]), "Its arguments, each ended by NUL")
        .of(&[Kind::Ptrace]),
    number("target_uid", |r| target(r).map(|target| target.credentials.uid.into()), "Its real user id")
        .of(&[Kind::Ptrace]),
    text("call", |r| call(r).and_then(word), "The system call or ptrace request").of(CALL),
    number("result", |r| result(r).map(i64::from), "Its return value: 0, a number, or a negative errno")
        .of(RESULT),
    bytes("name", name, "Name of the memfd, kernel module or eBPF program").of(NAME),
    number("program_type", program_type, "enum bpf_prog_type").of(&[Kind::BpfLoad]),
    bytes("mount_source", |r| mount(r).map(|mount| &mount.source[..]), "Device or source path")
        .of(&[Kind::Mount]),
    bytes("mount_target", |r| mount(r).map(|mount| &mount.target[..]), "Mount point").of(&[Kind::Mount]),
    bytes("mount_fstype", |r| mount(r).map(|mount| &mount.fstype[..]), "File system type").of(&[Kind::Mount]),
    number("flags", flags, "MS_* of a mount, CLONE_NEW* of a namespace call")
        .of(&[Kind::Mount, Kind::Namespace]),
    bytes("login_service", |r| login(r).map(|login| &login.service[..]), "sshd, su, sudo, login")
        .of(&[Kind::Login]),
    bytes("login_user", |r| login(r).map(|login| &login.user[..]), "The name that was tried")
        .of(&[Kind::Login]),
    bytes(
        "login_method",
        |r| login(r).map(|login| &login.method[..]),
        "password, publickey, …; empty when the log does not say",
    )
    .of(&[Kind::Login]),
    flag("login_accepted", |r| login(r).map(|login| login.accepted), "Whether it was let in")
        .of(&[Kind::Login]),
    text("loss_source", loss_source, "The source that lost events").of(&[Kind::Loss]),
    number("loss_count", loss_count, "How many").of(&[Kind::Loss]),
    text("report_app", |r| report(r).and_then(|report| borrowed(report.app())), "The app that tells it")
        .of(&[Kind::Report]),
    text("report_topic", |r| report(r).and_then(|report| borrowed(report.topic())), "What it is about")
        .of(&[Kind::Report]),
    pairs("report_fields", |r| report(r).map(Report::fields), "What it tells, in the app's own fields")
        .of(&[Kind::Report]),
];

static SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(COLUMNS.iter().map(Column::field).collect::<Vec<_>>())));

/// The Arrow schema of the table.
pub(crate) fn schema() -> SchemaRef {
    SCHEMA.clone()
}

/// Rows as one Arrow batch.
pub(crate) fn batch(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let mut present: Vec<Kind> = Vec::new();
    for row in rows {
        let kind = row.event.kind();
        if !present.contains(&kind) {
            present.push(kind);
        }
    }
    let arrays: Vec<ArrayRef> = COLUMNS.iter().map(|column| column.build(rows, &present)).collect();
    RecordBatch::try_new(schema(), arrays)
}

fn borrowed(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(text))
}

fn word<'a>(word: &'static str) -> Option<Cow<'a, str>> {
    Some(Cow::Borrowed(word))
}

fn p(row: &Row) -> &Process {
    &row.event.process
}

fn c(row: &Row) -> &Credentials {
    &row.event.process.credentials
}

fn parent(row: &Row) -> Option<&Process> {
    row.event.parent.as_deref()
}

fn tgid(key: ProcessKey) -> i64 {
    key.tgid.into()
}

fn started(key: ProcessKey) -> i64 {
    key.started.0.cast_signed()
}

fn ip<'a>(address: SocketAddr) -> Cow<'a, str> {
    Cow::Owned(address.ip().to_string())
}

fn stdio_remote<'a>(stdio: Stdio) -> Option<Cow<'a, str>> {
    stdio.remote().map(|remote| Cow::Owned(remote.to_string()))
}

fn stdio_inode(stdio: Stdio) -> Option<i64> {
    match stdio {
        Stdio::Pipe(inode) | Stdio::Socket { inode, .. } => Some(inode.cast_signed()),
        _ => None,
    }
}

fn stdio_family(stdio: Stdio) -> Option<i64> {
    match stdio {
        Stdio::Socket { family, .. } => Some(family.into()),
        _ => None,
    }
}

fn child(row: &Row) -> Option<ProcessKey> {
    match row.event.body {
        Body::Fork { child } => Some(child),
        _ => None,
    }
}

fn exit(row: &Row) -> Option<(u8, u8)> {
    match row.event.body {
        Body::Exit { code, signal } => Some((code, signal)),
        _ => None,
    }
}

fn flow(row: &Row) -> Option<&Flow> {
    match &row.event.body {
        Body::Connect(flow) | Body::Accept(flow) | Body::Listen(flow) | Body::UdpSend(flow) => Some(flow),
        _ => None,
    }
}

fn remote(row: &Row) -> Option<SocketAddr> {
    flow(row).map(|flow| flow.remote).or_else(|| login(row).and_then(|login| login.remote))
}

fn outcome_errno(flow: &Flow) -> Option<i64> {
    match flow.outcome {
        Outcome::Failed(errno) => Some(errno.into()),
        _ => None,
    }
}

fn file(row: &Row) -> Option<&FileActivity> {
    match &row.event.body {
        Body::File(file) => Some(file),
        _ => None,
    }
}

fn before(row: &Row) -> Option<&Credentials> {
    match &row.event.body {
        Body::Credentials { before, .. } => Some(before),
        _ => None,
    }
}

fn after(row: &Row) -> Option<&Credentials> {
    match &row.event.body {
        Body::Credentials { after, .. } => Some(after),
        _ => None,
    }
}

fn ptrace(row: &Row) -> Option<&PtraceActivity> {
    match &row.event.body {
        Body::Ptrace(ptrace) => Some(ptrace),
        _ => None,
    }
}

fn target(row: &Row) -> Option<&Process> {
    ptrace(row).and_then(|ptrace| ptrace.target_process.as_deref())
}

fn mount(row: &Row) -> Option<&MountActivity> {
    match &row.event.body {
        Body::Mount(mount) => Some(mount),
        _ => None,
    }
}

fn login(row: &Row) -> Option<&LoginAttempt> {
    match &row.event.body {
        Body::Login(login) => Some(login),
        _ => None,
    }
}

fn call(row: &Row) -> Option<&'static str> {
    match &row.event.body {
        Body::Ptrace(ptrace) => Some(ptrace.request),
        Body::ModuleLoad { call, .. } => Some(call),
        Body::Mount(mount) => Some(mount.call),
        Body::Namespace(namespace) => Some(namespace.call),
        _ => None,
    }
}

fn result(row: &Row) -> Option<i32> {
    match &row.event.body {
        Body::Ptrace(ptrace) => Some(ptrace.result),
        Body::ModuleLoad { result, .. } | Body::BpfLoad { result, .. } => Some(*result),
        Body::Mount(mount) => Some(mount.result),
        Body::Namespace(namespace) => Some(namespace.result),
        _ => None,
    }
}

fn name(row: &Row) -> Option<&[u8]> {
    match &row.event.body {
        Body::Memfd { name } | Body::ModuleLoad { name, .. } | Body::BpfLoad { name, .. } => Some(name),
        _ => None,
    }
}

fn program_type(row: &Row) -> Option<i64> {
    match row.event.body {
        Body::BpfLoad { program_type, .. } => Some(program_type.into()),
        _ => None,
    }
}

fn flags(row: &Row) -> Option<i64> {
    match &row.event.body {
        Body::Mount(mount) => Some(mount.flags.cast_signed()),
        Body::Namespace(namespace) => Some(namespace.flags.cast_signed()),
        _ => None,
    }
}

fn report(row: &Row) -> Option<&Report> {
    match &row.event.body {
        Body::Report(report) => Some(report),
        _ => None,
    }
}

fn loss_source(row: &Row) -> Option<Cow<'_, str>> {
    match &row.event.body {
        Body::Loss { source, .. } => borrowed(source),
        _ => None,
    }
}

fn loss_count(row: &Row) -> Option<i64> {
    match row.event.body {
        Body::Loss { count, .. } => Some(count.cast_signed()),
        _ => None,
    }
}
