//! What a person says of held removals, once and again.

use super::*;

fn release() -> Action {
    Action::GuardRelease { target: None, account: None }
}

/// One removal at a time passes; of these people all are out but the last.
fn one_held(town: &mut Town, people: &[&str]) {
    for number in people {
        town.hire(number, "Legal");
    }
    town.verify_all();
    town.commanded();
    for number in people {
        town.fire(number);
    }
}

fn is_held(town: &Town, number: &str) -> bool {
    matches!(town.account(number, "directory").removal, Removal::Held { .. })
}

#[test]
fn an_operation_that_comes_again_releases_nobody_who_is_held_since() {
    let guard = Address::guard("acme".into());
    let mut town = Town::with(bundle(1, false));
    one_held(&mut town, &["1", "2"]);
    let given = town.now;
    town.operate_as(guard.clone(), "a", given, release());
    assert!(!is_held(&town, "2"));
    town.pass(1_000);
    one_held(&mut town, &["3"]);
    assert!(is_held(&town, "3"));
    town.operate_as(guard.clone(), "a", given, release());
    town.operate_as(guard.clone(), "a", town.now, release());
    assert!(is_held(&town, "3"), "whoever sent it again got no answer the first time, and saw nobody else");
    town.operate_as(guard, "b", town.now, release());
    assert!(!is_held(&town, "3"));
}

/// The offsets of a group were lost, and all operations of a year come again.
#[test]
fn of_more_operations_than_are_remembered_none_is_carried_out_again() {
    let guard = Address::guard("acme".into());
    let mut town = Town::with(bundle(1, false));
    let mut given = Vec::new();
    for n in 0..600 {
        town.pass(HOUR);
        given.push(town.now);
        town.operate_as(guard.clone(), &format!("o{n}"), town.now, release());
    }
    one_held(&mut town, &["1", "2"]);
    for (n, at) in given.iter().enumerate() {
        town.operate_as(guard.clone(), &format!("o{n}"), *at, release());
        assert!(is_held(&town, "2"), "o{n}");
    }
    // By whoever has a slow clock, and by whoever has a fast one.
    town.operate_as(guard.clone(), "slow", Timestamp(town.now.0 - HOUR), release());
    assert!(!is_held(&town, "2"));
    one_held(&mut town, &["3"]);
    town.operate_as(guard, "fast", Timestamp(town.now.0 + HOUR), release());
    assert!(!is_held(&town, "3"));
}

/// A script releases one account after the other, and somebody whose clock is behind another.
#[test]
fn of_many_operations_at_once_none_is_taken_for_an_old_one_because_of_its_clock() {
    let guard = Address::guard("acme".into());
    let mut town = Town::with(bundle(1, false));
    for n in 0..600 {
        town.operate_as(guard.clone(), &format!("o{n}"), Timestamp(town.now.0 + n), release());
    }
    one_held(&mut town, &["1", "2"]);
    town.operate_as(guard, "behind", Timestamp(town.now.0 - 50_000), release());
    assert!(!is_held(&town, "2"));
}
