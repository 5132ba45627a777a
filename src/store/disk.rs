//! Stores on disk: one fjall database in `<data>/state` for every name and partition of a process.
//!
//! All stores share one keyspace, told apart by a prefix of name and partition, so that 64 partitions of several names
//! cost no more memory, files or time to open than one. Beside the rows it holds what belongs to them: the position, when
//! the store was last touched, and the timers, by due time and by key. It is one keyspace for another reason, too: if
//! fjall loses the end of its journal, what is left is the state after an earlier batch; of two, one could be ahead.
//!
//! A batch is handed to the operating system before `apply` returns (it survives kill -9), and not synced to the disk: a
//! power loss may cost the newest batches, or the whole database; both are rebuilt from the changelog. After a power loss the
//! changelog may itself have lost its last records (the embedded bus syncs every so often), so a position beyond
//! its end means: clear.

use super::database::{Database, FolderLock, KEY_BYTES, after_prefix, from_ordered, ordered};
use super::{DueTimer, Rows, Store, StoreError, Stores, Write};
use crate::model::Timestamp;
use fjall::Keyspace;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows forgotten in one batch while a store is cleared.
const CLEAR_ROWS: usize = 4096;

/// Left in the folder by a process that met damage, so that the next one doesn't trust what it can open of it.
const DAMAGED: &str = "damaged";

/// Every store of this process. Clones are the same database.
#[derive(Clone)]
pub struct DiskStores(Arc<Shared>);

struct Shared {
    database: Database,
    rows: Keyspace,
    earliest: Mutex<HashMap<Vec<u8>, Arc<Mutex<Earliest>>>>,
    /// How often each store was opened: the last handle is its owner.
    opened: Mutex<HashMap<Vec<u8>, Arc<Mutex<u64>>>>,
}

/// One partition's. A handle writes until the store is opened again: a partition has one owner.
struct DiskStore {
    shared: Arc<Shared>,
    /// Name, zero byte, partition: what its keys begin with.
    id: Vec<u8>,
    earliest: Arc<Mutex<Earliest>>,
    opened: Arc<Mutex<u64>>,
    /// Of the times it was opened.
    number: u64,
}

/// What is known of the earliest timer, so that asking whether one is due, which is done all the time, seldom reads
/// the disk. Timers that were cleared leave markers in front until they are compacted away; a search that begins at
/// `not_before` doesn't wade through them.
#[derive(Clone, Copy)]
struct Earliest {
    /// No timer is due before this (milliseconds).
    not_before: i64,
    /// When the earliest is due, or that there is none; None if that has to be looked up.
    known: Option<Option<i64>>,
}

impl Earliest {
    const UNKNOWN: Self = Self { not_before: i64::MIN, known: None };

    fn found(first: Option<i64>) -> Self {
        Self { not_before: first.unwrap_or(i64::MAX), known: Some(first) }
    }

    fn cleared(&mut self, due: i64) {
        if self.known == Some(Some(due)) {
            self.known = None;
        }
    }

    fn set(&mut self, due: i64) {
        if due <= self.not_before {
            *self = Self::found(Some(due));
        }
    }
}

impl DiskStores {
    /// Opens `<data>/state`, made if need be, for the stores that follow the changelogs of `origin`: what follows others, or doesn't
    /// say which, as the process was given another cluster or prefix and its former folder, is removed. `memory_mib` bounds what it keeps in memory: a third of it caches blocks,
    /// the rest is for rows on their way to disk. A damaged database is set aside as `<data>/state.damaged` (in place of an
    /// older one) and an empty one opened: the stores are rebuilt from their changelogs.
    pub fn open(data: &Path, memory_mib: u32, origin: &str) -> Result<Self, StoreError> {
        let folder = data.join("state");
        let lock = FolderLock::acquire(&folder)?;
        keep_of(&folder, origin)?;
        if folder.join(DAMAGED).exists() {
            set_aside(&folder, "the process before met damage in it")?;
        }
        match Shared::open(&folder, lock, memory_mib) {
            Err(StoreError::Damaged { doing, reason, .. }) => {
                let lock = FolderLock::acquire(&folder)?;
                set_aside(&folder, &format!("{doing}: {reason}"))?;
                Shared::open(&folder, lock, memory_mib)
            }
            result => result,
        }
        .map(|shared| Self(Arc::new(shared)))
    }
}

