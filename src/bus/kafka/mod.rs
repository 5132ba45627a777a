//! The bus on Apache Kafka.
//!
//! `Cluster` answers questions about topics and offsets; `session` is a member with its transactional producer, `reader` reads
//! without being one, `writer` is one transaction, `admin` makes and sets topics. Exactly-once on Kafka is explained where
//! each rule is kept: DESIGN's fences in `session`, its error classes in `writer`, the hang in `watchdog`.
//! Keys, values and configuration values are in no log line and no error.

mod admin;
mod client;
mod clock;
mod denied;
mod reader;
mod rights;
mod session;
mod token;
mod watchdog;
mod writer;

pub use client::KafkaSettings;
pub use rights::{Allowed, Rights};
pub use token::TokenLogin;

use crate::bus::{
    Bus, BusError, ClockReading, Ends, Membership, Outgoing, Reader, Session, TopicPartition, TopicSpec, TopicState,
};
use bytes::Bytes;
use client::{LastError, Plain, REQUEST_TIMEOUT, bus_error, describe, native_partition};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use token::Tokens;
use watchdog::Watchdog;
use writer::{WriteError, Writer};

/// How long a cluster may take to answer at start, question by question. One that refuses this client is not waited for to the
/// end; later questions leave a slow one more time.
const CONNECT_TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];
/// How long what a topic takes is believed without asking again.
const LIMITS_LAST: Duration = Duration::from_secs(300);
/// New topics have leaders after this long, or something is wrong.
const TOPICS_PATIENCE: Duration = Duration::from_secs(20);
/// How often hanging calls are looked for, and clients that nobody polls are served.
const CARE_INTERVAL: Duration = Duration::from_secs(1);
/// max.message.bytes where nobody sets it: believed of topics whose settings this client may not read.
const DEFAULT_TOPIC_BYTES: usize = 1_048_588;
/// Bytes of a record batch and of one record beside key, value and headers, at most (KIP-98's format).
const BATCH_OVERHEAD: usize = 61 + 26;
/// The lengths of a header's name and value.
const HEADER_OVERHEAD: usize = 10;
/// An append that nothing is visible of is tried again this often: its producer's id may have expired.
const APPEND_ATTEMPTS: u32 = 2;

/// A Kafka cluster as a bus.
pub struct KafkaBus {
    cluster: Arc<Cluster>,
    appender: Arc<Mutex<Option<Writer>>>,
}

impl KafkaBus {
    /// Reaches the cluster, or says why not within 10 s.
    pub fn connect(settings: KafkaSettings) -> Result<Self, BusError> {
        Self::open(settings, None)
    }

    /// The same as whom a token endpoint says this is: SASL OAUTHBEARER.
    pub fn connect_with_tokens(settings: KafkaSettings, login: TokenLogin) -> Result<Self, BusError> {
        Self::open(settings, Some(Tokens::new(login)))
    }

    fn open(settings: KafkaSettings, tokens: Option<Arc<Tokens>>) -> Result<Self, BusError> {
        settings.check()?;
        let doing = format!("kafka at {}", settings.bootstrap);
        let inspector: BaseConsumer<Plain> = settings
            .inspector()
            .create_with_context(Plain::new(tokens.as_ref()))
            .map_err(|e| denied::creation(&doing, &e))?;
        token::authorize(inspector.client(), tokens.as_ref())?;
        reach(&inspector, &doing)?;
        let cluster =
            Arc::new(Cluster { settings, tokens, watchdog: Arc::default(), inspector, limits: Mutex::default() });
        let bus = Self { cluster, appender: Arc::default() };
        bus.care()?;
        Ok(bus)
    }

    /// What the brokers let this client do on these topics and groups.
    pub fn rights(&self, topics: &[String], groups: &[String]) -> Result<Rights, BusError> {
        rights::ask(&self.cluster, topics, groups)
    }

    /// Whether this client may use the transactional id, which must be one that no process has.
    pub fn may_write_as(&self, transactional_id: &str) -> Result<bool, BusError> {
        rights::may_write_as(&self.cluster, transactional_id)
    }

