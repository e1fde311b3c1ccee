//! An event in JSON: the process, its parent, and one object named for the group its kind belongs to.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use watchfire_event::{Body, Credentials, Event, FileActivity, Flow, Outcome, PtraceActivity, UnixNanos};

use super::line::{text, text_hex};
use super::process::{ProcessView, octal_mode};

/// An event as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct EventView<'a> {
    time: String,
    host: &'a str,
    kind: &'static str,
    process: ProcessView<'a>,
    parent: Option<ProcessView<'a>>,
    #[serde(flatten)]
    body: Option<BodyView<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum BodyView<'a> {
    Fork {
        child_tgid: u32,
        child_key: String,
    },
    Exit {
        code: u8,
        signal: u8,
    },
    Net(NetView),
    File(FileView<'a>),
    Credentials {
        before: IdsView,
        after: IdsView,
    },
    /// Boxed: it is far larger than the rest.
    Ptrace(Box<PtraceView<'a>>),
    Memfd {
        name: Cow<'a, str>,
    },
    Module {
        name: Cow<'a, str>,
        call: &'a str,
        result: i32,
    },
    Bpf {
        program_type: u32,
        name: Cow<'a, str>,
        result: i32,
    },
    Mount(MountView<'a>),
    Namespace {
        call: &'a str,
        flags: String,
        result: i32,
    },
    Login(LoginView<'a>),
    Loss {
        source: &'a str,
        count: u64,
    },
    Report(ReportView<'a>),
}

#[derive(Debug, Serialize)]
struct NetView {
    transport: &'static str,
    local: String,
    local_ip: String,
    local_port: u16,
    remote: String,
    remote_ip: String,
    remote_port: u16,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
}

#[derive(Debug, Serialize)]
struct FileView<'a> {
    action: &'static str,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    new_path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_path_hex: Option<String>,
    mode: Option<String>,
    uid: Option<u32>,
}

#[derive(Debug, Serialize)]
struct IdsView {
    uid: u32,
    euid: u32,
    suid: u32,
    gid: u32,
    egid: u32,
    cap_effective: String,
    cap_permitted: String,
}

#[derive(Debug, Serialize)]
struct PtraceView<'a> {
    request: &'a str,
    target: u32,
    target_process: Option<ProcessView<'a>>,
    result: i32,
}

#[derive(Debug, Serialize)]
struct MountView<'a> {
    call: &'a str,
    source: Cow<'a, str>,
    target: Cow<'a, str>,
    fstype: Cow<'a, str>,
    flags: String,
    result: i32,
}

#[derive(Debug, Serialize)]
struct LoginView<'a> {
    service: Cow<'a, str>,
    user: Cow<'a, str>,
    remote: Option<String>,
    method: Cow<'a, str>,
    accepted: bool,
}

#[derive(Debug, Serialize)]
struct ReportView<'a> {
    app: &'a str,
    topic: &'a str,
    #[serde(serialize_with = "in_order")]
    fields: &'a [(String, String)],
}

