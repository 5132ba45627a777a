//! The rows of one partition while a batch is in work: the store as committed, and on top of it what the batch has written.
//!
//! The pack of a routing key is read and decoded when the first message for it comes, changed in place, and encoded once when
//! the batch is committed. What was committed last stays in a bounded cache, so that hot state is not read from the disk.

use crate::entity::pack::{Pack, PackError, Sealer};
use crate::entity::{Rows, key};
use crate::model::{Address, EntityKey, RoutingKey, Timestamp};
use crate::store::{DueTimer, Store, StoreError, Write};
use bytes::Bytes;
use quick_cache::Weighter;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// What a cached pack costs beside its bytes and its key: the entry, two allocations.
const ENTRY_BYTES: usize = 96;
/// What a pack is taken to have, for the cache's first guess at how many it will hold.
const TYPICAL_PACK_BYTES: usize = 1200;

#[derive(Clone, Debug)]
struct Row {
    value: Option<Vec<u8>>,
    timer: Option<Timestamp>,
}

/// Written rows by key: each is written to changelog and store once, however often the batch changed it.
#[derive(Debug, Default)]
pub struct Written {
    /// Packs that the batch has to do with, changed or not.
    packs: HashMap<RoutingKey, Pack, foldhash::fast::RandomState>,
    /// Rows beside them.
    rows: BTreeMap<Vec<u8>, Row>,
}

/// Packs as they were committed last; None: there is none. Bounded in bytes.
pub struct Cache(quick_cache::unsync::Cache<RoutingKey, Option<Bytes>, Weight>);

#[derive(Clone)]
struct Weight;

impl Weighter<RoutingKey, Option<Bytes>> for Weight {
    fn weight(&self, key: &RoutingKey, pack: &Option<Bytes>) -> u64 {
        (key.as_str().len() + pack.as_ref().map_or(0, |pack| pack.len()) + ENTRY_BYTES) as u64
    }
}

impl Cache {
    pub fn new(bytes: usize) -> Self {
        Self(quick_cache::unsync::Cache::with_weighter(bytes / TYPICAL_PACK_BYTES + 1, bytes as u64, Weight))
    }

    /// What is too much is dropped.
    pub fn resize(&mut self, bytes: usize) {
        self.0.set_capacity(bytes as u64);
    }
}

