//! What comes in for an entity of the loop that takes it in: delivered at once, and never before what came earlier.

use crate::house::{FILES, House, bundle};
use lockstep::model::{InboxRecord, Op, envelope};
use std::time::Duration;

fn event(worker: &str, sequence: u32, name: &str) -> serde_json::Value {
    let id = format!("{worker}-{sequence}");
    serde_json::json!({ "id": id, "sequence": sequence, "worker": worker, "name": name, "status": "active" })
}

/// Records of the inbox that are messages.
fn messages(house: &House) -> usize {
    let records = house.records(&house.topics.inbox());
    let opened = records.iter().map(|record| envelope::open(record.value.as_deref().unwrap()).unwrap());
    opened.filter(|record| matches!(record, InboxRecord::Message(_))).count()
}

#[test]
fn an_event_is_delivered_in_the_transaction_that_takes_it() {
    let mut house = House::new();
    house.settle();
    house.lay("W1", &event("W1", 1, "Ada"));
    assert!(house.processor.turn(Duration::ZERO).unwrap().committed);
    assert_eq!(house.names("W1"), [(Op::Create, "Ada".to_owned())], "after one transaction");
    assert_eq!(messages(&house), 0);
    assert_eq!(house.metrics.partitions_direct.get(), 1);
}

#[test]
fn an_event_does_not_overtake_what_lies_in_the_inbox() {
    let mut house = House::through_inbox();
    house.settle();
    house.lay("W1", &event("W1", 1, "Ada"));
    assert!(house.processor.turn(Duration::ZERO).unwrap().committed);
    assert_eq!((messages(&house), house.names("W1").len()), (1, 0), "it lies in the inbox");

    // Another takes over, and finds the next one on the source's topic.
    let mut house = house.taken_over(bundle(&FILES));
    house.lay("W1", &event("W1", 2, "Ada Byron"));
    house.settle();
    let expected = [(Op::Create, "Ada".to_owned()), (Op::Update, "Ada Byron".to_owned())];
    assert_eq!(house.names("W1"), expected, "in their order");
    house.hr("W1", 3, "Ada Lovelace");
    assert_eq!((messages(&house), house.names("W1").len()), (1, 3), "from then on nothing takes the inbox");
}

#[test]
fn on_several_threads_the_same_comes_out_as_on_one() {
    let workers: Vec<String> = (0..150).map(|n| format!("W{n}")).collect();
    let told = |threads| {
        let mut house = House::of_threads(5, threads);
        house.settle();
        for (sequence, name) in [(1, "Ada"), (2, "Ada B."), (3, "Ada Byron")] {
            workers.iter().for_each(|worker| house.lay(worker, &event(worker, sequence, name)));
        }
        house.settle();
        workers.iter().map(|worker| house.names(worker)).collect::<Vec<_>>()
    };
    let one = told(1);
    let expected = [(Op::Create, "Ada"), (Op::Update, "Ada B."), (Op::Update, "Ada Byron")];
    assert_eq!(one[0], expected.map(|(op, name)| (op, name.to_owned())));
    assert_eq!(told(3), one);
}
