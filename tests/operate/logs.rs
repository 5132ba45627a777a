//! No attribute value gets into the logs, however much is logged.

use crate::shop::{Shop, eventually};
use std::path::Path;

/// Everything about people in the quickstart's events: names, phones, user names; not departments and types, which the
/// rules themselves name.
fn secrets() -> Vec<String> {
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/events");
    let mut secrets = Vec::new();
    for file in ["hr.jsonl", "idp.jsonl"] {
        for line in std::fs::read_to_string(events.join(file)).unwrap().lines() {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            for path in
                ["/worker/firstName", "/worker/lastName", "/worker/preferredName", "/worker/title", "/user/mobile"]
            {
                secrets.extend(event.pointer(path).and_then(|value| value.as_str()).map(str::to_owned));
            }
        }
    }
    secrets.sort();
    secrets.dedup();
    secrets.extend(["@example.com".to_owned(), "ada.byron10001".to_owned()]);
    assert!(secrets.len() > 60, "{secrets:?}");
    secrets
}

fn leaks(log: &str) -> Vec<String> {
    let words = |text: &str, word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let around = [text[..at].chars().next_back(), text[at + word.len()..].chars().next()];
            around.into_iter().flatten().all(|c| !c.is_alphanumeric())
        })
    };
    secrets().into_iter().filter(|secret| words(log, secret)).collect()
}

#[test]
fn the_logs_of_a_quickstart_hold_no_attribute_value_at_any_level_in_any_format() {
    for format in ["text", "json"] {
        let shop = Shop::new();
        shop.edit("lockstep.yaml", "tenants: [acme]", &format!("tenants: [acme]\nlog: {format}"));
        let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/events");
        std::fs::create_dir(shop.config().join("events")).unwrap();
        for file in ["hr.jsonl", "idp.jsonl"] {
            std::fs::copy(events.join(file), shop.config().join("events").join(file)).unwrap();
        }
        let dev = shop.begin(&[("LOCKSTEP_LOG", "trace")]);
        eventually("its people have accounts", || {
            let done = dev.board("joiner").len() + dev.board("mover").len();
            (done > 35).then_some(())
        });
        dev.person("Byron");
        let people = dev.items("/v1/identities?q=Ada");
        assert!(!people.is_empty());
        let log = dev.stderr();
        assert!(log.lines().count() > 100, "trace says more than that: {log}");
        if format == "json" {
            for line in log.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
            }
        }
        assert_eq!(leaks(&log), Vec::<String>::new(), "{}", lines_with(&log, &leaks(&log)));
        dev.stop();
    }
}

fn lines_with(log: &str, words: &[String]) -> String {
    log.lines().filter(|line| words.iter().any(|word| line.contains(word))).take(5).collect::<Vec<_>>().join("\n")
}
