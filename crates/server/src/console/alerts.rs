//! The list of alerts, and the page of one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use watchfire_event::{Alert, AlertId, AlertTimes, Level, UnixNanos, printable, printable_argv};

use super::attack::technique;
use super::page::{Place, cut, level_badge, message, moment, page};
use super::text::{Lang, Text, level_text};
use super::tree::{name, tree};
use crate::api::{ApiError, blocking, list_of};
use crate::shared::{Shared, StoredAlert};

/// Alerts on the page when no limit is given.
const ON_PAGE: usize = 200;
/// Longest command line in a list.
const COMMAND: usize = 200;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
    RawQuery(query): RawQuery,
) -> Response {
    let Ok(list) = list_of(query.as_deref(), UnixNanos::now(), ON_PAGE) else {
        return (StatusCode::BAD_REQUEST, message(&place, Text::BadRequest)).into_response();
    };
    let level = list.level;
    let limit = list.limit;
    match blocking(&shared, move |shared| shared.stores.alerts(&list).map_err(ApiError::store)).await {
        Ok(alerts) => list_page(&place, &alerts, level, limit).into_response(),
        Err(error) => failed(&place, error),
    }
}

/// The store could not answer: said to the person, told to the log.
pub(super) fn failed(place: &Place, error: ApiError) -> Response {
    let status = error.into_response().status();
    (status, message(place, Text::StoreFailed)).into_response()
}

fn list_page(place: &Place, alerts: &[StoredAlert], level: Option<Level>, limit: usize) -> Markup {
    let body = html! {
        h1 { (place.say(Text::Alerts)) }
        form.filter method="get" {
            select name="level" aria-label=(place.say(Text::Level)) {
                option value="" { (place.say(Text::AllLevels)) }
                @for choice in Level::ALL.into_iter().rev() {
                    option value=(choice.as_str()) selected[level == Some(choice)] {
                        (level_text(choice).to(place.lang))
                        @if choice != Level::Critical { " " (place.say(Text::AndAbove)) }
                    }
                }
            }
            button type="submit" { (place.say(Text::Filter)) }
            span.soft.small { (place.say(Text::Recent)) " " (limit) }
        }
        section {
            @if alerts.is_empty() { p.empty { (place.say(Text::NoAlerts)) } }
            @for alert in alerts.iter().rev() { (row(place.lang, alert)) }
        }
    };
    page(place, place.say(Text::Alerts), &body)
}

/// One alert in a list.
pub(super) fn row(lang: Lang, stored: &StoredAlert) -> Markup {
    let alert = &stored.alert;
    let at = alert.times.kernel.on_wall(alert.times.booted);
    html! {
        div.alert id={ "alert-" (alert.id) } {
            (level_badge(lang, alert.level))
            a.title href={ "/alerts/" (alert.id) } { (printable(alert.rule.title.as_bytes())) }
            span.when { (moment(at)) }
            span.line {
                @for id in &alert.attack { span.tag { (printable(id.as_bytes())) } }
                code { (command(alert)) } " · " (stored.host)
            }
        }
    }
}

fn command(alert: &Alert) -> String {
    let Some(node) = alert.tree.first() else { return String::new() };
    let line = printable_argv(&node.process.argv);
    if line.is_empty() { name(&node.process) } else { cut(&line, COMMAND) }
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<AlertId>() else {
        return (StatusCode::NOT_FOUND, message(&place, Text::AlertNotFound)).into_response();
    };
    match blocking(&shared, move |shared| shared.stores.alert(id).map_err(ApiError::store)).await {
        Ok(Some(alert)) => alert_page(&place, &alert).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, message(&place, Text::AlertNotFound)).into_response(),
        Err(error) => failed(&place, error),
    }
}

