//! `POST /v1/events/{source}`: source events by HTTP, onto the source's topic.
//!
//! The body is one event, a JSON array of events, or one event a line. Nothing is decoded here beyond telling events apart:
//! each goes on byte for byte, and what intake can't decode ends in `source-dead-letters`. All events of a request are
//! taken or none is.

use super::{Api, Refusal, query};
use crate::bus::{BusError, Outgoing};
use crate::model::{Headers, SourceName};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;

/// Largest body, unless a single event may be larger: what a client batches in one request, held in memory.
const REQUEST_BYTES: usize = 8 << 20;
/// Read beyond that of a body that is too large, so that its sender gets to hear why it is refused.
const THROWN_AWAY_BYTES: usize = 32 << 20;
/// Most events of one request: they are one transaction on the bus.
const REQUEST_EVENTS: usize = 10_000;
/// Longest a body may take to arrive.
const BODY_TIME_OUT: Duration = Duration::from_secs(30);
/// Longest a request waits for its turn to append.
const TURN_TIME_OUT: Duration = Duration::from_secs(10);
/// Appends at once: each holds a body and a thread.
pub(super) const APPENDS: usize = 8;
/// Longest value of a header that goes on with every event.
const HEADER_BYTES: usize = 1024;

/// Finds an event's key on its topic: the record id, so that a record's events keep their order.
pub type KeyOf = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// How a source takes events by HTTP.
#[derive(Clone)]
pub struct EventIntake {
    /// Not empty; without `?topic=` the first.
    pub topics: Vec<String>,
    /// Events are JSON text; otherwise a body is one event as it is.
    pub json: bool,
    /// Request headers that go on with the events, besides `traceparent`, `tracestate` and `ce-*`: the tenant's.
    pub headers: Vec<String>,
    pub key_of: KeyOf,
}

#[derive(Deserialize)]
pub(super) struct Parameters {
    topic: Option<String>,
}

/// The most bytes that a request may have.
fn request_bytes(event_bytes: usize) -> usize {
    REQUEST_BYTES.max(event_bytes)
}

pub(super) async fn post(
    State(api): State<Arc<Api>>,
    Path(source): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<serde_json::Value>), Refusal> {
    let intake = api.sources.get(&SourceName(source.clone().into())).ok_or_else(|| unknown_source(&api, &source))?;
    let Parameters { topic } = query::parameters(request.uri())?;
    let topic = topic_of(intake, &source, topic)?;
    let headers = request.headers().clone();
    let body = body(request, request_bytes(api.event_bytes)).await?;
    let (events, split) = events(&body, intake.json, content_type(&headers));
    check(&events, api.event_bytes)?;
    let headers = forwarded(&headers, intake, split)?;
    let records: Vec<Outgoing> = events
        .into_iter()
        .map(|event| Outgoing {
            topic: topic.clone(),
            partition: None,
            key: (intake.key_of)(&event),
            value: Some(event),
            headers: headers.clone(),
        })
        .collect();
    let count = records.len();
    append(&api, records).await?;
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({ "accepted": count, "source": source, "topic": topic }))))
}

/// Appends when it is this request's turn; the bus blocks, so on a thread of its own.
pub(super) async fn append(api: &Arc<Api>, records: Vec<Outgoing>) -> Result<(), Refusal> {
    let turn = tokio::time::timeout(TURN_TIME_OUT, Arc::clone(&api.appends).acquire_owned());
    let Ok(Ok(turn)) = turn.await else {
        return Err(Refusal::unavailable(format!("{APPENDS} appends are under way and none ended")));
    };
    let bus = Arc::clone(&api.bus);
    let appended = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        bus.append(records)
    });
    match appended.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(BusError::TooLarge { bytes, limit, .. })) => Err(Refusal::too_large(
            format!("an event has {bytes} bytes with its headers, the topic takes {limit}"),
            "send smaller events, or raise the topic's max.message.bytes",
        )),
        Ok(Err(error @ BusError::Retriable { .. })) => {
            Err(Refusal::unavailable(format!("the bus took nothing: {error}")))
        }
        Ok(Err(error)) => Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            format!("the bus took nothing: {error}"),
            "mend that first, then send it again",
        )),
        Err(_) => Err(Refusal::unavailable("the bus took nothing: the append ended in a bug, see the log")),
    }
}

