//! Leaver: how access ends. The clock starts, the Guard is asked, and what it lets through is commanded; a target may keep the
//! disabled account current, and have it deleted after a grace.
//!
//! While the Guard is asked, or holds, the account is frozen. That a removal is still wanted when it is let through is
//! certain: whenever access becomes wanted the request is withdrawn (`evaluate::want`).

use super::account::{AccountRow, AccountState, Clock, Removal};
use super::evaluate::evaluate;
use super::identity::{IdentityHead, Me, command, deadline_timer, decide_account, delete_timer, stop_clock};
use super::key::HEAD;
use super::step::{Step, StepError};
use crate::model::{
    Address, Attributes, Body, DecisionKind, Desired, Entitlements, Op, PermitAnswer, TargetName, Timestamp,
};
use crate::rules::{Phase, TargetRules};
use std::collections::BTreeSet;

/// Access is not wanted: the clock starts, and the Guard is asked.
pub(super) fn remove(
    step: &mut Step,
    me: &Me,
    target: &TargetRules,
    head: &mut IdentityHead,
    row: &mut AccountRow,
    effective: Timestamp,
    urgent: bool,
) {
    if row.state != AccountState::Present {
        plan_deletion(step, target, row);
        return;
    }
    if may_ask(head, row) {
        let deadline = effective.plus(target.deprovision_deadline);
        row.clock = Some(Clock { effective, deadline, overdue: false, generation: None });
        step.set_timer(deadline_timer(&row.target), deadline.max(step.now));
        decide_account(step, me, row, DecisionKind::DeprovisionOpened { effective, deadline });
    }
    ask_to_remove(step, me, head, row, target.leaver.action, urgent);
}

/// Access is not wanted, but a disabled account is. Its groups stay as they were: nothing is granted to who left.
#[expect(clippy::too_many_arguments, reason = "what `remove` is told, and how the account should be")]
pub(super) fn maintain(
    step: &mut Step,
    me: &Me,
    target: &TargetRules,
    head: &mut IdentityHead,
    row: &mut AccountRow,
    desired: Desired,
    effective: Timestamp,
    urgent: bool,
) {
    let entitlements = match &row.desired {
        Some(before) => before.entitlements.clone(),
        None => Entitlements { groups: BTreeSet::new(), ..desired.entitlements },
    };
    let desired = Desired { active: false, entitlements, ..desired };
    match row.state {
        AccountState::Present => remove(step, me, target, head, row, effective, urgent),
        // It was disabled and then deleted, or is about to be made.
        AccountState::Absent if !row.is_new() => {}
        AccountState::Absent if row.removal == Removal::Permitted => {
            row.removal = Removal::None;
            command(step, me, target, row, Op::Create, desired);
            row.disabled_since = Some(effective);
            plan_deletion(step, target, row);
        }
        // The target may have an account of theirs that is in use, which this would disable: it counts as a removal.
        AccountState::Absent => ask_to_remove(step, me, head, row, Op::Create, urgent),
        AccountState::Disabled => {
            // An update that the disable superseded was never made: the disable by itself changes no attribute.
            if !row.is_frozen() && (row.behind || row.desired.as_ref() != Some(&desired)) {
                decide_account(step, me, row, DecisionKind::Moved);
                command(step, me, target, row, Op::Update, desired);
            }
            plan_deletion(step, target, row);
        }
    }
}

/// Nobody was asked yet; or a person said no while somebody was merely out of scope, who now left altogether.
fn may_ask(head: &IdentityHead, row: &AccountRow) -> bool {
    match row.removal {
        Removal::None => true,
        Removal::Rejected { left } => head.phase == Some(Phase::Ended) && !left,
        Removal::Asked { .. } | Removal::Held { .. } | Removal::Permitted => false,
    }
}

/// Asks the Guard, unless that was done; what is held already asks again when it has become urgent.
fn ask_to_remove(step: &mut Step, me: &Me, head: &mut IdentityHead, row: &mut AccountRow, op: Op, urgent: bool) {
    let op = match row.removal {
        Removal::Held { epoch, op, .. } if urgent => {
            step.send(Address::guard(me.tenant.clone()), Body::Withdraw { account: row.account.clone(), epoch });
            op
        }
        _ if may_ask(head, row) => op,
        _ => return,
    };
    if urgent {
        decide_account(step, me, row, DecisionKind::Urgent);
    }
    ask_guard(step, me, head, row, op, urgent);
}

fn ask_guard(step: &mut Step, me: &Me, head: &mut IdentityHead, row: &mut AccountRow, op: Op, urgent: bool) {
    head.epoch = head.epoch.checked_add(1).expect("an identity asks the Guard fewer than 2^64 times");
    row.removal = Removal::Asked { epoch: head.epoch, op };
    let request = Body::PermitRequest {
        asker: Box::new(me.address.clone()),
        target: row.target.clone(),
        account: row.account.clone(),
        source: step.cause.source.clone(),
        epoch: head.epoch,
        urgent,
    };
    step.send(Address::guard(me.tenant.clone()), request);
}

