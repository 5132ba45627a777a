//! What steps emit becomes records of the public topics, and figures.

use super::partition::{Emitted, Partition};
use super::processor::ProcessorSettings;
use crate::bus::Outgoing;
use crate::codec::public::{Public, PublicCodec, PublicError};
use crate::entity::{AccountRow, Emission, key};
use crate::model::{
    AccountId, AlertKind, AlertState, Command, Decision, DecisionKind, InboxRecord, Message, TargetName, TenantId,
    Timestamp, envelope,
};
use crate::rules::{Bundle, PublicFormat};
use crate::store::StoreError;
use crate::telemetry::Metrics;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most open deprovisions that are looked up when a partition is restored.
const MAX_OPEN: usize = 1_000_000;

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("encoding for topic {topic}: {error}")]
    Codec { topic: String, error: PublicError },
}

/// Encodes and counts what a processor puts out.
pub struct Publisher {
    codec: Arc<PublicCodec>,
    metrics: Arc<Metrics>,
    /// Deprovisions whose clock runs, for the gauges.
    open: BTreeMap<AccountId, (TenantId, TargetName, Timestamp)>,
}

impl Publisher {
    pub fn new(codec: Arc<PublicCodec>, metrics: Arc<Metrics>) -> Self {
        Self { codec, metrics, open: BTreeMap::new() }
    }

    /// A message for an entity, as an inbox record.
    pub fn inbox(&self, settings: &ProcessorSettings, message: &Message) -> Outgoing {
        let routing_key = &message.to.routing_key;
        Outgoing {
            topic: settings.topics.inbox(),
            partition: Some(routing_key.partition(settings.inbox_partitions).0),
            key: Some(routing_key.0.clone().into_bytes()),
            value: Some(envelope::seal(&InboxRecord::Message(message.clone()))),
            headers: Vec::new(),
        }
    }

    pub fn publish(
        &mut self,
        bundle: &Bundle,
        settings: &ProcessorSettings,
        emitted: Emitted,
        outputs: &mut Vec<Outgoing>,
    ) -> Result<(), OutputError> {
        for message in &emitted.sends {
            outputs.push(self.inbox(settings, message));
        }
        for (message, reason) in &emitted.undeliverable {
            outputs.push(undeliverable(settings, message, reason));
        }
        for (emission, _) in emitted.emissions {
            let output = match emission {
                Emission::Command(command) => self.command(bundle, settings, &command)?,
                Emission::Decision(decision) => {
                    self.observe(&decision);
                    let key = decision.identity.as_ref().map_or_else(|| decision.tenant.0.clone(), |id| id.0.clone());
                    self.encode(settings.topics.decisions(), key, PublicFormat::Json, &decision)?
                }
                Emission::Alert(alert) => {
                    self.count_alert(&alert);
                    self.encode(settings.topics.alerts(), alert.key.clone(), PublicFormat::Json, &alert)?
                }
                Emission::DeadLetterClosed { target, account } => Outgoing {
                    topic: settings.topics.dead_letters(&target),
                    partition: None,
                    key: Some(account.0.into_bytes()),
                    value: None,
                    headers: Vec::new(),
                },
            };
            outputs.push(output);
        }
        Ok(())
    }

    /// A partition has come: the clocks that run in it are shown again. Each has a live timer.
    pub fn restored(&mut self, partition: &Partition) -> Result<(), StoreError> {
        for timer in partition.store.due(Timestamp(i64::MAX), MAX_OPEN)? {
            let Some((of, row)) = key::parse(&timer.key) else { continue };
            let Some(target) = row.strip_prefix(key::TIMER).and_then(|name| name.strip_prefix("deadline/")) else {
                continue;
            };
            let row = partition.store.get(&key::row(&of, &AccountRow::row(&TargetName::from(target))))?;
            let Some(Ok(row)) = row.map(|row| envelope::open::<AccountRow>(&row)) else { continue };
            if let Some(clock) = row.clock {
                self.open.insert(row.account, (of.tenant().clone(), row.target, clock.effective));
            }
        }
        self.show_open();
        Ok(())
    }

