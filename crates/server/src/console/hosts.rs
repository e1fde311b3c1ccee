//! The hosts, and what their agents say of themselves.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use watchfire_event::{UnixNanos, printable};
use watchfire_wire::v1;

use super::alerts::failed;
use super::page::{Place, grouped, moment, page, shown};
use super::text::Text;
use crate::agents::AgentState;
use crate::api::{ApiError, blocking};
use crate::shared::Shared;
use crate::stores::HostRow;

pub(super) async fn list(State(shared): State<Arc<Shared>>, Extension(place): Extension<Place>) -> Response {
    match blocking(&shared, |shared| shared.stores.hosts().map_err(ApiError::store)).await {
        Ok(hosts) => list_page(&place, &hosts, &shared.agents.all()).into_response(),
        Err(error) => failed(&place, error),
    }
}

fn list_page(place: &Place, hosts: &[HostRow], agents: &[AgentState]) -> Markup {
    let body = html! {
        h1 { (place.say(Text::Hosts)) }
        @if hosts.is_empty() { section { p.empty { (place.say(Text::NoAgent)) } } }
        @for host in hosts {
            @let agent = agents.iter().find(|agent| agent.stream.host == host.id);
            div.columns {
                div { section {
                    (card_head(&host.name, place, agent))
                    dl {
                        dt { "ID" } dd { code { (host.id) } }
                        dt { (place.say(Text::System)) } dd { (shown(host.os.as_bytes(), 200)) }
                        dt { (place.say(Text::Kernel)) } dd { (shown(host.kernel.as_bytes(), 200)) }
                        dt { (place.say(Text::Agent)) } dd { (shown(host.agent_version.as_bytes(), 80)) }
                        dt { (place.say(Text::FirstSeen)) } dd { (moment(host.first_seen)) }
                        dt { (place.say(Text::LastSeen)) } dd { (moment(host.last_seen)) }
                        @if let Some(agent) = agent { (running(place, agent)) }
                    }
                } }
                div { @if let Some(status) = agent.and_then(|agent| agent.status.as_ref()) {
                    section { h2 { (place.say(Text::Sources)) } (sources(place, status)) }
                } }
            }
        }
    };
    page(place, place.say(Text::Hosts), &body)
}

/// The card of one agent on the overview.
pub(super) fn card(place: &Place, agent: &AgentState) -> Markup {
    html! {
        section {
            (card_head(&agent.host_name(), place, Some(agent)))
            dl {
                dt { (place.say(Text::System)) } dd { (shown(agent.hello.os.as_bytes(), 200)) }
                dt { (place.say(Text::Kernel)) } dd { (shown(agent.hello.kernel.as_bytes(), 200)) }
                dt { (place.say(Text::Agent)) } dd { (shown(agent.hello.agent_version.as_bytes(), 80)) }
                (running(place, agent))
            }
        }
    }
}

/// The sources of one agent, and the rule files it could not use.
pub(super) fn sources_card(place: &Place, agent: &AgentState) -> Markup {
    html! {
        @if let Some(status) = &agent.status {
            section { h2 { (place.say(Text::Sources)) } (sources(place, status)) }
            @if !status.rule_faults.is_empty() {
                section { h2 { (place.say(Text::RuleFaults)) } (rule_faults(status)) }
            }
        }
    }
}

fn card_head(name: &str, place: &Place, agent: Option<&AgentState>) -> Markup {
    let online = agent.is_some_and(AgentState::online);
    let attached =
        agent.and_then(|agent| agent.status.as_ref()).is_some_and(|status| status.sensors_attached);
    html! {
        div.head {
            h1 { (name) }
            div {
                @if online { span.pill.good { (place.say(Text::Online)) } } @else { span.pill.bad { (place.say(Text::Offline)) } }
                @if online {
                    " "
                    @if attached { span.pill.good { (place.say(Text::Attached)) } }
                    @else { span.pill.warn { (place.say(Text::NotAttached)) } }
                }
            }
        }
    }
}

fn running(place: &Place, agent: &AgentState) -> Markup {
    html! {
        dt { (place.say(Text::Booted)) } dd { (moment(UnixNanos(agent.hello.booted))) }
        @if let Some(status) = &agent.status {
            dt { (place.say(Text::RulesLoaded)) } dd { (status.rules_loaded) }
            @if status.alerts_dropped > 0 {
                dt { (place.say(Text::AlertsDropped)) } dd { span.pill.bad { (grouped(status.alerts_dropped)) } }
            }
            @for usage in &status.r#use {
                dt { (shown(usage.role.as_bytes(), 60)) }
                dd {
                    (place.say(Text::Memory)) " " (format!("{:.1}", usage.rss_bytes as f64 / 1e6)) " MB, "
                    (place.say(Text::CpuTime)) " " (format!("{:.1}", usage.cpu_micros as f64 / 1e6)) " s"
                }
            }
        }
    }
}

fn sources(place: &Place, status: &v1::Status) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { (place.say(Text::Source)) } th { (place.say(Text::State)) } th { (place.say(Text::Detail)) } } }
            tbody { @for source in &status.sources {
                tr {
                    td.name { code { (shown(source.name.as_bytes(), 60)) } }
                    td { (state(place, &source.state)) }
                    td.soft.small { (shown(source.detail.as_bytes(), 1000)) }
                }
            } }
        } }
    }
}

fn state(place: &Place, word: &str) -> Markup {
    let (class, text) = match word {
        "active" => ("pill good", Some(Text::Active)),
        "standby" => ("pill", Some(Text::Standby)),
        "unavailable" => ("pill warn", Some(Text::Unavailable)),
        _ => ("pill", None),
    };
    let unknown = printable(word.as_bytes());
    html! { span class=(class) { (text.map_or(unknown.as_ref(), |text| place.say(text))) } }
}

fn rule_faults(status: &v1::Status) -> Markup {
    html! {
        p.small.soft { (grouped(status.rule_faults.len() as u64)) }
        @for fault in &status.rule_faults {
            details {
                summary { code { (shown(fault.file.as_bytes(), 300)) } }
                pre { (shown(fault.error.as_bytes(), 1000)) }
            }
        }
    }
}