fn unknown_source(api: &Api, source: &str) -> Refusal {
    if api.sources.is_empty() {
        let remedy = "the config declares no source: add one under sources/";
        return Refusal::not_found(format!("no source is called {source:?}"), remedy);
    }
    Refusal::unknown("source", source, api.sources.keys().map(SourceName::as_str))
}

fn topic_of(intake: &EventIntake, source: &str, wanted: Option<String>) -> Result<String, Refusal> {
    match wanted {
        None => Ok(intake.topics.first().expect("a source has a topic").clone()),
        Some(topic) if intake.topics.contains(&topic) => Ok(topic),
        Some(topic) => Err(Refusal::not_found(
            format!("source {source:?} has no topic {topic:?}"),
            format!("its topics: {}", intake.topics.join(", ")),
        )),
    }
}

/// The body, in whole. What is over the limit is read on for a while and thrown away: a client that is still sending would
/// see its connection reset instead of the refusal.
async fn body(request: Request, limit: usize) -> Result<Bytes, Refusal> {
    let read = async {
        let mut stream = request.into_body().into_data_stream();
        let (mut kept, mut length) = (Vec::new(), 0usize);
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|_| Refusal::bad_request("the body ended before it was complete", "send it again"))?;
            length += chunk.len();
            if length <= limit {
                kept.extend_from_slice(&chunk);
            } else if length > limit + THROWN_AWAY_BYTES {
                break;
            }
        }
        match length > limit {
            true => Err(Refusal::too_large(
                format!("a request may have {limit} bytes"),
                "send the events in several requests",
            )),
            false => Ok(Bytes::from(kept)),
        }
    };
    tokio::time::timeout(BODY_TIME_OUT, read).await.unwrap_or_else(|_| {
        Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body was not here within {} s", BODY_TIME_OUT.as_secs()),
            "send fewer events in a request",
        ))
    })
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Tells the events of a body apart; true: it held several by its form. What is none of the forms is one event as it is.
fn events(body: &Bytes, json: bool, content_type: &str) -> (Vec<Bytes>, bool) {
    let whole = body.trim_ascii();
    if !json {
        return (vec![body.clone()], false);
    }
    let lines = || whole.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let slices = |parts: Vec<&[u8]>| parts.into_iter().map(|part| body.slice_ref(part)).collect();
    if matches!(content_type, "application/x-ndjson" | "application/ndjson" | "application/jsonl") {
        return (slices(lines().collect()), true);
    }
    if let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(whole) {
        return (slices(items.into_iter().map(|item| item.get().as_bytes()).collect()), true);
    }
    let is_json = |text: &[u8]| serde_json::from_slice::<&RawValue>(text).is_ok();
    // Lines without their content type are recognised if any of them is JSON: the others are bad lines, not bad bodies.
    if !is_json(whole) && lines().nth(1).is_some() && lines().any(is_json) {
        return (slices(lines().collect()), true);
    }
    (slices(vec![whole]), false)
}

fn check(events: &[Bytes], event_bytes: usize) -> Result<(), Refusal> {
    if events.iter().all(Bytes::is_empty) {
        return Err(Refusal::bad_request(
            "the request holds no event",
            "send one JSON object, an array of them, or one a line",
        ));
    }
    if events.len() > REQUEST_EVENTS {
        return Err(Refusal::too_large(
            format!("the request holds {} events, the limit is {REQUEST_EVENTS}", events.len()),
            "send them in several requests",
        ));
    }
    match events.iter().position(|event| event.len() > event_bytes) {
        None => Ok(()),
        Some(at) => Err(Refusal::too_large(
            format!("event {} has {} bytes, the limit is {event_bytes}", at + 1, events[at].len()),
            "send less of the record, or raise `limits.event_bytes` in lockstep.yaml",
        )
        .of_event(at + 1)),
    }
}

