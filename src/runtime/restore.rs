//! Brings local stores up to their changelogs.
//!
//! The store's position is where the replay begins; its end is what a read_uncommitted client sees as the end, so that
//! nothing that is being committed right now is missed. A store that can't be trusted is rebuilt from the beginning.

use super::batch::timer_of;
use crate::bus::{Bus, BusError, Ends};
use crate::model::Timestamp;
use crate::store::{Store, StoreError, Write};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A store that was last current longer ago than this may have missed tombstones that compaction has removed since: half of
/// the `delete.retention.ms` (24 h) of our changelogs.
pub const STALE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// Records applied to the store at once.
const CHUNK: usize = 2_000;
/// How long nothing may come although the end is not reached: transactions that hang are aborted by the broker within 10 s.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("changelog {topic}-{partition}: nothing came for {} s at offset {at} of {end}", STALLED.as_secs())]
    Stalled { topic: String, partition: u32, at: i64, end: i64 },
}

/// Replays what the stores of these partitions lack; gives the changelog's end of each. `progress` is told how many records
/// of a partition remain. All at once, with one reader: to find that a partition ends costs a broker's long poll.
pub fn restore(
    bus: &dyn Bus,
    topic: &str,
    stores: &mut BTreeMap<u32, Box<dyn Store>>,
    now: Timestamp,
    mut progress: impl FnMut(u32, i64),
) -> Result<BTreeMap<u32, i64>, RestoreError> {
    let (mut ends, mut behind) = (BTreeMap::new(), BTreeMap::new());
    for (partition, store) in &mut *stores {
        let Ends { start, end } = bus.ends(topic, *partition)?;
        let from = match trusted(store.as_ref(), start, end, now)? {
            Some(position) => position,
            None => {
                store.clear()?;
                start
            }
        };
        ends.insert(*partition, end);
        if from < end {
            behind.insert(*partition, from);
        }
    }
    if !behind.is_empty() {
        catch_up(bus, topic, stores, &ends, behind, &mut progress)?;
    }
    for (partition, store) in stores {
        progress(*partition, 0);
        if store.position()?.is_none() {
            store.apply(&[], ends[partition])?;
        }
        store.touch(now)?;
    }
    Ok(ends)
}

/// Reads until no partition is `behind` its end any more.
fn catch_up(
    bus: &dyn Bus,
    topic: &str,
    stores: &mut BTreeMap<u32, Box<dyn Store>>,
    ends: &BTreeMap<u32, i64>,
    mut behind: BTreeMap<u32, i64>,
    progress: &mut impl FnMut(u32, i64),
) -> Result<(), RestoreError> {
    let mut reader = bus.reader()?;
    for (partition, at) in &behind {
        reader.seek(topic, *partition, *at)?;
    }
    let mut heard = Instant::now();
    while let Some((first, at)) = behind.first_key_value().map(|(partition, at)| (*partition, *at)) {
        let mut writes: BTreeMap<u32, Vec<Write>> = BTreeMap::new();
        for record in reader.poll(CHUNK, Duration::from_millis(200))? {
            let Some(key) = record.key else { continue };
            let timer = timer_of(&key, record.value.as_deref());
            writes.entry(record.partition).or_default().push(Write { key, value: record.value, timer });
        }
        let mut moved = !writes.is_empty();
        for (partition, at) in &mut behind {
            let position = reader.position(topic, *partition)?;
            moved |= position > *at;
            *at = position;
        }
        for (partition, store) in &mut *stores {
            // A partition that has reached its end may give what was written since: it is in the store before its position.
            let written = writes.remove(partition).unwrap_or_default();
            if behind.contains_key(partition) || !written.is_empty() {
                store.apply(&written, reader.position(topic, *partition)?)?;
            }
        }
        behind.retain(|partition, at| *at < ends[partition]);
        behind.iter().for_each(|(partition, at)| progress(*partition, ends[partition] - at));
        if moved {
            heard = Instant::now();
        } else if heard.elapsed() > STALLED {
            return Err(RestoreError::Stalled { topic: topic.to_owned(), partition: first, at, end: ends[&first] });
        }
    }
    Ok(())
}

/// The store's position, if replaying from there gives the whole truth.
fn trusted(store: &dyn Store, start: i64, end: i64, now: Timestamp) -> Result<Option<i64>, StoreError> {
    let (Some(position), Some(written)) = (store.position()?, store.written_at()?) else { return Ok(None) };
    let fresh = now.since(written) < STALE_AFTER;
    Ok((fresh && (start..=end).contains(&position)).then_some(position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::{EmbeddedBus, WallClock};
    use crate::bus::{Outgoing, TopicSpec};
    use crate::store::Stores;
    use crate::store::memory::MemoryStores;
    use std::sync::Arc;

    fn put(bus: &dyn Bus, partition: u32, key: &str, value: Option<&str>) {
        let record = Outgoing {
            topic: "changelog".into(),
            partition: Some(partition),
            key: Some(key.into()),
            value: value.map(Into::into),
            headers: Vec::new(),
        };
        bus.append(vec![record]).unwrap();
    }

    #[test]
    fn each_store_gets_what_it_lacks_of_its_own_partition() {
        let bus = EmbeddedBus::memory(Arc::new(WallClock));
        let settings = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
        bus.create(&[TopicSpec { name: "changelog".into(), partitions: 4, replicas: None, settings }]).unwrap();
        for partition in 0..3 {
            put(&bus, partition, "a", Some(&format!("of {partition}")));
            put(&bus, partition, "b", Some("gone soon"));
        }
        let stores = MemoryStores::default();
        let open = || (0..4).map(|id| (id, stores.open("state", id).unwrap())).collect::<BTreeMap<_, _>>();
        let now = Timestamp(1_000);
        let ends = restore(&bus, "changelog", &mut open(), now, |_, _| {}).unwrap();
        assert_eq!(ends, [(0, 2), (1, 2), (2, 2), (3, 0)].into());

        put(&bus, 1, "b", None);
        put(&bus, 2, "c", Some("new"));
        let mut again = open();
        let mut told = BTreeMap::new();
        restore(&bus, "changelog", &mut again, now, |id, remaining| {
            told.insert(id, remaining);
        })
        .unwrap();
        assert_eq!(told, [(0, 0), (1, 0), (2, 0), (3, 0)].into(), "nothing remains");
        let keys = |id: u32| {
            let rows = again[&id].scan(&[], &[], 10).unwrap();
            rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<Vec<_>>().concat()
        };
        assert_eq!([keys(0), keys(1), keys(2), keys(3)], ["ab", "a", "abc", ""]);
        for id in 0..3 {
            assert_eq!(again[&id].get(b"a").unwrap().unwrap(), format!("of {id}").into_bytes());
        }
    }
}
