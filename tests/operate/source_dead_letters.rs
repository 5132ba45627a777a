//! What a source sends that can't be taken: shown with its reason, mended by hand and sent again.

use crate::shop::{Shop, eventually, hired, hr};
use serde_json::json;

#[test]
fn an_event_that_was_rejected_is_listed_shown_mended_and_sent_again() {
    let shop = Shop::new();
    let dev = shop.start();
    assert_eq!(shop.lockstep(&["source-dead-letters", "list"]), "no source dead letter\n");
    let bad = hr("promoted", 20001, 1, json!({ "title": "secret-title" }));
    let no_number = hr("hired", 20002, 1, json!({ "employeeNumber": " " }));
    shop.hr(&[bad.clone(), hired(20003), no_number]);
    dev.until_account("20003", "directory", "active", "verified", &[]);
    let list = eventually("both are listed", || {
        let list = shop.lockstep(&["source-dead-letters", "list"]);
        (list.lines().count() == 3).then_some(list)
    });
    for part in ["unknown_type", "missing_required", "hr.workers-", "is required and is empty"] {
        assert!(list.contains(part), "{part} is missing in\n{list}");
    }
    assert!(!list.contains("secret"), "a list shows no value: {list}");
    let one = shop.lockstep(&["source-dead-letters", "list", "--reason", "unknown_type", "--json"]);
    let one: Vec<serde_json::Value> = serde_json::from_str(&one).unwrap();
    assert_eq!(one.len(), 1, "{one:?}");
    let none = shop.lockstep(&["source-dead-letters", "list", "--topic", "idp.users"]);
    assert_eq!(none, "no source dead letter\n");

    let id = one[0]["id"].as_str().unwrap();
    let shown = shop.lockstep(&["source-dead-letters", "show", id]);
    assert!(shown.contains("field type holds none of the types") && shown.contains("secret-title"), "{shown}");
    let raw = shop.lockstep(&["source-dead-letters", "show", id, "--raw"]);
    assert_eq!(raw.trim_end(), bad.to_string(), "byte for byte");
    shop.lockstep_with(&["publish", "hr"], &raw.replace("promoted", "hired"));
    dev.until_account("20001", "directory", "active", "verified", &[]);

    let (status, _, error) = shop.try_lockstep(&["source-dead-letters", "show", "4711"], "");
    assert!(status != 0 && error.contains("no source dead letter has the id"), "{error}");
    assert_eq!(dev.board("bad").len(), 2, "each once on the board");
    assert!(!dev.stderr().contains("rejected to"), "and not beside it: {}", dev.stderr());
}

#[test]
fn publish_to_a_source_that_is_not_there_fails_with_nothing_to_send_too() {
    let shop = Shop::new();
    let _dev = shop.start();
    let (status, _, error) = shop.try_lockstep(&["publish", "hrr"], "");
    assert!(status == 1 && error.contains("no source is called") && error.contains("known sources: hr"), "{error}");
    let (status, out, _) = shop.try_lockstep(&["publish", "hr"], "\n");
    assert_eq!((status, out.as_str()), (0, "0 events published to hr\n"));
}

#[test]
fn what_dev_invites_to_send_shows_something_when_it_is_pasted_unchanged() {
    let shop = Shop::new();
    std::fs::create_dir(shop.config().join("events")).unwrap();
    std::fs::write(shop.config().join("events/hr.jsonl"), format!("{}\n", hired(20001))).unwrap();
    let dev = shop.start();
    dev.until_account("20001", "directory", "active", "verified", &[]);
    let line = eventually("it invites", || dev.board("  lockstep publish").into_iter().next());
    let file = line.split("< ").nth(1).unwrap();
    let event = std::fs::read_to_string(file).unwrap();
    let before = dev.board("joiner").len();
    shop.lockstep_with(&["publish", "hr"], &event);
    eventually("somebody new joins", || (dev.board("joiner").len() > before).then_some(()));
    assert_eq!(dev.board("bad"), [""; 0]);
}

#[test]
fn somebody_whose_records_are_gone_keeps_a_name_and_is_found_by_it() {
    let shop = Shop::new();
    let dev = shop.start();
    shop.hr(&[hired(20001)]);
    dev.until_account("20001", "directory", "active", "verified", &[]);
    shop.hr(&[hr("deleted", 20001, 2, json!({}))]);
    // By the user name that the account had: no record is left to search in.
    let account = dev.until_account("given20001", "directory", "disabled", "verified", &[]);
    assert!(!account["delete_due"].is_null(), "its account is still there to be deleted");
    let list = shop.lockstep(&["identities", "list", "--search", "Family20001"]);
    assert!(list.contains("Given20001 Family20001") && list.contains("ended"), "{list}");
}

#[test]
fn a_list_of_what_is_not_there_fails_and_says_what_there_is() {
    let shop = Shop::new();
    let _dev = shop.start();
    for (args, known) in [
        (&["dlq", "list", "--target", "nope"][..], "known targets: directory, wiki"),
        (&["dlq", "list", "--tenant", "nope"], "known tenants: acme"),
        (&["guard", "list", "--tenant", "nope"], "known tenants: acme"),
        (&["guard", "list", "--target", "nope"], "known targets: directory, wiki"),
        (&["identities", "list", "--tenant", "nope"], "known tenants: acme"),
        (&["quarantine", "list", "--tenant", "nope"], "known tenants: acme"),
        (&["source-dead-letters", "list", "--reason", "nope"], "known reasons: "),
    ] {
        let (status, out, error) = shop.try_lockstep(args, "");
        assert_eq!((status, out.as_str()), (1, ""), "{args:?}: {error}");
        assert!(error.contains("is called \"nope\"") && error.contains(&format!("help: {known}")), "{args:?}: {error}");
    }
}
