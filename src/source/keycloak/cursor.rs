//! Where a poller stands, as a record of the cursors topic; and which events it has seen lately.

use super::PollError;
use crate::bus::{Bus, Outgoing};
use crate::model::{SourceName, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Ids kept: more than a busy realm's admin events within the overlap. One that was forgotten comes again and changes nothing.
const MOST_SEEN: usize = 20_000;
/// Records of one read of the cursors topic.
const BATCH: usize = 1_000;
/// A wait of the reader; the end of the topic says when to stop.
const WAIT: Duration = Duration::from_millis(200);
/// Waits without a record before the end after which the topic counts as unreadable.
const MOST_WAITS: usize = 50;

/// Where a poller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Of the newest admin event that was taken, in ms by Keycloak's clock.
    pub time: i64,
    /// Of the last event that was written.
    pub order: i64,
    /// False while every user is to be read.
    pub complete: bool,
}

impl Cursor {
    /// Rises with every call, and with the clock where that is ahead.
    pub fn next_order(&mut self, now: Timestamp) -> i64 {
        self.order = now.0.max(self.order.saturating_add(1));
        self.order
    }

    pub(super) fn record(&self, topic: &str, source: &SourceName) -> Outgoing {
        Outgoing {
            topic: topic.to_owned(),
            partition: None,
            key: Some(source.as_str().as_bytes().to_vec()),
            value: Some(serde_json::to_vec(self).expect("two numbers and a bool").into()),
            headers: Vec::new(),
        }
    }
}

/// The last cursor of a source; None where there is none, or a tombstone.
pub(super) fn load(bus: &dyn Bus, topic: &str, source: &SourceName) -> Result<Option<Cursor>, PollError> {
    let mut last = None;
    for partition in 0..bus.partitions(topic)?.unwrap_or(0) {
        let ends = bus.ends(topic, partition)?;
        let mut reader = bus.reader()?;
        reader.seek(topic, partition, ends.start)?;
        let mut waits = 0;
        while reader.position(topic, partition)? < ends.end {
            let records = reader.poll(BATCH, WAIT)?;
            waits = if records.is_empty() { waits + 1 } else { 0 };
            if waits > MOST_WAITS {
                return Err(PollError::Cursor(source.clone(), topic.to_owned()));
            }
            for record in records {
                if record.key.as_deref() == Some(source.as_str().as_bytes()) {
                    last = record.value;
                }
            }
        }
    }
    let unreadable = |_| PollError::Cursor(source.clone(), topic.to_owned());
    last.map(|value| serde_json::from_slice(&value).map_err(unreadable)).transpose()
}

/// Ids of events, the newest `MOST_SEEN`.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub fn insert(&mut self, id: String) {
        if !self.ids.insert(id.clone()) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > MOST_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_rises_whatever_the_clock_does() {
        let mut cursor = Cursor { time: 0, order: 0, complete: true };
        let orders: Vec<i64> = [1_000, 1_000, 900, 2_000].map(|now| cursor.next_order(Timestamp(now))).to_vec();
        assert_eq!(orders, [1_000, 1_001, 1_002, 2_000]);
    }

    #[test]
    fn the_oldest_ids_are_forgotten_first() {
        let mut seen = Seen::default();
        for id in 0..=MOST_SEEN {
            seen.insert(id.to_string());
            seen.insert(id.to_string());
        }
        assert!(!seen.contains("0") && seen.contains("1") && seen.contains(&MOST_SEEN.to_string()));
        assert_eq!((seen.ids.len(), seen.order.len()), (MOST_SEEN, MOST_SEEN));
    }
}
