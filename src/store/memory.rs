//! Stores in memory, for simulation and tests: what they hold outlives the handles, as a disk outlives a process.

use super::{DueTimer, Store, StoreError, Stores, Write};
use crate::model::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The "disk" of one simulated process. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryStores {
    contents: Arc<Mutex<Contents>>,
}

/// What the disk held at one moment.
#[derive(Clone)]
pub struct MemorySnapshot(Contents);

type Contents = BTreeMap<(String, u32), Shared>;
type Shared = Arc<Mutex<Held>>;

#[derive(Clone, Default)]
struct Held {
    rows: BTreeMap<Vec<u8>, Row>,
    timers: BTreeSet<DueTimer>,
    position: Option<i64>,
    written_at: Option<Timestamp>,
}

#[derive(Clone)]
struct Row {
    value: Vec<u8>,
    timer: Option<Timestamp>,
}

struct MemoryStore(Shared);

impl MemoryStores {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(copied(&locked(&self.contents)))
    }

    /// The disk is what it was, or a stale copy was put in its place. Stores opened before see nothing of it: they belong to
    /// a process that is gone.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *locked(&self.contents) = copied(&snapshot.0);
    }

    /// The disk is lost.
    pub fn wipe(&self) {
        locked(&self.contents).clear();
    }
}

impl Stores for MemoryStores {
    fn open(&self, name: &str, partition: u32) -> Result<Box<dyn Store>, StoreError> {
        let shared = locked(&self.contents).entry((name.to_owned(), partition)).or_default().clone();
        Ok(Box::new(MemoryStore(shared)))
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(locked(&self.0).rows.get(key).map(|row| row.value.clone()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<super::Rows, StoreError> {
        let held = locked(&self.0);
        let first = prefix.max(from);
        let rows = held.rows.range::<[u8], _>((Bound::Included(first), Bound::Unbounded));
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(rows.map(|(key, row)| (key.clone(), row.value.clone())).collect())
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
        let held = locked(&self.0);
        Ok(held.timers.iter().take_while(|timer| timer.due <= now).take(limit).cloned().collect())
    }

    fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(locked(&self.0).timers.first().map(|timer| timer.due))
    }

    fn load(&mut self, writes: Vec<Write>) -> Result<(), StoreError> {
        locked(&self.0).write(&writes);
        Ok(())
    }

    fn apply(&mut self, writes: &[Write], position: i64) -> Result<(), StoreError> {
        let mut held = locked(&self.0);
        held.write(writes);
        held.position = Some(position);
        Ok(())
    }

    fn position(&self) -> Result<Option<i64>, StoreError> {
        Ok(locked(&self.0).position)
    }

    fn written_at(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(locked(&self.0).written_at)
    }

    fn touch(&mut self, now: Timestamp) -> Result<(), StoreError> {
        locked(&self.0).written_at = Some(now);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        *locked(&self.0) = Held::default();
        Ok(())
    }
}

impl Held {
    fn write(&mut self, writes: &[Write]) {
        for write in writes {
            let old = match &write.value {
                Some(value) => self.rows.insert(write.key.clone(), Row { value: value.to_vec(), timer: write.timer }),
                None => self.rows.remove(&write.key),
            };
            if let Some(due) = old.and_then(|row| row.timer) {
                self.timers.remove(&DueTimer { due, key: write.key.clone() });
            }
            if let (Some(_), Some(due)) = (&write.value, write.timer) {
                self.timers.insert(DueTimer { due, key: write.key.clone() });
            }
        }
    }
}

/// A deep copy: handles of the one don't reach the other.
fn copied(contents: &Contents) -> Contents {
    contents.iter().map(|(id, shared)| (id.clone(), Arc::new(Mutex::new(locked(shared).clone())))).collect()
}

/// Every change under these locks is whole before it can panic, so a poisoned lock still guards good data.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: &str) -> Write {
        Write { key: key.into(), value: Some(value.to_owned().into()), timer: None }
    }

    #[test]
    fn a_disk_rolled_back_holds_what_it_held_and_handles_of_before_do_not_reach_it() {
        let disk = MemoryStores::new();
        let mut before = disk.open("state", 0).unwrap();
        before.apply(&[row("a", "1")], 5).unwrap();
        let stale = disk.snapshot();
        before.apply(&[row("a", "2")], 9).unwrap();
        assert_eq!(disk.open("state", 0).unwrap().position().unwrap(), Some(9));

        disk.restore(&stale);
        before.apply(&[row("a", "3")], 11).unwrap();
        let after = disk.open("state", 0).unwrap();
        assert_eq!((after.get(b"a").unwrap(), after.position().unwrap()), (Some(b"1".to_vec()), Some(5)));

        disk.wipe();
        assert_eq!(disk.open("state", 0).unwrap().position().unwrap(), None);
    }
}
