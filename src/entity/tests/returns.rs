//! Who comes back, or goes another way than before, while something about them is held, rejected or planned.

use super::*;

const GUARD: u32 = 0;

fn guard() -> Address {
    Address::guard("acme".into())
}

/// The same rules, with other words in one place.
fn rules(leaver: &str, from: &str, to: &str) -> Bundle {
    let mut found = false;
    let files = files(GUARD, false, leaver).into_iter().map(|(path, text)| {
        found |= text.contains(from);
        SourceFile { path: path.to_owned(), text: text.replace(from, to) }
    });
    let bundle = Bundle::compile(&files.collect::<Vec<_>>()).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert!(found, "{from}");
    bundle
}

/// Nobody has an account without the IdP's record.
fn requiring() -> Bundle {
    rules("action: disable", "correlate:", "requires: [idp]\n    correlate:")
}

fn reject(town: &mut Town) {
    town.operate(guard(), Action::GuardReject { target: None, account: None });
}

fn removal(town: &Town) -> Removal {
    town.account("1", "directory").removal
}

fn is_held(town: &Town) -> bool {
    let row = town.account("1", "directory");
    matches!(row.removal, Removal::Held { .. }) && row.clock.is_some()
}

#[test]
fn what_was_said_no_to_before_anybody_left_is_asked_again_when_they_leave() {
    let mut town = Town::with(bundle(GUARD, false));
    town.hire("1", "Legal");
    town.tell("hr", "w1", "number=1 name=Augusta department=Legal status=active start=2026-05-01");
    assert!(is_held(&town), "a start that was put off by mistake");
    reject(&mut town);
    assert_eq!(removal(&town), Removal::Rejected { left: false });
    town.tell("hr", "w1", "number=1 name=Ada department=Legal status=active start=2026-05-01");
    assert_eq!(removal(&town), Removal::Rejected { left: false }, "the same is not asked again");
    town.fire("1");
    assert!(is_held(&town));
}

/// All are said to have left, which a person rejects and HR takes back: and then they do leave.
#[test]
fn what_was_said_no_to_is_asked_again_after_a_return_that_nothing_came_of() {
    // Because a record is missing, a rule fails, or they are out of scope there.
    let failing = || rules("action: disable", "\"name + '!'\"", "\"name + '!' + phone\"");
    for (why, rules, missing, back) in [
        ("incomplete", requiring(), true, "Legal"),
        ("failing", failing(), true, "Legal"),
        (
            "out of scope",
            rules("action: disable", "account: { match", "account: { when: \"department != 'Ops'\", match"),
            false,
            "Ops",
        ),
    ] {
        let mut town = Town::with(rules);
        town.tell("idp", "u1", "number=1 phone=7");
        town.hire("1", "Legal");
        assert_eq!(town.commanded().first().map(String::as_str), Some("create directory 1"), "{why}");
        town.fire("1");
        reject(&mut town);
        assert_eq!(removal(&town), Removal::Rejected { left: true }, "{why}");
        if missing {
            town.tell("idp", "u1", "gone");
        }
        town.hire("1", back);
        town.pass(30 * DAY);
        town.alerts.clear();
        town.fire("1");
        assert!(is_held(&town), "{why}: {:?}", removal(&town));
        town.pass(HOUR);
        assert!(town.alerts.contains(&(AlertKind::DeprovisionOverdue, AlertState::Raised)), "{why}");
    }
}

#[test]
fn what_is_held_is_not_done_to_who_is_active_again_although_nothing_else_can_be_said() {
    let mut town = Town::with(requiring());
    town.tell("idp", "u1", "number=1 phone=7");
    town.hire("1", "Legal");
    town.verify_all();
    town.commanded();
    town.fire("1");
    assert!(is_held(&town));
    town.tell("idp", "u1", "gone");
    town.hire("1", "Legal");
    let row = town.account("1", "directory");
    assert_eq!((row.removal, row.clock), (Removal::None, None));
    town.pass(HOUR);
    assert!(!town.alerts.iter().any(|(kind, _)| *kind == AlertKind::DeprovisionOverdue), "nobody is late");
    town.operate(guard(), Action::GuardRelease { target: None, account: None });
    assert_eq!(town.commanded(), [""; 0]);
}

#[test]
fn a_disabled_account_is_deleted_by_the_grace_of_the_rules_of_the_day() {
    let left = |town: &mut Town| {
        town.hire("1", "Legal");
        town.fire("1");
        town.operate(guard(), Action::GuardRelease { target: None, account: None });
        town.pass(20 * DAY);
        town.commanded();
    };
    let with = |grace: &str| bundle_with(GUARD, false, grace);
    let is_asked = |town: &Town| matches!(removal(town), Removal::Asked { .. } | Removal::Held { .. });
    let (none, month, year) =
        ("action: disable", "action: disable, delete_after: 30d", "action: disable, delete_after: 365d");
    // Before and after; whether the switch to the new rules looks at everybody; when it is asked for, if ever.
    for (before, after, swept, asked) in [
        (month, year, true, Some(365)),
        (month, year, false, Some(365)),
        (month, none, true, None),
        (month, none, false, None),
        (none, month, true, Some(30)),
        (year, month, true, Some(30)),
    ] {
        let mut town = Town::with(with(before));
        left(&mut town);
        town.bundle = with(after);
        if swept {
            town.reevaluate("1");
        }
        for day in 21..400 {
            town.pass(DAY);
            assert_eq!(
                is_asked(&town),
                asked.is_some_and(|asked| asked <= day),
                "{before}, {after}, {swept}: day {day}"
            );
        }
    }
}

#[test]
fn a_rule_for_urgent_ends_that_fails_is_alerted_on() {
    let mut town = Town::with(rules("action: disable", "reason == 'security'", "reason.startsWith('sec')"));
    town.hire("1", "Legal");
    assert_eq!(town.alerts, [], "nobody asks as long as somebody is in");
    town.fire("1");
    assert!(is_held(&town), "an end like any other");
    assert_eq!(town.alerts.first(), Some(&(AlertKind::RuleFailed, AlertState::Raised)));
    town.alerts.clear();
    town.tell("hr", "w1", "number=1 name=Ada department=Legal status=left reason=security");
    assert_eq!(town.alerts.first(), Some(&(AlertKind::RuleFailed, AlertState::Resolved)));
    assert_eq!(town.commanded(), ["create directory 1", "disable directory 2"]);
}

#[test]
fn a_targets_rule_that_fails_is_no_matter_any_more_when_somebody_leaves() {
    let mut town = Town::with(rules("action: disable", "\"name + '!'\"", "\"name + '!' + phone\""));
    town.hire("1", "Legal");
    assert_eq!(town.alerts, [(AlertKind::RuleFailed, AlertState::Raised)]);
    town.fire("1");
    assert_eq!(town.alerts.last(), Some(&(AlertKind::RuleFailed, AlertState::Resolved)));
}

/// Devices correlate to one person by a value that all of them have; their source comes before HR by its name.
#[test]
fn who_has_too_many_records_is_still_who_the_anchor_says() {
    let mut town = Town::with(rules("action: disable", "idp", "devices"));
    town.hire("1", "Legal");
    for device in 0..1_100 {
        town.tell("devices", &format!("d{device:04}"), "number=1 phone=7");
    }
    assert_eq!(removal(&town), Removal::None);
    town.fire("1");
    town.tell("devices", "d0000", "number=1 phone=8");
    assert!(is_held(&town));
}
