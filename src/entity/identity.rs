//! Identity: the person or non-human identity that records are linked to, and what each target should show of it.
//!
//! Every event first changes what is known (the records' rows, an account's row) and then the whole is evaluated from there
//! (`evaluate`), so what is decided depends on the current facts and never on the path to them. Here is what an event changes:
//! the records' rows, an account's row by what its worker or an operator says of it, and the commands that come of it.

use super::account::{AccountRow, AccountState, Clock, LastResult, Removal};
use super::evaluate::evaluate;
use super::key;
use super::leaver::{delete_due, no_access, permit};
use super::quiet::{self, Quiet};
use super::step::{Emission, Step, StepError};
use crate::model::{
    Action, Address, Alert, AlertKind, AlertState, Attributes, Body, Command, Decision, DecisionKind, Desired,
    Generation, IdentityId, Intent, Op, Outcome, RecordId, ResultEvent, RoutingKey, SourceName, TargetName, TenantId,
    Timestamp,
};
use crate::rules::{Phase, RuleError, TargetRules};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often an overdue deprovision's timer is armed again: every open clock has a live timer, by which a restarted
/// process finds it.
const OVERDUE_REARM: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityHead {
    pub routing_key: RoutingKey,
    pub kind: String,
    /// As last evaluated; None before the first time.
    pub phase: Option<Phase>,
    /// From when on access has ended, while it has.
    pub ended: Option<Timestamp>,
    pub since: Timestamp,
    /// Counts requests to the Guard.
    pub epoch: u64,
    /// Rules that failed at the last evaluation: `lifecycle`, or a target's name.
    pub failing: BTreeSet<String>,
    /// Where the next evaluation may find nothing to do; only of active identities whose records are complete.
    #[serde(deserialize_with = "quiet::or_none")]
    pub quiet: Option<Quiet>,
}

/// The row `record/<source>/<record>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentityRecord {
    pub source: SourceName,
    pub record: RecordId,
    pub attributes: Attributes,
    pub time: Timestamp,
    pub route: RoutingKey,
}

/// The identity that this step is about.
pub(super) struct Me<'a> {
    pub tenant: &'a TenantId,
    pub identity: &'a IdentityId,
    pub address: Address,
}

pub(super) fn step(
    step: &mut Step,
    routing_key: &RoutingKey,
    tenant: &TenantId,
    identity: &IdentityId,
    body: Body,
) -> Result<(), StepError> {
    let me = Me { tenant, identity, address: Address::identity(routing_key.clone(), tenant.clone(), identity.clone()) };
    match body {
        Body::RecordChanged { source, record, attributes, time, route } => {
            let row = IdentityRecord { source, record, attributes, time, route };
            step.put(record_row(&row.source, &row.record), &row);
            evaluate(step, &me, Some(&row))
        }
        Body::RecordGone { source, record, route, .. } => {
            let name = record_row(&source, &record);
            match step.get::<IdentityRecord>(&name)? {
                Some(row) if row.route == route => step.delete(name),
                _ => return Ok(()),
            }
            evaluate(step, &me, None)
        }
        // Of a Continue, too, everything is decided from what is known now: what is done already takes nothing.
        Body::Reevaluate | Body::Continue { .. } => evaluate(step, &me, None),
        Body::Timer { name, .. } => timer(step, &me, &name),
        Body::Permit { target, epoch, answer } => permit(step, &me, &target, epoch, answer),
        Body::Result(result) => take_result(step, &me, *result),
        Body::Operation(operation) => match operation.action {
            Action::Redrive { target, .. } => redrive(step, &me, &target, &operation.id),
            Action::Drop { target, .. } => drop_dead_letter(step, &me, &target, &operation.id),
            Action::GuardRelease { .. } | Action::GuardReject { .. } => {
                Err(StepError::Misdirected { entity: "identity", message: "a Guard's operation" })
            }
            Action::QuarantineRetry { .. } | Action::QuarantineSkip { .. } => {
                Err(StepError::Misdirected { entity: "identity", message: "an operation for the runtime" })
            }
        },
        _ => Err(StepError::Misdirected { entity: "identity", message: "a message for another kind of entity" }),
    }
}

