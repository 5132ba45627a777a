//! Lanes: what a worker knows and has to do for one account, as a state machine without IO.
//!
//! `accept` takes a command in, `start` says what to call, `finish` takes in how the call went. A lane runs one call at a
//! time, drops whatever is not above the generation it has seen, and folds what waits into the newest command. After a crash
//! it goes on from its row alone. The worker stores the row before the call it describes is made.

mod breaker;
pub mod policy;
mod retry;

pub use breaker::Breaker;
pub use retry::RetryPolicy;

use crate::model::{
    CLOCKS_APART, Command, DeadLetter, ErrorClass, Generation, Op, Outcome, ResultEvent, Timestamp, envelope,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// When an account without access is looked at again, after the call time-out: targets have been seen to undo a deprovision.
const LATER_CHECKS: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(24 * 3600)];

/// Looks that fail one after the other, the target answering, before the access is taken away again: then either the next looks are
/// good, or there is a dead letter that says why not.
const FAILED_LOOKS: u32 = 10;

/// Between a call's `started` and the call lies the commit of the row that says so: no transaction takes longer.
const LONGEST_COMMIT: Duration = Duration::from_secs(10);

/// A look that failed is made again after as long as a call that has failed so often, at least.
const LOOKED_AGAIN_AFTER: u32 = 3;

/// The durable row of one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// The newest generation that came in: the fence.
    pub seen: Generation,
    /// The newest generation that was verified.
    pub applied: Generation,
    pub external_id: Option<String>,
    pub work: Work,
    /// A dead letter of this account is on the list.
    pub dead_letter: bool,
    /// When it is looked again whether the account, verified to be without access, is so still.
    pub checks: Vec<Timestamp>,
    /// The newest command while `checks` are due: all since have left the account without access.
    pub verified: Option<Box<Command>>,
    /// Groups that some command was to take away and none has yet: a command may be superseded, or a disable touch no group.
    pub owed: BTreeSet<String>,
    /// Looks that failed since the last that didn't.
    #[serde(deserialize_with = "envelope::or_default")]
    pub failed_looks: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Work {
    #[default]
    Idle,
    Waiting(Pending),
    Running {
        pending: Pending,
        started: Timestamp,
        /// Came in meanwhile; runs next.
        next: Option<Box<Command>>,
    },
    /// An account that was verified to be without access is being looked at again.
    Checking {
        started: Timestamp,
        next: Option<Box<Command>>,
    },
}

/// A command on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub command: Box<Command>,
    /// What is to be done: the command's own, a create where the account turns out not to be there, or a disable where an
    /// update has overtaken one that wasn't verified: what else the account should be never stands in its way.
    pub op: Op,
    /// Calls made so far.
    pub calls: u32,
    /// Of those, the ones that count towards giving up.
    pub attempts: u32,
    pub due: Timestamp,
    /// A call was made and nobody knows how it ended: read before anything else.
    pub unknown: bool,
    /// Until then a call of a process that is gone may still arrive at the target.
    pub not_before: Timestamp,
}

/// What came of taking a command in.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// Not above the generation seen: a redelivery, or something overtaken.
    Stale,
    Ready,
    /// It replaces a waiting command, which gets this result.
    Superseding(Box<ResultEvent>),
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub command: Box<Command>,
    pub op: Op,
    pub external_id: Option<String>,
    /// Read first, and call only if what is wanted is not there already.
    pub read_first: bool,
    /// Read and compare, and call nothing.
    pub check: bool,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Applied (or found to be so already) and read back equal.
    Verified {
        external_id: Option<String>,
    },
    /// A newer command had come in before the call was made.
    Superseded,
    /// Reading back shows these otherwise.
    Differs {
        names: Vec<String>,
        external_id: Option<String>,
    },
    Failed {
        class: ErrorClass,
        message: String,
        retry_after: Option<Duration>,
    },
}

/// What a finished call leads to, beside the lane's new row.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneEffect {
    Result(Box<ResultEvent>),
    DeadLetter(Box<DeadLetter>),
    /// The account's dead letter is over.
    DeadLetterOver,
}

