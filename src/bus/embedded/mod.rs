//! The bus inside the process: durable in a folder (`<data>/bus`), or in memory for simulation and tests.
//!
//! What it is: topics with partitions, groups and atomic commits over an ordered map with atomic batches (`map`): records,
//! committed offsets and the index of compacted topics change in one batch. `log` decides what a write changes, `sweep` what
//! is removed later, `session` who may write for a group, `cursor` what a poll gives.
//!
//! What it is not: it serves one process (the folder is locked), and a group has one member.
//!
//! Durability: once `commit` or `append` returns, it survives the end of the process, kill -9 included. Against a loss
//! of power the disk is synced every 100 ms while there are writes (`Fsync::Every`), or within each commit
//! (`Fsync::EachCommit`), which costs a sync of the disk each. Commits that a loss of power tore are left out at the next
//! start, with a warning; what precedes them is whole.
//!
//! Differences to Kafka: partitions are assigned at the first poll and never revoked; a topic that is
//! made later is read by those who join after. Compaction takes place at once; what it removes leaves gaps. A compacted topic
//! keeps a tombstone for `delete.retention.ms`. Timestamps are the bus's own clock. Offsets have no transaction markers between them.

mod cursor;
mod log;
mod map;
mod record;
mod session;
mod sweep;
#[cfg(test)]
mod tests;
mod topic;

use super::{BatchLimit, Bus, BusError, Ends, Incoming, Membership, Outgoing, Reader, Session, TopicSpec, TopicState};
use crate::model::Timestamp;
use cursor::Cursor;
use log::Log;
use map::{DiskMap, Map, MemoryMap};
use session::{EmbeddedReader, EmbeddedSession, Member};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest uninterrupted wait of a poll: a longer one is cut to this, so that adding it to the present can't overflow.
const WAIT_AT_MOST: Duration = Duration::from_secs(3600);

/// The clock that records are stamped by.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
    /// False where time is virtual: a poll that finds nothing then returns at once, and whoever simulates moves the time.
    fn waits(&self) -> bool {
        true
    }
}

/// The system's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Time that stands still until it is set. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicI64>);

impl VirtualClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.0)))
    }

    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn waits(&self) -> bool {
        false
    }
}

/// When writes are forced to the disk. None of it matters to the end of the process, only to a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// So long after the first write that isn't there yet.
    Every(Duration),
    /// Before each commit returns.
    EachCommit,
}

#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    pub fsync: Fsync,
    /// Kept in memory at most: half for blocks that were read, the rest for rows on their way to disk.
    pub memory_mib: u32,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { fsync: Fsync::Every(Duration::from_millis(100)), memory_mib: 64 }
    }
}

/// Where a simulation may interfere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint<'a> {
    Commit { group: &'a str },
    Append,
}

/// What is to happen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nothing is written: a commit is `Rewound`, an append `Retriable`.
    Refuse,
    /// Nothing is written, and the session is of no use any more. An append is `Retriable`.
    CrashBefore,
    /// It is written, but the caller doesn't learn it: the session is of no use any more; an append is `Retriable`.
    CrashAfter,
}

