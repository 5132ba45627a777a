//! What a worker is told to make true: always full desired state, never a delta.

use super::event::Cause;
use super::id::{AccountId, Generation, IdentityId, Intent, RoutingKey, TargetName, TenantId};
use super::time::Timestamp;
use super::value::Attributes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Create,
    Update,
    Disable,
    Enable,
    Delete,
    /// Read and compare; change nothing.
    Verify,
}

impl Op {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Delete => "delete",
            Self::Verify => "verify",
        }
    }

    /// Access is taken away: timed, verified each time, and run before everything else.
    pub fn is_deprovision(self) -> bool {
        matches!(self, Self::Disable | Self::Delete)
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The account as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    pub active: bool,
    pub attributes: Attributes,
    pub entitlements: Entitlements,
}

/// The groups an account should be in, and how far Lockstep's say reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlements {
    pub groups: BTreeSet<String>,
    pub universe: Universe,
}

/// Which memberships may be taken away: never any group outside of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Universe {
    /// Add what is missing, remove nothing but what Lockstep's own former command granted (`revoked`).
    #[default]
    Additive,
    /// These groups are Lockstep's alone: a member that no rule grants is removed. Groups not named are left alone.
    Authoritative(BTreeSet<String>),
}

/// The clock of a deprovision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprovision {
    /// From when on the person must be out: the source event's time, or the end date if later; never ahead of when it was handled.
    pub effective: Timestamp,
    pub deadline: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub tenant: TenantId,
    pub target: TargetName,
    pub account: AccountId,
    pub identity: IdentityId,
    pub intent: Intent,
    /// The routing key of the identity: comes back in the result.
    pub routing_key: RoutingKey,
    /// The target's own id of the account, once known.
    pub external_id: Option<String>,
    pub generation: Generation,
    pub op: Op,
    pub desired: Desired,
    /// Groups that a former command granted and this one no longer does: to be removed even under `additive`.
    pub revoked: BTreeSet<String>,
    /// The attribute by which an account that exists already is found.
    pub match_on: String,
    pub deadline: Timestamp,
    /// The clock of a deprovision that is open: on a disable or delete, and on an update of an account whose disable isn't
    /// verified yet.
    pub deprovision: Option<Deprovision>,
    pub issued: Timestamp,
    pub cause: Cause,
}

impl Command {
    pub fn idempotency_key(&self) -> String {
        self.account.idempotency_key(self.generation)
    }
}
