//! One transactional producer: writes records, and offsets with them, all or nothing.
//!
//! Every way in which librdkafka can fail ends in one of four outcomes (`WriteError`). librdkafka lacks KIP-890
//! (librdkafka#5423): where the outcome of a commit can't be known the producer is dropped, and a new one of the same id
//! settles it by initialising, as the coordinator then completes or aborts what was open.

use super::client::{Delivery, TRANSACTION_TIMEOUT, describe, native_partition};
use super::watchdog::Watchdog;
use crate::bus::{BusError, Outgoing};
use rdkafka::TopicPartitionList;
use rdkafka::bindings;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaRespErr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of one transactional call; above the transaction's own time-out, so that the coordinator's answer comes first.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// Calls for one step, the first included: with their pauses they end before the watchdog bites.
const ATTEMPTS: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long records may take to be acknowledged: their own time-out is 9 s, and then they fail.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(11);
/// One step of the native flush; failures are looked at in between.
const FLUSH_STEP_MS: i32 = 100;

/// What became of a transaction that was not committed for sure.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing of it is visible, and the writer can go on.
    Aborted(String),
    /// Nothing of it is visible, but the writer is of no use any more: open a new one.
    Broken(String),
    /// It may be visible or not. Open a new writer of the same id, which settles it; then look.
    Unknown(String),
    /// Another process has taken this id.
    Fenced(String),
}

/// Offsets that go with the records, and the member whose generation they are checked against.
pub(super) struct Offsets<'a> {
    pub(super) list: &'a TopicPartitionList,
    pub(super) member: &'a ConsumerGroupMetadata,
    /// Whether the member's partitions are known to be gone.
    pub(super) lost: &'a dyn Fn() -> bool,
}

pub(super) struct Writer {
    producer: BaseProducer<Delivery>,
    watchdog: Arc<Watchdog>,
}

impl Writer {
    /// Takes the transactional id: what an earlier holder left open is aborted, and the holder fenced.
    pub(super) fn open(config: &ClientConfig, watchdog: Arc<Watchdog>) -> Result<Self, BusError> {
        let doing = || "kafka: opening a transactional producer".to_owned();
        let failed = |e: &KafkaError| super::client::bus_error(doing(), e);
        let producer: BaseProducer<Delivery> =
            config.create_with_context(Delivery::default()).map_err(|e| failed(&e))?;
        let writer = Self { producer, watchdog };
        match writer.call("init_transactions", |p| p.init_transactions(CALL_TIMEOUT)) {
            Ok(()) => Ok(writer),
            Err(e) if is_fenced(&e) => Err(BusError::Fenced(describe(&e))),
            Err(e) => Err(failed(&e)),
        }
    }

    /// One transaction.
    pub(super) fn write(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>) -> Result<(), WriteError> {
        let begun = Instant::now();
        match self.transact(records, offsets) {
            // The coordinator fences whom it has timed out just as one whose place was taken. Opening anew tells: if another
            // has this name, the consumer is fenced as well.
            Err(WriteError::Fenced(reason)) if begun.elapsed() >= TRANSACTION_TIMEOUT => {
                Err(WriteError::Unknown(format!("the transaction took longer than the coordinator waits: {reason}")))
            }
            result => result,
        }
    }

