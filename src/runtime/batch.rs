//! The rows of one partition while a batch is in work: the store as committed, and on top of it what the batch has written.

use crate::entity::{Rows, key};
use crate::model::{EntityKey, Timestamp};
use crate::store::{DueTimer, Store, StoreError, Write};
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Row {
    value: Option<Vec<u8>>,
    timer: Option<Timestamp>,
}

/// Written rows by key: each is written to changelog and store once, however often the batch changed it.
#[derive(Debug, Default)]
pub struct Written {
    rows: BTreeMap<Vec<u8>, Row>,
}

impl Written {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.rows.insert(key, Row { value, timer: None });
    }

    pub fn put_timer(&mut self, key: Vec<u8>, due: Timestamp) {
        self.rows.insert(key, Row { value: Some(seal_due(due)), timer: Some(due) });
    }

    pub fn writes(&self) -> Vec<Write> {
        self.rows
            .iter()
            .map(|(key, row)| Write { key: key.clone(), value: row.value.clone(), timer: row.timer })
            .collect()
    }
}

/// A timer row's value: its due time. Not in an envelope, so that a store of any release can rebuild its index.
pub fn seal_due(due: Timestamp) -> Vec<u8> {
    due.0.to_be_bytes().to_vec()
}

pub fn open_due(value: &[u8]) -> Option<Timestamp> {
    Some(Timestamp(i64::from_be_bytes(value.try_into().ok()?)))
}

/// Whether a key is that of a timer row, and so what a restored record means to the store. One whose due time can't be read is
/// due at once: whoever set it looks at what is due and sets it anew, where a timer that never fires would be missed by nobody.
pub fn timer_of(key: &[u8], value: Option<&[u8]>) -> Option<Timestamp> {
    let (_, row) = key::parse(key)?;
    let value = value.filter(|_| row.starts_with(key::TIMER))?;
    Some(open_due(value).unwrap_or_default())
}

/// An entity's rows, read through the batch. A store that fails is remembered: the step's outcome is not used then.
pub struct View<'a> {
    pub store: &'a dyn Store,
    pub written: &'a Written,
    pub failure: RefCell<Option<StoreError>>,
    prefix: Vec<u8>,
}

impl<'a> View<'a> {
    pub fn new(store: &'a dyn Store, written: &'a Written, of: &EntityKey) -> Self {
        Self { store, written, failure: RefCell::new(None), prefix: key::entity(of) }
    }

    fn full(&self, row: &str) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(row.as_bytes());
        key
    }

    fn caught<T: Default>(&self, result: Result<T, StoreError>) -> T {
        result.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

impl Rows for View<'_> {
    fn get(&self, row: &str) -> Option<Vec<u8>> {
        let key = self.full(row);
        match self.written.rows.get(&key) {
            Some(row) => row.value.clone(),
            None => self.caught(self.store.get(&key)),
        }
    }

    fn scan(&self, prefix: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        let prefix = self.full(prefix);
        let mine = self.prefix.len();
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        // The batch may delete some of what the store shows: ask for that many more.
        let touched = self.written.rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let deleted = touched.clone().filter(|(_, row)| row.value.is_none()).count();
        let stored = self.store.scan(&prefix, &prefix, limit.saturating_add(deleted));
        rows.extend(self.caught(stored));
        for (key, row) in touched {
            match &row.value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        rows.into_iter()
            .take(limit)
            .map(|(key, value)| (String::from_utf8_lossy(&key[mine..]).into_owned(), value))
            .collect()
    }
}

/// Timers due by `now`, less those that the batch has moved, cleared or already fired.
pub fn due(store: &dyn Store, written: &Written, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError> {
    let mut timers = store.due(now, limit)?;
    timers.retain(|timer| !written.rows.contains_key(&timer.key));
    Ok(timers)
}
