//! Events of one record with the same order: what stands, in whatever order they arrive.

use super::*;
use proptest::prelude::*;

/// A change of W1 with this id, at this place in the order.
fn change(town: &mut Town, id: &str, order: i64, change: RecordChange) {
    let (tenant, source, record) = ("acme".into(), "hr".into(), "w1".into());
    let routing_key = RoutingKey::of(&tenant, "w1");
    let to = Address::record(routing_key.clone(), tenant, source, record);
    let event = SourceEvent {
        tenant: "acme".into(),
        source: "hr".into(),
        record: "w1".into(),
        routing_key,
        id: id.into(),
        order: Some(order),
        time: town.now,
        change,
        origin: Origin { topic: "hr".to_owned(), partition: 0, offset: 0 },
        traceparent: None,
    };
    let cause = Cause::from(&event);
    town.deliver(Message { to, body: Body::Source(event.into()), cause });
}

/// What the record holds, and whether its person is in.
fn outcome(town: &Town) -> (bool, Attributes, Option<Phase>) {
    let tenant = "acme".into();
    let route = RoutingKey::of(&tenant, "w1");
    let record = Address::record(route, tenant.clone(), "hr".into(), "w1".into()).entity;
    let head: RecordHead = crate::model::envelope::open(&town.rows[&key::row(&record, key::HEAD)]).unwrap();
    let identity = EntityKey::Identity { identity: IdentityId::of_anchor(&tenant, &"hr".into(), &"w1".into()), tenant };
    let page = town.rows.get(&key::row(&identity, key::HEAD));
    let page = page.map(|row| crate::model::envelope::open::<IdentityHead>(row).unwrap());
    (head.present, head.attributes, page.and_then(|page| page.phase))
}

fn whole(status: &str, department: &str) -> RecordChange {
    let fields = [("number", "1"), ("name", "Augusta"), ("status", status), ("department", department)];
    RecordChange::Replace(fields.map(|(name, value)| (name, Value::text(value))).into())
}

#[test]
fn a_hire_with_the_order_of_a_termination_brings_nobody_back_whichever_comes_first() {
    for swapped in [false, true] {
        let mut town = Town::new();
        change(&mut town, "a", 1, whole("active", "Engineering"));
        town.verify_all();
        let mut tied = [("terminated", whole("left", "Engineering")), ("hired", whole("active", "Engineering"))];
        if swapped {
            tied.reverse();
        }
        for (id, tied) in tied {
            change(&mut town, id, 2, tied);
        }
        assert_eq!(outcome(&town).2, Some(Phase::Ended), "swapped: {swapped}");
        assert_ne!(town.account("1", "directory").state, AccountState::Present);
        change(&mut town, "rehired", 3, whole("active", "Engineering"));
        assert_eq!(outcome(&town).2, Some(Phase::Active), "a later one does");
    }
}

#[test]
fn of_two_changes_with_one_order_the_greater_id_stands_as_ids_are_counted() {
    for ids in [["e-9", "e-10"], ["e-10", "e-9"]] {
        let mut town = Town::new();
        for id in ids {
            change(&mut town, id, 1, whole("active", id));
        }
        assert_eq!(outcome(&town).1.get("department"), Some(&Value::text("e-10")), "{ids:?}");
    }
}

fn fields() -> impl Strategy<Value = Attributes> {
    let field = |name: &'static str, values: &'static [&'static str]| {
        prop::option::of(prop::sample::select(values).prop_map(move |value| (name, Value::text(value))))
    };
    (
        field("status", &["active", "left"]),
        field("department", &["Engineering", "Sales", "Legal"]),
        field("end", &["2026-01-31", "2027-01-31"]),
    )
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

fn changes(partial: bool) -> impl Strategy<Value = RecordChange> {
    prop_oneof![
        1 => Just(RecordChange::Remove),
        6 => fields().prop_map(move |fields| match partial {
            true => RecordChange::Merge(fields),
            false => RecordChange::Replace(fields),
        }),
    ]
}

fn told(tied: &[(String, RecordChange)]) -> (bool, Attributes, Option<Phase>) {
    let mut town = Town::new();
    change(&mut town, "first", 1, whole("active", "Engineering"));
    for (id, tied) in tied {
        change(&mut town, id, 2, tied.clone());
    }
    outcome(&town)
}

/// Changes of one order with their ids, as they arrive.
type Arrival = Vec<(String, RecordChange)>;

fn arrivals() -> impl Strategy<Value = (Arrival, Arrival)> {
    any::<bool>().prop_flat_map(|partial| prop::collection::vec(changes(partial), 2..6)).prop_flat_map(|changes| {
        let tied: Vec<_> = changes.into_iter().enumerate().map(|(n, of)| (format!("e{}", n * 7), of)).collect();
        (Just(tied.clone()), Just(tied).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn in_whatever_order_tied_events_arrive_the_record_and_its_person_end_up_the_same((one, other) in arrivals()) {
        prop_assert_eq!(told(&one), told(&other));
        // And again: what comes twice changes nothing.
        let twice: Vec<_> = one.iter().chain(&other).cloned().collect();
        prop_assert_eq!(told(&twice), told(&one));
        if one.iter().any(|(_, change)| *change == RecordChange::Remove) {
            prop_assert_eq!(told(&one).2, Some(Phase::Ended), "a removal is never undone by a tie");
        }
    }
}

/// The first of them came to a release that did not keep which event the content is from.
#[test]
fn a_tie_that_an_update_came_between_brings_nobody_back() {
    let mut town = Town::new();
    let fields = |status: &str| format!("number=1 name=Augusta department=Legal status={status}");
    town.tell_as("hr", "w1", "e1", Some(1), &fields("active"));
    town.tell_as("hr", "w1", "e3", Some(2), &fields("left"));
    assert_eq!(town.commanded(), ["create directory 1", "disable directory 2"]);
    let to = Address::record(RoutingKey::of(&"acme".into(), "w1"), "acme".into(), "hr".into(), "w1".into());
    let row = town.rows.get_mut(&key::row(&to.entity, key::HEAD)).unwrap();
    let mut head: crate::entity::RecordHead = crate::model::envelope::open(row).unwrap();
    head.standing = None;
    *row = crate::model::envelope::seal(&head);
    town.tell_as("hr", "w1", "e2", Some(2), &fields("active"));
    assert_eq!(town.commanded(), [""; 0]);
}
