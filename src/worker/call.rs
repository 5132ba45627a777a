//! One call to a target, from the read before it to the read-back after it.

use crate::connector::{Applied, CallError, Change, Connector, Lookup, Observed, Purpose};
use crate::lane::{Call, Ended};
use crate::model::{AccountId, ErrorClass, Generation, Op, Value};
use dashmap::DashMap;
use futures::FutureExt;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The newest generation of each account that has a call under way or waiting: the poller writes it, a call looks just
/// before it changes anything, so that an update is not made when the leaver's disable is here already.
pub type Newest = DashMap<AccountId, Generation>;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Of each exchange with the target.
    pub exchange: Duration,
    /// Just before the row was committed that says that the call is made. Whoever has the lane after this process counts from
    /// then, so a change that was not begun within one exchange is not begun any more (`CHANGING_EXCHANGES` in `cli::loops`):
    /// this process may have stood still, and a newer command been carried out by another meanwhile.
    pub began: Instant,
}

/// From now on.
impl From<Duration> for Patience {
    fn from(exchange: Duration) -> Self {
        Self { exchange, began: Instant::now() }
    }
}

/// Makes the call. A connector that panics ends this call and no other: what came of it is to be read, and without an end its
/// lane would wait for ever.
pub async fn make(
    connector: &dyn Connector,
    call: &Call,
    newest: &Newest,
    patience: impl Into<Patience> + Send,
) -> Ended {
    let made = AssertUnwindSafe(exchange(connector, call, newest, patience.into())).catch_unwind().await;
    made.unwrap_or_else(|_| Ended::Failed {
        class: ErrorClass::UnknownOutcome,
        message: "the connector panicked, which is a bug; the log has the place".to_owned(),
        retry_after: None,
    })
}