/// One object, its members in the order of the report.
fn in_order<S: Serializer>(fields: &&[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

impl<'a> EventView<'a> {
    /// The view of `event`, which the host called `host` had at wall time `time`.
    pub(crate) fn new(event: &'a Event, host: &'a str, time: UnixNanos) -> Self {
        let booted = UnixNanos(time.0.saturating_sub(i64::try_from(event.at.0).unwrap_or(i64::MAX)));
        EventView {
            time: time.to_string(),
            host,
            kind: event.kind().as_str(),
            process: ProcessView::new(&event.process, booted),
            parent: event.parent.as_deref().map(|parent| ProcessView::new(parent, booted)),
            body: body_view(&event.body, booted),
        }
    }
}

fn body_view(body: &Body, booted: UnixNanos) -> Option<BodyView<'_>> {
    Some(match body {
        Body::Exec => return None,
        Body::Fork { child } => BodyView::Fork {
            child_tgid: child.tgid,
            child_key: format!("{}@{}", child.tgid, child.started.0),
        },
        Body::Exit { code, signal } => BodyView::Exit { code: *code, signal: *signal },
        Body::Connect(flow) | Body::Accept(flow) | Body::Listen(flow) | Body::UdpSend(flow) => {
            BodyView::Net(NetView::new(flow))
        }
        Body::File(file) => BodyView::File(FileView::new(file)),
        Body::Credentials { before, after } => {
            BodyView::Credentials { before: IdsView::new(before), after: IdsView::new(after) }
        }
        Body::Ptrace(ptrace) => BodyView::Ptrace(Box::new(PtraceView::new(ptrace, booted))),
        Body::Memfd { name } => BodyView::Memfd { name: text(name) },
        Body::ModuleLoad { name, call, result } => {
            BodyView::Module { name: text(name), call, result: *result }
        }
        Body::BpfLoad { program_type, name, result } => {
            BodyView::Bpf { program_type: *program_type, name: text(name), result: *result }
        }
        Body::Mount(mount) => BodyView::Mount(MountView {
            call: mount.call,
            source: text(&mount.source),
            target: text(&mount.target),
            fstype: text(&mount.fstype),
            flags: format!("{:#x}", mount.flags),
            result: mount.result,
        }),
        Body::Namespace(namespace) => BodyView::Namespace {
            call: namespace.call,
            flags: format!("{:#x}", namespace.flags),
            result: namespace.result,
        },
        Body::Login(login) => BodyView::Login(LoginView {
            service: text(&login.service),
            user: text(&login.user),
            remote: login.remote.map(|remote| remote.to_string()),
            method: text(&login.method),
            accepted: login.accepted,
        }),
        Body::Loss { source, count } => BodyView::Loss { source, count: *count },
        Body::Report(report) => {
            BodyView::Report(ReportView { app: report.app(), topic: report.topic(), fields: report.fields() })
        }
    })
}

impl NetView {
    fn new(flow: &Flow) -> Self {
        let errno = match flow.outcome {
            Outcome::Failed(errno) => Some(errno),
            _ => None,
        };
        NetView {
            transport: flow.transport.as_str(),
            local: flow.local.to_string(),
            local_ip: flow.local.ip().to_string(),
            local_port: flow.local.port(),
            remote: flow.remote.to_string(),
            remote_ip: flow.remote.ip().to_string(),
            remote_port: flow.remote.port(),
            outcome: flow.outcome.as_str(),
            errno,
        }
    }
}

impl<'a> FileView<'a> {
    fn new(file: &'a FileActivity) -> Self {
        FileView {
            action: file.action.kind().as_str().trim_start_matches("file_"),
            path: text(&file.path),
            path_hex: text_hex(&file.path),
            new_path: file.new_path.as_deref().map(text),
            new_path_hex: file.new_path.as_deref().and_then(text_hex),
            mode: file.mode.map(octal_mode),
            uid: file.uid,
        }
    }
}

impl IdsView {
    fn new(ids: &Credentials) -> Self {
        IdsView {
            uid: ids.uid,
            euid: ids.euid,
            suid: ids.suid,
            gid: ids.gid,
            egid: ids.egid,
            cap_effective: format!("{:016x}", ids.cap_effective),
            cap_permitted: format!("{:016x}", ids.cap_permitted),
        }
    }
}

impl<'a> PtraceView<'a> {
    fn new(ptrace: &'a PtraceActivity, booted: UnixNanos) -> Self {
        PtraceView {
            request: ptrace.request,
            target: ptrace.target,
            target_process: ptrace.target_process.as_deref().map(|target| ProcessView::new(target, booted)),
            result: ptrace.result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use watchfire_event::{BootNanos, FileAction, Process, Report, Transport};

    fn event(body: Body) -> Event {
        Event {
            at: BootNanos(5_000_000_000),
            decoded: BootNanos(5_000_100_000),
            process: Arc::new(Process::default()),
            parent: None,
            body,
        }
    }

    fn view(body: Body) -> serde_json::Value {
        serde_json::to_value(EventView::new(&event(body), "tower", UnixNanos(9_000_000_000))).unwrap()
    }

    #[test]
    fn an_exec_has_no_body_and_a_boot_time_derived_from_its_own() {
        let exec = view(Body::Exec);
        assert_eq!(exec["time"], "1970-01-01T00:00:09.000Z");
        assert_eq!((&exec["kind"], &exec["host"]), (&"exec".into(), &"tower".into()));
        // Started 0 ns after a boot that was at 4 s.
        assert_eq!(exec["process"]["started"], "1970-01-01T00:00:04.000Z");
    }

    #[test]
    fn each_group_of_kinds_has_its_own_object() {
        let flow = Flow {
            transport: Transport::Tcp,
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: "[2001:db8::1]:443".parse().unwrap(),
            outcome: Outcome::Failed(101),
        };
        let net = view(Body::Connect(flow));
        assert_eq!(net["net"]["remote"], "[2001:db8::1]:443");
        assert_eq!(net["net"]["errno"], 101);
        let file = view(Body::File(FileActivity {
            action: FileAction::Rename,
            path: b"/tmp/a\nb".to_vec(),
            new_path: Some(b"/tmp/\xfe".to_vec()),
            mode: Some(0o100_644),
            uid: None,
        }));
        assert_eq!(file["kind"], "file_rename");
        assert_eq!(file["file"]["path"], "/tmp/a\nb");
        assert_eq!(file["file"]["new_path_hex"], "2f746d702ffe");
        assert_eq!(file["file"]["mode"], "0644");
        assert_eq!(view(Body::Exit { code: 3, signal: 0 })["exit"]["code"], 3);
        assert_eq!(view(Body::Loss { source: "audit".to_owned(), count: 2 })["loss"]["count"], 2);
    }

    #[test]
    fn a_report_tells_its_fields_by_name_in_their_order_and_escaped() {
        let report =
            Report::new("agent", "breaker", [("state", "open"), ("cause", "\x1b[2J\""), ("a", "")]).unwrap();
        let event = event(Body::Report(report));
        let line = super::super::line::line(&EventView::new(&event, "tower", UnixNanos(9_000_000_000)));
        let told = r#""topic":"breaker","fields":{"state":"open","cause":"\u001b[2J\"","a":""}}"#;
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(told), "{line}");
    }
}
