//! How the embedded bus writes things down: the keys of its map, sorted as they are read, and the bytes of a record.
//!
//! | key | value |
//! | --- | --- |
//! | `v` | format version |
//! | `t` topic's name | id, partitions, settings |
//! | `e` place | first offset, next offset |
//! | `g` group, 0, place | committed offset |
//! | `r` place, offset | record |
//! | `k` place, key | of a compacted topic: offset of the key's newest record, and when it was deleted |
//! | `x` place, time, offset | of a compacted topic: a tombstone, by age |
//!
//! A place is topic id and partition, four bytes each; all numbers are big endian.

use super::super::{BusError, Outgoing};
use crate::model::{Headers, Timestamp};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) topic: u32,
    pub(super) partition: u32,
}

pub(super) const VERSION: &[u8] = b"v";
pub(super) const IDENTITY: &[u8] = b"i";
pub(super) const TOPICS: &[u8] = b"t";
pub(super) const AFTER_TOPICS: &[u8] = b"u";
pub(super) const ENDS: &[u8] = b"e";
pub(super) const AFTER_ENDS: &[u8] = b"f";
pub(super) const COMMITTED: &[u8] = b"g";
pub(super) const AFTER_COMMITTED: &[u8] = b"h";

/// Longer keys stand in the index of compacted topics as their hash: the map's own keys are limited to 64 KiB.
const INDEXED_KEY_BYTES: usize = 512;

impl Place {
    fn bytes(self) -> [u8; 8] {
        (u64::from(self.topic) << 32 | u64::from(self.partition)).to_be_bytes()
    }

    fn of(bytes: [u8; 8]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { topic: (both >> 32) as u32, partition: both as u32 }
    }
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [TOPICS, name.as_bytes()].concat()
}

pub(super) fn ends_key(place: Place) -> Vec<u8> {
    [ENDS, &place.bytes()].concat()
}

pub(super) fn committed_key(group: &str, place: Place) -> Vec<u8> {
    [COMMITTED, group.as_bytes(), &[0], &place.bytes()].concat()
}

pub(super) fn record_key(place: Place, offset: i64) -> Vec<u8> {
    [b"r".as_slice(), &place.bytes(), &offset.to_be_bytes()].concat()
}

pub(super) fn index_key(place: Place, key: &[u8]) -> Vec<u8> {
    if key.len() <= INDEXED_KEY_BYTES {
        [b"k".as_slice(), &place.bytes(), &[0], key].concat()
    } else {
        [b"k".as_slice(), &place.bytes(), &[1], &Sha256::digest(key)].concat()
    }
}

/// Before and after all of a place's index.
pub(super) fn index_bounds(place: Place) -> (Vec<u8>, Vec<u8>) {
    ([b"k".as_slice(), &place.bytes(), &[0]].concat(), [b"k".as_slice(), &place.bytes(), &[2]].concat())
}

pub(super) fn tombstone_key(place: Place, at: Timestamp, offset: i64) -> Vec<u8> {
    [b"x".as_slice(), &place.bytes(), &at.0.to_be_bytes(), &offset.to_be_bytes()].concat()
}

/// The offset at the end of a record's or a tombstone's key.
pub(super) fn offset_of(key: &[u8]) -> Result<i64, BusError> {
    Ok(i64::from_be_bytes(*key.last_chunk().ok_or_else(garbled)?))
}

pub(super) fn place_of_ends(key: &[u8]) -> Result<Place, BusError> {
    Ok(Place::of(*key.last_chunk().ok_or_else(garbled)?))
}

/// Group and place out of a committed offset's key.
pub(super) fn group_and_place(key: &[u8]) -> Result<(String, Place), BusError> {
    let (group, place) = key[COMMITTED.len()..].split_last_chunk::<8>().ok_or_else(garbled)?;
    let group = group.strip_suffix(&[0]).ok_or_else(garbled)?;
    Ok((String::from_utf8(group.to_vec()).map_err(|_| garbled())?, Place::of(*place)))
}

pub(super) fn number(bytes: &[u8]) -> Result<i64, BusError> {
    Ok(i64::from_be_bytes(bytes.try_into().map_err(|_| garbled())?))
}

pub(super) fn pair(first: i64, second: i64) -> Vec<u8> {
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

pub(super) fn pair_of(bytes: &[u8]) -> Result<(i64, i64), BusError> {
    let (first, second) = bytes.split_first_chunk::<8>().ok_or_else(garbled)?;
    Ok((i64::from_be_bytes(*first), number(second)?))
}

/// What the index of a compacted topic knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) offset: i64,
    /// Of a tombstone: its timestamp, by which it is swept.
    pub(super) deleted: Option<Timestamp>,
}

