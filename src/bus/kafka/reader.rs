//! Reads partitions from given offsets, committed records only, and knows when it has reached an end.
//!
//! librdkafka moves a consumer's position only with records that it delivers, so behind the last one transaction markers and
//! aborted records would keep a reader waiting for ever. Its end-of-partition event carries the offset up to which it has
//! looked, past all of those. rdkafka's wrapper drops topic and offset of that event, so this file takes events from
//! librdkafka's queue itself.

use super::client::{Plain, log, native_partition};
use super::session::whole_millis;
use super::{Cluster, denied, token};
use crate::bus::{BusError, Incoming, Reader, TopicPartition};
use crate::model::{Headers, Timestamp};
use bytes::Bytes;
use rdkafka::bindings as native;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::raw::c_char;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct KafkaReader {
    // Before the consumer, so that it is destroyed first.
    events: Events,
    consumer: BaseConsumer<Plain>,
    cluster: Arc<Cluster>,
    /// By topic and partition.
    positions: BTreeMap<String, BTreeMap<u32, i64>>,
}

impl KafkaReader {
    pub(super) fn open(cluster: Arc<Cluster>) -> Result<Self, BusError> {
        let consumer: BaseConsumer<Plain> = cluster
            .settings
            .reader()
            .create_with_context(Plain::new(cluster.tokens.as_ref()))
            .map_err(|e| super::client::bus_error("kafka: opening a reader", &e))?;
        token::authorize(consumer.client(), cluster.tokens.as_ref())?;
        let events = Events::of(&consumer);
        Ok(Self { events, consumer, cluster, positions: BTreeMap::new() })
    }

    fn place(&mut self, topic: &str, partition: u32) -> Option<&mut i64> {
        self.positions.get_mut(topic)?.get_mut(&partition)
    }
}

impl Reader for KafkaReader {
    fn seek(&mut self, topic: &str, partition: u32, offset: i64) -> Result<(), BusError> {
        let doing = || format!("kafka: reading partition {partition} of topic {topic} from offset {offset}");
        let ends = self.cluster.ends(topic, partition)?;
        if offset > ends.end {
            let reason = format!("the log ends at {}: it is not the one that this offset is of", ends.end);
            return Err(BusError::Failed { doing: doing(), reason });
        }
        let offset = offset.max(ends.start);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, native_partition(partition), Offset::Offset(offset))
            .map_err(|e| super::client::bus_error(doing(), &e))?;
        // Off and on again: unlike a seek this does not depend on how far fetching has come.
        if self.place(topic, partition).is_some() {
            self.consumer.incremental_unassign(&list).map_err(|e| super::client::bus_error(doing(), &e))?;
        }
        self.consumer.incremental_assign(&list).map_err(|e| super::client::bus_error(doing(), &e))?;
        self.positions.entry(topic.to_owned()).or_default().insert(partition, offset);
        Ok(())
    }

    fn leave(&mut self, topic: &str, partition: u32) -> Result<(), BusError> {
        if self.positions.get_mut(topic).is_some_and(|partitions| partitions.remove(&partition).is_some()) {
            let mut list = TopicPartitionList::new();
            list.add_partition(topic, native_partition(partition));
            let doing = || format!("kafka: ending to read partition {partition} of topic {topic}");
            self.consumer.incremental_unassign(&list).map_err(|e| super::client::bus_error(doing(), &e))?;
        }
        Ok(())
    }

    fn poll(&mut self, limit: usize, wait: Duration) -> Result<Vec<Incoming>, BusError> {
        let until = Instant::now() + wait;
        let mut records = Vec::new();
        // An end that was reached ends the wait too: whoever waits for it looks at the position.
        let mut moved = false;
        while records.len() < limit {
            let left = if records.is_empty() && !moved { whole_millis(until) } else { Duration::ZERO };
            match self.events.next(left) {
                None if left.is_zero() || Instant::now() >= until => break,
                None | Some(Event::Other) => {}
                Some(Event::TokenWanted) => token::renew(self.consumer.client(), self.cluster.tokens.as_ref()),
                Some(Event::Record(record)) => {
                    if let Some(position) = self.place(&record.topic, record.partition) {
                        *position = record.offset + 1;
                        records.push(record);
                    }
                }
                Some(Event::End { partition: (topic, partition), offset }) => {
                    if let Some(position) = self.place(&topic, partition)
                        && *position < offset
                    {
                        *position = offset;
                        moved = true;
                    }
                }
                Some(Event::Failed { partition, code, reason }) => {
                    let error = KafkaError::MessageConsumption(code);
                    if super::client::passes(&error) || partition.is_none() {
                        tracing::debug!(target: "librdkafka", "reader: {reason}");
                        continue;
                    }
                    let at = partition.map_or_else(String::new, |(t, p)| format!(" partition {p} of topic {t}"));
                    return Err(denied::refused_as(format!("kafka: reading{at}"), reason, code));
                }
            }
        }
        Ok(records)
    }

    fn position(&self, topic: &str, partition: u32) -> Result<i64, BusError> {
        self.positions.get(topic).and_then(|partitions| partitions.get(&partition)).copied().ok_or_else(|| {
            BusError::Failed {
                doing: format!("kafka: position in partition {partition} of topic {topic}"),
                reason: "this reader was never told to read it".into(),
            }
        })
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // Without partitions closing has nothing to wait for.
        if let Err(e) = self.consumer.unassign() {
            tracing::debug!("kafka: closing a reader: {}", super::client::describe(&e));
        }
    }
}

