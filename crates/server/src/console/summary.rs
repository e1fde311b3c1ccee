//! An event in one line for people.

use watchfire_event::{Body, Event, Flow, Outcome, printable, printable_argv};

use super::page::cut;

/// Longest line shown.
const LINE: usize = 400;

/// What happened, without who did it.
pub(super) fn what(event: &Event) -> String {
    cut(&line(event), LINE)
}

fn line(event: &Event) -> String {
    match &event.body {
        Body::Exec => printable_argv(&event.process.argv),
        Body::Fork { child } => format!("→ {}", child.tgid),
        Body::Exit { code, signal: 0 } => format!("code {code}"),
        Body::Exit { signal, .. } => format!("signal {signal}"),
        Body::Connect(flow) => format!("{}{}", arrow(flow), outcome(flow.outcome)),
        Body::Accept(flow) => format!("{} {} ← {}", flow.transport.as_str(), flow.local, flow.remote),
        Body::Listen(flow) => format!("{} {}", flow.transport.as_str(), flow.local),
        Body::UdpSend(flow) => arrow(flow),
        Body::File(file) => {
            let old = printable(&file.path);
            match &file.new_path {
                Some(new) => format!("{old} → {}", printable(new)),
                None => old.into_owned(),
            }
        }
        Body::Credentials { before, after } => format!(
            "uid {} → {}, euid {} → {}, capabilities {:x} → {:x}",
            before.uid, after.uid, before.euid, after.euid, before.cap_effective, after.cap_effective
        ),
        Body::Ptrace(ptrace) => {
            let exe = ptrace.target_process.as_ref().map(|target| printable(&target.exe).into_owned());
            format!("{} {} {}", ptrace.request, ptrace.target, exe.unwrap_or_default())
        }
        Body::Memfd { name } => printable(name).into_owned(),
        Body::ModuleLoad { name, call, result } => format!("{call} {} = {result}", printable(name)),
        Body::BpfLoad { program_type, name, result } => {
            format!("type {program_type} {} = {result}", printable(name))
        }
        Body::Mount(mount) => format!(
            "{} {} → {} ({}) = {}",
            mount.call,
            printable(&mount.source),
            printable(&mount.target),
            printable(&mount.fstype),
            mount.result
        ),
        Body::Namespace(namespace) => {
            format!("{} {:#x} = {}", namespace.call, namespace.flags, namespace.result)
        }
        Body::Login(login) => {
            let from = login.remote.map(|remote| format!(" ← {remote}")).unwrap_or_default();
            let outcome = if login.accepted { "accepted" } else { "refused" };
            let (service, user) = (printable(&login.service), printable(&login.user));
            format!("{service} {user}{from} {} {outcome}", printable(&login.method))
        }
        Body::Loss { source, count } => format!("{} {count}", printable(source.as_bytes())),
        Body::Report(report) => report.to_string(),
    }
}

fn arrow(flow: &Flow) -> String {
    format!("{} {} → {}", flow.transport.as_str(), flow.local, flow.remote)
}

fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Succeeded => String::new(),
        Outcome::Failed(errno) => format!(" failed (errno {errno})"),
        other => format!(" {}", other.as_str()),
    }
}
