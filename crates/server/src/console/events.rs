//! The newest events, by kind.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use watchfire_event::{Body, Kind, UnixNanos, printable_argv};
use watchfire_lake::StoredEvent;

use super::alerts::failed;
use super::page::{Place, cut, message, moment, page, shown};
use super::summary::what;
use super::text::Text;
use super::tree::name;
use crate::agents::name_or_id;
use crate::api::{ApiError, blocking, list_of};
use crate::shared::Shared;

/// Events on the page when no limit is given, and the most it will draw.
const ON_PAGE: usize = 200;
const MOST: usize = 2000;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(place): Extension<Place>,
    RawQuery(query): RawQuery,
) -> Response {
    let Ok(mut list) = list_of(query.as_deref(), UnixNanos::now(), ON_PAGE) else {
        return (StatusCode::BAD_REQUEST, message(&place, Text::BadRequest)).into_response();
    };
    list.limit = list.limit.min(MOST);
    let (kind, limit) = (list.kinds.first().copied(), list.limit);
    let read = blocking(&shared, move |shared| {
        let rows = shared.stores.events(&list).map_err(ApiError::store)?;
        rows.collect::<Result<Vec<StoredEvent>, _>>().map_err(ApiError::store)
    });
    match read.await {
        Ok(rows) => list_page(&place, &rows, kind, limit).into_response(),
        Err(error) => failed(&place, error),
    }
}

fn list_page(place: &Place, rows: &[StoredEvent], kind: Option<Kind>, limit: usize) -> Markup {
    let body = html! {
        h1 { (place.say(Text::Events)) }
        form.filter method="get" {
            select name="kind" aria-label=(place.say(Text::Kind)) {
                option value="" { (place.say(Text::AllKinds)) }
                @for choice in Kind::ALL {
                    option value=(choice.as_str()) selected[kind == Some(*choice)] { (choice.as_str()) }
                }
            }
            button type="submit" { (place.say(Text::Filter)) }
            span.soft.small { (place.say(Text::Recent)) " " (limit) }
        }
        section {
            @if rows.is_empty() { p.empty { (place.say(Text::NoEvents)) } }
            @else { div.scroll { table {
                thead { tr {
                    th { (place.say(Text::TimeUtc)) } th { (place.say(Text::Kind)) } th { (place.say(Text::Process)) }
                    th { (place.say(Text::User)) } th { (place.say(Text::What)) } th { (place.say(Text::Host)) }
                } }
                tbody { @for row in rows.iter().rev() { (event_row(place, row)) } }
            } } }
        }
    };
    page(place, place.say(Text::Events), &body)
}

fn event_row(place: &Place, row: &StoredEvent) -> Markup {
    let process = &row.event.process;
    html! {
        tr {
            td.time { (moment(row.time)) }
            td { span.tag { (row.event.kind().as_str()) } }
            td { code { (name(process)) } " " span.soft.small { (process.key.tgid) } }
            td.numeric { (process.credentials.uid) }
            td.what {
                details {
                    summary { code { (what(&row.event)) } }
                    pre {
                        @if let Body::Report(report) = &row.event.body {
                            (place.say(Text::What)) ": " (cut(&report.to_string(), 4000)) "\n"
                        }
                        (place.say(Text::Command)) ": " (cut(&printable_argv(&process.argv), 4000)) "\n"
                        (place.say(Text::Directory)) ": " (shown(&process.cwd, 500)) "\n"
                        @if let Some(parent) = &row.event.parent {
                            (place.say(Text::Parent)) ": " (name(parent)) " " (parent.key.tgid) " "
                            (cut(&printable_argv(&parent.argv), 500)) "\n"
                        }
                        @if let Some(container) = &process.container {
                            (place.say(Text::Container)) ": " (shown(container.0.as_bytes(), 80)) "\n"
                        }
                    }
                }
            }
            td.soft { (name_or_id(&row.hostname, row.host)) }
        }
    }
}
