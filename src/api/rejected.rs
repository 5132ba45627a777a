//! `GET /v1/source-dead-letters`: events that could not be taken, read off their topic when somebody asks.
//!
//! They are not in the read model: their bytes are many, and seldom asked for. A list shows where each came from and why it is
//! one; the event itself, which may hold anything, is shown one at a time. One that takes several records is known by the
//! last of them: the topic's retention takes the first ones first. So both are read backwards.

use super::{Api, Refusal};
use crate::bus::{Bus, BusError, Ends, Incoming, Reader};
use crate::codec::cloudevents::header;
use crate::codec::source::{self, Part, Reason};
use crate::runtime::Why;
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Dead letters of a page where the request doesn't say, and the most that are looked through for one.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: i64 = 1000;
/// A page ends once it has looked through this much: a time of some seconds, whatever the bus.
const PAGE_BYTES: usize = 64 << 20;
/// Questions at once: each has a reader of its own. One that shows an event holds it three times or so: 300 MB for the largest
/// that a source can send.
pub(super) const QUESTIONS: usize = 2;
/// Longest wait for a turn, and for the bus to give what is there: a new Kafka consumer takes a second or two.
const TIME_OUT: Duration = Duration::from_secs(10);
const POLL_WAIT: Duration = Duration::from_millis(200);
/// Records read at once. They may be as large as the topic takes, and of a list none is kept.
const CHUNK: usize = 16;
/// Offsets of one look backwards.
const LOOK: i64 = 100;

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

/// A reason that isn't there is a mistake, and no empty list.
impl FromRequestParts<Arc<Api>> for Filter {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Refusal> {
        let filter: Self = super::query::parameters(&parts.uri)?;
        let known: BTreeSet<&str> =
            Reason::ALL.map(Reason::as_str).into_iter().chain(Why::ALL.map(Why::as_str)).collect();
        match &filter.reason {
            Some(reason) if !known.contains(reason.as_str()) => {
                Err(Refusal::unknown("reason", reason, known.into_iter()))
            }
            _ => Ok(filter),
        }
    }
}