impl Shared {
    fn open(folder: &Path, lock: FolderLock, memory_mib: u32) -> Result<Self, StoreError> {
        let memory = u64::from(memory_mib.max(4)) * 1024 * 1024;
        // A keyspace has up to four memtables that wait to be written besides the one in use.
        let memtable = (memory / 8).max(1024 * 1024);
        let database = Database::open(folder, lock, memory / 3)?;
        let rows = database.keyspace("rows", memtable)?;
        Ok(Self { database, rows, earliest: Mutex::default(), opened: Mutex::default() })
    }

    fn told(&self, doing: &'static str, error: fjall::Error) -> StoreError {
        let error = self.database.told(doing, error);
        if let StoreError::Damaged { reason, .. } = &error {
            tracing::error!(path = %self.database.path(), doing, %reason, "local store damaged; it is rebuilt at the next start");
            if let Err(e) = std::fs::write(self.database.folder().join(DAMAGED), reason) {
                tracing::error!(path = %self.database.path(), reason = %e, "can't mark the local store as damaged; remove it by hand");
            }
        }
        error
    }
}

impl Stores for DiskStores {
    fn open(&self, name: &str, partition: u32) -> Result<Box<dyn Store>, StoreError> {
        assert!(!name.is_empty() && !name.contains('\0'), "a store's name is text");
        let id = [name.as_bytes(), &[0], &partition.to_be_bytes()].concat();
        let mut all = self.0.earliest.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = all.entry(id.clone()).or_insert_with(|| Arc::new(Mutex::new(Earliest::UNKNOWN))).clone();
        drop(all);
        let mut all = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = all.entry(id.clone()).or_default().clone();
        drop(all);
        let number = {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            *opened += 1;
            *opened
        };
        let mut store = DiskStore { shared: self.0.clone(), id, earliest, opened, number };
        if store.mark(&[CLEARING])?.is_some() {
            store.forget()?;
        }
        Ok(Box::new(store))
    }
}

// What a key has after the store's id.
/// Followed by a row's key.
const ROW: u8 = b'r';
const POSITION: u8 = b'p';
const WRITTEN_AT: u8 = b'w';
/// The store is being cleared: whatever is still in it doesn't count.
const CLEARING: u8 = b'c';
/// Followed by due time and key; no value.
const TIMER_BY_DUE: u8 = b'd';
/// Followed by the key; the value is the due time.
const TIMER_BY_KEY: u8 = b'k';

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.shared.rows.get(self.key(&[&[ROW], key])).map_err(|e| self.shared.told("read a row", e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Rows, StoreError> {
        let rows = self.read(&[&[ROW], prefix].concat(), &[&[ROW], prefix.max(from)].concat(), limit)?;
        Ok(rows.into_iter().map(|(key, value)| (key[self.id.len() + 1..].to_vec(), value)).collect())
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
        if self.earliest().not_before > now.0 {
            return Ok(Vec::new());
        }
        let timers = self.timers(limit)?;
        Ok(timers.into_iter().take_while(|timer| timer.due <= now).collect())
    }

    fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        if let Some(known) = self.earliest().known {
            return Ok(known.map(Timestamp));
        }
        Ok(self.timers(1)?.first().map(|timer| timer.due))
    }

    fn apply(&mut self, writes: &[Write], position: i64) -> Result<(), StoreError> {
        // One key may be written several times, and a batch may hold it once: the last write counts.
        let newest: BTreeMap<&[u8], &Write> = writes.iter().map(|write| (write.key.as_slice(), write)).collect();
        self.write(newest.into_values(), Some(position))
    }

    /// What is only put goes into tables of its own, sorted, past journal and memtable: several times as fast.
    fn load(&mut self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        // Stable: of one key the last write stays the last.
        writes.sort_by(|a, b| a.key.cmp(&b.key));
        let shared = Arc::clone(&self.shared);
        let told = |e| shared.told("load rows", e);
        let mut tables = shared.rows.start_ingestion().map_err(told)?;
        let mut others = Vec::new();
        let mut writes = writes.into_iter().peekable();
        while let Some(write) = writes.next() {
            if writes.peek().is_some_and(|next| next.key == write.key) {
                continue;
            }
            match write.value {
                Some(value) if write.timer.is_none() => {
                    let row = self.row(&write.key)?;
                    tables.write(row, &value[..]).map_err(told)?;
                }
                value => others.push(Write { value, ..write }),
            }
        }
        let owned = self.owned()?;
        tables.finish().map_err(told)?;
        drop(owned);
        self.write(others.iter(), None)
    }

    fn position(&self) -> Result<Option<i64>, StoreError> {
        self.mark(&[POSITION])
    }

    fn written_at(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.mark(&[WRITTEN_AT])?.map(Timestamp))
    }

    fn touch(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let mut batch = self.shared.database.fjall.batch();
        batch.insert(&self.shared.rows, self.key(&[&[WRITTEN_AT]]), now.0.to_be_bytes());
        let _owned = self.owned()?;
        batch.commit().map_err(|e| self.shared.told("write a batch", e))
    }

    fn is_owner(&self) -> bool {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) == self.number
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        drop(self.owned()?);
        let shared = &self.shared;
        let mut batch = shared.database.fjall.batch();
        batch.insert(&shared.rows, self.key(&[&[CLEARING]]), 1_i64.to_be_bytes());
        batch.remove(&shared.rows, self.key(&[&[POSITION]]));
        batch.remove(&shared.rows, self.key(&[&[WRITTEN_AT]]));
        batch.commit().map_err(|e| shared.told("begin to clear", e))?;
        self.forget()
    }
}