impl Written {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && !self.packs.values().any(Pack::is_changed)
    }

    /// A row beside the packs.
    pub fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.rows.insert(key, Row { value, timer: None });
    }

    /// A row beside the packs, as the batch leaves it.
    pub fn row(&self, store: &dyn Store, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.value.clone()),
            None => store.get(key),
        }
    }

    /// Makes the rows of an entity ready to be looked at and changed. An error: its pack can't be read.
    pub fn load(
        &mut self,
        of: &Address,
        store: &dyn Store,
        cache: &mut Cache,
        formerly: bool,
    ) -> Result<Result<(), PackError>, StoreError> {
        if !key::is_packed(&of.entity) {
            return Ok(Ok(()));
        }
        if !self.packs.contains_key(&of.routing_key) {
            let bytes = match cache.0.get(&of.routing_key) {
                Some(bytes) => bytes.clone(),
                None => {
                    let bytes: Option<Bytes> = store.get(&key::pack(&of.routing_key))?.map(Into::into);
                    cache.0.insert(of.routing_key.clone(), bytes.clone());
                    bytes
                }
            };
            // State that a former release has written lies beside until it is touched.
            let pack = match bytes {
                Some(bytes) => Pack::open(&bytes),
                None => Ok(Pack::new(formerly)),
            };
            match pack {
                Ok(pack) => drop(self.packs.insert(of.routing_key.clone(), pack)),
                Err(error) => return Ok(Err(error)),
            }
        }
        if formerly {
            self.take_in(of, store)?;
        }
        Ok(Ok(()))
    }

    /// Rows of a former release move into the pack, if they are not too many.
    fn take_in(&mut self, of: &Address, store: &dyn Store) -> Result<(), StoreError> {
        const MOST_ROWS: usize = 64;
        let entity = key::entity(&of.entity);
        let pack = self.packs.get_mut(&of.routing_key).expect("it was just loaded");
        if pack.is_home_of(&entity) {
            return Ok(());
        }
        let rows = store.scan(&entity, &entity, MOST_ROWS)?;
        let touched = self.rows.range(entity.clone()..).next().is_some_and(|(key, _)| key.starts_with(&entity));
        if touched || rows.len() == MOST_ROWS || rows.iter().map(|(_, value)| value.len()).sum::<usize>() > PACKED_BYTES
        {
            return Ok(());
        }
        for (row_key, value) in rows {
            let Some((_, row)) = key::parse(&row_key) else { continue };
            if row.starts_with(key::WAITING) {
                continue;
            }
            let row_now = match timer_of(&row_key, Some(&value)) {
                Some(due) => Row { value: Some(seal_timer(due, &of.routing_key)), timer: Some(due) },
                None => Row { value: None, timer: None },
            };
            pack.admit(&entity, &row, value);
            self.rows.insert(row_key, row_now);
        }
        pack.admit_entity(&entity);
        Ok(())
    }

    /// Changes a row of an entity that is loaded.
    pub fn write(&mut self, of: &Address, entity: &[u8], row: &str, value: Option<Vec<u8>>) {
        match self.packs.get_mut(&of.routing_key) {
            Some(pack) if key::is_packed(&of.entity) && pack.is_home_of(entity) => {
                for (name, value) in pack.put(entity, row, value) {
                    if !name.starts_with(key::TIMER) {
                        self.rows.insert(key::beside(entity, &name), Row { value: Some(value), timer: None });
                    }
                }
            }
            _ => self.put(key::beside(entity, row), value),
        }
    }

    /// A timer is a row beside the packs, by which it is found when it is due; the pack has a note of it, by which is known without
    /// a look at the disk that there is one.
    pub fn set_timer(&mut self, of: &Address, row: &str, due: Timestamp) {
        let entity = key::entity(&of.entity);
        if self.notes(of, &entity) {
            self.write(of, &entity, row, Some(seal_due(due)));
        }
        self.put_timer(of, row, due);
    }

    /// A timer that no pack has a note of.
    pub fn put_timer(&mut self, of: &Address, row: &str, due: Timestamp) {
        let value = seal_timer(due, &of.routing_key);
        self.rows.insert(key::row(&of.entity, row), Row { value: Some(value), timer: Some(due) });
    }

    pub fn clear_timer(&mut self, store: &dyn Store, of: &Address, row: &str) -> Result<(), StoreError> {
        let entity = key::entity(&of.entity);
        let timer = key::beside(&entity, row);
        if self.notes(of, &entity) {
            let pack = &self.packs[&of.routing_key];
            if pack.get(&entity, row).is_none() {
                return Ok(());
            }
            self.write(of, &entity, row, None);
        } else {
            if self.row(store, &timer)?.is_none() {
                return Ok(());
            }
        }
        self.put(timer, None);
        Ok(())
    }

    /// Whether the pack of this address, which is loaded, has a note of the timer.
    pub fn has_note(&self, of: &Address, row: &str) -> bool {
        self.packs.get(&of.routing_key).is_some_and(|pack| pack.get(&key::entity(&of.entity), row).is_some())
    }

    /// Whether a pack keeps note of this entity's timers.
    fn notes(&self, of: &Address, entity: &[u8]) -> bool {
        key::is_packed(&of.entity) && self.packs.get(&of.routing_key).is_some_and(|pack| pack.is_home_of(entity))
    }

    /// What has to be written, each key once, and the packs among it for the cache.
    pub fn seal(self) -> Sealed {
        let packs = self.packs.into_iter().filter(|(_, pack)| pack.is_changed());
        let mut sealer = Sealer::default();
        let packs = packs.map(|(of, pack)| (of, pack.seal_with(&mut sealer).map(Bytes::from)));
        let mut packs: Vec<(RoutingKey, Option<Bytes>)> = packs.collect();
        // The same batch gives the same records in the same order.
        packs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let beside =
            self.rows.into_iter().map(|(key, row)| Write { key, value: row.value.map(Into::into), timer: row.timer });
        let beside: Vec<Write> = beside.collect();
        let packed = packs.iter().map(|(of, value)| Write { key: key::pack(of), value: value.clone(), timer: None });
        Sealed {
            writes: beside.into_iter().chain(packed).collect(),
            packs: packs.into_iter().map(|(of, _)| of).collect(),
        }
    }
}

/// A batch's rows, encoded.
#[derive(Debug, Default)]
pub struct Sealed {
    pub writes: Vec<Write>,
    /// Whose packs the last of the writes are.
    packs: Vec<RoutingKey>,
}

impl Sealed {
    /// The rows are committed: what lay in the cache before is outdated.
    pub fn refresh(&self, cache: &mut Cache) {
        let packed = self.writes[self.writes.len() - self.packs.len()..].iter();
        for (of, write) in self.packs.iter().zip(packed) {
            cache.0.insert(of.clone(), write.value.clone());
        }
    }
}

/// What a former release's entity may have to be taken into its pack.
const PACKED_BYTES: usize = crate::entity::pack::ENTITY_BYTES / 2;

