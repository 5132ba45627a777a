//! The bus: topics, groups and atomic transactions, on Apache Kafka (`kafka`) or embedded in the process (`embedded`).
//!
//! The contract, which `tests/contract` holds every implementation to:
//! - A `Session` belongs to one thread. Whenever `poll` is called, everything it gave before is committed or aborted:
//!   no work is ever open across a poll, so a rebalance inside `poll` has nothing to finish. Whoever has sent, commits or ends.
//! - A partition that is paused gives nothing, loses nothing, and holds up no other.
//! - `commit` makes outputs and offsets visible together or not at all. After `CommitError::Rewound` the session stands at
//!   the last committed offsets and gives the same records again; after `Fenced` it is of no use any more. Where it can't be
//!   known whether a commit took place it is `Rewound` as well, and the next polls give `Revoked` and `Assigned`: what the
//!   readers find then is what happened, and the session stands where that ends.
//! - Readers see only committed records, in offset order. Offsets rise but may have gaps.

pub mod acls;
pub mod embedded;
pub mod kafka;
pub mod topics;

pub use crate::model::{Incoming, Outgoing};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

pub type TopicPartition = (String, u32);

/// How one thread takes part in a group.
#[derive(Clone, Debug)]
pub struct Membership {
    pub group: String,
    /// Static member id, stable over restarts; with the group it gives the transactional id.
    pub instance: String,
    pub topics: Vec<String>,
}

/// Bounds of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    pub records: usize,
    pub bytes: usize,
    /// A batch that has begun and is not full gathers more until this moment. A bus whose commits cost next to nothing may
    /// give what it has at once.
    pub gather_until: Option<Instant>,
}

impl BatchLimit {
    /// What is there is given at once.
    pub const fn new(records: usize, bytes: usize) -> Self {
        Self { records, bytes, gather_until: None }
    }
}

#[derive(Debug)]
pub enum Poll {
    /// Empty when nothing came within the wait.
    Batch(Vec<Incoming>),
    /// All partitions of this member from now on, none of them paused. Those whose state is not there yet are to be paused
    /// before the next `poll`.
    Assigned(Vec<TopicPartition>),
    /// These are no longer this member's; whatever was kept for them in memory is stale.
    Revoked(Vec<TopicPartition>),
}

