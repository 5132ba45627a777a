//! The embedded bus's topics and committed offsets, as a single-threaded structure over the map.
//!
//! A write is one batch of the map: records, ends, the index of compacted topics and committed offsets; what is kept in
//! memory follows only after the batch is there. Sweeping (retention, tombstones) is bounded and rides on writes.

use super::super::{BusError, Ends, Outgoing, TopicFound, TopicSpec, TopicState};
use super::map::{Changes, Map};
use super::record::{
    self, AFTER_COMMITTED, AFTER_ENDS, AFTER_TOPICS, COMMITTED, ENDS, IDENTITY, Newest, Place, TOPICS, VERSION,
};
use super::topic::{Partition, Policy, StoredTopic, Topic};
use crate::model::Timestamp;
use crate::model::id::murmur2;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

const FORMAT: i64 = 1;

/// More partitions than this are a typing error: each costs memory and a look at every sweep.
const PARTITIONS_AT_MOST: u32 = 1024;

pub(super) struct Log {
    pub(super) map: Arc<dyn Map>,
    pub(super) topics: BTreeMap<String, Topic>,
    /// By group, then place: the next offset to read.
    pub(super) committed: BTreeMap<String, BTreeMap<Place, i64>>,
    pub(super) sweep: super::sweep::Schedule,
}

/// A write on its way: what it changes, and what memory follows with.
#[derive(Default)]
struct Staged {
    changes: Changes,
    ends: BTreeMap<Place, (String, i64)>,
    keyless: BTreeMap<String, u32>,
}

impl Log {
    /// Made up when it is first asked for, and kept.
    pub(super) fn identity(&self) -> Result<String, BusError> {
        if let Some(id) = self.map.get(IDENTITY)? {
            return String::from_utf8(id).map_err(|_| record::garbled());
        }
        let id = uuid::Uuid::new_v4().to_string();
        self.map.write([(IDENTITY.to_vec(), Some(id.clone().into_bytes()))].into())?;
        Ok(id)
    }

