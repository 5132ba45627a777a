//! The processor's loop body, and what happens to partitions as they come and go.

use super::Now;
use super::bundles::{BundleError, BundleStore};
use super::fit;
use super::intake::{Codecs, Intake, Taken, Unavailable};
use super::outputs::{OutputError, Publisher};
use super::partition::{Emitted, Partition};
use super::restore::{RestoreError, restore};
use crate::bus::{
    BatchLimit, Bus, BusError, CommitError, Incoming, Membership, Poll, Session, TopicPartition, Transaction,
};
use crate::model::topic::TopicNames;
use crate::model::{InboxRecord, PartitionId, envelope};
use crate::rules::Bundle;
use crate::store::{StoreError, Stores};
use crate::telemetry::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records of one batch: large enough for throughput, small enough that a step stays within milliseconds.
const BATCH: BatchLimit = BatchLimit { records: 2_000, bytes: 4 << 20 };
/// Timers fired for one partition in one turn, and identities swept: a bounded share, behind live traffic.
const TIMERS_A_TURN: usize = 200;
const SWEPT_A_TURN: usize = 50;
/// How often the stores are told that they are current, for the stale-disk rule.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

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
    /// What a process keeps of its state in memory, for all of its partitions.
    pub cache_bytes: usize,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub records: usize,
    /// Something was committed.
    pub committed: bool,
    /// There is more to do at once: due timers, a sweep.
    pub more: bool,
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
    partitions: BTreeMap<u32, Partition>,
    /// Lower bounds of the changelogs' ends: what was there when restored, and one for each record since.
    positions: BTreeMap<u32, i64>,
    touched: Instant,
}

impl Processor {
    /// Makes the bundle current and joins the group.
    #[expect(clippy::too_many_arguments, reason = "the parts that a process is put together from")]
    pub fn start(
        settings: ProcessorSettings,
        bus: Arc<dyn Bus>,
        stores: Arc<dyn Stores>,
        bundle: Arc<Bundle>,
        publisher: Publisher,
        codecs: Arc<Codecs>,
        metrics: Arc<Metrics>,
        now: Now,
    ) -> Result<Self, ProcessorError> {
        let bundles = BundleStore::new(Arc::clone(&bus), settings.topics.clone(), Arc::clone(&bundle));
        if bundles.announce(&bundle, settings.inbox_partitions)? {
            tracing::info!(bundle = %bundle.hash(), "rule bundle made current");
        }
        let intake = Intake::new(&settings, Arc::clone(&bundle), codecs);
        let membership =
            Membership { group: settings.group.clone(), instance: settings.instance.clone(), topics: intake.topics() };
        let session = bus.join(&membership)?;
        Ok(Self {
            settings,
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
            positions: BTreeMap::new(),
            touched: Instant::now(),
        })
    }

    /// True once it has partitions, all of them restored.
    pub fn is_ready(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// One batch: poll, step, commit, and let the stores follow.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, ProcessorError> {
        let wait = self.until_next_timer(wait)?;
        let records = match self.session.poll(BATCH, wait)? {
            Poll::Assigned(partitions) => {
                self.assigned(&partitions)?;
                return Ok(Turn { more: true, ..Turn::default() });
            }
            Poll::Revoked(_) => {
                self.revoked();
                return Ok(Turn { more: true, ..Turn::default() });
            }
            Poll::Batch(records) => records,
        };
        let mut transaction = Transaction::default();
        let mut emitted = Emitted::default();
        let count = records.len();
        let wall = self.now.now();
        for partition in self.partitions.values_mut() {
            partition.tick(wall);
        }
        for record in records {
            transaction.offsets.insert((record.topic.clone(), record.partition), record.offset + 1);
            self.take(record, &mut transaction, &mut emitted)?;
        }
        if count > 0 {
            self.metrics.batch_records.observe(count as f64);
        }
        self.publisher.show(wall);
        let behind = self.partitions.values().filter(|partition| partition.is_behind_its_rules()).count();
        self.metrics.partitions_behind_rules.set(i64::try_from(behind).unwrap_or(i64::MAX));
        let mut more = false;
        for partition in self.partitions.values_mut() {
            more |= partition.fire_timers(TIMERS_A_TURN, &mut emitted)?;
            partition.sweep(SWEPT_A_TURN, &mut emitted)?;
            more |= partition.is_sweeping();
        }
        for (entity, outcome) in &emitted.steps {
            self.metrics.steps_total.of([entity, outcome]).inc();
        }
        self.publisher.publish(&self.bundle, &self.settings, emitted, &mut transaction.outputs)?;
        let changelog = self.settings.topics.state();
        let mut written = BTreeMap::new();
        for (id, partition) in &mut self.partitions {
            let records = partition.changelog(&changelog);
            if !records.is_empty() {
                written.insert(*id, records.len() as i64);
                transaction.outputs.extend(records);
            }
        }
        if transaction.outputs.is_empty() && transaction.offsets.is_empty() {
            self.touch()?;
            return Ok(Turn { records: count, committed: false, more });
        }
        self.commit(transaction, &written)?;
        Ok(Turn { records: count, committed: true, more })
    }

