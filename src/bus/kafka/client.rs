//! Clients of librdkafka: what each kind is configured with, how its log lines and errors read.
//!
//! Nothing here prints a configuration value, a record's key or its value: properties may be secrets, records are personal.

use super::denied;
use super::token::Tokens;
use crate::bus::{BusError, Membership, acls};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaRespErr;
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A coordinator aborts what a dead process left open after this long, if nobody takes its place before.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the transaction's: a record that can't be delivered fails first, and the transaction is aborted in good order.
const MESSAGE_TIMEOUT_MS: u32 = 9_000;
/// How long a member may be silent before its partitions go to others.
const SESSION_TIMEOUT_MS: u32 = 10_000;
/// How soon a member learns that the group settles anew: what was revoked elsewhere waits for it.
const HEARTBEAT_MS: u32 = 500;
/// A member asks for more when it has taken what it was given: every record that comes in answers a fetch which waits, so under
/// load a consumer that always asks makes its brokers answer a thousand times a second.
const MEMBER_PREFETCH_KBYTES: u32 = 1;
/// How soon after that it asks.
pub(super) const MEMBER_FETCH_PAUSE_MS: u32 = 2;
/// The longest a fetch waits for records. Those that are asked for anew one by one may make one fetch that lacks the others: these
/// wait as long as it does.
const MEMBER_FETCH_WAIT_MS: u32 = 50;
/// Records fetched ahead of `poll` by a reader, in KiB: what a batch or two needs, so that memory stays small.
const PREFETCH_KBYTES: u32 = 4_096;
/// The largest answer that a consumer takes: a broker takes requests of up to 100 MiB (`socket.request.max.bytes`), so what
/// somebody could send can be read, with room for what stands around it. librdkafka's default is less, and a record above it would
/// hold its partition for good.
const LARGEST_ANSWER_BYTES: u32 = 101 << 20;
/// How soon a reader asks for more once there is room.
const READER_FETCH_PAUSE_MS: u32 = 10;
/// How long a broker holds back an empty answer to a reader.
const READER_FETCH_WAIT_MS: u32 = 50;
/// What one fetch of a reader may bring of a partition: a restore reads one partition after the other, so it has to be much.
const READER_FETCH_BYTES: u32 = 8 << 20;
/// A broker refuses a batch above the topic's max.message.bytes and librdkafka never splits one, so a batch stays below
/// what any topic of ours may have; a single larger record travels alone.
const BATCH_BYTES: usize = 900_000;
/// The same for what is appended to topics that aren't ours.
const APPEND_BATCH_BYTES: usize = 65_536;

/// The longest wait for one answer of the cluster to a question (metadata, offsets, configuration).
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach a cluster.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, several with commas.
    pub bootstrap: String,
    /// Handed to librdkafka as they are, secrets resolved.
    pub properties: BTreeMap<String, String>,
    /// Shows in the brokers' logs and quotas, and begins the names of what this process makes for itself.
    pub client_id: String,
    /// The largest record that may be sent, in bytes as it is stored.
    pub max_record_bytes: usize,
}

/// Properties without their values.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("client_id", &self.client_id)
            .field("max_record_bytes", &self.max_record_bytes)
            .finish()
    }
}

/// Properties on which exactly-once stands, and those that other settings give.
const RESERVED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "isolation.level",
    "log.queue",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transaction.timeout.ms",
    "transactional.id",
];

impl KafkaSettings {
    /// Refuses properties that would break what the bus promises.
    pub(super) fn check(&self) -> Result<(), BusError> {
        match self.properties.keys().find(|name| RESERVED.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(BusError::Failed {
                doing: format!("bus.kafka.properties: {name}"),
                reason: "lockstep sets this itself, as exactly-once processing depends on it: remove the line".into(),
            }),
        }
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", &self.client_id);
        config.set("message.max.bytes", self.max_record_bytes.to_string());
        config
    }

    /// What is ours to choose, where `bus.kafka.properties` chooses nothing else.
    fn set_unless_given<V: ToString>(
        &self,
        config: &mut ClientConfig,
        defaults: impl IntoIterator<Item = (&'static str, V)>,
    ) {
        for (name, value) in defaults {
            if !self.properties.contains_key(name) {
                config.set(name, value.to_string());
            }
        }
    }

    fn consumer(&self) -> ClientConfig {
        let mut config = self.base();
        // Never by asking for it: a topic that is missing is an error to be shown.
        config.set("allow.auto.create.topics", "false");
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "earliest");
        config
    }

