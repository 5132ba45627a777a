//! Whatever names a metric names one that there is: the dashboard, the alert rules, the docs.

use lockstep::telemetry::Metrics;
use lockstep::telemetry::metrics::Described;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;

const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboards/lockstep.json");
const RULES: &str = include_str!("../../deploy/prometheus/lockstep-rules.yml");
const DOCS: &str = include_str!("../../docs/metrics.md");
const RUNBOOK: &str = include_str!("../../docs/runbook.md");
/// What Prometheus adds to every series.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

/// The metrics that a query names, as the code names them, each with the labels that the query selects it by.
fn named(query: &str, known: &[Described]) -> Vec<(String, Vec<String>)> {
    let metric = Regex::new(r"\b(lockstep_[a-z_]+)(\{[^}]*\})?").unwrap();
    let label = Regex::new(r"([a-z_]+)\s*(?:=~|!~|!=|=)").unwrap();
    let found = metric.captures_iter(query).map(|found| {
        let series = &found[1];
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| series.strip_suffix(part));
        let histogram = |name: &&str| known.iter().any(|metric| metric.name == *name && metric.kind == "histogram");
        let name = parts.into_iter().find(histogram).unwrap_or(series).to_owned();
        let selector = found.get(2).map_or("", |selector| selector.as_str());
        (name, label.captures_iter(selector).map(|label| label[1].to_owned()).collect())
    });
    found.collect()
}

/// Labels by which a query groups.
fn grouped(query: &str) -> BTreeSet<String> {
    let by = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    let lists = by.captures_iter(query).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    lists.iter().flat_map(|list| list.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// What is wrong with a query, by what the code makes.
fn mistakes(query: &str, known: &[Described]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let named = named(query, known);
    let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
    for (name, selected) in &named {
        let Some(metric) = known.iter().find(|metric| metric.name == *name) else {
            mistakes.push(format!("no metric is called {name}: {query}"));
            continue;
        };
        labels.extend(metric.labels.iter().map(String::as_str));
        let wrong = selected.iter().filter(|label| !metric.labels.contains(label));
        mistakes.extend(wrong.map(|label| format!("{name} has no label {label}: {query}")));
    }
    if !named.is_empty() {
        let wrong = grouped(query).into_iter().filter(|label| !labels.contains(label.as_str()));
        mistakes.extend(wrong.map(|label| format!("nothing here has a label {label} to group by: {query}")));
    }
    mistakes
}

#[test]
fn every_panel_asks_for_metrics_and_labels_that_there_are() {
    let metrics = Metrics::new();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let shown = Regex::new(r"\{\{([a-z_]+)\}\}").unwrap();
    let mut asked = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{} says nothing", panel["title"]);
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            assert_eq!(mistakes(query, metrics.described()), [""; 0], "{}", panel["title"]);
            asked.extend(named(query, metrics.described()).into_iter().map(|(name, _)| name));
            let legend = target["legendFormat"].as_str().unwrap();
            for label in shown.captures_iter(legend).map(|found| found[1].to_owned()) {
                let groups = query.contains(" by (");
                assert!(!groups || grouped(query).contains(&label), "{}: {label} is not in {query}", panel["title"]);
            }
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            assert_eq!(mistakes(query, metrics.described()), [""; 0]);
        }
    }
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    // A metric that is new may wait for its panel; these are what people come for.
    for name in [
        "lockstep_deprovisions_open",
        "lockstep_deprovision_oldest_age_seconds",
        "lockstep_event_to_verified_seconds",
        "lockstep_dead_letters_open",
        "lockstep_source_dead_letters_total",
        "lockstep_quarantined_entities",
        "lockstep_held",
        "lockstep_partition_lag",
        "lockstep_commit_seconds",
        "lockstep_batch_records",
        "lockstep_steps_total",
        "lockstep_hops_total",
        "lockstep_restore_remaining_records",
        "lockstep_call_seconds",
    ] {
        assert!(asked.contains(name), "no panel shows {name}");
    }
}

#[test]
fn a_wrong_name_or_label_in_a_query_is_noticed() {
    let known = Metrics::new();
    for (query, words) in [
        ("sum(lockstep_hop_total)", "no metric is called lockstep_hop_total"),
        ("rate(lockstep_commits_total_bucket[5m])", "no metric is called lockstep_commits_total_bucket"),
        ("sum(lockstep_held{tenants=\"a\"})", "lockstep_held has no label tenants"),
        ("sum by (le, tenant) (rate(lockstep_commit_seconds_bucket[5m]))", "a label tenant to group by"),
    ] {
        let found = mistakes(query, known.described());
        assert!(found.len() == 1 && found[0].contains(words), "{query}: {found:?}");
    }
}

#[test]
fn every_alert_asks_for_metrics_that_there_are_and_names_its_part_of_the_runbook() {
    let metrics = Metrics::new();
    for line in RULES.lines().filter(|line| !line.trim_start().starts_with('#')) {
        assert_eq!(mistakes(line, metrics.described()), [""; 0]);
    }
    let alerts = RULES.lines().filter(|line| line.trim_start().starts_with("- alert:")).count();
    let parts = Regex::new(r"docs/runbook\.md#([a-z-]+)").unwrap();
    let parts: Vec<String> = parts.captures_iter(RULES).map(|found| found[1].to_owned()).collect();
    assert_eq!(parts.len(), alerts, "each alert names one");
    for part in parts {
        assert!(RUNBOOK.lines().any(|line| line == format!("## {part}")), "the runbook has no part {part}");
    }
}

#[test]
fn the_docs_list_every_metric_with_its_type_its_labels_and_what_it_says() {
    let metrics = Metrics::new();
    for Described { name, help, kind, labels } in metrics.described() {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        // The docs may say more.
        let line = format!("| `{name}` | {kind} | {} | {help}", labels.join(", "));
        assert!(DOCS.lines().any(|shown| shown.starts_with(&line)), "docs/metrics.md needs the line\n{line} |");
    }
    let rows = DOCS.lines().filter(|line| line.starts_with("| `lockstep_")).count();
    assert_eq!(rows, metrics.described().len(), "docs/metrics.md lists what isn't there");
}