    /// The brokers that the cluster has now, as `host:port`, and the cluster's id where it has one.
    pub fn brokers(&self) -> Result<(Vec<String>, Option<String>), BusError> {
        let client = self.cluster.inspector.client();
        let doing = "kafka: asking for the brokers";
        let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| bus_error(doing, &e))?;
        let brokers = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port()));
        Ok((brokers.collect(), client.fetch_cluster_id(REQUEST_TIMEOUT)))
    }

    /// How long the brokers keep the offsets of a group that nobody is in (KIP-211).
    pub fn offsets_kept(&self) -> Result<Option<Duration>, BusError> {
        let minutes = admin::broker_setting(&self.cluster, "offsets.retention.minutes")?;
        Ok(minutes.and_then(|minutes| minutes.parse().ok()).map(|minutes: u64| Duration::from_secs(60 * minutes)))
    }

    /// The thread that looks after what no caller polls; it ends with the bus.
    fn care(&self) -> Result<(), BusError> {
        let (cluster, appender) = (Arc::downgrade(&self.cluster), Arc::downgrade(&self.appender));
        let look = move || {
            while let Some(cluster) = cluster.upgrade() {
                cluster.watchdog.check();
                serve(&cluster.inspector);
                if let Some(tokens) = &cluster.tokens {
                    tokens.care();
                }
                drop(cluster);
                if let Some(appender) = appender.upgrade()
                    && let Ok(writer) = appender.try_lock()
                    && let Some(writer) = writer.as_ref()
                {
                    writer.idle();
                }
                std::thread::sleep(CARE_INTERVAL);
            }
        };
        match std::thread::Builder::new().name("kafka-care".into()).spawn(look) {
            Ok(_) => Ok(()),
            Err(e) => Err(BusError::Failed { doing: "kafka: starting a thread".into(), reason: e.to_string() }),
        }
    }
}

impl Bus for KafkaBus {
    fn join(&self, membership: &Membership) -> Result<Box<dyn Session>, BusError> {
        Ok(Box::new(session::KafkaSession::join(self.cluster.clone(), membership)?))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(reader::KafkaReader::open(self.cluster.clone())?))
    }

    fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError> {
        self.cluster.ends(topic, partition)
    }

    fn identity(&self) -> Result<String, BusError> {
        let id = self.cluster.inspector.client().fetch_cluster_id(REQUEST_TIMEOUT);
        id.ok_or_else(|| BusError::Retriable {
            doing: "kafka: asking for the cluster's id".into(),
            reason: "no broker told it".into(),
        })
    }

    /// The control record that ends a transaction (KIP-98).
    fn commit_markers(&self) -> i64 {
        1
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError> {
        Ok(self.cluster.layout(topic)?.map(|(partitions, _)| partitions))
    }

    fn append(&self, records: Vec<Outgoing>) -> Result<(), BusError> {
        if records.is_empty() {
            return Ok(());
        }
        self.cluster.check_outgoing(&records)?;
        let doing = || "kafka: appending".to_owned();
        let mut appender = self.appender.lock().expect("no holder of this lock panics");
        let mut attempt = 1;
        loop {
            if appender.is_none() {
                let config: ClientConfig = self.cluster.settings.appender();
                *appender = Some(Writer::open(&config, self.cluster.watchdog.clone(), self.cluster.tokens.as_ref())?);
            }
            let writer = appender.as_ref().expect("opened above");
            let reason = match writer.write(&records, None) {
                Ok(()) => return Ok(()),
                Err(WriteError::Aborted(reason) | WriteError::Expelled(reason)) => reason,
                Err(WriteError::Broken(reason) | WriteError::Fenced(reason)) => {
                    *appender = None;
                    reason
                }
                Err(WriteError::Denied(error)) => {
                    *appender = None;
                    return Err(error);
                }
                Err(WriteError::Unknown(reason)) => {
                    *appender = None;
                    let reason = format!("{reason}; it is not known whether the records were written");
                    return Err(BusError::Failed { doing: doing(), reason });
                }
            };
            if attempt == APPEND_ATTEMPTS {
                return Err(BusError::Retriable { doing: doing(), reason });
            }
            attempt += 1;
        }
    }

    fn describe(&self, topics: &[String]) -> Result<Vec<TopicState>, BusError> {
        admin::describe(&self.cluster, topics)
    }

    fn create(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        admin::create(&self.cluster, specs)
    }

    fn configure(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
        self.cluster.forget_limits(topic);
        admin::configure(&self.cluster, topic, settings)
    }

    fn clock(&self, topic: &str) -> Result<Option<ClockReading>, BusError> {
        clock::read(&self.cluster, topic).map(Some)
    }
}

