//! Evaluate: what each target should show of an identity, decided from all that is known of it now.
//!
//! A rule that fails blocks only what it would have decided: a leaver is disabled without any account attribute being computed.
//! Where a change can't make a difference none is looked for (`Quiet`); the decision is always the one that looking everywhere
//! would come to, and a test holds every step to that.

use super::account::{AccountRow, AccountState, Removal};
use super::identity::{
    IdentityHead, IdentityRecord, Me, command, decide_account, delete_timer, record_row, rule_failed, rule_recovered,
    stop_clock,
};
use super::key::HEAD;
use super::leaver::{maintain, remove};
use super::quiet::Quiet;
use super::step::{Step, StepError};
use crate::model::{Address, Body, DecisionKind, Desired, Op, RecordId, SourceName, Timestamp};
use crate::rules::{Again, KindRules, Merged, Phase, SlotSet, TargetRules};
use std::collections::BTreeSet;

/// Most records of one identity. Of one that has more, so many of each source are looked at: whether the anchor's is there must not
/// depend on what else is.
const MAX_RECORDS: usize = 1000;
const MAX_OF_A_SOURCE: usize = 200;
/// The rule that says which ends are urgent, by the name under which it fails.
const URGENT: &str = "lifecycle/urgent";

/// What is wanted of an account.
enum Wanted {
    Present(Desired),
    /// No access, since `effective`, but a disabled account that is like this.
    Maintained {
        desired: Desired,
        effective: Timestamp,
    },
    /// No access, since `effective`.
    Gone {
        effective: Timestamp,
    },
    /// What it is already.
    Same,
    /// Nothing can be said now; it stays as it is.
    Unchanged,
}

/// What is known of an identity when its targets are decided.
struct Known<'a> {
    kind: &'a KindRules,
    merged: &'a Merged<'a>,
    /// The anchor's record is there.
    anchored: bool,
    /// All records are there that its kind requires.
    complete: bool,
}

impl<'a> Known<'a> {
    fn new(kind: &'a KindRules, records: &[IdentityRecord], merged: &'a Merged<'a>) -> Self {
        let has = |source: &SourceName| records.iter().any(|row| row.source == *source);
        Self { kind, merged, anchored: has(&kind.anchor), complete: kind.requires.iter().all(has) }
    }

    fn is_urgent(&self) -> bool {
        self.kind.urgent(self.merged).unwrap_or(false)
    }
}

/// Decides everything from what is known now.
pub(super) fn evaluate(step: &mut Step, me: &Me, changed: Option<&IdentityRecord>) -> Result<(), StepError> {
    let rules = step.rules;
    let head = step.get::<IdentityHead>(HEAD)?;
    let kind = match (&head, changed) {
        (Some(head), _) => rules.kind(&head.kind),
        (None, Some(record)) => rules.kind_of(&record.source),
        (None, None) => return Ok(()),
    };
    let Some(kind) = kind else {
        // Rules that no longer know this kind decide nothing about it. What changed under them is nobody's decision yet: the
        // former rules, should they come back, must not take it for one of theirs.
        if let Some(mut head) = head
            && head.quiet.take().is_some()
        {
            step.put(HEAD, &head);
        }
        return Ok(());
    };
    let (records, before) = records(step, kind, changed)?;
    let mut head = head.unwrap_or_else(|| new_head(step, me, kind));
    let quiet = head.quiet.take().filter(|quiet| quiet.is_by(rules));
    let merged = kind.merge(&records.iter().map(|row| (&row.source, &row.attributes)).collect::<Vec<_>>());
    let known = Known::new(kind, &records, &merged);
    if !lifecycle(step, me, &known, &mut head) {
        step.put(HEAD, &head);
        return Ok(());
    }
    let is_active = head.phase == Some(Phase::Active);
    if !is_active || head.failing.contains(URGENT) {
        match kind.urgent(&merged) {
            Ok(_) => rule_recovered(step, me, &mut head, URGENT, None),
            // It is an end like any other then.
            Err(error) => rule_failed(step, me, &mut head, URGENT, None, &error),
        }
    }
    let settled = known.complete && is_active;
    // Another record than before, or more of them than are shown here: then anything may be different.
    let touched = match (changed, &before) {
        (Some(now), Some(before)) if settled && records.len() < MAX_RECORDS => {
            Some(kind.touched(&now.source, &before.attributes, &now.attributes))
        }
        _ => None,
    };
    let mut now_quiet = Quiet::nowhere(rules);
    for (place, target) in rules.targets().iter().enumerate() {
        if step.is_full() {
            // Not being quiet, what is left is decided by whichever evaluation comes next; this one comes for certain.
            let job = "targets".to_owned();
            step.send(me.address.clone(), Body::Continue { job, cursor: target.name.to_string() });
            break;
        }
        let touched = touched.filter(|_| quiet.is_some_and(|quiet| quiet.contains(place)));
        let is_quiet = match touched {
            Some(touched) if !target.reads().meets(touched) => true,
            touched => decide(step, me, &known, &mut head, target, touched)?,
        };
        if is_quiet {
            now_quiet.insert(place);
        }
    }
    head.quiet = settled.then_some(now_quiet);
    step.put(HEAD, &head);
    Ok(())
}

