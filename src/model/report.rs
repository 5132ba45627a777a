//! What Lockstep says of its own work: results of commands, dead letters, decisions (the audit) and alerts.
//!
//! None of it holds attribute values: an id, a class of error and a sentence for the operator are enough.

use super::command::{Command, Op};
use super::id::{AccountId, EventId, Generation, IdentityId, RoutingKey, TargetName, TenantId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What came of a command, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Applied, and read back equal.
    Verified,
    /// Applied; to be verified later, by batch or sample.
    Accepted,
    /// Said to be applied, but reading back shows otherwise; the lane goes on trying.
    FalseSuccess,
    /// Failed for now; the lane tries again at `retry_at`.
    Parked,
    /// Not carried out because a newer generation took its place.
    Superseded,
    /// Needs a person or a changed cause.
    DeadLettered,
    /// A later read-back found what was once verified undone.
    Drifted,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Verified,
        Self::Accepted,
        Self::FalseSuccess,
        Self::Parked,
        Self::Superseded,
        Self::DeadLettered,
        Self::Drifted,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Accepted => "accepted",
            Self::FalseSuccess => "false_success",
            Self::Parked => "parked",
            Self::Superseded => "superseded",
            Self::DeadLettered => "dead_lettered",
            Self::Drifted => "drifted",
        }
    }
}

/// Why a call to a target failed. What follows from each is in one table: `lane::policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    Throttled,
    Credentials,
    Permission,
    Uniqueness,
    AlreadyThere,
    AlreadyGone,
    MissingOnUpdate,
    Invalid,
    Unsupported,
    VersionConflict,
    ServerFault,
    Unreachable,
    UnknownOutcome,
    Partial,
    FalseSuccess,
    Capacity,
    Dependency,
}

impl ErrorClass {
    pub const ALL: [Self; 17] = [
        Self::Throttled,
        Self::Credentials,
        Self::Permission,
        Self::Uniqueness,
        Self::AlreadyThere,
        Self::AlreadyGone,
        Self::MissingOnUpdate,
        Self::Invalid,
        Self::Unsupported,
        Self::VersionConflict,
        Self::ServerFault,
        Self::Unreachable,
        Self::UnknownOutcome,
        Self::Partial,
        Self::FalseSuccess,
        Self::Capacity,
        Self::Dependency,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Credentials => "credentials",
            Self::Permission => "permission",
            Self::Uniqueness => "uniqueness",
            Self::AlreadyThere => "already_there",
            Self::AlreadyGone => "already_gone",
            Self::MissingOnUpdate => "missing_on_update",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::VersionConflict => "version_conflict",
            Self::ServerFault => "server_fault",
            Self::Unreachable => "unreachable",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Partial => "partial",
            Self::FalseSuccess => "false_success",
            Self::Capacity => "capacity",
            Self::Dependency => "dependency",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultEvent {
    pub tenant: TenantId,
    pub target: TargetName,
    pub account: AccountId,
    pub identity: IdentityId,
    pub routing_key: RoutingKey,
    pub generation: Generation,
    pub op: Op,
    pub outcome: Outcome,
    pub external_id: Option<String>,
    pub error: Option<ErrorClass>,
    /// For the operator; no attribute values.
    pub message: Option<String>,
    /// Calls made for this command so far, from 1.
    pub attempt: u32,
    pub retry_at: Option<Timestamp>,
    pub at: Timestamp,
    /// The time of the source event that caused the command.
    pub source_time: Timestamp,
    /// The effective time, on a deprovision.
    pub effective: Option<Timestamp>,
    pub traceparent: Option<String>,
}

/// A command that needs a person or a changed cause. Keyed by account: a tombstone says that it is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub command: Command,
    pub error: ErrorClass,
    pub message: String,
    pub attempts: u32,
    pub at: Timestamp,
}

/// One line of the audit: what was decided for whom, and why. No attribute values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub tenant: TenantId,
    pub identity: Option<IdentityId>,
    pub target: Option<TargetName>,
    pub account: Option<AccountId>,
    pub generation: Option<Generation>,
    pub kind: DecisionKind,
    pub cause: EventId,
    pub source_time: Timestamp,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    IdentityMinted,
    RecordLinked {
        source: String,
        record: String,
    },
    RecordUnlinked {
        source: String,
        record: String,
    },
    RecordDisputed {
        source: String,
        record: String,
    },
    Joined,
    Moved,
    Left,
    Rehired,
    Commanded {
        op: Op,
    },
    DeprovisionOpened {
        effective: Timestamp,
        deadline: Timestamp,
    },
    DeprovisionVerified {
        effective: Timestamp,
        verified: Timestamp,
    },
    DeprovisionCancelled,
    DeprovisionRejected {
        operation: String,
    },
    Held,
    Released {
        operation: String,
    },
    Urgent,
    AccountVerified {
        op: Op,
    },
    DeadLettered {
        error: ErrorClass,
    },
    Redriven {
        operation: String,
    },
    Dropped {
        operation: String,
    },
    RuleFailed {
        rule: String,
        reason: String,
    },
    Quarantined {
        entity: String,
        reason: String,
    },
    /// An operator had a quarantined entity tried again before its time.
    QuarantineRetried {
        entity: String,
        operation: String,
    },
    /// An operator gave up the message that a quarantined entity couldn't take; it is on `source-dead-letters`.
    QuarantineSkipped {
        entity: String,
        operation: String,
    },
    BundleSwitched {
        hash: String,
    },
}

/// An event on `alerts`: one when something needs a person, one when it no longer does. Keyed by `key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The same for raised and resolved, so that a pager can join them.
    pub key: String,
    pub kind: AlertKind,
    pub state: AlertState,
    pub tenant: TenantId,
    pub identity: Option<IdentityId>,
    pub target: Option<TargetName>,
    pub account: Option<AccountId>,
    pub message: String,
    /// Since when what is alerted on has been so.
    pub since: Timestamp,
    pub at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    DeprovisionOverdue,
    DeadLetter,
    GuardHolding,
    RecordDisputed,
    RuleFailed,
    Quarantined,
    Drift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    Raised,
    Resolved,
}
