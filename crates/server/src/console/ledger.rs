//! The ledger: stage by stage, kind by kind.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use watchfire_event::{Books, Counts, Kind, Stage};

use super::page::{Place, grouped, moment, page};
use super::text::Text;
use crate::agents::{AgentState, LedgerSnapshot};
use crate::api::verdict;
use crate::shared::Shared;

pub(super) async fn page_of(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
) -> Response {
    ledger_page(&place, &shared.agents.all()).into_response()
}

fn ledger_page(place: &Place, agents: &[AgentState]) -> Markup {
    let verdict = verdict(agents);
    let known = agents.iter().any(|agent| agent.ledger.is_some());
    let class = if verdict.balanced { "verdict good" } else { "verdict bad" };
    let text = match (known, verdict.balanced) {
        (false, _) => Text::NoBooks,
        (true, true) => Text::Balanced,
        (true, false) => Text::NotBalanced,
    };
    let body = html! {
        h1 { (place.say(Text::Ledger)) }
        div class=(class) {
            (place.say(text))
            @if known && !verdict.faults.is_empty() { ul { @for fault in verdict.faults.iter().take(100) { li { (fault) } } } }
        }
        p.soft { (place.say(Text::LedgerIntro)) }
        @for agent in agents { @if let Some(snapshot) = &agent.ledger {
            section {
                div.head {
                    h1 { (agent.host_name()) }
                    span.soft.small { (place.say(Text::AsOf)) " " (moment(snapshot.time)) " UTC" }
                }
                (books(place, snapshot))
            }
        } }
    };
    page(place, place.say(Text::Ledger), &body)
}

fn books(place: &Place, snapshot: &LedgerSnapshot) -> Markup {
    let books = &snapshot.books;
    let stages: Vec<Stage> = Stage::ALL
        .iter()
        .copied()
        .filter(|stage| Kind::ALL.iter().any(|kind| books.get(*stage, *kind).is_some()))
        .collect();
    let kinds: Vec<Kind> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| stages.iter().any(|stage| seen(books, *stage, *kind)))
        .collect();
    html! {
        div.scroll { table {
            thead { tr {
                th { (place.say(Text::Kind)) }
                @for stage in &stages { th.numeric { (place.say(stage_text(*stage))) } }
            } }
            tbody { @for kind in &kinds {
                tr {
                    td { code { (kind.as_str()) } }
                    @for stage in &stages { td.numeric { (cell(place, books.get(*stage, *kind))) } }
                }
            } }
        } }
    }
}

fn seen(books: &Books, stage: Stage, kind: Kind) -> bool {
    books.get(stage, kind).is_some_and(|counts| *counts != Counts::default())
}

/// What came in, and below it whatever did not simply go on.
fn cell(place: &Place, counts: Option<&Counts>) -> Markup {
    let Some(counts) = counts else { return html! {} };
    html! {
        span.cell-main { (grouped(counts.seen)) }
        @if counts.filtered > 0 { span.cell-sub { (place.say(Text::Filtered)) " " (grouped(counts.filtered)) } }
        @for (reason, count) in counts.dropped.iter().filter(|(_, count)| **count > 0) {
            span.cell-sub.loss { (place.say(Text::Dropped)) " " (grouped(*count)) " " (reason.as_str()) }
        }
        @if counts.held > 0 { span.cell-sub { (place.say(Text::Held)) " " (grouped(counts.held)) } }
    }
}

fn stage_text(stage: Stage) -> Text {
    match stage {
        Stage::Kernel => Text::StageKernel,
        Stage::Sensor => Text::StageSensor,
        Stage::Detect => Text::StageDetect,
        Stage::Uplink => Text::StageUplink,
        Stage::Ingest => Text::StageIngest,
        Stage::Log => Text::StageLog,
        Stage::Lake => Text::StageLake,
    }
}
