//! The processor with one person's state gone bad: set aside, the others go on, and all of it made up for once it is mended.

use crate::house::{FILES, House, PARTITIONS, bundle};
use lockstep::bus::embedded::Clock;
use lockstep::entity::{IdentityHead, key};
use lockstep::model::{
    Action, Address, Alert, AlertKind, AlertState, Body, BundleHash, Cause, Decision, DecisionKind, EntityKey, EventId,
    InboxRecord, Message, Op, Operation, Origin, RecordChange, RoutingKey, SourceEvent, Value, envelope,
};
use lockstep::runtime::{Announcement, BundleStore};
use lockstep::store::Stores;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn an_entity_whose_state_is_unreadable_waits_alone_and_makes_up_for_all_of_it_in_order() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (key, good) = house.head("W1");
    house.overwrite(&key, b"\xffnot of any release");

    house.hr("W1", 2, "Ada B.");
    house.hr("W2", 2, "Bob C.");
    house.hr("W1", 3, "Ada Byron");
    let create = |name: &str| (Op::Create, name.to_owned());
    let update = |name: &str| (Op::Update, name.to_owned());
    assert_eq!(house.names("W1"), [create("Ada")], "it is set aside");
    assert_eq!(house.names("W2"), [create("Bob"), update("Bob C.")], "the others go on");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised], "once, however many events wait");
    assert_eq!(house.metrics.quarantined_entities.get(), 1);
    let listed = house.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].starts_with("identity acme/") && listed[0].contains("can't be read: version 255"), "{listed:?}");

    // Tried again while nothing is mended: it stays, and says nothing new.
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!((house.names("W1").len(), house.quarantine_alerts().len()), (1, 1));

    house.overwrite(&key, &good);
    house.hr("W1", 4, "Ada Lovelace");
    assert_eq!(house.names("W1").len(), 1, "not before its turn: what waits goes first");
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(
        house.names("W1"),
        [create("Ada"), update("Ada B."), update("Ada Byron"), update("Ada Lovelace")],
        "each event in its order"
    );
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
    assert_eq!(house.metrics.quarantined_entities.get(), 0);
    assert_eq!(house.listed(), Vec::<String>::new());
}

const GARBAGE: &[u8] = b"\xffnot of any release";

fn update(name: &str) -> (Op, String) {
    (Op::Update, name.to_owned())
}

#[test]
fn a_step_that_panics_costs_its_entity_and_nobody_else() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (key, good) = house.head("W1");
    // The next question to the Guard can't be counted any more: the step ends in a panic.
    let head = envelope::open::<IdentityHead>(&good).unwrap();
    house.overwrite(&key, &envelope::seal(&IdentityHead { epoch: u64::MAX, ..head }));
    house.says("W1", 2, "Ada", "left");
    house.says("W2", 2, "Bob", "left");
    assert_eq!(house.names("W1").len(), 1, "its removal waits");
    assert_eq!(house.names("W2").last().unwrap().0, Op::Disable, "the others go on");
    let listed = house.listed();
    assert!(listed.len() == 1 && listed[0].ends_with("its step panicked; the log has the place"), "{listed:?}");

    house.overwrite(&key, &good);
    let (entity, routing_key) = house.order("W1");
    house.operate("o-1", Action::QuarantineRetry { entity, routing_key });
    assert_eq!(house.names("W1").last().unwrap().0, Op::Disable);
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
    let decisions = house.read::<Decision>(&house.topics.decisions());
    let retried = decisions
        .iter()
        .any(|line| matches!(&line.kind, DecisionKind::QuarantineRetried { operation, .. } if operation == "o-1"));
    assert!(retried, "the audit says who had it tried again");
}

