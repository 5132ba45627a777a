//! Members and readers of the embedded bus.
//!
//! A group has one member at a time, and it has all partitions of its topics. Its committed offsets are written when it first
//! polls, so that retention keeps from then on what it has yet to read.

use super::super::{
    BatchLimit, BusError, CommitError, Incoming, Membership, Outgoing, Poll, Reader, Session, TopicPartition,
    Transaction,
};
use super::cursor::{Cursor, Followed};
use super::record::Place;
use super::{Fault, FaultPoint, Inner, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A reader's batch is bounded by records; this bounds the memory of large ones.
const READER_BYTES: usize = 16 * 1024 * 1024;

/// Who is in a group.
pub(super) struct Member {
    instance: String,
    /// Raised by every join: what an earlier member does is fenced by it.
    epoch: u64,
}

pub(super) struct EmbeddedSession {
    inner: Arc<Inner>,
    membership: Membership,
    epoch: u64,
    /// Empty until the first poll has assigned the partitions.
    cursor: Cursor,
    assigned: bool,
    /// For the next commit.
    sent: Vec<Outgoing>,
}

impl EmbeddedSession {
    pub(super) fn join(inner: &Arc<Inner>, membership: &Membership) -> Result<Self, BusError> {
        let refused = |reason: String| BusError::Failed { doing: format!("join group {}", membership.group), reason };
        if membership.group.is_empty() || membership.group.contains('\0') {
            return Err(refused("a group's name is text".to_owned()));
        }
        let mut state = inner.lock();
        let missing: Vec<String> =
            membership.topics.iter().filter(|topic| !state.log.topics.contains_key(*topic)).cloned().collect();
        if !missing.is_empty() {
            return Err(super::log::missing(&missing));
        }
        if let Some(member) = state.members.get(&membership.group)
            && member.instance != membership.instance
        {
            return Err(refused(format!(
                "{} is in it, and on the embedded bus a group has one member: run one, or use Kafka",
                member.instance
            )));
        }
        state.epoch += 1;
        let epoch = state.epoch;
        state.members.insert(membership.group.clone(), Member { instance: membership.instance.clone(), epoch });
        // One that waits in `poll` learns at once that it was replaced.
        inner.arrived.notify_all();
        drop(state);
        let (inner, membership) = (inner.clone(), membership.clone());
        Ok(Self { inner, membership, epoch, cursor: Cursor::default(), assigned: false, sent: Vec::new() })
    }

    fn assign(&mut self) -> Result<Vec<TopicPartition>, BusError> {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        fence(&state, &self.membership, self.epoch)?;
        let mut partitions = Vec::new();
        let mut first = BTreeMap::new();
        for name in &self.membership.topics {
            let topic = state.log.topic(name)?;
            for (partition, ends) in (0..).zip(&topic.partitions) {
                let place = Place { topic: topic.id, partition };
                let next = state.log.committed(&self.membership.group, place).unwrap_or_else(|| {
                    first.insert(place, ends.start);
                    ends.start
                });
                partitions.push(Followed { topic: name.clone(), place, next, paused: false });
            }
        }
        state.log.write(&[], Some((&self.membership.group, &first)), now)?;
        let given = partitions.iter().map(|p| (p.topic.clone(), p.place.partition)).collect();
        self.cursor.partitions = partitions;
        self.assigned = true;
        Ok(given)
    }

    /// The records since the last commit come again.
    fn rewind(&mut self) {
        let state = self.inner.lock();
        for followed in &mut self.cursor.partitions {
            if let Some(offset) = state.log.committed(&self.membership.group, followed.place) {
                followed.next = offset;
            }
        }
    }

    fn write(&mut self, transaction: &Transaction) -> Result<(), BusError> {
        let now = self.inner.clock.now();
        let mut state = self.inner.lock();
        fence(&state, &self.membership, self.epoch)?;
        if !self.assigned {
            return Err(BusError::Failed {
                doing: format!("commit for group {}", self.membership.group),
                reason: "this member has no partition yet: its first poll assigns them".to_owned(),
            });
        }
        let mut offsets = BTreeMap::new();
        for ((topic, partition), offset) in &transaction.offsets {
            let followed = self.cursor.partitions.iter().find(|p| p.topic == *topic && p.place.partition == *partition);
            let Some(followed) = followed else {
                return Err(BusError::Failed {
                    doing: format!("commit for group {}", self.membership.group),
                    reason: format!("partition {partition} of topic {topic} is not this member's"),
                });
            };
            offsets.insert(followed.place, *offset);
        }
        state.log.write(&transaction.outputs, Some((&self.membership.group, &offsets)), now)?;
        drop(state);
        if !transaction.outputs.is_empty() {
            self.inner.arrived.notify_all();
        }
        Ok(())
    }

    /// As if the process had ended here: whoever joins the group next goes on from what is committed.
    fn crash(&mut self, when: &str) -> CommitError {
        self.part();
        let doing = format!("commit for group {}", self.membership.group);
        CommitError::Bus(BusError::Failed { doing, reason: format!("simulated crash {when}") })
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        let named = |p: &Followed| partitions.iter().any(|(t, id)| p.topic == *t && p.place.partition == *id);
        self.cursor.partitions.iter_mut().filter(|p| named(p)).for_each(|p| p.paused = paused);
    }

    fn part(&self) {
        let mut state = self.inner.lock();
        if state.members.get(&self.membership.group).is_some_and(|member| member.epoch == self.epoch) {
            state.members.remove(&self.membership.group);
        }
    }
}

impl Session for EmbeddedSession {
    fn poll(&mut self, limit: BatchLimit, wait: Duration) -> Result<Poll, BusError> {
        if !self.assigned {
            return self.assign().map(Poll::Assigned);
        }
        let (membership, epoch) = (&self.membership, self.epoch);
        self.inner.take(&mut self.cursor, limit, wait, &|state| fence(state, membership, epoch)).map(Poll::Batch)
    }

    fn send(&mut self, outputs: Vec<Outgoing>) -> Result<(), BusError> {
        self.sent.extend(outputs);
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), CommitError> {
        let sent = self.sent.len();
        self.sent.extend(transaction.outputs);
        let whole = Transaction { outputs: std::mem::take(&mut self.sent), offsets: transaction.offsets };
        let point = FaultPoint::Commit { group: &self.membership.group };
        match self.inner.fault(point) {
            Fault::None => {}
            Fault::Refuse => {
                self.rewind();
                return Err(CommitError::Rewound("simulated".to_owned()));
            }
            Fault::CrashBefore => return Err(self.crash("before the commit")),
            Fault::CrashAfter => {
                self.write(&whole)?;
                return Err(self.crash("after the commit"));
            }
        }
        self.write(&whole).map_err(|error| {
            // Refused as a whole, the batch stays open: it can be committed otherwise.
            self.sent = whole.outputs;
            self.sent.truncate(sent);
            CommitError::Bus(error)
        })
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        self.set_paused(partitions, true);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        self.set_paused(partitions, false);
        Ok(())
    }

    fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        let state = self.inner.lock();
        let committed = |followed: &Followed| state.log.committed(&self.membership.group, followed.place);
        let own = self.cursor.partitions.iter();
        own.map(|p| ((p.topic.clone(), p.place.partition), committed(p).unwrap_or(p.next))).collect()
    }

    fn leave(self: Box<Self>) -> Result<(), BusError> {
        self.part();
        Ok(())
    }
}

