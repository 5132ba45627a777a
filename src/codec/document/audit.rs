//! Documents about Lockstep's own work: decisions, alerts, operations. What an enum's variant holds lies flat beside its name.

use super::{DocumentError, Text, count, id, named, needed, text, whole};
use crate::model::{
    AccountId, Action, Alert, AlertKind, AlertState, Decision, DecisionKind, EntityKey, EventId, Generation,
    IdentityId, Operation, TargetName, TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Most fields are for a few kinds only, and there are as many decisions as commands: JSON leaves out those without a value.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename = "Decision")]
pub struct DecisionDocument<'a> {
    tenant: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    kind: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    effective: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entity: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<Text<'a>>,
    cause: Text<'a>,
    source_time: i64,
    at: i64,
}

/// The kind's name, as in documents and CloudEvents types.
pub fn kind_name(kind: &DecisionKind) -> &'static str {
    match kind {
        DecisionKind::IdentityMinted => "identity_minted",
        DecisionKind::RecordLinked { .. } => "record_linked",
        DecisionKind::RecordUnlinked { .. } => "record_unlinked",
        DecisionKind::RecordDisputed { .. } => "record_disputed",
        DecisionKind::Joined => "joined",
        DecisionKind::Moved => "moved",
        DecisionKind::Left => "left",
        DecisionKind::Rehired => "rehired",
        DecisionKind::Commanded { .. } => "commanded",
        DecisionKind::DeprovisionOpened { .. } => "deprovision_opened",
        DecisionKind::DeprovisionVerified { .. } => "deprovision_verified",
        DecisionKind::DeprovisionCancelled => "deprovision_cancelled",
        DecisionKind::DeprovisionRejected { .. } => "deprovision_rejected",
        DecisionKind::Held => "held",
        DecisionKind::Released { .. } => "released",
        DecisionKind::Urgent => "urgent",
        DecisionKind::AccountVerified { .. } => "account_verified",
        DecisionKind::DeadLettered { .. } => "dead_lettered",
        DecisionKind::Redriven { .. } => "redriven",
        DecisionKind::Dropped { .. } => "dropped",
        DecisionKind::RuleFailed { .. } => "rule_failed",
        DecisionKind::Quarantined { .. } => "quarantined",
        DecisionKind::QuarantineRetried { .. } => "quarantine_retried",
        DecisionKind::QuarantineSkipped { .. } => "quarantine_skipped",
        DecisionKind::BundleSwitched { .. } => "bundle_switched",
    }
}

impl<'a> From<&'a Decision> for DecisionDocument<'a> {
    fn from(decision: &'a Decision) -> Self {
        let mut document = Self {
            tenant: text(&decision.tenant.0),
            identity: decision.identity.as_ref().map(|id| text(&id.0)),
            target: decision.target.as_ref().map(|name| text(&name.0)),
            account: decision.account.as_ref().map(|id| text(&id.0)),
            generation: decision.generation.map(|generation| whole(generation.0)),
            kind: text(kind_name(&decision.kind)),
            cause: text(&decision.cause.0),
            source_time: decision.source_time.0,
            at: decision.at.0,
            ..Self::default()
        };
        document.spread(&decision.kind);
        document
    }
}

