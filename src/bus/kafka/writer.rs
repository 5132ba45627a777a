//! One transactional producer: writes records, and offsets with them, all or nothing.
//!
//! Every way in which librdkafka can fail ends in one of four outcomes (`WriteError`). librdkafka lacks KIP-890
//! (librdkafka#5423): where the outcome of a commit can't be known the producer is dropped, and a new one of the same id
//! settles it by initialising, as the coordinator then completes or aborts what was open.

use super::client::{Delivery, TRANSACTION_TIMEOUT, describe, native_partition};
use super::denied;
use super::token::{self, Tokens};
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
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of one transactional call; above the transaction's own time-out, so that the coordinator's answer comes first.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// Calls for one step, the first included.
const ATTEMPTS: u32 = 4;
/// After this no step of a transaction is tried again: its coordinator has aborted it (10 s), or where that one has died, another
/// has taken over what it was. What librdkafka has no answer to by then, opening a new writer settles sooner.
const RETRIED_WITHIN: Duration = Duration::from_secs(15);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long records may take to be acknowledged: their own time-out is 9 s, and then they fail.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(11);
/// A flush that fails sooner than this before its end was refused, not left without an answer.
const ANSWERING: Duration = Duration::from_secs(6);
/// One step of the native flush; failures are looked at in between.
const FLUSH_STEP_MS: i32 = 100;

/// What became of a transaction that was not committed for sure.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing of it is visible, and the writer can go on.
    Aborted(String),
    /// Nothing of it is visible, and the writer can go on; but the member whose offsets these were is one no more.
    Expelled(String),
    /// Nothing of it is visible, but the writer is of no use any more: open a new one. So it is after every record that could
    /// not be delivered: the epoch bump that follows may purge records of the next transaction (karafka/waterdrop#501).
    Broken(String),
    /// It may be visible or not. Open a new writer of the same id, which settles it; then look.
    Unknown(String),
    /// Another process has taken this id.
    Fenced(String),
    /// This client may not write there, or not as who it is; nothing is visible. Open a new one once that has changed.
    Denied(BusError),
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
    /// Whether the records of the transaction under way were dropped by librdkafka, as it had failed.
    purged: AtomicBool,
    /// When the transaction under way was begun.
    begun: Cell<Option<Instant>>,
}

impl Writer {
    /// Takes the transactional id: what an earlier holder left open is aborted, and the holder fenced.
    pub(super) fn open(
        config: &ClientConfig,
        watchdog: Arc<Watchdog>,
        tokens: Option<&Arc<Tokens>>,
    ) -> Result<Self, BusError> {
        let doing = || "kafka: opening a transactional producer".to_owned();
        let failed = |e: &KafkaError| super::client::bus_error(doing(), e);
        let producer: BaseProducer<Delivery> =
            config.create_with_context(Delivery::new(tokens)).map_err(|e| failed(&e))?;
        token::authorize(producer.client(), tokens)?;
        let writer = Self { producer, watchdog, purged: AtomicBool::new(false), begun: Cell::new(None) };
        match writer.call("init_transactions", Instant::now() + RETRIED_WITHIN, |p| p.init_transactions(CALL_TIMEOUT)) {
            Ok(()) => Ok(writer),
            Err(e) if is_fenced(&e) => Err(BusError::Fenced(describe(&e))),
            Err(e) => Err(failed(&e)),
        }
    }

    /// Puts records into the transaction that `write` ends. After an error it is over already.
    pub(super) fn send(&self, records: &[Outgoing]) -> Result<(), WriteError> {
        let begun = self.begin()?;
        self.produce(records).map_err(|error| self.abandon(error, begun))
    }

    /// What was sent is given up, for that reason.
    pub(super) fn give_up(&self, reason: WriteError) -> WriteError {
        match self.begun.get() {
            Some(begun) => self.abandon(reason, begun),
            None => reason,
        }
    }

    /// One transaction, of what was sent and these records.
    pub(super) fn write(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>) -> Result<(), WriteError> {
        let begun = self.begin()?;
        let written = self.transact(records, offsets, begun);
        self.begun.set(None);
        match written {
            // The coordinator fences whom it has timed out just as one whose place was taken. Opening anew tells: if another
            // has this name, the consumer is fenced as well.
            Err(WriteError::Fenced(reason)) if begun.elapsed() >= TRANSACTION_TIMEOUT => {
                Err(WriteError::Unknown(format!("the transaction took longer than the coordinator waits: {reason}")))
            }
            result => result,
        }
    }

