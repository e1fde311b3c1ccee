//! One-time links: made with the admin token, each trades itself for a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use watchfire_event::UnixNanos;

use super::ApiError;
use super::guard::{SESSION_COOKIE, peer};
use crate::auth::{LINK_LIFE, Refusal, SESSION_LIFE};
use crate::console;
use crate::json;
use crate::shared::Shared;

/// Makes links to this server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoginLinks {
    /// The address people on this machine can open.
    address: SocketAddr,
}

impl LoginLinks {
    /// For a server that listens on `address`; an unspecified one is reached by loopback.
    pub(crate) fn new(mut address: SocketAddr) -> Self {
        if address.ip().is_unspecified() {
            let loopback =
                if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        LoginLinks { address }
    }

    /// A new link, good for one login within ten minutes.
    pub(crate) fn issue(&self, shared: &Shared) -> Result<String, getrandom::Error> {
        let code = shared.auth.new_link(Instant::now())?;
        Ok(format!("http://{}/login?code={code}", self.address))
    }
}

#[derive(Debug, Serialize)]
struct LinkView {
    url: String,
    expires: String,
}

/// `POST /api/v1/login-links`.
pub(super) async fn new_link(
    State((shared, links)): State<(Arc<Shared>, LoginLinks)>,
) -> Result<Response, ApiError> {
    let url = links.issue(&shared).map_err(ApiError::store)?;
    let life = i64::try_from(LINK_LIFE.as_nanos()).unwrap_or(i64::MAX);
    let expires = UnixNanos(UnixNanos::now().0.saturating_add(life)).to_string();
    let body = json::line(&LinkView { url, expires });
    Ok((StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// `GET /login?code=…`: sets the cookie and leads to the console.
///
/// By a page, not by a redirect: after a redirect from another site's link a browser would hold back the Strict cookie.
pub(super) async fn redeem(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let language = console::language_of(&request);
    let code =
        request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("code=")));
    let outcome = match code {
        // A preview that asks with HEAD must not use the link up.
        Some(code) if request.method() == Method::GET => {
            shared.auth.redeem(code, peer(&request), Instant::now())
        }
        _ => Err(Refusal::Missing),
    };
    match outcome {
        Ok(cookie) => {
            let life = SESSION_LIFE.as_secs();
            let cookie =
                format!("{SESSION_COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/; Max-Age={life}");
            ([(header::SET_COOKIE, cookie)], console::welcome_page(language)).into_response()
        }
        Err(refusal) => {
            let (status, _) = ApiError::from(refusal).status();
            (status, console::login_page(language, refusal != Refusal::Missing)).into_response()
        }
    }
}
