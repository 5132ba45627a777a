//! What the embedded bus removes: records past their retention, tombstones past theirs, and what compaction leaves over.
//!
//! A sweep is a batch of its own after a write, bounded, so that no commit waits long. It never removes a record that
//! some group has yet to read: one that no longer runs holds its topics' records for good.

use super::super::BusError;
use super::log::Log;
use super::map::Changes;
use super::record::{self, Newest, Place};
use super::topic::{Partition, Policy, Topic};
use crate::model::Timestamp;
use std::ops::ControlFlow;

/// Sweep after so many records, or after so long (milliseconds): retention is counted in hours, disk space in records.
const EVERY_RECORDS: usize = 64;
const EVERY_MS: i64 = 1000;

/// Removed by one sweep at most: twice what came in since the last, so that a backlog shrinks, and no less than this.
const REMOVALS: usize = 2 * EVERY_RECORDS;

/// A partition without anything old enough, or with a group's offset in the way, is looked at again so much later.
const LOOK_AGAIN_MS: i64 = 1000;

/// Records rewritten in one batch while a topic becomes compacted.
const COMPACT_RECORDS: usize = 1024;

impl Partition {
    fn is_due(&self, policy: &Policy, now: Timestamp) -> bool {
        let tombstones = policy.compact && now.0 >= self.bury_at;
        let old = policy.retention.is_some() && now.0 >= self.cut_at;
        self.start < self.end && (tombstones || old)
    }
}

#[derive(Default)]
pub(super) struct Schedule {
    records: usize,
    last: i64,
    /// Where the last sweep ran out of room: the next one goes on behind it.
    turn: Option<Place>,
}

/// What one sweep may still remove, and what it removes.
struct Removal {
    room: usize,
    changes: Changes,
}

impl Log {
    /// Called after each write of so many records. An error is no reason to fail that write, which took place.
    pub(super) fn sweep_after(&mut self, records: usize, now: Timestamp) {
        self.sweep.records += records;
        if self.sweep.records < EVERY_RECORDS && now.0.saturating_sub(self.sweep.last) < EVERY_MS {
            return;
        }
        let room = REMOVALS.max(2 * self.sweep.records);
        (self.sweep.records, self.sweep.last) = (0, now.0);
        if let Err(error) = self.sweep(room, now) {
            tracing::warn!(%error, "old records of the embedded bus could not be removed");
        }
    }

    fn sweep(&mut self, room: usize, now: Timestamp) -> Result<(), BusError> {
        let mut due: Vec<(Place, String)> = Vec::new();
        for (name, topic) in &self.topics {
            let partitions = (0..).zip(&topic.partitions).filter(|(_, state)| state.is_due(&topic.policy, now));
            due.extend(partitions.map(|(partition, _)| (Place { topic: topic.id, partition }, name.clone())));
        }
        due.sort_unstable();
        let first = due.partition_point(|(place, _)| Some(*place) <= self.sweep.turn);
        due.rotate_left(first);

        let mut removal = Removal { room, changes: Changes::new() };
        let mut swept = Vec::new();
        self.sweep.turn = None;
        for (place, name) in due {
            let state = self.sweep_partition(&self.topics[&name], place, now, &mut removal)?;
            swept.push((place, name, state));
            if removal.room == 0 {
                self.sweep.turn = Some(place);
                break;
            }
        }
        self.map.write(removal.changes)?;
        for (place, name, state) in swept {
            if let Some(topic) = self.topics.get_mut(&name) {
                topic.partitions[place.partition as usize] = state;
            }
        }
        Ok(())
    }

    /// The partition as it is after the removal.
    fn sweep_partition(
        &self,
        topic: &Topic,
        place: Place,
        now: Timestamp,
        removal: &mut Removal,
    ) -> Result<Partition, BusError> {
        let mut state = topic.partitions[place.partition as usize];
        if topic.policy.compact {
            state.bury_at = self.bury(place, topic.policy.delete_retention, now, removal)?;
        }
        if let Some(retention) = topic.policy.retention {
            self.cut(place, &mut state, retention, now, removal)?;
        }
        Ok(state)
    }

