//! The console: pages rendered here, one style sheet, and a little script that keeps the overview live.
//!
//! request → language, session → `stores`/`agents` → a page of `maud` → HTML. Whatever a host sent goes through
//! [`watchfire_event::printable`] and then through maud's own escaping.

mod alerts;
mod assets;
mod attack;
mod events;
mod hosts;
mod ledger;
mod overview;
mod page;
mod summary;
mod text;
mod tree;

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use crate::api::{self, ApiError, SESSION_COOKIE};
use crate::shared::Shared;

pub(crate) use page::{login_page, welcome_page};
pub(crate) use text::Lang;

use page::Place;

/// Remembers the language a person chose.
const LANG_COOKIE: &str = "watchfire_lang";

/// All pages.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let pages = Router::new()
        .route("/", get(overview::page_of))
        .route("/live", get(overview::live))
        .route("/alerts", get(alerts::list))
        .route("/alerts/{id}", get(alerts::one))
        .route("/events", get(events::list))
        .route("/hosts", get(hosts::list))
        .route("/ledger", get(ledger::page_of))
        .route("/logout", post(log_out))
        .route_layer(from_fn_with_state(shared.clone(), logged_in))
        .with_state(shared);
    Router::new().merge(pages).merge(assets::router()).fallback(not_found).layer(from_fn(in_language))
}

/// The language of a request: asked for, chosen before, or the browser's.
pub(crate) fn language_of(request: &Request) -> Lang {
    asked_language(request)
        .or_else(|| Lang::from_tag(api::cookie(request.headers(), LANG_COOKIE)?))
        .or_else(|| Lang::accepted(request.headers()))
        .unwrap_or_default()
}

fn asked_language(request: &Request) -> Option<Lang> {
    let query = request.uri().query()?;
    Lang::from_tag(query.split('&').find_map(|pair| pair.strip_prefix("lang="))?)
}

/// Tells the handlers the language, and remembers it when it was asked for.
async fn in_language(mut request: Request, next: Next) -> Response {
    let asked = asked_language(&request);
    let place = Place::new(language_of(&request), request.uri());
    request.extensions_mut().insert(place);
    let mut response = next.run(request).await;
    if let Some(lang) = asked {
        let cookie = format!("{LANG_COOKIE}={}; Path=/; SameSite=Lax; Max-Age=31536000", lang.tag());
        let value = HeaderValue::try_from(cookie).expect("the cookie is plain ASCII");
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// Shows how to log in to those who are not.
async fn logged_in(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match api::check(&shared, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let (status, _) = ApiError::from(refusal).status();
            (status, login_page(language_of(&request), false)).into_response()
        }
    }
}

async fn log_out(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if let Some(cookie) = api::cookie(request.headers(), SESSION_COOKIE) {
        shared.auth.end_session(cookie, std::time::Instant::now());
    }
    let gone = format!("{SESSION_COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    ([(header::SET_COOKIE, gone)], Redirect::to("/")).into_response()
}

/// What is nowhere: JSON under `/api`, a page elsewhere.
async fn not_found(Extension(place): Extension<Place>) -> Response {
    if place.path().starts_with("/api/") {
        return ApiError::NotFound("such path").into_response();
    }
    (StatusCode::NOT_FOUND, page::message(&place, text::Text::PageNotFound)).into_response()
}
