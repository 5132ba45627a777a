//! The lane loop: a target's commands into lanes, lanes into calls, results and rows into one transaction.

use crate::bus::{
    BatchLimit, Bus, BusError, CommitError, Incoming, Membership, Outgoing, Poll, Session, TopicPartition, Transaction,
};
use crate::codec::public::{Public, PublicCodec, PublicError};
use crate::codec::source::{self, Reason, Rejection};
use crate::lane::{Accepted, Breaker, Call, Ended, Lane, LaneEffect, RetryPolicy};
use crate::model::topic::TopicNames;
use crate::model::{AccountId, Command, ResultEvent, TargetName, Timestamp, envelope};
use crate::rules::PublicFormat;
use crate::runtime::{Now, restore};
use crate::store::{Store, StoreError, Stores, Write};
use crate::telemetry::Metrics;
use crate::worker::agenda::{Agenda, Due};
use crate::worker::call::Newest;
use crate::worker::lost;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands read ahead of the calls in one turn: they cost a row each, and coalesce.
const BATCH: BatchLimit = BatchLimit::new(1_000, 4 << 20);
/// Rows looked through at once when a partition is taken up.
const SCAN: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Restore(#[from] crate::runtime::RestoreError),
    #[error("encoding for topic {topic}: {error}")]
    Codec { topic: String, error: PublicError },
    #[error("topic {topic}: {error}")]
    Unavailable { topic: String, error: PublicError },
}

#[derive(Clone, Debug)]
pub struct LaneSettings {
    pub topics: TopicNames,
    pub target: TargetName,
    pub group: String,
    pub instance: String,
    pub format: PublicFormat,
    pub policy: RetryPolicy,
    /// Calls under way at once.
    pub concurrency: usize,
    /// Largest record that `source-dead-letters` takes.
    pub dead_letter_bytes: usize,
}

/// Which call of which assignment: what comes back for a partition that has gone since is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId {
    assignment: u64,
    partition: u32,
    account: AccountId,
}

/// A call that may be made now: the row that says so is committed.
#[derive(Clone, Debug)]
pub struct StartedCall {
    pub id: CallId,
    pub call: Call,
    /// Just before that row was committed.
    pub began: Instant,
}

#[derive(Clone, Debug)]
pub struct Completion {
    pub id: CallId,
    pub ended: Ended,
}

struct LanePartition {
    store: Box<dyn Store>,
    /// A lower bound of the changelog's end.
    position: i64,
    agenda: Agenda,
}

/// A lane that taking its partition up has changed, to be written.
struct Reckoned {
    lane: Lane,
    /// Of a command that was overtaken while the process that ran it went away.
    overtaken: Option<Box<ResultEvent>>,
}

pub struct LaneLoop {
    settings: LaneSettings,
    bus: Arc<dyn Bus>,
    stores: Arc<dyn Stores>,
    codec: Arc<PublicCodec>,
    metrics: Arc<Metrics>,
    now: Now,
    newest: Arc<Newest>,
    session: Box<dyn Session>,
    partitions: BTreeMap<u32, LanePartition>,
    assignment: u64,
    in_flight: BTreeSet<CallId>,
    /// Ended calls whose result is not committed yet.
    completions: Vec<Completion>,
    /// Lanes that ran, or whose rows could not be read.
    reckoned: BTreeMap<(u32, AccountId), Reckoned>,
    breaker: Breaker,
    /// No new calls: the worker is about to stop.
    holding_back: bool,
}

/// What one turn is to commit.
#[derive(Default)]
struct Work {
    transaction: Transaction,
    rows: BTreeMap<(u32, AccountId), Lane>,
    started: Vec<StartedCall>,
}