fn new_head(step: &Step, me: &Me, kind: &KindRules) -> IdentityHead {
    IdentityHead {
        routing_key: me.address.routing_key.clone(),
        kind: kind.name.clone(),
        phase: None,
        ended: None,
        since: step.now,
        epoch: 0,
        failing: BTreeSet::new(),
        quiet: None,
    }
}

/// The records as they are after this event, and the changed one as it was.
fn records(
    step: &Step,
    kind: &KindRules,
    changed: Option<&IdentityRecord>,
) -> Result<(Vec<IdentityRecord>, Option<IdentityRecord>), StepError> {
    let (mut rows, mut before) = (Vec::new(), None);
    let mut kept = step.scan::<IdentityRecord>("record/", MAX_RECORDS)?;
    if kept.len() == MAX_RECORDS {
        kept.clear();
        for source in kind.sources() {
            kept.extend(step.scan(&record_row(source, &RecordId::from("")), MAX_OF_A_SOURCE)?);
        }
    }
    for (name, row) in kept {
        // The scan shows them as they were before the step; this one event may have taken a row away.
        match changed {
            Some(changed) if (&changed.source, &changed.record) == (&row.source, &row.record) => before = Some(row),
            _ if step.has_deleted(&name) => {}
            _ => rows.push(row),
        }
    }
    rows.extend(changed.cloned());
    rows.sort_by(|a, b| (&a.source, &a.record).cmp(&(&b.source, &b.record)));
    Ok((rows, before))
}

/// Where the identity stands between joining and leaving. False: the rules can't say, so nothing is decided.
fn lifecycle(step: &mut Step, me: &Me, known: &Known<'_>, head: &mut IdentityHead) -> bool {
    let (phase, dated, next) = if known.anchored {
        match known.kind.lifecycle(known.merged, step.now) {
            Ok(lifecycle) => (lifecycle.phase, lifecycle.since, lifecycle.next),
            Err(error) => {
                rule_failed(step, me, head, "lifecycle", None, &error);
                return false;
            }
        }
    } else {
        (Phase::Ended, None, None)
    };
    rule_recovered(step, me, head, "lifecycle", None);
    match next {
        Some(due) => step.set_timer("lifecycle", due),
        None => step.clear_timer("lifecycle"),
    }
    let before = head.phase.replace(phase);
    head.ended = match (phase, head.ended) {
        (Phase::Active, _) => None,
        (_, Some(ended)) => Some(ended),
        // The source event's time, or the end date if that is later. What takes effect now has done so by now, whatever clock the
        // source has: no alert waits for a time that is ahead.
        (_, None) => Some(dated.map_or(step.cause.time, |dated| dated.max(step.cause.time)).min(step.now)),
    };
    let decision = match (before, phase) {
        (None | Some(Phase::Future), Phase::Active) => Some(DecisionKind::Joined),
        (Some(Phase::Ended), Phase::Active) => Some(DecisionKind::Rehired),
        (Some(Phase::Active), Phase::Ended) => Some(DecisionKind::Left),
        _ => None,
    };
    if let Some(decision) = decision {
        step.decide(me.tenant, Some(me.identity), decision);
    }
    true
}

