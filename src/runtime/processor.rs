//! The processor's loop body, and what happens to partitions as they come and go.

use super::Now;
use super::backlog::Backlog;
use super::bundles::{Announcement, BundleError, BundleStore};
use super::direct::Direct;
use super::figures::Aside;
use super::fit;
use super::intake::{Codecs, Intake, Taken, Unavailable};
use super::outputs::{OutputError, Publisher};
use super::pace::Pace;
use super::partition::{Partition, is_continue};
use super::place::Place;
use super::restore::{Found, RestoreError, Restored, TOUCH_EVERY, look};
use super::restorer::{Progress, RestoreSettings, Restorer};
use super::work::{self, Given, Hands, Stepped};
use crate::bus::{
    BatchLimit, Bus, BusError, CommitError, Ends, Incoming, Membership, Outgoing, Poll, Session, TopicPartition,
    Transaction,
};
use crate::model::envelope::{self, EnvelopeError};
use crate::model::topic::TopicNames;
use crate::model::{InboxRecord, PartitionId, Timestamp};
use crate::rules::Bundle;
use crate::store::{StoreError, Stores};
use crate::telemetry::Metrics;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records of one batch: large enough for throughput, small enough that a step stays within milliseconds.
const BATCH: BatchLimit = BatchLimit::new(3_000, 6 << 20);
/// Of a batch, what steps at once: what comes of it is sent while the next ones step.
pub const SLICE: usize = 500;
/// Rounds in which partitions hand over what they have for one another. A question takes two; more of them would be a bug: what is
/// left goes through the inbox.
const MOST_ROUNDS: usize = 1_000;
/// Longest wait for records while partitions are restored: how soon one that has come to its end is served.
const RESTORING_WAIT: Duration = Duration::from_millis(20);
/// The same while timers wait for what came in before.
const BACKLOG_WAIT: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("starting the threads of a processor: {0}")]
    Threads(String),
}

#[derive(Clone, Debug)]
pub struct ProcessorSettings {
    pub topics: TopicNames,
    pub group: String,
    pub instance: String,
    pub inbox_partitions: u32,
    /// Largest record that inbox, state, commands and lanes take.
    pub record_bytes: usize,
    /// Largest record that `source-dead-letters` takes.
    pub dead_letter_bytes: usize,
    /// No message is delivered within the transaction that it was sent in: for tests, which compare with one where it is.
    pub through_inbox: bool,
    /// What this loop keeps of its state in memory, for all of its partitions.
    pub cache_bytes: usize,
    pub restore: RestoreSettings,
    /// On which records are decoded and partitions step.
    pub threads: usize,
    /// Records of a batch that step at once: what comes of them is on its way while the next ones do.
    pub slice: usize,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub records: usize,
    /// Something was committed.
    pub committed: bool,
    /// There is more to do, at once or when the backlog is read: due timers, a sweep.
    pub more: bool,
}

/// Behind the records, by partition.
fn offsets_behind(records: &[Incoming]) -> BTreeMap<TopicPartition, i64> {
    // Records of one partition come in runs: the last one's offset is what counts.
    let runs = records.chunk_by(|a, b| a.partition == b.partition && a.topic == b.topic);
    let behind = runs.filter_map(|run| run.last()).map(|last| ((last.topic.clone(), last.partition), last.offset + 1));
    behind.collect()
}

/// A record, read.
enum Opened {
    Own(Box<Result<InboxRecord, EnvelopeError>>),
    Taken(Taken),
}

struct Parked {
    partition: Partition,
    place: Place,
    figures: Aside,
}

pub struct Processor {
    settings: ProcessorSettings,
    bus: Arc<dyn Bus>,
    stores: Arc<dyn Stores>,
    now: Now,
    metrics: Arc<Metrics>,
    bundle: Arc<Bundle>,
    bundles: BundleStore,
    intake: Intake,
    publisher: Publisher,
    session: Box<dyn Session>,
    restorer: Restorer,
    direct: Direct,
    backlog: Backlog,
    hands: Hands,
    /// The group has said which partitions are this processor's; it may be none.
    is_member: bool,
    /// What each partition may keep in memory.
    cache_share: usize,
    partitions: BTreeMap<u32, Partition>,
    /// Of each of them, where its changelog stands.
    places: BTreeMap<u32, Place>,
    /// Given back in a rebalance, and kept as they were until the next assignment: most come again.
    parked: BTreeMap<u32, Parked>,
    pace: Pace,
    /// The last transaction was aborted. What comes again is made whole before it is sent: the time that its making takes is none of
    /// the transaction's then, which may have taken too long.
    rewound: bool,
    touched: Timestamp,
}