/// What an expression can do to the one who evaluates it, by what a source says. It costs the target and nothing else.
#[test]
fn an_expression_that_blows_up_blocks_its_target_and_quarantines_nobody() {
    for (expression, good, bad) in [
        ("string(9223372036854775807 + int(name))", "0", "1"),
        ("string(-9223372036854775807 - int(name))", "1", "2"),
        ("string(9223372036854775807 * int(name))", "1", "2"),
        ("string(10 / int(name))", "5", "0"),
        ("string(10 % int(name))", "5", "0"),
        ("string((-9223372036854775807 - 1) / int(name))", "2", "-1"),
        ("['a', 'b'][int(name)]", "1", "7"),
        ("['a', 'b'][int(name)]", "1", "-1"),
        ("string(int(name))", "1", "no number"),
    ] {
        let target = FILES[2].1.replace("name: name } }", &format!("name: \"{expression}\" }} }}"));
        let mut house = House::new().restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
        house.hr("W1", 1, good);
        house.hr("W1", 2, bad);
        house.hr("W2", 1, good);
        let alerts = house.read::<Alert>(&house.topics.alerts());
        let failed = alerts.iter().filter(|alert| alert.kind == AlertKind::RuleFailed).count();
        assert_eq!((failed, alerts.len()), (1, 1), "{expression} with {bad}: {alerts:?}");
        assert_eq!((house.names("W1").len(), house.names("W2").len()), (1, 1), "{expression}: nobody else is held up");
        house.says("W1", 3, bad, "left");
        assert_eq!(house.names("W1").last().unwrap().0, Op::Disable, "{expression}: a leaver is out all the same");
        assert_eq!(house.metrics.quarantined_entities.get(), 0, "{expression}");
    }
}

#[test]
fn a_waiting_message_that_cannot_be_read_holds_the_others_until_it_is_readable_or_skipped() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    for (sequence, name) in [(2, "Ada B."), (3, "Ada Byron"), (4, "Ada Lovelace")] {
        house.hr("W1", sequence, name);
    }
    let second = key::row(&house.identity("W1"), "~w/0000000000000001");
    house.overwrite(&second, GARBAGE);
    house.overwrite(&head, &good);
    let (entity, routing_key) = house.order("W1");
    let retry = || Action::QuarantineRetry { entity: entity.clone(), routing_key: routing_key.clone() };
    house.operate("o-1", retry());
    let created = (Op::Create, "Ada".to_owned());
    assert_eq!(house.names("W1"), [created.clone(), update("Ada B.")], "up to what can't be read");
    house.hr("W1", 5, "Ada King");
    assert_eq!(house.names("W1").len(), 2, "what comes waits behind it");
    let listed = house.listed();
    assert!(listed[0].contains("the message that waits can't be read: version 255"), "{listed:?}");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised]);

    let skip = |position| Action::QuarantineSkip { entity: entity.clone(), routing_key: routing_key.clone(), position };
    house.operate("o-2", skip(0));
    assert_eq!(
        (house.names("W1").len(), house.dead_letters().len()),
        (2, 0),
        "that one is long gone: nothing is skipped"
    );
    house.operate("o-3", skip(1));
    assert_eq!(house.names("W1"), [created, update("Ada B."), update("Ada Lovelace"), update("Ada King")]);
    house.operate("o-3", skip(1));
    let letters = house.dead_letters();
    assert_eq!(letters.len(), 1, "once: {letters:?}");
    assert!(letters[0].0 == "skipped" && letters[0].1.starts_with("identity acme/"), "{letters:?}");
    assert_eq!(house.records(&house.topics.source_dead_letters())[0].value.as_deref(), Some(GARBAGE), "as it was");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
}

#[test]
fn what_an_entity_sends_once_it_is_mended_is_not_overtaken_by_what_it_sends_after() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let route = RoutingKey::of(&"acme".into(), "W1");
    let record =
        EntityKey::Record { tenant: "acme".into(), source: "hr".into(), record: "W1".into(), route: route.clone() };
    let head = key::row(&record, key::HEAD);
    let good = house.row(&head).unwrap();
    house.overwrite(&head, GARBAGE);
    house.hr("W1", 2, "Ada B.");
    house.hr("W1", 3, "Ada Byron");
    house.overwrite(&head, &good);

    // In one batch: it is tried again, and then HR says something new.
    let to = Address { routing_key: route.clone(), entity: record.clone() };
    let action = Action::QuarantineRetry { entity: record, routing_key: route.clone() };
    let at = house.clock.now();
    let operation = Operation { id: "o".into(), tenant: "acme".into(), actor: "cli".into(), at, action };
    let event = SourceEvent {
        tenant: "acme".into(),
        source: "hr".into(),
        record: "W1".into(),
        routing_key: route,
        id: EventId::new("W1-4"),
        order: Some(4),
        time: at,
        change: RecordChange::Replace(
            [("number", "W1"), ("name", "Ada Lovelace"), ("status", "active")].map(|(n, v)| (n, Value::from(v))).into(),
        ),
        origin: Origin { topic: "hr.workers".into(), partition: 0, offset: 3 },
        traceparent: None,
    };
    for body in [Body::Operation(operation.into()), Body::Source(event.into())] {
        let message = Message { to: to.clone(), body, cause: Cause::own("test".to_owned(), at) };
        house.put(&house.topics.inbox(), b"x".to_vec(), Some(envelope::seal(&InboxRecord::Message(message))));
    }
    house.settle();
    assert_eq!(
        house.names("W1"),
        [(Op::Create, "Ada".to_owned()), update("Ada B."), update("Ada Byron"), update("Ada Lovelace")],
        "each in its order"
    );
}

