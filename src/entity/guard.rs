//! Guard: the sliding-window valve on removals, one for each tenant.
//!
//! It counts by arrival, per source and target, in slices of the window: a slice counts in full until all of it has left
//! the window, so the sum of what is let through never exceeds the limit in any window. What is over the limit is held until a
//! person releases or rejects it. An urgent removal goes through, and counts.

use super::key::{self, HEAD};
use super::step::{Step, StepError};
use crate::model::{
    AccountId, Action, Address, Alert, AlertKind, AlertState, Body, CLOCKS_APART, Operation, PermitAnswer, SourceName,
    TargetName, TenantId, Timestamp, envelope,
};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};

/// Slices of a window: bounds the head's size and the coarseness of the count.
const SLICES: u32 = 60;
/// Held removals that one step looks at; the rest follow in further steps.
const BATCH: usize = 100;
/// Operations whose ids are remembered: they fit into one row, however long the ids are that others gave them.
const REMEMBERED: usize = 256;
/// The row of them.
const OPERATIONS: &str = "operations";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardHead {
    /// By `<source>/<target>`: what was let through, by the slice's start.
    pub windows: BTreeMap<String, Vec<(Timestamp, u32)>>,
    /// How many are held, by target.
    pub held: BTreeMap<TargetName, u64>,
    /// What was held by then, the last answer of a person was about. What is held after it has a later time, whatever the clock says.
    #[serde(deserialize_with = "envelope::or_default")]
    pub answered: Timestamp,
}

/// The row `held/<account>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub asker: Address,
    pub account: AccountId,
    pub target: TargetName,
    pub source: SourceName,
    pub epoch: u64,
    pub since: Timestamp,
    pub cause: String,
}

/// The row `operations`: what was carried out. One that comes again, for its sender got no answer or the group's offsets were lost,
/// must not be about who is held by then.
#[derive(Debug, Default, Serialize, Deserialize)]
struct CarriedOut {
    /// The newest, by when they were given.
    ids: BTreeSet<(Timestamp, String)>,
    /// When the last of those that are forgotten was given.
    forgotten: Timestamp,
}

impl CarriedOut {
    /// Whether it is there for the first time; it is remembered then. One that is as old as what is forgotten is a repeated one, for
    /// operations lie in one partition, in the order in which they were given; by several clocks, so not within the last minute.
    fn is_first(&mut self, operation: &Operation, now: Timestamp) -> bool {
        let at = operation.at.min(now);
        let is_old = at <= self.forgotten && self.forgotten.plus(CLOCKS_APART) <= now;
        if is_old || self.ids.iter().any(|(_, id)| *id == operation.id) {
            return false;
        }
        self.ids.insert((at, operation.id.clone()));
        if self.ids.len() > REMEMBERED
            && let Some((at, _)) = self.ids.pop_first()
        {
            self.forgotten = self.forgotten.max(at);
        }
        true
    }
}

pub(super) fn step(step: &mut Step, me: &Address, tenant: &TenantId, body: Body) -> Result<(), StepError> {
    let mut head = step.get::<GuardHead>(HEAD)?.unwrap_or_default();
    match body {
        Body::PermitRequest { asker, target, account, source, epoch, urgent } => {
            let since = step.now.max(after(head.answered));
            let held =
                Held { asker: *asker, account, target, source, epoch, since, cause: step.cause.event.0.to_string() };
            request(step, tenant, &mut head, held, urgent);
        }
        Body::Withdraw { account, epoch } => {
            if let Some(held) = step.get::<Held>(&row_of(&account))?
                && held.epoch == epoch
            {
                forget(step, tenant, &mut head, &held);
            }
        }
        Body::Operation(operation) => {
            let mut carried_out = step.get::<CarriedOut>(OPERATIONS)?.unwrap_or_default();
            if !carried_out.is_first(&operation, step.now) {
                return Ok(());
            }
            step.put(OPERATIONS, &carried_out);
            head.answered = step.now.max(after(head.answered));
            let cutoff = head.answered;
            answer(step, me, tenant, &mut head, &operation, cutoff, "")?;
        }
        Body::Continue { job, cursor } => {
            // The former release's cursor has no row in it: it began at the first each time.
            let (cutoff, after) = cursor.split_once(' ').unwrap_or((&cursor, ""));
            if let (Ok(operation), Ok(cutoff)) = (serde_json::from_str::<Operation>(&job), cutoff.parse()) {
                answer(step, me, tenant, &mut head, &operation, Timestamp(cutoff), after)?;
            }
        }
        _ => return Err(StepError::Misdirected { entity: "guard", message: "a message for another kind of entity" }),
    }
    step.put(HEAD, &head);
    Ok(())
}