impl<'a> DecisionDocument<'a> {
    fn spread(&mut self, kind: &'a DecisionKind) {
        match kind {
            DecisionKind::RecordLinked { source, record }
            | DecisionKind::RecordUnlinked { source, record }
            | DecisionKind::RecordDisputed { source, record } => {
                (self.source, self.record) = (Some(text(source)), Some(text(record)));
            }
            DecisionKind::Commanded { op } | DecisionKind::AccountVerified { op } => self.op = Some(text(op.as_str())),
            DecisionKind::DeprovisionOpened { effective, deadline } => {
                (self.effective, self.deadline) = (Some(effective.0), Some(deadline.0));
            }
            DecisionKind::DeprovisionVerified { effective, verified } => {
                (self.effective, self.verified) = (Some(effective.0), Some(verified.0));
            }
            DecisionKind::DeprovisionRejected { operation }
            | DecisionKind::Released { operation }
            | DecisionKind::Redriven { operation }
            | DecisionKind::Dropped { operation } => self.operation = Some(text(operation)),
            DecisionKind::DeadLettered { error } => self.error = Some(text(error.as_str())),
            DecisionKind::RuleFailed { rule, reason } => {
                (self.rule, self.reason) = (Some(text(rule)), Some(text(reason)));
            }
            DecisionKind::Quarantined { entity, reason } => {
                (self.entity, self.reason) = (Some(text(entity)), Some(text(reason)));
            }
            DecisionKind::QuarantineRetried { entity, operation }
            | DecisionKind::QuarantineSkipped { entity, operation } => {
                (self.entity, self.operation) = (Some(text(entity)), Some(text(operation)));
            }
            DecisionKind::BundleSwitched { hash } => self.hash = Some(text(hash)),
            DecisionKind::IdentityMinted
            | DecisionKind::Joined
            | DecisionKind::Moved
            | DecisionKind::Left
            | DecisionKind::Rehired
            | DecisionKind::DeprovisionCancelled
            | DecisionKind::Held
            | DecisionKind::Urgent => {}
        }
    }

    fn gather(&mut self) -> Result<DecisionKind, DocumentError> {
        let take = |value: &mut Option<Text<'a>>, field| needed(value.take().map(Cow::into_owned), field);
        let time = |value: Option<i64>, field| needed(value.map(Timestamp), field);
        Ok(match &*self.kind {
            "identity_minted" => DecisionKind::IdentityMinted,
            "record_linked" => DecisionKind::RecordLinked {
                source: take(&mut self.source, "source")?,
                record: take(&mut self.record, "record")?,
            },
            "record_unlinked" => DecisionKind::RecordUnlinked {
                source: take(&mut self.source, "source")?,
                record: take(&mut self.record, "record")?,
            },
            "record_disputed" => DecisionKind::RecordDisputed {
                source: take(&mut self.source, "source")?,
                record: take(&mut self.record, "record")?,
            },
            "joined" => DecisionKind::Joined,
            "moved" => DecisionKind::Moved,
            "left" => DecisionKind::Left,
            "rehired" => DecisionKind::Rehired,
            "commanded" => DecisionKind::Commanded { op: named(needed(self.op.as_deref(), "op")?, "op")? },
            "deprovision_opened" => DecisionKind::DeprovisionOpened {
                effective: time(self.effective, "effective")?,
                deadline: time(self.deadline, "deadline")?,
            },
            "deprovision_verified" => DecisionKind::DeprovisionVerified {
                effective: time(self.effective, "effective")?,
                verified: time(self.verified, "verified")?,
            },
            "deprovision_cancelled" => DecisionKind::DeprovisionCancelled,
            "deprovision_rejected" => {
                DecisionKind::DeprovisionRejected { operation: take(&mut self.operation, "operation")? }
            }
            "held" => DecisionKind::Held,
            "released" => DecisionKind::Released { operation: take(&mut self.operation, "operation")? },
            "urgent" => DecisionKind::Urgent,
            "account_verified" => DecisionKind::AccountVerified { op: named(needed(self.op.as_deref(), "op")?, "op")? },
            "dead_lettered" => {
                DecisionKind::DeadLettered { error: named(needed(self.error.as_deref(), "error")?, "error")? }
            }
            "redriven" => DecisionKind::Redriven { operation: take(&mut self.operation, "operation")? },
            "dropped" => DecisionKind::Dropped { operation: take(&mut self.operation, "operation")? },
            "rule_failed" => DecisionKind::RuleFailed {
                rule: take(&mut self.rule, "rule")?,
                reason: take(&mut self.reason, "reason")?,
            },
            "quarantined" => DecisionKind::Quarantined {
                entity: take(&mut self.entity, "entity")?,
                reason: take(&mut self.reason, "reason")?,
            },
            "quarantine_retried" => DecisionKind::QuarantineRetried {
                entity: take(&mut self.entity, "entity")?,
                operation: take(&mut self.operation, "operation")?,
            },
            "quarantine_skipped" => DecisionKind::QuarantineSkipped {
                entity: take(&mut self.entity, "entity")?,
                operation: take(&mut self.operation, "operation")?,
            },
            "bundle_switched" => DecisionKind::BundleSwitched { hash: take(&mut self.hash, "hash")? },
            _ => return Err(DocumentError::Unknown { field: "kind" }),
        })
    }
}

