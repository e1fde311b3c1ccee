//! The REST API. Described for people in `docs/api.md`.
//!
//! listener → `guard` (headers, host name, deadline, credentials) → one handler each → `stores` on a blocking
//! thread → `json` lines.

mod alerts;
mod error;
mod events;
mod feed;
mod guard;
mod login;
mod parameters;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

pub(crate) use error::ApiError;
pub(crate) use feed::{Feed, open_feed};
pub(crate) use guard::{Names, Peer, SESSION_COOKIE, check, cookie};
pub(crate) use login::LoginLinks;
pub(crate) use parameters::{List, list_of};
pub(crate) use state::verdict;

use crate::console;
use crate::shared::Shared;

/// No request to this server needs a larger body.
const MAX_BODY: usize = 16 << 10;

/// Everything that is served.
pub(crate) fn router(shared: Arc<Shared>, names: Names, links: LoginLinks) -> Router {
    let open = Router::new().route("/healthz", get(state::healthz)).with_state(shared.clone());
    let lists = Router::new()
        .route("/api/v1/hosts", get(state::hosts))
        .route("/api/v1/sources", get(state::sources))
        .route("/api/v1/counts", get(state::counts))
        .route("/api/v1/ledger", get(state::ledger))
        .route("/api/v1/events", get(events::list))
        .route("/api/v1/alerts", get(alerts::list))
        .route("/api/v1/alerts/stream", get(alerts::stream))
        .route("/api/v1/alerts/{id}", get(alerts::one))
        .route_layer(from_fn_with_state(shared.clone(), guard::authenticated))
        .with_state(shared.clone());
    let admin = Router::new()
        .route("/api/v1/login-links", post(login::new_link))
        .route_layer(from_fn_with_state(shared.clone(), guard::admin_only))
        .with_state((shared.clone(), links));
    let login = Router::new().route("/login", get(login::redeem)).with_state(shared.clone());
    Router::new()
        .merge(open)
        .merge(lists)
        .merge(admin)
        .merge(login)
        .merge(console::router(shared))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(guard::in_time))
        .layer(from_fn_with_state(names, guard::check_host))
        .layer(from_fn(guard::secure_headers))
}

/// Runs something that may wait for a disk, away from the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let shared = shared.clone();
    let joined = tokio::task::spawn_blocking(move || work(&shared)).await;
    joined.unwrap_or_else(|error| Err(ApiError::store(error)))
}