async fn exchange(connector: &dyn Connector, call: &Call, newest: &Newest, patience: Patience) -> Ended {
    let Patience { exchange: limit, began } = patience;
    let command = &call.command;
    let purpose = Purpose::of(call.op, &command.desired);
    let after = if call.op == Op::Delete { Purpose::Deleted } else { purpose };
    // A look is at what was verified, so a delete has been made; and one that is read for first may have been.
    let before = if call.check || call.read_first { after } else { purpose };
    let owner = connector.capabilities().owner;
    let lookup = lookup_for(before, call, owner);
    let looks_only = call.check || call.op == Op::Verify;
    let (mut observed, mut unread) = (None, None);
    if call.read_first || looks_only {
        match read(connector, &lookup, before, limit).await {
            Ok(found) => {
                let names = connector.differences(call.op, &command.desired, &command.revoked, found.as_ref());
                let external_id = found.as_ref().map(|found| found.external_id.clone());
                if names.is_empty() {
                    return Ended::Verified { external_id };
                }
                if looks_only {
                    return Ended::Differs { names, external_id };
                }
                observed = found;
            }
            // Ending access twice ends it once, and the read-back proves it: a read that fails is not what keeps somebody in.
            Err(error) if purpose == Purpose::Deprovision && !looks_only => unread = Some(error),
            Err(error) => return failed(error),
        }
    }
    if newest.get(&command.account).is_some_and(|newest| *newest > command.generation) {
        return Ended::Superseded;
    }
    if began.elapsed() > limit {
        let late = || format!("not begun within {} ms, so another process may have this account", limit.as_millis());
        let why = unread.map_or_else(late, |error| error.to_string());
        return failed(CallError::new(ErrorClass::UnknownOutcome, format!("put off: {why}")));
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
    let lookup = Lookup { external_id: applied.external_id.or(lookup.external_id), ..lookup_for(after, call, owner) };
    match read(connector, &lookup, after, limit).await {
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

/// Whether the match attribute may find the account. Its value may be another person's once the account is gone: where the
/// target keeps no mark of ours, an end of access is for the account of our id alone. While an outcome is unknown that id may be
/// none any more: the call may have made the account, or have changed its key.
fn by_match(purpose: Purpose, call: &Call, owner: bool) -> bool {
    let known = call.check || (call.external_id.is_some() && !call.read_first);
    match purpose {
        Purpose::Provision => true,
        Purpose::Deprovision => owner || !known,
        // What we deleted bore our mark, if the target keeps any.
        Purpose::Deleted => !known,
    }
}

fn lookup_for(purpose: Purpose, call: &Call, owner: bool) -> Lookup {
    let command = &call.command;
    let matched = match command.desired.attributes.get(&command.match_on) {
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(Value::Int(int)) => Some(int.to_string()),
        _ => None,
    };
    Lookup {
        account: command.account.clone(),
        external_id: call.external_id.clone(),
        match_on: matched.filter(|_| by_match(purpose, call, owner)).map(|value| (command.match_on.clone(), value)),
    }
}

async fn read(
    connector: &dyn Connector,
    lookup: &Lookup,
    purpose: Purpose,
    limit: Duration,
) -> Result<Option<Observed>, CallError> {
    within(limit, connector.read(lookup, purpose)).await
}

/// Bounds an exchange. A process that stood still (suspended, swapped out) finds answers waiting and time-outs over at once: the
/// time is looked at first, so that nothing more is sent. What lies between that look and the sending can't be closed here.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let began = Instant::now();
    let mut call = pin!(call);
    let in_time = poll_fn(|context| match began.elapsed() > limit {
        true => Poll::Ready(None),
        false => call.as_mut().poll(context).map(Some),
    });
    timeout(limit, in_time).await.ok().flatten().unwrap_or_else(|| {
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
    use crate::model::{Attributes, Cause, Command, Desired, Entitlements, Intent, RoutingKey, TenantId, Timestamp};
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use tokio::time::sleep;

    /// A target whose connector has a bug.
    struct Broken;

    #[async_trait::async_trait]
    impl Connector for Broken {
        fn capabilities(&self) -> Capabilities {
            Capabilities { groups: false, disable: true, delete: true, list: false, owner: true }
        }

        async fn read(&self, _: &Lookup, _: Purpose) -> Result<Option<Observed>, CallError> {
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

    const LIMIT: Duration = Duration::from_millis(100);

    /// A target of a process that stands still in the middle of a call: its one thread sleeps.
    #[derive(Default)]
    struct StandingStill {
        in_read: Duration,
        /// While the answer to the first of a change's two messages is waited for.
        in_apply: Duration,
        changes: Mutex<u32>,
    }

    #[async_trait::async_trait]
    impl Connector for StandingStill {
        fn capabilities(&self) -> Capabilities {
            Capabilities { groups: false, disable: true, delete: true, list: false, owner: true }
        }

        async fn read(&self, _: &Lookup, _: Purpose) -> Result<Option<Observed>, CallError> {
            std::thread::sleep(self.in_read);
            Ok(None)
        }

        async fn apply(&self, _: &Change) -> Result<Applied, CallError> {
            let still = self.in_apply;
            tokio::spawn(async move { std::thread::sleep(still) });
            sleep(Duration::from_millis(1)).await;
            *self.changes.lock().unwrap() += 1;
            Ok(Applied { external_id: Some("1".into()) })
        }

        async fn list(&self, _: Option<&str>) -> Result<Page, CallError> {
            Ok(Page { accounts: Vec::new(), next: None })
        }

        fn differences(&self, _: Op, _: &Desired, _: &BTreeSet<String>, observed: Option<&Observed>) -> Vec<String> {
            if observed.is_none() { vec!["account".into()] } else { Vec::new() }
        }
    }

    /// A target that shows nothing, and remembers what it was asked for.
    #[derive(Default)]
    struct Asked {
        /// How its first read fails.
        fails: Option<ErrorClass>,
        /// It forgets whose an account is.
        forgets: bool,
        /// And what it was to change.
        asked: Mutex<Vec<(Lookup, Purpose)>>,
        changes: Mutex<u32>,
    }

    #[async_trait::async_trait]
    impl Connector for Asked {
        fn capabilities(&self) -> Capabilities {
            Capabilities { groups: false, disable: true, delete: true, list: false, owner: !self.forgets }
        }

        async fn read(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError> {
            let mut asked = self.asked.lock().unwrap();
            asked.push((lookup.clone(), purpose));
            match self.fails {
                Some(class) if asked.len() == 1 => Err(CallError::new(class, "the read failed")),
                _ => Ok(None),
            }
        }

        async fn apply(&self, change: &Change) -> Result<Applied, CallError> {
            *self.changes.lock().unwrap() += 1;
            let purpose = Purpose::of(change.op, &change.desired);
            self.asked.lock().unwrap().push((change.lookup.clone(), purpose));
            Ok(Applied { external_id: None })
        }

        async fn list(&self, _: Option<&str>) -> Result<Page, CallError> {
            unreachable!("a call lists nothing")
        }

        fn differences(&self, _: Op, _: &Desired, _: &BTreeSet<String>, _: Option<&Observed>) -> Vec<String> {
            if *self.changes.lock().unwrap() == 0 { vec!["active".to_owned()] } else { Vec::new() }
        }
    }

    fn call() -> Call {
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
        Call { command: Box::new(command), op: Op::Create, external_id: None, read_first: false, check: false }
    }

    fn made(connector: &StandingStill, patience: Patience, read_first: bool) -> (Ended, u32) {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let call = Call { read_first, ..call() };
        let ended = tokio.block_on(make(connector, &call, &Newest::new(), patience));
        let changes = *connector.changes.lock().unwrap();
        (ended, changes)
    }

    #[test]
    fn a_process_that_stood_still_changes_nothing_when_it_goes_on() {
        let (long, none) = (LIMIT * 2, Duration::ZERO);
        let cases = [
            ("before the call", StandingStill::default(), long, false),
            ("while it read", StandingStill { in_read: long, ..StandingStill::default() }, none, true),
            ("while it changed", StandingStill { in_apply: long, ..StandingStill::default() }, none, false),
        ];
        for (when, connector, before, read_first) in cases {
            let began = Instant::now().checked_sub(before).unwrap();
            let (ended, changes) = made(&connector, Patience { exchange: LIMIT, began }, read_first);
            assert_eq!(changes, 0, "it stood still {when}: {ended:?}");
            assert!(matches!(ended, Ended::Failed { class: ErrorClass::UnknownOutcome, .. }), "{when}: {ended:?}");
        }
        let (_, changes) = made(&StandingStill::default(), Duration::from_secs(60).into(), true);
        assert_eq!(changes, 1, "one that didn't stand still goes on");
    }

    #[tokio::test]
    async fn what_was_deleted_is_looked_for_as_that() {
        use Purpose::{Deleted, Deprovision, Provision};
        for (op, read_first, check, expected) in [
            (Op::Create, true, false, &[Provision, Provision, Provision][..]),
            (Op::Disable, true, false, &[Deprovision, Deprovision, Deprovision]),
            (Op::Disable, true, true, &[Deprovision]),
            (Op::Delete, false, false, &[Deprovision, Deleted]),
            (Op::Delete, true, false, &[Deleted, Deprovision, Deleted]),
            (Op::Delete, true, true, &[Deleted]),
        ] {
            let target = Asked::default();
            make(&target, &Call { op, read_first, check, ..call() }, &Newest::new(), LIMIT).await;
            let asked: Vec<Purpose> = target.asked.lock().unwrap().iter().map(|(_, purpose)| *purpose).collect();
            assert_eq!(asked, expected, "{op}, read first: {read_first}, check: {check}");
        }
    }

    #[tokio::test]
    async fn a_leaver_is_not_taken_for_who_has_the_name_now() {
        // Whether each of the questions and the change name the match attribute.
        for (op, known, read_first, check, [remembers, forgets]) in [
            (Op::Create, false, false, false, [&[true, true][..], &[true, true]]),
            (Op::Update, true, true, false, [&[true, true, true], &[true, true, true]]),
            (Op::Disable, true, false, false, [&[true, true], &[false, false]]),
            (Op::Delete, true, false, false, [&[true, false], &[false, false]]),
            (Op::Disable, true, true, true, [&[true], &[false]]),
            (Op::Delete, true, true, true, [&[false], &[false]]),
            (Op::Disable, false, true, true, [&[true], &[false]]),
            (Op::Delete, false, true, true, [&[false], &[false]]),
            // A create whose outcome is unknown may have made it, and an update may have changed its key.
            (Op::Disable, false, false, false, [&[true, true], &[true, true]]),
            (Op::Disable, true, true, false, [&[true, true, true], &[true, true, true]]),
            (Op::Delete, false, false, false, [&[true, true], &[true, true]]),
        ] {
            for (forgets, expected) in [(false, remembers), (true, forgets)] {
                let target = Asked { forgets, ..Asked::default() };
                let mut call = Call { op, read_first, check, ..call() };
                call.external_id = known.then(|| "7".to_owned());
                call.command.desired.attributes.insert("login".to_owned(), "ada".into());
                make(&target, &call, &Newest::new(), LIMIT).await;
                let asked = target.asked.lock().unwrap();
                let by_match: Vec<bool> = asked.iter().map(|(lookup, _)| lookup.match_on.is_some()).collect();
                assert_eq!(by_match, expected, "{op}, known: {known}, {read_first}, {check}, forgets: {forgets}");
                assert!(asked.iter().all(|(lookup, _)| lookup.external_id == call.external_id));
            }
        }
    }

    #[tokio::test]
    async fn a_read_that_fails_does_not_keep_a_leaver_in() {
        for class in [ErrorClass::Permission, ErrorClass::ServerFault, ErrorClass::UnknownOutcome] {
            for (op, check, changes) in [
                (Op::Disable, false, 1),
                (Op::Delete, false, 1),
                (Op::Disable, true, 0),
                // Of these nobody knows what is there, and a second one may be made.
                (Op::Create, false, 0),
                (Op::Update, false, 0),
                (Op::Verify, false, 0),
            ] {
                let target = Asked { fails: Some(class), ..Asked::default() };
                let ended = make(&target, &Call { op, read_first: true, check, ..call() }, &Newest::new(), LIMIT).await;
                assert_eq!(*target.changes.lock().unwrap(), changes, "{op} after {class}");
                let expected = match changes {
                    0 => Ended::Failed { class, message: "the read failed".to_owned(), retry_after: None },
                    _ => Ended::Verified { external_id: None },
                };
                assert_eq!(ended, expected, "{op} after {class}, check: {check}");
            }
        }
    }

    #[tokio::test]
    async fn a_connector_that_panics_ends_its_call_with_an_outcome_that_has_to_be_read() {
        let ended = make(&Broken, &call(), &Newest::new(), Duration::from_secs(5)).await;
        let Ended::Failed { class, message, .. } = ended else { panic!("{ended:?}") };
        assert_eq!((class, message.contains("panicked")), (ErrorClass::UnknownOutcome, true));
    }
}