/// One atomic commit.
#[derive(Debug, Default)]
pub struct Transaction {
    pub outputs: Vec<Outgoing>,
    /// The next offset to read, for every partition that moved on. A commit without any carries the session's last ones,
    /// so that the generation fence always applies.
    pub offsets: BTreeMap<TopicPartition, i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{doing}: {reason}")]
    Failed { doing: String, reason: String },
    #[error("{doing}: {reason} (it may pass: try again)")]
    Retriable { doing: String, reason: String },
    /// Another process took this member's place; this one must stop.
    #[error("fenced: another process runs as this member, or the brokers took this one for gone ({0})")]
    Fenced(String),
    /// The cluster doesn't know who this is, or doesn't let it: until somebody changes that, trying again is of no use.
    #[error("{doing}: {reason}: {remedy}")]
    Denied { doing: String, reason: String, remedy: String },
    #[error("the record for topic {topic} has {bytes} bytes, more than the {limit} that may be sent")]
    TooLarge { topic: String, bytes: usize, limit: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing of the transaction is visible, and the session gives its records again; or it isn't known, and `Revoked` and
    /// `Assigned` follow.
    #[error("the transaction was aborted, its records come again: {0}")]
    Rewound(String),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A member's view of the bus.
pub trait Session: Send {
    fn poll(&mut self, limit: BatchLimit, wait: Duration) -> Result<Poll, BusError>;
    /// Puts records into the transaction of the next `commit`, before that one's own: they are on their way while what comes after
    /// them is still being made. What may not be sent (too large, no such topic) may be said at once; what fails later, the commit says.
    fn send(&mut self, outputs: Vec<Outgoing>) -> Result<(), BusError>;
    fn commit(&mut self, transaction: Transaction) -> Result<(), CommitError>;
    /// `poll` gives nothing of these partitions until they are resumed; what it gave before is not taken back. Partitions that
    /// aren't this member's are passed over: it learns with the next `poll` that they are gone.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError>;
    /// They go on at the next offset.
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError>;
    /// The next offset of each of this member's partitions, by what is committed.
    fn positions(&self) -> BTreeMap<TopicPartition, i64>;
    /// Ends the membership; a bus that keeps partitions for a restart gives them to others only later. All is committed by then, or
    /// comes again to whoever is next.
    fn leave(self: Box<Self>) -> Result<(), BusError>;
}

/// Reads partitions from given offsets without being a member of anything; committed records only.
pub trait Reader: Send {
    /// Adds a partition, or moves it. An offset below the log's start begins at the start.
    fn seek(&mut self, topic: &str, partition: u32, offset: i64) -> Result<(), BusError>;
    /// Reads a partition no more.
    fn leave(&mut self, topic: &str, partition: u32) -> Result<(), BusError>;
    /// What is there, up to `limit` records; empty when nothing came within the wait.
    fn poll(&mut self, limit: usize, wait: Duration) -> Result<Vec<Incoming>, BusError>;
    /// The next offset this reader would give: past gaps and transaction markers too.
    fn position(&self, topic: &str, partition: u32) -> Result<i64, BusError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The first offset that is still there.
    pub start: i64,
    /// The offset that the next record gets, open transactions included (what a read_uncommitted client sees).
    pub end: i64,
}

pub trait Bus: Send + Sync {
    fn join(&self, membership: &Membership) -> Result<Box<dyn Session>, BusError>;
    fn reader(&self) -> Result<Box<dyn Reader>, BusError>;
    fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError>;
    /// What tells this bus from any other: offsets of one mean nothing on another.
    fn identity(&self) -> Result<String, BusError>;
    /// Offsets that a commit takes behind its records, in each partition that it writes to.
    fn commit_markers(&self) -> i64;
    /// Partitions of a topic; None where it doesn't exist.
    fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError>;
    /// Writes all or nothing, outside of any group: for what comes in by hand, by HTTP or from an operator.
    fn append(&self, records: Vec<Outgoing>) -> Result<(), BusError>;
    /// The topics' present state, for `topics plan`.
    fn describe(&self, topics: &[String]) -> Result<Vec<TopicState>, BusError>;
    fn create(&self, specs: &[TopicSpec]) -> Result<(), BusError>;
    /// Sets the settings named, and leaves the others as they are.
    fn configure(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError>;
    /// How this host's clock stands against the brokers', by a record on `topic`; None where there is no other clock.
    fn clock(&self, _topic: &str) -> Result<Option<ClockReading>, BusError> {
        Ok(None)
    }
}

/// One look at two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// This host's time less the broker's, in ms, as of the middle of the exchange.
    pub ahead_ms: i64,
    /// Half of the time that the exchange took: the difference is known no better.
    pub uncertain_ms: i64,
}

/// A process whose clock differs from the brokers' by more refuses to run: timers, deadlines and tokens would be wrong by as
/// much, and no network explains so large a difference.
pub const MOST_CLOCK_OFFSET: Duration = Duration::from_secs(30);

impl ClockReading {
    /// What the broker said when it took a record that was sent and acknowledged at these times of this host.
    pub fn of(sent_ms: i64, broker_ms: i64, acknowledged_ms: i64) -> Self {
        let took = (acknowledged_ms - sent_ms).max(0);
        Self { ahead_ms: sent_ms + took / 2 - broker_ms, uncertain_ms: took / 2 }
    }

    /// Whether it is certain that the clocks differ by more than may be.
    pub fn is_off(&self) -> bool {
        let most = i64::try_from(MOST_CLOCK_OFFSET.as_millis()).unwrap_or(i64::MAX);
        self.ahead_ms.abs() - self.uncertain_ms > most
    }
}

impl fmt::Display for ClockReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.ahead_ms < 0 { "behind" } else { "ahead of" };
        let (off, uncertain) = (self.ahead_ms.unsigned_abs() as f64 / 1000.0, self.uncertain_ms as f64 / 1000.0);
        write!(f, "this host's clock is {off:.1} s {side} the brokers' (give or take {uncertain:.1} s)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_where_no_network_explains_the_difference() {
        for (sent, broker, acknowledged, ahead, off) in [
            (1_000, 1_010, 1_020, 0, false),
            (100_000, 69_000, 100_000, 31_000, true),
            (100_000, 131_000, 100_000, -31_000, true),
            (100_000, 70_000, 100_000, 30_000, false),
            // Ten seconds on the way: 31 s may be 26 s.
            (100_000, 74_000, 110_000, 31_000, false),
            (100_000, 60_000, 110_000, 45_000, true),
            // The clock was set back meanwhile.
            (100_000, 100_000, 40_000, 0, false),
        ] {
            let reading = ClockReading::of(sent, broker, acknowledged);
            assert_eq!((reading.ahead_ms, reading.is_off()), (ahead, off), "{sent} {broker} {acknowledged}");
        }
        let text = ClockReading { ahead_ms: -31_500, uncertain_ms: 40 }.to_string();
        assert_eq!(text, "this host's clock is 31.5 s behind the brokers' (give or take 0.0 s)");
    }
}

/// A topic as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    /// None: the broker's default.
    pub replicas: Option<u16>,
    /// Settings by Kafka's names: `cleanup.policy`, `retention.ms`, ...
    pub settings: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    pub name: String,
    /// None where the topic doesn't exist.
    pub found: Option<TopicFound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFound {
    pub partitions: u32,
    pub replicas: u16,
    pub settings: BTreeMap<String, String>,
}