    pub(super) fn open(map: Arc<dyn Map>) -> Result<Self, BusError> {
        match map.get(VERSION)? {
            Some(version) if record::number(&version)? == FORMAT => {}
            Some(_) => {
                return Err(BusError::Failed {
                    doing: "open the embedded bus".to_owned(),
                    reason: "it was written by a newer version: run that one".to_owned(),
                });
            }
            None => map.write([(VERSION.to_vec(), Some(FORMAT.to_be_bytes().to_vec()))].into())?,
        }
        let mut topics = BTreeMap::new();
        map.scan(TOPICS, AFTER_TOPICS, &mut |key, value| {
            let name = String::from_utf8(key[TOPICS.len()..].to_vec()).map_err(|_| record::garbled())?;
            let stored: StoredTopic = postcard::from_bytes(value).map_err(|_| record::garbled())?;
            let topic = Topic::new(&name, stored)?;
            topics.insert(name, topic);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut ends = BTreeMap::new();
        map.scan(ENDS, AFTER_ENDS, &mut |key, value| {
            ends.insert(record::place_of_ends(key)?, record::pair_of(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        for topic in topics.values_mut() {
            for (partition, state) in (0..).zip(&mut topic.partitions) {
                if let Some((start, end)) = ends.get(&Place { topic: topic.id, partition }) {
                    *state = Partition::new(*start, *end);
                }
            }
        }
        let mut committed: BTreeMap<String, BTreeMap<Place, i64>> = BTreeMap::new();
        map.scan(COMMITTED, AFTER_COMMITTED, &mut |key, value| {
            let (group, place) = record::group_and_place(key)?;
            committed.entry(group).or_default().insert(place, record::number(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Self { map, topics, committed, sweep: super::sweep::Schedule::default() })
    }

    /// Records and a group's offsets, all or nothing.
    pub(super) fn write(
        &mut self,
        outputs: &[Outgoing],
        offsets: Option<(&str, &BTreeMap<Place, i64>)>,
        now: Timestamp,
    ) -> Result<(), BusError> {
        let mut staged = Staged::default();
        for output in outputs {
            self.stage(&mut staged, output, now)?;
        }
        for (place, (topic, end)) in &staged.ends {
            let start = self.topics[topic].partitions[place.partition as usize].start;
            staged.changes.insert(record::ends_key(*place), Some(record::pair(start, *end)));
        }
        if let Some((group, offsets)) = offsets {
            for (place, offset) in offsets {
                staged.changes.insert(record::committed_key(group, *place), Some(offset.to_be_bytes().to_vec()));
            }
        }
        if staged.changes.is_empty() {
            return Ok(());
        }
        self.map.write(staged.changes)?;

        for (place, (topic, end)) in staged.ends {
            if let Some(topic) = self.topics.get_mut(&topic) {
                topic.partitions[place.partition as usize].end = end;
            }
        }
        for (topic, keyless) in staged.keyless {
            if let Some(topic) = self.topics.get_mut(&topic) {
                topic.keyless = keyless;
            }
        }
        if let Some((group, offsets)) = offsets {
            self.committed.entry(group.to_owned()).or_default().extend(offsets);
        }
        self.sweep_after(outputs.len(), now);
        Ok(())
    }

    fn stage(&self, staged: &mut Staged, output: &Outgoing, now: Timestamp) -> Result<(), BusError> {
        let topic = self.topic(&output.topic)?;
        let bytes = record::size(output);
        if bytes > topic.policy.message_bytes {
            return Err(BusError::TooLarge { topic: output.topic.clone(), bytes, limit: topic.policy.message_bytes });
        }
        let refused = |reason: String| BusError::Failed { doing: format!("write to topic {}", output.topic), reason };
        let count = topic.stored().partitions;
        let partition = match (output.partition, &output.key) {
            (Some(partition), _) if partition < count => partition,
            (Some(partition), _) => {
                return Err(refused(format!("there is no partition {partition}, it has {count}")));
            }
            (None, Some(key)) => (murmur2(key) & 0x7fff_ffff) % count,
            (None, None) => {
                let keyless = staged.keyless.entry(output.topic.clone()).or_insert(topic.keyless);
                *keyless = keyless.wrapping_add(1);
                keyless.wrapping_sub(1) % count
            }
        };
        let place = Place { topic: topic.id, partition };
        let next = topic.partitions[partition as usize].end;
        let end = &mut staged.ends.entry(place).or_insert_with(|| (output.topic.clone(), next)).1;
        let offset = *end;
        *end += 1;
        if topic.policy.compact {
            let Some(key) = &output.key else {
                return Err(refused("it is compacted, so a record needs a key".to_owned()));
            };
            let deleted = output.value.is_none().then_some(now);
            self.supersede(&mut staged.changes, place, key, Newest { offset, deleted })?;
        }
        staged.changes.insert(record::record_key(place, offset), Some(record::encode(output, now)));
        Ok(())
    }

    /// Removes a key's record of until now and points the index at the new one.
    pub(super) fn supersede(
        &self,
        changes: &mut Changes,
        place: Place,
        key: &[u8],
        newest: Newest,
    ) -> Result<(), BusError> {
        let index = record::index_key(place, key);
        let old = match changes.get(&index) {
            Some(staged) => staged.clone(),
            None => self.map.get(&index)?,
        };
        if let Some(old) = old.as_deref().map(Newest::decode).transpose()? {
            changes.insert(record::record_key(place, old.offset), None);
            if let Some(at) = old.deleted {
                changes.insert(record::tombstone_key(place, at, old.offset), None);
            }
        }
        if let Some(at) = newest.deleted {
            changes.insert(record::tombstone_key(place, at, newest.offset), Some(Vec::new()));
        }
        changes.insert(index, Some(newest.encode()));
        Ok(())
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Topic, BusError> {
        self.topics.get(name).ok_or_else(|| missing(&[name.to_owned()]))
    }

    pub(super) fn ends(&self, name: &str, partition: u32) -> Result<Ends, BusError> {
        let (_, state) = self.partition(name, partition)?;
        Ok(Ends { start: state.start, end: state.end })
    }

    pub(super) fn partition(&self, name: &str, partition: u32) -> Result<(Place, Partition), BusError> {
        let topic = self.topic(name)?;
        let state = topic.partitions.get(partition as usize).ok_or_else(|| BusError::Failed {
            doing: format!("find partition {partition} of topic {name}"),
            reason: format!("it has {}", topic.partitions.len()),
        })?;
        Ok((Place { topic: topic.id, partition }, *state))
    }

    /// Where a group stands: nothing before its committed offset comes again.
    pub(super) fn committed(&self, group: &str, place: Place) -> Option<i64> {
        self.committed.get(group)?.get(&place).copied()
    }

    pub(super) fn describe(&self, name: &str) -> TopicState {
        let found = self.topics.get(name).map(|topic| TopicFound {
            partitions: topic.stored().partitions,
            replicas: 1,
            settings: topic.settings.clone(),
        });
        TopicState { name: name.to_owned(), found }
    }

    /// All or none. A topic that is there already with as many partitions is left as it is.
    pub(super) fn create(&mut self, specs: &[TopicSpec]) -> Result<(), BusError> {
        let mut made = BTreeMap::new();
        let mut id = self.topics.values().map(|topic| topic.id + 1).max().unwrap_or(0);
        let mut changes = Changes::new();
        for spec in specs {
            let refused = |reason: String| BusError::Failed { doing: format!("create topic {}", spec.name), reason };
            if let Some(topic) = self.topics.get(&spec.name) {
                let there = topic.partitions.len();
                if there != spec.partitions as usize {
                    return Err(refused(format!(
                        "it is there with {there} partitions, not {}; the count is fixed at creation",
                        spec.partitions
                    )));
                }
                continue;
            }
            if !is_topic_name(&spec.name) {
                return Err(refused("a name has 1 to 249 of A-Z a-z 0-9 . _ -".to_owned()));
            }
            if !(1..=PARTITIONS_AT_MOST).contains(&spec.partitions) {
                return Err(refused(format!("{} partitions; there can be 1 to {PARTITIONS_AT_MOST}", spec.partitions)));
            }
            let stored = StoredTopic { id, partitions: spec.partitions, settings: spec.settings.clone() };
            changes.insert(record::topic_key(&spec.name), Some(topic_bytes(&stored)));
            made.insert(spec.name.clone(), Topic::new(&spec.name, stored)?);
            id += 1;
        }
        if !changes.is_empty() {
            self.map.write(changes)?;
            self.topics.append(&mut made);
        }
        Ok(())
    }

    pub(super) fn configure(&mut self, name: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
        let mut topic = self.topic(name)?.clone();
        topic.settings.extend(settings.clone());
        let before = topic.policy;
        topic.policy = Policy::of(name, &topic.settings)?;
        for state in &mut topic.partitions {
            (state.cut_at, state.bury_at) = (i64::MIN, i64::MIN);
        }
        if topic.policy.compact && !before.compact {
            self.compact_all(&topic)?;
        }
        // Last, so that a process killed before it has a topic that is still as it was set.
        self.map.write([(record::topic_key(name), Some(topic_bytes(&topic.stored())))].into())?;
        self.topics.insert(name.to_owned(), topic);
        Ok(())
    }
}

fn topic_bytes(stored: &StoredTopic) -> Vec<u8> {
    postcard::to_stdvec(stored).expect("a topic of numbers and texts can be encoded")
}

/// Kafka's rule for topic names, so that what works here works there.
fn is_topic_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

pub(super) fn missing(topics: &[String]) -> BusError {
    BusError::Failed {
        doing: "use the embedded bus".to_owned(),
        reason: format!("there is no topic {}: make it with `lockstep topics apply`", topics.join(", ")),
    }
}