    fn transact(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>) -> Result<(), WriteError> {
        self.producer.context().take_failure();
        self.producer.begin_transaction().map_err(|e| before_commit(&e))?;
        if let Err(error) = self.fill(records, offsets) {
            return Err(self.abandon(error));
        }
        match self.call("commit_transaction", |p| p.commit_transaction(CALL_TIMEOUT)) {
            Ok(()) => Ok(()),
            Err(e) if is_fenced(&e) => Err(WriteError::Fenced(describe(&e))),
            Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                Err(self.abandon(WriteError::Aborted(describe(&KafkaError::Transaction(e)))))
            }
            Err(e) => Err(WriteError::Unknown(describe(&e))),
        }
    }

    /// Serves log lines and reports; a producer that nobody polls gathers them.
    pub(super) fn idle(&self) {
        self.producer.poll(Duration::ZERO);
    }

    fn fill(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>) -> Result<(), WriteError> {
        let until = Instant::now() + FLUSH_TIMEOUT;
        for record in records {
            self.send(record, until)?;
        }
        self.flush(until)?;
        if let Some(offsets) = offsets {
            let lost = || WriteError::Aborted("this member's partitions were given to another".into());
            if (offsets.lost)() {
                return Err(lost());
            }
            self.call("send_offsets_to_transaction", |p| {
                p.send_offsets_to_transaction(offsets.list, offsets.member, CALL_TIMEOUT)
            })
            .map_err(|e| before_commit(&e))?;
            if (offsets.lost)() {
                return Err(lost());
            }
        }
        Ok(())
    }

    fn send(&self, record: &Outgoing, until: Instant) -> Result<(), WriteError> {
        let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&record.topic);
        next.key = record.key.as_deref();
        next.payload = record.value.as_deref();
        next.partition = record.partition.map(native_partition);
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            next.headers =
                Some(record.headers.iter().fold(headers, |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value.as_slice()) })
                }));
        }
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < until => {
                    self.producer.poll(Duration::from_millis(1));
                    if let Some(failure) = self.producer.context().take_failure() {
                        return Err(WriteError::Aborted(failure));
                    }
                    next = back;
                }
                Err((e, _)) => {
                    return Err(WriteError::Aborted(format!("topic {}: {}", record.topic, describe(&e))));
                }
            }
        }
    }

    /// Waits until every record is acknowledged. rdkafka's own flush (which commit_transaction begins with) waits in steps of
    /// 100 ms that don't end early; librdkafka's ends with the last acknowledgement, and ignores linger.ms. It needs no
    /// polling beside it as only failures are reported; a failure counts as in flight until it is polled.
    fn flush(&self, until: Instant) -> Result<(), WriteError> {
        self.watchdog.watch("flush", || {
            loop {
                // SAFETY: the handle belongs to `self.producer`, which lives through the call; rd_kafka_flush only reads it
                // and may be called from any thread.
                let result = unsafe { bindings::rd_kafka_flush(self.producer.client().native_ptr(), FLUSH_STEP_MS) };
                self.producer.poll(Duration::ZERO);
                if let Some(failure) = self.producer.context().take_failure() {
                    return Err(WriteError::Aborted(failure));
                }
                if result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return Ok(());
                }
                if Instant::now() >= until {
                    return Err(WriteError::Aborted("the brokers did not acknowledge the records in time".into()));
                }
            }
        })
    }

    /// Aborts, if the error lets it, and says what is left.
    fn abandon(&self, error: WriteError) -> WriteError {
        let WriteError::Aborted(reason) = error else { return error };
        // Purged records are reported as failures, and the abort waits until somebody polls them away.
        let done = AtomicBool::new(false);
        let aborted = std::thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    self.producer.poll(Duration::from_millis(10));
                }
            });
            let aborted = self.call("abort_transaction", |p| p.abort_transaction(CALL_TIMEOUT));
            done.store(true, Ordering::SeqCst);
            aborted
        });
        self.producer.context().take_failure();
        match aborted {
            Ok(()) => WriteError::Aborted(reason),
            Err(e) if is_fenced(&e) => WriteError::Fenced(describe(&e)),
            // Nothing was committed, and the next holder of the id aborts it.
            Err(e) => WriteError::Broken(format!("{reason}; aborting: {}", describe(&e))),
        }
    }

    /// A transactional call under watch, again while librdkafka says that it may be.
    fn call(&self, name: &'static str, call: impl Fn(&BaseProducer<Delivery>) -> KafkaResult<()>) -> KafkaResult<()> {
        let mut attempt = 1;
        loop {
            match self.watchdog.watch(name, || call(&self.producer)) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && attempt < ATTEMPTS => {
                    tracing::debug!("kafka: {name}: {} ({}): again", e.string(), e.name());
                    attempt += 1;
                    std::thread::sleep(RETRY_PAUSE);
                }
                result => return result,
            }
        }
    }
}

/// An error of a call before the commit: nothing is visible in any case.
fn before_commit(error: &KafkaError) -> WriteError {
    match error {
        e if is_fenced(e) => WriteError::Fenced(describe(e)),
        KafkaError::Transaction(e) if e.is_fatal() => WriteError::Broken(describe(error)),
        KafkaError::Transaction(e) if e.txn_requires_abort() => WriteError::Aborted(describe(error)),
        // A retriable error that went on, or a state that should not be: the next holder of the id aborts.
        e => WriteError::Broken(describe(e)),
    }
}

fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced | Code::FencedInstanceId)
    )
}