impl Processor {
    /// Joins the group and makes the process's bundle current, if it has not said so before.
    #[expect(clippy::too_many_arguments, reason = "the parts that a process is put together from")]
    pub fn start(
        settings: ProcessorSettings,
        bus: Arc<dyn Bus>,
        stores: Arc<dyn Stores>,
        announcement: &mut Announcement,
        publisher: Publisher,
        codecs: Arc<Codecs>,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
        now: Now,
    ) -> Result<Self, ProcessorError> {
        let bundle = Arc::clone(announcement.bundle());
        publisher.prepare(&bundle, &settings)?;
        let hands = Hands::new(settings.threads)?;
        let intake = Intake::new(&settings, Arc::clone(&bundle), codecs);
        let membership =
            Membership { group: settings.group.clone(), instance: settings.instance.clone(), topics: intake.topics() };
        // The group takes its time to settle, and the bundle is made current meanwhile: nothing is read before the first turn.
        let session = bus.join(&membership)?;
        let bundles = BundleStore::new(Arc::clone(&bus), settings.topics.clone(), Arc::clone(&bundle));
        if bundles.announce(announcement, settings.inbox_partitions)? {
            tracing::info!(bundle = %bundle.hash(), "rule bundle made current");
        }
        let changelog = settings.topics.state();
        let restorer =
            Restorer::new(Arc::clone(&bus), changelog, settings.restore, Arc::clone(&metrics), Arc::clone(&progress));
        let direct = Direct::new(Arc::clone(&bus), &settings.topics, !settings.through_inbox);
        let backlog = Backlog::new(Arc::clone(&bus), &settings.topics);
        let touched = now.now();
        Ok(Self {
            settings,
            restorer,
            direct,
            backlog,
            hands,
            is_member: false,
            cache_share: 0,
            bus,
            stores,
            now,
            metrics,
            bundle,
            bundles,
            intake,
            publisher,
            session,
            partitions: BTreeMap::new(),
            places: BTreeMap::new(),
            parked: BTreeMap::new(),
            pace: Pace::new(Instant::now()),
            rewound: false,
            touched,
        })
    }

    /// True once it has its partitions, all of them restored. With more loops than partitions some have none.
    pub fn is_ready(&self) -> bool {
        self.is_member && self.restorer.is_idle()
    }

