//! Where the embedded bus keeps its bytes: an ordered map with atomic batches, on disk (fjall) or in memory.
//!
//! It knows nothing of topics. A batch is there whole or not at all, and once `write` returns it survives kill -9.

use super::super::BusError;
use super::{EmbeddedOptions, Fsync};
use crate::store::StoreError;
use crate::store::database::{Database, FolderLock};
use crate::store::journal;
use fjall::{Keyspace, PersistMode};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// One atomic batch: None removes.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Is given each key and value; `Break` ends the scan.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, BusError>;

pub(super) trait Map: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BusError>;
    /// Keys from `from` (inclusive) to `to` (exclusive), in order.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), BusError>;
    fn write(&self, changes: Changes) -> Result<(), BusError>;
    /// What was written until now survives a loss of power, too.
    fn sync(&self) -> Result<(), BusError>;
}

#[derive(Default)]
pub(super) struct MemoryMap(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Map for MemoryMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BusError> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), BusError> {
        if from >= to {
            return Ok(());
        }
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to))) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Changes) -> Result<(), BusError> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BusError> {
        Ok(())
    }
}

/// One keyspace of a fjall database in `<data>/bus`.
pub(super) struct DiskMap {
    files: Arc<Files>,
    fsync: Fsync,
    /// Ends when the map is dropped.
    syncer: Option<JoinHandle<()>>,
}

struct Files {
    database: Database,
    rows: Keyspace,
    unsynced: Mutex<Unsynced>,
    changed: Condvar,
}

#[derive(Default)]
struct Unsynced {
    writes: bool,
    closing: bool,
}

impl DiskMap {
    pub(super) fn open(data: &Path, options: &EmbeddedOptions) -> Result<Self, BusError> {
        let folder = data.join("bus");
        let open = || {
            let lock = FolderLock::acquire(&folder)?;
            let memory = u64::from(options.memory_mib.max(4)) * 1024 * 1024;
            let database = Database::open(&folder, lock, memory / 2)?;
            // Up to four memtables wait to be written besides the one in use.
            let rows = database.keyspace("bus", (memory / 8).max(1024 * 1024))?;
            Ok(Files { database, rows, unsynced: Mutex::default(), changed: Condvar::new() })
        };
        let files = match open() {
            Err(StoreError::Damaged { reason, .. }) if mended(&folder, &reason) => open(),
            result => result,
        };
        let files = Arc::new(files.map_err(told)?);
        let syncer = match options.fsync {
            Fsync::EachCommit => None,
            Fsync::Every(interval) => Some(start_syncer(files.clone(), interval)?),
        };
        Ok(Self { files, fsync: options.fsync, syncer })
    }
}

impl Map for DiskMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BusError> {
        let value = self.files.rows.get(key).map_err(|e| self.files.told("read", e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), BusError> {
        if from >= to {
            return Ok(());
        }
        for row in self.files.rows.range(from..to) {
            let (key, value) = row.into_inner().map_err(|e| self.files.told("read", e))?;
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Changes) -> Result<(), BusError> {
        // `Buffer` hands the batch to the operating system: with less, it would stay in fjall's own buffer over a kill -9.
        let durability = match self.fsync {
            Fsync::EachCommit => PersistMode::SyncData,
            Fsync::Every(_) => PersistMode::Buffer,
        };
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.files.database.fjall.clone(), changes.len())
            .durability(Some(durability));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.files.rows, key, value),
                None => batch.remove(&self.files.rows, key),
            }
        }
        batch.commit().map_err(|e| self.files.told("write", e))?;
        if self.syncer.is_some() {
            self.files.unsynced.lock().unwrap_or_else(PoisonError::into_inner).writes = true;
            self.files.changed.notify_one();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), BusError> {
        self.files.sync()
    }
}

impl Drop for DiskMap {
    fn drop(&mut self) {
        self.files.unsynced.lock().unwrap_or_else(PoisonError::into_inner).closing = true;
        self.files.changed.notify_one();
        if let Some(syncer) = self.syncer.take() {
            // It ends by itself; what it panicked of, if it did, was printed where it happened.
            let _ = syncer.join();
        }
    }
}

impl Files {
    fn sync(&self) -> Result<(), BusError> {
        self.database.fjall.persist(PersistMode::SyncData).map_err(|e| self.told("sync to disk", e))
    }

    fn told(&self, doing: &'static str, error: fjall::Error) -> BusError {
        told(self.database.told(doing, error))
    }
}

/// After a loss of power the last commits, which were not synced, may be torn; without them the rest can be used.
fn mended(folder: &Path, damage: &str) -> bool {
    match journal::cut_torn_tail(folder) {
        Ok(Some(cut)) => {
            tracing::warn!(
                folder = %folder.display(), damage, bytes = cut.bytes, kept_in = %cut.kept_in.display(),
                "the last commits to the embedded bus were torn, as by a loss of power, and are left out"
            );
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!(folder = %folder.display(), damage, %error, "the embedded bus can't be mended");
            false
        }
    }
}

/// Syncs once an interval while there are writes, so that a loss of power costs no more than that; sleeps otherwise.
fn start_syncer(files: Arc<Files>, interval: Duration) -> Result<JoinHandle<()>, BusError> {
    let run = move || {
        let mut state = files.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            state =
                files.changed.wait_while(state, |s| !s.writes && !s.closing).unwrap_or_else(PoisonError::into_inner);
            let pause = files.changed.wait_timeout_while(state, interval, |s| !s.closing);
            state = pause.unwrap_or_else(PoisonError::into_inner).0;
            if state.writes {
                state.writes = false;
                drop(state);
                if let Err(error) = files.sync() {
                    // fjall takes no write after this, so the next commit fails and its caller stops.
                    tracing::error!(%error, "the embedded bus can't reach its disk");
                    return;
                }
                state = files.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
            }
            if state.closing {
                return;
            }
        }
    };
    std::thread::Builder::new().name("bus-sync".to_owned()).spawn(run).map_err(|e| BusError::Failed {
        doing: "start the embedded bus".to_owned(),
        reason: format!("can't start a thread: {e}"),
    })
}

fn told(error: StoreError) -> BusError {
    let doing = "use the embedded bus".to_owned();
    match error {
        StoreError::Damaged { path, doing: step, reason } => BusError::Failed {
            doing,
            reason: format!(
                "{path} is damaged ({step}: {reason}): put a copy of the folder in its place, or move it away to begin with an empty bus"
            ),
        },
        other => BusError::Failed { doing, reason: other.to_string() },
    }
}
