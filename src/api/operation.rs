//! What an operator changes, as events on `operations`: release or reject what the Guard holds, re-drive or drop a dead letter,
//! retry a quarantined entity or skip what it can't take.
//!
//! Nothing is changed here. The answer says that the operation is on the bus; what came of it is on `decisions` and in the
//! read model a moment later.

use super::{Api, Refusal, event, query};
use crate::bus::Outgoing;
use crate::model::{AccountId, Action, Operation, TargetName, TenantId, Timestamp};
use crate::rules::PublicFormat;
use crate::runtime::Quarantined;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// Who an operation is by when it came with the local token.
const ACTOR: &str = "cli";

/// Which held removals are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scope {
    target: Option<TargetName>,
    account: Option<AccountId>,
    /// All of the tenant: said in words, so that an empty request releases nothing.
    all: bool,
}

type Answer = Result<(StatusCode, Json<serde_json::Value>), Refusal>;

pub(super) async fn release(State(api): State<Arc<Api>>, Path(tenant): Path<String>, body: Bytes) -> Answer {
    guard(&api, tenant, &body, |target, account| Action::GuardRelease { target, account }).await
}

pub(super) async fn reject(State(api): State<Arc<Api>>, Path(tenant): Path<String>, body: Bytes) -> Answer {
    guard(&api, tenant, &body, |target, account| Action::GuardReject { target, account }).await
}

pub(super) async fn redrive(State(api): State<Arc<Api>>, Path((target, account)): Path<(String, String)>) -> Answer {
    dead_letter(&api, target, account, |target, account, identity, routing_key| Action::Redrive {
        target,
        account,
        identity,
        routing_key,
    })
    .await
}

pub(super) async fn drop(State(api): State<Arc<Api>>, Path((target, account)): Path<(String, String)>) -> Answer {
    dead_letter(&api, target, account, |target, account, identity, routing_key| Action::Drop {
        target,
        account,
        identity,
        routing_key,
    })
    .await
}

pub(super) async fn quarantine_retry(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    quarantine(&api, &id, |Quarantined { to, .. }| Action::QuarantineRetry {
        entity: to.entity,
        routing_key: to.routing_key,
    })
    .await
}

pub(super) async fn quarantine_skip(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    quarantine(&api, &id, |Quarantined { to, first, .. }| Action::QuarantineSkip {
        entity: to.entity,
        routing_key: to.routing_key,
        position: first,
    })
    .await
}

async fn quarantine(api: &Arc<Api>, id: &str, action: impl FnOnce(Quarantined) -> Action) -> Answer {
    let Some(marked) = api.model.read().quarantine_mark(id) else { return Err(query::not_quarantined(id)) };
    if marked.to.routing_key.as_str().is_empty() {
        let what = "its quarantine row can't be read; it is written anew within minutes";
        return Err(Refusal::unavailable(what));
    }
    let (tenant, waiting) = (marked.to.entity.tenant().clone(), marked.waiting());
    submit(api, operation(tenant, action(marked)), serde_json::json!({ "waiting": waiting })).await
}

async fn guard(
    api: &Arc<Api>,
    tenant: String,
    body: &Bytes,
    action: impl FnOnce(Option<TargetName>, Option<AccountId>) -> Action,
) -> Answer {
    let tenant = TenantId(tenant.into());
    api.knows_tenant(&tenant)?;
    let scope: Scope = match body.trim_ascii() {
        b"" => Scope::default(),
        text => serde_json::from_slice(text).map_err(|error| {
            Refusal::bad_request(
                format!("the body can't be read: {error}"),
                "send {\"target\": …}, {\"account\": …} or {\"all\": true}",
            )
        })?,
    };
    if !scope.all && scope.target.is_none() && scope.account.is_none() {
        return Err(Refusal::bad_request(
            "the request doesn't say what of the held removals it means",
            "name a \"target\" or an \"account\", or say \"all\": true",
        ));
    }
    let held = api.model.read().held(Some(&tenant)).into_iter().filter(|held| {
        scope.target.as_ref().is_none_or(|target| held.target == *target)
            && scope.account.as_ref().is_none_or(|account| held.account == *account)
    });
    let count = held.count();
    if count == 0 {
        return Err(Refusal::not_found(
            "nothing of that is held",
            "see what is with `lockstep guard list` or GET /v1/guard",
        ));
    }
    let operation = operation(tenant, action(scope.target, scope.account));
    submit(api, operation, serde_json::json!({ "held": count })).await
}

async fn dead_letter(
    api: &Arc<Api>,
    target: String,
    account: String,
    action: impl FnOnce(TargetName, AccountId, crate::model::IdentityId, crate::model::RoutingKey) -> Action,
) -> Answer {
    let (target, account) = (TargetName(target.into()), AccountId(account.into()));
    let found = api.model.read().dead_letter(&target, &account).map(|letter| letter.command.clone());
    let Some(command) = found else {
        return Err(Refusal::not_found(
            format!("no dead letter of account {:?} at target {:?}", account.as_str(), target.as_str()),
            "see which there are with `lockstep dlq list` or GET /v1/dead-letters",
        ));
    };
    let operation = operation(command.tenant, action(target, account, command.identity, command.routing_key));
    submit(api, operation, serde_json::json!({})).await
}

fn operation(tenant: TenantId, action: Action) -> Operation {
    let at = Timestamp(jiff::Timestamp::now().as_millisecond());
    Operation { id: uuid::Uuid::new_v4().to_string(), tenant, actor: ACTOR.to_owned(), at, action }
}

async fn submit(api: &Arc<Api>, operation: Operation, mut answer: serde_json::Value) -> Answer {
    let topic = api.topics.operations();
    let encoded = api
        .codec
        .encode(PublicFormat::Json, &topic, &operation)
        .map_err(|error| Refusal::unavailable(format!("the operation can't be written: {error}")))?;
    let record = Outgoing {
        topic,
        partition: None,
        key: Some(operation.id.clone().into_bytes()),
        value: Some(encoded.value.into()),
        headers: encoded.headers,
    };
    event::append(api, vec![record]).await?;
    tracing::info!(operation = operation.id, tenant = %operation.tenant, "operation submitted");
    answer["operation"] = operation.id.into();
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
