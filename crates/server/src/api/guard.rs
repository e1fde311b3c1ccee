//! What stands in front of every handler: the right host name, credentials, a deadline, and headers that keep a
//! browser from doing more than these pages need.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::auth::Refusal;
use crate::shared::Shared;

/// A handler answers within this time; the bodies of live feeds come after the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Name of the session's cookie.
pub(crate) const SESSION_COOKIE: &str = "watchfire_session";

/// Where a request came from; set by the listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The names this server answers to.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    address: IpAddr,
    hostname: String,
}

impl Names {
    pub(crate) fn new(listen: SocketAddr, hostname: String) -> Self {
        Names { address: listen.ip(), hostname }
    }

    /// Whether `host` (a Host header) can only mean this server. A page on another site that had its DNS name
    /// rebound to this address still sends that name here.
    fn accept(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return self.address.is_unspecified() || address == self.address || address.is_loopback();
        }
        !self.address.is_loopback() && !self.hostname.is_empty() && name.eq_ignore_ascii_case(&self.hostname)
    }
}

/// The name in `name:port` or `[v6]:port`; `None` when that is not its form.
fn without_port(host: &str) -> Option<&str> {
    let end_of_name =
        if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, rest) = host.split_at(end_of_name);
    let port = rest.strip_prefix(':').unwrap_or("0");
    let plain = rest.is_empty() || rest.starts_with(':');
    (plain && !name.is_empty() && port.parse::<u16>().is_ok()).then_some(name)
}

/// Refuses requests for another host.
pub(crate) async fn check_host(State(names): State<Names>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !names.accept(host) {
        let shown = watchfire_event::printable(host.as_bytes()).chars().take(100).collect();
        return ApiError::ForeignHost(shown).into_response();
    }
    next.run(request).await
}

/// Answers in time, or says that it did not.
pub(crate) async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await;
    answer.unwrap_or_else(|_| ApiError::TimedOut.into_response())
}

/// Headers of every answer.
pub(crate) async fn secure_headers(request: Request, next: Next) -> Response {
    const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                       form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets in the admin token and sessions.
pub(crate) async fn authenticated(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(&shared, &request)?;
    Ok(next.run(request).await)
}

/// Lets in the admin token only: a session must not be able to make another.
pub(crate) async fn admin_only(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let token = bearer(request.headers()).ok_or(Refusal::Missing)?;
    shared.auth.check_admin(token, peer(&request), Instant::now())?;
    Ok(next.run(request).await)
}

/// Whether this request carries the admin token or a session.
pub(crate) fn check(shared: &Shared, request: &Request) -> Result<(), Refusal> {
    let now = Instant::now();
    if let Some(token) = bearer(request.headers()) {
        return shared.auth.check_admin(token, peer(request), now);
    }
    // SameSite=Strict keeps other sites from using the cookie; no request that a session may make changes anything
    // but that session, and this is the second lock on it.
    if request.method() != Method::GET && foreign_origin(request.headers()) {
        return Err(Refusal::Wrong);
    }
    let cookie = cookie(request.headers(), SESSION_COOKIE).ok_or(Refusal::Missing)?;
    shared.auth.check_session(cookie, peer(request), now)
}

/// The peer's address; the listener always sets it.
pub(crate) fn peer(request: &Request) -> IpAddr {
    request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0)
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn foreign_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    origin.is_none_or(|origin| origin.split_once("://").is_none_or(|(_, authority)| authority != host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listen: &str) -> Names {
        Names::new(listen.parse().unwrap(), "tower".to_owned())
    }

    #[test]
    fn only_names_that_cannot_be_rebound_are_accepted_on_loopback() {
        let local = names("127.0.0.1:7070");
        for host in ["127.0.0.1:7070", "localhost:7070", "LOCALHOST", "[::1]:7070", "localhost:8080"] {
            assert!(local.accept(host), "{host}");
        }
        let hosts = [
            "",
            "evil.example",
            "evil.example:7070",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "tower",
            "a:b",
            "[::1",
        ];
        for host in hosts {
            assert!(!local.accept(host), "{host}");
        }
    }

    #[test]
    fn an_outside_address_answers_to_itself_and_the_hostname() {
        assert!(names("10.0.0.1:7070").accept("10.0.0.1:7070"));
        assert!(names("10.0.0.1:7070").accept("tower:7070"));
        assert!(!names("10.0.0.1:7070").accept("10.0.0.2:7070"));
        assert!(names("0.0.0.0:7070").accept("10.0.0.2:7070"));
        assert!(!names("0.0.0.0:7070").accept("evil.example"));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; watchfire_session=abc ;b=2"));
        assert_eq!(cookie(&headers, SESSION_COOKIE), Some("abc"));
        assert_eq!(cookie(&headers, "session"), None);
    }

    #[test]
    fn a_request_without_origin_or_from_another_is_foreign() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:7070"));
        assert!(foreign_origin(&headers));
        headers.insert(header::ORIGIN, HeaderValue::from_static("http://127.0.0.1:7070"));
        assert!(!foreign_origin(&headers));
        headers.insert(header::ORIGIN, HeaderValue::from_static("http://evil.example"));
        assert!(foreign_origin(&headers));
    }
}
