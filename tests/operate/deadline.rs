//! A leaver at a target that can't be reached: the clock runs, its deadline passes, and the target comes back.

use crate::shop::{Shop, eventually, hired, terminated};

const WORKS: &str = "url: sqlite:${data}/directory.db";
/// Nobody listens on TCP port 1.
const GONE: &str = "url: postgres://nobody@127.0.0.1:1/directory";
const OPEN: &str = r#"lockstep_deprovisions_open{target="directory",tenant="acme"}"#;
const OLDEST: &str = r#"lockstep_deprovision_oldest_age_seconds{target="directory",tenant="acme"}"#;
const OVERDUE: &str = r#"lockstep_deprovisions_overdue_total{target="directory",tenant="acme"}"#;
const VERIFIED: &str = r#"lockstep_deprovision_seconds_count{target="directory",tenant="acme"}"#;

#[test]
fn a_deadline_that_passes_is_alerted_on_once_and_resolved_when_the_target_is_back() {
    let shop = Shop::new();
    shop.edit("targets/directory.yaml", "deprovision: 15m", "deprovision: 2s");
    let dev = shop.start();
    assert_eq!(dev.metric(r#"lockstep_deprovision_deadline_seconds{target="directory"}"#), Some(2.0));
    assert_eq!(dev.metric(OVERDUE), Some(0.0));
    assert_eq!(dev.metric(OPEN), Some(0.0));
    shop.hr(&[hired(20001)]);
    dev.until_account("20001", "directory", "active", "verified", &[]);
    dev.stop();

    shop.edit("targets/directory.yaml", WORKS, GONE);
    let dev = shop.start();
    shop.hr(&[terminated(20001)]);
    dev.until_metric(OPEN, 1.0);
    let overdue = dev.until_account("20001", "directory", "disabled", "parked", &["overdue"]);
    assert_eq!(overdue["last_error"], "unreachable");
    dev.until_metric(OVERDUE, 1.0);
    eventually("its age grows", || dev.metric(OLDEST).filter(|age| *age > 2.5));
    let line = &dev.items("/v1/deprovisions")[0];
    assert_eq!((&line["overdue"], &line["waits_for"]), (&true.into(), &"worker".into()));
    assert_eq!(dev.board("alert").len(), 1, "{:?}", dev.board("alert"));
    assert!(dev.board("alert")[0].contains("not verified by the target yet"), "{:?}", dev.board("alert"));
    dev.stop();

    // The gauges are right at once after a restart, and nothing is raised or counted again.
    let dev = shop.start();
    dev.until_metric(OPEN, 1.0);
    assert!(dev.metric(OLDEST).unwrap() > 2.5);
    assert_eq!(dev.metric(OVERDUE), Some(0.0));
    assert_eq!(dev.metric(VERIFIED), Some(0.0));
    let printed = dev.stop();
    assert!(!printed.lines().any(|line| line.starts_with("alert")), "{printed}");

    shop.edit("targets/directory.yaml", GONE, WORKS);
    let dev = shop.start();
    dev.until_account("20001", "directory", "disabled", "verified", &[]);
    dev.until_metric(OPEN, 0.0);
    dev.until_metric(OLDEST, 0.0);
    dev.until_metric(VERIFIED, 1.0);
    assert!(dev.items("/v1/deprovisions").is_empty());
    eventually("the alert is resolved", || (dev.board("resolved").len() == 1).then_some(()));
    assert_eq!(shop.select("directory.db", "SELECT id FROM accounts WHERE active = 1").len(), 0);
}