enum Event {
    Record(Incoming),
    End { partition: TopicPartition, offset: i64 },
    Failed { partition: Option<TopicPartition>, code: RDKafkaErrorCode, reason: String },
    TokenWanted,
    Other,
}

/// The consumer's queue in librdkafka.
struct Events(*mut native::rd_kafka_queue_t);

// SAFETY: librdkafka's queues are thread-safe; this handle is used by one thread at a time, its owner.
unsafe impl Send for Events {}

impl Events {
    fn of(consumer: &BaseConsumer<Plain>) -> Self {
        // SAFETY: the client is alive. The queue is counted, so the handle stays valid until it is destroyed in `drop`; it is
        // never null, as the client has a group.
        Self(unsafe { native::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) })
    }

    fn next(&mut self, wait: Duration) -> Option<Event> {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive; the event is ours until it is destroyed below, after everything was copied out of it.
        unsafe {
            let event = native::rd_kafka_queue_poll(self.0, wait);
            if event.is_null() {
                return None;
            }
            let read = read_event(event);
            native::rd_kafka_event_destroy(event);
            Some(read)
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: taken once in `of`, given back once here.
        unsafe { native::rd_kafka_queue_destroy(self.0) }
    }
}

/// # Safety
/// `event` is a live event of a consumer's queue, and nobody else uses it.
unsafe fn read_event(event: *mut native::rd_kafka_event_t) -> Event {
    // SAFETY: each accessor is called on an event of the type that it is for; texts are copied before the event goes.
    unsafe {
        match native::rd_kafka_event_type(event) {
            native::RD_KAFKA_EVENT_FETCH => {
                let message = native::rd_kafka_event_message_next(event);
                if message.is_null() { Event::Other } else { Event::Record(read_message(message)) }
            }
            native::RD_KAFKA_EVENT_ERROR => {
                let partition = native::rd_kafka_event_topic_partition(event);
                let at = (!partition.is_null()).then(|| {
                    let (topic, number, offset) =
                        (text((*partition).topic), (*partition).partition.unsigned_abs(), (*partition).offset);
                    native::rd_kafka_topic_partition_destroy(partition);
                    ((topic, number), offset)
                });
                match (native::rd_kafka_event_error(event), at) {
                    (RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF, Some((partition, offset))) => {
                        Event::End { partition, offset }
                    }
                    (code, at) => Event::Failed {
                        partition: at.map(|(partition, _)| partition),
                        code: code.into(),
                        reason: text(native::rd_kafka_event_error_string(event)),
                    },
                }
            }
            native::RD_KAFKA_EVENT_LOG => {
                let (mut facility, mut line, mut level) = (std::ptr::null(), std::ptr::null(), 0);
                if native::rd_kafka_event_log(event, &mut facility, &mut line, &mut level) == 0 {
                    log(log_level(level), text(facility).trim(), text(line).trim());
                }
                Event::Other
            }
            native::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => Event::TokenWanted,
            _ => Event::Other,
        }
    }
}

/// # Safety
/// `message` belongs to a live event.
unsafe fn read_message(message: *const native::rd_kafka_message_t) -> Incoming {
    // SAFETY: librdkafka fills these fields for every fetched message; a null pointer stands for no key or no value, and
    // lengths are those of the memory that the message owns.
    unsafe {
        let m = &*message;
        let bytes = |start: *const u8, len: usize| (!start.is_null()).then(|| std::slice::from_raw_parts(start, len));
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let timestamp = native::rd_kafka_message_timestamp(message, &mut kind);
        Incoming {
            topic: text(native::rd_kafka_topic_name(m.rkt)),
            partition: m.partition.unsigned_abs(),
            offset: m.offset,
            timestamp: Timestamp(timestamp.max(0)),
            key: bytes(m.key.cast(), m.key_len).map(<[u8]>::to_vec),
            value: bytes(m.payload.cast(), m.len).map(Bytes::copy_from_slice),
            headers: read_headers(message),
        }
    }
}

/// # Safety
/// `message` belongs to a live event.
unsafe fn read_headers(message: *const native::rd_kafka_message_t) -> Headers {
    let mut read = Vec::new();
    // SAFETY: the headers belong to the message; the loop ends at the first index that isn't there.
    unsafe {
        let mut headers = std::ptr::null_mut();
        if native::rd_kafka_message_headers(message, &mut headers) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return read;
        }
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
        while native::rd_kafka_header_get_all(headers, read.len(), &mut name, &mut value, &mut size)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            let value = if value.is_null() {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(std::slice::from_raw_parts(value.cast::<u8>(), size))
            };
            read.push((text(name).into(), value));
        }
    }
    read
}

/// # Safety
/// `start` is null or a text that ends with a zero byte.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

/// Syslog's numbers.
fn log_level(level: i32) -> RDKafkaLogLevel {
    match level {
        ..=3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}