#[test]
fn more_than_a_turn_takes_is_made_up_for_in_order_while_more_comes() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    for sequence in 2..=250 {
        house.hr("W1", sequence, &format!("Ada {sequence}"));
    }
    house.overwrite(&head, &good);
    let (entity, routing_key) = house.order("W1");
    house.operate("o", Action::QuarantineRetry { entity, routing_key });
    house.hr("W1", 251, "Ada 251");
    let expected: Vec<_> = (2..=251).map(|sequence| update(&format!("Ada {sequence}"))).collect();
    assert_eq!(house.names("W1")[1..], expected);
    assert_eq!(house.metrics.quarantined_entities.get(), 0);
}

#[test]
fn a_quarantine_row_that_cannot_be_read_loses_nothing_of_what_waits() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    house.hr("W1", 2, "Ada B.");
    house.hr("W1", 3, "Ada Byron");
    house.overwrite(&key::row(&house.identity("W1"), key::QUARANTINE), GARBAGE);
    house.hr("W1", 4, "Ada Lovelace");
    assert_eq!(house.dead_letters(), [], "it waits like the others");
    assert_eq!(house.listed().len(), 1);
    house.overwrite(&head, &good);
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(house.names("W1")[1..], [update("Ada B."), update("Ada Byron"), update("Ada Lovelace")]);
}

#[test]
fn a_timer_that_finds_its_identity_unreadable_waits_and_what_it_asks_is_answered_to_the_right_address() {
    // Of several partitions the first is not where an empty key would lead.
    let partitions = (2..).find(|count| RoutingKey::new("").partition(*count).0 != 0).unwrap();
    let route = |worker: &str| RoutingKey::of(&"acme".into(), worker);
    let worker = (1..).map(|n| format!("W{n}")).find(|worker| route(worker).partition(partitions).0 == 0).unwrap();
    let mut house = House::of(partitions);
    let date = |days: u64| house.clock.now().plus(Duration::from_secs(days * 86_400)).to_string()[..10].to_owned();
    let last = date(2);
    house.ends(&worker, 1, &last);
    assert_eq!(house.names(&worker).len(), 1);
    let (head, good) = house.head(&worker);
    house.overwrite(&head, GARBAGE);
    // The last day is over, and nobody can say whose day it was.
    house.wait(Duration::from_secs(4 * 86_400));
    house.settle();
    assert_eq!((house.names(&worker).len(), house.listed().len()), (1, 1));
    house.overwrite(&head, &good);
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(house.names(&worker).last().unwrap().0, Op::Disable, "the Guard's answer found it");
    assert_eq!(house.listed(), Vec::<String>::new());
}

#[test]
fn a_deadline_whose_timer_cannot_be_read_is_kept_all_the_same() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.says("W1", 2, "Ada", "left");
    let timer = key::row(&house.identity("W1"), "~t/deadline/wiki");
    assert!(house.row(&timer).is_some(), "its clock runs");
    house.put(&house.topics.state(), timer, Some(GARBAGE.to_vec()));
    let mut house = house.restart(bundle(&FILES));
    let overdue = |house: &House| {
        let alerts = house.read::<Alert>(&house.topics.alerts());
        alerts.iter().filter(|alert| alert.kind == AlertKind::DeprovisionOverdue).count()
    };
    assert_eq!(overdue(&house), 0, "not before its time");
    house.wait(Duration::from_secs(3600));
    house.settle();
    assert_eq!(overdue(&house), 1);
}

