//! The first page: the host, live counts, live alerts.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::alerts::{failed, row};
use super::hosts::{card, sources_card};
use super::page::{Place, grouped, page};
use super::text::{Lang, Text};
use crate::api::{ApiError, Feed, List, blocking, open_feed};
use crate::live::LiveCounts;
use crate::shared::{Shared, StoredAlert};

/// Alerts on the overview.
const RECENT: usize = 50;
/// Pace of the counts.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn page_of(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
) -> Response {
    match recent(&shared).await {
        Ok(alerts) => overview(&place, &shared, &alerts).into_response(),
        Err(error) => failed(&place, error),
    }
}

async fn recent(shared: &Arc<Shared>) -> Result<Vec<StoredAlert>, ApiError> {
    let list = List { since: None, limit: RECENT, level: None, rule: None, kinds: Vec::new() };
    blocking(shared, move |shared| shared.stores.alerts(&list).map_err(ApiError::store)).await
}

fn overview(place: &Place, shared: &Shared, alerts: &[StoredAlert]) -> Markup {
    let agents = shared.agents.all();
    let body = html! {
        div.columns {
            div {
                @if agents.is_empty() { section { p.empty { (place.say(Text::NoAgent)) } } }
                @for agent in &agents { (card(place, agent)) }
            }
            section { h2 { (place.say(Text::LiveEvents)) } div #counts { (counts(place.lang, &shared.live)) } }
        }
        div.columns {
            div { @for agent in &agents { (sources_card(place, agent)) } }
            section {
                div.head {
                    h2 { (place.say(Text::LiveAlerts)) }
                    span #live-state .pill data-live=(place.say(Text::Live))
                        data-reconnecting=(place.say(Text::Reconnecting)) { "…" }
                }
                div #alerts { (rows(place.lang, alerts)) }
                p.small { a href="/alerts" { (place.say(Text::MoreInTable)) } }
            }
        }
    };
    page(place, place.say(Text::Overview), &body)
}

fn rows(lang: Lang, alerts: &[StoredAlert]) -> Markup {
    html! {
        @if alerts.is_empty() { p.empty { (Text::NoAlerts.to(lang)) } }
        @for alert in alerts.iter().rev() { (row(lang, alert)) }
    }
}

fn counts(lang: Lang, live: &LiveCounts) -> Markup {
    html! {
        (spark(lang, &live.last_minute()))
        div.tiles {
            @for count in live.counts() {
                div.tile.idle[count.total == 0] {
                    div.kind { (count.kind.as_str()) }
                    div.total { (grouped(count.total)) }
                    div.rate { (format!("{:.1}", count.per_second)) (Text::PerSecond.to(lang)) }
                }
            }
        }
    }
}

/// The last minute as bars, the newest at the right.
fn spark(lang: Lang, seconds: &[u64]) -> Markup {
    const HEIGHT: f64 = 56.0;
    let most = seconds.iter().copied().max().unwrap_or(0).max(1);
    let first = 60 - seconds.len().min(60);
    html! {
        svg.spark viewBox="0 0 600 56" preserveAspectRatio="none" role="img" {
            title { (Text::LastMinute.to(lang)) ": " (most) }
            line x1="0" y1="55.5" x2="600" y2="55.5" {}
            @for (index, count) in seconds.iter().enumerate() {
                @let height = *count as f64 / most as f64 * (HEIGHT - 2.0);
                rect x=((first + index) * 10) y=(format!("{:.1}", HEIGHT - height)) width="8" height=(format!("{height:.1}")) {}
            }
        }
    }
}

/// Server-sent events for the page: `alerts` once (the whole list), then `alert` for each new one, and `counts`.
pub(super) async fn live(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
) -> Result<Response, ApiError> {
    // Listening starts before the list is read, so that no alert falls in between; the page knows ids it has.
    let feed = shared.alert_feed();
    let alerts = recent(&shared).await?;
    let lang = place.lang;
    let mut list = Some(Event::default().event("alerts").data(rows(lang, &alerts).into_string()));
    let source = shared.clone();
    open_feed(&shared, feed, Some(TICK), move |item| match item {
        Feed::Alert(alert) => {
            let event = Event::default().event("alert").id(alert.alert.id.to_string());
            vec![event.data(row(lang, &alert).into_string())]
        }
        // Too many to draw one by one; the list on the next page load has them.
        Feed::Missed(_) => Vec::new(),
        Feed::Tick => {
            let counts = Event::default().event("counts").data(counts(lang, &source.live).into_string());
            list.take().into_iter().chain([counts]).collect()
        }
    })
}
