//! Alerts: a list, one of them, and all new ones as they are stored.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use watchfire_event::{AlertId, UnixNanos};

use super::feed::{Feed, open_feed};
use super::parameters::{DEFAULT_LIMIT, list_of};
use super::state::lines;
use super::{ApiError, blocking};
use crate::json::{self, AlertView};
use crate::shared::{Shared, StoredAlert};

/// Alerts a returning reader of the feed is given at most; more are in the list.
const REPLAY: usize = 1000;

/// The newest that match, oldest first.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let list = list_of(query.as_deref(), UnixNanos::now(), DEFAULT_LIMIT)?;
    let body = blocking(&shared, move |shared| {
        let alerts = shared.stores.alerts(&list).map_err(ApiError::store)?;
        Ok(alerts.iter().flat_map(view).collect::<Vec<u8>>())
    });
    Ok(lines(body.await?))
}

pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id: AlertId = id.parse().map_err(|_| ApiError::NotFound("alert with this id"))?;
    let found = blocking(&shared, move |shared| shared.stores.alert(id).map_err(ApiError::store)).await?;
    let alert = found.ok_or(ApiError::NotFound("alert with this id"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], view(&alert)).into_response())
}

/// Server-sent events: `alert` with one alert's JSON, `missed` with `{"count":N}` when the reader was too slow. A reader that
/// names the last one it had (`Last-Event-ID`) gets those stored since first.
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // Listening starts before the past is read: nothing falls in between, and what comes twice is left out.
    let feed = shared.alert_feed();
    let last: Option<AlertId> = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let past = match last {
        None => Vec::new(),
        Some(id) => {
            let read = move |shared: &Shared| shared.stores.alerts_after(id, REPLAY).map_err(ApiError::store);
            blocking(&shared, read).await?
        }
    };
    let known: HashSet<AlertId> = past.iter().map(|stored| stored.alert.id).collect();
    let mut past = Some(past);
    open_feed(&shared, feed, None, move |item| match item {
        Feed::Alert(stored) if known.contains(&stored.alert.id) => Vec::new(),
        Feed::Alert(alert) => vec![event_of(&alert)],
        Feed::Missed(count) => vec![Event::default().event("missed").data(format!("{{\"count\":{count}}}"))],
        Feed::Tick => past.take().unwrap_or_default().iter().map(event_of).collect(),
    })
}

fn event_of(alert: &StoredAlert) -> Event {
    let line = view(alert);
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    Event::default().event("alert").id(alert.alert.id.to_string()).data(text)
}

fn view(alert: &StoredAlert) -> Vec<u8> {
    json::line(&AlertView::new(&alert.alert, &alert.host))
}
