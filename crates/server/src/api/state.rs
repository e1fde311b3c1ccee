//! What is known right now: health, hosts, sources, counts, books.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use watchfire_event::{UnixNanos, printable};

use super::parameters::earlier_of;
use super::{ApiError, blocking};
use crate::agents::AgentState;
use crate::json::{self, LedgerRowView, VerdictView};
use crate::shared::Shared;

/// 200 once the local agent is online with its sensors attached.
pub(super) async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    match shared.agents.health() {
        _ if shared.stopping() => {
            (StatusCode::SERVICE_UNAVAILABLE, plain, "stopping\n".to_owned()).into_response()
        }
        Ok(()) => (StatusCode::OK, plain, "ok\n".to_owned()).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, plain, format!("{reason}\n")).into_response(),
    }
}

/// JSON Lines.
pub(super) fn lines(body: impl Into<axum::body::Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body.into()).into_response()
}

#[derive(Debug, Serialize)]
struct HostView {
    id: String,
    host: String,
    os: String,
    kernel: String,
    agent_version: String,
    online: bool,
    sensors_attached: bool,
    rules_loaded: u32,
    /// Rules that were left out, and why.
    rule_faults: Vec<FaultView>,
    alerts_dropped: u64,
    processes_healed: u64,
    processes_unknown: u64,
    first_seen: String,
    last_seen: String,
    booted: Option<String>,
    processes: Vec<UseView>,
    /// Why no worker runs just now; empty while one does.
    idle: String,
    breakers: Vec<BreakerView>,
    /// What waits on the host's disk; null when the agent has not said.
    spool: Option<SpoolView>,
    apps: Vec<AppView>,
    /// The agent's settings in force, by their number; 0 when it has not said.
    configuration_revision: u64,
}

/// An app of the agent.
#[derive(Debug, Serialize)]
struct AppView {
    worker: String,
    app: String,
    state: String,
    /// Why it does not run.
    why: String,
    starts: u64,
    failures: u64,
    panics: u64,
    facts: u64,
    limited: u64,
    overruns: u64,
}

/// What waits on a host's disk for the server.
#[derive(Debug, Serialize)]
struct SpoolView {
    state: String,
    detail: String,
    records: u64,
    bytes: u64,
    limit_bytes: u64,
    /// Earlier lives of the agent that have not handed over everything.
    earlier_streams: u32,
}

/// A circuit breaker of the agent.
#[derive(Debug, Serialize)]
struct BreakerView {
    name: String,
    state: String,
    /// The last change with its figures.
    cause: String,
    trips: u32,
    cool_down_ms: u64,
}

#[derive(Debug, Serialize)]
struct FaultView {
    file: String,
    error: String,
}

#[derive(Debug, Serialize)]
struct UseView {
    role: String,
    rss_bytes: u64,
    cpu_micros: u64,
}

pub(super) async fn hosts(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let known = blocking(&shared, |shared| shared.stores.hosts().map_err(ApiError::store)).await?;
    let online = shared.agents.all();
    let mut body = Vec::new();
    for host in known {
        let agent = online.iter().find(|agent| agent.stream.host == host.id);
        let status = agent.and_then(|agent| agent.status.as_ref());
        let view = HostView {
            id: host.id.to_string(),
            host: host.name,
            os: safe(&host.os),
            kernel: safe(&host.kernel),
            agent_version: safe(&host.agent_version),
            online: agent.is_some_and(AgentState::online),
            sensors_attached: status.is_some_and(|status| status.sensors_attached),
            rules_loaded: status.map_or(0, |status| status.rules_loaded),
            rule_faults: status.map(faults).unwrap_or_default(),
            alerts_dropped: status.map_or(0, |status| status.alerts_dropped),
            processes_healed: status.map_or(0, |status| status.processes_healed),
            processes_unknown: status.map_or(0, |status| status.processes_unknown),
            first_seen: host.first_seen.to_string(),
            last_seen: agent.map_or(host.last_seen, |agent| agent.last_frame.max(host.last_seen)).to_string(),
            booted: agent.map(|agent| UnixNanos(agent.hello.booted).to_string()),
            processes: status.map(uses).unwrap_or_default(),
            idle: status.map(|status| safe(&status.idle)).unwrap_or_default(),
            breakers: status.map(breakers).unwrap_or_default(),
            spool: status.and_then(|status| status.spool.as_ref()).map(spool),
            apps: status.map(apps).unwrap_or_default(),
            configuration_revision: status.map_or(0, |status| status.configuration_revision),
        };
        body.extend(json::line(&view));
    }
    Ok(lines(body))
}

fn faults(status: &watchfire_wire::v1::Status) -> Vec<FaultView> {
    let view = |fault: &watchfire_wire::v1::RuleFault| FaultView {
        file: safe(&fault.file),
        error: safe(&fault.error),
    };
    status.rule_faults.iter().map(view).collect()
}

