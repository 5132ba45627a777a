//! The whole path, every process as a principal of its own with exactly what `lockstep topics acls` lists.

use crate::house::{House, Login, event};

fn everything_works_as(login: Login) {
    let mut house = House::new(login);
    house.authorizer.allow(&house.listed());
    house.done("topics", &["topics", "apply"]);
    for process in ["topics", "processor", "worker:directory"] {
        house.done(process, &["doctor", "--as", process]);
    }
    house.spawn("processor", &["processor"]);
    house.spawn("worker:directory", &["worker", "--target", "directory"]);

    let published = house.run_with("publish", &["publish", "hr", "--direct"], &event(30_001, 1, "hired"));
    assert_eq!(published.code, 0, "{published:?}");
    house.account_becomes(30_001, true);
    let known = house.done("serve", &["identities", "list", "--direct", "--json"]);
    assert!(known.contains("30001") || known.contains("Ada"), "{known}");

    // A running `serve` takes the next event, as somebody else again.
    house.spawn("serve", &["serve"]);
    let url = house.until("serve listens", || {
        let log = house.log("serve");
        let url = log.lines().find_map(|line| line.strip_prefix("status page")).map(|url| url.trim().to_owned());
        url.ok_or(log)
    });
    let url = url.trim_end_matches('/');
    let leaves = event(30_001, 2, "terminated");
    let published = house.run_with("serve", &["publish", "hr", "--url", url], &leaves);
    assert_eq!(published.code, 0, "{published:?}");
    house.account_becomes(30_001, false);

    for process in ["processor", "worker:directory", "serve"] {
        let log = house.log(process);
        let refused = log.lines().find(|line| line.to_lowercase().contains("authoriz"));
        assert!(refused.is_none(), "{process}: {refused:?}");
        house.stop(process);
    }
}

#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn everything_works_over_sasl_with_exactly_what_is_granted() {
    everything_works_as(Login::Scram);
}

#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn everything_works_over_mutual_tls_with_exactly_what_is_granted() {
    everything_works_as(Login::Certificate);
}
