//! The disk of one simulated process: it may be lost, rolled back, and its process may end in the middle of a write.

use crate::faults::Faults;
use lockstep::model::Timestamp;
use lockstep::store::memory::{MemorySnapshot, MemoryStores};
use lockstep::store::{DueTimer, Rows, Store, StoreError, Stores, Write};

#[derive(Clone)]
pub struct Disk {
    held: MemoryStores,
    faults: Faults,
}

impl Disk {
    pub fn new(faults: Faults) -> Self {
        Self { held: MemoryStores::new(), faults }
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        self.held.snapshot()
    }

    /// Handles that were opened before reach it no more.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        self.held.restore(snapshot);
    }

    pub fn wipe(&self) {
        self.held.wipe();
    }
}

impl Stores for Disk {
    fn open(&self, name: &str, partition: u32) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(DiskStore { held: self.held.open(name, partition)?, faults: self.faults.clone() }))
    }
}

struct DiskStore {
    held: Box<dyn Store>,
    faults: Faults,
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.held.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Rows, StoreError> {
        self.held.scan(prefix, from, limit)
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
        self.held.due(now, limit)
    }

    fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.held.next_due()
    }

    /// The process ends before one of a commit's stores is written, so some have the commit and some don't.
    fn apply(&mut self, writes: &[Write], position: i64) -> Result<(), StoreError> {
        if self.faults.happens("crash between a commit and its stores", 6) {
            return Err(StoreError::Failed {
                path: "simulated".to_owned(),
                doing: "write",
                reason: "simulated crash".to_owned(),
            });
        }
        self.held.apply(writes, position)
    }

    fn load(&mut self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.held.load(writes)
    }

    fn position(&self) -> Result<Option<i64>, StoreError> {
        self.held.position()
    }

    fn written_at(&self) -> Result<Option<Timestamp>, StoreError> {
        self.held.written_at()
    }

    fn touch(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.held.touch(now)
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.held.clear()
    }
}