/// What a target's account is to be, and what follows. `touched`: these rules have decided this account before, nothing was
/// under way there since, and nothing but this has changed. Gives whether nothing is under way now.
fn decide(
    step: &mut Step,
    me: &Me,
    known: &Known<'_>,
    head: &mut IdentityHead,
    target: &TargetRules,
    touched: Option<SlotSet>,
) -> Result<bool, StepError> {
    let name = AccountRow::row(&target.name);
    let row = step.get::<AccountRow>(&name)?;
    let before = row.as_ref().and_then(|row| row.desired.as_ref()).zip(touched);
    let wanted = wanted(step, me, known, head, target, before);
    let has_access = matches!(wanted, Wanted::Present(_));
    let is_wanted = has_access || matches!(wanted, Wanted::Maintained { .. });
    if matches!(wanted, Wanted::Same) || (row.is_none() && !is_wanted) {
        // Where nothing can be said now, more may be said the next time.
        return Ok(!matches!(wanted, Wanted::Unchanged));
    }
    let mut row = row.unwrap_or_else(|| AccountRow::new(me.tenant, &target.name, me.identity));
    let before = row.clone();
    let is_active = head.phase == Some(Phase::Active);
    if is_active && row.removal == (Removal::Rejected { left: true }) {
        // What was said no to is over.
        row.removal = Removal::None;
    }
    match wanted {
        Wanted::Present(desired) => want(step, me, target, &mut row, desired),
        Wanted::Maintained { desired, effective } => {
            maintain(step, me, target, head, &mut row, desired, effective, known.is_urgent());
        }
        Wanted::Gone { effective } => remove(step, me, target, head, &mut row, effective, known.is_urgent()),
        // Of somebody who is active nothing is taken on the strength of what is not known any more.
        Wanted::Unchanged if is_active => call_back(step, me, &mut row),
        Wanted::Same | Wanted::Unchanged => {}
    }
    if row != before {
        step.put_account(&row);
    }
    Ok(has_access && row.is_quiet())
}

/// `before`: what these rules wanted of the account when no other attributes than these were different.
fn wanted(
    step: &mut Step,
    me: &Me,
    known: &Known<'_>,
    head: &mut IdentityHead,
    target: &TargetRules,
    before: Option<(&Desired, SlotSet)>,
) -> Wanted {
    let active = head.phase == Some(Phase::Active);
    let effective = if active { step.cause.time } else { head.ended.unwrap_or(step.cause.time) }.min(step.now);
    // Without the anchor's record, or another that is needed, there is nothing to keep a leaver's account current with.
    let maintained = target.leaver.maintain && head.phase == Some(Phase::Ended) && known.anchored && known.complete;
    match (active, known.complete) {
        (false, _) if !maintained => {
            // What it should be like is no question any more.
            rule_recovered(step, me, head, target.name.as_str(), Some(&target.name));
            return Wanted::Gone { effective };
        }
        // A second source's record that is missing is no evidence against anyone.
        (true, false) => return Wanted::Unchanged,
        _ => {}
    }
    let kind = &known.kind.name;
    let wants = match before {
        Some((before, touched)) => target.wants_again(kind, known.merged, touched, before),
        None => target.wants(kind, known.merged).map(|wants| wants.map_or(Again::OutOfScope, Again::Other)),
    };
    match wants {
        Ok(wants) => {
            rule_recovered(step, me, head, target.name.as_str(), Some(&target.name));
            match wants {
                Again::Same => Wanted::Same,
                Again::Other(desired) if active => Wanted::Present(desired),
                Again::Other(desired) => Wanted::Maintained { desired, effective },
                Again::OutOfScope => Wanted::Gone { effective },
            }
        }
        Err(error) => {
            rule_failed(step, me, head, target.name.as_str(), Some(&target.name), &error);
            // What an account should look like is no reason for a leaver to stay in.
            if active { Wanted::Unchanged } else { Wanted::Gone { effective } }
        }
    }
}

/// Access is wanted: whatever was on its way to remove it is called back.
fn want(step: &mut Step, me: &Me, target: &TargetRules, row: &mut AccountRow, desired: Desired) {
    call_back(step, me, row);
    row.removal = Removal::None;
    if row.clock.is_some() {
        stop_clock(step, me, row, DecisionKind::DeprovisionCancelled);
    }
    row.disabled_since = None;
    if row.delete_due.take().is_some() {
        step.clear_timer(delete_timer(&row.target));
    }
    if let Some(op) = row.op_towards(&desired) {
        if op == Op::Update {
            decide_account(step, me, row, DecisionKind::Moved);
        }
        command(step, me, target, row, op, desired);
    }
}

/// What is asked of the Guard, or held, is not to be done any more. The clock of a disable that was commanded runs on.
fn call_back(step: &mut Step, me: &Me, row: &mut AccountRow) {
    let (Removal::Asked { epoch, .. } | Removal::Held { epoch, .. }) = row.removal else { return };
    step.send(Address::guard(me.tenant.clone()), Body::Withdraw { account: row.account.clone(), epoch });
    row.removal = Removal::None;
    if row.state == AccountState::Present && row.clock.is_some() {
        stop_clock(step, me, row, DecisionKind::DeprovisionCancelled);
    }
}
