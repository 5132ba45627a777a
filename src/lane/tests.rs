//! The lane as sentences: these commands and call ends, these calls and results.

use super::*;
use crate::model::{AccountId, Cause, Deprovision, Desired, Entitlements, IdentityId, Intent};

fn policy() -> RetryPolicy {
    RetryPolicy::new(Duration::from_secs(10), std::time::Instant::now())
}

pub(crate) fn command(generation: u64, op: Op) -> Box<Command> {
    Box::new(Command {
        tenant: "acme".into(),
        target: "directory".into(),
        account: AccountId::from("a"),
        identity: IdentityId::from("i"),
        intent: Intent::default_intent(),
        routing_key: "acme/1".into(),
        external_id: None,
        generation: Generation(generation),
        op,
        desired: Desired {
            active: !op.is_deprovision(),
            attributes: Default::default(),
            entitlements: Entitlements::default(),
        },
        revoked: Default::default(),
        match_on: "userName".to_owned(),
        deadline: Timestamp(0),
        deprovision: op.is_deprovision().then_some(Deprovision { effective: Timestamp(1), deadline: Timestamp(2) }),
        issued: Timestamp(0),
        cause: Cause::own("test".to_owned(), Timestamp(0)),
    })
}

fn failed(class: ErrorClass) -> Ended {
    Ended::Failed { class, message: "no".to_owned(), retry_after: None }
}

fn verified() -> Ended {
    Ended::Verified { external_id: Some("x".to_owned()) }
}

fn outcomes(effects: &[LaneEffect]) -> Vec<(u64, Outcome)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            LaneEffect::Result(result) => Some((result.generation.0, result.outcome)),
            _ => None,
        })
        .collect()
}

/// A lane that has taken `commands` in at time 0.
fn lane(commands: impl IntoIterator<Item = Box<Command>>) -> Lane {
    let mut lane = Lane::default();
    for command in commands {
        lane.accept(command, Timestamp(0));
    }
    lane
}

#[test]
fn nothing_at_or_below_the_generation_seen_is_taken() {
    let mut lane = lane([command(2, Op::Update)]);
    for generation in [1, 2] {
        assert_eq!(lane.accept(command(generation, Op::Update), Timestamp(0)), Accepted::Stale, "{generation}");
    }
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(1), &policy());
    assert_eq!(lane.accept(command(2, Op::Disable), Timestamp(2)), Accepted::Stale, "also after it was applied");
    assert_eq!(lane.accept(command(3, Op::Disable), Timestamp(2)), Accepted::Ready);
}

#[test]
fn ten_waiting_updates_become_one_call_and_each_other_one_is_superseded() {
    let mut lane = Lane::default();
    let mut superseded = Vec::new();
    for generation in 1..=10 {
        if let Accepted::Superseding(result) = lane.accept(command(generation, Op::Update), Timestamp(0)) {
            superseded.push((result.generation.0, result.outcome));
        }
    }
    assert_eq!(superseded, (1..=9).map(|generation| (generation, Outcome::Superseded)).collect::<Vec<_>>());
    assert_eq!(lane.start(Timestamp(0)).unwrap().command.generation, Generation(10));
    assert_eq!(lane.start(Timestamp(0)), None, "one call at a time");
}

#[test]
fn an_update_that_overtakes_its_create_makes_the_account() {
    let mut lane = lane([command(1, Op::Create), command(2, Op::Update)]);
    let call = lane.start(Timestamp(0)).unwrap();
    assert_eq!((call.op, call.command.generation), (Op::Create, Generation(2)));
}

#[test]
fn an_enable_that_overtakes_create_and_disable_makes_the_account() {
    let mut lane = lane([command(1, Op::Create), command(2, Op::Disable), command(3, Op::Enable)]);
    assert_eq!(lane.start(Timestamp(0)).unwrap().op, Op::Create);
}

#[test]
fn an_update_of_an_account_that_is_known_creates_nothing() {
    let mut update = command(7, Op::Update);
    update.external_id = Some("x".to_owned());
    assert_eq!(lane([update]).start(Timestamp(0)).unwrap().op, Op::Update);
}

