//! One call to a target, from the read before it to the read-back after it.

use crate::connector::{Applied, CallError, Change, Connector, Lookup, Observed};
use crate::lane::{Call, Ended};
use crate::model::{AccountId, Command, ErrorClass, Generation, Op, Value};
use dashmap::DashMap;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// The newest generation of each account that has a call under way or waiting: the poller writes it, a call looks just
/// before it changes anything, so that an update is not made when the leaver's disable is here already.
pub type Newest = DashMap<AccountId, Generation>;

/// Makes the call. Each exchange with the target has `limit` as its time-out.
pub async fn make(connector: &dyn Connector, call: &Call, newest: &Newest, limit: Duration) -> Ended {
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