impl Lane {
    /// For a lane that has taken its commands in anew, as its row was lost: what became of the newest nobody knows. It is looked
    /// at once no call of before can arrive any more, and carried out where it isn't so. Whether a dead letter stands isn't known
    /// either, so success ends it.
    pub fn look_first(&mut self, now: Timestamp, call_timeout: Duration) {
        self.dead_letter = true;
        if let Work::Waiting(pending) = &mut self.work {
            pending.unknown = true;
            pending.not_before = now.plus(call_timeout);
            pending.due = pending.not_before;
        }
    }

    pub fn accept(&mut self, command: Box<Command>, now: Timestamp) -> Accepted {
        if command.generation <= self.seen {
            return Accepted::Stale;
        }
        self.seen = command.generation;
        self.owed.extend(command.revoked.iter().cloned());
        self.owed.retain(|group| !command.desired.entitlements.groups.contains(group));
        match look_op(&command) {
            None => self.look_no_more(),
            // What comes later of those who have left takes nothing off the looks: it may fail.
            Some(_) if self.verified.is_some() => self.verified = Some(command.clone()),
            Some(_) => {}
        }
        match std::mem::take(&mut self.work) {
            Work::Idle => {
                self.work = Work::Waiting(Pending::new(command, None, now));
                Accepted::Ready
            }
            Work::Waiting(old) => {
                let result = self.result(&old.command, Outcome::Superseded, old.calls, now);
                self.work = Work::Waiting(Pending::new(command, Some(&old), now));
                Accepted::Superseding(result)
            }
            Work::Running { pending, started, next } => {
                let result = next.map(|old| self.result(&old, Outcome::Superseded, 0, now));
                self.work = Work::Running { pending, started, next: Some(command) };
                result.map_or(Accepted::Ready, Accepted::Superseding)
            }
            Work::Checking { started, next } => {
                let result = next.map(|old| self.result(&old, Outcome::Superseded, 0, now));
                self.work = Work::Checking { started, next: Some(command) };
                result.map_or(Accepted::Ready, Accepted::Superseding)
            }
        }
    }

    /// When there is something to do next; None while a call runs or nothing waits.
    pub fn due(&self) -> Option<Timestamp> {
        match &self.work {
            Work::Waiting(pending) => Some(pending.due),
            Work::Idle => self.checks.first().copied(),
            Work::Running { .. } | Work::Checking { .. } => None,
        }
    }

    /// Lower runs first: a leaver never waits behind a bulk load, nor anything behind a second look.
    pub fn priority(&self) -> u8 {
        match &self.work {
            Work::Waiting(pending) if pending.op.is_deprovision() => 0,
            Work::Waiting(_) => 1,
            _ => 2,
        }
    }

    /// Calls that what waits has had.
    pub fn calls(&self) -> u32 {
        match &self.work {
            Work::Waiting(pending) => pending.calls,
            _ => 0,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.work, Work::Running { .. } | Work::Checking { .. })
    }

    /// A command waits for its first try, or is being tried.
    pub fn is_unsettled(&self) -> bool {
        match &self.work {
            Work::Waiting(pending) => pending.calls == 0,
            Work::Running { .. } => true,
            Work::Checking { next, .. } => next.is_some(),
            Work::Idle => false,
        }
    }

    /// Marks the call as made; the row is stored before it really is.
    pub fn start(&mut self, now: Timestamp) -> Option<Call> {
        match std::mem::take(&mut self.work) {
            Work::Waiting(mut pending) => {
                pending.command.revoked = self.owed.clone();
                let external_id = self.external_id.clone().or_else(|| pending.command.external_id.clone());
                if matches!(pending.op, Op::Update | Op::Enable) && external_id.is_none() {
                    // Its create was superseded before it was carried out: the account is still to be made.
                    pending.op = Op::Create;
                }
                let call = Call {
                    command: pending.command.clone(),
                    op: pending.op,
                    external_id,
                    read_first: pending.unknown,
                    check: false,
                };
                self.work = Work::Running { pending, started: now, next: None };
                Some(call)
            }
            Work::Idle => {
                let command = self.verified.clone().filter(|_| self.checks.first().is_some_and(|due| *due <= now))?;
                self.checks.remove(0);
                let op = look_op(&command).unwrap_or(command.op);
                let external_id = self.external_id.clone().or_else(|| command.external_id.clone());
                self.work = Work::Checking { started: now, next: None };
                Some(Call { command, op, external_id, read_first: true, check: true })
            }
            running => {
                self.work = running;
                None
            }
        }
    }

