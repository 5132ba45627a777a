//! How the api says no: a status, what is wrong, and what to do about it, as JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Seconds after which a request that was refused for want of capacity may be sent again.
const RETRY_AFTER_SECONDS: &str = "1";

#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    remedy: String,
    /// Which of a request's events it was, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<usize>,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, body: Body { error: error.into(), remedy: remedy.into(), event: None } }
    }

    pub fn not_found(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, remedy)
    }

    /// There is nothing of that name; what there is instead is named.
    pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.collect();
        Self::not_found(format!("no {what} is called {name:?}"), format!("known {what}s: {}", known.join(", ")))
    }

    pub fn bad_request(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, remedy)
    }

    pub fn too_large(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error, remedy)
    }

    pub fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, "nothing was taken: send it again in a moment")
    }

    /// Names the event of the request that it is about.
    #[must_use]
    pub fn of_event(mut self, number: usize) -> Self {
        self.body.event = Some(number);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lockstep\""));
            }
            _ => {}
        }
        response
    }
}