impl LaneLoop {
    pub fn start(
        settings: LaneSettings,
        bus: Arc<dyn Bus>,
        stores: Arc<dyn Stores>,
        codec: Arc<PublicCodec>,
        metrics: Arc<Metrics>,
        newest: Arc<Newest>,
        now: Now,
    ) -> Result<Self, WorkerError> {
        let membership = Membership {
            group: settings.group.clone(),
            instance: settings.instance.clone(),
            topics: vec![settings.topics.commands(&settings.target)],
        };
        let session = bus.join(&membership)?;
        Ok(Self {
            settings,
            bus,
            stores,
            codec,
            metrics,
            now,
            newest,
            session,
            partitions: BTreeMap::new(),
            assignment: 0,
            in_flight: BTreeSet::new(),
            completions: Vec::new(),
            reckoned: BTreeMap::new(),
            breaker: Breaker::default(),
            holding_back: false,
        })
    }

    pub fn is_ready(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// Where it stands in each partition that it reads, by what is committed.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.session.positions()
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Lanes with something to do now or later, not counting later looks.
    pub fn waiting(&self) -> usize {
        self.partitions.values().map(|partition| partition.agenda.open()).sum()
    }

    /// Lanes whose newest command has not been tried yet, or is being tried. What failed and waits for another try is not
    /// among them.
    pub fn unsettled(&self) -> usize {
        self.partitions.values().map(|partition| partition.agenda.unsettled()).sum()
    }

    /// Whether to start no further call, because the worker is about to stop.
    pub fn hold_back(&mut self, holding_back: bool) {
        self.holding_back = holding_back;
    }

    /// One turn: ended calls and new commands in, results and rows committed, calls to be made out.
    pub fn turn(&mut self, ended: Vec<Completion>, wait: Duration) -> Result<Vec<StartedCall>, WorkerError> {
        self.completions.extend(ended);
        let wait = if self.completions.is_empty() { self.until_due(wait) } else { Duration::ZERO };
        let records = match self.session.poll(BATCH, wait)? {
            Poll::Assigned(partitions) => {
                self.assigned(&partitions)?;
                Vec::new()
            }
            Poll::Revoked(_) => {
                self.revoked();
                Vec::new()
            }
            Poll::Batch(records) => records,
        };
        let now = self.now.now();
        let mut work = Work::default();
        self.report(&mut work)?;
        self.finish(&mut work, now)?;
        for record in records {
            work.transaction.offsets.insert((record.topic.clone(), record.partition), record.offset + 1);
            self.accept(record, &mut work, now)?;
        }
        self.choose(&mut work, now)?;
        let started = self.commit(work)?;
        self.show();
        Ok(started)
    }

    /// Ends its membership. Calls still under way are the next owner's to find out about.
    pub fn stop(self) -> Result<(), WorkerError> {
        Ok(self.session.leave()?)
    }

    /// What taking partitions up has brought.
    fn report(&mut self, work: &mut Work) -> Result<(), WorkerError> {
        for ((partition, account), Reckoned { lane, overtaken }) in std::mem::take(&mut self.reckoned) {
            if let Some(result) = overtaken {
                let output = self.effect(&account, LaneEffect::Result(result))?;
                work.transaction.outputs.push(output);
            }
            self.set_lane(work, partition, account, lane);
        }
        Ok(())
    }

    fn finish(&mut self, work: &mut Work, now: Timestamp) -> Result<(), WorkerError> {
        for completion in std::mem::take(&mut self.completions) {
            if completion.id.assignment != self.assignment || !self.in_flight.contains(&completion.id) {
                continue;
            }
            match &completion.ended {
                Ended::Verified { .. } | Ended::Differs { .. } => self.breaker.succeeded(),
                Ended::Failed { class, .. } => self.breaker.failed(*class, now),
                Ended::Superseded => self.breaker.told_nothing(),
            }
            let CallId { partition, account, .. } = completion.id.clone();
            let mut lane = self.lane(work, partition, &account)?;
            for effect in lane.finish(completion.ended.clone(), now, &self.settings.policy) {
                let output = self.effect(&account, effect)?;
                work.transaction.outputs.push(output);
            }
            self.set_lane(work, partition, account, lane);
            self.completions.push(completion);
        }
        Ok(())
    }

    fn accept(&mut self, record: Incoming, work: &mut Work, now: Timestamp) -> Result<(), WorkerError> {
        let command = match self.codec.decode::<Command>(record.value.as_deref().unwrap_or_default()) {
            Ok(command) if command.target == self.settings.target => command,
            Ok(_) => return self.reject(&record, "it is for another target", work),
            Err(error) if error.is_transient() => {
                return Err(WorkerError::Unavailable { topic: record.topic, error });
            }
            Err(error) => return self.reject(&record, &error.to_string(), work),
        };
        let account = command.account.clone();
        let mut lane = self.lane(work, record.partition, &account)?;
        let generation = command.generation;
        match lane.accept(Box::new(command), now) {
            Accepted::Stale => return Ok(()),
            Accepted::Ready => {}
            Accepted::Superseding(result) => {
                let output = self.effect(&account, LaneEffect::Result(result))?;
                work.transaction.outputs.push(output);
            }
        }
        if lane.is_running() {
            self.newest.insert(account.clone(), generation);
        }
        self.set_lane(work, record.partition, account, lane);
        Ok(())
    }

    fn reject(&self, record: &Incoming, detail: &str, work: &mut Work) -> Result<(), WorkerError> {
        tracing::error!(
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            detail,
            "unusable command"
        );
        let topic = self.settings.topics.source_dead_letters();
        let rejection = Rejection { reason: Reason::Unreadable, detail: detail.to_owned() };
        let letter = source::dead_letter(&topic, record, &rejection, self.settings.dead_letter_bytes);
        work.transaction.outputs.extend(letter);
        Ok(())
    }

    /// Marks the calls to be made: the most urgent lanes that are due, as many as concurrency and breaker allow.
    fn choose(&mut self, work: &mut Work, now: Timestamp) -> Result<(), WorkerError> {
        let finished = self.completions.len();
        let free = self.settings.concurrency.saturating_sub(self.in_flight.len().saturating_sub(finished));
        let free = if self.holding_back { 0 } else { self.breaker.allows(free, now) };
        if free == 0 {
            return Ok(());
        }
        let agendas = self.partitions.iter().map(|(id, partition)| (*id, &partition.agenda));
        let due: Vec<(Due, u32)> = if self.breaker.is_open() {
            let tries = agendas.filter_map(|(id, agenda)| agenda.to_try(now).map(|(calls, due)| (calls, due, id)));
            tries.min().map(|(_, due, id)| (due.clone(), id)).into_iter().collect()
        } else {
            let mut due: Vec<(&Due, u32)> =
                agendas.flat_map(|(id, agenda)| agenda.due(now, free).map(move |due| (due, id))).collect();
            due.sort();
            due.into_iter().take(free).map(|(due, id)| (due.clone(), id)).collect()
        };
        for ((_, _, account), partition) in due {
            let mut lane = self.lane(work, partition, &account)?;
            let Some(call) = lane.start(now) else { continue };
            self.newest.insert(account.clone(), lane.seen);
            let id = CallId { assignment: self.assignment, partition, account: account.clone() };
            self.set_lane(work, partition, account, lane);
            work.started.push(StartedCall { id, call, began: Instant::now() });
            self.breaker.started();
        }
        Ok(())
    }

    fn commit(&mut self, mut work: Work) -> Result<Vec<StartedCall>, WorkerError> {
        if work.rows.is_empty() && work.transaction.outputs.is_empty() && work.transaction.offsets.is_empty() {
            self.completions.clear();
            return Ok(Vec::new());
        }
        let changelog = self.settings.topics.lanes(&self.settings.target);
        let mut writes: BTreeMap<u32, Vec<Write>> = BTreeMap::new();
        for ((partition, account), lane) in &work.rows {
            let (key, value) = (account.0.as_bytes().to_vec(), Some(envelope::seal(lane)));
            work.transaction.outputs.push(Outgoing {
                topic: changelog.clone(),
                partition: Some(*partition),
                key: Some(key.clone()),
                value: value.clone().map(Into::into),
                headers: Vec::new(),
            });
            writes.entry(*partition).or_default().push(Write { key, value: value.map(Into::into), timer: None });
        }
        match self.session.commit(work.transaction) {
            Ok(()) => {}
            Err(CommitError::Rewound(reason)) => {
                self.metrics.rewinds_total.inc();
                self.breaker.told_nothing();
                tracing::warn!(target_name = %self.settings.target, reason, "transaction aborted; its records come again");
                // Ended calls stay in `completions` and are taken in again from the rows as they were.
                let own: Vec<u32> = self.partitions.keys().copied().collect();
                self.take_up(&own)?;
                return Ok(Vec::new());
            }
            Err(CommitError::Bus(error)) => return Err(error.into()),
        }
        self.metrics.commits_total.inc();
        for (id, writes) in writes {
            let partition = self.partitions.get_mut(&id).expect("only own partitions are written");
            partition.position += writes.len() as i64;
            partition.store.apply(&writes, partition.position)?;
        }
        for completion in std::mem::take(&mut self.completions) {
            self.in_flight.remove(&completion.id);
            let starts = |started: &StartedCall| started.id == completion.id;
            if !work.started.iter().any(starts) {
                self.newest.remove(&completion.id.account);
            }
        }
        self.in_flight.extend(work.started.iter().map(|started| started.id.clone()));
        Ok(work.started)
    }

    fn lane(&self, work: &Work, partition: u32, account: &AccountId) -> Result<Lane, WorkerError> {
        let Some(held) = self.partitions.get(&partition) else {
            return Err(BusError::Failed {
                doing: format!("taking a command of partition {partition}"),
                reason: "a record came for a partition that was never assigned".to_owned(),
            }
            .into());
        };
        if let Some(lane) = work.rows.get(&(partition, account.clone())) {
            return Ok(lane.clone());
        }
        let Some(row) = held.store.get(account.0.as_bytes())? else { return Ok(Lane::default()) };
        // What stands in no log either starts anew with its next command: see `find_lost`.
        Ok(envelope::open(&row).unwrap_or_default())
    }

    fn set_lane(&mut self, work: &mut Work, partition: u32, account: AccountId, lane: Lane) {
        let held = self.partitions.get_mut(&partition).expect("its lane was just looked up there");
        held.agenda.set(&account, &lane);
        work.rows.insert((partition, account), lane);
    }

    fn effect(&self, account: &AccountId, effect: LaneEffect) -> Result<Outgoing, WorkerError> {
        let dead_letters = self.settings.topics.dead_letters(&self.settings.target);
        match effect {
            LaneEffect::Result(result) => {
                let labels = [result.tenant.as_str(), result.target.as_str(), result.outcome.as_str()];
                self.metrics.results_total.of(labels).inc();
                self.encode(self.settings.topics.results(), account, result.as_ref())
            }
            LaneEffect::DeadLetter(letter) => self.encode(dead_letters, account, letter.as_ref()),
            LaneEffect::DeadLetterOver => Ok(Outgoing {
                topic: dead_letters,
                partition: None,
                key: Some(account.0.as_bytes().to_vec()),
                value: None,
                headers: Vec::new(),
            }),
        }
    }

    fn encode<T: Public>(&self, topic: String, account: &AccountId, of: &T) -> Result<Outgoing, WorkerError> {
        match self.codec.encode(self.settings.format, &topic, of) {
            Ok(encoded) => Ok(Outgoing {
                topic,
                partition: None,
                key: Some(account.0.as_bytes().to_vec()),
                value: Some(encoded.value.into()),
                headers: encoded.headers,
            }),
            Err(error) => Err(WorkerError::Codec { topic, error }),
        }
    }

    fn assigned(&mut self, partitions: &[(String, u32)]) -> Result<(), WorkerError> {
        self.revoked();
        self.take_up(&partitions.iter().map(|(_, partition)| *partition).collect::<Vec<_>>())?;
        tracing::info!(target_name = %self.settings.target, partitions = partitions.len(), waiting = self.waiting(), "assigned and restored");
        Ok(())
    }

    fn revoked(&mut self) {
        self.assignment += 1;
        self.breaker.told_nothing();
        self.partitions.clear();
        self.in_flight.clear();
        self.completions.clear();
        self.reckoned.clear();
        self.newest.clear();
    }

    /// Reads the lanes of partitions back.
    fn take_up(&mut self, ids: &[u32]) -> Result<(), WorkerError> {
        let target = &self.settings.target;
        let mut stores = BTreeMap::new();
        self.reckoned.retain(|(partition, _), _| !ids.contains(partition));
        for id in ids {
            self.partitions.remove(id);
            stores.insert(*id, self.stores.open(&format!("lanes.{target}"), *id)?);
        }
        let changelog = self.settings.topics.lanes(target);
        for restored in restore(self.bus.as_ref(), &changelog, stores, self.now.now())? {
            self.open_partition(restored.partition, restored.store, restored.end)?;
        }
        Ok(())
    }

    /// What ran, and runs in this process no more, is reckoned as unknown.
    fn open_partition(&mut self, id: u32, store: Box<dyn Store>, position: i64) -> Result<(), WorkerError> {
        let mut partition = LanePartition { store, position, agenda: Agenda::default() };
        let (mut from, mut lost) = (Vec::new(), BTreeSet::new());
        loop {
            let rows = partition.store.scan(&[], &from, SCAN)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, row) in rows {
                let account = AccountId(String::from_utf8_lossy(&key).into_owned().into());
                let mut lane: Lane = match envelope::open(&row) {
                    Ok(lane) => lane,
                    Err(error) => {
                        tracing::error!(target_name = %self.settings.target, %account, %error, "a lane's row can't be read");
                        lost.insert(account);
                        continue;
                    }
                };
                let call = CallId { assignment: self.assignment, partition: id, account: account.clone() };
                if lane.is_running() && !self.in_flight.contains(&call) {
                    let overtaken = lane.restore(self.now.now(), self.settings.policy.call_timeout);
                    partition.agenda.set(&account, &lane);
                    self.reckoned.insert((id, account), Reckoned { lane, overtaken });
                } else {
                    partition.agenda.set(&account, &lane);
                }
            }
        }
        if !lost.is_empty() {
            self.find_lost(id, &mut partition, lost)?;
        }
        self.partitions.insert(id, partition);
        Ok(())
    }

