//! Brings local stores up to their changelogs.
//!
//! The store's position is where the replay begins; its end is what a read_uncommitted client sees as the end, so that
//! nothing that is being committed right now is missed. A store that can't be trusted is rebuilt from the beginning.
//! `look` says what a store lacks, a `Replay` brings it, chunk by chunk; who has other things to do in between, or lets
//! threads do it, is `restorer`. Tails are replayed side by side; what is rebuilt and long comes one after the other, in large
//! loads, so that memory stays bounded and those that come first are served first.

use super::batch::timer_of;
use crate::bus::{Bus, BusError, Ends, Reader};
use crate::model::{CLOCKS_APART, Timestamp};
use crate::store::{Store, StoreError, Write};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A store that was last current longer ago than this may have missed tombstones that compaction has removed since: half of
/// the `delete.retention.ms` (24 h) of our changelogs.
pub const STALE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// How often the stores of a process are told that they are current.
pub const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Records applied to the stores at once: large enough for one write to be cheap, small enough to stay within some MiB.
pub const CHUNK: usize = 2_000;
/// A thread's rebuilds gather so much before the largest is loaded: the larger, the fewer tables are written and merged later.
const LOAD_BYTES: usize = 32 << 20;
/// From so many offsets on a rebuild is long: below, waiting for its turn would cost more than the memory of reading it beside
/// others.
const LONG: i64 = 10_000;
/// How long nothing may come although the end is not reached: transactions that hang are aborted by the broker within 10 s.
pub(super) const STALLED: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{topic}-{partition}: nothing came for {} s at offset {at} of {end}", STALLED.as_secs())]
    Stalled { topic: String, partition: u32, at: i64, end: i64 },
    #[error("changelog {topic}: the thread that replayed it ended in a bug: see the log")]
    Thread { topic: String },
}

/// A store as current as its changelog.
pub struct Restored {
    pub partition: u32,
    pub store: Box<dyn Store>,
    /// The changelog's end.
    pub end: i64,
    /// Records that it lacked.
    pub replayed: u64,
}

/// A store that lacks something.
pub struct Behind {
    pub partition: u32,
    store: Box<dyn Store>,
    at: i64,
    end: i64,
    /// What it holds can't be trusted.
    rebuild: bool,
    /// Others wait for it, or it for them.
    long: bool,
    /// Of a rebuild: read, and not loaded yet.
    gathered: Vec<Write>,
    bytes: usize,
    replayed: u64,
}

pub enum Found {
    Current(Restored),
    Behind(Behind),
}

impl Behind {
    /// Offsets still to be read.
    pub fn remaining(&self) -> i64 {
        self.end - self.at
    }

    /// Takes what was read up to `position`; a rebuild only gathers it.
    fn take(&mut self, writes: Vec<Write>, position: i64) -> Result<(), StoreError> {
        self.replayed += writes.len() as u64;
        self.at = position;
        if !self.rebuild {
            return self.store.apply(&writes, position);
        }
        let bytes = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
        self.bytes += writes.iter().map(bytes).sum::<usize>();
        self.gathered.extend(writes);
        Ok(())
    }

    fn load(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.store.load(std::mem::take(&mut self.gathered))?;
        self.store.apply(&[], self.at)
    }

    fn restored(mut self, now: Timestamp) -> Result<Restored, StoreError> {
        if !self.gathered.is_empty() {
            self.load()?;
        }
        if self.store.position()?.is_none() {
            self.store.apply(&[], self.end)?;
        }
        self.store.touch(now)?;
        Ok(Restored { partition: self.partition, store: self.store, end: self.end, replayed: self.replayed })
    }
}

/// What a store lacks, if anything.
pub fn look(
    bus: &dyn Bus,
    topic: &str,
    partition: u32,
    store: Box<dyn Store>,
    now: Timestamp,
) -> Result<Found, RestoreError> {
    let Ends { start, end } = bus.ends(topic, partition)?;
    let trusted = trusted(store.as_ref(), start, end, now)?;
    let (at, rebuild) = (trusted.unwrap_or(start), trusted.is_none());
    let long = rebuild && end - at >= LONG;
    let behind = Behind { partition, store, at, end, rebuild, long, gathered: Vec::new(), bytes: 0, replayed: 0 };
    Ok(match rebuild || at < end {
        true => Found::Behind(behind),
        false => Found::Current(behind.restored(now)?),
    })
}