fn alert_page(place: &Place, stored: &StoredAlert) -> Markup {
    let alert = &stored.alert;
    let title = printable(alert.rule.title.as_bytes());
    let at = alert.times.kernel.on_wall(alert.times.booted);
    let body = html! {
        h1 { (title) }
        div.summary {
            (level_badge(place.lang, alert.level))
            span { (place.say(Text::Host)) " " b { (stored.host) } }
            span.soft { (moment(at)) " UTC" }
            @if let Some(latency) = alert.times.latency_ms() {
                span.pill { (place.say(Text::Latency)) " " (format!("{latency:.1}")) " " (place.say(Text::Milliseconds)) }
            }
            span.tag { (alert.kind.as_str()) }
        }
        section { h2 { (place.say(Text::ProcessTree)) } (tree(place, &alert.tree, alert.times.booted)) }
        div.columns {
            div {
                section { h2 { (place.say(Text::Attack)) } (techniques(place, &alert.attack)) }
                section { h2 { (place.say(Text::Rule)) } (rule(place, alert)) }
            }
            div {
                section { h2 { (place.say(Text::Matched)) } (matched(place, alert)) }
                section { h2 { (place.say(Text::Times)) } (times(place, &alert.times)) }
            }
        }
        p { a href="/alerts" { (place.say(Text::Back)) } }
    };
    page(place, &title, &body)
}

fn techniques(place: &Place, ids: &[String]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "ID" } th { (place.say(Text::Technique)) } th { (place.say(Text::Tactic)) } } }
            tbody {
                @for id in ids {
                    @let known = technique(id);
                    tr {
                        td { span.tag { (printable(id.as_bytes())) } }
                        td { (known.map_or("", |known| known.name)) }
                        td.soft { (known.map_or("", |known| known.tactics)) }
                    }
                }
            }
        } }
    }
}

fn rule(place: &Place, alert: &Alert) -> Markup {
    html! {
        dl {
            dt { "ID" } dd { code { (printable(alert.rule.id.as_bytes())) } }
            dt { (place.say(Text::Raw)) } dd { a href={ "/api/v1/alerts/" (alert.id) } { code { (alert.id) } } }
        }
    }
}

fn matched(place: &Place, alert: &Alert) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { (place.say(Text::Field)) } th { (place.say(Text::Value)) } } }
            tbody {
                @for field in &alert.matched {
                    tr {
                        td { code { (printable(field.name.as_bytes())) } }
                        // Escaped once already by the agent; what it may have missed is escaped here.
                        td { code { (cut(&without_controls(&field.value), 2000)) } }
                    }
                }
            }
        } }
    }
}

/// A value that `printable` has made, or should have: a backslash stays single, all else is escaped.
fn without_controls(value: &str) -> String {
    let parts: Vec<_> = value.split('\\').map(|part| printable(part.as_bytes())).collect();
    parts.join("\\")
}

/// The four moments, each with the time since the one before.
fn times(place: &Place, times: &AlertTimes) -> Markup {
    let millis = |nanos: u64| format!("+{:.2} {}", nanos as f64 / 1e6, place.say(Text::Milliseconds));
    let judged_on_wall = times.judged.on_wall(times.booted);
    let steps = [
        (Text::SeenByKernel, Some(times.kernel.on_wall(times.booted).to_string())),
        (Text::Decoded, Some(millis(times.decoded.0.saturating_sub(times.kernel.0)))),
        (Text::Judged, Some(millis(times.judged.0.saturating_sub(times.decoded.0)))),
        (
            Text::Stored,
            times.stored.map(|stored| {
                format!("{:+.2} {}", stored.millis_since(judged_on_wall), place.say(Text::Milliseconds))
            }),
        ),
    ];
    html! {
        ol.steps {
            @for (text, value) in steps {
                @if let Some(value) = value {
                    li { div.name { (place.say(text)) } div.gap.small { (value) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_escaped_once_and_never_shown_raw() {
        assert_eq!(without_controls("a\\x1b\\\\"), "a\\x1b\\\\");
        assert_eq!(without_controls("a\x1b\u{202e}\\"), "a\\x1b\\u{202e}\\");
    }
}
