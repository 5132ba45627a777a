//! A topic of the embedded bus and what its settings mean here.
//!
//! Followed: `cleanup.policy`, `retention.ms`, `delete.retention.ms` and `max.message.bytes`, with Kafka's defaults. Any
//! other setting is kept and shown, and changes nothing.

use super::super::BusError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kafka's default for `retention.ms`: 7 days.
const RETENTION_MS: i64 = 7 * 24 * 3600 * 1000;
/// Kafka's default for `delete.retention.ms`: a day.
const DELETE_RETENTION_MS: i64 = 24 * 3600 * 1000;
/// Kafka's default for `max.message.bytes`.
const MESSAGE_BYTES: i64 = 1_048_588;
/// More would not fit the lengths of a stored record.
const MESSAGE_BYTES_AT_MOST: i64 = 1 << 30;

/// As it is stored (postcard: new fields at the end).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredTopic {
    pub(super) id: u32,
    pub(super) partitions: u32,
    pub(super) settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) id: u32,
    pub(super) partitions: Vec<Partition>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) policy: Policy,
    /// Counts records without a key, which go to the partitions in turn.
    pub(super) keyless: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Partition {
    /// Below it all was cut by retention. What compaction removes leaves gaps, and doesn't move it.
    pub(super) start: i64,
    pub(super) end: i64,
    /// Nothing is old enough to be cut before this (milliseconds).
    pub(super) cut_at: i64,
    /// No tombstone is old enough to be removed before this (milliseconds).
    pub(super) bury_at: i64,
}

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Only a key's newest record is kept.
    pub(super) compact: bool,
    /// Records are cut when they are older than this (milliseconds).
    pub(super) retention: Option<i64>,
    /// How long a compacted topic keeps a tombstone (milliseconds).
    pub(super) delete_retention: i64,
    pub(super) message_bytes: usize,
}

impl Policy {
    pub(super) fn of(topic: &str, settings: &BTreeMap<String, String>) -> Result<Self, BusError> {
        let refused =
            |name: &str, reason: String| BusError::Failed { doing: format!("set {name} of topic {topic}"), reason };
        let number = |name: &str, default: i64| match settings.get(name) {
            None => Ok(default),
            Some(text) => {
                text.trim().parse::<i64>().map_err(|_| refused(name, format!("{text:?} is not a whole number")))
            }
        };
        let (mut compact, mut delete) = (false, false);
        for word in settings.get("cleanup.policy").map_or("delete", String::as_str).split(',').map(str::trim) {
            match word {
                "compact" => compact = true,
                "delete" => delete = true,
                other => return Err(refused("cleanup.policy", format!("{other:?} is neither compact nor delete"))),
            }
        }
        let retention = number("retention.ms", RETENTION_MS)?;
        let message_bytes = number("max.message.bytes", MESSAGE_BYTES)?;
        if !(0..=MESSAGE_BYTES_AT_MOST).contains(&message_bytes) {
            return Err(refused(
                "max.message.bytes",
                format!("{message_bytes} is not between 0 and {MESSAGE_BYTES_AT_MOST}"),
            ));
        }
        Ok(Self {
            compact,
            retention: (delete && retention >= 0).then_some(retention),
            delete_retention: number("delete.retention.ms", DELETE_RETENTION_MS)?.max(0),
            message_bytes: usize::try_from(message_bytes).expect("it was just found to be between 0 and 1 GiB"),
        })
    }
}

impl Partition {
    pub(super) fn new(start: i64, end: i64) -> Self {
        Self { start, end, cut_at: i64::MIN, bury_at: i64::MIN }
    }
}

impl Topic {
    pub(super) fn new(name: &str, stored: StoredTopic) -> Result<Self, BusError> {
        let policy = Policy::of(name, &stored.settings)?;
        let partitions = (0..stored.partitions).map(|_| Partition::new(0, 0)).collect();
        Ok(Self { id: stored.id, partitions, settings: stored.settings, policy, keyless: 0 })
    }

    pub(super) fn stored(&self) -> StoredTopic {
        let partitions =
            u32::try_from(self.partitions.len()).expect("partitions are counted by u32 when a topic is made");
        StoredTopic { id: self.id, partitions, settings: self.settings.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(settings: &[(&str, &str)]) -> Result<Policy, BusError> {
        Policy::of("t", &settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn settings_mean_what_they_mean_to_kafka() {
        let plain = policy(&[]).unwrap();
        assert_eq!((plain.compact, plain.retention), (false, Some(RETENTION_MS)));
        assert_eq!(policy(&[("retention.ms", "-1")]).unwrap().retention, None);
        let compacted = policy(&[("cleanup.policy", "compact"), ("delete.retention.ms", "5")]).unwrap();
        assert_eq!((compacted.compact, compacted.retention, compacted.delete_retention), (true, None, 5));
        let both = policy(&[("cleanup.policy", "compact, delete"), ("retention.ms", "9")]).unwrap();
        assert_eq!((both.compact, both.retention), (true, Some(9)));
    }

    #[test]
    fn a_setting_that_cannot_be_is_named() {
        for (name, value) in
            [("cleanup.policy", "compress"), ("retention.ms", "a week"), ("max.message.bytes", "99999999999")]
        {
            let error = policy(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("topic t"), "{error}");
        }
    }
}
