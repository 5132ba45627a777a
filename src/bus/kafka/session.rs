//! One member of a group on one thread: a consumer, and the transactional producer that commits what comes of its records.
//!
//! The session keeps each partition's committed offset itself: it starts consuming exactly there, a commit without offsets
//! carries them so that the broker's generation fence applies, and after an abort (which does not rewind a consumer) it
//! seeks back to them. Nothing is open when `poll` is called, so a rebalance has nothing to finish.

use super::client::{
    Change, MEMBER_FETCH_PAUSE_MS, Member, REQUEST_TIMEOUT, bus_error, describe, native_partition, passes,
};
use super::writer::{Offsets, WriteError, Writer};
use super::{Cluster, token};
use crate::bus::{
    BatchLimit, BusError, CommitError, Incoming, Membership, Outgoing, Poll, Session, TopicPartition, Transaction,
};
use crate::model::Timestamp;
use bytes::Bytes;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the committed offsets of new partitions may take: a dead member's transaction hides them until its time-out (10 s).
const OFFSETS_PATIENCE: Duration = Duration::from_secs(30);
const OFFSETS_PAUSE: Duration = Duration::from_millis(100);
/// How long the group may take to tell a member what a refused commit has told it already: it learns by its heartbeats, within
/// a session time-out. Later it joins anew by itself.
const EXPELLED_PATIENCE: Duration = Duration::from_secs(30);
/// How long a fetch takes that brings what has gathered while nothing was asked for.
const FETCHED_WITHIN: Duration = Duration::from_millis(MEMBER_FETCH_PAUSE_MS as u64 + 2);
/// A seek right after an assignment may find its partition not started yet.
const SEEK_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct KafkaSession {
    cluster: Arc<Cluster>,
    membership: Membership,
    /// Destroyed by `drop`, not by its own.
    consumer: ManuallyDrop<BaseConsumer<Member>>,
    /// None where it is of no use any more, until the next `poll` opens another.
    writer: Option<Writer>,
    /// Why what was sent for the next commit could not be written.
    unsent: Option<WriteError>,
    /// Whether the last commit took place is not known; a new producer settles it.
    unsettled: bool,
    positions: BTreeMap<TopicPartition, Position>,
    /// Since when a commit was refused because this is no member any more, while the group has yet to say so.
    expelled: Option<Instant>,
    /// Held back by the caller. librdkafka keeps the mark over an assignment, so it is taken off when partitions go.
    paused: BTreeSet<TopicPartition>,
    /// What the caller is told before anything else.
    announcements: VecDeque<Poll>,
    fenced: Option<String>,
}

#[derive(Clone, Copy)]
struct Position {
    /// The next offset by what the group has committed.
    committed: i64,
    /// The next offset that the consumer gives.
    next: i64,
}