    fn fetching(&self) -> ClientConfig {
        let mut config = self.consumer();
        config.set("isolation.level", "read_committed");
        for (name, value) in
            [("fetch.queue.backoff.ms", "10".to_owned()), ("queued.max.messages.kbytes", PREFETCH_KBYTES.to_string())]
        {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        // librdkafka wants room for what is asked for and its frame.
        let asked: u32 = self.properties.get("fetch.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let largest = LARGEST_ANSWER_BYTES.max(asked.saturating_add(512));
        self.set_unless_given(&mut config, [("receive.message.max.bytes", largest)]);
        config
    }

    /// Answers questions about topics and offsets, open transactions included.
    pub(super) fn inspector(&self) -> ClientConfig {
        let mut config = self.consumer();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// Assigns partitions itself and commits nothing; librdkafka wants a group's name nevertheless.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.fetching();
        config.set("group.id", format!("{}-reader", self.client_id));
        config.set("enable.partition.eof", "true");
        let defaults = [
            ("fetch.queue.backoff.ms", READER_FETCH_PAUSE_MS),
            ("queued.max.messages.kbytes", PREFETCH_KBYTES),
            // The end of a partition is told when a fetch comes back empty: a restore waits for it once a partition, so 500 ms
            // (librdkafka's) would be most of a restart.
            ("fetch.wait.max.ms", READER_FETCH_WAIT_MS),
            ("fetch.message.max.bytes", READER_FETCH_BYTES),
        ];
        self.set_unless_given(&mut config, defaults);
        config
    }

    pub(super) fn member(&self, membership: &Membership) -> ClientConfig {
        let mut config = self.fetching();
        config.set("group.id", &membership.group);
        config.set("group.instance.id", &membership.instance);
        config.set("group.protocol", "classic");
        // Several topics keep their partitions together only under range; and a cooperative member may rejoin without
        // declaring its assignment lost, which would defeat the fence.
        config.set("partition.assignment.strategy", "range");
        let defaults = [
            ("session.timeout.ms", SESSION_TIMEOUT_MS),
            ("heartbeat.interval.ms", HEARTBEAT_MS),
            ("queued.max.messages.kbytes", MEMBER_PREFETCH_KBYTES),
            ("fetch.queue.backoff.ms", MEMBER_FETCH_PAUSE_MS),
            ("fetch.wait.max.ms", MEMBER_FETCH_WAIT_MS),
        ];
        self.set_unless_given(&mut config, defaults);
        config
    }

    fn transactional(&self, id: &str, batch_bytes: usize) -> ClientConfig {
        let mut config = self.base();
        config.set("transactional.id", id);
        config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        config.set("message.timeout.ms", MESSAGE_TIMEOUT_MS.to_string());
        // Only failures are reported: a flush then ends as soon as the last record is acknowledged (see `Writer::flush`).
        config.set("delivery.report.only.error", "true");
        // As in the Java client; records without a key go anywhere.
        config.set("partitioner", "murmur2_random");
        let defaults = [
            ("linger.ms", 5),
            // Right after a commit the coordinator often answers "concurrent transactions": 100 ms would be the latency.
            ("retry.backoff.ms", 10),
            ("batch.size", batch_bytes.min(self.max_record_bytes)),
        ];
        self.set_unless_given(&mut config, defaults);
        config
    }

    /// A member's outputs. The id follows from group and instance, so that a restart aborts at once what it left open.
    pub(super) fn committer(&self, membership: &Membership) -> ClientConfig {
        let id = format!("{}{}", acls::transactional_ids_of(&membership.group), membership.instance);
        self.transactional(&id, BATCH_BYTES)
    }

    /// What comes in by hand: every process has an id of its own, as nobody takes its place.
    pub(super) fn appender(&self) -> ClientConfig {
        self.transactional(&format!("{}-append-{}", self.client_id, uuid::Uuid::new_v4()), APPEND_BATCH_BYTES)
    }

    /// Takes a transactional id only to see whether it may.
    pub(super) fn trial(&self, transactional_id: &str) -> ClientConfig {
        self.transactional(transactional_id, APPEND_BATCH_BYTES)
    }

    /// Writes one record and sees its acknowledgement.
    pub(super) fn prober(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("linger.ms", "0");
        config.set("message.timeout.ms", MESSAGE_TIMEOUT_MS.to_string());
        config
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.base()
    }
}

/// What a client asks for when its token is nearly over: those that are polled by rdkafka are answered so.
fn generated(tokens: Option<&Arc<Tokens>>) -> Result<OAuthToken, Box<dyn Error>> {
    match tokens {
        Some(tokens) => tokens.generate(),
        None => Err("there is nothing to fetch a token with: `bus.kafka.sasl` says how".into()),
    }
}

/// Log and errors of a client that needs nothing else.
#[derive(Default)]
pub(super) struct Plain {
    tokens: Option<Arc<Tokens>>,
    /// What went wrong last, for the message when nothing can be reached.
    last_error: Mutex<Option<LastError>>,
}

#[derive(Clone, Debug)]
pub(super) struct LastError {
    pub(super) code: Option<RDKafkaErrorCode>,
    pub(super) reason: String,
}

impl Plain {
    pub(super) fn new(tokens: Option<&Arc<Tokens>>) -> Self {
        Self { tokens: tokens.cloned(), last_error: Mutex::default() }
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().expect("no holder of this lock panics").clone()
    }
}

impl ClientContext for Plain {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
        if denied::perhaps_tls(line) {
            // The name of the thread goes before.
            let reason = line.split_once("]: ").map_or(line, |(_, reason)| reason).to_owned();
            let last = LastError { code: None, reason };
            *self.last_error.lock().expect("no holder of this lock panics") = Some(last);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{}: {reason}", describe(&error));
        let code = error.rdkafka_error_code();
        // That all brokers are down follows from what was said of each.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            let last = LastError { code, reason: reason.to_owned() };
            *self.last_error.lock().expect("no holder of this lock panics") = Some(last);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        generated(self.tokens.as_ref())
    }
}

impl ConsumerContext for Plain {}

/// A member's consumer: keeps what the group decided until `poll` comes to it.
///
/// librdkafka asks that assign or unassign is called after a rebalance event, not necessarily while it is being served
/// (librdkafka#1323); until then it pauses fetching and stays in its state. So nothing happens inside a callback.
#[derive(Default)]
pub(super) struct Member {
    tokens: Option<Arc<Tokens>>,
    changes: Mutex<VecDeque<Change>>,
}

/// What the group decided.
#[derive(Debug)]
pub(super) enum Change {
    Assign(Vec<(String, u32)>),
    Revoke,
}

impl Member {
    pub(super) fn new(tokens: Option<&Arc<Tokens>>) -> Self {
        Self { tokens: tokens.cloned(), changes: Mutex::default() }
    }

    pub(super) fn next_change(&self) -> Option<Change> {
        self.changes.lock().expect("no holder of this lock panics").pop_front()
    }

    /// The change could not be carried out yet.
    pub(super) fn put_back(&self, change: Change) {
        self.changes.lock().expect("no holder of this lock panics").push_front(change);
    }

    pub(super) fn has_change(&self) -> bool {
        !self.changes.lock().expect("no holder of this lock panics").is_empty()
    }
}

impl ClientContext for Member {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", "{}: {reason}", describe(&error));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        generated(self.tokens.as_ref())
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, _: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let change = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assign(partition_names(partitions)),
            _ => Change::Revoke,
        };
        self.changes.lock().expect("no holder of this lock panics").push_back(change);
    }
}

