//! `/metrics`, `/healthz` and `/readyz`: for machines that watch, without a token and without anything about anyone.

use super::Api;
use crate::telemetry::{Health, metrics};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use std::sync::Arc;

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], api.metrics.render())
}

pub(super) async fn live(State(api): State<Arc<Api>>) -> impl IntoResponse {
    liveness(&api.health)
}

pub(super) async fn ready(State(api): State<Arc<Api>>) -> impl IntoResponse {
    readiness(&api.health)
}

/// 503 names every loop that shows no life.
pub fn liveness(health: &Health) -> (StatusCode, String) {
    let silent = health.silent();
    if silent.is_empty() {
        return (StatusCode::OK, "alive\n".to_owned());
    }
    let lines = silent.iter().map(|loop_| format!("{}: {}\n", loop_.name, loop_.reason));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

/// One line a condition; 503 while any of them isn't met or a loop shows no life.
pub fn readiness(health: &Health) -> (StatusCode, String) {
    let mut text = String::new();
    for condition in health.readiness() {
        let state = condition.waiting_for.map_or("yes".to_owned(), |what| format!("no: {what}"));
        text.push_str(&format!("{} ... {state}\n", condition.name));
    }
    let (live, silent) = liveness(health);
    if live != StatusCode::OK {
        text.push_str(&silent);
    }
    match health.is_ready() {
        true => (StatusCode::OK, format!("{text}ready\n")),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}not ready\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_waited_for_and_what_is_silent_is_named() {
        let health = Health::new();
        assert_eq!(readiness(&health), (StatusCode::OK, "ready\n".into()));
        let restored = health.condition("processor: restored");
        restored.waiting("3 of 8 partitions");
        assert_eq!(
            readiness(&health),
            (StatusCode::SERVICE_UNAVAILABLE, "processor: restored ... no: 3 of 8 partitions\nnot ready\n".into())
        );
        assert_eq!(liveness(&health).0, StatusCode::OK, "who waits is alive");
        restored.met();
        let heartbeat = health.heartbeat("worker directory", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let (status, text) = liveness(&health);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with("worker directory: no sign of life"), "{text}");
        assert_eq!(readiness(&health).0, StatusCode::SERVICE_UNAVAILABLE);
        drop(heartbeat);
        assert_eq!(readiness(&health).0, StatusCode::OK);
    }
}