/// Issues the next generation.
pub(super) fn command(step: &mut Step, me: &Me, target: &TargetRules, row: &mut AccountRow, op: Op, desired: Desired) {
    row.behind = op.is_deprovision() && !row.is_verified();
    row.generation = row.generation.next();
    let granted = row.desired.as_ref().map(|desired| desired.entitlements.groups.clone()).unwrap_or_default();
    let revoked = granted.difference(&desired.entitlements.groups).cloned().collect();
    // A worker runs the newest command only, so it is the newest that must end the access and stop the clock.
    let ends_access = !desired.active;
    if ends_access && let Some(clock) = &mut row.clock {
        clock.generation = Some(row.generation);
    }
    let deprovision = row.clock.as_ref().filter(|_| ends_access).map(Clock::deprovision);
    let deadline = match (op.is_deprovision(), deprovision) {
        (true, Some(deprovision)) => deprovision.deadline,
        (true, None) => step.cause.time.min(step.now).plus(target.deprovision_deadline),
        (false, _) => step.cause.time.min(step.now).plus(target.provision_deadline),
    };
    let mut cause = step.cause.clone();
    cause.bundle = Some(step.rules.hash().clone());
    let command = Command {
        tenant: me.tenant.clone(),
        target: row.target.clone(),
        account: row.account.clone(),
        identity: me.identity.clone(),
        intent: Intent::default_intent(),
        routing_key: me.address.routing_key.clone(),
        external_id: row.external_id.clone(),
        generation: row.generation,
        op,
        desired: desired.clone(),
        revoked,
        match_on: target.match_on.clone(),
        deadline,
        deprovision,
        issued: step.now,
        cause,
    };
    row.state = match op {
        Op::Create | Op::Update | Op::Enable if desired.active => AccountState::Present,
        Op::Create | Op::Update | Op::Enable | Op::Disable => AccountState::Disabled,
        Op::Delete => AccountState::Absent,
        Op::Verify => row.state,
    };
    // Until a result says otherwise what is known of the target's account stays; a deleted one is forgotten with its result.
    row.desired = Some(desired);
    step.emit(Emission::Command(Box::new(command)));
    decide_account(step, me, row, DecisionKind::Commanded { op });
}

fn take_result(step: &mut Step, me: &Me, result: ResultEvent) -> Result<(), StepError> {
    let name = AccountRow::row(&result.target);
    let Some(mut row) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    // A worker's word about a generation that was never issued is not believed.
    if row.account != result.account || result.generation > row.generation {
        return Ok(());
    }
    if result.outcome == Outcome::Verified {
        row.external_id = if result.op == Op::Delete { None } else { result.external_id.clone().or(row.external_id) };
    }
    if result.generation == row.generation {
        row.last = Some(LastResult {
            generation: result.generation,
            op: result.op,
            outcome: result.outcome,
            error: result.error,
            at: result.at,
        });
        settle(step, me, &mut row, &result);
    }
    step.put_account(&row);
    Ok(())
}

/// What the newest command's result means for clock, dead letter and drift.
fn settle(step: &mut Step, me: &Me, row: &mut AccountRow, result: &ResultEvent) {
    match result.outcome {
        Outcome::Verified => {
            decide_account(step, me, row, DecisionKind::AccountVerified { op: result.op });
            if row.clock.as_ref().is_some_and(|clock| clock.generation == Some(result.generation)) {
                let effective = row.clock.as_ref().map_or(result.at, |clock| clock.effective);
                stop_clock(step, me, row, DecisionKind::DeprovisionVerified { effective, verified: result.at });
            }
            if std::mem::take(&mut row.dead) {
                account_alert(step, me, row, AlertKind::DeadLetter, AlertState::Resolved, "carried out since");
            }
            if std::mem::take(&mut row.drifted) {
                account_alert(step, me, row, AlertKind::Drift, AlertState::Resolved, "as commanded again");
            }
        }
        Outcome::DeadLettered => {
            let class = result.error.unwrap_or(crate::model::ErrorClass::UnknownOutcome);
            if !std::mem::replace(&mut row.dead, true) {
                let message = format!(
                    "{} can't be carried out ({class}); see `lockstep dlq show {} {}`",
                    result.op, row.target, row.account
                );
                account_alert(step, me, row, AlertKind::DeadLetter, AlertState::Raised, &message);
            }
            decide_account(step, me, row, DecisionKind::DeadLettered { error: class });
        }
        Outcome::Drifted => {
            if !std::mem::replace(&mut row.drifted, true) {
                account_alert(
                    step,
                    me,
                    row,
                    AlertKind::Drift,
                    AlertState::Raised,
                    "the target undid what was verified; it is being re-applied",
                );
            }
            if row.clock.is_none() && row.state != AccountState::Present {
                reopen_clock(step, me, row, result);
            }
        }
        Outcome::Accepted | Outcome::FalseSuccess | Outcome::Parked | Outcome::Superseded => {}
    }
}

