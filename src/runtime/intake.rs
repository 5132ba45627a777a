//! Intake: what is no inbox record becomes one, or a source dead letter. Stateless; bad input stops nothing and is never lost.

use super::processor::ProcessorSettings;
use crate::bus::{Incoming, Outgoing};
use crate::codec::public::{PublicCodec, PublicError};
use crate::codec::source::{self, DecodeError, Decoded, Reason, Rejection, SourceDecoder};
use crate::model::{Action, Address, Body, Cause, Message, Operation, ResultEvent, SourceEvent, SourceName};
use crate::rules::Bundle;
use crate::telemetry::Metrics;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The schema registry could not be asked: nothing is known of the record yet, so it has to come again.
#[derive(Debug, thiserror::Error)]
#[error("topic {topic}: {reason}")]
pub struct Unavailable {
    topic: String,
    reason: String,
}

/// How bytes become events and results; one a process.
pub struct Codecs {
    pub public: Arc<PublicCodec>,
    pub sources: SourceDecoder,
}

pub struct Intake {
    bundle: Arc<Bundle>,
    codecs: Arc<Codecs>,
    /// Source by topic.
    sources: BTreeMap<String, SourceName>,
    inbox: String,
    results: String,
    operations: String,
    dead_letters: String,
    /// Largest record of `source-dead-letters`.
    most_bytes: usize,
}

pub enum Taken {
    Message(Box<Message>),
    /// Records of `source-dead-letters`, to be written together.
    DeadLetter(Vec<Outgoing>),
    Nothing,
}

impl Intake {
    pub fn new(settings: &ProcessorSettings, bundle: Arc<Bundle>, codecs: Arc<Codecs>) -> Self {
        let sources = bundle
            .sources()
            .iter()
            .flat_map(|source| source.topics.iter().map(|topic| (topic.clone(), source.name.clone())))
            .collect();
        Self {
            codecs,
            sources,
            inbox: settings.topics.inbox(),
            results: settings.topics.results(),
            operations: settings.topics.operations(),
            dead_letters: settings.topics.source_dead_letters(),
            most_bytes: settings.dead_letter_bytes,
            bundle,
        }
    }

    /// The one topic whose records are for entities.
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// All topics that a processor reads.
    pub fn topics(&self) -> Vec<String> {
        let own = [&self.inbox, &self.results, &self.operations].into_iter();
        own.chain(self.sources.keys()).cloned().collect()
    }

    /// Whatever can't be decoded is a dead letter; an event that its source says to ignore is nothing.
    pub fn take(&self, record: &Incoming, metrics: &Metrics) -> Result<Taken, Unavailable> {
        // Decoders that aren't ours read bytes that aren't ours: a bug in one costs the record and not the partition.
        catch_unwind(AssertUnwindSafe(|| self.decode(record, metrics))).unwrap_or_else(|_| {
            Ok(Taken::DeadLetter(self.unreadable(record, "decoding it panicked; the log has the place", metrics)))
        })
    }

    fn decode(&self, record: &Incoming, metrics: &Metrics) -> Result<Taken, Unavailable> {
        let value = record.value.as_deref().unwrap_or_default();
        if record.topic == self.results {
            let result = self.codecs.public.decode(value).map(result_message);
            return self.own(record, result, metrics);
        }
        if record.topic == self.operations {
            let operation = self.codecs.public.decode(value).map(operation_message);
            return self.own(record, operation, metrics);
        }
        let rules = self.sources.get(&record.topic).and_then(|name| self.bundle.source(name));
        let Some(rules) = rules else { return Ok(Taken::Nothing) };
        let name = rules.name.as_str();
        match self.codecs.sources.decode(rules, record) {
            Ok(Decoded::Event(event)) => {
                metrics.source_events_total.of([name, "taken"]).inc();
                Ok(Taken::Message(Box::new(event_message(event))))
            }
            Ok(Decoded::Unrouted(event)) => {
                metrics.source_events_total.of([name, "taken"]).inc();
                let to = Address::route(event.tenant.clone(), event.source.clone(), event.record.clone());
                let cause = Cause::from(&*event);
                Ok(Taken::Message(Box::new(Message { to, body: Body::Source(event), cause })))
            }
            Ok(Decoded::Ignored) => {
                metrics.source_events_total.of([name, "ignored"]).inc();
                Ok(Taken::Nothing)
            }
            Err(DecodeError::Rejected(rejection)) => {
                metrics.source_events_total.of([name, "rejected"]).inc();
                Ok(Taken::DeadLetter(self.reject(record, name, &rejection, metrics)))
            }
            Err(DecodeError::Unavailable(error)) => {
                Err(Unavailable { topic: record.topic.clone(), reason: error.to_string() })
            }
        }
    }

