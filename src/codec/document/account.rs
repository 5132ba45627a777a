//! Documents about one account: commands, results, dead letters.

use super::{DocumentError, PlainAttributes, Text, count, id, millis, named, names, set, small_count, text, whole};
use crate::model::{
    BundleHash, Cause, Command, DeadLetter, Deprovision, Desired, Entitlements, EventId, Generation, ResultEvent,
    SourceName, Timestamp, Universe,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

const ADDITIVE: &str = "additive";
const AUTHORITATIVE: &str = "authoritative";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Command")]
pub struct CommandDocument<'a> {
    idempotency_key: Text<'a>,
    tenant: Text<'a>,
    target: Text<'a>,
    account: Text<'a>,
    identity: Text<'a>,
    intent: Text<'a>,
    routing_key: Text<'a>,
    #[serde(default)]
    external_id: Option<Text<'a>>,
    generation: i64,
    op: Text<'a>,
    desired: DesiredDocument<'a>,
    #[serde(default)]
    revoked: Vec<Text<'a>>,
    match_on: Text<'a>,
    deadline: i64,
    #[serde(default)]
    deprovision: Option<DeprovisionDocument>,
    issued: i64,
    cause: CauseDocument<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Desired")]
struct DesiredDocument<'a> {
    active: bool,
    attributes: PlainAttributes<'a>,
    entitlements: EntitlementsDocument<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Entitlements")]
struct EntitlementsDocument<'a> {
    mode: Text<'a>,
    groups: Vec<Text<'a>>,
    #[serde(default)]
    universe: Vec<Text<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Deprovision")]
struct DeprovisionDocument {
    effective: i64,
    deadline: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Cause")]
struct CauseDocument<'a> {
    event: Text<'a>,
    source: Text<'a>,
    time: i64,
    #[serde(default)]
    bundle: Option<Text<'a>>,
    #[serde(default)]
    traceparent: Option<Text<'a>>,
}

impl<'a> From<&'a Command> for CommandDocument<'a> {
    fn from(command: &'a Command) -> Self {
        Self {
            idempotency_key: Cow::Owned(command.idempotency_key()),
            tenant: text(&command.tenant.0),
            target: text(&command.target.0),
            account: text(&command.account.0),
            identity: text(&command.identity.0),
            intent: text(&command.intent.0),
            routing_key: text(&command.routing_key.0),
            external_id: command.external_id.as_deref().map(text),
            generation: whole(command.generation.0),
            op: text(command.op.as_str()),
            desired: DesiredDocument {
                active: command.desired.active,
                attributes: PlainAttributes(Cow::Borrowed(&command.desired.attributes)),
                entitlements: (&command.desired.entitlements).into(),
            },
            revoked: names(&command.revoked),
            match_on: text(&command.match_on),
            deadline: command.deadline.0,
            deprovision: command
                .deprovision
                .map(|clock| DeprovisionDocument { effective: clock.effective.0, deadline: clock.deadline.0 }),
            issued: command.issued.0,
            cause: CauseDocument {
                event: text(&command.cause.event.0),
                source: text(&command.cause.source.0),
                time: command.cause.time.0,
                bundle: command.cause.bundle.as_ref().map(|hash| text(&hash.0)),
                traceparent: command.cause.traceparent.as_deref().map(text),
            },
        }
    }
}

impl<'a> From<&'a Entitlements> for EntitlementsDocument<'a> {
    fn from(entitlements: &'a Entitlements) -> Self {
        let (mode, universe) = match &entitlements.universe {
            Universe::Additive => (ADDITIVE, Vec::new()),
            Universe::Authoritative(universe) => (AUTHORITATIVE, names(universe)),
        };
        Self { mode: text(mode), groups: names(&entitlements.groups), universe }
    }
}

impl TryFrom<EntitlementsDocument<'_>> for Entitlements {
    type Error = DocumentError;

    fn try_from(document: EntitlementsDocument<'_>) -> Result<Self, DocumentError> {
        let universe = match &*document.mode {
            ADDITIVE => Universe::Additive,
            AUTHORITATIVE => Universe::Authoritative(set(document.universe)),
            _ => return Err(DocumentError::Unknown { field: "mode" }),
        };
        Ok(Self { groups: set(document.groups), universe })
    }
}

