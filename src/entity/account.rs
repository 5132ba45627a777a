//! Account: an identity's presence in one target. Its row, and what follows from what is wanted of it.

use super::key;
use crate::model::{
    AccountId, Deprovision, Desired, ErrorClass, Generation, Op, Outcome, TargetName, TenantId, Timestamp,
};
use crate::model::{IdentityId, Intent, envelope};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The row `account/<target>` of an identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountRow {
    pub account: AccountId,
    pub target: TargetName,
    /// Of the last command.
    pub generation: Generation,
    pub state: AccountState,
    /// As last commanded; under `Disabled` it is what it was before, with `active` false.
    pub desired: Option<Desired>,
    pub external_id: Option<String>,
    pub last: Option<LastResult>,
    pub removal: Removal,
    pub clock: Option<Clock>,
    /// A disabled account is deleted then, if its person has not come back.
    pub delete_due: Option<Timestamp>,
    /// Its last command is a dead letter.
    pub dead: bool,
    /// Drift was seen and is not mended yet.
    pub drifted: bool,
    /// It was disabled before what was commanded last had been verified: the target may show it as it was earlier.
    #[serde(deserialize_with = "envelope::or_default")]
    pub behind: bool,
    /// Since when its disable has been in effect, of a disabled account: its grace runs from then.
    #[serde(deserialize_with = "envelope::or_default")]
    pub disabled_since: Option<Timestamp>,
}

/// What the last command makes of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountState {
    Absent,
    Present,
    Disabled,
}

impl AccountState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Present => "active",
            Self::Disabled => "disabled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastResult {
    pub generation: Generation,
    pub op: Op,
    pub outcome: Outcome,
    pub error: Option<ErrorClass>,
    pub at: Timestamp,
}

/// How far the removal of access has come. While one is asked for or held the account is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    None,
    Asked {
        epoch: u64,
        op: Op,
    },
    Held {
        epoch: u64,
        op: Op,
        since: Timestamp,
    },
    /// A person said no; not asked again until access was wanted anew in between, or somebody who had merely gone out of
    /// scope leaves altogether.
    Rejected {
        left: bool,
    },
    /// The Guard let a disabled account be made for somebody who left before having any: the next evaluation makes it.
    Permitted,
}

/// The clock of an open deprovision: runs from the effective time until the result is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    pub effective: Timestamp,
    pub deadline: Timestamp,
    pub overdue: bool,
    /// The command that is to stop it; None while it waits for the Guard.
    pub generation: Option<Generation>,
}

impl Clock {
    pub fn deprovision(&self) -> Deprovision {
        Deprovision { effective: self.effective, deadline: self.deadline }
    }
}

impl AccountRow {
    pub fn new(tenant: &TenantId, target: &TargetName, identity: &IdentityId) -> Self {
        Self {
            account: AccountId::of(tenant, target, identity, &Intent::default_intent()),
            target: target.clone(),
            generation: Generation::default(),
            state: AccountState::Absent,
            desired: None,
            external_id: None,
            last: None,
            removal: Removal::None,
            clock: None,
            delete_due: None,
            dead: false,
            drifted: false,
            behind: false,
            disabled_since: None,
        }
    }

    /// The target shows what was commanded last.
    pub fn is_verified(&self) -> bool {
        let verified = |last: &LastResult| last.generation == self.generation && last.outcome == Outcome::Verified;
        self.last.as_ref().is_some_and(verified)
    }

    /// Whether something about it waits for an end that figures and alerts are about.
    pub fn is_open(&self) -> bool {
        self.dead || self.clock.is_some()
    }

    pub fn row(target: &TargetName) -> SmolStr {
        key::name(&["account/", target.as_str()])
    }

    /// What has to be commanded so that the account becomes as wanted; None: it is so already.
    pub fn op_towards(&self, desired: &Desired) -> Option<Op> {
        match self.state {
            AccountState::Absent => Some(Op::Create),
            AccountState::Disabled => Some(Op::Enable),
            AccountState::Present if self.desired.as_ref() == Some(desired) => None,
            AccountState::Present => Some(Op::Update),
        }
    }

    /// The removal of access is asked for or held.
    pub fn is_frozen(&self) -> bool {
        matches!(self.removal, Removal::Asked { .. } | Removal::Held { .. })
    }

    /// Nothing was ever commanded of it.
    pub fn is_new(&self) -> bool {
        self.generation == Generation::default()
    }

    /// The removal that was asked for, if `epoch` is its request's.
    pub fn asked(&self, epoch: u64) -> Option<Op> {
        match self.removal {
            Removal::Asked { epoch: of, op } | Removal::Held { epoch: of, op, .. } if of == epoch => Some(op),
            _ => None,
        }
    }
}
