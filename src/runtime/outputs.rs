//! What steps emit becomes records of the public topics, and figures.

use super::figures::{Aside, Figures};
use super::partition::{Emitted, Partition};
use super::processor::ProcessorSettings;
use super::quarantine::{Undeliverable, Why};
use crate::bus::Outgoing;
use crate::codec::public::{Public, PublicCodec, PublicError};
use crate::codec::schemas::Document;
use crate::codec::source;
use crate::entity::{Emission, key};
use crate::model::{
    Alert, AlertKind, AlertState, Command, Decision, DecisionKind, Message, Op, TargetName, TenantId, Timestamp,
    seal_message,
};
use crate::rules::{Bundle, PublicFormat};
use crate::store::{StoreError, Write};
use crate::telemetry::Metrics;
use std::sync::Arc;

/// The source of what Lockstep itself puts among the dead letters of sources.
const LOCKSTEP: &str = "lockstep";

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("encoding for topic {topic}: {error}")]
    Codec { topic: String, error: PublicError },
    #[error("target {target} has `format: avro`, and the schema of its commands can't be registered: {error}")]
    Schema { target: TargetName, error: PublicError },
}

/// Encodes and counts what a processor puts out.
pub struct Publisher {
    codec: Arc<PublicCodec>,
    metrics: Arc<Metrics>,
    figures: Figures,
    /// Whether decisions are published; they are counted either way.
    decisions: bool,
    /// What the transaction in work has to be counted for once it is committed.
    uncounted: Vec<Counted>,
}

/// What a record has to be counted for, once its transaction is committed.
pub(super) enum Counted {
    Command(TenantId, TargetName, Op),
    Verified(TenantId, TargetName, f64),
    Deprovisioned(TenantId, TargetName, f64),
    Overdue(TenantId, TargetName),
    Undeliverable(Why),
}

impl Publisher {
    pub fn new(codec: Arc<PublicCodec>, metrics: Arc<Metrics>) -> Self {
        let figures = Figures::new(Arc::clone(&metrics));
        Self { codec, metrics, figures, decisions: true, uncounted: Vec::new() }
    }

    /// Whether the audit is written.
    #[must_use]
    pub fn with_decisions(self, decisions: bool) -> Self {
        Self { decisions, ..self }
    }

    /// Registers the schemas that will be written with, so that no registry is asked while a transaction is open.
    pub(super) fn prepare(&self, bundle: &Bundle, settings: &ProcessorSettings) -> Result<(), OutputError> {
        for target in bundle.targets().iter().filter(|target| target.format == PublicFormat::Avro) {
            let topic = settings.topics.commands(&target.name);
            if let Err(error) = self.codec.prepare(&topic, Document::Command) {
                return Err(OutputError::Schema { target: target.name.clone(), error });
            }
        }
        Ok(())
    }

    /// A message for an entity, as an inbox record.
    pub fn inbox(&self, settings: &ProcessorSettings, message: &Message) -> Outgoing {
        let routing_key = &message.to.routing_key;
        self.metrics.hops_total.of([message.body.kind()]).inc();
        Outgoing {
            topic: settings.topics.inbox(),
            partition: Some(routing_key.partition(settings.inbox_partitions).0),
            key: Some(routing_key.0.as_bytes().to_vec()),
            value: Some(seal_message(message).into()),
            headers: Vec::new(),
        }
    }

    pub(super) fn publish(
        &self,
        bundle: &Bundle,
        settings: &ProcessorSettings,
        emitted: Emitted,
        outputs: &mut Vec<Outgoing>,
        counted: &mut Vec<Counted>,
    ) -> Result<(), OutputError> {
        outputs.extend(emitted.sends.iter().map(|message| self.inbox(settings, message)));
        for message in emitted.undeliverable {
            counted.push(Counted::Undeliverable(message.why));
            outputs.push(undeliverable(settings, message));
        }
        for emission in emitted.emissions {
            counted.extend(Counted::of(&emission));
            let output = match emission {
                Emission::Command(command) => self.command(bundle, settings, &command)?,
                Emission::Decision(_) if !self.decisions => continue,
                Emission::Decision(decision) => {
                    let key = decision.identity.as_ref().map_or_else(|| decision.tenant.0.clone(), |id| id.0.clone());
                    self.encode(settings.topics.decisions(), key.to_string(), PublicFormat::Json, &decision)?
                }
                Emission::Alert(alert) => {
                    self.encode(settings.topics.alerts(), alert.key.clone(), PublicFormat::Json, &alert)?
                }
                Emission::DeadLetterClosed { target, account } => Outgoing {
                    topic: settings.topics.dead_letters(&target),
                    partition: None,
                    key: Some(account.0.as_bytes().to_vec()),
                    value: None,
                    headers: Vec::new(),
                },
            };
            outputs.push(output);
        }
        Ok(())
    }

    /// To be counted with the transaction in work.
    pub(super) fn count(&mut self, counted: Vec<Counted>) {
        self.uncounted.extend(counted);
    }

