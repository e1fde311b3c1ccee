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
    // Ends with the last row, or when the reader is gone.
    tokio::spawn(hand_on(rows, sender));
    Ok(lines(Body::from_stream(ReceiverStream::new(receiver))))
}

/// Reads piece by piece, each on a thread for disks that is given back while a slow reader is waited for. A row that cannot be
/// read ends the answer as broken: a list that lacks rows must not look whole.
async fn hand_on(mut rows: EventRows, sender: mpsc::Sender<Piece>) {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let piece = next_piece(&mut rows);
            (rows, piece)
        });
        let piece = match read.await {
            Ok((_, Ok(piece))) if piece.is_empty() => return,
            Ok((rest, piece)) => {
                rows = rest;
                piece
            }
            Err(panicked) => {
                tracing::error!(error = %panicked, "a list of events broke off");
                // The rows are gone with their thread; the reader must learn that this is not all.
                drop(sender.send(Err(std::io::Error::other(panicked))).await);
                return;
            }
        };
        let broken = piece.is_err();
        if sender.send(piece).await.is_err() || broken {
            return;
        }
    }
}

/// The next lines; empty after the last one.
fn next_piece(rows: &mut EventRows) -> Piece {
    let mut piece = Vec::with_capacity(PIECE + 4096);
    for row in rows {
        let row = row.map_err(|error| {
            let error = anyhow::Error::from(error);
            tracing::error!(error = format!("{error:#}"), "a list of events broke off");
            std::io::Error::other(error)
        })?;
        let host = name_or_id(&row.hostname, row.host);
        piece.extend(json::line(&EventView::new(&row.event, &host, row.time)));
        if piece.len() >= PIECE {
            break;
        }
    }
    Ok(piece.into())
}