impl Newest {
    pub(super) fn encode(self) -> Vec<u8> {
        match self.deleted {
            None => self.offset.to_be_bytes().to_vec(),
            Some(at) => pair(self.offset, at.0),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BusError> {
        if bytes.len() == 8 {
            return Ok(Self { offset: number(bytes)?, deleted: None });
        }
        let (offset, at) = pair_of(bytes)?;
        Ok(Self { offset, deleted: Some(Timestamp(at)) })
    }
}

/// A record as it is stored: timestamp, key, value, headers; texts and bytes after their length, -1 for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) timestamp: Timestamp,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Headers,
}

pub(super) fn encode(record: &Outgoing, timestamp: Timestamp) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + size(record));
    bytes.extend_from_slice(&timestamp.0.to_be_bytes());
    put(&mut bytes, record.key.as_deref());
    put(&mut bytes, record.value.as_deref());
    for (name, value) in &record.headers {
        put(&mut bytes, Some(name.as_bytes()));
        put(&mut bytes, Some(value));
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, BusError> {
    let (timestamp, mut rest) = bytes.split_first_chunk::<8>().ok_or_else(garbled)?;
    let key = take(&mut rest)?;
    let value = take(&mut rest)?;
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let name = take(&mut rest)?.ok_or_else(garbled)?;
        let name = std::str::from_utf8(name).map_err(|_| garbled())?;
        headers.push((name.into(), Bytes::copy_from_slice(take(&mut rest)?.ok_or_else(garbled)?)));
    }
    Ok(Record {
        timestamp: Timestamp(i64::from_be_bytes(*timestamp)),
        key: key.map(<[u8]>::to_vec),
        value: value.map(Bytes::copy_from_slice),
        headers,
    })
}

/// Bytes of a record's key, value and headers: what limits count.
pub(super) fn size(record: &Outgoing) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Bytes::len) + headers
}

fn put(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    let length = part.map_or(-1, |p| i32::try_from(p.len()).expect("a record is no larger than its topic's limit"));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part.unwrap_or_default());
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BusError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(garbled)?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *bytes = rest;
        return Ok(None);
    };
    let (part, rest) = rest.split_at_checked(length).ok_or_else(garbled)?;
    *bytes = rest;
    Ok(Some(part))
}

pub(super) fn garbled() -> BusError {
    BusError::Failed {
        doing: "read the embedded bus".to_owned(),
        reason: "what is stored is not in a form that this version knows".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: Option<&str>, headers: &[(&str, &str)]) -> Outgoing {
        Outgoing {
            topic: "t".into(),
            partition: None,
            key: key.map(Into::into),
            value: value.map(|value| value.to_owned().into()),
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).to_owned().into())).collect(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_a_part_of_one_does_not() {
        for given in [
            record(None, None, &[]),
            record(Some(""), Some(""), &[]),
            record(Some("k"), None, &[("id", "1"), ("id", "")]),
            record(None, Some("v"), &[("trace", "x")]),
        ] {
            let bytes = encode(&given, Timestamp(7));
            let back = decode(&bytes).unwrap();
            assert_eq!(
                (back.timestamp, &back.key, back.value.as_deref()),
                (Timestamp(7), &given.key, given.value.as_deref())
            );
            assert_eq!(back.headers, given.headers);
            assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn keys_give_back_what_they_were_made_of() {
        let place = Place { topic: 3, partition: u32::MAX };
        assert_eq!(group_and_place(&committed_key("a-group", place)).unwrap(), ("a-group".to_owned(), place));
        assert_eq!(place_of_ends(&ends_key(place)).unwrap(), place);
        assert_eq!(offset_of(&record_key(place, 77)).unwrap(), 77);
        for deleted in [None, Some(Timestamp(9))] {
            let newest = Newest { offset: 5, deleted };
            assert_eq!(Newest::decode(&newest.encode()).unwrap(), newest);
        }
    }

    #[test]
    fn keys_of_any_length_fit_the_index_and_stay_apart() {
        let place = Place { topic: 1, partition: 0 };
        let (long, longer) = (vec![1; 70_000], vec![1; 70_001]);
        assert_ne!(index_key(place, &long), index_key(place, &longer));
        let (from, to) = index_bounds(place);
        for key in [&[][..], b"a", &[0xff; 300], &long] {
            let index = index_key(place, key);
            assert!(index.len() < 1024 && from <= index && index < to);
        }
    }
}