/// A member that is dropped has left: a new one needn't wait for anything.
impl Drop for EmbeddedSession {
    fn drop(&mut self) {
        self.part();
    }
}

fn fence(state: &State, membership: &Membership, epoch: u64) -> Result<(), BusError> {
    match state.members.get(&membership.group) {
        Some(member) if member.epoch == epoch => Ok(()),
        _ => Err(BusError::Fenced(format!("{} in group {}", membership.instance, membership.group))),
    }
}

pub(super) struct EmbeddedReader {
    inner: Arc<Inner>,
    cursor: Cursor,
}

impl EmbeddedReader {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: inner.clone(), cursor: Cursor::default() }
    }
}

impl Reader for EmbeddedReader {
    fn seek(&mut self, topic: &str, partition: u32, offset: i64) -> Result<(), BusError> {
        let (place, state) = self.inner.lock().log.partition(topic, partition)?;
        if offset > state.end {
            return Err(BusError::Failed {
                doing: format!("read partition {partition} of topic {topic}"),
                reason: format!("offset {offset} is beyond its end, {}", state.end),
            });
        }
        let next = offset.max(state.start);
        match self.cursor.partitions.iter_mut().find(|followed| followed.place == place) {
            Some(followed) => followed.next = next,
            None => self.cursor.partitions.push(Followed { topic: topic.to_owned(), place, next, paused: false }),
        }
        Ok(())
    }

    fn leave(&mut self, topic: &str, partition: u32) -> Result<(), BusError> {
        self.cursor.partitions.retain(|followed| followed.topic != topic || followed.place.partition != partition);
        Ok(())
    }

    fn poll(&mut self, limit: usize, wait: Duration) -> Result<Vec<Incoming>, BusError> {
        self.inner.take(&mut self.cursor, BatchLimit::new(limit, READER_BYTES), wait, &|_| Ok(()))
    }

    fn position(&self, topic: &str, partition: u32) -> Result<i64, BusError> {
        let mut followed = self.cursor.partitions.iter();
        let found = followed.find(|followed| followed.topic == topic && followed.place.partition == partition);
        found.map(|followed| followed.next).ok_or_else(|| BusError::Failed {
            doing: format!("tell the position in partition {partition} of topic {topic}"),
            reason: "this reader was never told to read it".to_owned(),
        })
    }
}