    /// One batch: poll, step, commit, and let the stores follow.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, ProcessorError> {
        self.take_restored()?;
        self.direct.prepare(self.session.as_mut(), self.now.now())?;
        let wait = self.until_next_timer(wait)?;
        let now = Instant::now();
        let limit = BatchLimit { gather_until: Some(now + self.pace.hold(now)), ..BATCH };
        let records = match self.session.poll(limit, wait)? {
            Poll::Assigned(partitions) => {
                self.assigned(&partitions)?;
                return Ok(Turn { more: true, ..Turn::default() });
            }
            Poll::Revoked(_) => {
                self.revoked()?;
                return Ok(Turn { more: true, ..Turn::default() });
            }
            Poll::Batch(records) => records,
        };
        let count = records.len();
        let mut transaction = Transaction { offsets: offsets_behind(&records), ..Transaction::default() };
        let wall = self.now.now();
        for partition in self.partitions.values_mut() {
            partition.tick(wall);
        }
        let quiet = count == 0 && !self.direct.holds_back() && self.restorer.is_idle();
        self.backlog.look(self.session.as_ref(), quiet, wall);
        if count > 0 {
            self.metrics.batch_records.observe(count as f64);
        }
        let mut stepped: BTreeMap<u32, Stepped> = self.partitions.keys().map(|id| (*id, Stepped::default())).collect();
        // All are read before anything is sent: that may ask the schema registry, and no transaction is open meanwhile.
        let opened = self.open_records(&records)?;
        let mut read = records.into_iter().zip(opened);
        loop {
            let slice: Vec<(Incoming, Opened)> = read.by_ref().take(self.settings.slice).collect();
            let is_last = read.len() == 0;
            let outputs = self.step(slice, is_last, &mut stepped)?;
            transaction.outputs.extend(outputs);
            if is_last {
                break;
            }
            if !self.rewound {
                self.session.send(std::mem::take(&mut transaction.outputs))?;
            }
        }
        let written = self.changelog(count, &mut transaction.outputs);
        transaction.outputs.extend(self.direct.marks());
        self.publisher.show(wall);
        let behind = self.partitions.values().filter(|partition| partition.is_behind_its_rules()).count();
        self.metrics.partitions_behind_rules.set(i64::try_from(behind).unwrap_or(i64::MAX));
        self.metrics.partitions_direct.set(i64::try_from(self.direct.open()).unwrap_or(i64::MAX));
        let mut more = !self.restorer.is_idle();
        for one in stepped.into_values() {
            more |= one.more;
            for ((entity, outcome), count) in one.steps {
                self.metrics.steps_total.of([entity, outcome]).inc_by(count);
            }
            self.publisher.count(one.counted);
        }
        if transaction.outputs.is_empty() && transaction.offsets.is_empty() {
            self.touch(false)?;
            return Ok(Turn { records: count, committed: false, more });
        }
        let committed = self.commit(transaction, &written)?;
        self.touch(committed)?;
        Ok(Turn { records: count, committed: true, more })
    }

    /// Where it stands in each partition that it reads, by what is committed.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.session.positions()
    }

    /// Ends its membership; everything is committed.
    pub fn stop(self) -> Result<(), ProcessorError> {
        Ok(self.session.leave()?)
    }

    /// Whether it took place, and the stores have followed.
    fn commit(&mut self, transaction: Transaction, written: &BTreeMap<u32, i64>) -> Result<bool, ProcessorError> {
        let began = Instant::now();
        match self.session.commit(transaction) {
            Ok(()) => {
                self.rewound = false;
                self.metrics.commits_total.inc();
                let took = began.elapsed();
                self.pace.committed(took, began + took);
                self.metrics.commit_seconds.observe(took.as_secs_f64());
                let mut ends = BTreeMap::new();
                for (id, records) in written {
                    let place = self.places.get_mut(id).expect("only own partitions are written");
                    place.wrote(*records, self.bus.commit_markers());
                    ends.insert(*id, place.next);
                }
                let partitions =
                    self.partitions.iter_mut().filter_map(|(id, partition)| Some((*id, partition, *ends.get(id)?)));
                let records = written.values().sum::<i64>().try_into().unwrap_or(usize::MAX);
                let settled = self.hands.each(
                    partitions.collect(),
                    records,
                    |(id, partition, end): (u32, &mut Partition, i64)| partition.settle(end).map(|writes| (id, writes)),
                );
                for settled in settled {
                    let (id, writes) = settled?;
                    self.publisher.written(id, &writes);
                }
                self.publisher.committed();
                Ok(true)
            }
            Err(CommitError::Rewound(reason)) => {
                self.rewound = true;
                self.publisher.aborted();
                self.metrics.rewinds_total.inc();
                tracing::warn!(reason, "transaction aborted; its records come again");
                // Whether it took place is for the changelog to say, not for what is in memory.
                let own: Vec<u32> = self.partitions.keys().copied().chain(self.restorer.open()).collect();
                self.restorer.stop();
                self.partitions.clear();
                self.places.clear();
                self.direct.begin_anew(self.session.as_mut())?;
                self.take_up(&own)?;
                Ok(false)
            }
            Err(CommitError::Bus(error)) => Err(error.into()),
        }
    }

    /// What is in the records.
    fn open_records(&self, records: &[Incoming]) -> Result<Vec<Opened>, ProcessorError> {
        let (intake, metrics) = (&self.intake, &self.metrics);
        let open = |record: &Incoming| match record.topic == intake.inbox() {
            true => Ok(Opened::Own(Box::new(envelope::open(record.value.as_deref().unwrap_or_default())))),
            false => intake.take(record, metrics).map(Opened::Taken),
        };
        let opened = self.hands.each(records.iter().collect(), records.len(), open);
        Ok(opened.into_iter().collect::<Result<_, Unavailable>>()?)
    }

    /// What the records are for the partitions, in order, and what is put out at once.
    fn take(
        &mut self,
        records: Vec<(Incoming, Opened)>,
        outputs: &mut Vec<Outgoing>,
    ) -> Result<BTreeMap<u32, Vec<Given>>, ProcessorError> {
        let mut given: BTreeMap<u32, Vec<Given>> = BTreeMap::new();
        for (record, opened) in records {
            match opened {
                Opened::Own(own) => {
                    if let Some(one) = self.own(&record, *own, outputs)? {
                        given.entry(record.partition).or_default().push(one);
                    }
                }
                Opened::Taken(Taken::Message(message)) => {
                    let came_bytes = record.value.as_ref().map_or(0, Bytes::len);
                    if let Some(bytes) = fit::excess(&message, came_bytes, self.settings.record_bytes) {
                        let most = fit::most_of_event(self.settings.record_bytes);
                        outputs.extend(self.intake.too_large(&record, bytes, most, &self.metrics));
                        continue;
                    }
                    let to = message.to.routing_key.partition(self.settings.inbox_partitions).0;
                    match self.direct.is_open(to) {
                        true => given.entry(to).or_default().push(Given::Message(message)),
                        false => outputs.push(self.publisher.inbox(&self.settings, &message)),
                    }
                }
                Opened::Taken(Taken::DeadLetter(letter)) => outputs.extend(letter),
                Opened::Taken(Taken::Nothing) => {}
            }
        }
        Ok(given)
    }

    /// A record of the inbox.
    fn own(
        &mut self,
        record: &Incoming,
        own: Result<InboxRecord, EnvelopeError>,
        outputs: &mut Vec<Outgoing>,
    ) -> Result<Option<Given>, ProcessorError> {
        if !self.partitions.contains_key(&record.partition) {
            let reason = match self.restorer.is_open(record.partition) {
                true => "a record came although it is held back until it is restored",
                false => "a record came for a partition that was never assigned",
            };
            return Err(BusError::Failed {
                doing: format!("taking inbox partition {}", record.partition),
                reason: reason.to_owned(),
            }
            .into());
        }
        Ok(match own {
            Ok(InboxRecord::Message(message)) => Some(Given::Message(Box::new(message))),
            Ok(InboxRecord::Switch { bundle }) => Some(match self.bundles.usable(bundle.as_str())? {
                Some(bundle) => Given::Switch(bundle),
                None => Given::Refuse(bundle.as_str().to_owned()),
            }),
            Ok(InboxRecord::Mark) => {
                self.direct.read(record.partition, record.offset);
                None
            }
            Err(error) => {
                // Only Lockstep writes here; whoever else did finds it among the dead letters.
                tracing::error!(topic = record.topic, partition = record.partition, offset = record.offset, %error, "unreadable inbox record");
                outputs.extend(self.intake.unreadable(record, &error.to_string(), &self.metrics));
                None
            }
        })
    }

    /// Lets every partition do what the records ask of it and, behind the last of them, what is due; then, round by round, what
    /// they have for one another. Gives what they put out.
    fn step(
        &mut self,
        records: Vec<(Incoming, Opened)>,
        is_last: bool,
        stepped: &mut BTreeMap<u32, Stepped>,
    ) -> Result<Vec<Outgoing>, ProcessorError> {
        let (mut outputs, count) = (Vec::new(), records.len());
        let mut given = self.take(records, &mut outputs)?;
        let backlog = &self.backlog;
        let partitions = self.partitions.iter_mut().zip(stepped.values_mut());
        let tasks = partitions.map(|((id, partition), so_far)| {
            let given = given.remove(id).unwrap_or_default();
            (partition, given, !backlog.waits(*id), so_far)
        });
        let done = self.hands.each(tasks.collect(), count, |(partition, given, timers, so_far)| {
            work::go_on(partition, given, so_far)?;
            if is_last { work::end(partition, timers, so_far) } else { Ok(()) }
        });
        done.into_iter().collect::<Result<(), ProcessorError>>()?;
        for round in 0.. {
            if round == MOST_ROUNDS {
                self.serve_anew()?;
            }
            let mut handed = self.hand_over(stepped);
            if handed.is_empty() {
                break;
            }
            let messages = handed.values().map(Vec::len).sum();
            let partitions = self.partitions.iter_mut().zip(stepped.values_mut());
            let tasks =
                partitions.filter_map(|((id, partition), so_far)| Some((partition, handed.remove(id)?, so_far)));
            let done = self
                .hands
                .each(tasks.collect(), messages, |(partition, given, so_far)| work::go_on(partition, given, so_far));
            done.into_iter().collect::<Result<(), _>>()?;
        }
        for message in stepped.values().flat_map(|so_far| &so_far.emitted.sends).filter(|message| !is_continue(message))
        {
            self.direct.sent(message.to.routing_key.partition(self.settings.inbox_partitions).0);
        }
        let place = work::Place { publisher: &self.publisher, bundle: &self.bundle, settings: &self.settings };
        let published = self.hands.each(stepped.values_mut().collect(), count, |so_far| place.publish(so_far));
        for records in published {
            outputs.extend(records?);
        }
        Ok(outputs)
    }

    /// Adds the changelog records of the batch; gives how many there are of each partition that has some.
    fn changelog(&mut self, records: usize, outputs: &mut Vec<Outgoing>) -> BTreeMap<u32, i64> {
        let topic = self.settings.topics.state();
        let partitions = self.partitions.iter_mut().collect();
        let made = self
            .hands
            .each(partitions, records, |(id, partition): (&u32, &mut Partition)| (*id, partition.changelog(&topic)));
        let mut written = BTreeMap::new();
        for (id, records) in made {
            if !records.is_empty() {
                written.insert(id, records.len() as i64);
                outputs.extend(records);
            }
        }
        written
    }

    /// What the partitions have for one another, out of what they send: the rest goes through the inbox.
    fn hand_over(&self, stepped: &mut BTreeMap<u32, Stepped>) -> BTreeMap<u32, Vec<Given>> {
        let mut handed: BTreeMap<u32, Vec<Given>> = BTreeMap::new();
        for so_far in stepped.values_mut() {
            for message in std::mem::take(&mut so_far.emitted.sends) {
                let to = message.to.routing_key.partition(self.settings.inbox_partitions).0;
                match self.direct.is_open(to) && !is_continue(&message) {
                    true => handed.entry(to).or_default().push(Given::Message(Box::new(message))),
                    false => so_far.emitted.sends.push(message),
                }
            }
        }
        handed
    }

    /// All that comes in, and all that is sent, takes the way through the inbox until it is opened again.
    fn serve_anew(&mut self) -> Result<(), ProcessorError> {
        self.direct.begin_anew(self.session.as_mut())?;
        self.partitions.keys().for_each(|id| self.direct.serve(*id));
        Ok(())
    }

    fn assigned(&mut self, partitions: &[(String, u32)]) -> Result<(), ProcessorError> {
        let inbox = self.settings.topics.inbox();
        let own: Vec<u32> = partitions.iter().filter(|(topic, _)| *topic == inbox).map(|(_, id)| *id).collect();
        self.restorer.stop();
        self.partitions.clear();
        self.places.clear();
        self.publisher.forget();
        self.direct.forget();
        self.is_member = true;
        self.take_up(&own)?;
        self.backlog.begin(self.session.as_ref(), self.now.now());
        Ok(())
    }

    /// What is in memory is kept until it is known who has the partitions next. Nothing is stepped meanwhile.
    fn revoked(&mut self) -> Result<(), ProcessorError> {
        self.metrics.partitions_revoked_total.inc_by((self.partitions.len() + self.restorer.open().count()) as u64);
        self.restorer.stop();
        self.is_member = false;
        for (id, partition) in std::mem::take(&mut self.partitions) {
            let figures = self.publisher.set_aside(id);
            let place = self.places.remove(&id).expect("a partition has a place");
            self.parked.insert(id, Parked { partition, place, figures });
        }
        self.publisher.forget();
        self.direct.forget();
        Ok(())
    }

    /// Makes these partitions this processor's. Where nobody has written to the changelog since, what is in memory or in the
    /// store goes on at once; the others are held back until they are restored.
    fn take_up(&mut self, own: &[u32]) -> Result<(), ProcessorError> {
        let (changelog, now) = (self.settings.topics.state(), self.now.now());
        let mut parked = std::mem::take(&mut self.parked);
        let (mut kept, mut current, mut behind) = (0, Vec::new(), Vec::new());
        self.cache_share = self.settings.cache_bytes / own.len().max(1);
        for id in own {
            if let Some(Parked { mut partition, place, figures }) = parked.remove(id)
                && partition.store.is_owner()
                && place.is_end(self.bus.ends(&changelog, *id)?.end)
            {
                kept += 1;
                partition.resize_cache(self.cache_share);
                self.publisher.take_back(*id, figures);
                self.serve(*id, partition, place);
                continue;
            }
            let store = self.stores.open("state", *id)?;
            match look(self.bus.as_ref(), &changelog, *id, store, now)? {
                Found::Current(restored) => current.push(restored),
                Found::Behind(one) => behind.push(one),
            }
        }
        drop(parked);
        let (held, served): (Vec<u32>, Vec<u32>) =
            own.iter().partition(|id| behind.iter().any(|one| one.partition == **id));
        let inbox = self.settings.topics.inbox();
        let of_inbox =
            |ids: Vec<u32>| -> Vec<TopicPartition> { ids.into_iter().map(|id| (inbox.clone(), id)).collect() };
        self.session.pause(&of_inbox(held))?;
        // Held back before a transaction was aborted, and restored by then.
        self.session.resume(&of_inbox(served))?;
        tracing::info!(kept, current = current.len(), behind = behind.len(), "partitions taken up");
        self.metrics.partitions_taken_total.of(["kept"]).inc_by(kept);
        self.metrics.partitions_taken_total.of(["current"]).inc_by(current.len() as u64);
        self.metrics.partitions_taken_total.of(["replayed"]).inc_by(behind.len() as u64);
        for restored in current {
            self.open(restored)?;
        }
        Ok(self.restorer.begin(behind, now)?)
    }

    /// Serves those that were restored meanwhile.
    fn take_restored(&mut self) -> Result<(), ProcessorError> {
        for restored in self.restorer.restored()? {
            let id = restored.partition;
            self.open(restored)?;
            self.backlog.expect(id, self.now.now());
            self.session.resume(&[(self.settings.topics.inbox(), id)])?;
        }
        Ok(())
    }

    fn open(&mut self, restored: Restored) -> Result<(), ProcessorError> {
        let Restored { partition: id, store, end, .. } = restored;
        let bundles = &mut self.bundles;
        let mut partition = Partition::open(
            PartitionId(id),
            self.settings.inbox_partitions,
            self.settings.record_bytes,
            self.cache_share,
            store,
            &self.bundle,
            |hash| bundles.usable(hash).map_err(ProcessorError::from),
        )?;
        partition.through_inbox = self.settings.through_inbox;
        self.publisher.restored(&partition)?;
        self.serve(id, partition, Place::at(end));
        Ok(())
    }

    fn serve(&mut self, id: u32, partition: Partition, place: Place) {
        self.partitions.insert(id, partition);
        self.places.insert(id, place);
        self.direct.serve(id);
    }

    fn until_next_timer(&self, wait: Duration) -> Result<Duration, ProcessorError> {
        let now = self.now.now();
        let mut wait = if self.restorer.is_idle() { wait } else { wait.min(RESTORING_WAIT) };
        for (id, partition) in &self.partitions {
            if self.backlog.waits(*id) {
                wait = wait.min(BACKLOG_WAIT);
                continue;
            }
            if partition.is_sweeping() {
                return Ok(Duration::ZERO);
            }
            if let Some(due) = partition.store.next_due()? {
                wait = wait.min(due.since(now));
            }
        }
        Ok(wait)
    }

    /// `committed`: a moment ago the brokers took this process for the owner of its partitions. Otherwise their changelogs are
    /// looked at: one that was stopped for days and does not know it yet must not take an outdated store for a current one.
    fn touch(&mut self, committed: bool) -> Result<(), ProcessorError> {
        let now = self.now.now();
        if now.since(self.touched) < TOUCH_EVERY {
            return Ok(());
        }
        self.touched = now;
        let changelog = self.settings.topics.state();
        for (id, partition) in &mut self.partitions {
            let is_end = |ends: Ends| self.places.get(id).is_some_and(|place| place.is_end(ends.end));
            // Brokers that can't be asked now are asked the next time.
            if committed || self.bus.ends(&changelog, *id).is_ok_and(is_end) {
                partition.store.touch(now)?;
            }
        }
        Ok(())
    }
}
