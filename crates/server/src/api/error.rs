//! The one table from what went wrong to what HTTP says.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::auth::Refusal;
use crate::json;

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("no credentials; send `Authorization: Bearer TOKEN` or log in")]
    Unauthenticated,
    #[error("these credentials are wrong or no longer valid")]
    Forbidden,
    #[error("too many wrong credentials from this address; wait a few seconds")]
    TooManyMistakes,
    #[error("parameter {name}: {problem}")]
    Parameter { name: &'static str, problem: String },
    #[error("there is no {0}")]
    NotFound(&'static str),
    #[error("host {0:?} is not a name of this server")]
    ForeignHost(String),
    #[error("no answer in time")]
    TimedOut,
    #[error("too many live feeds are open")]
    TooManyFeeds,
    #[error("the server is stopping")]
    Stopping,
    /// The reason goes to the log, not to the caller.
    #[error("the store failed; see the server's log")]
    Store(#[source] anyhow::Error),
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Serialize)]
struct ErrorDetail {
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(crate) fn store(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        ApiError::Store(error.into())
    }

    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            ApiError::Forbidden => (StatusCode::UNAUTHORIZED, "bad_credentials"),
            ApiError::TooManyMistakes => (StatusCode::TOO_MANY_REQUESTS, "too_many_mistakes"),
            ApiError::Parameter { .. } => (StatusCode::BAD_REQUEST, "bad_parameter"),
            ApiError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            ApiError::ForeignHost(_) => (StatusCode::MISDIRECTED_REQUEST, "foreign_host"),
            ApiError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
            ApiError::TooManyFeeds => (StatusCode::SERVICE_UNAVAILABLE, "too_many_feeds"),
            ApiError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            ApiError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "store_failed"),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => ApiError::Unauthenticated,
            Refusal::Wrong => ApiError::Forbidden,
            Refusal::TooMany => ApiError::TooManyMistakes,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let ApiError::Store(error) = &self {
            tracing::error!(error = format!("{error:#}"), "a request failed");
        }
        let (status, code) = self.status();
        let body = json::line(&ErrorBody { error: ErrorDetail { code, message: self.to_string() } });
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
