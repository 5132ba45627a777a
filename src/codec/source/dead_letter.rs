//! What becomes of a source event that is bad input: all of its bytes on `source-dead-letters`, with headers that say where they
//! came from and what is wrong with them.
//!
//! An event that doesn't fit into one record is written as several, its parts, in one transaction. Nothing is ever cut. A letter
//! is known by its last part: retention takes the first ones first.

use super::Rejection;
use crate::codec::cloudevents::header;
use crate::model::{Headers, Incoming, Outgoing};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

const PREFIX: &str = "lockstep_";
const PART: &str = "lockstep_part";
const PARTS: &str = "lockstep_parts";
const ORIGINAL_BYTES: &str = "lockstep_original_bytes";
const ORIGINAL_SHA256: &str = "lockstep_original_sha256";
const BESIDE_BYTES: &str = "lockstep_beside_bytes";
/// What a record takes on the wire beside its parts: varints, offsets, the batch's header. Generous.
const RECORD_OVERHEAD_BYTES: usize = 128;
const HEADER_OVERHEAD_BYTES: usize = 10;
/// A part holds this much at least, whatever the limit; a topic takes 1 MiB at least, so it is never needed.
const LEAST_PART_BYTES: usize = 256;
/// Of a detail: a decoder's own message may repeat all of what it could not read.
const MOST_DETAIL_BYTES: usize = 4 << 10;

/// The dead letter of a source event: one record with its key, value and headers, or where that would be larger than
/// `most_bytes` (`max.message.bytes` of the topic) several, to be written in this order in one transaction.
pub fn dead_letter(topic: &str, incoming: &Incoming, rejection: &Rejection, most_bytes: usize) -> Vec<Outgoing> {
    let own = own_headers(incoming, rejection);
    // An event that was taken from here and sent again brings the former letter's headers along.
    let theirs = incoming.headers.iter().filter(|(name, _)| !is_own(name)).cloned();
    let letter = Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: incoming.key.clone(),
        value: incoming.value.clone(),
        headers: own.iter().cloned().chain(theirs).collect(),
    };
    if bytes(&letter) <= most_bytes {
        return vec![letter];
    }
    let theirs = letter.headers[own.len()..].to_vec();
    parts(Outgoing { headers: own, ..letter }, theirs, most_bytes)
}

/// A detail as it may stand in a header.
pub fn short(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(MOST_DETAIL_BYTES)]
}