    /// A record that can't be read although it may be well: of one of our own topics, or of a source whose decoder has a bug.
    pub fn unreadable(&self, record: &Incoming, detail: &str, metrics: &Metrics) -> Vec<Outgoing> {
        let rejection = Rejection { reason: Reason::Unreadable, detail: detail.to_owned() };
        let source = self.sources.get(&record.topic).map_or("lockstep", SourceName::as_str);
        self.reject(record, source, &rejection, metrics)
    }

    /// A record that is small enough as it came, and too large once it is decoded and mapped.
    pub fn too_large(&self, record: &Incoming, bytes: usize, most: usize, metrics: &Metrics) -> Vec<Outgoing> {
        let detail = format!("decoded and mapped, the event takes {bytes} bytes; at most {most} are taken");
        let source = self.sources.get(&record.topic).map_or("lockstep", SourceName::as_str);
        self.reject(record, source, &Rejection { reason: Reason::TooLarge, detail }, metrics)
    }

    fn own(
        &self,
        record: &Incoming,
        message: Result<Message, PublicError>,
        metrics: &Metrics,
    ) -> Result<Taken, Unavailable> {
        match message {
            Ok(message) => Ok(Taken::Message(Box::new(message))),
            Err(error) if error.is_transient() => {
                Err(Unavailable { topic: record.topic.clone(), reason: error.to_string() })
            }
            Err(error) => Ok(Taken::DeadLetter(self.unreadable(record, &error.to_string(), metrics))),
        }
    }

    fn reject(&self, record: &Incoming, source: &str, rejection: &Rejection, metrics: &Metrics) -> Vec<Outgoing> {
        metrics.source_dead_letters_total.of([source, rejection.reason.as_str()]).inc();
        tracing::warn!(
            source,
            topic = record.topic,
            partition = record.partition,
            offset = record.offset,
            reason = rejection.reason.as_str(),
            detail = rejection.detail,
            "rejected to source-dead-letters"
        );
        source::dead_letter(&self.dead_letters, record, rejection, self.most_bytes)
    }
}

fn event_message(event: Arc<SourceEvent>) -> Message {
    let to =
        Address::record(event.routing_key.clone(), event.tenant.clone(), event.source.clone(), event.record.clone());
    let cause = Cause::from(&*event);
    Message { to, body: Body::Source(event), cause }
}

fn result_message(result: ResultEvent) -> Message {
    let to = Address::identity(result.routing_key.clone(), result.tenant.clone(), result.identity.clone());
    let mut cause =
        Cause::own(format!("result:{}", result.account.idempotency_key(result.generation)), result.source_time);
    cause.traceparent = result.traceparent.clone();
    Message { to, body: Body::Result(result.into()), cause }
}

fn operation_message(operation: Operation) -> Message {
    let to = match &operation.action {
        Action::GuardRelease { .. } | Action::GuardReject { .. } => Address::guard(operation.tenant.clone()),
        Action::Redrive { identity, routing_key, .. } | Action::Drop { identity, routing_key, .. } => {
            Address::identity(routing_key.clone(), operation.tenant.clone(), identity.clone())
        }
        Action::QuarantineRetry { entity, routing_key } | Action::QuarantineSkip { entity, routing_key, .. } => {
            Address { routing_key: routing_key.clone(), entity: entity.clone() }
        }
    };
    let cause = Cause::own(format!("operation:{}", operation.id), operation.at);
    Message { to, body: Body::Operation(operation.into()), cause }
}