#[test]
fn a_disable_that_overtakes_its_create_never_creates() {
    let mut lane = lane([command(1, Op::Create), command(2, Op::Disable)]);
    assert_eq!(lane.start(Timestamp(0)).unwrap().op, Op::Disable);
    let mut lane = self::lane([command(3, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(failed(ErrorClass::MissingOnUpdate), Timestamp(0), &policy());
    assert_eq!(lane.start(Timestamp(1 << 30)).unwrap().op, Op::Disable);
}

/// An update of a leaver's account, whose disable isn't verified.
fn update_of_a_leaver(generation: u64) -> Box<Command> {
    let mut update = command(generation, Op::Update);
    update.desired.active = false;
    update.deprovision = command(generation, Op::Disable).deprovision;
    update
}

#[test]
fn an_update_that_overtakes_a_disable_disables_first() {
    let mut lane = lane([command(1, Op::Create), command(2, Op::Disable), update_of_a_leaver(3)]);
    assert_eq!(lane.priority(), 0, "a leaver waits behind nobody");
    assert_eq!(lane.start(Timestamp(0)).unwrap().op, Op::Disable);
    let effects = lane.finish(Ended::Verified { external_id: None }, Timestamp(1), &policy());
    let [LaneEffect::Result(result)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((result.generation.0, result.op, result.outcome), (3, Op::Disable, Outcome::Verified));
    let call = lane.start(Timestamp(1)).unwrap();
    assert_eq!(call.op, Op::Create, "there was no account to disable, so there is none to update");
    assert!(!call.command.desired.active);
    let effects = lane.finish(verified(), Timestamp(2), &policy());
    assert_eq!(outcomes(&effects), [(3, Outcome::Verified)]);
    let look = lane.start(lane.due().unwrap()).unwrap();
    assert_eq!((look.op, look.check), (Op::Disable, true), "later looks are at the access alone");
}

#[test]
fn what_the_target_refuses_of_an_update_never_keeps_a_leaver_in() {
    let mut lane = lane([command(2, Op::Disable), update_of_a_leaver(3)]);
    lane.start(Timestamp(0)).unwrap();
    assert_eq!(outcomes(&lane.finish(verified(), Timestamp(1), &policy())), [(3, Outcome::Verified)]);
    assert_eq!(lane.start(Timestamp(1)).unwrap().op, Op::Update);
    let effects = lane.finish(failed(ErrorClass::Invalid), Timestamp(2), &policy());
    assert_eq!(outcomes(&effects), [(3, Outcome::DeadLettered)], "after the access was taken away");
}

#[test]
fn groups_that_an_overtaken_command_would_have_taken_away_are_still_taken_away() {
    let mut first = command(1, Op::Update);
    first.revoked = ["admins".to_owned(), "eng".to_owned()].into();
    let mut second = command(2, Op::Update);
    second.desired.entitlements.groups = ["eng".to_owned()].into();
    let mut lane = lane([first, second]);
    assert_eq!(lane.start(Timestamp(0)).unwrap().command.revoked, ["admins".to_owned()].into());
}

#[test]
fn groups_to_be_taken_away_survive_any_number_of_commands_during_a_call() {
    let mut create = command(1, Op::Create);
    create.desired.entitlements.groups = ["admins".to_owned(), "eng".to_owned()].into();
    let mut lane = lane([create]);
    lane.start(Timestamp(0)).unwrap();
    for (generation, revoked) in [(2, "admins"), (3, "eng"), (4, "eng")] {
        let mut next = command(generation, Op::Update);
        next.revoked = [revoked.to_owned()].into();
        lane.accept(next, Timestamp(0));
    }
    lane.finish(verified(), Timestamp(1), &policy());
    assert_eq!(lane.start(Timestamp(1)).unwrap().command.revoked, ["admins".to_owned(), "eng".to_owned()].into());
}

#[test]
fn a_disable_takes_no_group_away_so_the_enable_after_it_does() {
    let mut update = command(1, Op::Update);
    update.revoked = ["admins".to_owned()].into();
    let mut lane = lane([update, command(2, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(1), &policy());
    lane.accept(command(3, Op::Enable), Timestamp(2));
    assert_eq!(lane.start(Timestamp(2)).unwrap().command.revoked, ["admins".to_owned()].into());
    lane.finish(verified(), Timestamp(3), &policy());
    assert!(lane.owed.is_empty());
}

#[test]
fn a_command_that_comes_during_a_call_runs_after_it() {
    let mut lane = lane([command(1, Op::Create)]);
    lane.start(Timestamp(0)).unwrap();
    assert_eq!(lane.accept(command(2, Op::Disable), Timestamp(1)), Accepted::Ready);
    assert_eq!(lane.due(), None);
    let effects = lane.finish(verified(), Timestamp(2), &policy());
    assert_eq!(outcomes(&effects), [(1, Outcome::Verified)]);
    let call = lane.start(Timestamp(2)).unwrap();
    assert_eq!((call.op, call.external_id.as_deref(), call.read_first), (Op::Disable, Some("x"), false));
}

#[test]
fn a_failure_under_a_newer_command_is_not_retried_but_its_unknown_outcome_is_inherited() {
    let mut lane = lane([command(1, Op::Create)]);
    lane.start(Timestamp(0)).unwrap();
    lane.accept(command(2, Op::Update), Timestamp(1));
    let effects = lane.finish(failed(ErrorClass::UnknownOutcome), Timestamp(2), &policy());
    assert_eq!(outcomes(&effects), [(1, Outcome::Superseded)]);
    let due = lane.due().unwrap();
    assert_eq!(due, Timestamp(0).plus(policy().call_timeout), "it may still arrive");
    let call = lane.start(due).unwrap();
    assert!(call.read_first);
    assert_eq!(call.op, Op::Create);
}

/// A gateway may pass on what its client has given up waiting for.
#[test]
fn what_had_no_answer_is_waited_out_by_whatever_comes_after_it() {
    let policy = policy();
    let silent = |lane: &mut Lane| {
        lane.start(Timestamp(0)).unwrap();
        lane.finish(failed(ErrorClass::UnknownOutcome), Timestamp(8_000), &policy)
    };
    for (first, next, due) in [
        // Its next try, or what replaces it.
        (Op::Update, None, 10_000),
        (Op::Update, Some(Op::Update), 10_000),
        (Op::Update, Some(Op::Disable), 10_000),
        (Op::Disable, Some(Op::Enable), 10_000),
    ] {
        let mut lane = lane([command(1, first)]);
        silent(&mut lane);
        if let Some(next) = next {
            lane.accept(command(2, next), Timestamp(8_100));
        }
        assert!(lane.due().unwrap() >= Timestamp(due), "{first} {next:?}: {:?}", lane.due());
        assert!(lane.start(Timestamp(60_000)).unwrap().read_first);
    }
    let mut lane = lane([command(1, Op::Disable)]);
    silent(&mut lane);
    assert!(lane.due().unwrap() < Timestamp(9_500), "the same removal again is never too early");
}

#[test]
fn retries_are_parked_with_a_due_time_and_end_as_a_dead_letter() {
    let policy = policy();
    let mut lane = lane([command(1, Op::Create)]);
    let mut now = Timestamp(0);
    for attempt in 1..policy.attempts {
        lane.start(now).unwrap();
        let effects = lane.finish(failed(ErrorClass::ServerFault), now, &policy);
        assert_eq!(outcomes(&effects), [(1, Outcome::Parked)], "attempt {attempt}");
        let due = lane.due().expect("it waits with a due time");
        assert!(due > now);
        now = due;
    }
    assert!(lane.start(now).unwrap().read_first, "a server fault may have done it");
    let effects = lane.finish(failed(ErrorClass::ServerFault), now, &policy);
    assert_eq!(outcomes(&effects), [(1, Outcome::DeadLettered)]);
    assert!(matches!(&effects[1], LaneEffect::DeadLetter(letter) if letter.attempts == policy.attempts));
    assert_eq!(lane.due(), None);
    lane.accept(command(2, Op::Update), now);
    lane.start(now).unwrap();
    assert_eq!(lane.finish(verified(), now, &policy)[1], LaneEffect::DeadLetterOver);
}

#[test]
fn an_unknown_outcome_stays_unknown_until_it_was_read() {
    let mut lane = lane([command(1, Op::Update)]);
    for class in [ErrorClass::UnknownOutcome, ErrorClass::Unreachable] {
        lane.start(Timestamp(1 << 40)).unwrap();
        lane.finish(failed(class), Timestamp(0), &policy());
    }
    assert!(lane.start(Timestamp(1 << 40)).unwrap().read_first);
}

#[test]
fn a_target_that_is_down_spends_no_attempts() {
    let policy = policy();
    let mut lane = lane([command(1, Op::Disable)]);
    for i in 0..500 {
        lane.start(Timestamp(i << 32)).unwrap();
        let effects = lane.finish(failed(ErrorClass::Unreachable), Timestamp(i << 32), &policy);
        assert_eq!(outcomes(&effects), [(1, Outcome::Parked)]);
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_bound() {
    let policy = policy();
    for (asked, waits) in [(1_800, 1_800), (1 << 40, policy.longest_wait.as_secs() as i64)] {
        let mut lane = lane([command(1, Op::Update)]);
        lane.start(Timestamp(0)).unwrap();
        let throttled = Ended::Failed {
            class: ErrorClass::Throttled,
            message: String::new(),
            retry_after: Some(Duration::from_secs(asked)),
        };
        lane.finish(throttled, Timestamp(0), &policy);
        assert_eq!(lane.due(), Some(Timestamp(waits * 1000)));
    }
}

#[test]
fn a_target_that_says_yes_and_does_nothing_is_tried_again() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    let differs = Ended::Differs { names: vec!["active".to_owned()], external_id: Some("x".to_owned()) };
    let effects = lane.finish(differs, Timestamp(0), &policy());
    assert_eq!(outcomes(&effects), [(1, Outcome::FalseSuccess)]);
    assert!(lane.due().is_some());
    assert!(lane.checks.is_empty());
}

#[test]
fn a_verified_deprovision_is_looked_at_again_three_times_and_mended_if_undone() {
    let policy = policy();
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(0), &policy);
    let dues = [policy.call_timeout, LATER_CHECKS[0], LATER_CHECKS[1]].map(|wait| Timestamp(0).plus(wait));
    assert_eq!(lane.checks, dues);
    assert_eq!(lane.start(Timestamp(1)), None, "not yet");
    let look = lane.start(dues[0]).unwrap();
    assert!(look.check && look.read_first);
    assert!(lane.finish(verified(), dues[0], &policy).is_empty());
    lane.start(dues[1]).unwrap();
    let undone = Ended::Differs { names: vec!["active".to_owned()], external_id: None };
    let effects = lane.finish(undone, dues[1], &policy);
    assert_eq!(outcomes(&effects), [(1, Outcome::Drifted)]);
    let call = lane.start(dues[1]).unwrap();
    assert_eq!((call.op, call.check), (Op::Disable, false));
    lane.finish(verified(), dues[1], &policy);
    assert_eq!(lane.checks.len(), 3);
}

/// A change of those who have left, while their disable is to be looked at again.
fn change_of_a_leaver(generation: u64, op: Op) -> Box<Command> {
    let mut change = command(generation, op);
    change.desired.active = false;
    change
}

fn undone() -> Ended {
    Ended::Differs { names: vec!["active".to_owned()], external_id: None }
}

#[test]
fn whatever_leaves_no_access_is_looked_at_again_for_the_access_alone() {
    let create = change_of_a_leaver(1, Op::Create);
    for first in [create.clone(), command(1, Op::Disable), command(1, Op::Delete), change_of_a_leaver(1, Op::Update)] {
        let mut lane = lane([first.clone()]);
        lane.start(Timestamp(0)).unwrap();
        lane.finish(verified(), Timestamp(0), &policy());
        let due = lane.due().unwrap();
        let look = lane.start(due).unwrap();
        let op = if first.op == Op::Delete { Op::Delete } else { Op::Disable };
        assert_eq!((look.op, look.check, look.external_id.as_deref()), (op, true, Some("x")), "{}", first.op);
        assert_eq!(outcomes(&lane.finish(undone(), due, &policy())), [(1, Outcome::Drifted)]);
        assert_eq!(lane.start(due).unwrap().op, op, "{}", first.op);
    }
}

#[test]
fn what_comes_later_of_a_leaver_takes_nothing_off_the_looks() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(0), &policy());
    // Refused, so that it never sets looks of its own.
    lane.accept(change_of_a_leaver(2, Op::Update), Timestamp(1));
    assert_eq!(lane.start(Timestamp(1)).unwrap().op, Op::Update);
    let effects = lane.finish(failed(ErrorClass::Invalid), Timestamp(2), &policy());
    assert_eq!(outcomes(&effects), [(2, Outcome::DeadLettered)]);
    let due = lane.due().expect("the disable is still to be looked at");
    assert_eq!(lane.start(due).unwrap().op, Op::Disable);
    // One that comes during a look waits behind what the look brings up.
    lane.accept(change_of_a_leaver(3, Op::Update), due);
    let effects = lane.finish(undone(), due, &policy());
    assert_eq!(outcomes(&effects), [(3, Outcome::Drifted)], "the newest, as its identity knows no other");
    let call = lane.start(due).unwrap();
    assert_eq!((call.op, call.command.generation), (Op::Disable, Generation(3)));
    lane.finish(verified(), due, &policy());
    assert_eq!(lane.start(due).unwrap().op, Op::Update, "and then the rest of it");
    assert_eq!(lane.checks.len(), 3, "looks are due from when the access was gone");
}

#[test]
fn looks_stand_while_a_newer_change_of_a_leaver_runs() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.accept(change_of_a_leaver(2, Op::Update), Timestamp(1));
    lane.finish(verified(), Timestamp(2), &policy());
    lane.start(Timestamp(2)).unwrap();
    lane.finish(failed(ErrorClass::Invalid), Timestamp(3), &policy());
    assert_eq!(lane.checks.len(), 3);
    let mut lane = self::lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.accept(command(2, Op::Enable), Timestamp(1));
    lane.finish(verified(), Timestamp(2), &policy());
    assert!(lane.checks.is_empty(), "none where access is wanted again");
}

#[test]
fn an_account_made_for_a_leaver_whose_clock_runs_is_disabled_first() {
    let mut create = update_of_a_leaver(2);
    create.op = Op::Create;
    let mut lane = lane([create]);
    assert_eq!((lane.priority(), lane.start(Timestamp(0)).unwrap().op), (0, Op::Disable));
    lane.finish(Ended::Verified { external_id: None }, Timestamp(1), &policy());
    assert_eq!(lane.start(Timestamp(1)).unwrap().op, Op::Create);
    lane.finish(failed(ErrorClass::Invalid), Timestamp(2), &policy());
    assert_eq!(lane.checks.len(), 3, "what the target refuses of it takes nothing off the looks");
}

#[test]
fn looks_that_fail_come_further_and_further_apart_and_end_in_the_removal_again() {
    let policy = policy();
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(0), &policy);
    let (mut now, mut waits) = (lane.due().unwrap(), Vec::new());
    for _ in 1..FAILED_LOOKS {
        assert!(lane.start(now).unwrap().check);
        assert_eq!(lane.finish(failed(ErrorClass::Permission), now, &policy), []);
        waits.push(lane.due().unwrap().since(now).as_secs());
        now = lane.due().unwrap();
    }
    assert!(waits[2..].windows(2).all(|pair| pair[0] < pair[1]) && waits[8] > 100, "{waits:?}");
    lane.start(now).unwrap();
    assert_eq!(outcomes(&lane.finish(failed(ErrorClass::Permission), now, &policy)), [(1, Outcome::Drifted)]);
    assert_eq!(lane.start(now).unwrap().op, Op::Disable);
    assert_eq!(outcomes(&lane.finish(failed(ErrorClass::Permission), now, &policy)), [(1, Outcome::DeadLettered)]);
}

#[test]
fn a_look_that_a_busy_target_refuses_is_made_when_it_says() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(0), &policy());
    let mut now = lane.due().unwrap();
    for _ in 0..FAILED_LOOKS * 2 {
        lane.start(now).unwrap();
        let retry_after = Some(Duration::from_secs(600));
        let busy = Ended::Failed { class: ErrorClass::Throttled, message: String::new(), retry_after };
        assert_eq!(lane.finish(busy, now, &policy()), [], "it says nothing of the account, however often");
        assert_eq!(lane.due(), Some(now.plus(Duration::from_secs(600))));
        now = lane.due().unwrap();
    }
}