/// A leaver who was out is in again: the clock runs from when that was seen.
fn reopen_clock(step: &mut Step, me: &Me, row: &mut AccountRow, result: &ResultEvent) {
    let within = step.rules.target(&row.target).map_or(Duration::ZERO, |target| target.deprovision_deadline);
    let effective = result.at.min(step.now);
    let deadline = effective.plus(within);
    row.clock = Some(Clock { effective, deadline, overdue: false, generation: Some(result.generation) });
    step.set_timer(deadline_timer(&row.target), deadline);
    decide_account(step, me, row, DecisionKind::DeprovisionOpened { effective, deadline });
}

pub(super) fn stop_clock(step: &mut Step, me: &Me, row: &mut AccountRow, why: DecisionKind) {
    let Some(clock) = row.clock.take() else { return };
    step.clear_timer(deadline_timer(&row.target));
    let ended = match why {
        DecisionKind::DeprovisionVerified { verified, .. } => verified,
        _ => step.now,
    };
    // Where nobody looked at the deadline, what ends the clock may be handled before the timer has its turn.
    let unseen = !clock.overdue && ended > clock.deadline;
    if unseen {
        overdue(step, me, row, clock.deadline, "that it was not is known only now");
    }
    if clock.overdue || unseen {
        let message = match why {
            DecisionKind::DeprovisionVerified { .. } => "verified: access is removed",
            DecisionKind::DeprovisionRejected { .. } => "an operator decided to keep the access",
            _ => "access is wanted again",
        };
        account_alert(step, me, row, AlertKind::DeprovisionOverdue, AlertState::Resolved, message);
    }
    decide_account(step, me, row, why);
}

fn timer(step: &mut Step, me: &Me, name: &str) -> Result<(), StepError> {
    match name.split_once('/') {
        None => evaluate(step, me, None), // lifecycle
        Some(("deadline", target)) => deadline_passed(step, me, &TargetName::from(target)),
        Some(("delete", target)) => delete_due(step, me, &TargetName::from(target)),
        Some(_) => Ok(()), // a timer of another release: nothing is known to be due
    }
}

fn deadline_passed(step: &mut Step, me: &Me, target: &TargetName) -> Result<(), StepError> {
    let name = AccountRow::row(target);
    let Some(mut row) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    let Some(clock) = &mut row.clock else { return Ok(()) };
    if step.now < clock.deadline {
        // Its due time was lost, and it fired at once.
        step.set_timer(deadline_timer(target), clock.deadline);
        return Ok(());
    }
    step.set_timer(deadline_timer(target), step.now.plus(OVERDUE_REARM));
    if std::mem::replace(&mut clock.overdue, true) {
        return Ok(());
    }
    let waits = match (&row.removal, row.dead) {
        (Removal::Held { .. }, _) => "held by the Guard; see `lockstep guard list`",
        // Of an event whose deadline is over when it comes in, nobody can have answered yet.
        (Removal::Asked { .. }, _) => "the Guard was asked and has not answered yet",
        (_, true) => "a dead letter; see `lockstep dlq list`",
        _ => "not verified by the target yet",
    };
    let deadline = clock.deadline;
    overdue(step, me, &row, deadline, waits);
    step.put_account(&row);
    Ok(())
}

fn overdue(step: &mut Step, me: &Me, row: &AccountRow, deadline: Timestamp, waits: &str) {
    let message = format!("access should have been removed by {deadline}: {waits}");
    account_alert(step, me, row, AlertKind::DeprovisionOverdue, AlertState::Raised, &message);
}

