//! Intake: what is no inbox record becomes one, or a source dead letter. Stateless; bad input stops nothing and is never lost.

use super::processor::ProcessorSettings;
use crate::bus::{Incoming, Outgoing};
use crate::codec::public;
use crate::codec::source::{self, Decoded, Schemas};
use crate::model::{Action, Address, Body, Cause, Message, Operation, ResultEvent, SourceName};
use crate::rules::Bundle;
use crate::telemetry::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Intake {
    bundle: Arc<Bundle>,
    schemas: Arc<dyn Schemas>,
    /// Source by topic.
    sources: BTreeMap<String, SourceName>,
    inbox: String,
    results: String,
    operations: String,
    dead_letters: String,
    event_bytes: usize,
}

pub enum Taken {
    Message(Box<Message>),
    Output(Outgoing),
}

impl Intake {
    pub fn new(settings: &ProcessorSettings, bundle: Arc<Bundle>, schemas: Arc<dyn Schemas>) -> Self {
        let sources = bundle
            .sources()
            .iter()
            .flat_map(|source| source.topics.iter().map(|topic| (topic.clone(), source.name.clone())))
            .collect();
        Self {
            schemas,
            sources,
            inbox: settings.topics.inbox(),
            results: settings.topics.results(),
            operations: settings.topics.operations(),
            dead_letters: settings.topics.source_dead_letters(),
            event_bytes: settings.event_bytes,
            bundle,
        }
    }

    /// All topics that a processor reads.
    pub fn topics(&self) -> Vec<String> {
        let own = [&self.inbox, &self.results, &self.operations].into_iter();
        own.chain(self.sources.keys()).cloned().collect()
    }

    /// A null on a topic of our own or one that fails to decode is a dead letter; an event that its source says to ignore is
    /// nothing.
    pub fn take(&self, record: Incoming, metrics: &Metrics) -> Option<Taken> {
        if record.topic == self.results {
            return Some(
                match public::decode::<ResultEvent>(record.value.as_deref().unwrap_or_default(), self.schemas.as_ref())
                {
                    Ok(result) => Taken::Message(Box::new(result_message(result))),
                    Err(error) => Taken::Output(self.unreadable(record, &error.to_string(), metrics)),
                },
            );
        }
        if record.topic == self.operations {
            return Some(
                match public::decode::<Operation>(record.value.as_deref().unwrap_or_default(), self.schemas.as_ref()) {
                    Ok(operation) => Taken::Message(Box::new(operation_message(operation))),
                    Err(error) => Taken::Output(self.unreadable(record, &error.to_string(), metrics)),
                },
            );
        }
        let name = self.sources.get(&record.topic)?;
        let rules = self.bundle.source(name)?;
        match source::decode(rules, &record, self.event_bytes, self.schemas.as_ref()) {
            Ok(Decoded::Event(event)) => {
                metrics.source_events_total.of([name.as_str(), "taken"]).inc();
                let to = Address::record(
                    event.routing_key.clone(),
                    event.tenant.clone(),
                    event.source.clone(),
                    event.record.clone(),
                );
                let cause = Cause::from(&*event);
                Some(Taken::Message(Box::new(Message { to, body: Body::Source(*event), cause })))
            }
            Ok(Decoded::Ignored) => {
                metrics.source_events_total.of([name.as_str(), "ignored"]).inc();
                None
            }
            Err(rejection) => {
                metrics.source_events_total.of([name.as_str(), "rejected"]).inc();
                metrics.source_dead_letters_total.of([name.as_str(), rejection.reason.as_str()]).inc();
                tracing::warn!(
                    source = %name, topic = record.topic, partition = record.partition, offset = record.offset,
                    reason = rejection.reason.as_str(), detail = rejection.detail, "rejected to source-dead-letters"
                );
                Some(Taken::Output(source::dead_letter(&self.dead_letters, &record, &rejection, self.event_bytes)))
            }
        }
    }

    /// A record of one of our own topics that can't be read.
    pub fn unreadable(&self, record: Incoming, detail: &str, metrics: &Metrics) -> Outgoing {
        let rejection = source::Rejection::undecodable(detail);
        metrics.source_dead_letters_total.of(["lockstep", rejection.reason.as_str()]).inc();
        source::dead_letter(&self.dead_letters, &record, &rejection, self.event_bytes)
    }
}

fn result_message(result: ResultEvent) -> Message {
    let to = Address::identity(result.routing_key.clone(), result.tenant.clone(), result.identity.clone());
    let mut cause =
        Cause::own(format!("result:{}", result.account.idempotency_key(result.generation)), result.source_time);
    cause.traceparent = result.traceparent.clone();
    Message { to, body: Body::Result(result), cause }
}

fn operation_message(operation: Operation) -> Message {
    let to = match &operation.action {
        Action::GuardRelease { .. } | Action::GuardReject { .. } => Address::guard(operation.tenant.clone()),
        Action::Redrive { identity, routing_key, .. } | Action::Drop { identity, routing_key, .. } => {
            Address::identity(routing_key.clone(), operation.tenant.clone(), identity.clone())
        }
    };
    let cause = Cause::own(format!("operation:{}", operation.id), operation.at);
    Message { to, body: Body::Operation(operation), cause }
}