impl TryFrom<DecisionDocument<'_>> for Decision {
    type Error = DocumentError;

    fn try_from(mut document: DecisionDocument<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            kind: document.gather()?,
            tenant: TenantId::new(document.tenant),
            identity: document.identity.map(IdentityId::new),
            target: document.target.map(TargetName::new),
            account: document.account.map(AccountId::new),
            generation: document.generation.map(|number| count(number, "generation")).transpose()?.map(Generation),
            cause: EventId::new(document.cause),
            source_time: Timestamp(document.source_time),
            at: Timestamp(document.at),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Alert")]
pub struct AlertDocument<'a> {
    key: Text<'a>,
    kind: Text<'a>,
    state: Text<'a>,
    tenant: Text<'a>,
    #[serde(default)]
    identity: Option<Text<'a>>,
    #[serde(default)]
    target: Option<Text<'a>>,
    #[serde(default)]
    account: Option<Text<'a>>,
    message: Text<'a>,
    since: i64,
    at: i64,
}

pub fn alert_kind_name(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::DeprovisionOverdue => "deprovision_overdue",
        AlertKind::DeadLetter => "dead_letter",
        AlertKind::GuardHolding => "guard_holding",
        AlertKind::RecordDisputed => "record_disputed",
        AlertKind::RuleFailed => "rule_failed",
        AlertKind::Quarantined => "quarantined",
        AlertKind::Drift => "drift",
    }
}

pub fn alert_state_name(state: AlertState) -> &'static str {
    match state {
        AlertState::Raised => "raised",
        AlertState::Resolved => "resolved",
    }
}

impl<'a> From<&'a Alert> for AlertDocument<'a> {
    fn from(alert: &'a Alert) -> Self {
        Self {
            key: text(&alert.key),
            kind: text(alert_kind_name(alert.kind)),
            state: text(alert_state_name(alert.state)),
            tenant: text(&alert.tenant.0),
            identity: alert.identity.as_ref().map(|id| text(&id.0)),
            target: alert.target.as_ref().map(|name| text(&name.0)),
            account: alert.account.as_ref().map(|id| text(&id.0)),
            message: text(&alert.message),
            since: alert.since.0,
            at: alert.at.0,
        }
    }
}

impl TryFrom<AlertDocument<'_>> for Alert {
    type Error = DocumentError;

    fn try_from(document: AlertDocument<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            key: document.key.into_owned(),
            kind: named(&document.kind, "kind")?,
            state: named(&document.state, "state")?,
            tenant: TenantId::new(document.tenant),
            identity: document.identity.map(IdentityId::new),
            target: document.target.map(TargetName::new),
            account: document.account.map(AccountId::new),
            message: document.message.into_owned(),
            since: Timestamp(document.since),
            at: Timestamp(document.at),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Operation")]
pub struct OperationDocument<'a> {
    id: Text<'a>,
    tenant: Text<'a>,
    actor: Text<'a>,
    at: i64,
    r#do: Text<'a>,
    #[serde(default)]
    target: Option<Text<'a>>,
    #[serde(default)]
    account: Option<Text<'a>>,
    #[serde(default)]
    identity: Option<Text<'a>>,
    #[serde(default)]
    routing_key: Option<Text<'a>>,
    #[serde(default)]
    entity: Option<Text<'a>>,
    #[serde(default)]
    position: Option<i64>,
}