    /// A partition has come, or is read back after an aborted transaction.
    pub fn restored(&mut self, partition: &Partition) -> Result<(), StoreError> {
        self.uncounted.clear();
        self.figures.restored(partition.id.0, partition.store.as_ref())
    }

    /// These rows of a partition are committed.
    pub fn written(&mut self, partition: u32, writes: &[Write]) {
        self.figures.written(partition, writes);
    }

    /// What was published last is committed.
    pub fn committed(&mut self) {
        for counted in std::mem::take(&mut self.uncounted) {
            let metrics = &self.metrics;
            match counted {
                Counted::Command(tenant, target, op) => {
                    metrics.commands_total.of([tenant.as_str(), target.as_str(), op.as_str()]).inc();
                }
                Counted::Verified(tenant, target, seconds) => {
                    metrics.event_to_verified_seconds.of([tenant.as_str(), target.as_str()]).observe(seconds);
                }
                Counted::Deprovisioned(tenant, target, seconds) => {
                    metrics.deprovision_seconds.of([tenant.as_str(), target.as_str()]).observe(seconds);
                }
                Counted::Overdue(tenant, target) => {
                    metrics.deprovisions_overdue_total.of([tenant.as_str(), target.as_str()]).inc();
                }
                Counted::Undeliverable(why) => {
                    metrics.source_dead_letters_total.of([LOCKSTEP, why.as_str()]).inc();
                }
            }
        }
    }

    /// The transaction in work was aborted: what it has is put out again.
    pub fn aborted(&mut self) {
        self.uncounted.clear();
    }

    /// A partition was given back, and may come again as it went.
    pub fn set_aside(&mut self, partition: u32) -> Aside {
        self.uncounted.clear();
        self.figures.set_aside(partition)
    }

    /// It came again.
    pub fn take_back(&mut self, partition: u32, aside: Aside) {
        self.figures.take_back(partition, aside);
    }

    /// The partitions went to another process.
    pub fn forget(&mut self) {
        self.uncounted.clear();
        self.figures.forget();
    }

    /// Sets the gauges as of `now`.
    pub fn show(&mut self, now: Timestamp) {
        self.figures.show(now);
    }

    fn command(
        &self,
        bundle: &Bundle,
        settings: &ProcessorSettings,
        command: &Command,
    ) -> Result<Outgoing, OutputError> {
        let format = bundle.target(&command.target).map_or(PublicFormat::Json, |target| target.format);
        self.encode(settings.topics.commands(&command.target), command.account.0.to_string(), format, command)
    }

    fn encode<T: Public>(
        &self,
        topic: String,
        key: String,
        format: PublicFormat,
        of: &T,
    ) -> Result<Outgoing, OutputError> {
        match self.codec.encode(format, &topic, of) {
            Ok(encoded) => Ok(Outgoing {
                topic,
                partition: None,
                key: Some(key.into_bytes()),
                value: Some(encoded.value.into()),
                headers: encoded.headers,
            }),
            Err(error) => Err(OutputError::Codec { topic, error }),
        }
    }
}

impl Counted {
    fn of(emission: &Emission) -> Option<Self> {
        match emission {
            Emission::Command(command) => {
                Some(Self::Command(command.tenant.clone(), command.target.clone(), command.op))
            }
            Emission::Decision(decision) => Self::of_decision(decision),
            Emission::Alert(alert) => Self::of_alert(alert),
            Emission::DeadLetterClosed { .. } => None,
        }
    }

    fn of_decision(decision: &Decision) -> Option<Self> {
        let (tenant, target) = (&decision.tenant, decision.target.as_ref()?);
        let (counted, from, to): (fn(TenantId, TargetName, f64) -> Self, _, _) = match &decision.kind {
            DecisionKind::DeprovisionVerified { effective, verified } => (Self::Deprovisioned, effective, verified),
            DecisionKind::AccountVerified { .. } => (Self::Verified, &decision.source_time, &decision.at),
            _ => return None,
        };
        Some(counted(tenant.clone(), target.clone(), to.since(*from).as_secs_f64()))
    }

    fn of_alert(alert: &Alert) -> Option<Self> {
        match (alert.kind, alert.state, &alert.target) {
            (AlertKind::DeprovisionOverdue, AlertState::Raised, Some(target)) => {
                Some(Self::Overdue(alert.tenant.clone(), target.clone()))
            }
            _ => None,
        }
    }
}

/// A message that will not be handled, as it was.
fn undeliverable(settings: &ProcessorSettings, message: Undeliverable) -> Outgoing {
    Outgoing {
        topic: settings.topics.source_dead_letters(),
        partition: None,
        // One that is too long stands in the record already: both would not fit.
        key: key::is_sound(&message.to).then(|| message.to.routing_key.as_str().as_bytes().to_vec()),
        value: Some(message.record.into()),
        headers: vec![
            ("lockstep_topic".into(), settings.topics.inbox().into()),
            ("lockstep_reason".into(), message.why.as_str().into()),
            ("lockstep_detail".into(), source::short(&message.detail).to_owned().into()),
        ],
    }
}