#[test]
fn a_rehire_ends_the_second_looks() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(0)).unwrap();
    lane.finish(verified(), Timestamp(0), &policy());
    lane.accept(command(2, Op::Enable), Timestamp(5));
    lane.start(Timestamp(5)).unwrap();
    lane.finish(verified(), Timestamp(6), &policy());
    assert_eq!(lane.due(), None);
}

#[test]
fn after_a_crash_what_ran_waits_out_its_time_and_is_read_first() {
    let timeout = Duration::from_secs(10);
    let mut lane = lane([command(1, Op::Create)]);
    lane.start(Timestamp(1_000)).unwrap();
    let mut restored: Lane = crate::model::envelope::open(&crate::model::envelope::seal(&lane)).unwrap();
    let again = restored.clone();
    restored.restore(Timestamp(1_500), timeout);
    assert_eq!(restored.due(), Some(Timestamp(11_500)));
    assert!(restored.start(Timestamp(11_500)).unwrap().read_first);

    let mut long_ago = again;
    long_ago.restore(Timestamp(3_600_000), timeout);
    assert_eq!(long_ago.due(), Some(Timestamp(81_000)), "by another clock, a commit's length later at most");

    let mut elsewhere = lane.clone();
    elsewhere.restore(Timestamp(56_500), timeout);
    assert_eq!(elsewhere.due(), Some(Timestamp(66_500)), "this process's clock may be ahead of the one that died");

    let mut waiting = self::lane([command(1, Op::Create)]);
    waiting.restore(Timestamp(1_500), timeout);
    assert_eq!(waiting.due(), Some(Timestamp(0)), "no call was made: no need to wait or to read");
    assert!(!waiting.start(Timestamp(0)).unwrap().read_first);
}

