//! More leavers than the Guard's limit: what is over it waits for a person.

use crate::shop::{Dev, Shop, eventually, hired, terminated};
use serde_json::Value;

const PEOPLE: std::ops::RangeInclusive<u32> = 20001..=20005;

fn held(target: &str) -> String {
    format!(r#"lockstep_held{{target="{target}",tenant="acme"}}"#)
}

fn lines(dev: &Dev, target: &str) -> Vec<Value> {
    dev.items("/v1/guard").into_iter().filter(|line| line["target"] == target).collect()
}

fn number(line: &Value) -> String {
    line["name"].as_str().unwrap().split("Family").nth(1).unwrap().to_owned()
}

#[test]
fn what_is_over_the_limit_is_held_until_it_is_released_or_rejected() {
    let shop = Shop::new();
    shop.edit("identity.yaml", "guard: { limit: 10, window: 1h }", "guard: { limit: 2, window: 1h }");
    let dev = shop.start();
    shop.hr(&PEOPLE.map(hired).collect::<Vec<_>>());
    for person in PEOPLE {
        dev.until_account(&person.to_string(), "directory", "active", "verified", &[]);
        dev.until_account(&person.to_string(), "wiki", "active", "verified", &[]);
    }
    assert_eq!(shop.lockstep(&["guard", "list"]), "nothing is held\n");
    shop.hr(&PEOPLE.map(terminated).collect::<Vec<_>>());
    for target in ["directory", "wiki"] {
        eventually("three are held", || (lines(&dev, target).len() == 3).then_some(()));
        dev.until_metric(&held(target), 3.0);
        dev.until_metric(&format!(r#"lockstep_deprovision_seconds_count{{target="{target}",tenant="acme"}}"#), 2.0);
        dev.until_metric(&format!(r#"lockstep_deprovisions_open{{target="{target}",tenant="acme"}}"#), 3.0);
    }
    assert_eq!(shop.select("directory.db", "SELECT id FROM accounts WHERE active = 1").len(), 3);
    assert_eq!(shop.select("wiki.db", "SELECT login FROM users").len(), 3);
    let list = shop.lockstep(&["guard", "list", "--target", "directory"]);
    assert_eq!(list.lines().filter(|line| line.contains("directory")).count(), 3, "{list}");
    eventually("an alert a target", || (dev.board("alert").len() == 2).then_some(()));

    // One account is let go.
    let at_directory = lines(&dev, "directory");
    let (one, other) = (&at_directory[0], &at_directory[1]);
    let account = dev.until_account(&number(one), "directory", "active", "verified", &["held", "deprovisioning"]);
    assert!(!account["deadline"].is_null());
    let page = shop.lockstep(&["identities", "show", one["identity"].as_str().unwrap()]);
    assert!(page.contains("phase: ended") && page.contains("HELD DEPROVISIONING"), "{page}");
    let said = shop.lockstep(&["guard", "release", "--account", one["account"].as_str().unwrap()]);
    assert!(said.starts_with("1 held removals of tenant acme are being released"), "{said}");
    let account = dev.until_account(&number(one), "directory", "disabled", "verified", &[]);
    assert!(account["deadline"].is_null() && !account["delete_due"].is_null(), "{account}");
    dev.until_account(&number(one), "wiki", "active", "verified", &["held", "deprovisioning"]);

    // One is kept: its clock is closed, and it is not asked for again.
    shop.lockstep(&["guard", "reject", "--account", other["account"].as_str().unwrap()]);
    let account = dev.until_account(&number(other), "directory", "active", "verified", &["rejected"]);
    assert!(account["deadline"].is_null(), "{account}");
    dev.until_metric(&held("directory"), 1.0);
    dev.until_metric(r#"lockstep_deprovisions_open{target="directory",tenant="acme"}"#, 1.0);

    // All of a target, then all of the tenant.
    shop.lockstep(&["guard", "release", "--target", "wiki"]);
    eventually("the wiki is empty", || shop.select("wiki.db", "SELECT login FROM users").is_empty().then_some(()));
    dev.until_metric(&held("wiki"), 0.0);
    assert_eq!(lines(&dev, "directory").len(), 1);
    shop.lockstep(&["guard", "reject", "--all"]);
    dev.until_metric(&held("directory"), 0.0);
    dev.until_metric(r#"lockstep_deprovisions_open{target="directory",tenant="acme"}"#, 0.0);
    assert_eq!(shop.lockstep(&["guard", "list"]), "nothing is held\n");
    assert_eq!(shop.select("directory.db", "SELECT id FROM accounts WHERE active = 1").len(), 2);
    eventually("both alerts are resolved", || (dev.board("resolved").len() == 2).then_some(()));
    let (status, _, error) = shop.try_lockstep(&["guard", "release", "--all"], "");
    assert!(status != 0 && error.contains("nothing is held"), "{error}");
}
