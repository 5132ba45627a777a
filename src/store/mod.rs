//! Local state of one partition: rows by key, live timers by due time, and the changelog position they correspond to.
//!
//! Kafka is the truth and the disk is a cache: a store may lag behind its changelog, never lead it. Rows and position are
//! written in one atomic batch. The position is a lower bound: replaying from it to the end always gives the newest rows.

pub(crate) mod database;
pub mod disk;
pub(crate) mod journal;
pub mod memory;

use crate::model::Timestamp;
use bytes::Bytes;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("local store {path}: {doing}: {reason}")]
    Failed { path: String, doing: &'static str, reason: String },
    /// Another process has the folder open.
    #[error("{path} is in use by {holder}: stop that one, or give this one another data folder")]
    InUse { path: String, holder: String },
    /// What is on disk can't be read. For a store, which is a cache: end the process; the next start sets the folder aside
    /// and rebuilds it from the changelog.
    #[error("{path} is damaged: {doing}: {reason}")]
    Damaged { path: String, doing: &'static str, reason: String },
    /// No write is accepted any more until it is opened anew: end the process.
    #[error(
        "{path}: {doing}: an earlier write to disk failed, so none is accepted any more: look at the disk and start again"
    )]
    Poisoned { path: String, doing: &'static str },
}

impl StoreError {
    /// Only another process can go on.
    pub fn ends_the_process(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Poisoned { .. })
    }
}

/// A live timer. `key` is the row it was set in, given back when it is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueTimer {
    pub due: Timestamp,
    pub key: Vec<u8>,
}

/// One row's change. Timers are rows too: `timer` is Some(due) on rows that are timers, so that the store keeps its index by due
/// time in step with the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Vec<u8>,
    /// None deletes. Shared by the changelog, the cache and the store.
    pub value: Option<Bytes>,
    /// For rows that are timers: when it is due. On deletion the store finds the old due time in the old row by itself.
    pub timer: Option<Timestamp>,
}

/// Keys and values, in key order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The local rows of one partition.
pub trait Store: Send {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Rows whose key begins with `prefix`, from `from` on (inclusive, a whole key), in key order, at most `limit`.
    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Rows, StoreError>;
    /// Timers due at or before `now`, earliest first, at most `limit`.
    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueTimer>, StoreError>;
    /// When the earliest timer is due.
    fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;
    /// All or nothing: rows, timers, and the changelog offset from which a replay would have to start. A key is a timer's for
    /// good or never: a row with a value and no timer must not have been one, unless it was deleted in between.
    fn apply(&mut self, writes: &[Write], position: i64) -> Result<(), StoreError>;
    /// Many rows at once, as they are read from a changelog: several writes of one key may be among them, and the last counts.
    /// Not all or nothing, so a position that covers them is applied afterwards.
    fn load(&mut self, writes: Vec<Write>) -> Result<(), StoreError>;
    /// None: empty, to be rebuilt from the changelog's start.
    fn position(&self) -> Result<Option<i64>, StoreError>;
    /// When it was last known to be current: one that is too old may have missed tombstones.
    fn written_at(&self) -> Result<Option<Timestamp>, StoreError>;
    /// Remembers that the store is current as of `now`.
    fn touch(&mut self, now: Timestamp) -> Result<(), StoreError>;
    /// Forgets everything.
    fn clear(&mut self) -> Result<(), StoreError>;
    /// Whether it may still be written: of the loops that share stores the one that opened a partition's last has it. A loop that
    /// hung while its partition went to another would else undo what that one has written.
    fn is_owner(&self) -> bool {
        true
    }
}

/// Opens the store of a partition: `name` is `state` or `lanes.<target>`.
pub trait Stores: Send + Sync {
    fn open(&self, name: &str, partition: u32) -> Result<Box<dyn Store>, StoreError>;
}
