//! Live feeds: server-sent events that end when the reader leaves or the server stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::ApiError;
use crate::shared::{Shared, StoredAlert};

/// Feeds open at once: each is a connection and a task.
const MAX_FEEDS: u64 = 64;
/// Events a reader may be behind before the feed waits for it (and then misses some, and says so).
const QUEUE: usize = 16;
/// Sent when there is nothing to say, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a feed may tell.
pub(crate) enum Feed {
    /// An alert was stored.
    Alert(Arc<StoredAlert>),
    /// So many alerts were skipped, because the reader was too slow.
    Missed(u64),
    /// Time has passed.
    Tick,
}

/// Answers with a feed of `alerts`: `tell` turns what happened into what is sent. `tick` asks for [`Feed::Tick`] at that
/// pace, and once at the beginning.
pub(crate) fn open_feed(
    shared: &Arc<Shared>,
    mut alerts: broadcast::Receiver<Arc<StoredAlert>>,
    tick: Option<Duration>,
    mut tell: impl FnMut(Feed) -> Vec<Event> + Send + 'static,
) -> Result<Response, ApiError> {
    if shared.stopping() {
        return Err(ApiError::Stopping);
    }
    let seat = Seat::take(shared)?;
    let mut stop = shared.stop_signal();
    let (sender, receiver) = mpsc::channel::<Event>(QUEUE);
    // Ends when the reader leaves (the channel closes) or the server stops.
    tokio::spawn(async move {
        let _seat = seat;
        let mut ticks = tokio::time::interval(tick.unwrap_or(KEEP_ALIVE));
        loop {
            let item = tokio::select! {
                biased;
                _ = stop.wait_for(|stopping| *stopping) => return,
                () = sender.closed() => return,
                _ = ticks.tick() => Feed::Tick,
                alert = alerts.recv() => match alert {
                    Ok(alert) => Feed::Alert(alert),
                    Err(broadcast::error::RecvError::Lagged(count)) => Feed::Missed(count),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            };
            for event in tell(item) {
                let sent = tokio::select! {
                    _ = stop.wait_for(|stopping| *stopping) => return,
                    sent = sender.send(event) => sent,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    });
    let events = ReceiverStream::new(receiver).map(Ok::<Event, Infallible>);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// One of the places for feeds, given back when dropped.
struct Seat(Arc<Shared>);

impl Seat {
    fn take(shared: &Arc<Shared>) -> Result<Seat, ApiError> {
        let taken = shared.feeds.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(shared.clone());
        if taken >= MAX_FEEDS { Err(ApiError::TooManyFeeds) } else { Ok(seat) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.feeds.fetch_sub(1, Ordering::Relaxed);
    }
}