/// The next moment.
fn after(time: Timestamp) -> Timestamp {
    Timestamp(time.0 + 1)
}

fn request(step: &mut Step, tenant: &TenantId, head: &mut GuardHead, held: Held, urgent: bool) {
    let limit = step.rules.guard(&held.target);
    let slice = (limit.window / SLICES).max(std::time::Duration::from_millis(1));
    let window = head.windows.entry(format!("{}/{}", held.source, held.target)).or_default();
    window.retain(|(start, _)| start.plus(slice).plus(limit.window) > step.now);
    let passed: u64 = window.iter().map(|(_, count)| u64::from(*count)).sum();
    if urgent || passed < u64::from(limit.limit) {
        match window.last_mut() {
            Some((start, count)) if step.now < start.plus(slice) => *count += 1,
            _ => window.push((step.now, 1)),
        }
        permit(step, &held, PermitAnswer::Granted);
        return;
    }
    let count = head.held.entry(held.target.clone()).or_default();
    *count += 1;
    if *count == 1 {
        let message = format!(
            "more than {} removals at {} within {} s, caused by {}: what is over is held; see `lockstep guard list`",
            limit.limit,
            held.target,
            limit.window.as_secs(),
            held.source
        );
        alert(step, tenant, &held.target, AlertState::Raised, message);
    }
    step.put(row_of(&held.account), &held);
    permit(step, &held, PermitAnswer::Held);
}

/// Releases or rejects what the operation names and was held by `cutoff`: what a person has seen, and nothing that came since.
/// It goes on behind the row `after`, and looks at a bounded number of rows.
fn answer(
    step: &mut Step,
    me: &Address,
    tenant: &TenantId,
    head: &mut GuardHead,
    operation: &Operation,
    cutoff: Timestamp,
    after: &str,
) -> Result<(), StepError> {
    let (target, account, answer) = match &operation.action {
        Action::GuardRelease { target, account } => {
            (target, account, PermitAnswer::Released { operation: operation.id.clone() })
        }
        Action::GuardReject { target, account } => {
            (target, account, PermitAnswer::Rejected { operation: operation.id.clone() })
        }
        Action::Redrive { .. }
        | Action::Drop { .. }
        | Action::QuarantineRetry { .. }
        | Action::QuarantineSkip { .. } => {
            return Err(StepError::Misdirected { entity: "guard", message: "another's operation" });
        }
    };
    let rows = match account {
        Some(account) => step.get::<Held>(&row_of(account))?.map(|held| (row_of(account), held)).into_iter().collect(),
        None => step.scan_after::<Held>("held/", after, BATCH)?,
    };
    let last = rows.last().map(|(row, _)| row.clone()).filter(|_| rows.len() == BATCH);
    for (_, held) in rows {
        if held.since <= cutoff && target.as_ref().is_none_or(|target| held.target == *target) {
            permit(step, &held, answer.clone());
            forget(step, tenant, head, &held);
        }
    }
    if let Some(last) = last {
        let job = serde_json::to_string(operation).expect("an operation is plain data");
        step.send(me.clone(), Body::Continue { job, cursor: format!("{} {last}", cutoff.0) });
    }
    Ok(())
}

fn permit(step: &mut Step, held: &Held, answer: PermitAnswer) {
    step.send(held.asker.clone(), Body::Permit { target: held.target.clone(), epoch: held.epoch, answer });
}

fn forget(step: &mut Step, tenant: &TenantId, head: &mut GuardHead, held: &Held) {
    step.delete(row_of(&held.account));
    let Some(count) = head.held.get_mut(&held.target) else { return };
    *count = count.saturating_sub(1);
    if *count == 0 {
        head.held.remove(&held.target);
        alert(step, tenant, &held.target, AlertState::Resolved, "nothing is held any more".to_owned());
    }
}

fn alert(step: &mut Step, tenant: &TenantId, target: &TargetName, state: AlertState, message: String) {
    step.alert(Alert {
        key: format!("guard/{tenant}/{target}"),
        kind: AlertKind::GuardHolding,
        state,
        tenant: tenant.clone(),
        identity: None,
        target: Some(target.clone()),
        account: None,
        message,
        since: step.now,
        at: step.now,
    });
}

fn row_of(account: &AccountId) -> SmolStr {
    key::name(&["held/", account.as_str()])
}
