//! Leavers' accounts at a target that keeps them current.

use super::*;

/// The directory keeps its leavers' accounts current.
fn maintaining(guard: u32) -> Bundle {
    bundle_with(guard, false, "action: disable, delete_after: 30d, maintain: true")
}

#[test]
fn a_maintained_account_follows_its_leaver_and_stays_disabled() {
    let mut town = Town::with(maintaining(100));
    town.hire("1", "Engineering");
    town.verify_all();
    town.fire("1");
    town.verify_all();
    town.commanded();
    town.tell("idp", "u1", "number=1 phone=+50");
    let update = town.commands[0].clone();
    assert_eq!(town.commanded(), ["update directory 3"], "the wiki freezes its leavers");
    assert_eq!((update.desired.active, update.deprovision), (false, None));
    assert_eq!(update.desired.attributes.get("phone"), Some(&Value::text("+50")));
    town.tell("hr", "w1", "number=1 name=Ada department=Sales status=left");
    let update = town.commands[0].clone();
    assert_eq!(town.commanded(), ["update directory 4"]);
    assert_eq!(update.desired.entitlements.groups, ["eng".to_owned()].into(), "groups are granted to who is in only");
    town.tell("hr", "w1", "number=1 name=Ada department=Sales status=left");
    assert_eq!(town.commanded(), [""; 0], "the same again changes nothing");
    assert_eq!(town.account("1", "directory").state, AccountState::Disabled);
    town.hire("1", "Sales");
    let enable = town.commands[0].clone();
    assert_eq!(town.commanded(), ["enable directory 5", "enable wiki 3"]);
    assert_eq!(enable.revoked, ["eng".to_owned()].into());
}

#[test]
fn an_update_that_a_disable_superseded_is_made_up_for() {
    let mut town = Town::with(maintaining(100));
    town.hire("1", "Legal");
    town.verify_all();
    town.tell("idp", "u1", "number=1 phone=+49");
    town.fire("1");
    let update = town.commands.last().unwrap().clone();
    assert_eq!(
        town.commanded(),
        ["create directory 1", "update directory 2", "disable directory 3", "update directory 4"],
        "by then nobody had seen the phone at the target"
    );
    assert_eq!(update.desired.attributes.get("phone"), Some(&Value::text("+49")));
    assert_eq!((update.desired.active, update.deprovision.is_some()), (false, true));
    town.fire("1");
    assert_eq!(town.commanded(), [""; 0], "once");
}

#[test]
fn an_update_that_overtakes_a_disable_carries_its_clock() {
    let mut town = Town::with(maintaining(100));
    town.hire("1", "Legal");
    town.verify_all();
    town.fire("1");
    let left = town.now;
    town.pass(60_000);
    town.commanded();
    town.tell("idp", "u1", "number=1 phone=+50");
    let update = town.commands[0].clone();
    assert_eq!(town.commanded(), ["update directory 3"]);
    assert_eq!(update.deprovision.unwrap().effective, left);
    town.result(&update, Outcome::Verified);
    assert_eq!(town.account("1", "directory").clock, None, "the newest command's result is the one that counts");
}

#[test]
fn who_left_before_having_an_account_gets_a_disabled_one_where_it_is_maintained() {
    let mut town = Town::with(maintaining(100));
    town.fire("1");
    let create = town.commands[0].clone();
    assert_eq!(town.commanded(), ["create directory 1"]);
    assert_eq!((create.desired.active, create.desired.entitlements.groups.len()), (false, 0));
    assert_eq!(create.desired.attributes.get("name"), Some(&Value::text("Augusta!")));
    assert_eq!(town.account("1", "directory").clock, None, "no access was given that would have to end");
    town.tell("idp", "u1", "number=1 phone=+50");
    assert_eq!(town.commanded(), ["update directory 2"]);
    town.hire("1", "Engineering");
    assert_eq!(town.commanded(), ["enable directory 3", "create wiki 1"]);
}

#[test]
fn the_guard_decides_about_accounts_that_are_made_disabled_and_what_it_holds_is_frozen() {
    let mut town = Town::with(maintaining(0));
    town.hire("1", "Legal");
    town.fire("1");
    town.fire("2");
    town.commanded();
    for number in ["1", "2"] {
        town.tell("idp", &format!("u{number}"), &format!("number={number} phone=+50"));
        assert!(matches!(town.account(number, "directory").removal, Removal::Held { .. }));
    }
    assert_eq!(town.commanded(), [""; 0], "held");
    let guard = Address::guard("acme".into());
    town.operate(guard.clone(), Action::GuardRelease { target: Some("directory".into()), account: None });
    let phones: Vec<_> = town.commands.iter().map(|c| c.desired.attributes.get("phone").cloned()).collect();
    assert_eq!(town.commanded(), ["disable directory 2", "update directory 3", "create directory 1"]);
    assert_eq!(phones[1..], [Some(Value::text("+50")), Some(Value::text("+50"))], "by what is known now");

    town.fire("3");
    let account = town.account("3", "directory").account;
    town.operate(guard, Action::GuardReject { target: None, account: Some(account) });
    town.tell("idp", "u3", "number=3 phone=+51");
    assert_eq!(town.commanded(), [""; 0], "a person said no");
}

