//! The brokers' clock. Nothing in Kafka's protocol tells it without a write, so one record is written to a topic of LogAppendTime,
//! whose acknowledgement carries the broker's stamp; nobody ever reads it.

use super::client::{Plain, bus_error, describe};
use super::token;
use super::{Cluster, REQUEST_TIMEOUT, denied};
use crate::bus::{BusError, ClockReading};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longer than the record's own time-out, which is told as an error.
const PATIENCE: Duration = Duration::from_secs(12);

pub(super) fn read(cluster: &Cluster, topic: &str) -> Result<ClockReading, BusError> {
    let doing = || format!("kafka: asking for the brokers' time by a record on topic {topic}");
    // A producer that asks for a topic which isn't there makes it, as brokers are set by default: with the wrong settings.
    cluster.partition_count(topic)?;
    let prober = Prober { plain: Plain::new(cluster.tokens.as_ref()), answer: Mutex::default() };
    let producer: BaseProducer<Prober> =
        cluster.settings.prober().create_with_context(prober).map_err(|e| bus_error(doing(), &e))?;
    token::authorize(producer.client(), cluster.tokens.as_ref())?;
    // Connected and with the topic's leader known, so that only the write itself is timed.
    producer.client().fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|e| bus_error(doing(), &e))?;
    let sent = now_ms();
    let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).payload(b"");
    producer.send(record).map_err(|(e, _)| bus_error(doing(), &e))?;
    let until = Instant::now() + PATIENCE;
    let answer = loop {
        producer.poll(Duration::from_millis(10));
        if let Some(answer) = producer.context().answer.lock().expect("no holder of this lock panics").take() {
            break answer;
        }
        if Instant::now() >= until {
            return Err(BusError::Retriable { doing: doing(), reason: "no answer in time".into() });
        }
    };
    let failed = |reason: String| BusError::Failed { doing: doing(), reason };
    match answer {
        Ok(Answer { stamp: Timestamp::LogAppendTime(broker), at }) => Ok(ClockReading::of(sent, broker, at)),
        Ok(_) => Err(failed("its records are not stamped by the broker: run `lockstep topics apply`".into())),
        Err(error) if denied::is(&error) => Err(bus_error(doing(), &error)),
        Err(error) => Err(BusError::Retriable { doing: doing(), reason: describe(&error) }),
    }
}

struct Answer {
    stamp: Timestamp,
    /// When it came, by this host's clock.
    at: i64,
}

struct Prober {
    plain: Plain,
    answer: Mutex<Option<Result<Answer, KafkaError>>>,
}

impl ClientContext for Prober {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.plain.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.plain.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.plain.generate_oauth_token(config)
    }
}

impl ProducerContext for Prober {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let answer = match result {
            Ok(record) => Ok(Answer { stamp: record.timestamp(), at: now_ms() }),
            Err((error, _)) => Err(error.clone()),
        };
        *self.answer.lock().expect("no holder of this lock panics") = Some(answer);
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
