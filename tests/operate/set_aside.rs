//! A person whose state can't be read, as an operator sees it: listed, shown, counted, alerted on; tried again once it is mended.

use crate::shop::{Shop, eventually, hired, hr};
use lockstep::bus::embedded::{EmbeddedBus, EmbeddedOptions};
use lockstep::bus::{Bus, Outgoing};
use lockstep::entity::key;
use lockstep::entity::pack::Pack;
use lockstep::model::{EntityKey, IdentityId};
use regex::Regex;
use serde_json::json;
use std::time::Duration;

const STATE: &str = "lockstep.state";

/// Changes the head of a worker's identity on the topic, as a release gone wrong might; gives what was there.
fn write_head(shop: &Shop, number: u32, head: &[u8]) -> Vec<u8> {
    let bus = EmbeddedBus::open(&shop.data(), &EmbeddedOptions::default()).unwrap();
    let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &format!("W-{number}").as_str().into());
    let identity = key::entity(&EntityKey::Identity { tenant: "acme".into(), identity });
    let mut found = None;
    for partition in 0..bus.partitions(STATE).unwrap().unwrap() {
        let (mut reader, ends) = (bus.reader().unwrap(), bus.ends(STATE, partition).unwrap());
        reader.seek(STATE, partition, ends.start).unwrap();
        while reader.position(STATE, partition).unwrap() < ends.end {
            for record in reader.poll(1000, Duration::from_millis(50)).unwrap() {
                let is_pack = record.key.as_deref().and_then(key::pack_of).is_some();
                let pack = record.value.as_deref().filter(|_| is_pack).map(|value| Pack::open(value).unwrap());
                if let Some(pack) = pack.filter(|pack| pack.get(&identity, key::HEAD).is_some()) {
                    found = Some((partition, record.key, pack));
                }
            }
        }
    }
    let (partition, key, mut pack) = found.expect("the identity lies in a pack");
    let before = pack.get(&identity, key::HEAD).unwrap().to_vec();
    assert!(pack.put(&identity, key::HEAD, Some(head.to_vec())).is_empty(), "it stays there");
    let (topic, partition, value) = (STATE.to_owned(), Some(partition), pack.seal().map(Into::into));
    bus.append(vec![Outgoing { topic, partition, key, value, headers: Vec::new() }]).unwrap();
    bus.sync().unwrap();
    before
}

/// What was printed, with the times and the operation's id left out.
fn shown(text: &str) -> String {
    let text =
        Regex::new(r"\d{4}-\d\d-\d\dT[0-9:.]+Z").unwrap().replace_all(text, "[TIME]                  ").into_owned();
    Regex::new(r"operation [0-9a-f-]{36}").unwrap().replace_all(&text, "operation [ID]").into_owned()
}

#[test]
fn an_operator_sees_who_is_quarantined_and_has_it_tried_again() {
    let shop = Shop::new();
    let dev = shop.start();
    assert_eq!(shop.lockstep(&["quarantine", "list"]), "nothing is quarantined\n");
    shop.hr(&[hired(20001), hired(20002)]);
    for person in ["20001", "20002"] {
        dev.until_account(person, "directory", "active", "verified", &[]);
        dev.until_account(person, "wiki", "active", "verified", &[]);
    }
    dev.stop();
    let good = write_head(&shop, 20001, b"\xffnot of any release");

    let dev = shop.start();
    shop.hr(&[20001, 20002].map(|number| hr("changed", number, 2, json!({ "title": "Poet" }))));
    let id = eventually("it is listed", || {
        let items = dev.items("/v1/quarantine");
        let waiting = |item: &serde_json::Value| item["waiting"].as_u64() >= Some(1);
        items.first().filter(|item| waiting(item)).map(|item| item["id"].as_str().unwrap().to_owned())
    });
    eventually("the other goes on", || {
        let titles = shop.select("directory.db", "SELECT employee_number FROM accounts WHERE title = 'Poet'");
        (titles == ["20002"]).then_some(())
    });
    dev.until_metric("lockstep_quarantined_entities", 1.0);
    assert_eq!(dev.board("alert").len(), 1, "{:?}", dev.board("alert"));
    let mut lines = shown(&shop.lockstep(&["quarantine", "list"]));
    lines.push_str(&shown(&shop.lockstep(&["quarantine", "show", &id])));
    lines.push_str(&shown(&shop.lockstep(&["quarantine", "retry", &id])));
    insta::assert_snapshot!("quarantine", lines);
    let (status, _, error) = shop.try_lockstep(&["quarantine", "show", "0123456789abcdef"], "");
    assert!(status == 1 && error.contains("no quarantined entity has the id"), "{error}");
    dev.stop();

    write_head(&shop, 20001, &good);
    let dev = shop.start();
    dev.until_metric("lockstep_quarantined_entities", 1.0);
    shop.lockstep(&["quarantine", "retry", &id]);
    eventually("what waited is carried out", || {
        let titles = shop.select("directory.db", "SELECT employee_number FROM accounts WHERE title = 'Poet'");
        (titles.len() == 2).then_some(())
    });
    dev.until_metric("lockstep_quarantined_entities", 0.0);
    assert_eq!(shop.lockstep(&["quarantine", "list"]), "nothing is quarantined\n");
    eventually("the alert is resolved", || (dev.board("resolved").len() == 1).then_some(()));
}