/// A producer: remembers the first record that could not be delivered.
#[derive(Default)]
pub(super) struct Delivery {
    tokens: Option<Arc<Tokens>>,
    failure: Mutex<Option<Undelivered>>,
}

/// A record that could not be delivered.
#[derive(Debug)]
pub(super) struct Undelivered {
    topic: String,
    pub(super) error: KafkaError,
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record for topic {} was not delivered: {}", self.topic, describe(&self.error))
    }
}

impl Undelivered {
    /// Not by its own fault: the transaction had failed before, and its records were dropped.
    pub(super) fn is_purged(&self) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(self.error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
    }
}

impl Delivery {
    pub(super) fn new(tokens: Option<&Arc<Tokens>>) -> Self {
        Self { tokens: tokens.cloned(), failure: Mutex::default() }
    }

    pub(super) fn take_failure(&self) -> Option<Undelivered> {
        self.failure.lock().expect("no holder of this lock panics").take()
    }
}

impl ClientContext for Delivery {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", "{}: {reason}", describe(&error));
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        generated(self.tokens.as_ref())
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            let failure = Undelivered { topic: record.topic().to_owned(), error: error.clone() };
            self.failure.lock().expect("no holder of this lock panics").get_or_insert(failure);
        }
    }
}

/// librdkafka's own line. The CONF facility prints configuration, values included, so it stays out.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match (facility, level) {
        ("CONF", _) => {}
        ("CONFWARN", _) => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        (_, RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error) => {
            tracing::error!(target: "librdkafka", "{facility}: {line}");
        }
        (_, RDKafkaLogLevel::Warning) => tracing::warn!(target: "librdkafka", "{facility}: {line}"),
        (_, RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info) => {
            tracing::info!(target: "librdkafka", "{facility}: {line}");
        }
        (_, RDKafkaLogLevel::Debug) => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
    }
}

pub(super) fn partition_names(list: &TopicPartitionList) -> Vec<(String, u32)> {
    list.elements().iter().map(|e| (e.topic().to_owned(), e.partition().unsigned_abs())).collect()
}