/// A timer row's value: its due time, and the routing key of its entity. Not in an envelope, so that a store of any release can
/// rebuild its index.
fn seal_timer(due: Timestamp, of: &RoutingKey) -> Vec<u8> {
    [&due.0.to_be_bytes(), of.as_str().as_bytes()].concat()
}

pub fn seal_due(due: Timestamp) -> Vec<u8> {
    due.0.to_be_bytes().to_vec()
}

pub fn open_due(value: &[u8]) -> Option<Timestamp> {
    value.first_chunk().map(|due| Timestamp(i64::from_be_bytes(*due)))
}

/// None where a former release has written it.
pub fn routing_key_of_timer(value: &[u8]) -> Option<RoutingKey> {
    let (_, routing_key) = value.split_first_chunk::<8>()?;
    let routing_key = std::str::from_utf8(routing_key).ok()?;
    (!routing_key.is_empty()).then(|| routing_key.into())
}

/// Whether a key is that of a timer row, and so what a restored record means to the store. One whose due time can't be read is
/// due at once: whoever set it looks at what is due and sets it anew, where a timer that never fires would be missed by nobody.
pub fn timer_of(key: &[u8], value: Option<&[u8]>) -> Option<Timestamp> {
    if key::pack_of(key).is_some() {
        return None;
    }
    let (_, row) = key::parse(key)?;
    let value = value.filter(|_| row.starts_with(key::TIMER))?;
    Some(open_due(value).filter(|due| (0..=LAST_DUE_MS).contains(&due.0)).unwrap_or_default())
}

/// The end of the year 9999: no date that a source sends lies behind it.
const LAST_DUE_MS: i64 = 253_402_300_799_999;

/// An entity's rows, read through the batch. A store that fails is remembered: the step's outcome is not used then.
pub struct View<'a> {
    store: &'a dyn Store,
    written: &'a Written,
    /// Where its rows are, if not beside.
    pack: Option<&'a Pack>,
    entity: Vec<u8>,
    pub failure: RefCell<Option<StoreError>>,
}

impl<'a> View<'a> {
    /// Of an entity that is loaded: all its rows.
    pub fn new(store: &'a dyn Store, written: &'a Written, of: &Address) -> Self {
        let view = Self::beside(store, written, &of.entity);
        let pack = written.packs.get(&of.routing_key).filter(|_| key::is_packed(&of.entity));
        let pack = pack.filter(|pack| pack.is_home_of(&view.entity));
        Self { pack, ..view }
    }

    /// Of any entity: the rows that lie beside the packs.
    pub fn beside(store: &'a dyn Store, written: &'a Written, of: &EntityKey) -> Self {
        Self { store, written, pack: None, entity: key::entity(of), failure: RefCell::default() }
    }

    fn caught<T: Default>(&self, result: Result<T, StoreError>) -> T {
        result.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

impl Rows for View<'_> {
    fn get(&self, row: &str) -> Option<Cow<'_, [u8]>> {
        if let Some(pack) = self.pack.filter(|_| !row.starts_with('~')) {
            return pack.get(&self.entity, row).map(Cow::Borrowed);
        }
        let key = key::beside(&self.entity, row);
        match self.written.rows.get(&key) {
            Some(row) => row.value.as_deref().map(Cow::Borrowed),
            None => self.caught(self.store.get(&key)).map(Cow::Owned),
        }
    }

    fn scan_after(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(SmolStr, Cow<'_, [u8]>)> {
        if let Some(pack) = self.pack.filter(|_| !prefix.starts_with('~')) {
            let rows = pack.scan(&self.entity, prefix).filter(|(name, _)| after.is_none_or(|after| *name > after));
            return rows.take(limit).map(|(name, value)| (name.into(), Cow::Borrowed(value))).collect();
        }
        let prefix = key::beside(&self.entity, prefix);
        let from = match after {
            Some(after) => prefix.clone().max([&key::beside(&self.entity, after), &[0][..]].concat()),
            None => prefix.clone(),
        };
        let mine = self.entity.len();
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        // The batch may delete some of what the store shows: ask for that many more.
        let touched = self.written.rows.range(from.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let deleted = touched.clone().filter(|(_, row)| row.value.is_none()).count();
        let stored = self.store.scan(&prefix, &from, limit.saturating_add(deleted));
        rows.extend(self.caught(stored));
        for (key, row) in touched {
            match &row.value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        rows.into_iter()
            .take(limit)
            .map(|(key, value)| (SmolStr::from(String::from_utf8_lossy(&key[mine..])), Cow::Owned(value)))
            .collect()
    }
}

/// Timers due by `now`, less those that the batch has moved, cleared or already fired.
pub fn due(store: &dyn Store, written: &Written, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
    let mut timers = store.due(now, limit)?;
    timers.retain(|timer| !written.rows.contains_key(&timer.key));
    Ok(timers)
}
