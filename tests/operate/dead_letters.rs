//! Commands that a target refuses: found, shown, mended and redriven; dropped; resolved by a newer event or a changed rule.

use crate::shop::{Shop, eventually, hired, hr};
use serde_json::json;

const OPEN: &str = r#"lockstep_dead_letters_open{target="directory"}"#;

/// The directory takes no title, and nobody in Finance.
const REFUSE: &str =
    "CREATE TRIGGER no_title BEFORE INSERT ON accounts WHEN NEW.title IS NOT NULL OR NEW.department = 'Finance'
  BEGIN SELECT RAISE(ABORT, 'no'); END;
  CREATE TRIGGER no_title_either BEFORE UPDATE ON accounts WHEN NEW.title IS NOT NULL OR NEW.department = 'Finance'
  BEGIN SELECT RAISE(ABORT, 'no'); END;";
const TAKE: &str = "DROP TRIGGER no_title; DROP TRIGGER no_title_either;";

#[test]
fn a_dead_letter_is_listed_shown_redriven_and_gone() {
    let shop = Shop::new();
    let dev = shop.start();
    dev.until_metric(OPEN, 0.0);
    assert_eq!(shop.lockstep(&["dlq", "list"]), "no dead letter\n");
    shop.sql("directory.db", REFUSE);
    shop.hr(&[hr("hired", 20001, 1, json!({ "title": "Poet" })), hired(20002)]);
    let account = dev.until_account("20001", "directory", "active", "dead_lettered", &["dead_letter"]);
    dev.until_account("20002", "directory", "active", "verified", &[]);
    let account = account["account"].as_str().unwrap();

    let list = eventually("it is listed", || {
        let list = shop.lockstep(&["dlq", "list"]);
        list.contains("invalid").then_some(list)
    });
    assert!(list.contains(account) && list.contains("a trigger refused the change"), "{list}");
    assert!(!list.contains("Poet") && list.lines().count() > 1, "{list}");
    let shown = shop.lockstep(&["dlq", "show", "directory", account]);
    for part in ["Given20001 Family20001", "create", "hr-20001-1", "title", &format!("dlq redrive directory {account}")]
    {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    assert!(!shown.contains("Poet"), "{shown}");
    dev.until_metric(OPEN, 1.0);
    eventually("the alert is raised", || (dev.board("alert").len() == 1).then_some(()));
    dev.until_metric(r#"lockstep_results_total{outcome="dead_lettered",target="directory",tenant="acme"}"#, 1.0);

    // The cause is still there: the same again, and no second alert.
    shop.lockstep(&["dlq", "redrive", "directory", account]);
    eventually("it is refused again", || {
        let again = shop.lockstep(&["dlq", "show", "directory", account]);
        again.contains("generation: 2").then_some(())
    });
    shop.sql("directory.db", TAKE);
    shop.lockstep(&["dlq", "redrive", "directory", account]);
    dev.until_account("20001", "directory", "active", "verified", &[]);
    eventually("it is off the list", || (shop.lockstep(&["dlq", "list"]) == "no dead letter\n").then_some(()));
    dev.until_metric(OPEN, 0.0);
    assert_eq!(shop.select("directory.db", "SELECT title FROM accounts WHERE employee_number = '20001'"), ["Poet"]);
    let (status, _, error) = shop.try_lockstep(&["dlq", "redrive", "directory", account], "");
    assert!(status != 0 && error.contains("no dead letter of account"), "{error}");

    let printed = dev.stop();
    let about = |word: &str| printed.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!((about("alert"), about("resolved")), (1, 1), "{printed}");
}

#[test]
fn a_dead_letter_is_dropped_and_another_resolved_by_the_next_event() {
    let shop = Shop::new();
    let dev = shop.start();
    shop.sql("directory.db", REFUSE);
    shop.hr(&[hr("hired", 20001, 1, json!({ "title": "Poet" })), hr("hired", 20002, 1, json!({ "title": "Poet" }))]);
    let dropped = dev.until_account("20001", "directory", "active", "dead_lettered", &["dead_letter"]);
    dev.until_account("20002", "directory", "active", "dead_lettered", &["dead_letter"]);
    dev.until_metric(OPEN, 2.0);

    shop.lockstep(&["dlq", "drop", "directory", dropped["account"].as_str().unwrap()]);
    dev.until_account("20001", "directory", "active", "dead_lettered", &[]);
    shop.hr(&[hr("changed", 20002, 2, json!({ "title": null }))]);
    dev.until_account("20002", "directory", "active", "verified", &[]);
    eventually("both are off the list", || dev.items("/v1/dead-letters").is_empty().then_some(()));
    dev.until_metric(OPEN, 0.0);
    assert_eq!(shop.select("directory.db", "SELECT employee_number FROM accounts"), ["20002"]);
    eventually("both alerts are resolved", || (dev.board("resolved").len() == 2).then_some(()));
}

#[test]
fn a_changed_rule_resolves_a_dead_letter_after_a_restart() {
    let shop = Shop::new();
    let dev = shop.start();
    shop.sql("directory.db", REFUSE);
    shop.hr(&[hr("hired", 20001, 1, json!({ "title": "Poet" }))]);
    dev.until_account("20001", "directory", "active", "dead_lettered", &["dead_letter"]);
    dev.until_metric(OPEN, 1.0);
    dev.stop();

    let dev = shop.start();
    dev.until_metric(OPEN, 1.0);
    dev.stop();
    shop.edit("targets/directory.yaml", "\n    title: title\n", "\n    title: \"null\"\n");
    let dev = shop.start();
    dev.until_account("20001", "directory", "active", "verified", &[]);
    dev.until_metric(OPEN, 0.0);
    assert!(dev.items("/v1/dead-letters").is_empty());
}