/// What a timer's key has in addition to its row's: the due time.
const TIMER_OVERHEAD: usize = 8;

impl DiskStore {
    /// All or nothing; each key once.
    fn write<'a>(&mut self, writes: impl Iterator<Item = &'a Write>, position: Option<i64>) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut earliest = *self.earliest();
        let mut batch = shared.database.fjall.batch();
        for write in writes {
            let key = write.key.as_slice();
            let row = self.row(key)?;
            let by_key = self.key(&[&[TIMER_BY_KEY], key]);
            // A row with a value and no timer never had one: most writes need no look at the disk.
            let may_be_timer = write.timer.is_some() || write.value.is_none();
            let was_due = if may_be_timer { self.mark_at(&by_key)? } else { None };
            let is_due = write.timer.filter(|_| write.value.is_some()).map(|due| due.0);
            if was_due != is_due {
                if let Some(due) = was_due {
                    earliest.cleared(due);
                    batch.remove(&shared.rows, self.key(&[&[TIMER_BY_DUE], &ordered(due), key]));
                    batch.remove(&shared.rows, by_key.clone());
                }
                if let Some(due) = is_due {
                    earliest.set(due);
                    batch.insert(&shared.rows, self.key(&[&[TIMER_BY_DUE], &ordered(due), key]), b"");
                    batch.insert(&shared.rows, by_key, due.to_be_bytes());
                }
            }
            match &write.value {
                Some(value) => batch.insert(&shared.rows, row, &value[..]),
                None => batch.remove(&shared.rows, row),
            }
        }
        if let Some(position) = position {
            batch.insert(&shared.rows, self.key(&[&[POSITION]]), position.to_be_bytes());
        }
        let _owned = self.owned()?;
        // Of a batch that failed nobody knows whether it is there.
        *self.earliest() = Earliest::UNKNOWN;
        batch.commit().map_err(|e| shared.told("write a batch", e))?;
        *self.earliest() = earliest;
        Ok(())
    }

    /// A row's key on the disk.
    fn row(&self, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        let row = self.key(&[&[ROW], key]);
        match row.len() + TIMER_OVERHEAD <= KEY_BYTES {
            true => Ok(row),
            false => Err(self.refused(format!("a row's key has {} bytes, too many", key.len()))),
        }
    }

    fn key(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = self.id.clone();
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }

    fn earliest(&self) -> MutexGuard<'_, Earliest> {
        self.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, name: &[u8]) -> Result<Option<i64>, StoreError> {
        self.mark_at(&self.key(&[name]))
    }

    fn mark_at(&self, key: &[u8]) -> Result<Option<i64>, StoreError> {
        match self.shared.rows.get(key).map_err(|e| self.shared.told("read a mark", e))? {
            Some(value) => match value.as_ref().try_into() {
                Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
                Err(_) => Err(self.refused("a mark isn't a number".to_owned())),
            },
            None => Ok(None),
        }
    }

    /// The earliest timers, whenever they are due.
    fn timers(&self, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
        let from = [&[TIMER_BY_DUE][..], &ordered(self.earliest().not_before)].concat();
        let found = self.read(&[TIMER_BY_DUE], &from, limit)?;
        let timers: Vec<DueTimer> =
            found.into_iter().filter_map(|(key, _)| timer_of(&key[self.id.len() + 1..])).collect();
        if limit > 0 {
            *self.earliest() = Earliest::found(timers.first().map(|timer| timer.due.0));
        }
        Ok(timers)
    }

    /// Keys of this store that begin with `prefix`, from `from` on, as they are on disk.
    fn read(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Rows, StoreError> {
        let first = self.key(&[from]);
        let end = after_prefix(&self.key(&[prefix])).expect("an id has a zero byte in it, so a key is after it");
        if first >= end {
            return Ok(Vec::new());
        }
        let rows = self
            .shared
            .rows
            .range(first..end)
            .take(limit)
            .map(|row| row.into_inner().map(|(k, v)| (k.to_vec(), v.to_vec())));
        rows.collect::<Result<_, _>>().map_err(|e| self.shared.told("read rows", e))
    }

    /// Removes everything, the mark that says so last.
    fn forget(&mut self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let clearing = self.key(&[&[CLEARING]]);
        let mut from = Vec::new();
        loop {
            let found = self.read(b"", &from, CLEAR_ROWS)?;
            let Some((last, _)) = found.last() else { break };
            // Removed ones are passed over slowly until they are compacted away, so go on behind them.
            from = [&last[self.id.len()..], &[0]].concat();
            let mut batch = shared.database.fjall.batch();
            found.into_iter().filter(|(key, _)| *key != clearing).for_each(|(key, _)| batch.remove(&shared.rows, key));
            batch.commit().map_err(|e| shared.told("clear", e))?;
        }
        let mut batch = shared.database.fjall.batch();
        batch.remove(&shared.rows, self.key(&[&[CLEARING]]));
        batch.commit().map_err(|e| shared.told("clear", e))?;
        *self.earliest() = Earliest::found(None);
        Ok(())
    }

    /// The right to write, for as long as it is held: nobody can open the store meanwhile.
    fn owned(&self) -> Result<MutexGuard<'_, u64>, StoreError> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match *opened == self.number {
            true => Ok(opened),
            false => Err(self.refused("another loop of this process has the partition now".to_owned())),
        }
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Failed { path: self.shared.database.path(), doing: "write a batch", reason }
    }
}