fn own_headers(incoming: &Incoming, rejection: &Rejection) -> Headers {
    [
        ("topic", incoming.topic.clone()),
        ("partition", incoming.partition.to_string()),
        ("offset", incoming.offset.to_string()),
        ("timestamp", incoming.timestamp.0.to_string()),
        ("reason", rejection.reason.to_string()),
        ("detail", short(&rejection.detail).to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}{name}").into(), value.into()))
    .collect()
}

/// Case doesn't count, as it doesn't to who reads a header.
fn is_own(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// A letter with Lockstep's own headers as the parts of what it holds. Each part has the key, the first one the event's headers;
/// where these would take most of the room they are parted too, behind the value.
fn parts(letter: Outgoing, theirs: Headers, most_bytes: usize) -> Vec<Outgoing> {
    let Outgoing { topic, key, value, headers: mut own, .. } = letter;
    if let Some(value) = &value {
        own.push((ORIGINAL_BYTES.into(), value.len().to_string().into()));
        own.push((ORIGINAL_SHA256.into(), sha256(value).into()));
    }
    let mut whole = Cow::Borrowed(value.as_deref().unwrap_or_default());
    let frame = |key: &Option<Vec<u8>>, headers: &Headers| {
        let most = || u32::MAX.to_string().into();
        let numbered = [(PART.into(), most()), (PARTS.into(), most()), (BESIDE_BYTES.into(), most())];
        let headers = headers.iter().cloned().chain(numbered).collect();
        bytes(&Outgoing { topic: String::new(), partition: None, key: key.clone(), value: None, headers })
    };
    let with_theirs: Headers = own.iter().chain(&theirs).cloned().collect();
    let room = most_bytes.saturating_sub(frame(&None, &own));
    let (key, first_headers) = match frame(&key, &with_theirs) <= most_bytes - room / 2 {
        true => (key, with_theirs),
        false => {
            let beside = Beside { key, headers: theirs }.seal();
            own.push((BESIDE_BYTES.into(), beside.len().to_string().into()));
            whole.to_mut().extend(beside);
            (None, own.clone())
        }
    };
    let room = |headers: &Headers| most_bytes.saturating_sub(frame(&key, headers)).max(LEAST_PART_BYTES);
    let (first, rest) = whole.split_at(room(&first_headers).min(whole.len()));
    let chunks: Vec<&[u8]> = std::iter::once(first).chain(rest.chunks(room(&own))).collect();
    let part = |(at, chunk): (usize, &&[u8])| {
        let mut headers = if at == 0 { first_headers.clone() } else { own.clone() };
        headers.push((PART.into(), (at + 1).to_string().into()));
        headers.push((PARTS.into(), chunks.len().to_string().into()));
        Outgoing {
            topic: topic.clone(),
            partition: None,
            key: key.clone(),
            value: Some(chunk.to_vec().into()),
            headers,
        }
    };
    chunks.iter().enumerate().map(part).collect()
}

/// Key and headers of an event that are too large to be those of a part, as JSON.
#[derive(Default, Serialize, Deserialize)]
struct Beside {
    key: Option<Vec<u8>>,
    headers: Headers,
}

impl Beside {
    fn seal(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("bytes and names can be written as JSON")
    }

    fn open(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A record that is one part of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the parts of one letter have in common: where the event came from, and what it is.
    letter: String,
    number: u32,
    of: u32,
}

impl Part {
    /// None: the record is a letter of its own.
    pub fn of(record: &Incoming) -> Option<Self> {
        let text = |name: &str| header(&record.headers, name);
        let number = |name: &str| text(name)?.parse::<u32>().ok();
        let (number, of) = (number(PART)?, number(PARTS)?);
        let place = ["lockstep_topic", "lockstep_partition", "lockstep_offset", PARTS, ORIGINAL_SHA256];
        let letter = place.map(|name| text(name).unwrap_or_default()).join(" ");
        (1..=of).contains(&number).then_some(Self { letter, number, of })
    }

    pub fn is_last(&self) -> bool {
        self.number == self.of
    }

    /// Whether both are of one letter.
    pub fn is_of(&self, other: &Self) -> bool {
        self.letter == other.letter
    }

    /// Whether it comes right before another. An event may have been written twice: of two parts that do, the nearer is the one.
    pub fn precedes(&self, other: &Self) -> bool {
        self.is_of(other) && self.number + 1 == other.number
    }

    /// Of how many.
    pub fn count(&self) -> u32 {
        self.of
    }

    /// How many come before it.
    pub fn before(&self) -> u32 {
        self.number - 1
    }
}

/// An event as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    pub key: Option<Vec<u8>>,
    pub value: Option<Bytes>,
    /// The event's own.
    pub headers: Headers,
    /// Whether that is all of it, of the size and the SHA-256 that it came with.
    pub whole: bool,
}

/// A letter of the record or the parts of it that are there, in their order. Those at the front may be gone.
pub fn join(records: Vec<Incoming>) -> Letter {
    let Some(last) = records.last().cloned() else { return Letter::default() };
    let first = Part::of(&records[0]);
    let theirs = |headers: &Headers| headers.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    let (key, headers) = (records[0].key.clone(), theirs(&records[0].headers));
    let Some(first) = first else { return Letter { key, value: last.value, headers, whole: true } };
    let complete = first.number == 1 && records.len() == first.of as usize;
    let number = |name: &str| header(&last.headers, name)?.parse::<usize>().ok();
    let mut value = Vec::new();
    for record in records {
        value.extend(record.value.unwrap_or_default());
    }
    let mut letter = Letter { key, value: None, headers, whole: complete };
    if let Some(bytes) = number(BESIDE_BYTES) {
        let beside = value.split_off(value.len().saturating_sub(bytes));
        match Beside::open(&beside) {
            Some(Beside { key, headers }) => (letter.key, letter.headers) = (key, headers),
            None => letter.whole = false,
        }
    }
    if let Some(bytes) = number(ORIGINAL_BYTES) {
        letter.whole &= value.len() == bytes && header(&last.headers, ORIGINAL_SHA256) == Some(&sha256(&value));
        letter.value = Some(value.into());
    }
    letter
}

fn bytes(letter: &Outgoing) -> usize {
    let headers: usize =
        letter.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    let key = letter.key.as_ref().map_or(0, Vec::len);
    let value = letter.value.as_ref().map_or(0, Bytes::len);
    RECORD_OVERHEAD_BYTES + headers + key + value
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;
    use crate::model::Timestamp;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What a record has beside an event's bytes here: Lockstep's own headers.
    const OWN_BYTES: usize = 900;

    fn incoming(value: &[u8], headers: Headers) -> Incoming {
        Incoming {
            topic: "hr.workers".into(),
            partition: 3,
            offset: 42,
            timestamp: Timestamp(1_000),
            key: Some(b"w-1".to_vec()),
            value: Some(value.to_vec().into()),
            headers,
        }
    }

    fn rejection() -> Rejection {
        Rejection::new(Reason::NotJson, "not JSON from line 1, column 2 on")
    }

    /// As a reader finds them.
    fn read(records: Vec<Outgoing>) -> Vec<Incoming> {
        let read = |(offset, record): (usize, Outgoing)| Incoming {
            topic: record.topic,
            partition: 0,
            offset: offset as i64,
            timestamp: Timestamp(2_000),
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        records.into_iter().enumerate().map(read).collect()
    }

    fn original(event: &Incoming) -> Letter {
        let Incoming { key, value, headers, .. } = event.clone();
        Letter { key, value, headers, whole: true }
    }

    fn shown(record: &Outgoing) -> String {
        let headers = record.headers.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)));
        headers.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_original_is_kept_unchanged_beside_where_it_was_and_why() {
        let headers = vec![("x".into(), vec![0xff].into()), ("LOCKSTEP_reason".into(), "former".into())];
        let letters =
            dead_letter("lockstep.source-dead-letters", &incoming(b"\0\xffnot json", headers), &rejection(), 1_000);
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!(letter.value.as_deref(), Some(b"\0\xffnot json".as_slice()));
        assert_eq!(letter.key.as_deref(), Some(b"w-1".as_slice()));
        let expected = "lockstep_topic=hr.workers lockstep_partition=3 lockstep_offset=42 lockstep_timestamp=1000 \
             lockstep_reason=not_json lockstep_detail=not JSON from line 1, column 2 on x=\u{fffd}";
        assert_eq!(shown(letter), expected);
    }

    #[test]
    fn what_does_not_fit_into_one_record_is_several_that_say_which_they_are() {
        let value: Vec<u8> = (0..5_000u32).map(|n| n as u8).collect();
        let event = incoming(&value, vec![("x".into(), "y".into())]);
        let letters = dead_letter("t", &event, &rejection(), 2_000);
        let whole = format!("lockstep_original_bytes=5000 lockstep_original_sha256={}", sha256(&value));
        assert_eq!(letters.len(), 4);
        for (at, letter) in letters.iter().enumerate() {
            assert!(bytes(letter) <= 2_000, "part {at} has {}", bytes(letter));
            assert_eq!(letter.key, event.key);
            let theirs = if at == 0 { " x=y" } else { "" };
            let ends = format!("{whole}{theirs} lockstep_part={} lockstep_parts=4", at + 1);
            let shown = shown(letter);
            assert!(
                shown.starts_with("lockstep_topic=hr.workers lockstep_partition=3") && shown.ends_with(&ends),
                "{shown}"
            );
        }
        assert_eq!(join(read(letters)), original(&event));
    }

    #[test]
    fn key_and_headers_that_are_too_large_themselves_are_kept_too() {
        let many = vec![("h".into(), vec![b'b'; 5_000].into()), ("h".into(), "again".into())];
        let long = Some(vec![b'k'; 9_000]);
        let events = [
            incoming(b"value", many.clone()),
            Incoming { key: long.clone(), ..incoming(b"value", Vec::new()) },
            Incoming { key: long, value: None, ..incoming(b"", many) },
        ];
        for event in events {
            let letters = dead_letter("t", &event, &rejection(), 2_000);
            assert!(letters.len() > 2 && letters.iter().all(|letter| bytes(letter) <= 2_000), "{}", letters.len());
            assert_eq!(join(read(letters)), original(&event));
        }
    }

    #[test]
    fn parts_that_are_gone_or_changed_are_noticed() {
        let event = incoming(&[b'a'; 5_000], Vec::new());
        let parts = read(dead_letter("t", &event, &rejection(), 2_000));
        let left = join(parts[1..].to_vec());
        assert!(!left.whole && left.value.is_some_and(|value| value.len() < 5_000));
        let mut changed = parts.clone();
        let mut other = changed[2].value.take().unwrap().to_vec();
        other[7] = b'b';
        changed[2].value = Some(other.into());
        assert!(!join(changed).whole);
        assert!(!join(parts[..3].to_vec()).whole, "the last one is missing");
        assert!(join(parts).whole);
    }

    #[test]
    fn a_part_knows_which_comes_before_it_and_is_never_taken_for_another_letters() {
        let parts = |offset: i64| -> Vec<Part> {
            let event = Incoming { offset, ..incoming(&[b'a'; 5_000], Vec::new()) };
            read(dead_letter("t", &event, &rejection(), 2_000)).iter().filter_map(Part::of).collect()
        };
        let (one, other) = (parts(42), parts(43));
        assert_eq!((one[3].is_last(), one[2].is_last(), one[3].count(), one[3].before()), (true, false, 4, 3));
        assert!(one[2].precedes(&one[3]) && !one[1].precedes(&one[3]) && !other[2].precedes(&one[3]));
        for (part, parts) in [("0", "4"), ("5", "4"), ("x", "4"), ("1", "")] {
            let numbered = vec![(PART.into(), part.into()), (PARTS.into(), parts.into())];
            assert_eq!(Part::of(&incoming(b"", numbered)), None, "{part} of {parts}");
        }
    }

    #[test]
    fn a_decoder_that_repeats_what_it_could_not_read_makes_no_header_of_it() {
        let long = Rejection::new(Reason::Unreadable, "ä".repeat(1 << 20));
        let letters = dead_letter("t", &incoming(b"{}", Vec::new()), &long, 100_000);
        assert_eq!(letters.len(), 1);
        assert!(bytes(&letters[0]) < MOST_DETAIL_BYTES + OWN_BYTES);
    }

    #[test]
    fn a_tombstone_stays_one() {
        let event = Incoming { value: None, ..incoming(b"", Vec::new()) };
        let letters = dead_letter("t", &event, &rejection(), 1_000);
        assert_eq!((letters.len(), &letters[0].value), (1, &None));
        assert_eq!(join(read(letters)), original(&event));
    }

    fn some_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..most)
    }

    proptest! {
        #[test]
        fn whatever_came_is_what_the_parts_are_joined_to(
            value in proptest::option::of(some_bytes(20_000)),
            key in proptest::option::of(some_bytes(3_000)),
            headers in vec(("[a-z]{1,20}", some_bytes(1_500)), 0..4),
            most_bytes in 0usize..8_000,
        ) {
            let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            let event = Incoming { key, value: value.map(Into::into), ..incoming(b"", headers) };
            let letters = dead_letter("t", &event, &rejection(), most_bytes);
            for letter in &letters {
                prop_assert!(bytes(letter) <= most_bytes.max(OWN_BYTES + LEAST_PART_BYTES), "{}", bytes(letter));
            }
            let read = read(letters);
            let parts: Vec<Part> = read.iter().filter_map(Part::of).collect();
            prop_assert!(parts.is_empty() || (parts.len() == read.len() && parts[parts.len() - 1].is_last()));
            prop_assert!(parts.windows(2).all(|pair| pair[0].precedes(&pair[1])));
            prop_assert_eq!(join(read), original(&event));
        }
    }
}
