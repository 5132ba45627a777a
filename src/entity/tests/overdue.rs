//! Removals that are not carried out by their deadline: what is alerted on, when, and with which words.

use super::*;

#[test]
fn a_deadline_that_passes_is_alerted_once_and_resolved_when_access_is_gone() {
    let mut town = Town::new();
    town.hire("1", "Engineering");
    town.verify_all();
    town.commanded();
    town.fire("1");
    town.pass(3 * DAY);
    let overdue = |town: &Town, state| {
        town.alerts.iter().filter(|alert| **alert == (AlertKind::DeprovisionOverdue, state)).count()
    };
    assert_eq!((overdue(&town, AlertState::Raised), overdue(&town, AlertState::Resolved)), (2, 0));
    assert!(town.timers.keys().any(|(_, name)| name == "deadline/wiki"), "an open clock always has a live timer");
    town.verify_all();
    assert_eq!(overdue(&town, AlertState::Resolved), 2);
    assert!(!town.timers.keys().any(|(_, name)| name.starts_with("deadline/")));
}

#[test]
fn an_overdue_removal_is_said_to_be_held_only_where_the_guard_holds_it() {
    let mut town = Town::with(bundle(1, false));
    for number in ["1", "2"] {
        town.hire(number, "Legal");
    }
    town.verify_all();
    town.fire("1");
    town.fire("2");
    town.pass(3 * DAY);
    let said = |town: &Town, what: &str| town.said.iter().filter(|said| said.contains(what)).count();
    assert_eq!((said(&town, "held by the Guard"), said(&town, "not verified by the target yet")), (1, 1));

    // The Guard has not answered when the deadline is over.
    let mut town = Town::new();
    town.hire("1", "Legal");
    town.verify_all();
    town.fire("1");
    let (at, _) = town.timers.keys().find(|(_, name)| name == "deadline/directory").cloned().unwrap();
    let mut row = town.account("1", "directory");
    row.removal = Removal::Asked { epoch: 1, op: Op::Disable };
    let key = key::row(&at.entity, &AccountRow::row(&row.target));
    town.rows.insert(key, crate::model::envelope::seal(&row));
    town.pass(3 * DAY);
    assert_eq!(said(&town, "held by the Guard"), 0, "{:?}", town.said);
    assert_eq!(said(&town, "the Guard was asked and has not answered yet"), 1, "{:?}", town.said);
}

#[test]
fn what_was_late_is_alerted_on_even_if_nobody_looked_at_the_deadline() {
    let overdue = |town: &Town, state| {
        town.alerts.iter().filter(|alert| **alert == (AlertKind::DeprovisionOverdue, state)).count()
    };
    for (later, returns, alerts) in [(HOUR, false, 2), (HOUR, true, 2), (1_000, false, 0), (1_000, true, 0)] {
        let mut town = Town::new();
        town.hire("1", "Engineering");
        town.verify_all();
        town.fire("1");
        // No processor runs meanwhile: the result, or the return, is handled before the timer has its turn.
        town.now = Timestamp(town.now.0 + later);
        if returns {
            town.hire("1", "Engineering")
        } else {
            town.verify_all()
        }
        let seen = (overdue(&town, AlertState::Raised), overdue(&town, AlertState::Resolved));
        assert_eq!(seen, (alerts, alerts), "{later} ms later, back again: {returns}");
    }
}

#[test]
fn a_source_whose_clock_is_ahead_postpones_no_alert() {
    // Local time that is said to be UTC; microseconds.
    for ahead in [10 * HOUR, 999 * MONDAY] {
        for end in ["fired", "out of scope", "gone"] {
            let mut town = Town::new();
            town.hire("1", "Engineering");
            town.verify_all();
            town.ahead = ahead;
            match end {
                "fired" => town.fire("1"),
                "out of scope" => town.hire("1", "Legal"),
                _ => town.tell("hr", "w1", "gone"),
            }
            assert_eq!(town.account("1", "wiki").clock.map(|clock| clock.effective), Some(town.now), "{end}");
            town.pass(HOUR);
            let raised = town.alerts.contains(&(AlertKind::DeprovisionOverdue, AlertState::Raised));
            assert!(raised, "{end}, {ahead} ms ahead");
        }
    }
}

#[test]
fn a_worker_whose_clock_is_ahead_postpones_no_alert_of_access_that_came_back() {
    let mut town = Town::new();
    town.hire("1", "Engineering");
    town.verify_all();
    town.fire("1");
    town.verify_all();
    town.ahead = 10 * HOUR;
    let disable = town.commands.last().cloned().unwrap();
    town.result(&disable, Outcome::Drifted);
    town.pass(HOUR);
    assert!(town.alerts.contains(&(AlertKind::DeprovisionOverdue, AlertState::Raised)));
}