#[test]
fn a_maintained_account_whose_deletion_is_held_is_frozen() {
    let mut town = Town::with(maintaining(0));
    town.hire("1", "Legal");
    town.verify_all();
    town.fire("1");
    let guard = Address::guard("acme".into());
    town.operate(guard.clone(), Action::GuardRelease { target: None, account: None });
    town.pass(31 * DAY);
    town.commanded();
    assert!(matches!(town.account("1", "directory").removal, Removal::Held { op: Op::Delete, .. }));
    town.tell("idp", "u1", "number=1 phone=+50");
    assert_eq!(town.commanded(), [""; 0]);
    town.operate(guard, Action::GuardRelease { target: None, account: None });
    assert_eq!(town.commanded(), ["delete directory 3"]);
}

#[test]
fn a_maintained_account_needs_its_records_and_its_rules_but_a_disable_needs_neither() {
    let mut town = Town::with(maintaining(100));
    town.hire("1", "Legal");
    town.tell("idp", "u1", "number=1 phone=+49");
    town.commanded();
    town.tell("hr", "w1", "number=1 department=Legal status=left");
    assert_eq!(town.commanded(), ["disable directory 3"], "the directory's rule needs a name");
    town.tell("hr", "w1", "number=1 name=Ada department=Legal status=left");
    assert_eq!(town.commanded(), ["update directory 4"]);
    town.tell("hr", "w1", "gone");
    town.tell("idp", "u1", "number=1 phone=+50");
    assert_eq!(town.commanded(), [""; 0], "nobody says any more how it should be");
}

#[test]
fn a_maintained_account_that_was_deleted_after_its_grace_is_not_made_again() {
    let mut town = Town::with(maintaining(100));
    town.hire("1", "Legal");
    town.verify_all();
    town.fire("1");
    town.fire("2");
    town.verify_all();
    town.commanded();
    town.pass(31 * DAY);
    assert_eq!(town.commanded(), ["delete directory 3", "delete directory 2"]);
    town.tell("idp", "u1", "number=1 phone=+50");
    assert_eq!(town.commanded(), [""; 0]);
}

#[test]
fn a_dead_letter_of_a_leavers_maintained_account_is_redriven_as_what_it_is() {
    for (known, op) in [(true, Op::Update), (false, Op::Create)] {
        let mut town = Town::with(maintaining(100));
        town.fire("1");
        let create = town.commands[0].clone();
        town.result(&create, if known { Outcome::Verified } else { Outcome::DeadLettered });
        town.commanded();
        let to = Address::identity(create.routing_key.clone(), create.tenant.clone(), create.identity.clone());
        let action = Action::Redrive {
            target: create.target.clone(),
            account: create.account.clone(),
            identity: create.identity.clone(),
            routing_key: create.routing_key.clone(),
        };
        town.operate(to, action);
        assert_eq!((town.commands[0].op, town.commands[0].desired.active), (op, false));
    }
}

#[test]
fn what_becomes_urgent_while_the_guard_is_asked_is_not_held() {
    let mut town = Town::with(bundle(0, false));
    town.hire("1", "Legal");
    town.verify_all();
    town.commanded();
    town.waiting_elsewhere = Some(Vec::new());
    town.fire("1");
    town.tell("hr", "w1", "number=1 name=Augusta department=Legal status=left reason=security");
    assert_eq!(town.commanded(), [""; 0], "the Guard has not answered yet");
    town.others_return();
    assert_eq!(town.commanded(), ["disable directory 2"]);
}

#[test]
fn a_redrive_gives_nothing_to_a_leaver_whose_removal_is_held() {
    let mut town = Town::with(bundle(0, false));
    town.hire("1", "Legal");
    let create = town.commands[0].clone();
    town.result(&create, Outcome::DeadLettered);
    town.commanded();
    let redrive = |town: &mut Town| {
        let (identity, routing_key) = (create.identity.clone(), create.routing_key.clone());
        let to = Address::identity(routing_key.clone(), "acme".into(), identity.clone());
        let account = create.account.clone();
        town.operate(to, Action::Redrive { target: "directory".into(), account, identity, routing_key });
    };
    town.waiting_elsewhere = Some(Vec::new());
    town.fire("1");
    redrive(&mut town);
    assert_eq!(town.commanded(), [""; 0], "the Guard is asked");
    town.others_return();
    redrive(&mut town);
    assert_eq!(town.commanded(), [""; 0], "held");
    town.operate(Address::guard("acme".into()), Action::GuardRelease { target: None, account: None });
    assert_eq!(town.commanded(), ["disable directory 2"]);
    redrive(&mut town);
    assert_eq!(town.commanded(), ["disable directory 3"]);
}

#[test]
fn who_rejects_a_deletion_does_not_stop_the_clock_of_the_disable() {
    let mut town = Town::with(bundle(0, false));
    let guard = Address::guard("acme".into());
    town.hire("1", "Legal");
    town.verify_all();
    town.fire("1");
    town.operate(guard.clone(), Action::GuardRelease { target: None, account: None });
    let disable = town.commands.last().unwrap().clone();
    // The target is away for weeks: nobody has seen that the access is gone.
    town.pass(31 * DAY);
    assert_eq!(town.commanded(), ["create directory 1", "disable directory 2"]);
    assert!(matches!(town.account("1", "directory").removal, Removal::Held { op: Op::Delete, .. }));
    let overdue =
        |town: &Town, state| town.alerts.iter().filter(|a| **a == (AlertKind::DeprovisionOverdue, state)).count();
    assert_eq!(overdue(&town, AlertState::Raised), 1);
    town.operate(guard, Action::GuardReject { target: None, account: None });
    assert!(town.account("1", "directory").clock.is_some(), "the account is to stay, the access is not");
    assert_eq!(overdue(&town, AlertState::Resolved), 0);
    town.result(&disable, Outcome::Verified);
    assert_eq!(overdue(&town, AlertState::Resolved), 1);
}