/// Stores on their way to the ends of their changelogs, by one reader: to find that a partition ends costs a broker's long poll.
pub struct Replay {
    topic: String,
    reader: Box<dyn Reader>,
    open: BTreeMap<u32, Behind>,
    /// Long ones that have to wait until another has come to its end.
    waiting: Vec<Behind>,
    chunk: usize,
    now: Timestamp,
    heard: Instant,
}

impl Replay {
    pub fn begin(
        bus: &dyn Bus,
        topic: &str,
        behind: Vec<Behind>,
        chunk: usize,
        now: Timestamp,
    ) -> Result<Self, RestoreError> {
        let (waiting, open) = behind.into_iter().partition(|one: &Behind| one.long);
        let mut replay = Self {
            topic: topic.to_owned(),
            reader: bus.reader()?,
            open: BTreeMap::new(),
            waiting,
            chunk,
            now,
            heard: Instant::now(),
        };
        let open: Vec<Behind> = open;
        open.into_iter().try_for_each(|one| replay.open(one))?;
        Ok(replay)
    }

    pub fn is_done(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    /// Offsets still to be read, by partition.
    pub fn remaining(&self) -> impl Iterator<Item = (u32, i64)> {
        self.open.values().chain(&self.waiting).map(|behind| (behind.partition, behind.remaining()))
    }

    /// Applies one chunk; gives the stores that have come to their ends.
    pub fn advance(&mut self, wait: Duration) -> Result<Vec<Restored>, RestoreError> {
        if !self.open.values().any(|one| one.long)
            && let Some(next) = self.waiting.pop()
        {
            self.open(next)?;
        }
        if self.open.values().any(|behind| behind.remaining() > 0) {
            self.read(wait)?;
        }
        let ended: Vec<u32> =
            self.open.values().filter(|behind| behind.remaining() <= 0).map(|behind| behind.partition).collect();
        let mut restored = Vec::new();
        for partition in ended {
            self.reader.leave(&self.topic, partition)?;
            let behind = self.open.remove(&partition).expect("it was among the open ones");
            restored.push(behind.restored(self.now)?);
        }
        match self.open.values().next() {
            Some(Behind { partition, at, end, .. }) if self.heard.elapsed() > STALLED => {
                Err(RestoreError::Stalled { topic: self.topic.clone(), partition: *partition, at: *at, end: *end })
            }
            _ => Ok(restored),
        }
    }

    fn open(&mut self, mut behind: Behind) -> Result<(), RestoreError> {
        if behind.rebuild {
            behind.store.clear()?;
            // What it will hold is as current as now: should this be cut short, the next one goes on from there.
            behind.store.touch(self.now)?;
        }
        if behind.remaining() > 0 {
            self.reader.seek(&self.topic, behind.partition, behind.at)?;
        }
        self.heard = Instant::now();
        self.open.insert(behind.partition, behind);
        Ok(())
    }

    fn read(&mut self, wait: Duration) -> Result<(), RestoreError> {
        let mut writes: BTreeMap<u32, Vec<Write>> = BTreeMap::new();
        for record in self.reader.poll(self.chunk, wait)? {
            let Some(key) = record.key else { continue };
            let timer = timer_of(&key, record.value.as_deref());
            writes.entry(record.partition).or_default().push(Write { key, value: record.value, timer });
        }
        for (partition, behind) in self.open.iter_mut().filter(|(_, behind)| behind.remaining() > 0) {
            let position = self.reader.position(&self.topic, *partition)?;
            // The last chunk may bring what was written since it was looked: it is in the store before its position.
            let written = writes.remove(partition).unwrap_or_default();
            if position > behind.at || !written.is_empty() {
                behind.take(written, position)?;
                self.heard = Instant::now();
            }
        }
        while self.open.values().map(|behind| behind.bytes).sum::<usize>() >= LOAD_BYTES {
            let largest = self.open.values_mut().max_by_key(|behind| behind.bytes).expect("one of them has gathered");
            largest.load()?;
        }
        Ok(())
    }
}

/// Replays what the stores of these partitions lack, and returns when all are current; gives the changelog's end of each.
pub fn restore(
    bus: &dyn Bus,
    topic: &str,
    stores: BTreeMap<u32, Box<dyn Store>>,
    now: Timestamp,
) -> Result<Vec<Restored>, RestoreError> {
    let (mut restored, mut behind) = (Vec::new(), Vec::new());
    for (partition, store) in stores {
        match look(bus, topic, partition, store, now)? {
            Found::Current(current) => restored.push(current),
            Found::Behind(one) => behind.push(one),
        }
    }
    if behind.is_empty() {
        return Ok(restored);
    }
    let mut replay = Replay::begin(bus, topic, behind, CHUNK, now)?;
    while !replay.is_done() {
        restored.extend(replay.advance(WAIT)?);
    }
    Ok(restored)
}

/// The store's position, if replaying from there gives the whole truth.
fn trusted(store: &dyn Store, start: i64, end: i64, now: Timestamp) -> Result<Option<i64>, StoreError> {
    let (Some(position), Some(written)) = (store.position()?, store.written_at()?) else { return Ok(None) };
    // One that was current later than now was so by a clock that was ahead: how long ago really, nothing tells.
    let fresh = now.since(written) < STALE_AFTER && written <= now.plus(CLOCKS_APART);
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
            value: value.map(|value| value.to_owned().into()),
            headers: Vec::new(),
        };
        bus.append(vec![record]).unwrap();
    }

    fn changelog() -> EmbeddedBus {
        let bus = EmbeddedBus::memory(Arc::new(WallClock));
        let settings = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
        bus.create(&[TopicSpec { name: "changelog".into(), partitions: 4, replicas: None, settings }]).unwrap();
        bus
    }

    fn keys(store: &dyn Store) -> String {
        let rows = store.scan(&[], &[], 10).unwrap();
        rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<Vec<_>>().concat()
    }

    #[test]
    fn each_store_gets_what_it_lacks_of_its_own_partition() {
        let bus = changelog();
        for partition in 0..3 {
            put(&bus, partition, "a", Some(&format!("of {partition}")));
            put(&bus, partition, "b", Some("gone soon"));
        }
        let stores = MemoryStores::default();
        let open = || (0..4).map(|id| (id, stores.open("state", id).unwrap())).collect::<BTreeMap<_, _>>();
        let now = Timestamp(1_000);
        let told = |restored: &[Restored]| {
            restored.iter().map(|r| (r.partition, (r.end, r.replayed))).collect::<BTreeMap<_, _>>()
        };
        let first = restore(&bus, "changelog", open(), now).unwrap();
        assert_eq!(told(&first), [(0, (2, 2)), (1, (2, 2)), (2, (2, 2)), (3, (0, 0))].into());

        put(&bus, 1, "b", None);
        put(&bus, 2, "c", Some("new"));
        let again = restore(&bus, "changelog", open(), now).unwrap();
        assert_eq!(told(&again), [(0, (2, 0)), (1, (3, 1)), (2, (3, 1)), (3, (0, 0))].into(), "only what is new");
        let of = |id: u32| open().remove(&id).unwrap();
        assert_eq!([0, 1, 2, 3].map(|id| keys(of(id).as_ref())), ["ab", "a", "abc", ""]);
        for id in 0..3 {
            assert_eq!(of(id).get(b"a").unwrap().unwrap(), format!("of {id}").into_bytes());
        }
    }

    #[test]
    fn a_store_that_may_have_missed_something_is_rebuilt_and_one_that_has_not_is_not() {
        let bus = changelog();
        put(&bus, 0, "a", Some("1"));
        put(&bus, 0, "b", Some("1"));
        let row = |key: &str| Write { key: key.into(), value: Some("0".into()), timer: None };
        let stale = i64::try_from(STALE_AFTER.as_millis()).unwrap();
        // What the store holds, its position, when it was current; and what a restore at `now` must leave.
        let now = Timestamp(10 * stale);
        let cases = [
            ("current a moment ago", 1, now.0 - 1, "abx", 1),
            ("current just within the time", 1, now.0 - stale + 1, "abx", 1),
            ("not current for too long", 1, now.0 - stale, "ab", 2),
            ("current by a clock a little ahead", 1, now.0 + 60_000, "abx", 1),
            ("current by a clock that was wrong", 1, now.0 + 60_001, "ab", 2),
            ("beyond the log's end", 3, now.0 - 1, "ab", 2),
            ("before the log's start", -1, now.0 - 1, "ab", 2),
        ];
        for (case, position, written, expected, replayed) in cases {
            let stores = MemoryStores::default();
            let mut store = stores.open("state", 0).unwrap();
            store.apply(&[row("x")], position).unwrap();
            store.touch(Timestamp(written)).unwrap();
            let restored = restore(&bus, "changelog", [(0, store)].into(), now).unwrap();
            let (store, lacked) = (&restored[0].store, restored[0].replayed);
            // `x` is no row of the changelog: it shows whether the store was kept. With position 1 `a` is taken for granted.
            let shown = if expected == "abx" { "bx" } else { expected };
            assert_eq!((keys(store.as_ref()), lacked), (shown.to_owned(), replayed), "{case}");
            assert_eq!((store.position().unwrap(), store.written_at().unwrap()), (Some(2), Some(now)), "{case}");
        }
    }

    #[test]
    fn a_replay_goes_chunk_by_chunk_and_gives_each_store_as_it_ends() {
        let bus = changelog();
        for n in 0..7 {
            put(&bus, 0, &format!("k{n}"), Some("v"));
        }
        put(&bus, 1, "only", Some("v"));
        let stores = MemoryStores::default();
        let now = Timestamp(1_000);
        let behind =
            [0, 1].map(|id| match look(&bus, "changelog", id, stores.open("state", id).unwrap(), now).unwrap() {
                Found::Behind(behind) => behind,
                Found::Current(_) => panic!("an empty store was taken for current"),
            });
        let mut replay = Replay::begin(&bus, "changelog", behind.into(), 3, now).unwrap();
        let mut seen = Vec::new();
        while !replay.is_done() {
            let ended: Vec<u32> =
                replay.advance(Duration::ZERO).unwrap().iter().map(|restored| restored.partition).collect();
            seen.push((replay.remaining().map(|(_, left)| left).sum::<i64>(), ended));
        }
        assert!(seen.len() >= 3, "eight records in chunks of three: {seen:?}");
        assert!(seen.windows(2).all(|pair| pair[0].0 > pair[1].0), "each chunk brings it on: {seen:?}");
        assert!(seen[0].1 != [0] && seen.last().unwrap().1.contains(&0), "the short one does not wait: {seen:?}");
        assert_eq!(stores.open("state", 0).unwrap().position().unwrap(), Some(7));
    }

    #[test]
    fn long_rebuilds_come_one_after_the_other_and_short_ones_do_not_wait_for_them() {
        let bus = changelog();
        let records = usize::try_from(LONG).unwrap() + 5;
        for partition in 0..2 {
            let record = |n| Outgoing {
                topic: "changelog".into(),
                partition: Some(partition),
                key: Some(format!("{n:06}").into()),
                value: Some(format!("of {partition}").into()),
                headers: Vec::new(),
            };
            bus.append((0..records).map(record).collect()).unwrap();
        }
        put(&bus, 2, "a", Some("short"));
        let data = tempfile::tempdir().unwrap();
        let stores = crate::store::disk::DiskStores::open(data.path(), 16, "changelog").unwrap();
        let now = Timestamp(1_000);
        let look = |id| match look(&bus, "changelog", id, stores.open("state", id).unwrap(), now).unwrap() {
            Found::Behind(behind) => Some(behind),
            Found::Current(_) => None,
        };
        let behind = [0, 1, 2].map(|id| look(id).expect("an empty store is behind"));
        let mut replay = Replay::begin(&bus, "changelog", behind.into(), CHUNK, now).unwrap();
        let mut ended = Vec::new();
        while !replay.is_done() {
            ended.extend(replay.advance(Duration::ZERO).unwrap().into_iter().map(|one| one.partition));
            let begun = replay.open.values().filter(|one| one.at > 0).count();
            assert!(begun <= 1, "{begun} long ones are read at once");
        }
        assert_eq!((ended.len(), ended[0]), (3, 2), "{ended:?}");
        for id in 0..2 {
            let store = stores.open("state", id).unwrap();
            assert_eq!(store.scan(&[], &[], records + 1).unwrap().len(), records);
            assert_eq!(store.get(b"000003").unwrap().unwrap(), format!("of {id}").into_bytes());
        }
        assert!(look(0).is_none() && look(1).is_none() && look(2).is_none(), "all are current");
    }
}