/// The newest first. A page is what a stretch of the topic holds of what was asked for, so it may be short, and there is more
/// as long as `next` says so.
pub(super) async fn list(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    let before = match &filter.after {
        None => None,
        Some(text) => Some(text.parse::<i64>().map_err(|_| super::query::bad_cursor())?),
    };
    asked(api, move |bus, topic| {
        let mut letters = Letters::open(bus, topic)?;
        let before = before.unwrap_or(letters.ends.end).min(letters.ends.end);
        let stretch = i64::try_from(filter.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(i64::MAX).clamp(1, MAX_LIMIT);
        let (mut items, from) = letters.listed(before, stretch)?;
        let is = |wanted: &Option<String>, found: &Value| wanted.as_ref().is_none_or(|wanted| found == wanted.as_str());
        items.retain(|item| is(&filter.topic, &item["topic"]) && is(&filter.reason, &item["reason"]));
        let next = (from > letters.ends.start).then(|| from.to_string());
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
        let mut letters = Letters::open(bus, topic)?;
        Ok(letters.records_of(offset)?.map_or(Value::Null, page))
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

/// The topic, read for one question.
struct Letters<'a> {
    topic: &'a str,
    reader: Box<dyn Reader>,
    ends: Ends,
    began: Instant,
}

/// A letter of a list whose first parts were not met yet.
struct Open {
    /// Which of the items it is.
    item: usize,
    first: Part,
}

impl<'a> Letters<'a> {
    fn open(bus: &dyn Bus, topic: &'a str) -> Result<Self, BusError> {
        Ok(Self { topic, reader: bus.reader()?, ends: bus.ends(topic, 0)?, began: Instant::now() })
    }

    /// The lines of the letters below an offset, the newest first, and the offset from which on these are all.
    fn listed(&mut self, before: i64, stretch: i64) -> Result<(Vec<Value>, i64), BusError> {
        let least = (before - stretch).max(self.ends.start);
        let (mut items, mut open, mut at, mut bytes) = (Vec::new(), Vec::<Open>::new(), before, 0);
        while at > least && bytes < PAGE_BYTES {
            let from = (at - LOOK).max(least);
            let mut seen = Vec::new();
            self.read(from, at, |record| {
                bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
                seen.push((Part::of(&record), line(&record)));
            })?;
            for (part, line) in seen.into_iter().rev() {
                match part {
                    Some(part) if !part.is_last() => follow(&mut open, part),
                    Some(first) => {
                        open.push(Open { item: items.len(), first });
                        items.push(line);
                    }
                    None => items.push(line),
                }
            }
            at = from;
        }
        let from = at;
        // Of those at the end of the page: whether their first parts are still there.
        while at > self.ends.start && open.iter().any(|letter| letter.first.before() > 0) {
            let below = (at - LOOK).max(self.ends.start);
            let mut seen = Vec::new();
            self.read(below, at, |record| seen.extend(Part::of(&record)))?;
            seen.into_iter().rev().for_each(|part| follow(&mut open, part));
            at = below;
        }
        for letter in open {
            items[letter.item]["missing_parts"] = letter.first.before().into();
        }
        Ok((items, from))
    }

    /// The records of the letter whose last one is at an offset, in their order. Those at the front may be gone.
    fn records_of(&mut self, offset: i64) -> Result<Option<Vec<Incoming>>, BusError> {
        if !(self.ends.start..self.ends.end).contains(&offset) {
            return Ok(None);
        }
        let mut last = None;
        self.read(offset, offset + 1, |record| last = (record.offset == offset).then_some(record))?;
        let Some(last) = last else { return Ok(None) };
        let Some(mut first) = Part::of(&last) else { return Ok(Some(vec![last])) };
        if !first.is_last() {
            return Ok(None);
        }
        let (mut records, mut at) = (vec![last], offset);
        while first.before() > 0 && at > self.ends.start {
            let from = (at - LOOK).max(self.ends.start);
            let mut seen = Vec::new();
            self.read(from, at, |record| {
                if let Some(part) = Part::of(&record).filter(|part| part.is_of(&first)) {
                    seen.push((part, record));
                }
            })?;
            for (part, record) in seen.into_iter().rev() {
                if part.precedes(&first) {
                    first = part;
                    records.push(record);
                }
            }
            at = from;
        }
        records.reverse();
        Ok(Some(records))
    }

    /// What is there from one offset to before another; offsets have gaps.
    fn read(&mut self, from: i64, before: i64, mut each: impl FnMut(Incoming)) -> Result<(), BusError> {
        self.reader.seek(self.topic, 0, from)?;
        while self.reader.position(self.topic, 0)? < before {
            let records = self.reader.poll(CHUNK, POLL_WAIT)?;
            records.into_iter().filter(|record| record.offset < before).for_each(&mut each);
            if self.began.elapsed() > TIME_OUT {
                return Err(BusError::Failed {
                    doing: format!("reading {}", self.topic),
                    reason: format!("it gave not all up to offset {before} within {} s", TIME_OUT.as_secs()),
                });
            }
        }
        Ok(())
    }
}

/// Reading backwards, a part was met: of the letter that lacks it, if any does.
fn follow(open: &mut [Open], part: Part) {
    if let Some(letter) = open.iter_mut().find(|letter| part.precedes(&letter.first)) {
        letter.first = part;
    }
}

fn line(record: &Incoming) -> Value {
    let text = |name: &str| header(&record.headers, &format!("lockstep_{name}"));
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    let part = Part::of(record);
    let bytes = match part {
        Some(_) => number("original_bytes"),
        None => record.value.as_ref().and_then(|value| i64::try_from(value.len()).ok()),
    };
    json!({
        "id": record.offset.to_string(),
        "at": record.timestamp.to_string(),
        "topic": text("topic"),
        "partition": number("partition"),
        "offset": number("offset"),
        "reason": text("reason"),
        "detail": text("detail"),
        "bytes": bytes,
        "sha256": text("original_sha256"),
        "parts": part.map_or(1, |part| part.count()),
        "missing_parts": 0,
    })
}

/// A letter of its records.
fn page(records: Vec<Incoming>) -> Value {
    let Some(mut page) = records.last().map(line) else { return Value::Null };
    page["missing_parts"] = records.first().and_then(Part::of).map_or(0, |first| first.before()).into();
    let letter = source::join(records);
    page["whole"] = letter.whole.into();
    page["key"] = letter.key.as_deref().map_or(Value::Null, shown);
    page["headers"] = letter
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), shown(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    (page["value"], page["value_hex"]) = match letter.value.map(|value| String::from_utf8(value.into())) {
        None => (Value::Null, Value::Null),
        Some(Ok(text)) => (text.into(), Value::Null),
        Some(Err(no_text)) => (Value::Null, hex::encode(no_text.as_bytes()).into()),
    };
    page
}

/// As text, or in hex where it is none.
fn shown(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| hex::encode(bytes).into(), Value::from)
}
