//! HTTP: events in, the read model's queries out, operations on to the bus. Also `/metrics`, `/healthz` and `/readyz`.
//!
//! The api changes nothing by itself: an event goes to its source's topic and an operator's wish to `operations`, and both
//! are handled like everything else on the bus. What it shows is a copy of what is on the topics (`model`). Everything but
//! health and metrics needs the token (`token`). It listens on loopback unless the config says otherwise.

mod event;
pub mod model;
pub mod operation;
mod query;
mod refusal;
mod rejected;
mod status;
mod token;
pub mod view;

pub use event::{EventIntake, KeyOf};
pub use model::ReadModel;
pub use refusal::Refusal;
pub use status::{liveness, readiness};
pub use token::{Token, TokenError};

use crate::bus::Bus;
use crate::codec::public::PublicCodec;
use crate::model::topic::TopicNames;
use crate::model::{SourceName, TargetName, TenantId};
use crate::telemetry::{Health, Metrics};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Body of a request that carries no events.
const OPERATION_BYTES: usize = 64 << 10;
/// How long requests that are under way may go on after a stop.
const DRAIN_TIME_OUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("listening on {address}: {reason}")]
    Listen { address: String, reason: std::io::Error },
    #[error("serving HTTP: {0}")]
    Serve(std::io::Error),
}

/// What the api is made of.
pub struct Parts {
    pub bus: Arc<dyn Bus>,
    pub topics: TopicNames,
    pub tenants: Vec<TenantId>,
    pub targets: Vec<TargetName>,
    pub sources: BTreeMap<SourceName, EventIntake>,
    /// Largest event.
    pub event_bytes: usize,
    pub token: Token,
    pub model: Arc<ReadModel>,
    pub codec: Arc<PublicCodec>,
    pub metrics: Arc<Metrics>,
    pub health: Health,
}

/// What every handler sees.
struct Api {
    bus: Arc<dyn Bus>,
    topics: TopicNames,
    tenants: Vec<TenantId>,
    targets: Vec<TargetName>,
    sources: BTreeMap<SourceName, EventIntake>,
    event_bytes: usize,
    token: Token,
    model: Arc<ReadModel>,
    codec: Arc<PublicCodec>,
    metrics: Arc<Metrics>,
    health: Health,
    /// Turns to append to the bus.
    appends: Arc<Semaphore>,
    /// Turns to read a topic for a question.
    questions: Arc<Semaphore>,
}

impl Api {
    fn knows_tenant(&self, tenant: &TenantId) -> Result<(), Refusal> {
        match self.tenants.contains(tenant) {
            true => Ok(()),
            false => Err(Refusal::unknown("tenant", tenant.as_str(), self.tenants.iter().map(TenantId::as_str))),
        }
    }

    fn knows_target(&self, target: &TargetName) -> Result<(), Refusal> {
        match self.targets.contains(target) {
            true => Ok(()),
            false => Err(Refusal::unknown("target", target.as_str(), self.targets.iter().map(TargetName::as_str))),
        }
    }
}

/// Listens; port 0 takes a free one.
pub async fn listen(address: &str) -> Result<TcpListener, ApiError> {
    TcpListener::bind(address).await.map_err(|reason| ApiError::Listen { address: address.to_owned(), reason })
}

/// All routes of the api; other pages may be merged to it.
pub fn router(parts: Parts) -> Router {
    let Parts { bus, topics, tenants, targets, sources, event_bytes, token, model, codec, metrics, health } = parts;
    let appends = Arc::new(Semaphore::new(event::APPENDS));
    let questions = Arc::new(Semaphore::new(rejected::QUESTIONS));
    let api = Arc::new(Api {
        bus,
        topics,
        tenants,
        targets,
        sources,
        event_bytes,
        token,
        model,
        codec,
        metrics,
        health,
        appends,
        questions,
    });
    // Bounds its body itself.
    let events = Router::new().route("/v1/events/{source}", post(event::post));
    let others = Router::new()
        .route("/v1/identities", get(query::identities))
        .route("/v1/identities/{id}", get(query::identity))
        .route("/v1/dead-letters", get(query::dead_letters))
        .route("/v1/dead-letters/{target}/{account}/redrive", post(operation::redrive))
        .route("/v1/dead-letters/{target}/{account}/drop", post(operation::drop))
        .route("/v1/guard", get(query::guard))
        .route("/v1/guard/{tenant}/release", post(operation::release))
        .route("/v1/guard/{tenant}/reject", post(operation::reject))
        .route("/v1/deprovisions", get(query::deprovisions))
        .route("/v1/results", get(query::results))
        .route("/v1/quarantine", get(query::quarantine))
        .route("/v1/quarantine/{id}", get(query::quarantined))
        .route("/v1/quarantine/{id}/retry", post(operation::quarantine_retry))
        .route("/v1/quarantine/{id}/skip", post(operation::quarantine_skip))
        .route("/v1/source-dead-letters", get(rejected::list))
        .route("/v1/source-dead-letters/{id}", get(rejected::one))
        .layer(DefaultBodyLimit::max(OPERATION_BYTES));
    let open = Router::new()
        .route("/metrics", get(status::metrics))
        .route("/healthz", get(status::live))
        .route("/readyz", get(status::ready));
    events
        .merge(others)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), authorised))
        .merge(open)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

/// `/metrics`, `/healthz` and `/readyz` alone: for processes without an api.
pub fn status_router(metrics: Arc<Metrics>, health: Health) -> Router {
    let rendered =
        move || async move { ([(header::CONTENT_TYPE, crate::telemetry::metrics::CONTENT_TYPE)], metrics.render()) };
    let live = health.clone();
    Router::new()
        .route("/metrics", get(rendered))
        .route("/healthz", get(move || async move { liveness(&live) }))
        .route("/readyz", get(move || async move { readiness(&health) }))
        .fallback(unknown_path)
}

/// Serves until it is cancelled, then lets what is under way end.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) -> Result<(), ApiError> {
    let stop = cancel.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    let overdue = async {
        cancel.cancelled().await;
        tokio::time::sleep(DRAIN_TIME_OUT).await;
    };
    tokio::select! {
        served = serving => served.map_err(ApiError::Serve),
        () = overdue => {
            tracing::warn!("requests were still under way {} s after the stop: cut off", DRAIN_TIME_OUT.as_secs());
            Ok(())
        }
    }
}

async fn authorised(State(api): State<Arc<Api>>, request: Request, next: Next) -> Result<Response, Refusal> {
    let presented = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = presented.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let error = match presented {
        Some(token) if api.token.matches(token) => return Ok(next.run(request).await),
        Some(_) => "the token is not this lockstep's",
        None => "the request bears no token",
    };
    let remedy = format!("send `Authorization: Bearer TOKEN`; the token is in {}", api.token.file().display());
    Err(Refusal::new(StatusCode::UNAUTHORIZED, error, remedy))
}

async fn unknown_path(request: Request) -> Refusal {
    Refusal::not_found(
        format!("there is nothing at {}", request.uri().path()),
        "events go to POST /v1/events/SOURCE; lists are at /v1/identities, /v1/deprovisions, /v1/guard, /v1/dead-letters, \
         /v1/results, /v1/quarantine and /v1/source-dead-letters",
    )
}

async fn wrong_method(request: Request) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} is not what {} takes", request.method(), request.uri().path()),
        "lists are read with GET; events and operations are sent with POST",
    )
}

#[cfg(test)]
mod tests;
