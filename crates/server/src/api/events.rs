//! Events: the newest that match, oldest first.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use watchfire_event::UnixNanos;
use watchfire_lake::EventRows;

use super::parameters::{DEFAULT_LIMIT, list_of};
use super::state::lines;
use super::{ApiError, blocking};
use crate::agents::name_or_id;
use crate::json::{self, EventView};
use crate::shared::Shared;

/// Lines are handed on in pieces of about this size, a few at a time: a slow reader costs its rows, not their text.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;

type Piece = std::io::Result<Bytes>;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let list = list_of(query.as_deref(), UnixNanos::now(), DEFAULT_LIMIT)?;
    let rows = blocking(&shared, move |shared| shared.stores.events(&list).map_err(ApiError::store)).await?;
    let (sender, receiver) = mpsc::channel(PIECES);
    // Ends with its last row, or when the reader is gone.
    tokio::task::spawn_blocking(move || write_rows(rows, &sender));
    Ok(lines(Body::from_stream(ReceiverStream::new(receiver))))
}

/// Writes until the last row, or until the reader has gone. A row that cannot be read ends the answer as broken: a list
/// that lacks rows must not look whole.
fn write_rows(rows: EventRows, sender: &mpsc::Sender<Piece>) {
    let mut piece = Vec::with_capacity(PIECE + 4096);
    for row in rows {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!(error = format!("{error:#}"), "a list of events broke off");
                drop(sender.blocking_send(Err(std::io::Error::other(error))));
                return;
            }
        };
        let host = name_or_id(&row.hostname, row.host);
        piece.extend(json::line(&EventView::new(&row.event, &host, row.time)));
        if piece.len() >= PIECE && sender.blocking_send(Ok(std::mem::take(&mut piece).into())).is_err() {
            return;
        }
    }
    if !piece.is_empty() {
        // A reader that left needs no last piece.
        drop(sender.blocking_send(Ok(piece.into())));
    }
}
