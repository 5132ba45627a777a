//! Removals that say no more than the record's id: they go by the Route.

use super::*;

#[test]
fn a_removal_that_says_no_route_finds_its_record_even_when_it_comes_first() {
    for removal_first in [false, true] {
        let mut town = Town::with(bundle(100, true));
        if removal_first {
            town.remove_by_route("hr", "w1", Some(2));
            assert_eq!(town.commanded(), [""; 0]);
        }
        town.tell_as("hr", "w1", "e-1", Some(1), "number=1 name=Ada department=Legal status=active");
        if !removal_first {
            town.remove_by_route("hr", "w1", Some(2));
        }
        let last = town.commands.last().expect("the account was made, then disabled");
        assert_eq!(last.op, Op::Disable, "removal first: {removal_first}");
        let route = Address::route("acme".into(), "hr".into(), "w1".into());
        let waiting = [key::entity(&route.entity), b"removal".to_vec()].concat();
        assert!(!town.rows.contains_key(&waiting), "nothing waits any more");
    }
}

/// A tombstone has no order but its place on the topic, and goes by the Route: what follows it may be there before it.
#[test]
fn a_removal_without_an_order_takes_nobody_away_who_came_after_it() {
    const ADA: &str = "number=1 name=Ada department=Legal status=active";
    // The offsets of the removal and of the record's event, whether the removal comes first, and whether she stays.
    for (removal, event, first, stays) in
        [(5, 6, true, true), (5, 6, false, true), (6, 5, true, false), (6, 5, false, false)]
    {
        let mut town = Town::with(bundle(100, true));
        let remove = |town: &mut Town| {
            town.offset = removal;
            town.remove_by_route("hr", "w1", None);
        };
        if first {
            remove(&mut town);
        }
        town.offset = event;
        town.tell_as("hr", "w1", "e-1", None, ADA);
        if !first {
            remove(&mut town);
        }
        let ops: Vec<Op> = town.commands.iter().map(|command| command.op).collect();
        let expected: &[Op] = if stays { &[Op::Create] } else { &[Op::Create, Op::Disable] };
        assert_eq!(ops, expected, "removal at {removal}, event at {event}, removal first: {first}");
    }

    // An event that is older or of the same order brings nobody back, and makes no removal older than it is.
    for order in [1, 2] {
        let mut town = Town::with(bundle(100, true));
        town.offset = 5;
        town.tell_as("hr", "w1", "e-2", Some(2), ADA);
        town.offset = 7;
        town.tell_as("hr", "w1", "e-1", Some(order), ADA);
        town.offset = 6;
        town.remove_by_route("hr", "w1", None);
        assert_eq!(town.commands.last().unwrap().op, Op::Disable, "an event of order {order} behind the removal");
    }

    // Where it stood in another partition nobody knows which is newer: a leaver is a leaver.
    let mut town = Town::with(bundle(100, true));
    town.offset = 6;
    town.tell_as("hr", "w1", "e-1", None, ADA);
    let to = Address::route("acme".into(), "hr".into(), "w1".into());
    let mut elsewhere = town.removal("hr", "w1", None);
    elsewhere.origin = Origin { topic: "hr".to_owned(), partition: 3, offset: 5 };
    let cause = Cause::from(&elsewhere);
    town.deliver(Message { to, body: Body::Source(elsewhere.into()), cause });
    assert_eq!(town.commands.last().unwrap().op, Op::Disable);
}

#[test]
fn who_is_removed_before_the_route_has_answered_holds_their_values_as_anybody_who_left() {
    for away in [false, true] {
        let mut town = Town::with(bundle(100, true));
        town.waiting_elsewhere = away.then(Vec::new);
        town.tell_as("hr", "w1", "e-1", Some(1), "number=w1 name=Ada department=Legal status=active");
        town.tell_as("hr", "w1", "e-2", Some(2), "gone");
        town.others_return();
        town.tell("idp", "u1", "number=w1 phone=1");
        let linked = DecisionKind::RecordLinked { source: "idp".to_owned(), record: "u1".to_owned() };
        assert_eq!(town.decided(&linked), 1, "the Route is away: {away}");
    }
}
