//! A record id that comes by two routes, although its source promised that it never would.

use super::*;

#[test]
fn a_record_whose_route_changes_is_disputed_if_it_anchors_and_never_doubled() {
    let mut town = Town::with(bundle(100, true));
    town.hire("1", "Sales");
    assert_eq!(town.commanded().len(), 2);
    town.tell("hr", "w1", "number=2 name=Augusta department=Sales status=active");
    assert_eq!(town.commanded(), [""; 0]);
    assert_eq!(town.alerts, [(AlertKind::RecordDisputed, AlertState::Raised)]);
}

/// Somebody's number is changed against the source's promise, and they leave under the new one; or both at once.
#[test]
fn an_end_of_access_is_heard_of_a_disputed_record() {
    for at_once in [false, true] {
        let mut town = Town::with(bundle(100, true));
        town.hire("1", "Legal");
        town.verify_all();
        if !at_once {
            town.tell("hr", "w1", "number=2 name=Augusta department=Legal status=active");
        }
        assert_eq!(town.commanded(), ["create directory 1"]);
        town.tell("hr", "w1", "number=2 name=Augusta department=Legal status=left");
        assert_eq!(town.commanded(), ["disable directory 2"], "at once: {at_once}");
        town.tell("hr", "w1", "number=2 name=Augusta department=Legal status=active");
        assert_eq!(town.commanded(), [""; 0], "nothing is given by it");
        assert_eq!(town.alerts, [(AlertKind::RecordDisputed, AlertState::Raised)]);
    }
}

const OLD: &str = "number=1 name=Augusta department=Legal status=active";
const NEW: &str = "number=2 name=Augusta department=Legal status=active";

impl Town {
    /// What became of alerts since the last look; all of them are disputes.
    fn disputes(&mut self) -> Vec<AlertState> {
        let alerts = std::mem::take(&mut self.alerts);
        assert!(alerts.iter().all(|(kind, _)| *kind == AlertKind::RecordDisputed), "{alerts:?}");
        alerts.into_iter().map(|(_, state)| state).collect()
    }
}

#[test]
fn a_dispute_is_over_when_the_source_takes_back_what_it_changed() {
    for ordered in [false, true] {
        let order = |place: i64| ordered.then_some(place);
        let mut town = Town::with(bundle(100, true));
        town.tell_as("hr", "w1", "e1", order(1), OLD);
        town.tell_as("hr", "w1", "e2", order(2), NEW);
        assert_eq!(town.disputes(), [AlertState::Raised], "ordered: {ordered}");
        town.tell_as("hr", "w1", "e3", order(3), OLD);
        assert_eq!(town.disputes(), [AlertState::Resolved], "ordered: {ordered}");
        town.tell_as("hr", "w1", "e4", order(4), &OLD.replace("Legal", "Sales"));
        assert_eq!(town.commanded(), ["create directory 1", "create wiki 1"]);
        assert_eq!(town.disputes(), []);
        // And begins anew with the next change.
        town.tell_as("hr", "w1", "e5", order(5), &NEW.replace("Legal", "Sales"));
        assert_eq!(town.disputes(), [AlertState::Raised]);
    }
}

/// The former value's event comes late, or the claim does: their order says which is the newer word.
#[test]
fn an_older_event_of_the_former_value_ends_no_dispute_and_a_newer_one_does_that_came_first() {
    let mut town = Town::with(bundle(100, true));
    town.tell_as("hr", "w1", "e1", Some(1), OLD);
    town.tell_as("hr", "w1", "e3", Some(3), NEW);
    assert_eq!(town.disputes(), [AlertState::Raised]);
    town.tell_as("hr", "w1", "e2", Some(2), &OLD.replace("Legal", "Sales"));
    assert_eq!(town.disputes(), []);
    town.tell_as("hr", "w1", "e5", Some(5), OLD);
    assert_eq!(town.disputes(), [AlertState::Resolved]);

    let mut town = Town::with(bundle(100, true));
    town.tell_as("hr", "w1", "e3", Some(3), OLD);
    town.tell_as("hr", "w1", "e2", Some(2), NEW);
    assert_eq!(town.disputes(), [AlertState::Raised, AlertState::Resolved]);
}

#[test]
fn a_dispute_over_a_record_that_its_source_removed_is_over() {
    // Under the new value, or by its id alone.
    for by_route in [false, true] {
        let mut town = Town::with(bundle(100, true));
        town.tell("hr", "w1", OLD);
        town.tell("hr", "w1", NEW);
        assert_eq!(town.disputes(), [AlertState::Raised]);
        town.commanded();
        if by_route {
            town.remove_by_route("hr", "w1", None);
        } else {
            let removal = town.removal("hr", "w1", None);
            let to = Address::record(RoutingKey::of(&"acme".into(), "2"), "acme".into(), "hr".into(), "w1".into());
            let cause = Cause::from(&removal);
            town.deliver(Message { to, body: Body::Source(removal.into()), cause });
        }
        assert_eq!(town.commanded(), ["disable directory 2"], "by route: {by_route}");
        assert_eq!(town.disputes(), [AlertState::Resolved], "by route: {by_route}");
        town.tell("hr", "w1", NEW);
        assert_eq!(town.disputes(), [AlertState::Raised], "by route: {by_route}");
        assert_eq!(town.commanded(), [""; 0]);
    }
}

/// Their end of access, told by the disputed record, is no word of the source's under the former value.
#[test]
fn an_end_of_access_ends_no_dispute() {
    for order in [None, Some(2)] {
        let mut town = Town::with(bundle(100, true));
        town.tell_as("hr", "w1", "e1", order.map(|_| 1), OLD);
        town.tell_as("hr", "w1", "e2", order, &NEW.replace("active", "left"));
        assert_eq!(town.commanded(), ["create directory 1", "disable directory 2"]);
        assert_eq!(town.disputes(), [AlertState::Raised], "{order:?}");
    }
}

#[test]
fn of_several_values_the_newest_is_in_dispute() {
    let mut town = Town::with(bundle(100, true));
    town.tell("hr", "w1", OLD);
    town.tell("hr", "w1", NEW);
    town.tell("hr", "w1", &NEW.replace("number=2", "number=3"));
    assert_eq!(town.disputes(), [AlertState::Raised, AlertState::Raised]);
    town.tell("hr", "w1", OLD);
    assert_eq!(town.disputes(), [AlertState::Resolved]);
    // The one before it has given way, and disputes anew.
    town.tell("hr", "w1", &NEW.replace("Legal", "Sales"));
    assert_eq!(town.disputes(), [AlertState::Raised]);
}

/// Of a record that anchors nobody the value may change, and change back.
#[test]
fn a_record_that_moved_comes_back_with_what_it_said_before() {
    let mut town = Town::with(bundle(100, true));
    let route = Address::route("acme".into(), "idp".into(), "u1".into());
    for number in ["1", "2", "1"] {
        town.tell("idp", "u1", &format!("number={number} phone=7"));
        let holder = &town.rows[&key::row(&route.entity, key::HEAD)];
        let holder: Address = crate::model::envelope::open(holder).unwrap();
        assert_eq!(holder.routing_key, RoutingKey::of(&"acme".into(), number));
    }
    assert_eq!(town.disputes(), []);
}