/// What sessions, readers and administration share.
struct Cluster {
    settings: KafkaSettings,
    tokens: Option<Arc<Tokens>>,
    watchdog: Arc<Watchdog>,
    /// Sees open transactions, so that `ends` counts them.
    inspector: BaseConsumer<Plain>,
    limits: Mutex<BTreeMap<String, Limits>>,
}

/// What a topic takes.
#[derive(Clone, Copy)]
struct Limits {
    partitions: u32,
    record_bytes: usize,
    asked: Instant,
}

impl Cluster {
    /// Partitions and replicas; None where the topic doesn't exist. Asking never makes it.
    fn layout(&self, topic: &str) -> Result<Option<(u32, u16)>, BusError> {
        let doing = || format!("kafka: looking for topic {topic}");
        let metadata =
            self.inspector.client().fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|e| bus_error(doing(), &e))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
        match found.error() {
            None => {}
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Ok(None),
            Some(error) => {
                let error = rdkafka::error::KafkaError::MetadataFetch(RDKafkaErrorCode::from(error));
                return Err(bus_error(doing(), &error));
            }
        }
        let partitions = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
        let replicas = found.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
        Ok((partitions > 0).then(|| (partitions, u16::try_from(replicas).unwrap_or(u16::MAX))))
    }

    /// Partitions of a topic that has to be there.
    fn partition_count(&self, topic: &str) -> Result<u32, BusError> {
        match self.layout(topic)? {
            Some((partitions, _)) => Ok(partitions),
            None => Err(missing(topic)),
        }
    }

    fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError> {
        if partition >= self.partition_count(topic)? {
            return Err(no_partition(topic, partition));
        }
        let (start, end) = self
            .inspector
            .client()
            .fetch_watermarks(topic, native_partition(partition), REQUEST_TIMEOUT)
            .map_err(|e| bus_error(format!("kafka: ends of partition {partition} of topic {topic}"), &e))?;
        Ok(Ends { start, end })
    }

    /// Refuses what a topic won't take, before anything is sent.
    fn check_outgoing(&self, records: &[Outgoing]) -> Result<(), BusError> {
        let topics: BTreeSet<&str> = records.iter().map(|r| r.topic.as_str()).collect();
        let limits = self.limits(&topics)?;
        for record in records {
            let limit = limits.get(record.topic.as_str()).ok_or_else(|| missing(&record.topic))?;
            if let Some(partition) = record.partition
                && partition >= limit.partitions
            {
                return Err(no_partition(&record.topic, partition));
            }
            let bytes = stored_bytes(record);
            if bytes > limit.record_bytes {
                return Err(BusError::TooLarge { topic: record.topic.clone(), bytes, limit: limit.record_bytes });
            }
        }
        Ok(())
    }

    fn limits<'a>(&self, topics: &BTreeSet<&'a str>) -> Result<BTreeMap<&'a str, Limits>, BusError> {
        let mut known: BTreeMap<&str, Limits> = {
            let cache = self.limits.lock().expect("no holder of this lock panics");
            let fresh = |topic: &&'a str| {
                cache.get(*topic).filter(|l| l.asked.elapsed() < LIMITS_LAST).map(|limits| (*topic, *limits))
            };
            topics.iter().filter_map(fresh).collect()
        };
        let unknown: Vec<&str> = topics.iter().copied().filter(|t| !known.contains_key(t)).collect();
        if unknown.is_empty() {
            return Ok(known);
        }
        let mut partitions = BTreeMap::new();
        for topic in &unknown {
            partitions.insert(*topic, self.partition_count(topic)?);
        }
        let names: Vec<String> = unknown.iter().map(|t| (*t).to_owned()).collect();
        let settings = match admin::settings(self, &names) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::warn!("{error}: records are held to Kafka's default of {DEFAULT_TOPIC_BYTES} bytes");
                BTreeMap::new()
            }
        };
        let mut cache = self.limits.lock().expect("no holder of this lock panics");
        for topic in unknown {
            let of_topic = settings.get(topic).and_then(|s| s.get("max.message.bytes")?.parse().ok());
            let record_bytes = of_topic.unwrap_or(DEFAULT_TOPIC_BYTES).min(self.settings.max_record_bytes);
            let limits = Limits { partitions: partitions[topic], record_bytes, asked: Instant::now() };
            cache.insert(topic.to_owned(), limits);
            known.insert(topic, limits);
        }
        Ok(known)
    }

    fn forget_limits(&self, topic: &str) {
        self.limits.lock().expect("no holder of this lock panics").remove(topic);
    }

    /// The controller answers before every broker knows.
    fn wait_for_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        let until = Instant::now() + TOPICS_PATIENCE;
        for spec in specs {
            let partitions: Vec<TopicPartition> = (0..spec.partitions).map(|p| (spec.name.clone(), p)).collect();
            for (topic, partition) in partitions {
                while let Err(error) = self.ends(&topic, partition) {
                    if Instant::now() >= until {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        Ok(())
    }
}

/// Asks until the cluster answers, or says that it won't.
fn reach(inspector: &BaseConsumer<Plain>, doing: &str) -> Result<(), BusError> {
    let mut failure = String::new();
    for wait in CONNECT_TIMEOUTS {
        let Err(error) = inspector.client().fetch_metadata(None, wait) else { return Ok(()) };
        serve(inspector);
        let last = inspector.context().last_error();
        let last = last.unwrap_or_else(|| LastError { code: error.rdkafka_error_code(), reason: describe(&error) });
        if let Some(error) = denied::connecting(doing, &last) {
            return Err(error);
        }
        failure = match denied::perhaps_tls(&last.reason) {
            true => format!("{}: {}", last.reason, denied::PERHAPS_TLS),
            false => last.reason,
        };
    }
    let waited: Duration = CONNECT_TIMEOUTS.iter().sum();
    let reason = format!("not reached within {} s: {failure}", waited.as_secs());
    Err(BusError::Retriable { doing: doing.to_owned(), reason })
}

/// A record's size in a batch of its own.
fn stored_bytes(record: &Outgoing) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| HEADER_OVERHEAD + name.len() + value.len()).sum();
    let (key, value) = (record.key.as_ref().map_or(0, Vec::len), record.value.as_ref().map_or(0, Bytes::len));
    BATCH_OVERHEAD + key + value + headers
}

/// Takes log lines and errors off a client that is only asked now and then. A poll that took one looks like one that found
/// nothing, so this just polls often enough for a second's lines.
fn serve(inspector: &BaseConsumer<Plain>) {
    const AT_ONCE: usize = 50;
    for _ in 0..AT_ONCE {
        inspector.poll(Duration::ZERO);
    }
}

fn missing(topic: &str) -> BusError {
    BusError::Failed {
        doing: format!("kafka: topic {topic}"),
        reason: "it doesn't exist; `lockstep topics apply` makes lockstep's own topics".into(),
    }
}

fn no_partition(topic: &str, partition: u32) -> BusError {
    BusError::Failed { doing: format!("kafka: topic {topic}"), reason: format!("it has no partition {partition}") }
}