    /// Takes in how the running call ended.
    pub fn finish(&mut self, ended: Ended, now: Timestamp, policy: &RetryPolicy) -> Vec<LaneEffect> {
        match std::mem::take(&mut self.work) {
            Work::Running { mut pending, started, next } => {
                if matches!(ended, Ended::Failed { class: ErrorClass::UnknownOutcome, .. }) {
                    // Nobody waits for it any more, but the target, or what stands before it, may still be at it.
                    pending.not_before = pending.not_before.max(started.min(now).plus(policy.call_timeout));
                }
                self.finish_call(pending, next, ended, now, policy)
            }
            Work::Checking { next, .. } => self.finish_check(next, ended, now, policy),
            other => {
                // The partition moved away and came back meanwhile; the row it has now knows nothing of this call.
                self.work = other;
                Vec::new()
            }
        }
    }

    /// After a restart or a rebalance: what ran may still arrive at the target until its time-out is over, and then nobody
    /// knows how it ended. A command that ran and is overtaken gets the result that comes back, together with this row.
    pub fn restore(&mut self, now: Timestamp, call_timeout: Duration) -> Option<Box<ResultEvent>> {
        match std::mem::take(&mut self.work) {
            Work::Running { mut pending, started, next } => {
                pending.unknown = true;
                // It was made after the row was stored, by the clock of the process that made it, and before now by this one's.
                let made = now.min(started.plus(LONGEST_COMMIT).plus(CLOCKS_APART));
                pending.not_before = made.plus(call_timeout);
                pending.due = pending.not_before;
                if let Some(next) = next {
                    let result = self.result(&pending.command, Outcome::Superseded, pending.calls, now);
                    self.work = Work::Waiting(Pending::new(next, Some(&pending), started));
                    return Some(result);
                }
                self.work = Work::Waiting(pending);
            }
            Work::Checking { started, next } => {
                if self.verified.is_some() {
                    self.checks.insert(0, started);
                }
                self.work = next.map_or(Work::Idle, |next| Work::Waiting(Pending::new(next, None, started)));
            }
            other => self.work = other,
        }
        None
    }

    fn finish_call(
        &mut self,
        mut pending: Pending,
        next: Option<Box<Command>>,
        ended: Ended,
        now: Timestamp,
        policy: &RetryPolicy,
    ) -> Vec<LaneEffect> {
        if ended != Ended::Superseded {
            pending.calls += 1;
        }
        match ended {
            Ended::Verified { external_id } => self.succeeded(pending, next, external_id, now, policy),
            Ended::Superseded => {
                let mut effects = Vec::new();
                if next.is_some() {
                    effects.push(LaneEffect::Result(self.result(
                        &pending.command,
                        Outcome::Superseded,
                        pending.calls,
                        now,
                    )));
                }
                self.go_on(pending, next, now);
                effects
            }
            Ended::Differs { names, external_id } => {
                self.external_id = external_id.or(self.external_id.take());
                let message = format!("the target accepted it, but reading back shows otherwise: {}", names.join(", "));
                self.failed(pending, next, ErrorClass::FalseSuccess, message, None, now, policy)
            }
            Ended::Failed { class, message, retry_after } => {
                self.failed(pending, next, class, message, retry_after, now, policy)
            }
        }
    }