impl TryFrom<CommandDocument<'_>> for Command {
    type Error = DocumentError;

    fn try_from(document: CommandDocument<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            tenant: id(document.tenant, "tenant")?,
            target: id(document.target, "target")?,
            account: id(document.account, "account")?,
            identity: id(document.identity, "identity")?,
            intent: id(document.intent, "intent")?,
            routing_key: id(document.routing_key, "routing_key")?,
            external_id: document.external_id.map(Cow::into_owned),
            generation: Generation(count(document.generation, "generation")?),
            op: named(&document.op, "op")?,
            desired: Desired {
                active: document.desired.active,
                attributes: document.desired.attributes.0.into_owned(),
                entitlements: document.desired.entitlements.try_into()?,
            },
            revoked: set(document.revoked),
            match_on: document.match_on.into_owned(),
            deadline: Timestamp(document.deadline),
            deprovision: document.deprovision.map(|clock| Deprovision {
                effective: Timestamp(clock.effective),
                deadline: Timestamp(clock.deadline),
            }),
            issued: Timestamp(document.issued),
            cause: Cause {
                event: EventId::new(document.cause.event),
                source: SourceName::new(document.cause.source),
                time: Timestamp(document.cause.time),
                bundle: document.cause.bundle.map(BundleHash::new),
                traceparent: document.cause.traceparent.map(Cow::into_owned),
            },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "Result")]
pub struct ResultDocument<'a> {
    idempotency_key: Text<'a>,
    tenant: Text<'a>,
    target: Text<'a>,
    account: Text<'a>,
    identity: Text<'a>,
    routing_key: Text<'a>,
    generation: i64,
    op: Text<'a>,
    outcome: Text<'a>,
    #[serde(default)]
    external_id: Option<Text<'a>>,
    #[serde(default)]
    error: Option<Text<'a>>,
    #[serde(default)]
    message: Option<Text<'a>>,
    attempt: i64,
    #[serde(default)]
    retry_at: Option<i64>,
    at: i64,
    source_time: i64,
    #[serde(default)]
    effective: Option<i64>,
    #[serde(default)]
    traceparent: Option<Text<'a>>,
}

impl<'a> From<&'a ResultEvent> for ResultDocument<'a> {
    fn from(result: &'a ResultEvent) -> Self {
        Self {
            idempotency_key: Cow::Owned(result.account.idempotency_key(result.generation)),
            tenant: text(&result.tenant.0),
            target: text(&result.target.0),
            account: text(&result.account.0),
            identity: text(&result.identity.0),
            routing_key: text(&result.routing_key.0),
            generation: whole(result.generation.0),
            op: text(result.op.as_str()),
            outcome: text(result.outcome.as_str()),
            external_id: result.external_id.as_deref().map(text),
            error: result.error.map(|class| text(class.as_str())),
            message: result.message.as_deref().map(text),
            attempt: i64::from(result.attempt),
            retry_at: millis(result.retry_at),
            at: result.at.0,
            source_time: result.source_time.0,
            effective: millis(result.effective),
            traceparent: result.traceparent.as_deref().map(text),
        }
    }
}

impl TryFrom<ResultDocument<'_>> for ResultEvent {
    type Error = DocumentError;

    fn try_from(document: ResultDocument<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            tenant: id(document.tenant, "tenant")?,
            target: id(document.target, "target")?,
            account: id(document.account, "account")?,
            identity: id(document.identity, "identity")?,
            routing_key: id(document.routing_key, "routing_key")?,
            generation: Generation(count(document.generation, "generation")?),
            op: named(&document.op, "op")?,
            outcome: named(&document.outcome, "outcome")?,
            external_id: document.external_id.map(Cow::into_owned),
            error: document.error.map(|class| named(&class, "error")).transpose()?,
            message: document.message.map(Cow::into_owned),
            attempt: small_count(document.attempt, "attempt")?,
            retry_at: document.retry_at.map(Timestamp),
            at: Timestamp(document.at),
            source_time: Timestamp(document.source_time),
            effective: document.effective.map(Timestamp),
            traceparent: document.traceparent.map(Cow::into_owned),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename = "DeadLetter")]
pub struct DeadLetterDocument<'a> {
    command: CommandDocument<'a>,
    error: Text<'a>,
    message: Text<'a>,
    attempts: i64,
    at: i64,
}

impl<'a> From<&'a DeadLetter> for DeadLetterDocument<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        Self {
            command: (&letter.command).into(),
            error: text(letter.error.as_str()),
            message: text(&letter.message),
            attempts: i64::from(letter.attempts),
            at: letter.at.0,
        }
    }
}

impl TryFrom<DeadLetterDocument<'_>> for DeadLetter {
    type Error = DocumentError;

    fn try_from(document: DeadLetterDocument<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            command: document.command.try_into()?,
            error: named(&document.error, "error")?,
            message: document.message.into_owned(),
            attempts: small_count(document.attempts, "attempts")?,
            at: Timestamp(document.at),
        })
    }
}