impl KafkaSession {
    pub(super) fn join(cluster: Arc<Cluster>, membership: &Membership) -> Result<Self, BusError> {
        for topic in &membership.topics {
            cluster.partition_count(topic)?;
        }
        // First the producer: it fences whoever had this name, and aborts what that one left open.
        let writer =
            Writer::open(&cluster.settings.committer(membership), cluster.watchdog.clone(), cluster.tokens.as_ref())?;
        let doing = || format!("kafka: joining group {} as {}", membership.group, membership.instance);
        let consumer: BaseConsumer<Member> = cluster
            .settings
            .member(membership)
            .create_with_context(Member::new(cluster.tokens.as_ref()))
            .map_err(|e| bus_error(doing(), &e))?;
        token::authorize(consumer.client(), cluster.tokens.as_ref())?;
        let topics: Vec<&str> = membership.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|e| bus_error(doing(), &e))?;
        Ok(Self {
            cluster,
            membership: membership.clone(),
            consumer: ManuallyDrop::new(consumer),
            writer: Some(writer),
            unsent: None,
            unsettled: false,
            positions: BTreeMap::new(),
            expelled: None,
            paused: BTreeSet::new(),
            announcements: VecDeque::new(),
            fenced: None,
        })
    }

    fn still_member(&self) -> Result<(), BusError> {
        match &self.fenced {
            None => Ok(()),
            Some(reason) => Err(BusError::Fenced(reason.clone())),
        }
    }

    fn fence(&mut self, reason: &str) -> BusError {
        let reason = format!("{} in group {}: {reason}", self.membership.instance, self.membership.group);
        self.fenced = Some(reason.clone());
        BusError::Fenced(reason)
    }

    /// Partitions that are known to be another's are given back before the group asks for them: what came of their records could
    /// never be committed. Nothing of any partition is given until the next assignment.
    fn give_up_lost(&mut self) -> Result<Option<Poll>, BusError> {
        if self.expelled.is_some_and(|since| since.elapsed() > EXPELLED_PATIENCE) {
            tracing::warn!("kafka: group {} took this member for gone: joining it anew", self.membership.group);
            self.expelled = Some(Instant::now());
            self.join_anew();
        }
        if self.positions.is_empty() || (self.expelled.is_none() && !self.consumer.assignment_lost()) {
            return Ok(None);
        }
        tracing::info!("kafka: this member's partitions were given to another: waiting for the group");
        self.resume_all()?;
        Ok(Some(Poll::Revoked(std::mem::take(&mut self.positions).into_keys().collect())))
    }

    /// Carries out what the group decided; None where the caller need not know.
    fn follow(&mut self, change: Change) -> Result<Option<Poll>, BusError> {
        self.expelled = None;
        match change {
            Change::Revoke => {
                self.announcements.clear();
                self.resume_all()?;
                let gone: Vec<TopicPartition> = std::mem::take(&mut self.positions).into_keys().collect();
                self.consumer.unassign().map_err(|e| bus_error("kafka: giving partitions back", &e))?;
                Ok((!gone.is_empty()).then_some(Poll::Revoked(gone)))
            }
            Change::Assign(partitions) => {
                let positions = match self.committed(&partitions) {
                    Ok(positions) => positions,
                    Err(error) => {
                        self.consumer.context().put_back(Change::Assign(partitions));
                        return Err(error);
                    }
                };
                let list = offset_list(positions.iter().map(|(p, offset)| (p, *offset)))?;
                self.consumer.assign(&list).map_err(|e| bus_error("kafka: taking partitions", &e))?;
                self.positions = positions
                    .into_iter()
                    .map(|(p, offset)| (p, Position { committed: offset, next: offset }))
                    .collect();
                Ok(Some(Poll::Assigned(partitions)))
            }
        }
    }

    fn resume_all(&mut self) -> Result<(), BusError> {
        let paused: Vec<TopicPartition> = std::mem::take(&mut self.paused).into_iter().collect();
        self.set_paused(&paused, false)
    }

    fn set_paused(&self, partitions: &[TopicPartition], pause: bool) -> Result<(), BusError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, native_partition(*partition));
        }
        let done = if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        done.map_err(|e| bus_error("kafka: holding partitions back or letting them go on", &e))
    }

    /// Where the group stands in these partitions; the log's start where it has never committed.
    fn committed(&self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>, BusError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new()); // More members than partitions.
        }
        let doing = || format!("kafka: asking for the offsets of group {}", self.membership.group);
        let until = Instant::now() + OFFSETS_PATIENCE;
        let found = loop {
            let list = offset_list(partitions.iter().map(|p| (p, 0)))?;
            let failure = match self.consumer.committed_offsets(list, REQUEST_TIMEOUT) {
                Ok(found) => match found.elements().iter().find_map(|e| e.error().err()) {
                    None => break found,
                    Some(error) => error,
                },
                Err(error) => error,
            };
            if !passes(&failure) {
                return Err(bus_error(doing(), &failure));
            }
            if Instant::now() >= until {
                // What the brokers say meanwhile ("unstable offset commit"), librdkafka keeps to itself.
                let reason = format!(
                    "{}; if the brokers answer otherwise, a transaction may hang: see 'not-committing' in docs/runbook.md",
                    describe(&failure)
                );
                return Err(BusError::Retriable { doing: doing(), reason });
            }
            std::thread::sleep(OFFSETS_PAUSE);
        };
        let mut positions = BTreeMap::new();
        for element in found.elements() {
            let partition = (element.topic().to_owned(), element.partition().unsigned_abs());
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => self.cluster.ends(&partition.0, partition.1)?.start,
            };
            positions.insert(partition, offset);
        }
        Ok(positions)
    }

    /// After an abort: gives what was not committed again. Where seeking fails the member subscribes anew, and the assignment
    /// that follows starts at the committed offsets.
    fn rewind(&mut self) {
        if self.expelled.is_some() || self.consumer.assignment_lost() || self.consumer.context().has_change() {
            return; // The next assignment starts at the committed offsets.
        }
        let moved: BTreeMap<TopicPartition, i64> = self
            .positions
            .iter()
            .filter(|(_, p)| p.next != p.committed)
            .map(|(name, p)| (name.clone(), p.committed))
            .collect();
        match self.seek(&moved) {
            Ok(()) => self.positions.values_mut().for_each(|p| p.next = p.committed),
            Err(reason) => {
                tracing::warn!("kafka: going back to the committed offsets: {reason}: joining the group anew");
                self.join_anew();
            }
        }
    }

    fn join_anew(&mut self) {
        let topics: Vec<&str> = self.membership.topics.iter().map(String::as_str).collect();
        self.consumer.unsubscribe();
        if let Err(e) = self.consumer.subscribe(&topics) {
            let reason = format!("joining anew: {}", describe(&e));
            self.fence(&reason);
        }
    }

    fn seek(&self, offsets: &BTreeMap<TopicPartition, i64>) -> Result<(), String> {
        let mut left = offsets.clone();
        let until = Instant::now() + SEEK_PATIENCE;
        while !left.is_empty() {
            let list = offset_list(left.iter().map(|(p, offset)| (p, *offset))).map_err(|e| e.to_string())?;
            let mut failure = String::new();
            match self.consumer.seek_partitions(list, SEEK_PATIENCE) {
                Ok(done) => {
                    for element in done.elements() {
                        match element.error() {
                            Ok(()) => {
                                left.remove(&(element.topic().to_owned(), element.partition().unsigned_abs()));
                            }
                            Err(e) => failure = describe(&e),
                        }
                    }
                }
                Err(e) => failure = describe(&e),
            }
            if !left.is_empty() {
                if Instant::now() >= until {
                    return Err(failure);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// A new producer, where the old one is of no use any more. After an outcome that is not known it settles it; then the
    /// committed offsets are read again, and the caller is told to build its state anew, as only the log knows what it is now.
    fn settle(&mut self) -> Result<(), BusError> {
        if self.writer.is_some() {
            return Ok(());
        }
        // Opening would fence whoever has taken this name since.
        if let Some((_, reason)) = self.consumer.client().fatal_error() {
            return Err(self.fence(&reason));
        }
        let committer = self.cluster.settings.committer(&self.membership);
        match Writer::open(&committer, self.cluster.watchdog.clone(), self.cluster.tokens.as_ref()) {
            Ok(writer) => self.writer = Some(writer),
            Err(BusError::Fenced(reason)) => return Err(self.fence(&reason)),
            Err(error) => return Err(error),
        }
        if !self.unsettled {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = self.positions.keys().cloned().collect();
        let committed = match self.committed(&partitions) {
            Ok(committed) => committed,
            Err(error) => {
                self.writer = None;
                return Err(error);
            }
        };
        self.unsettled = false;
        for (partition, offset) in committed {
            if let Some(position) = self.positions.get_mut(&partition) {
                position.committed = offset;
            }
        }
        self.rewind();
        self.resume_all()?;
        if !partitions.is_empty() {
            self.announcements.push_back(Poll::Revoked(partitions.clone()));
            self.announcements.push_back(Poll::Assigned(partitions));
        }
        Ok(())
    }

    /// Notes how far the batch goes. Records of one partition come in runs, and each run is looked up once.
    fn give(&mut self, mut batch: Vec<Incoming>) -> Poll {
        let mut all_own = true;
        for run in batch.chunk_by(|a, b| a.partition == b.partition && a.topic == b.topic) {
            let Some(last) = run.last() else { continue };
            match self.positions.get_mut(&(last.topic.clone(), last.partition)) {
                Some(position) => position.next = last.offset + 1,
                None => all_own = false,
            }
        }
        if !all_own {
            batch.retain(|record| self.positions.contains_key(&(record.topic.clone(), record.partition)));
        }
        Poll::Batch(batch)
    }

    fn consumer_error(&mut self, error: &KafkaError) -> Result<(), BusError> {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        match (error, code) {
            (_, Some(Code::FencedInstanceId)) => Err(self.fence("another process has joined under this name")),
            (KafkaError::MessageConsumptionFatal(_), _)
            | (
                _,
                Some(
                    Code::UnknownTopicOrPartition
                    | Code::UnknownTopic
                    | Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
                    | Code::ClusterAuthorizationFailed
                    | Code::SaslAuthenticationFailed
                    | Code::InconsistentGroupProtocol
                    | Code::InvalidSessionTimeout,
                ),
            ) => {
                let (group, topics) = (&self.membership.group, self.membership.topics.join(", "));
                Err(bus_error(format!("kafka: group {group}, topics {topics}"), error))
            }
            // The network's moment, or something that a rebalance follows: librdkafka goes on by itself.
            _ => {
                tracing::debug!("kafka: group {}: {}", self.membership.group, describe(error));
                Ok(())
            }
        }
    }

    /// Records gather at the brokers until then: a consumer that is not polled doesn't ask for more. Gives how long to take
    /// what has gathered.
    fn gather(&self, until: Instant) -> Instant {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !self.announcements.is_empty() {
            return until;
        }
        std::thread::sleep(left);
        until + FETCHED_WITHIN
    }

    fn check_offsets(&self, transaction: &Transaction) -> Result<(), BusError> {
        let failed = |reason: String| BusError::Failed {
            doing: format!("kafka: committing as {} in group {}", self.membership.instance, self.membership.group),
            reason,
        };
        if self.positions.is_empty() {
            return Err(failed("this member holds no partition, so nothing would fence it".into()));
        }
        match transaction.offsets.keys().find(|p| !self.positions.contains_key(p)) {
            None => Ok(()),
            Some((topic, partition)) => {
                Err(failed(format!("partition {partition} of topic {topic} isn't this member's")))
            }
        }
    }

    fn write(&mut self, transaction: &Transaction) -> Result<(), WriteError> {
        if let Some(failure) = self.unsent.take() {
            return Err(failure);
        }
        let Some(writer) = &self.writer else {
            return Err(WriteError::Broken("an earlier commit is not settled yet".into()));
        };
        // Right now: an older generation would be fenced, a cached one might be.
        let Some(member) = self.consumer.group_metadata() else {
            return Err(writer.give_up(WriteError::Aborted("this member is in no group".into())));
        };
        if self.consumer.assignment_lost() {
            return Err(writer.give_up(WriteError::Expelled("this member's partitions were given to another".into())));
        }
        let list = if transaction.offsets.is_empty() {
            offset_list(self.positions.iter().map(|(p, position)| (p, position.committed)))
        } else {
            offset_list(transaction.offsets.iter().map(|(p, offset)| (p, *offset)))
        }
        .map_err(|e| writer.give_up(WriteError::Aborted(e.to_string())))?;
        let lost = || self.consumer.assignment_lost();
        writer.write(&transaction.outputs, Some(&Offsets { list: &list, member: &member, lost: &lost }))
    }
}

impl Session for KafkaSession {
    fn poll(&mut self, limit: BatchLimit, wait: Duration) -> Result<Poll, BusError> {
        self.still_member()?;
        self.settle()?;
        let until = Instant::now() + wait;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let gather_until = limit.gather_until.map(|until| self.gather(until));
        loop {
            // Before anything else: a batch that was begun is of a generation that is over, and comes again.
            if let Some(change) = self.consumer.context().next_change() {
                batch.clear();
                bytes = 0;
                if let Some(told) = self.follow(change)? {
                    return Ok(told);
                }
            }
            if let Some(told) = self.announcements.pop_front() {
                return Ok(told);
            }
            if batch.is_empty()
                && let Some(told) = self.give_up_lost()?
            {
                return Ok(told);
            }
            if batch.len() >= limit.records || bytes >= limit.bytes {
                return Ok(self.give(batch));
            }
            let left = match (batch.is_empty(), gather_until) {
                (true, _) => whole_millis(until),
                (false, Some(gather_until)) => whole_millis(gather_until),
                (false, None) => Duration::ZERO,
            };
            let polled = self.consumer.poll(left).map(|polled| polled.map(|message| incoming(&message)));
            match polled {
                // Fetched before the partitions went.
                Some(Ok(_)) if self.positions.is_empty() && left.is_zero() => return Ok(self.give(batch)),
                Some(Ok(_)) if self.positions.is_empty() => {}
                Some(Ok(record)) => {
                    bytes += record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Bytes::len);
                    batch.push(record);
                }
                Some(Err(error)) => self.consumer_error(&error)?,
                None if self.consumer.context().has_change() => {}
                None if left.is_zero() => return Ok(self.give(batch)),
                None => {}
            }
        }
    }

    fn send(&mut self, outputs: Vec<Outgoing>) -> Result<(), BusError> {
        self.still_member()?;
        self.cluster.check_outgoing(&outputs)?;
        if let Some(writer) = self.writer.as_ref().filter(|_| self.unsent.is_none()) {
            self.unsent = writer.send(&outputs).err();
        }
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), CommitError> {
        self.still_member()?;
        self.check_offsets(&transaction)?;
        self.cluster.check_outgoing(&transaction.outputs)?;
        match self.write(&transaction) {
            Ok(()) => {
                for (partition, offset) in transaction.offsets {
                    if let Some(position) = self.positions.get_mut(&partition) {
                        position.committed = offset;
                    }
                }
                Ok(())
            }
            Err(WriteError::Aborted(reason)) => {
                self.rewind();
                Err(CommitError::Rewound(reason))
            }
            Err(WriteError::Expelled(reason)) => {
                self.expelled = Some(Instant::now());
                Err(CommitError::Rewound(reason))
            }
            Err(WriteError::Broken(reason)) => {
                self.writer = None;
                self.rewind();
                Err(CommitError::Rewound(reason))
            }
            Err(WriteError::Unknown(reason)) => {
                self.writer = None;
                self.unsettled = true;
                Err(CommitError::Rewound(format!("{reason}; whether it took place shows when the state is read again")))
            }
            Err(WriteError::Denied(error)) => {
                self.writer = None;
                self.rewind();
                Err(error.into())
            }
            Err(WriteError::Fenced(reason)) => Err(self.fence(&reason).into()),
        }
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        let own: Vec<_> = partitions.iter().filter(|p| self.positions.contains_key(p)).cloned().collect();
        self.set_paused(&own, true)?;
        self.paused.extend(own);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), BusError> {
        let own: Vec<_> = partitions.iter().filter(|p| self.paused.contains(p)).cloned().collect();
        self.set_paused(&own, false)?;
        self.paused.retain(|p| !own.contains(p));
        Ok(())
    }

    fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.positions.iter().map(|(partition, position)| (partition.clone(), position.committed)).collect()
    }

    /// A static member keeps its partitions for the session time-out, so that a restart moves nothing; then they go to others.
    fn leave(self: Box<Self>) -> Result<(), BusError> {
        Ok(())
    }
}

/// A rebalance that is under way when a consumer is closed may be asked about once more than it is answered, and the answer
/// then waits for ever (librdkafka#4884). A static member does not leave when it closes, and its offsets are in transactions:
/// there is nothing to close for, so the client is destroyed as it stands.
impl Drop for KafkaSession {
    fn drop(&mut self) {
        // SAFETY: the client is alive and used by this thread alone; `consumer` is never dropped or touched again. What rdkafka's
        // wrapper keeps beside the client (a queue handle, the context) stays allocated: some hundred bytes a session.
        unsafe {
            native::rd_kafka_destroy_flags(
                self.consumer.client().native_ptr(),
                native::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE,
            );
        }
    }
}

/// What is left, in whole milliseconds: librdkafka truncates, and less than one would spin.
pub(super) fn whole_millis(until: Instant) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

fn offset_list<'a>(offsets: impl Iterator<Item = (&'a TopicPartition, i64)>) -> Result<TopicPartitionList, BusError> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in offsets {
        list.add_partition_offset(topic, native_partition(*partition), Offset::Offset(offset))
            .map_err(|e| bus_error(format!("kafka: offset of partition {partition} of topic {topic}"), &e))?;
    }
    Ok(list)
}

fn incoming(message: &BorrowedMessage<'_>) -> Incoming {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| (h.key.into(), Bytes::copy_from_slice(h.value.unwrap_or_default()))).collect()
    });
    Incoming {
        topic: message.topic().to_owned(),
        partition: message.partition().unsigned_abs(),
        offset: message.offset(),
        timestamp: Timestamp(message.timestamp().to_millis().unwrap_or_default()),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
    }
}