#[test]
fn after_a_crash_a_newer_command_inherits_the_wait() {
    let mut lane = lane([command(1, Op::Create)]);
    lane.start(Timestamp(1_000)).unwrap();
    lane.accept(command(2, Op::Disable), Timestamp(2_000));
    let result = lane.restore(Timestamp(2_500), Duration::from_secs(10)).expect("the create ends here");
    assert_eq!((result.generation, result.outcome), (Generation(1), Outcome::Superseded));
    assert_eq!(lane.due(), Some(Timestamp(12_500)));
    let call = lane.start(Timestamp(12_500)).unwrap();
    assert_eq!((call.op, call.read_first), (Op::Disable, true));
}

#[test]
fn a_command_that_comes_after_a_crash_waits_for_what_may_still_arrive() {
    let mut lane = lane([command(1, Op::Disable)]);
    lane.start(Timestamp(1_000)).unwrap();
    lane.restore(Timestamp(2_500), Duration::from_secs(10));
    lane.accept(command(2, Op::Enable), Timestamp(3_000));
    assert_eq!(lane.due(), Some(Timestamp(12_500)));
    assert!(lane.start(Timestamp(12_500)).unwrap().read_first);
}

#[test]
fn leavers_come_first() {
    let leaver = lane([command(1, Op::Disable)]);
    let joiner = lane([command(1, Op::Create)]);
    assert!(leaver.priority() < joiner.priority());
}
