//! What an operator changes: every such change is an event on `operations`, so it is audited and replayed like any other.

use super::id::{AccountId, IdentityId, RoutingKey, TargetName, TenantId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique; a repeated one changes nothing more.
    pub id: String,
    pub tenant: TenantId,
    /// Who did it, as the api authenticated them; `cli` for the local token.
    pub actor: String,
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Let held removals go: one account, or all of a target, or (both None) all of the tenant.
    GuardRelease { target: Option<TargetName>, account: Option<AccountId> },
    /// Keep these accounts as they are.
    GuardReject { target: Option<TargetName>, account: Option<AccountId> },
    /// Issue afresh from the identity's current state.
    Redrive { target: TargetName, account: AccountId, identity: IdentityId, routing_key: RoutingKey },
    /// Give a dead letter up.
    Drop { target: TargetName, account: AccountId, identity: IdentityId, routing_key: RoutingKey },
}