    /// Removes tombstones past their time; gives the time before which there is none to remove.
    fn bury(&self, place: Place, keep: i64, now: Timestamp, removal: &mut Removal) -> Result<i64, BusError> {
        let from = record::tombstone_key(place, Timestamp(0), 0);
        let expired = record::tombstone_key(place, Timestamp(now.0.saturating_sub(keep).max(0)), 0);
        let mut offsets = Vec::new();
        self.map.scan(&from, &expired, &mut |key, _| {
            if offsets.len() == removal.room {
                return Ok(ControlFlow::Break(()));
            }
            offsets.push((key.to_vec(), record::offset_of(key)?));
            Ok(ControlFlow::Continue(()))
        })?;
        let more = offsets.len() == removal.room;
        for (tombstone, offset) in offsets {
            let row = record::record_key(place, offset);
            if let Some(bytes) = self.map.get(&row)?
                && let Some(key) = record::decode(&bytes)?.key
            {
                removal.changes.insert(record::index_key(place, &key), None);
            }
            removal.changes.insert(row, None);
            removal.changes.insert(tombstone, None);
            removal.room -= 1;
        }
        Ok(if more { i64::MIN } else { now.0.saturating_add(LOOK_AGAIN_MS) })
    }

    /// Removes records older than `retention` from the start, up to the first offset that some group has yet to read.
    fn cut(
        &self,
        place: Place,
        state: &mut Partition,
        retention: i64,
        now: Timestamp,
        removal: &mut Removal,
    ) -> Result<(), BusError> {
        let read = self.committed.values().filter_map(|offsets| offsets.get(&place)).min();
        let bound = read.map_or(state.end, |read| *read.min(&state.end));
        let (from, to) = (record::record_key(place, state.start), record::record_key(place, bound));
        let mut start = bound.max(state.start);
        let mut cut_at = now.0.saturating_add(LOOK_AGAIN_MS);
        let mut emptied = Vec::new();
        self.map.scan(&from, &to, &mut |key, value| {
            let offset = record::offset_of(key)?;
            let found = record::decode(value)?;
            let expires = found.timestamp.0.saturating_add(retention);
            if expires > now.0 || removal.room == 0 {
                start = offset;
                cut_at = if expires > now.0 { expires } else { i64::MIN };
                return Ok(ControlFlow::Break(()));
            }
            removal.changes.insert(key.to_vec(), None);
            removal.room -= 1;
            emptied.extend(found.key.map(|key| (key, offset)));
            Ok(ControlFlow::Continue(()))
        })?;
        // Of a topic that is compacted, too. One that is not has no index, and the look-up finds nothing in no time.
        for (key, offset) in emptied {
            let index = record::index_key(place, &key);
            let newest = self.map.get(&index)?.as_deref().map(Newest::decode).transpose()?;
            if let Some(newest) = newest.filter(|newest| newest.offset == offset) {
                removal.changes.insert(index, None);
                if let Some(at) = newest.deleted {
                    removal.changes.insert(record::tombstone_key(place, at, offset), None);
                }
            }
        }
        if start != state.start {
            removal.changes.insert(record::ends_key(place), Some(record::pair(start, state.end)));
        }
        (state.start, state.cut_at) = (start, cut_at);
        Ok(())
    }

    /// For a topic that becomes compacted: builds its index and removes what is not the newest of its key. Killed in the
    /// middle, it is done again from the start when the setting is made again.
    pub(super) fn compact_all(&self, topic: &Topic) -> Result<(), BusError> {
        for (partition, state) in (0..).zip(&topic.partitions) {
            let place = Place { topic: topic.id, partition };
            let (index, after_index) = record::index_bounds(place);
            self.remove_all(&index, &after_index)?;
            let tombstones = record::tombstone_key(place, Timestamp(0), 0);
            self.remove_all(&tombstones, &record::tombstone_key(place, Timestamp(i64::MAX), i64::MAX))?;
            let mut next = state.start;
            while next < state.end {
                let mut found = Vec::new();
                self.map.scan(
                    &record::record_key(place, next),
                    &record::record_key(place, state.end),
                    &mut |key, value| {
                        found.push((record::offset_of(key)?, record::decode(value)?));
                        Ok(if found.len() < COMPACT_RECORDS {
                            ControlFlow::Continue(())
                        } else {
                            ControlFlow::Break(())
                        })
                    },
                )?;
                next = if found.len() < COMPACT_RECORDS { state.end } else { found[COMPACT_RECORDS - 1].0 + 1 };
                let mut changes = Changes::new();
                for (offset, record) in found {
                    if let Some(key) = &record.key {
                        let deleted = record.value.is_none().then_some(record.timestamp);
                        self.supersede(&mut changes, place, key, Newest { offset, deleted })?;
                    }
                }
                self.map.write(changes)?;
            }
        }
        Ok(())
    }

    fn remove_all(&self, from: &[u8], to: &[u8]) -> Result<(), BusError> {
        loop {
            let mut changes = Changes::new();
            self.map.scan(from, to, &mut |key, _| {
                changes.insert(key.to_vec(), None);
                Ok(if changes.len() < COMPACT_RECORDS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            if changes.is_empty() {
                return Ok(());
            }
            self.map.write(changes)?;
        }
    }
}