    fn succeeded(
        &mut self,
        pending: Pending,
        next: Option<Box<Command>>,
        external_id: Option<String>,
        now: Timestamp,
        policy: &RetryPolicy,
    ) -> Vec<LaneEffect> {
        let update_follows = pending.op == Op::Disable && matches!(pending.command.op, Op::Update | Op::Create);
        if !update_follows {
            self.applied = pending.command.generation;
        }
        self.pay(&pending);
        let known = external_id.or(self.external_id.take());
        if look_op(next.as_ref().unwrap_or(&pending.command)).is_some() && look_op(&pending.command).is_some() {
            self.checks = std::iter::once(policy.call_timeout).chain(LATER_CHECKS).map(|wait| now.plus(wait)).collect();
            self.failed_looks = 0;
            let mut newest = next.clone().unwrap_or_else(|| pending.command.clone());
            // Of a deleted account the id tells it from another that has its name since.
            newest.external_id = newest.external_id.or_else(|| known.clone());
            self.verified = Some(newest);
        }
        self.external_id = known.filter(|_| pending.op != Op::Delete);
        let mut result = self.result(&pending.command, Outcome::Verified, pending.calls, now);
        if update_follows {
            result.op = Op::Disable;
        }
        let mut effects = vec![LaneEffect::Result(result)];
        if std::mem::take(&mut self.dead_letter) {
            effects.push(LaneEffect::DeadLetterOver);
        }
        match next {
            Some(next) => self.work = Work::Waiting(Pending::new(next, None, now)),
            None if update_follows => {
                let update = Pending { op: Op::Update, calls: 0, attempts: 0, due: now, unknown: false, ..pending };
                self.work = Work::Waiting(update);
            }
            None => {}
        }
        effects
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one failure")]
    fn failed(
        &mut self,
        mut pending: Pending,
        next: Option<Box<Command>>,
        class: ErrorClass,
        message: String,
        retry_after: Option<Duration>,
        now: Timestamp,
        policy: &RetryPolicy,
    ) -> Vec<LaneEffect> {
        let rule = policy::of(class);
        // Only a read settles what an earlier call left open, and reading back is one.
        pending.unknown = class != ErrorClass::FalseSuccess && (pending.unknown || rule.unknown_outcome);
        if rule.spends_attempt {
            pending.attempts += 1;
        }
        if class == ErrorClass::MissingOnUpdate && matches!(pending.op, Op::Update | Op::Enable) {
            // It was there once: somebody deleted it behind our back. The next try makes it anew.
            pending.op = Op::Create;
        }
        let mut effects = Vec::new();
        if next.is_some() {
            effects.push(LaneEffect::Result(self.result(&pending.command, Outcome::Superseded, pending.calls, now)));
            self.go_on(pending, next, now);
            return effects;
        }
        if rule.retried && pending.attempts < policy.most_attempts(pending.op) {
            let delay =
                policy.delay(pending.command.account.as_str(), pending.calls).max(retry_after.unwrap_or_default());
            pending.due = now.plus(delay.min(policy.longest_wait));
            // The same removal again does no harm, whichever of them comes last.
            if !pending.op.is_deprovision() {
                pending.due = pending.due.max(pending.not_before);
            }
            let outcome = if class == ErrorClass::FalseSuccess { Outcome::FalseSuccess } else { Outcome::Parked };
            let mut result = self.result(&pending.command, outcome, pending.calls, now);
            (result.error, result.message, result.retry_at) = (Some(class), Some(message), Some(pending.due));
            effects.push(LaneEffect::Result(result));
            self.work = Work::Waiting(pending);
            return effects;
        }
        let mut result = self.result(&pending.command, Outcome::DeadLettered, pending.calls, now);
        (result.error, result.message) = (Some(class), Some(message.clone()));
        effects.push(LaneEffect::Result(result));
        effects.push(LaneEffect::DeadLetter(Box::new(DeadLetter {
            command: *pending.command,
            error: class,
            message,
            attempts: pending.calls,
            at: now,
        })));
        self.dead_letter = true;
        effects
    }

    /// Strikes off what this call took away.
    fn pay(&mut self, done: &Pending) {
        match done.op {
            Op::Create | Op::Update | Op::Enable => self.owed.retain(|group| !done.command.revoked.contains(group)),
            // With the account its memberships are gone.
            Op::Delete => self.owed.clear(),
            Op::Disable | Op::Verify => {}
        }
    }

    /// A later look at an account without access.
    fn finish_check(
        &mut self,
        next: Option<Box<Command>>,
        ended: Ended,
        now: Timestamp,
        policy: &RetryPolicy,
    ) -> Vec<LaneEffect> {
        let Some(command) = self.verified.clone() else {
            // A newer command has come in: it is what counts.
            if let Some(next) = next {
                self.work = Work::Waiting(Pending::new(next, None, now));
            }
            return Vec::new();
        };
        let message = match ended {
            Ended::Differs { names, .. } => format!("what was verified has been undone: {}", names.join(", ")),
            Ended::Failed { class, message, retry_after } => {
                let rule = policy::of(class);
                self.failed_looks = self.failed_looks.saturating_add(1);
                // A target that is down or busy says nothing of this account.
                if self.failed_looks < FAILED_LOOKS || !rule.spends_attempt {
                    let delay = policy.delay(command.account.as_str(), self.failed_looks.max(LOOKED_AGAIN_AFTER));
                    let wait = delay.max(retry_after.unwrap_or_default()).min(policy.longest_wait);
                    self.checks.insert(0, now.plus(wait));
                    self.work = next.map_or(Work::Idle, |next| Work::Waiting(Pending::new(next, None, now)));
                    return Vec::new();
                }
                format!("it can't be seen any more whether what was verified stands: {message}")
            }
            Ended::Verified { .. } | Ended::Superseded => {
                self.failed_looks = 0;
                if self.checks.is_empty() {
                    self.verified = None;
                }
                self.work = next.map_or(Work::Idle, |next| Work::Waiting(Pending::new(next, None, now)));
                return Vec::new();
            }
        };
        // The newest command has it in it that there is no access, which comes first.
        let mut result = self.result(&command, Outcome::Drifted, 0, now);
        result.message = Some(message);
        self.look_no_more();
        let op = look_op(&command).unwrap_or(command.op);
        self.work = Work::Waiting(Pending { op, ..Pending::new(command, None, now) });
        vec![LaneEffect::Result(result)]
    }

    fn look_no_more(&mut self) {
        self.checks.clear();
        (self.verified, self.failed_looks) = (None, 0);
    }

    fn go_on(&mut self, pending: Pending, next: Option<Box<Command>>, now: Timestamp) {
        self.work = Work::Waiting(match next {
            Some(next) => Pending::new(next, Some(&pending), now),
            None => Pending { due: now, ..pending },
        });
    }

    fn result(&self, command: &Command, outcome: Outcome, calls: u32, now: Timestamp) -> Box<ResultEvent> {
        Box::new(ResultEvent {
            tenant: command.tenant.clone(),
            target: command.target.clone(),
            account: command.account.clone(),
            identity: command.identity.clone(),
            routing_key: command.routing_key.clone(),
            generation: command.generation,
            op: command.op,
            outcome,
            external_id: self.external_id.clone(),
            error: None,
            message: None,
            attempt: calls,
            retry_at: None,
            at: now,
            source_time: command.cause.time,
            effective: command.deprovision.map(|deprovision| deprovision.effective),
            traceparent: command.cause.traceparent.clone(),
        })
    }
}

impl Pending {
    /// A command that takes the place of `old`, if any: what `old` left open at the target is still to be reckoned with.
    fn new(command: Box<Command>, old: Option<&Pending>, now: Timestamp) -> Self {
        let op = first_op(&command);
        let not_before = old.map_or(Timestamp::default(), |old| old.not_before);
        let unknown = old.is_some_and(|old| old.unknown);
        Self { command, op, calls: 0, attempts: 0, due: now.max(not_before), unknown, not_before }
    }
}

/// What has an open clock and is more than a removal has overtaken its account's disable, which comes first.
fn first_op(command: &Command) -> Op {
    match command.op {
        Op::Update | Op::Create if command.deprovision.is_some() => Op::Disable,
        op => op,
    }
}

/// What a later look is at, of a command that leaves no access: at that alone. None where it gives some.
fn look_op(command: &Command) -> Option<Op> {
    match command.op {
        Op::Delete => Some(Op::Delete),
        Op::Disable => Some(Op::Disable),
        _ => (!command.desired.active).then_some(Op::Disable),
    }
}

#[cfg(test)]
pub(crate) mod tests;
