//! `GET /v1/source-dead-letters`: events that could not be taken, read off their topic when somebody asks.
//!
//! They are not in the read model: their bytes are many, and seldom asked for. A list shows where each came from and why it is
//! one; the event itself, which may hold anything, is shown one at a time.

use super::{Api, Refusal};
use crate::bus::{Bus, BusError, Incoming};
use crate::codec::cloudevents::header;
use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Dead letters of a page where the request doesn't say, and the most that are looked through for one.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Questions at once: each may hold `MAX_LIMIT` events of some KiB, and a reader of its own.
pub(super) const QUESTIONS: usize = 2;
/// Longest wait for a turn, and for the bus to give what is there: a new Kafka consumer takes a second or two.
const TIME_OUT: Duration = Duration::from_secs(10);
const POLL_WAIT: Duration = Duration::from_millis(200);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    /// The topic that the event came on.
    topic: Option<String>,
    reason: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

type Answer = Result<Json<Value>, Refusal>;

/// The newest first. A page is what a stretch of the topic holds of what was asked for, so it may be short, and there is more
/// as long as `next` says so.
pub(super) async fn list(State(api): State<Arc<Api>>, Query(filter): Query<Filter>) -> Answer {
    let before = match &filter.after {
        None => None,
        Some(text) => Some(text.parse::<i64>().map_err(|_| super::query::bad_cursor())?),
    };
    asked(api, move |bus, topic| {
        let ends = bus.ends(topic, 0)?;
        let before = before.unwrap_or(ends.end).min(ends.end);
        let stretch = i64::try_from(filter.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)).unwrap_or(i64::MAX);
        let from = (before - stretch).max(ends.start);
        let is = |wanted: &Option<String>, found: &Value| wanted.as_ref().is_none_or(|wanted| found == wanted.as_str());
        let lines = read(bus, topic, from, before)?.iter().rev().map(line).collect::<Vec<_>>();
        let mut items = lines;
        items.retain(|item| is(&filter.topic, &item["topic"]) && is(&filter.reason, &item["reason"]));
        let next = (from > ends.start).then(|| from.to_string());
        Ok(json!({ "items": items, "next": next }))
    })
    .await
}

/// One with its bytes: as text where they are, else in hex.
pub(super) async fn one(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    let unknown = || {
        Refusal::not_found(
            format!("no source dead letter has the id {id:?}"),
            "see which there are with `lockstep source-dead-letters list` or GET /v1/source-dead-letters; they are kept for \
             90 days",
        )
    };
    let Ok(offset) = id.parse::<i64>() else { return Err(unknown()) };
    let found = asked(api, move |bus, topic| {
        let ends = bus.ends(topic, 0)?;
        if !(ends.start..ends.end).contains(&offset) {
            return Ok(Value::Null);
        }
        let records = read(bus, topic, offset, offset + 1)?;
        Ok(records.iter().find(|record| record.offset == offset).map_or(Value::Null, page))
    })
    .await?;
    if found.0.is_null() { Err(unknown()) } else { Ok(found) }
}

async fn asked(
    api: Arc<Api>,
    question: impl FnOnce(&dyn Bus, &str) -> Result<Value, BusError> + Send + 'static,
) -> Answer {
    let turn = tokio::time::timeout(TIME_OUT, Arc::clone(&api.questions).acquire_owned());
    let Ok(Ok(turn)) = turn.await else {
        return Err(Refusal::unavailable(format!("{QUESTIONS} such questions are under way and none ended")));
    };
    let answer = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        question(api.bus.as_ref(), &api.topics.source_dead_letters())
    });
    match answer.await {
        Ok(Ok(value)) => Ok(Json(value)),
        Ok(Err(error)) => Err(Refusal::unavailable(format!("the bus could not be read: {error}"))),
        Err(_) => Err(Refusal::unavailable("the question ended in a bug, see the log")),
    }
}

/// What is there from one offset to before another; offsets have gaps.
fn read(bus: &dyn Bus, topic: &str, from: i64, before: i64) -> Result<Vec<Incoming>, BusError> {
    let mut reader = bus.reader()?;
    reader.seek(topic, 0, from)?;
    let (began, mut records) = (Instant::now(), Vec::new());
    while reader.position(topic, 0)? < before {
        records.extend(reader.poll(MAX_LIMIT, POLL_WAIT)?.into_iter().filter(|record| record.offset < before));
        if began.elapsed() > TIME_OUT {
            return Err(BusError::Failed {
                doing: format!("reading {topic}"),
                reason: format!("it gave nothing up to offset {before} within {} s", TIME_OUT.as_secs()),
            });
        }
    }
    Ok(records)
}

fn line(record: &Incoming) -> Value {
    let text = |name: &str| header(&record.headers, &format!("lockstep_{name}"));
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    let bytes = record.value.as_ref().map(Vec::len);
    json!({
        "id": record.offset.to_string(),
        "at": record.timestamp.to_string(),
        "topic": text("topic"),
        "partition": number("partition"),
        "offset": number("offset"),
        "reason": text("reason"),
        "detail": text("detail"),
        "bytes": number("original_bytes").map(Value::from).or(bytes.map(Value::from)),
        "cut": text("cut") == Some("true"),
        "sha256": text("original_sha256"),
    })
}

fn page(record: &Incoming) -> Value {
    let mut page = line(record);
    page["key"] = record.key.as_deref().map_or(Value::Null, shown);
    page["value"] = record.value.as_deref().map_or(Value::Null, |value| match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => Value::Null,
    });
    page["value_hex"] = record.value.as_deref().map_or(Value::Null, |value| hex(value).into());
    let theirs = record.headers.iter().filter(|(name, _)| !name.starts_with("lockstep_"));
    page["headers"] =
        theirs.map(|(name, value)| (name.clone(), shown(value))).collect::<serde_json::Map<_, _>>().into();
    page
}

/// As text, or in hex where it is none.
fn shown(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| hex(bytes).into(), Value::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
