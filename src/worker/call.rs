//! One call to a target, from the read before it to the read-back after it.

use crate::connector::{Applied, CallError, Change, Connector, Lookup, Observed};
use crate::lane::{Call, Ended};
use crate::model::{AccountId, Command, ErrorClass, Generation, Op, Value};
use dashmap::DashMap;
use futures::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::timeout;

/// The newest generation of each account that has a call under way or waiting: the poller writes it, a call looks just
/// before it changes anything, so that an update is not made when the leaver's disable is here already.
pub type Newest = DashMap<AccountId, Generation>;

/// Makes the call. Each exchange with the target has `limit` as its time-out. A connector that panics ends this call and no
/// other: what came of it is to be read, and without an end its lane would wait for ever.
pub async fn make(connector: &dyn Connector, call: &Call, newest: &Newest, limit: Duration) -> Ended {
    let made = AssertUnwindSafe(exchange(connector, call, newest, limit)).catch_unwind().await;
    made.unwrap_or_else(|_| Ended::Failed {
        class: ErrorClass::UnknownOutcome,
        message: "the connector panicked, which is a bug; the log has the place".to_owned(),
        retry_after: None,
    })
}

async fn exchange(connector: &dyn Connector, call: &Call, newest: &Newest, limit: Duration) -> Ended {
    let command = &call.command;
    let lookup = lookup(command, call.external_id.clone());
    let mut observed = None;
    if call.read_first || call.op == Op::Verify {
        observed = match read(connector, &lookup, limit).await {
            Ok(observed) => observed,
            Err(error) => return failed(error),
        };
        let names = connector.differences(call.op, &command.desired, &command.revoked, observed.as_ref());
        if names.is_empty() {
            return Ended::Verified { external_id: observed.map(|observed| observed.external_id) };
        }
        if call.check || call.op == Op::Verify {
            return Ended::Differs { names, external_id: observed.map(|observed| observed.external_id) };
        }
    }
    if newest.get(&command.account).is_some_and(|newest| *newest > command.generation) {
        return Ended::Superseded;
    }
    let change = Change {
        op: call.op,
        lookup: lookup.clone(),
        desired: command.desired.clone(),
        revoked: command.revoked.clone(),
        observed,
        idempotency_key: command.idempotency_key(),
    };
    let applied = match within(limit, connector.apply(&change)).await {
        Ok(applied) => applied,
        // Nothing to take away: what counts is what a read shows.
        Err(error) if error.class == ErrorClass::AlreadyGone && call.op.is_deprovision() => {
            Applied { external_id: None }
        }
        Err(error) => return failed(error),
    };
    let lookup = Lookup { external_id: applied.external_id.or(lookup.external_id), ..lookup };
    match read(connector, &lookup, limit).await {
        Ok(observed) => {
            let names = connector.differences(call.op, &command.desired, &command.revoked, observed.as_ref());
            let external_id = observed.map(|observed| observed.external_id).or(lookup.external_id);
            if names.is_empty() { Ended::Verified { external_id } } else { Ended::Differs { names, external_id } }
        }
        // It was applied, as far as the target says; what is missing is the proof.
        Err(error) => Ended::Failed {
            class: ErrorClass::UnknownOutcome,
            message: format!("applied, but it can't be read back: {error}"),
            retry_after: error.retry_after,
        },
    }
}

fn lookup(command: &Command, external_id: Option<String>) -> Lookup {
    let matched = match command.desired.attributes.get(&command.match_on) {
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(Value::Int(int)) => Some(int.to_string()),
        _ => None,
    };
    Lookup {
        account: command.account.clone(),
        external_id,
        match_on: matched.map(|value| (command.match_on.clone(), value)),
    }
}

async fn read(connector: &dyn Connector, lookup: &Lookup, limit: Duration) -> Result<Option<Observed>, CallError> {
    within(limit, connector.read(lookup)).await
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        Err(CallError::new(ErrorClass::UnknownOutcome, format!("no answer within {} ms", limit.as_millis())))
    })
}

fn failed(error: CallError) -> Ended {
    Ended::Failed { class: error.class, message: error.message, retry_after: error.retry_after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::{Capabilities, Page};
    use crate::model::{Attributes, Cause, Desired, Entitlements, Intent, RoutingKey, TenantId, Timestamp};
    use std::collections::BTreeSet;

    /// A target whose connector has a bug.
    struct Broken;

    #[async_trait::async_trait]
    impl Connector for Broken {
        fn capabilities(&self) -> Capabilities {
            Capabilities { groups: false, disable: true, delete: true, list: false, owner: true }
        }

        async fn read(&self, _: &Lookup) -> Result<Option<Observed>, CallError> {
            Ok(None)
        }

        async fn apply(&self, _: &Change) -> Result<Applied, CallError> {
            tokio::task::yield_now().await;
            panic!("a bug of the connector's");
        }

        async fn list(&self, _: Option<&str>) -> Result<Page, CallError> {
            unreachable!("a call lists nothing")
        }

        fn differences(&self, _: Op, _: &Desired, _: &BTreeSet<String>, _: Option<&Observed>) -> Vec<String> {
            vec!["active".to_owned()]
        }
    }

    #[tokio::test]
    async fn a_connector_that_panics_ends_its_call_with_an_outcome_that_has_to_be_read() {
        let command = Command {
            tenant: TenantId::from("acme"),
            target: "wiki".into(),
            account: "a".into(),
            identity: "i".into(),
            intent: Intent::default_intent(),
            routing_key: RoutingKey::of(&"acme".into(), "1"),
            external_id: None,
            generation: Generation(1),
            op: Op::Create,
            desired: Desired { active: true, attributes: Attributes::default(), entitlements: Entitlements::default() },
            revoked: BTreeSet::new(),
            match_on: "login".into(),
            deadline: Timestamp(0),
            deprovision: None,
            issued: Timestamp(0),
            cause: Cause::own("e".into(), Timestamp(0)),
        };
        let call =
            Call { command: Box::new(command), op: Op::Create, external_id: None, read_first: false, check: false };
        let ended = make(&Broken, &call, &Newest::new(), Duration::from_secs(5)).await;
        let Ended::Failed { class, message, .. } = ended else { panic!("{ended:?}") };
        assert_eq!((class, message.contains("panicked")), (ErrorClass::UnknownOutcome, true));
    }
}
