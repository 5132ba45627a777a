//! On Kafka: events that no record of the dead letters takes, up to the largest that a broker takes, are kept whole in several.

use crate::rig::{Rig, var};
use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::{Bus, Outgoing};
use lockstep::codec::source::{Part, join};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
/// A broker's `socket.request.max.bytes` is 104,857,600: less what stands around a record.
const LARGEST_BYTES: usize = 104_857_000;

/// Every part of it is another, so that none can stand for another.
fn event(bytes: usize) -> String {
    let mut event: String = (0..=bytes / 10).map(|number| format!("{number:09} ")).collect();
    event.truncate(bytes);
    event
}

fn good() -> Vec<u8> {
    let worker = json!({
        "workerId": "W-20001", "employeeNumber": "20001", "firstName": "Given", "lastName": "Family",
        "department": "Sales", "type": "employee", "status": "active", "startDate": "2020-01-01",
    });
    json!({ "id": "1", "type": "changed", "sequence": 1, "worker": worker }).to_string().into_bytes()
}

/// Retention, at once.
fn delete_below(topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", var("LOCKSTEP_TEST_KAFKA")).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(admin.delete_records(&list, &AdminOptions::new())).unwrap();
}

#[test]
#[ignore = "needs Kafka: tests/run real"]
fn the_largest_that_a_broker_takes_is_kept_whole_in_parts_and_its_partition_goes_on() {
    let mut rig = Rig::quickstart();
    let hr = format!("real-{}.hr.workers", rig.id);
    rig.bus.configure(&hr, &[("max.message.bytes".to_owned(), "104857600".to_owned())].into()).unwrap();
    let sender = KafkaBus::connect(KafkaSettings {
        bootstrap: var("LOCKSTEP_TEST_KAFKA"),
        properties: Default::default(),
        client_id: "sender".into(),
        max_record_bytes: 104_857_600,
    })
    .unwrap();
    let events = [5_000_000, LARGEST_BYTES].map(event);
    for value in events.iter().map(|event| event.clone().into_bytes()).chain([good()]) {
        // One key, so one partition.
        let (topic, key) = (hr.clone(), Some(b"W-20001".to_vec()));
        sender
            .append(vec![Outgoing { topic, partition: None, key, value: Some(value.into()), headers: vec![] }])
            .unwrap();
    }
    rig.spawn_serving("processor", &["processor"]);
    rig.spawn_serving("serve", &["serve"]);
    rig.wait_ready(&["processor", "serve"]);
    rig.until("what follows is carried out", SOON, |rig| match rig.commands("directory").len() {
        1 => Ok(()),
        found => Err(format!("{found} accounts")),
    });

    let list = || -> Vec<Value> {
        let list = rig.done(&["source-dead-letters", "list", "--reason", "too_large", "--json"]);
        let mut items: Vec<Value> = serde_json::from_str(&list).unwrap();
        items.reverse();
        items
    };
    let items = list();
    assert_eq!(items.len(), 2, "{items:?}");
    for (item, event) in items.iter().zip(&events) {
        assert_eq!((&item["bytes"], &item["missing_parts"]), (&json!(event.len()), &json!(0)), "{item}");
        assert!(rig.done(&["source-dead-letters", "show", item["id"].as_str().unwrap(), "--raw"]) == *event);
    }

    let letters = rig.names.source_dead_letters();
    let records = rig.records(&letters);
    let (first, second) = records.split_at(items[0]["parts"].as_u64().unwrap() as usize);
    assert!(first.iter().chain(second).all(|part| part.key.as_deref() == Some(b"W-20001") && Part::of(part).is_some()));
    for (parts, event) in [first, second].into_iter().zip(&events) {
        let letter = join(parts.to_vec());
        assert!(letter.whole && letter.value.as_deref() == Some(event.as_bytes()));
    }

    // What is left, once the topic no longer keeps the first of them.
    delete_below(&letters, first[2].offset);
    let id = items[0]["id"].as_str().unwrap();
    assert_eq!(list().iter().map(|item| item["missing_parts"].clone()).collect::<Vec<_>>(), [json!(2), json!(0)]);
    let shown = rig.done(&["source-dead-letters", "show", id]);
    assert!(shown.contains("lacks: the topic no longer keeps the first 2 of its 5 parts"), "{}", &shown[..1_000]);
    assert!(events[0].ends_with(shown.rsplit("\n\n").next().unwrap().trim_end_matches('\n')));
    let raw = rig.run(&["source-dead-letters", "show", id, "--raw"]);
    assert!((raw.code, raw.out.as_str()) == (1, "") && raw.err.contains("no longer keeps the first 2"), "{}", raw.err);
    rig.stop("processor");
    rig.stop("serve");
}