/// librdkafka counts partitions in i32.
pub(super) fn native_partition(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// The error for people: rdkafka's own text names the value of a property that isn't valid.
pub(super) fn describe(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("the property {name} is not known to librdkafka, or its value is not one that it takes")
        }
        KafkaError::Transaction(e) => format!("{} ({})", e.string(), e.name()),
        other => other.to_string(),
    }
}

pub(super) fn bus_error(doing: impl Into<String>, error: &KafkaError) -> BusError {
    let (doing, reason) = (doing.into(), describe(error));
    if let Some(remedy) = code_of(error).and_then(denied::remedy) {
        return BusError::Denied { doing, reason, remedy: remedy.to_owned() };
    }
    if passes(error) { BusError::Retriable { doing, reason } } else { BusError::Failed { doing, reason } }
}

/// What the brokers, or librdkafka, call an error. rdkafka tells it of everything but an admin request.
pub(super) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether it is the cluster's or the network's moment, not the request.
pub(super) fn passes(error: &KafkaError) -> bool {
    if let KafkaError::Transaction(e) = error
        && e.is_retriable()
    {
        return true;
    }
    code_of(error).is_some_and(is_momentary)
}

pub(super) fn is_momentary(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::BrokerDestroy
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::NotController
            | Code::NetworkException
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::RebalanceInProgress
            | Code::UnstableOffsetCommit
            | Code::ConcurrentTransactions
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::error::KafkaResult;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            bootstrap: "127.0.0.1:1".into(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            client_id: "lockstep".into(),
            max_record_bytes: 500_000,
        }
    }

    fn membership() -> Membership {
        Membership { group: "lockstep".into(), instance: "a".into(), topics: vec!["inbox".into()] }
    }

    #[test]
    fn librdkafka_takes_every_property_we_set() {
        let settings = settings(&[("security.protocol", "plaintext"), ("session.timeout.ms", "12000")]);
        let m = membership();
        for config in [settings.inspector(), settings.reader(), settings.member(&m)] {
            let consumer: KafkaResult<BaseConsumer<Plain>> = config.create_with_context(Plain::default());
            assert!(consumer.is_ok(), "{}", describe(&consumer.err().unwrap()));
        }
        for config in [settings.committer(&m), settings.appender()] {
            let producer: KafkaResult<rdkafka::producer::BaseProducer<Delivery>> =
                config.create_with_context(Delivery::default());
            assert!(producer.is_ok(), "{}", describe(&producer.err().unwrap()));
        }
    }

    #[test]
    fn an_admin_request_that_is_not_answered_or_not_granted_is_told_from_one_that_fails() {
        use RDKafkaErrorCode as Code;
        let error = |code| bus_error("kafka: reading the settings of topics", &KafkaError::AdminOp(code));
        assert!(matches!(error(Code::OperationTimedOut), BusError::Retriable { .. }));
        assert!(matches!(error(Code::ClusterAuthorizationFailed), BusError::Denied { .. }));
        assert!(matches!(error(Code::InvalidConfig), BusError::Failed { .. }));
    }

    #[test]
    fn what_exactly_once_stands_on_cannot_be_set() {
        for name in RESERVED {
            let error = settings(&[(name, "x")]).check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(settings(&[("compression.type", "gzip")]).check().is_ok());
    }

    #[test]
    fn users_properties_hold_where_lockstep_only_has_a_preference() {
        let settings = settings(&[("session.timeout.ms", "15000"), ("linger.ms", "0")]);
        let m = membership();
        assert_eq!(settings.member(&m).get("session.timeout.ms"), Some("15000"));
        assert_eq!(settings.committer(&m).get("linger.ms"), Some("0"));
        assert_eq!(settings.committer(&m).get("transactional.id"), Some("lockstep:a"));
        assert_eq!(settings.committer(&m).get("batch.size"), Some("500000"), "no batch above the largest record");
        assert_eq!(settings.member(&m).get("receive.message.max.bytes"), Some("105906176"));
        let (fetches, receives) = (("fetch.max.bytes", "200000000"), ("receive.message.max.bytes", "300000000"));
        for (properties, expected) in [(vec![fetches], "200000512"), (vec![fetches, receives], "300000000")] {
            let member = self::settings(&properties).member(&m);
            assert_eq!(member.get("receive.message.max.bytes"), Some(expected));
            assert!(member.create::<BaseConsumer>().is_ok());
        }
    }

    #[test]
    fn values_of_properties_are_in_no_message() {
        let secret = "hunter2-not-a-number";
        let settings = settings(&[("sasl.password", secret), ("socket.timeout.ms", secret)]);
        assert!(!format!("{settings:?}").contains(secret));
        let result: KafkaResult<BaseConsumer<Plain>> = settings.inspector().create_with_context(Plain::default());
        let message = describe(&result.err().unwrap());
        assert!(!message.contains(secret) && message.contains("socket.timeout.ms"), "{message}");
    }
}