#[test]
fn a_sweep_sets_aside_whom_it_cannot_read_and_brings_the_others_up_to_the_rules() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (head, _) = house.head("W1");
    let (key, value) = house.with(&head, GARBAGE);
    house.put(&house.topics.state(), key, Some(value));
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let house = house.restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    assert_eq!(house.names("W2").last(), Some(&update("Bob!")));
    assert_eq!(house.names("W1").len(), 1);
    assert_eq!(house.listed().len(), 1, "nobody is passed over in silence");
}

#[test]
fn records_in_the_inbox_that_nobody_can_take_stop_nothing() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let inbox = house.topics.inbox();
    let poison = |house: &House, record: &InboxRecord| house.put(&inbox, b"x".to_vec(), Some(envelope::seal(record)));
    poison(&house, &InboxRecord::Switch { bundle: BundleHash::new("no such rules") });
    let long = EntityKey::Guard { tenant: "a".repeat(70_000).as_str().into() };
    let to = Address { routing_key: "x".into(), entity: long };
    let cause = Cause::own("test".to_owned(), house.clock.now());
    poison(&house, &InboxRecord::Message(Message { to, body: Body::Reevaluate, cause }));
    house.put(&inbox, b"x".to_vec(), Some(GARBAGE.to_vec()));
    house.hr("W1", 2, "Ada B.");
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.")));
    let reasons: Vec<String> = house.dead_letters().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["unreadable", "unreadable"]);
    assert_eq!(house.metrics.partitions_behind_rules.get(), 1, "it decides by the rules it had, and says so");

    // A process that knows no better goes on so; the next switch mends it.
    let house = house.restart(bundle(&FILES));
    assert_eq!(house.metrics.partitions_behind_rules.get(), 1);
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let house = house.restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.!")));
    assert_eq!(house.metrics.partitions_behind_rules.get(), 0);
}

#[test]
fn rules_that_are_changed_and_changed_back_within_one_batch_are_those_that_were_named_last() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let (own, other) = (bundle(&FILES), bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    for rules in [&other, &own] {
        let store = BundleStore::new(Arc::clone(&house.bus), house.topics.clone(), Arc::clone(rules));
        assert!(store.announce(&mut Announcement::of(Arc::clone(rules)), PARTITIONS).unwrap());
    }
    house.settle();
    assert_eq!(house.row(&key::meta("bundle")).as_deref(), Some(own.hash().as_str().as_bytes()));
    house.hr("W1", 2, "Ada B.");
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.")));
}

/// Each row of the state in turn, damaged in three ways, on the topic itself: the processor restores, steps, fires, and goes on.
#[test]
fn whatever_row_is_damaged_a_restart_goes_well_and_the_others_are_served() {
    let story = || {
        let mut house = House::new();
        house.hr("W1", 1, "Ada");
        house.hr("W2", 1, "Bob");
        house.says("W1", 2, "Ada", "left");
        let (head, _) = house.head("W2");
        house.overwrite(&head, GARBAGE);
        house.hr("W2", 2, "Bob B.");
        house
    };
    let rows = story().stores.open("state", 0).unwrap().scan(b"", b"", 1000).unwrap();
    assert!(rows.len() > 10, "records, index, identities, accounts, a guard, a quarantine, timers: {}", rows.len());
    for (key, good) in rows {
        for bad in [&[][..], GARBAGE, &good[..good.len() / 2]] {
            let house = story();
            house.put(&house.topics.state(), key.clone(), Some(bad.to_vec()));
            let mut house = house.restart(bundle(&FILES));
            house.wait(Duration::from_secs(3600));
            house.hr("W1", 3, "Ada Byron");
            house.hr("W2", 3, "Bob C.");
            house.hr("W3", 1, "Cid");
            house.wait(Duration::from_secs(3600));
            house.settle();
            assert_eq!(house.names("W3"), [(Op::Create, "Cid".to_owned())], "after damage to {key:?}");
        }
    }
}