    /// Forgets the clocks of partitions that went to another process.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Sets the gauges of open deprovisions as of `now`.
    pub fn show_ages(&self, now: Timestamp) {
        let mut oldest: BTreeMap<(&TenantId, &TargetName), Timestamp> = BTreeMap::new();
        for (tenant, target, effective) in self.open.values() {
            let at = oldest.entry((tenant, target)).or_insert(*effective);
            *at = (*at).min(*effective);
        }
        self.metrics.deprovision_oldest_age_seconds.clear();
        for ((tenant, target), effective) in oldest {
            let age = now.since(effective).as_secs_f64();
            self.metrics.deprovision_oldest_age_seconds.of([tenant.as_str(), target.as_str()]).set(age);
        }
    }

    fn show_open(&self) {
        let mut open: BTreeMap<(&TenantId, &TargetName), i64> = BTreeMap::new();
        for (tenant, target, _) in self.open.values() {
            *open.entry((tenant, target)).or_default() += 1;
        }
        self.metrics.deprovisions_open.clear();
        for ((tenant, target), count) in open {
            self.metrics.deprovisions_open.of([tenant.as_str(), target.as_str()]).set(count);
        }
    }

    fn command(
        &self,
        bundle: &Bundle,
        settings: &ProcessorSettings,
        command: &Command,
    ) -> Result<Outgoing, OutputError> {
        let format = bundle.target(&command.target).map_or(PublicFormat::Json, |target| target.format);
        let labels = [command.tenant.as_str(), command.target.as_str(), command.op.as_str()];
        self.metrics.commands_total.of(labels).inc();
        self.encode(settings.topics.commands(&command.target), command.account.0.clone(), format, command)
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
                value: Some(encoded.value),
                headers: encoded.headers,
            }),
            Err(error) => Err(OutputError::Codec { topic, error }),
        }
    }

    fn observe(&mut self, decision: &Decision) {
        let (Some(account), Some(target)) = (&decision.account, &decision.target) else { return };
        let labels = [decision.tenant.as_str(), target.as_str()];
        match &decision.kind {
            DecisionKind::DeprovisionOpened { effective, .. } => {
                self.open.insert(account.clone(), (decision.tenant.clone(), target.clone(), *effective));
            }
            DecisionKind::DeprovisionVerified { effective, verified } => {
                self.open.remove(account);
                let seconds = verified.since(*effective).as_secs_f64();
                self.metrics.deprovision_seconds.of(labels).observe(seconds);
            }
            DecisionKind::DeprovisionCancelled | DecisionKind::DeprovisionRejected { .. } => {
                self.open.remove(account);
            }
            DecisionKind::AccountVerified { .. } => {
                let seconds = decision.at.since(decision.source_time).as_secs_f64();
                self.metrics.event_to_verified_seconds.of(labels).observe(seconds);
                return;
            }
            _ => return,
        }
        self.show_open();
    }

    fn count_alert(&self, alert: &crate::model::Alert) {
        let tenant = alert.tenant.as_str();
        let target = alert.target.as_ref().map_or("", |target| target.as_str());
        match (alert.kind, alert.state) {
            (AlertKind::DeprovisionOverdue, AlertState::Raised) => {
                self.metrics.deprovisions_overdue_total.of([tenant, target]).inc();
            }
            (AlertKind::Quarantined, AlertState::Raised) => self.metrics.quarantined_entities.inc(),
            (AlertKind::Quarantined, AlertState::Resolved) => self.metrics.quarantined_entities.dec(),
            _ => {}
        }
    }
}

/// A message that a full quarantine could not keep, as it was.
fn undeliverable(settings: &ProcessorSettings, message: &Message, reason: &str) -> Outgoing {
    Outgoing {
        topic: settings.topics.source_dead_letters(),
        partition: None,
        key: Some(message.to.routing_key.0.clone().into_bytes()),
        value: Some(envelope::seal(&InboxRecord::Message(message.clone()))),
        headers: vec![
            ("lockstep_topic".to_owned(), settings.topics.inbox().into_bytes()),
            ("lockstep_reason".to_owned(), b"quarantine_full".to_vec()),
            ("lockstep_detail".to_owned(), format!("{}: {reason}", message.to.entity).into_bytes()),
        ],
    }
}
