//! On Kafka: one person's state goes bad on the topic. The person waits, the others go on, and an operator ends it.

use crate::rig::Rig;
use lockstep::bus::Outgoing;
use lockstep::entity::key;
use lockstep::entity::pack::Pack;
use lockstep::model::{EntityKey, IdentityId};
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn worker(number: u32, sequence: u32, department: &str) -> (String, Vec<u8>) {
    let id = format!("W-{number}");
    let event = json!({
        "id": format!("{number}-{sequence}"), "type": "changed", "sequence": sequence,
        "worker": {
            "workerId": id, "employeeNumber": number.to_string(), "firstName": "Given", "lastName": "Family",
            "department": department, "type": "employee", "status": "active", "startDate": "2020-01-01",
        },
    });
    (id, event.to_string().into_bytes())
}

/// How many commands the directory has got for this person.
fn commands(rig: &Rig, number: u32) -> usize {
    let login = format!("given.family{number}");
    let all = rig.commands("directory");
    let mut own = all.values().filter(|commands| {
        commands[0].desired.attributes.get("userName").and_then(|name| name.as_text()) == Some(login.as_str())
    });
    own.next().map_or(0, Vec::len)
}

fn until_commands(rig: &mut Rig, number: u32, count: usize) {
    rig.until(&format!("{number} has {count} commands"), SOON, |rig| match commands(rig, number) {
        found if found == count => Ok(()),
        found => Err(format!("{found}")),
    });
}

#[test]
#[ignore = "needs Kafka: tests/run real"]
fn a_person_whose_state_is_damaged_waits_alone_until_an_operator_has_it_tried_again() {
    let mut rig = Rig::quickstart();
    rig.spawn_serving("processor", &["processor"]);
    rig.spawn_serving("serve", &["serve"]);
    rig.wait_ready(&["processor", "serve"]);
    let hr = format!("real-{}.hr.workers", rig.id);
    rig.append(&hr, vec![worker(20001, 1, "Sales"), worker(20002, 1, "Sales")]);
    until_commands(&mut rig, 20001, 1);
    until_commands(&mut rig, 20002, 1);
    assert_eq!(rig.done(&["quarantine", "list"]), "nothing is quarantined\n");

    // The head of the person's identity, as the topic has it last.
    rig.stop("processor");
    let state = rig.names.state();
    let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &"W-20001".into());
    let identity = key::entity(&EntityKey::Identity { tenant: "acme".into(), identity });
    let holding = |rig: &Rig| {
        let packs =
            rig.records(&state).into_iter().filter(|record| record.key.as_deref().and_then(key::pack_of).is_some());
        let mut opened = packs.filter_map(|record| Some((Pack::open(record.value.as_deref()?).unwrap(), record)));
        opened.rfind(|(pack, _)| pack.get(&identity, key::HEAD).is_some()).unwrap()
    };
    let good = holding(&rig).0.get(&identity, key::HEAD).unwrap().to_vec();
    let put = |rig: &Rig, head: Vec<u8>| {
        let (mut pack, record) = holding(rig);
        assert!(pack.put(&identity, key::HEAD, Some(head)).is_empty(), "it stays in its pack");
        let (topic, partition, key, value) =
            (state.clone(), Some(record.partition), record.key, pack.seal().map(Into::into));
        rig.bus.append(vec![Outgoing { topic, partition, key, value, headers: vec![] }]).unwrap();
    };
    put(&rig, b"\xffnot of any release".to_vec());
    rig.spawn_serving("processor", &["processor"]);
    rig.append(&hr, vec![worker(20001, 2, "Finance"), worker(20002, 2, "Finance"), worker(20001, 3, "People")]);
    until_commands(&mut rig, 20002, 2);
    let list = rig.until("it is listed with both that wait", SOON, |rig| {
        let list = rig.done(&["quarantine", "list", "--json"]);
        let items: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
        match items.as_slice() {
            [one] if one["waiting"] == 2 => Ok(one.clone()),
            _ => Err(list),
        }
    });
    assert!(list["reason"].as_str().unwrap().contains("version 255"), "{list}");
    assert_eq!(commands(&rig, 20001), 1, "it waits");
    // The gauges of what is open are shown twice a second.
    rig.until("it is counted", SOON, |rig| {
        let metrics = rig.get(&format!("{}/metrics", rig.url("processor").unwrap()));
        let mut counted = metrics.lines().filter(|line| line.starts_with("lockstep_quarantined_entities "));
        match counted.next() {
            Some("lockstep_quarantined_entities 1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // A release that can read it, so to say. The processor begins with what the topic has.
    rig.stop("processor");
    put(&rig, good.clone());
    rig.spawn_serving("processor", &["processor"]);
    let said = rig.done(&["quarantine", "retry", list["id"].as_str().unwrap()]);
    assert!(said.contains("is tried again; 2 wait"), "{said}");
    until_commands(&mut rig, 20001, 3);
    rig.until("it is off the list", SOON, |rig| match rig.done(&["quarantine", "list"]) {
        list if list == "nothing is quarantined\n" => Ok(()),
        list => Err(list),
    });

    // And what could not be taken at all is read off the topic by the same server.
    rig.append(&hr, vec![("x".to_owned(), b"{\"id\": oops".to_vec())]);
    let letters = rig.until("the bad event is listed", SOON, |rig| {
        let list = rig.done(&["source-dead-letters", "list"]);
        if list.contains("not_json") { Ok(list) } else { Err(list) }
    });
    let id = letters.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert_eq!(rig.done(&["source-dead-letters", "show", &id, "--raw"]), "{\"id\": oops");
    rig.stop("processor");
    rig.stop("serve");
}
