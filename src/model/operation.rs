//! What an operator changes: every such change is an event on `operations`, so it is audited and replayed like any other.

use super::id::{AccountId, IdentityId, RoutingKey, TargetName, TenantId};
use super::message::EntityKey;
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
    /// Try a quarantined entity again now.
    QuarantineRetry { entity: EntityKey, routing_key: RoutingKey },
    /// Give up the message that a quarantined entity can't take, and try the next. `position` is that message's, so that an
    /// order that comes twice skips no second one.
    QuarantineSkip { entity: EntityKey, routing_key: RoutingKey, position: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::envelope::{open, seal};
    use crate::model::{Address, Body, Cause, InboxRecord, Message};

    #[test]
    fn every_operation_gets_through_the_inbox() {
        let (target, account) = (TargetName::from("directory"), AccountId::from("a"));
        let (identity, routing_key) = (IdentityId::from("i"), RoutingKey::from("acme/1"));
        for action in [
            Action::GuardRelease { target: None, account: None },
            Action::GuardReject { target: Some(target.clone()), account: Some(account.clone()) },
            Action::Redrive {
                target: target.clone(),
                account: account.clone(),
                identity: identity.clone(),
                routing_key: routing_key.clone(),
            },
            Action::Drop { target, account, identity, routing_key: routing_key.clone() },
            Action::QuarantineRetry {
                entity: EntityKey::Guard { tenant: "acme".into() },
                routing_key: routing_key.clone(),
            },
            Action::QuarantineSkip {
                entity: EntityKey::Identity { tenant: "acme".into(), identity: "i".into() },
                routing_key,
                position: 3,
            },
        ] {
            let operation =
                Operation { id: "o".into(), tenant: "acme".into(), actor: "cli".into(), at: Timestamp(1), action };
            let to = Address::guard("acme".into());
            let cause = Cause::own("operation:o".to_owned(), Timestamp(1));
            let record = InboxRecord::Message(Message { to, body: Body::Operation(operation.into()), cause });
            assert_eq!(open::<InboxRecord>(&seal(&record)), Ok(record));
        }
    }
}