/// The Guard has answered. An answer to a request that was withdrawn, or made again since, changes nothing.
pub(super) fn permit(
    step: &mut Step,
    me: &Me,
    target: &TargetName,
    epoch: u64,
    answer: PermitAnswer,
) -> Result<(), StepError> {
    let name = AccountRow::row(target);
    let Some(mut row) = step.get::<AccountRow>(&name)? else { return Ok(()) };
    let Some(op) = row.asked(epoch) else { return Ok(()) };
    match &answer {
        PermitAnswer::Held => {
            row.removal = Removal::Held { epoch, op, since: step.now };
            decide_account(step, me, &row, DecisionKind::Held);
        }
        PermitAnswer::Rejected { operation } => {
            let left = step.get::<IdentityHead>(HEAD)?.is_some_and(|head| head.phase == Some(Phase::Ended));
            row.removal = Removal::Rejected { left };
            // Of a disabled account only the deletion was asked for: the clock is that of its disable, which may not be verified yet.
            if row.state == AccountState::Present && row.clock.is_some() {
                stop_clock(step, me, &mut row, DecisionKind::DeprovisionRejected { operation: operation.clone() });
            }
        }
        PermitAnswer::Granted => carry_out(step, me, &mut row, op),
        PermitAnswer::Released { operation } => {
            decide_account(step, me, &row, DecisionKind::Released { operation: operation.clone() });
            carry_out(step, me, &mut row, op);
        }
    }
    step.put_account(&row);
    match answer {
        // It was frozen meanwhile: an account that is maintained is made, or brought up to date, by what is known now.
        PermitAnswer::Granted | PermitAnswer::Released { .. } if maintained(step, target) => evaluate(step, me, None),
        // It may have become urgent while the Guard was asked.
        PermitAnswer::Held => evaluate(step, me, None),
        _ => Ok(()),
    }
}

fn maintained(step: &Step, target: &TargetName) -> bool {
    step.rules.target(target).is_some_and(|target| target.leaver.maintain)
}

/// Removes the access. That it is still unwanted is certain: whenever it becomes wanted the request is withdrawn.
fn carry_out(step: &mut Step, me: &Me, row: &mut AccountRow, op: Op) {
    if op == Op::Create {
        row.removal = Removal::Permitted;
        return;
    }
    row.removal = Removal::None;
    let Some(target) = step.rules.target(&row.target) else { return };
    let mut desired = row.desired.clone().unwrap_or_else(no_access);
    desired.active = false;
    command(step, me, target, row, op, desired);
    if op == Op::Disable {
        row.disabled_since = Some(row.clock.as_ref().map_or(step.now, |clock| clock.effective));
        plan_deletion(step, target, row);
    }
}

/// A disabled account is deleted after its grace, where the target's rules say so: those of now, which may have another grace.
fn plan_deletion(step: &mut Step, target: &TargetRules, row: &mut AccountRow) {
    let Some(since) = row.disabled_since.filter(|_| is_kept(row)) else { return };
    let due = target.leaver.delete_after.map(|grace| since.plus(grace));
    if row.delete_due == due {
        return;
    }
    row.delete_due = due;
    match due {
        Some(due) => step.set_timer(delete_timer(&row.target), due.max(step.now)),
        None => step.clear_timer(delete_timer(&row.target)),
    }
}

/// It is disabled, and nobody was asked to delete it.
fn is_kept(row: &AccountRow) -> bool {
    row.state == AccountState::Disabled && row.removal == Removal::None
}

/// The grace after a disable is over.
pub(super) fn delete_due(step: &mut Step, me: &Me, target: &TargetName) -> Result<(), StepError> {
    let name = AccountRow::row(target);
    let (Some(mut row), Some(mut head)) = (step.get::<AccountRow>(&name)?, step.get::<IdentityHead>(HEAD)?) else {
        return Ok(());
    };
    let Some(rules) = step.rules.target(target) else { return Ok(()) };
    plan_deletion(step, rules, &mut row);
    match row.delete_due.filter(|_| is_kept(&row) && rules.leaver.delete_after.is_some()) {
        Some(due) if due <= step.now => {
            row.delete_due = None;
            ask_guard(step, me, &mut head, &mut row, Op::Delete, false);
            step.put(HEAD, &head);
        }
        // Its due time was lost, and it fired at once.
        Some(due) => step.set_timer(delete_timer(target), due),
        None => {}
    }
    step.put_account(&row);
    Ok(())
}

pub(super) fn no_access() -> Desired {
    Desired { active: false, attributes: Attributes::default(), entitlements: Entitlements::default() }
}