    /// Begins a transaction where none is under way.
    fn begin(&self) -> Result<Instant, WriteError> {
        if let Some(begun) = self.begun.get() {
            return Ok(begun);
        }
        self.producer.context().take_failure();
        self.purged.store(false, Ordering::SeqCst);
        self.producer.begin_transaction().map_err(|e| before_commit(&e))?;
        let now = Instant::now();
        self.begun.set(Some(now));
        Ok(now)
    }

    fn transact(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>, begun: Instant) -> Result<(), WriteError> {
        let retried = begun + RETRIED_WITHIN;
        if let Err(error) = self.fill(records, offsets, retried) {
            return Err(self.abandon(error, begun));
        }
        match self.call("commit_transaction", retried, |p| p.commit_transaction(CALL_TIMEOUT)) {
            Ok(()) => Ok(()),
            Err(e) if is_fenced(&e) => Err(WriteError::Fenced(describe(&e))),
            Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                Err(self.abandon(WriteError::Aborted(describe(&KafkaError::Transaction(e))), begun))
            }
            Err(e) => Err(WriteError::Unknown(describe(&e))),
        }
    }

    /// Serves log lines and reports; a producer that nobody polls gathers them.
    pub(super) fn idle(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Every record is acknowledged before the offsets are sent, although both at once would be faster: the generation is checked
    /// with the offsets, so a member that passes has everything in the log by then, and whoever gets its partitions next sees
    /// it in the ends up to which it replays. The other way round a member could pass, lose its partitions, and write behind that.
    fn fill(&self, records: &[Outgoing], offsets: Option<&Offsets<'_>>, retried: Instant) -> Result<(), WriteError> {
        self.produce(records)?;
        let until = Instant::now() + FLUSH_TIMEOUT;
        let flushed = self.flush(until);
        let Some(offsets) = offsets else {
            return match flushed {
                // Records are purged when their transaction has failed, and then a commit does nothing but say why.
                Err(WriteError::Broken(_)) if self.purged.load(Ordering::SeqCst) => {
                    match self.call("commit_transaction", retried, |p| p.commit_transaction(CALL_TIMEOUT)) {
                        Err(e) if denied::is(&e) => Err(before_commit(&e)),
                        _ => flushed,
                    }
                }
                flushed => flushed,
            };
        };
        if flushed.is_err() && Instant::now() + ANSWERING > until {
            return flushed; // Nobody answers, so nobody says why.
        }
        let lost = || WriteError::Expelled("this member's partitions were given to another".into());
        if (offsets.lost)() {
            return Err(lost());
        }
        let sent = self.call("send_offsets_to_transaction", retried, |p| {
            p.send_offsets_to_transaction(offsets.list, offsets.member, CALL_TIMEOUT)
        });
        match (flushed, sent.map_err(|e| before_commit(&e))) {
            (Ok(()), Ok(())) if (offsets.lost)() => Err(lost()),
            (Ok(()), sent) => sent,
            // A transaction that has failed has its records purged; why it failed, this call says.
            (Err(_), Err(WriteError::Aborted(cause) | WriteError::Expelled(cause))) => Err(WriteError::Broken(cause)),
            (Err(_), Err(sent)) => Err(sent),
            (flushed, Ok(())) => flushed,
        }
    }

    fn produce(&self, records: &[Outgoing]) -> Result<(), WriteError> {
        let until = Instant::now() + FLUSH_TIMEOUT;
        records.iter().try_for_each(|record| self.produce_one(record, until))
    }

    fn produce_one(&self, record: &Outgoing, until: Instant) -> Result<(), WriteError> {
        let mut next: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&record.topic);
        next.key = record.key.as_deref();
        next.payload = record.value.as_deref();
        next.partition = record.partition.map(native_partition);
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: Some(&value[..]) });
            }
            next.headers = Some(headers);
        }
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < until => {
                    self.producer.poll(Duration::from_millis(1));
                    self.undelivered()?;
                    next = back;
                }
                Err((e, _)) => {
                    return Err(WriteError::Broken(format!("topic {}: {}", record.topic, describe(&e))));
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
                self.undelivered()?;
                if result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return Ok(());
                }
                if Instant::now() >= until {
                    return Err(WriteError::Broken("the brokers did not acknowledge the records in time".into()));
                }
            }
        })
    }

    /// What became of the first record that was not delivered.
    fn undelivered(&self) -> Result<(), WriteError> {
        let Some(failure) = self.producer.context().take_failure() else { return Ok(()) };
        self.purged.store(failure.is_purged(), Ordering::SeqCst);
        Err(match denied::is(&failure.error) {
            true => WriteError::Denied(super::client::bus_error(failure.to_string(), &failure.error)),
            false => WriteError::Broken(failure.to_string()),
        })
    }

    /// Aborts the transaction that was begun then, if the error lets it, and says what is left.
    fn abandon(&self, error: WriteError, begun: Instant) -> WriteError {
        self.begun.set(None);
        let retried = begun + RETRIED_WITHIN;
        let reason = match &error {
            WriteError::Aborted(reason) | WriteError::Expelled(reason) | WriteError::Broken(reason) => reason.clone(),
            WriteError::Denied(error) => error.to_string(),
            WriteError::Unknown(_) | WriteError::Fenced(_) => return error,
        };
        // Purged records are reported as failures, and the abort waits until somebody polls them away.
        let (done, producer) = (AtomicBool::new(false), &self.producer);
        let aborted = std::thread::scope(|threads| {
            threads.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    producer.poll(Duration::from_millis(10));
                }
            });
            let aborted = self.call("abort_transaction", retried, |p| p.abort_transaction(CALL_TIMEOUT));
            done.store(true, Ordering::SeqCst);
            aborted
        });
        self.producer.context().take_failure();
        match aborted {
            Ok(()) => error,
            Err(e) if is_fenced(&e) => WriteError::Fenced(describe(&e)),
            // Nothing was committed, and the next holder of the id aborts it.
            Err(_) if matches!(error, WriteError::Denied(_)) => error,
            Err(e) => WriteError::Broken(format!("{reason}; aborting: {}", describe(&e))),
        }
    }

    /// A transactional call under watch, again while librdkafka says that it may be, and until then.
    fn call(
        &self,
        name: &'static str,
        until: Instant,
        call: impl Fn(&BaseProducer<Delivery>) -> KafkaResult<()>,
    ) -> KafkaResult<()> {
        let mut attempt = 1;
        loop {
            match self.watchdog.watch(name, || call(&self.producer)) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && attempt < ATTEMPTS && Instant::now() < until => {
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
        e if denied::is(e) => WriteError::Denied(super::client::bus_error("kafka: writing in a transaction", e)),
        KafkaError::Transaction(e) if e.is_fatal() => WriteError::Broken(describe(error)),
        KafkaError::Transaction(e) if e.txn_requires_abort() && is_expelled(error) => {
            WriteError::Expelled(describe(error))
        }
        KafkaError::Transaction(e) if e.txn_requires_abort() => WriteError::Aborted(describe(error)),
        // A retriable error that went on, or a state that should not be: the next holder of the id aborts.
        e => WriteError::Broken(describe(e)),
    }
}

/// The group knows nothing of this member, or has settled anew without it.
fn is_expelled(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::UnknownMemberId | Code::IllegalGeneration))
}

fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced | Code::FencedInstanceId)
    )
}

/// Error classes, provoked one by one in librdkafka's mock cluster, which is no evidence of exactly-once; those that a real Kafka
/// can be made to answer, there. More in `tests/contract`.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::kafka::{KafkaBus, KafkaSettings};
    use crate::bus::{Bus, Membership, TopicSpec};
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::RDKafkaApiKey;
    use std::collections::BTreeMap;

    struct Bed {
        cluster: MockCluster<'static, DefaultProducerContext>,
        settings: KafkaSettings,
        consumer: BaseConsumer,
    }

    impl Bed {
        fn new() -> Self {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic("in", 1, 1).unwrap();
            cluster.create_topic("out", 1, 1).unwrap();
            let settings = KafkaSettings {
                bootstrap: cluster.bootstrap_servers(),
                properties: BTreeMap::new(),
                client_id: "test".into(),
                max_record_bytes: 1_000_000,
            };
            let consumer = ClientConfig::new()
                .set("bootstrap.servers", cluster.bootstrap_servers())
                .set("group.id", "g")
                .create()
                .unwrap();
            Self { cluster, settings, consumer }
        }

        fn open(&self) -> Writer {
            let member = Membership { group: "g".into(), instance: "a".into(), topics: vec![] };
            Writer::open(&self.settings.committer(&member), Arc::default(), None).unwrap()
        }

        fn fail(&self, request: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
            self.cluster.request_errors(request, errors);
        }

        fn write(&self, writer: &Writer) -> Result<(), WriteError> {
            let record = Outgoing {
                topic: "out".into(),
                partition: Some(0),
                key: None,
                value: Some("v".into()),
                headers: vec![],
            };
            let mut list = TopicPartitionList::new();
            list.add_partition_offset("in", 0, rdkafka::Offset::Offset(1)).unwrap();
            let member = self.consumer.group_metadata().unwrap();
            writer.write(&[record], Some(&Offsets { list: &list, member: &member, lost: &|| false }))
        }
    }

    fn class(result: &Result<(), WriteError>) -> &'static str {
        match result {
            Ok(()) => "committed",
            Err(WriteError::Aborted(_)) => "aborted",
            Err(WriteError::Expelled(_)) => "expelled",
            Err(WriteError::Broken(_)) => "broken",
            Err(WriteError::Unknown(_)) => "unknown",
            Err(WriteError::Fenced(_)) => "fenced",
            Err(WriteError::Denied(_)) => "denied",
        }
    }

    #[test]
    fn every_class_of_error_has_its_outcome_and_the_next_transaction_goes_through() {
        use RDKafkaApiKey as Request;
        use RDKafkaRespErr as Code;
        let cases = [
            // Retriable: librdkafka or the writer tries again.
            (Request::EndTxn, Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, "committed"),
            (Request::AddPartitionsToTxn, Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, "committed"),
            (Request::TxnOffsetCommit, Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, "committed"),
            // Abortable.
            (Request::TxnOffsetCommit, Code::RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE, "aborted"),
            // So is what says that this member is of an older generation, or none.
            (Request::TxnOffsetCommit, Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, "expelled"),
            (Request::TxnOffsetCommit, Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, "expelled"),
            // What a record's failure leaves behind would spoil the next transaction.
            (Request::Produce, Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "broken"),
            // Another has this transactional id, or this name in the group.
            (Request::Produce, Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "fenced"),
            (Request::EndTxn, Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "fenced"),
            (Request::AddOffsetsToTxn, Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, "fenced"),
            (Request::TxnOffsetCommit, Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, "fenced"),
            // An ACL is missing: for a person to mend.
            (Request::AddOffsetsToTxn, Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "denied"),
            (Request::AddPartitionsToTxn, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "denied"),
            (Request::Produce, Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "denied"),
            (Request::AddOffsetsToTxn, Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "denied"),
            (Request::EndTxn, Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "unknown"),
        ];
        let bed = Bed::new();
        for (request, code, expected) in cases {
            let writer = bed.open();
            bed.write(&writer).expect("without a fault a transaction is committed");
            bed.fail(request, &[code]);
            let result = bed.write(&writer);
            assert_eq!(class(&result), expected, "{request:?} answered with {code:?}: {result:?}");
            let writer = if matches!(expected, "committed" | "aborted" | "expelled") { writer } else { bed.open() };
            bed.write(&writer).unwrap_or_else(|e| panic!("after {request:?} answered with {code:?}: {e:?}"));
        }
    }

    #[test]
    fn a_member_that_lost_its_partitions_meanwhile_is_expelled() {
        let bed = Bed::new();
        let writer = bed.open();
        let member = bed.consumer.group_metadata().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("in", 0, rdkafka::Offset::Offset(1)).unwrap();
        let result = writer.write(&[], Some(&Offsets { list: &list, member: &member, lost: &|| true }));
        assert_eq!(class(&result), "expelled");
        bed.write(&writer).unwrap();
    }

    // --- on a real Kafka, where what the client could notice by itself is switched off

    struct Real {
        settings: KafkaSettings,
        group: String,
        input: String,
        output: String,
    }

    impl Real {
        fn new(name: &str) -> Self {
            let settings = KafkaSettings {
                bootstrap: std::env::var("LOCKSTEP_TEST_KAFKA").expect("LOCKSTEP_TEST_KAFKA is host:port of a Kafka"),
                properties: BTreeMap::new(),
                client_id: "test".into(),
                max_record_bytes: 900_000,
            };
            let of = |what: &str| format!("writer.{name}.{what}.{}", uuid::Uuid::new_v4());
            let real = Self { settings, group: of("group"), input: of("in"), output: of("out") };
            let topics = [&real.input, &real.output].map(|topic| TopicSpec {
                name: topic.clone(),
                partitions: 2,
                replicas: None,
                settings: BTreeMap::new(),
            });
            real.bus().create(&topics).unwrap();
            real
        }

        fn bus(&self) -> KafkaBus {
            KafkaBus::connect(self.settings.clone()).unwrap()
        }

        fn member(&self, instance: &str) -> BaseConsumer {
            let topics = vec![self.input.clone()];
            let member = Membership { group: self.group.clone(), instance: instance.into(), topics };
            let consumer: BaseConsumer = self.settings.member(&member).create().unwrap();
            consumer.subscribe(&[&self.input]).unwrap();
            consumer
        }

        fn writer(&self) -> Writer {
            let member = Membership { group: self.group.clone(), instance: "a".into(), topics: vec![] };
            Writer::open(&self.settings.committer(&member), Arc::default(), None).unwrap()
        }

        fn write(
            &self,
            writer: &Writer,
            member: &ConsumerGroupMetadata,
            text: &str,
            lost: &dyn Fn() -> bool,
        ) -> Result<(), WriteError> {
            let record = Outgoing {
                topic: self.output.clone(),
                partition: Some(0),
                key: None,
                value: Some(text.to_owned().into()),
                headers: vec![],
            };
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&self.input, 0, rdkafka::Offset::Offset(1)).unwrap();
            writer.write(&[record], Some(&Offsets { list: &list, member, lost }))
        }

        /// What is committed on the output.
        fn seen(&self) -> Vec<String> {
            let bus = self.bus();
            let end = bus.ends(&self.output, 0).unwrap().end;
            let mut reader = bus.reader().unwrap();
            reader.seek(&self.output, 0, 0).unwrap();
            let (mut seen, until) = (Vec::new(), Instant::now() + Duration::from_secs(30));
            while reader.position(&self.output, 0).unwrap() < end && Instant::now() < until {
                let records = reader.poll(100, Duration::from_millis(100)).unwrap();
                seen.extend(records.into_iter().map(|r| String::from_utf8(r.value.unwrap().into()).unwrap()));
            }
            seen
        }
    }

    /// Polls all of them until each has so many partitions.
    fn until_assigned(consumers: &[&BaseConsumer], count: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        while consumers.iter().any(|c| c.assignment().unwrap().count() != count) {
            assert!(Instant::now() < until, "no assignment of {count} each");
            consumers.iter().for_each(|c| drop(c.poll(Duration::from_millis(20))));
        }
    }

    #[test]
    #[ignore = "needs Kafka: tests/run bus"]
    fn the_brokers_refuse_a_commit_of_a_generation_that_is_over() {
        let real = Real::new("generation");
        let one = real.member("a");
        until_assigned(&[&one], 2);
        let writer = real.writer();
        let stale = one.group_metadata().unwrap();
        real.write(&writer, &stale, "of its own generation", &|| false).unwrap();
        let two = real.member("b");
        until_assigned(&[&one, &two], 1);
        let refused = real.write(&writer, &stale, "of a generation that is over", &|| false);
        assert_eq!(class(&refused), "expelled", "{refused:?}");
        let fresh = one.group_metadata().unwrap();
        real.write(&writer, &fresh, "of the new one", &|| false).unwrap();
        assert_eq!(real.seen(), ["of its own generation", "of the new one"]);
    }

    #[test]
    #[ignore = "needs Kafka: tests/run bus"]
    fn a_transaction_that_the_coordinator_has_timed_out_is_settled_by_the_next_writer() {
        // The coordinator looks for those every 10 s.
        let stall = TRANSACTION_TIMEOUT + Duration::from_secs(12);
        let real = Real::new("timeout");
        let consumer = real.member("a");
        until_assigned(&[&consumer], 2);
        let writer = real.writer();
        let member = consumer.group_metadata().unwrap();
        let stalls = || {
            std::thread::sleep(stall);
            false
        };
        let ended = real.write(&writer, &member, "too late", &stalls);
        assert_eq!(class(&ended), "unknown", "{ended:?}");
        drop(writer);
        let writer = real.writer();
        real.write(&writer, &consumer.group_metadata().unwrap(), "in time", &|| false).unwrap();
        assert_eq!(real.seen(), ["in time"]);
    }

    #[test]
    #[ignore = "needs Kafka: tests/run bus"]
    fn a_zombie_whose_id_another_has_taken_is_fenced_with_all_that_it_has_in_flight() {
        let real = Real::new("zombie");
        let consumer = real.member("a");
        until_assigned(&[&consumer], 2);
        let zombie = real.writer();
        let member = consumer.group_metadata().unwrap();
        let next = std::cell::RefCell::new(None);
        // The other comes while the zombie's records are written and its offsets are not.
        let taken = || {
            next.borrow_mut().get_or_insert_with(|| real.writer());
            false
        };
        let fenced = real.write(&zombie, &member, "from the grave", &taken);
        assert_eq!(class(&fenced), "fenced", "{fenced:?}");
        real.write(next.borrow().as_ref().unwrap(), &member, "of the living", &|| false).unwrap();
        assert_eq!(class(&real.write(&zombie, &member, "again", &|| false)), "fenced");
        assert_eq!(real.seen(), ["of the living"]);
    }
}