    /// Where it stands in each partition that it reads, by what is committed.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.session.positions()
    }

    /// Leaves the group; everything is committed.
    pub fn stop(self) -> Result<(), ProcessorError> {
        Ok(self.session.leave()?)
    }

    fn commit(&mut self, transaction: Transaction, written: &BTreeMap<u32, i64>) -> Result<(), ProcessorError> {
        let began = Instant::now();
        match self.session.commit(transaction) {
            Ok(()) => {
                self.metrics.commits_total.inc();
                self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
                for (id, records) in written {
                    let position = self.positions.entry(*id).or_default();
                    *position += records;
                    let partition = self.partitions.get_mut(id).expect("only own partitions are written");
                    let writes = partition.settle(*position)?;
                    self.publisher.written(*id, &writes);
                }
                self.publisher.committed();
                Ok(())
            }
            Err(CommitError::Rewound(reason)) => {
                self.metrics.rewinds_total.inc();
                tracing::warn!(reason, "transaction aborted; its records come again");
                // Whether it took place is for the changelog to say, not for what is in memory.
                let own: Vec<u32> = self.partitions.keys().copied().collect();
                self.partitions.clear();
                self.restore(&own)
            }
            Err(CommitError::Bus(error)) => Err(error.into()),
        }
    }

    fn take(
        &mut self,
        record: Incoming,
        transaction: &mut Transaction,
        emitted: &mut Emitted,
    ) -> Result<(), ProcessorError> {
        if record.topic != self.settings.topics.inbox() {
            match self.intake.take(&record, &self.metrics)? {
                Taken::Message(message) => {
                    let output = self.publisher.inbox(&self.settings, &message);
                    let bytes = output.value.as_ref().map_or(0, Vec::len);
                    let most = fit::most_of_event(self.settings.record_bytes);
                    transaction.outputs.push(match bytes <= most {
                        true => output,
                        false => self.intake.too_large(&record, bytes, most, &self.metrics),
                    });
                }
                Taken::Output(output) => transaction.outputs.push(output),
                Taken::Nothing => {}
            }
            return Ok(());
        }
        let Some(partition) = self.partitions.get_mut(&record.partition) else {
            return Err(BusError::Failed {
                doing: format!("taking inbox partition {}", record.partition),
                reason: "a record came for a partition that was never assigned".to_owned(),
            }
            .into());
        };
        match envelope::open::<InboxRecord>(record.value.as_deref().unwrap_or_default()) {
            Ok(InboxRecord::Message(message)) => partition.deliver(message, emitted)?,
            Ok(InboxRecord::Switch { bundle }) => match self.bundles.usable(bundle.as_str())? {
                Some(bundle) => partition.switch(bundle),
                None => partition.refuse(bundle.as_str()),
            },
            Err(error) => {
                // Only Lockstep writes here; whoever else did finds it among the dead letters.
                tracing::error!(topic = record.topic, partition = record.partition, offset = record.offset, %error, "unreadable inbox record");
                transaction.outputs.push(self.intake.unreadable(&record, &error.to_string(), &self.metrics));
            }
        }
        Ok(())
    }

    fn assigned(&mut self, partitions: &[(String, u32)]) -> Result<(), ProcessorError> {
        self.partitions.clear();
        self.publisher.forget();
        let inbox = self.settings.topics.inbox();
        let own: Vec<u32> = partitions.iter().filter(|(topic, _)| *topic == inbox).map(|(_, id)| *id).collect();
        self.restore(&own)?;
        tracing::info!(partitions = self.partitions.len(), "assigned and restored");
        Ok(())
    }

    fn revoked(&mut self) {
        self.partitions.clear();
        self.positions.clear();
        self.publisher.forget();
    }

    fn restore(&mut self, ids: &[u32]) -> Result<(), ProcessorError> {
        let mut stores = BTreeMap::new();
        for id in ids {
            stores.insert(*id, self.stores.open("state", *id)?);
        }
        let (metrics, changelog) = (&self.metrics, self.settings.topics.state());
        let ends = restore(self.bus.as_ref(), &changelog, &mut stores, self.now.now(), |id, remaining| {
            metrics.restore_remaining_records.of([&id.to_string()]).set(remaining);
        })?;
        for (id, store) in stores {
            let bundles = &mut self.bundles;
            let mut partition = Partition::open(
                PartitionId(id),
                self.settings.inbox_partitions,
                self.settings.record_bytes,
                self.settings.cache_bytes / ids.len().max(1),
                store,
                &self.bundle,
                |hash| bundles.usable(hash).map_err(ProcessorError::from),
            )?;
            partition.through_inbox = self.settings.through_inbox;
            self.publisher.restored(&partition)?;
            self.partitions.insert(id, partition);
            self.positions.insert(id, ends[&id]);
        }
        Ok(())
    }

    fn until_next_timer(&self, wait: Duration) -> Result<Duration, ProcessorError> {
        let now = self.now.now();
        let mut wait = wait;
        for partition in self.partitions.values() {
            if partition.is_sweeping() {
                return Ok(Duration::ZERO);
            }
            if let Some(due) = partition.store.next_due()? {
                wait = wait.min(due.since(now));
            }
        }
        Ok(wait)
    }

    fn touch(&mut self) -> Result<(), ProcessorError> {
        if self.touched.elapsed() >= TOUCH_EVERY {
            self.touched = Instant::now();
            let now = self.now.now();
            for partition in self.partitions.values_mut() {
                partition.store.touch(now)?;
            }
        }
        Ok(())
    }
}