/// Due time and key, out of what follows a timer's mark.
fn timer_of(bytes: &[u8]) -> Option<DueTimer> {
    let (due, key) = bytes.split_first_chunk::<8>()?;
    Some(DueTimer { due: Timestamp(from_ordered(*due)), key: key.to_vec() })
}

/// Removes the stores unless they follow the changelogs of `origin`, which is kept in a file beside the folder. It is written once
/// they are gone: a process that is killed in between removes them again.
fn keep_of(folder: &Path, origin: &str) -> Result<(), StoreError> {
    let file = folder.with_extension("origin");
    if std::fs::read(&file).is_ok_and(|known| known == origin.as_bytes()) {
        return Ok(());
    }
    let is_new = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if !is_new {
        tracing::warn!(folder = %folder.display(), "the local store is of another cluster or prefix: removed, and made anew from the changelogs");
    }
    let begun = std::fs::remove_dir_all(folder)
        .and_then(|()| std::fs::create_dir_all(folder))
        .and_then(|()| std::fs::write(&file, origin));
    begun.map_err(|e| StoreError::Failed {
        path: folder.display().to_string(),
        doing: "remove the store of another cluster or prefix",
        reason: e.to_string(),
    })
}

fn set_aside(folder: &Path, why: &str) -> Result<(), StoreError> {
    let aside = folder.with_extension("damaged");
    tracing::warn!(folder = %folder.display(), aside = %aside.display(), why, "local store set aside; it is rebuilt from the changelogs");
    let moved = match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::fs::rename(folder, &aside).and_then(|()| std::fs::create_dir_all(folder)),
    };
    moved.map_err(|e| StoreError::Failed {
        path: folder.display().to_string(),
        doing: "set the damaged store aside",
        reason: e.to_string(),
    })
}