pub fn action_name(action: &Action) -> &'static str {
    match action {
        Action::GuardRelease { .. } => "guard_release",
        Action::GuardReject { .. } => "guard_reject",
        Action::Redrive { .. } => "redrive",
        Action::Drop { .. } => "drop",
        Action::QuarantineRetry { .. } => "quarantine_retry",
        Action::QuarantineSkip { .. } => "quarantine_skip",
    }
}

/// The account that an action is about, where it is about one.
pub fn action_account(action: &Action) -> Option<&AccountId> {
    match action {
        Action::GuardRelease { account, .. } | Action::GuardReject { account, .. } => account.as_ref(),
        Action::Redrive { account, .. } | Action::Drop { account, .. } => Some(account),
        Action::QuarantineRetry { .. } | Action::QuarantineSkip { .. } => None,
    }
}

impl<'a> From<&'a Operation> for OperationDocument<'a> {
    fn from(operation: &'a Operation) -> Self {
        let (target, identity, routing_key) = match &operation.action {
            Action::GuardRelease { target, .. } | Action::GuardReject { target, .. } => (target.as_ref(), None, None),
            Action::Redrive { target, identity, routing_key, .. }
            | Action::Drop { target, identity, routing_key, .. } => (Some(target), Some(identity), Some(routing_key)),
            Action::QuarantineRetry { routing_key, .. } | Action::QuarantineSkip { routing_key, .. } => {
                (None, None, Some(routing_key))
            }
        };
        let (entity, position) = match &operation.action {
            Action::QuarantineRetry { entity, .. } => (Some(entity), None),
            Action::QuarantineSkip { entity, position, .. } => (Some(entity), Some(*position)),
            _ => (None, None),
        };
        Self {
            id: text(&operation.id),
            tenant: text(&operation.tenant.0),
            actor: text(&operation.actor),
            at: operation.at.0,
            r#do: text(action_name(&operation.action)),
            target: target.map(|name| text(&name.0)),
            account: action_account(&operation.action).map(|id| text(&id.0)),
            identity: identity.map(|id| text(&id.0)),
            routing_key: routing_key.map(|key| text(&key.0)),
            entity: entity.map(|entity| Cow::Owned(entity.path())),
            position: position.map(whole),
        }
    }
}

impl TryFrom<OperationDocument<'_>> for Operation {
    type Error = DocumentError;

    fn try_from(document: OperationDocument<'_>) -> Result<Self, DocumentError> {
        let target = document.target.map(|text| id(text, "target")).transpose()?;
        let account = document.account.map(|text| id(text, "account")).transpose()?;
        let identity = document.identity.map(|text| id(text, "identity")).transpose()?;
        let routing_key = document.routing_key.map(|text| id(text, "routing_key")).transpose()?;
        let entity = |path: Option<Text<'_>>| {
            let path = needed(path, "entity")?;
            EntityKey::from_path(&path).ok_or(DocumentError::Unknown { field: "entity" })
        };
        let action = match &*document.r#do {
            "guard_release" => Action::GuardRelease { target, account },
            "guard_reject" => Action::GuardReject { target, account },
            "redrive" => Action::Redrive {
                target: needed(target, "target")?,
                account: needed(account, "account")?,
                identity: needed(identity, "identity")?,
                routing_key: needed(routing_key, "routing_key")?,
            },
            "drop" => Action::Drop {
                target: needed(target, "target")?,
                account: needed(account, "account")?,
                identity: needed(identity, "identity")?,
                routing_key: needed(routing_key, "routing_key")?,
            },
            "quarantine_retry" => Action::QuarantineRetry {
                entity: entity(document.entity)?,
                routing_key: needed(routing_key, "routing_key")?,
            },
            "quarantine_skip" => Action::QuarantineSkip {
                entity: entity(document.entity)?,
                routing_key: needed(routing_key, "routing_key")?,
                position: count(needed(document.position, "position")?, "position")?,
            },
            _ => return Err(DocumentError::Unknown { field: "do" }),
        };
        Ok(Self {
            id: id(document.id, "id")?,
            tenant: id(document.tenant, "tenant")?,
            actor: document.actor.into_owned(),
            at: Timestamp(document.at),
            action,
        })
    }
}