/// Issues afresh what the account's current state asks for; by now that may be something else than what has failed. While its
/// removal is asked for or held it is frozen: nothing is given to who left.
fn redrive(step: &mut Step, me: &Me, target: &TargetName, operation: &str) -> Result<(), StepError> {
    let name = AccountRow::row(target);
    let Some(before) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    let Some(rules) = step.rules.target(target) else { return Ok(()) };
    decide_account(step, me, &before, DecisionKind::Redriven { operation: operation.to_owned() });
    // A rule may have been mended since.
    evaluate(step, me, None)?;
    let Some(mut row) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    if row.generation != before.generation || row.is_frozen() {
        return Ok(());
    }
    let op = match (row.state, row.external_id.is_some()) {
        (AccountState::Present, false) => Op::Create,
        (AccountState::Present, true) => Op::Enable,
        (AccountState::Disabled, false) if rules.leaver.maintain => Op::Create,
        (AccountState::Disabled, true) if rules.leaver.maintain => Op::Update,
        (AccountState::Disabled, _) => Op::Disable,
        (AccountState::Absent, _) => Op::Delete,
    };
    let mut desired = row.desired.clone().unwrap_or_else(no_access);
    desired.active = row.state == AccountState::Present;
    command(step, me, rules, &mut row, op, desired);
    step.put_account(&row);
    Ok(())
}

fn drop_dead_letter(step: &mut Step, me: &Me, target: &TargetName, operation: &str) -> Result<(), StepError> {
    let name = AccountRow::row(target);
    let Some(mut row) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    if std::mem::take(&mut row.dead) {
        account_alert(step, me, &row, AlertKind::DeadLetter, AlertState::Resolved, "given up by an operator");
    }
    decide_account(step, me, &row, DecisionKind::Dropped { operation: operation.to_owned() });
    step.emit(Emission::DeadLetterClosed { target: target.clone(), account: row.account.clone() });
    step.put_account(&row);
    Ok(())
}

pub(super) fn rule_failed(
    step: &mut Step,
    me: &Me,
    head: &mut IdentityHead,
    name: &str,
    target: Option<&TargetName>,
    error: &RuleError,
) {
    if head.failing.insert(name.to_owned()) {
        let kind = DecisionKind::RuleFailed { rule: error.rule.clone(), reason: error.reason.clone() };
        step.decide(me.tenant, Some(me.identity), kind);
        rule_alert(step, me, name, target, AlertState::Raised, format!("{}: {}", error.rule, error.reason));
    }
}

pub(super) fn rule_recovered(
    step: &mut Step,
    me: &Me,
    head: &mut IdentityHead,
    name: &str,
    target: Option<&TargetName>,
) {
    if head.failing.remove(name) {
        rule_alert(step, me, name, target, AlertState::Resolved, "the rule gives an answer again".to_owned());
    }
}

fn rule_alert(step: &mut Step, me: &Me, name: &str, target: Option<&TargetName>, state: AlertState, message: String) {
    step.alert(Alert {
        key: format!("rule/{}/{name}", me.identity),
        kind: AlertKind::RuleFailed,
        state,
        tenant: me.tenant.clone(),
        identity: Some(me.identity.clone()),
        target: target.cloned(),
        account: None,
        message,
        since: step.now,
        at: step.now,
    });
}

fn account_alert(step: &mut Step, me: &Me, row: &AccountRow, kind: AlertKind, state: AlertState, message: &str) {
    let name = match kind {
        AlertKind::DeprovisionOverdue => "deprovision",
        AlertKind::DeadLetter => "dead-letter",
        _ => "drift",
    };
    let since = row.clock.as_ref().map_or(step.now, |clock| clock.effective);
    step.alert(Alert {
        key: format!("{name}/{}", row.account),
        kind,
        state,
        tenant: me.tenant.clone(),
        identity: Some(me.identity.clone()),
        target: Some(row.target.clone()),
        account: Some(row.account.clone()),
        message: message.to_owned(),
        since,
        at: step.now,
    });
}

pub(super) fn decide_account(step: &mut Step, me: &Me, row: &AccountRow, kind: DecisionKind) {
    step.emit(Emission::Decision(Decision {
        tenant: me.tenant.clone(),
        identity: Some(me.identity.clone()),
        target: Some(row.target.clone()),
        account: Some(row.account.clone()),
        generation: (row.generation != Generation::default()).then_some(row.generation),
        kind,
        cause: step.cause.event.clone(),
        source_time: step.cause.time,
        at: step.now,
    }));
}

pub(super) fn record_row(source: &SourceName, record: &RecordId) -> SmolStr {
    key::name(&["record/", source.as_str(), "/", record.as_str()])
}

pub(super) fn deadline_timer(target: &TargetName) -> SmolStr {
    key::name(&["deadline/", target.as_str()])
}

pub(super) fn delete_timer(target: &TargetName) -> SmolStr {
    key::name(&["delete/", target.as_str()])
}