fn breakers(status: &watchfire_wire::v1::Status) -> Vec<BreakerView> {
    let view = |breaker: &watchfire_wire::v1::BreakerStatus| BreakerView {
        name: safe(&breaker.name),
        state: safe(&breaker.state),
        cause: safe(&breaker.cause),
        trips: breaker.trips,
        cool_down_ms: breaker.cool_down_millis,
    };
    status.breakers.iter().map(view).collect()
}

fn apps(status: &watchfire_wire::v1::Status) -> Vec<AppView> {
    let view = |app: &watchfire_wire::v1::AppStatus| AppView {
        worker: safe(&app.worker),
        app: safe(&app.app),
        state: safe(&app.state),
        why: safe(&app.why),
        starts: app.starts,
        failures: app.failures,
        panics: app.panics,
        facts: app.facts,
        limited: app.limited,
        overruns: app.overruns,
    };
    status.apps.iter().map(view).collect()
}

fn spool(spool: &watchfire_wire::v1::SpoolStatus) -> SpoolView {
    SpoolView {
        state: safe(&spool.state),
        detail: safe(&spool.detail),
        records: spool.records,
        bytes: spool.bytes,
        limit_bytes: spool.limit_bytes,
        earlier_streams: spool.earlier_streams,
    }
}

fn uses(status: &watchfire_wire::v1::Status) -> Vec<UseView> {
    let view = |usage: &watchfire_wire::v1::ProcessUse| UseView {
        role: safe(&usage.role),
        rss_bytes: usage.rss_bytes,
        cpu_micros: usage.cpu_micros,
    };
    status.r#use.iter().map(view).collect()
}

#[derive(Debug, Serialize)]
struct SourceView<'a> {
    host: &'a str,
    name: String,
    state: String,
    detail: String,
}

#[derive(Debug, Serialize)]
struct RuleFaultView<'a> {
    host: &'a str,
    rule_file: String,
    error: String,
}

/// Each source of each online host, then the rule files that could not be used.
pub(super) async fn sources(State(shared): State<Arc<Shared>>) -> Response {
    let mut body = Vec::new();
    for agent in shared.agents.all() {
        let host = agent.host_name();
        let status = agent.status.unwrap_or_default();
        for source in &status.sources {
            let (name, state, detail) = (safe(&source.name), safe(&source.state), safe(&source.detail));
            body.extend(json::line(&SourceView { host: &host, name, state, detail }));
        }
        for fault in &status.rule_faults {
            let (rule_file, error) = (safe(&fault.file), safe(&fault.error));
            body.extend(json::line(&RuleFaultView { host: &host, rule_file, error }));
        }
    }
    lines(body)
}

#[derive(Debug, Serialize)]
struct CountView {
    kind: &'static str,
    total: u64,
    per_second: f64,
}

/// Events by kind since the server's start.
pub(super) async fn counts(State(shared): State<Arc<Shared>>) -> Response {
    let mut body = Vec::new();
    for count in shared.live.counts() {
        let view = CountView { kind: count.kind.as_str(), total: count.total, per_second: count.per_second };
        body.extend(json::line(&view));
    }
    lines(body)
}

/// The books of each host's present run of its agent, or of the earlier runs that are remembered, then whether they close.
pub(super) async fn ledger(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, ApiError> {
    let earlier = earlier_of(&uri)?;
    let agents = if earlier { shared.agents.earlier() } else { shared.agents.all() };
    let mut body = Vec::new();
    for agent in &agents {
        let host = agent.host_name();
        for row in agent.ledger.iter().flat_map(|snapshot| snapshot.books.rows()) {
            body.extend(json::line(&LedgerRowView::new(&row, &host, agent.stream)));
        }
    }
    body.extend(json::line(&verdict(&agents)));
    Ok(lines(body))
}

/// Whether the books of all agents close. Books that no one has sent do not close.
pub(crate) fn verdict(agents: &[AgentState]) -> VerdictView {
    let mut faults = Vec::new();
    for agent in agents {
        let host = agent.host_name();
        match &agent.ledger {
            Some(snapshot) => {
                faults.extend(snapshot.books.faults().into_iter().map(|fault| format!("{host}: {fault}")))
            }
            None => faults.push(format!("{host}: its agent has not sent its books yet")),
        }
    }
    if agents.is_empty() {
        faults.push("no agent has sent its books yet".to_owned());
    }
    let oldest = agents.iter().filter_map(|agent| agent.ledger.as_ref()).map(|snapshot| snapshot.time).min();
    VerdictView { balanced: faults.is_empty(), faults, time: oldest.map(|time| time.to_string()) }
}

/// Text from an agent, made safe to show.
fn safe(text: &str) -> String {
    printable(text.as_bytes()).into_owned()
}