/// Asked at every fault point, in the order in which they are reached. Must not use the bus.
pub type Faults = Box<dyn FnMut(FaultPoint<'_>) -> Fault + Send>;

/// See the module. To be shared as `Arc<EmbeddedBus>`; its sessions and readers keep it open.
pub struct EmbeddedBus {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Something was written, or a member replaced.
    arrived: Condvar,
    map: Arc<dyn Map>,
    clock: Arc<dyn Clock>,
    faults: Option<Mutex<Faults>>,
}

struct State {
    log: Log,
    members: HashMap<String, Member>,
    epoch: u64,
}

impl EmbeddedBus {
    /// Opens `<data>/bus`, made if need be, for this process alone.
    pub fn open(data: &Path, options: &EmbeddedOptions) -> Result<Self, BusError> {
        Self::over(Arc::new(DiskMap::open(data, options)?), Arc::new(WallClock), None)
    }

    /// Nothing is written to disk. It lasts as long as the value: a simulated process ends by dropping its sessions.
    pub fn memory(clock: Arc<dyn Clock>) -> Self {
        Self::over(Arc::new(MemoryMap::default()), clock, None).expect("an empty map in memory can be read")
    }

    /// In memory, where `faults` decides what goes wrong.
    pub fn memory_with_faults(clock: Arc<dyn Clock>, faults: Faults) -> Self {
        Self::over(Arc::new(MemoryMap::default()), clock, Some(faults)).expect("an empty map in memory can be read")
    }

    /// Forces to the disk what was committed until now, whatever the options say.
    pub fn sync(&self) -> Result<(), BusError> {
        self.inner.map.sync()
    }

    fn over(map: Arc<dyn Map>, clock: Arc<dyn Clock>, faults: Option<Faults>) -> Result<Self, BusError> {
        let state = State { log: Log::open(map.clone())?, members: HashMap::new(), epoch: 0 };
        let (state, faults) = (Mutex::new(state), faults.map(Mutex::new));
        Ok(Self { inner: Arc::new(Inner { state, arrived: Condvar::new(), map, clock, faults }) })
    }
}

impl Bus for EmbeddedBus {
    fn join(&self, membership: &Membership) -> Result<Box<dyn Session>, BusError> {
        Ok(Box::new(EmbeddedSession::join(&self.inner, membership)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(EmbeddedReader::new(&self.inner)))
    }

    fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError> {
        self.inner.lock().log.ends(topic, partition)
    }

    fn identity(&self) -> Result<String, BusError> {
        self.inner.lock().log.identity()
    }

    fn commit_markers(&self) -> i64 {
        0
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError> {
        Ok(self.inner.lock().log.describe(topic).found.map(|found| found.partitions))
    }

    fn append(&self, records: Vec<Outgoing>) -> Result<(), BusError> {
        let lost = || BusError::Retriable { doing: "append to the bus".to_owned(), reason: "simulated".to_owned() };
        let fault = self.inner.fault(FaultPoint::Append);
        if matches!(fault, Fault::Refuse | Fault::CrashBefore) {
            return Err(lost());
        }
        self.inner.lock().log.write(&records, None, self.inner.clock.now())?;
        self.inner.arrived.notify_all();
        if fault == Fault::CrashAfter { Err(lost()) } else { Ok(()) }
    }

    fn describe(&self, topics: &[String]) -> Result<Vec<TopicState>, BusError> {
        let state = self.inner.lock();
        Ok(topics.iter().map(|topic| state.log.describe(topic)).collect())
    }

    fn create(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.lock().log.create(specs)
    }

    fn configure(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
        self.inner.lock().log.configure(topic, settings)
    }
}

impl Inner {
    /// What is kept under the lock follows a write only once it took place, so a panic elsewhere leaves it good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, point: FaultPoint<'_>) -> Fault {
        let ask = |faults: &Mutex<Faults>| (*faults.lock().unwrap_or_else(PoisonError::into_inner))(point);
        self.faults.as_ref().map_or(Fault::None, ask)
    }

    /// Waits until the cursor's partitions have something, and gives it; empty when the wait is over.
    fn take(
        &self,
        cursor: &mut Cursor,
        limit: BatchLimit,
        wait: Duration,
        allowed: &dyn Fn(&State) -> Result<(), BusError>,
    ) -> Result<Vec<Incoming>, BusError> {
        let deadline = Instant::now() + if self.clock.waits() { wait.min(WAIT_AT_MOST) } else { Duration::ZERO };
        loop {
            let mut state = self.lock();
            let spans = loop {
                allowed(&state)?;
                let spans = cursor.spans(&state.log)?;
                if !spans.is_empty() {
                    break spans;
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Vec::new());
                }
                state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            };
            drop(state);
            // Empty where compaction left nothing but gaps: they are behind the cursor now, and it waits again.
            let records = cursor.read(&*self.map, spans, limit)?;
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }
}