    /// Lanes that can't be read go on from what the log holds of their commands.
    fn find_lost(
        &mut self,
        id: u32,
        partition: &mut LanePartition,
        lost: BTreeSet<AccountId>,
    ) -> Result<(), WorkerError> {
        let target = &self.settings.target;
        tracing::warn!(target_name = %target, partition = id, lanes = lost.len(), "reading the commands of lanes that can't be read");
        let topic = self.settings.topics.commands(target);
        let until = self.session.positions().get(&(topic.clone(), id)).copied().unwrap_or_default();
        let (bus, codec) = (self.bus.as_ref(), self.codec.as_ref());
        let log = lost::Log { bus, codec, target, topic: &topic, partition: id, until };
        let mut found = lost::lanes(&log, &lost, self.now.now(), self.settings.policy.call_timeout)?;
        tracing::warn!(target_name = %target, partition = id, found = found.len(), not_found = lost.len() - found.len(),
            "lanes that were found go on from there, the others start anew with their next command");
        for account in lost {
            let lane = found.remove(&account).unwrap_or_default();
            partition.agenda.set(&account, &lane);
            self.reckoned.insert((id, account), Reckoned { lane, overtaken: None });
        }
        Ok(())
    }

    /// How long until something is to be done, at most `wait`.
    fn until_due(&self, wait: Duration) -> Duration {
        if self.in_flight.len() >= self.settings.concurrency || self.breaker.is_trying() {
            return wait;
        }
        let now = self.now.now();
        let first = self.partitions.values().filter_map(|partition| partition.agenda.next_due()).min();
        let due = first.map(|due| self.breaker.until().map_or(due, |until| until.max(due)));
        due.map_or(wait, |due| wait.min(due.since(now)))
    }

    fn show(&self) {
        let target = self.settings.target.as_str();
        self.metrics.breaker_open.of([target]).set(i64::from(self.breaker.is_open()));
        self.metrics.lanes.of([target, "waiting"]).set(self.waiting() as i64);
        self.metrics.lanes.of([target, "running"]).set(self.in_flight.len() as i64);
    }
}