/// Headers that go on with every event; CloudEvents' in their Kafka form (`ce_id` for `ce-id`).
fn forwarded(headers: &HeaderMap, intake: &EventIntake, split: bool) -> Result<Headers, Refusal> {
    let mut kept = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let goes_on = match name {
            "traceparent" | "tracestate" => true,
            // It tells the form of one event; of several it only told the form of the body.
            "content-type" => !split,
            _ => name.starts_with("ce-") || intake.headers.iter().any(|h| h.eq_ignore_ascii_case(name)),
        };
        if !goes_on {
            continue;
        }
        if value.len() > HEADER_BYTES {
            return Err(Refusal::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!("header {name} has {} bytes, the limit is {HEADER_BYTES}", value.len()),
                "put it into the event",
            ));
        }
        let name = match name.strip_prefix("ce-") {
            Some(attribute) => format!("ce_{attribute}"),
            // Header names are case-insensitive in HTTP and not on the bus: as the config writes it.
            None => intake.headers.iter().find(|h| h.eq_ignore_ascii_case(name)).map_or(name.to_owned(), Clone::clone),
        };
        kept.push((name.into(), Bytes::copy_from_slice(value.as_bytes())));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_apart(body: &'static str, content_type: &str) -> (Vec<String>, bool) {
        let (events, split) = events(&Bytes::from_static(body.as_bytes()), true, content_type);
        (events.into_iter().map(|event| String::from_utf8(event.to_vec()).unwrap()).collect(), split)
    }

    #[test]
    fn events_are_told_apart_and_stay_as_they_were_written() {
        let form = "application/x-www-form-urlencoded";
        for (body, content_type, expected, split) in [
            (r#" {"a": 1.00} "#, form, vec![r#"{"a": 1.00}"#], false),
            (r#"[{"a": 1.00}, {"b":2}, 3]"#, "application/json", vec![r#"{"a": 1.00}"#, r#"{"b":2}"#, "3"], true),
            ("{\"a\":1}\n\n{\"b\":2}\r\n", form, vec![r#"{"a":1}"#, r#"{"b":2}"#], true),
            ("{\"a\":1}\nnonsense", form, vec![r#"{"a":1}"#, "nonsense"], true),
            ("{\n  \"a\": 1\n}", form, vec!["{\n  \"a\": 1\n}"], false),
            ("nonsense\nin two lines", form, vec!["nonsense\nin two lines"], false),
            ("nonsense\nin two lines", "application/x-ndjson", vec!["nonsense", "in two lines"], true),
            ("[1, 2", "application/json", vec!["[1, 2"], false),
            ("[]", "application/json", vec![], true),
            ("{\"a\":1", form, vec!["{\"a\":1"], false),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(told_apart(body, content_type), (expected, split), "{body}");
        }
        let (binary, split) = events(&Bytes::from_static(b"\n[\x00]\n"), false, form);
        assert_eq!((binary.as_slice(), split), ([Bytes::from_static(b"\n[\x00]\n")].as_slice(), false));
    }

    #[test]
    fn an_event_may_be_as_large_as_the_limit_and_no_larger() {
        let event = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        assert!(check(&[event(1), event(100)], 100).is_ok());
        assert!(check(&[event(1), event(101)], 100).is_err());
        assert!(check(&[], 100).is_err());
        assert!(check(&vec![event(1); REQUEST_EVENTS], 100).is_ok());
        assert!(check(&vec![event(1); REQUEST_EVENTS + 1], 100).is_err());
        assert_eq!(request_bytes(100), REQUEST_BYTES);
        assert_eq!(request_bytes(100 << 20), 100 << 20);
    }

    #[test]
    fn headers_that_mean_something_to_a_source_go_on() {
        let intake = EventIntake {
            topics: vec!["t".into()],
            json: true,
            headers: vec!["X-Tenant".into()],
            key_of: Arc::new(|_| None),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("content-type", "application/cloudevents+json"),
            ("ce-id", "1"),
            ("traceparent", "00-1-2-01"),
            ("x-tenant", "acme"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let names = |split| {
            let mut names: Vec<_> =
                forwarded(&headers, &intake, split).unwrap().into_iter().map(|(name, _)| name).collect();
            names.sort();
            names
        };
        assert_eq!(names(false), ["X-Tenant", "ce_id", "content-type", "traceparent"]);
        assert_eq!(names(true), ["X-Tenant", "ce_id", "traceparent"]);
        headers.insert("x-tenant", "a".repeat(HEADER_BYTES + 1).parse().unwrap());
        assert!(forwarded(&headers, &intake, false).is_err());
    }
}
