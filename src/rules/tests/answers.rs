//! What compiled rules answer: the quickstart's people, its hash, its tests, and errors without values.

use super::{compiled, edited, quickstart};
use crate::model::{Attributes, Desired, Op, SourceName, TargetName, Timestamp, Universe, Value};
use crate::rules::{Bundle, EventMeaning, EventPath, Phase, RuleError, SourceFile, example};
use std::collections::BTreeMap;
use std::time::Duration;

fn person(pairs: &[(&str, &str)]) -> Attributes {
    let all = [("employeeNumber", "10001"), ("givenName", "Ada"), ("familyName", "Byron"), ("status", "active")];
    all.iter().chain(pairs).map(|(name, text)| (*name, Value::text(*text))).collect()
}

/// A person's account at a target, if one is wanted.
fn wants(bundle: &Bundle, target: &str, person: &Attributes) -> Result<Option<Desired>, RuleError> {
    let merged = bundle.kind("person").unwrap().merged(person);
    bundle.target(&target.into()).unwrap().wants("person", &merged)
}

#[test]
fn names_find_their_rules() {
    let bundle = compiled(&quickstart());
    assert_eq!(bundle.kind_of(&"idp".into()).unwrap().name, "person");
    assert_eq!(bundle.kind("person").unwrap().requires, [SourceName::from("hr")]);
    assert!(bundle.kind_of(&"nobody".into()).is_none());
    let hr = bundle.source(&"hr".into()).unwrap();
    assert_eq!(
        (hr.topics.as_slice(), hr.route_by.as_deref()),
        (["hr.workers".to_owned()].as_slice(), Some("employeeNumber"))
    );
    assert_eq!(hr.event.meaning(Some("deleted")), Some(EventMeaning::Remove));
    assert_eq!(hr.event.meaning(Some("promoted")), None);
    let wiki = bundle.target(&"wiki".into()).unwrap();
    assert_eq!((wiki.leaver.action, wiki.match_on.as_str()), (Op::Delete, "login"));
    assert_eq!(wiki.deprovision_deadline, Duration::from_secs(300));
    assert_eq!(bundle.guard(&"wiki".into()).limit, 10);
    let said = |name: &str| Attributes::from([(name, "x".into())]);
    let touched = |name: &str| bundle.kind("person").unwrap().touched(&"hr".into(), &said("other"), &said(name));
    assert!(wiki.reads().meets(touched("preferredName")) && !wiki.reads().meets(touched("mobile")));
}

#[test]
fn an_account_has_what_the_rules_give_and_is_emptied_of_what_they_give_no_more() {
    let bundle = compiled(&quickstart());
    let merged = person(&[("department", "Sales"), ("workerType", "employee"), ("preferredName", "")]);
    let wanted = wants(&bundle, "directory", &merged).unwrap().unwrap();
    assert!(wanted.active);
    assert_eq!(wanted.attributes.get("userName"), Some(&"ada.byron10001".into()));
    assert_eq!(wanted.attributes.get("mobile"), Some(&Value::Null));
    assert_eq!(wanted.entitlements.universe, Universe::Additive);
    let groups: Vec<_> = wanted.entitlements.groups.iter().map(String::as_str).collect();
    assert_eq!(groups, ["all-staff", "crm", "employees", "sales"]);
    assert_eq!(wants(&bundle, "wiki", &merged), Ok(None));
    let merged = bundle.kind("person").unwrap().merged(&merged);
    assert_eq!(bundle.target(&"directory".into()).unwrap().wants("service", &merged), Ok(None));
}

#[test]
fn a_rule_that_can_not_be_applied_names_itself_and_no_value() {
    let bundle = compiled(&quickstart());
    let mut merged = person(&[("department", "Sales")]);
    merged.remove("familyName");
    let error = wants(&bundle, "directory", &merged).unwrap_err();
    insta::assert_snapshot!(error, @"the rule at targets/directory.yaml:27:15 (account.attributes.userName) can't be applied: `+` can't be used on text and nothing (null); absent here: `familyName`, `preferredName`");
    let late = person(&[("startDate", "Hopper-soon"), ("timeZone", "Nowhere/Hopper")]);
    let person = bundle.kind("person").unwrap();
    insta::assert_snapshot!(person.lifecycle(&person.merged(&late), Timestamp(0)).unwrap_err(), @"the rule at identity.yaml:27:31 (kinds.person.lifecycle.time_zone) can't be applied: `timeZone` is not the name of a time zone");
    let unknown =
        edited("entitlements.yaml", "lookup(tables.department, department, [])", "tables.department[department]");
    let bundle = compiled(&unknown);
    let merged = super::answers::person(&[("department", "Hopper's")]);
    let error = wants(&bundle, "directory", &merged).unwrap_err();
    insta::assert_snapshot!(error, @"the rule at entitlements.yaml:16:22 (the grant `by department`, to.directory) can't be applied: a table has no entry under the key asked for (`lookup(table, key, otherwise)` has a way out)");
    assert!(!format!("{error:?}").contains("Hopper"));
}

#[test]
fn a_computed_group_outside_of_the_universe_is_never_granted() {
    let files = edited("entitlements.yaml", "{ wiki: [readers, writers] }", "{ wiki: \"['readers', 'wri' + 'ter']\" }");
    let bundle = compiled(&files);
    let error = wants(&bundle, "wiki", &person(&[("department", "Design")])).unwrap_err();
    assert!(error.reason.contains("not in the target's `universe`"), "{error}");
}

#[test]
fn a_test_that_fails_says_what_differs_and_where_it_stands() {
    let mut files = edited("entitlements.yaml", "[all-staff, employees, engineering, source-code]", "[all-staff, vip]");
    let wiki = files.iter_mut().find(|file| file.path == "targets/wiki.yaml").unwrap();
    wiki.text = wiki.text.replace("name: Anna Lena Krüger", "name: Anna");
    let identity = files.iter_mut().find(|file| file.path == "identity.yaml").unwrap();
    identity.text = identity.text.replace(
        "phase: future, accounts: { directory: none",
        "phase: active, accounts: { directory: { active: true }",
    );
    let reports = compiled(&files).run_tests();
    let failed: Vec<_> = reports.into_iter().filter(|report| !report.passed()).collect();
    insta::assert_snapshot!(example::render(&failed), @r#"
    FAILED  entitlements.yaml:37: an engineer gets the engineering groups
              directory.groups: missing vip
              directory.groups: not expected employees, engineering, source-code
    FAILED  identity.yaml:34: a future hire waits for the first day
              phase: expected active, is future
              directory: expected an active account, none is wanted
    FAILED  targets/wiki.yaml:30: support reads
              wiki.name: expected "Anna", is "Anna Lena Krüger"

    3 of 3 tests failed
    "#);
}

#[test]
fn the_hash_is_of_paths_and_texts_whatever_their_order_and_line_ends() {
    let hash = |files: &[SourceFile]| compiled(files).hash().clone();
    let files = quickstart();
    let mut other = files.clone();
    other.reverse();
    for file in &mut other {
        file.text = format!("\u{feff}{}", file.text.replace('\n', "\r\n"));
    }
    assert_eq!(hash(&files), hash(&other));
    assert_eq!(hash(&files).as_str().len(), 64);
    other[0].path = "targets/wiki2.yaml".to_owned();
    assert_ne!(hash(&files), hash(&other));
    let mut longer = files;
    longer[0].text.push('#');
    assert_ne!(hash(&longer), hash(&quickstart()));
}

fn at<'j>(path: &EventPath, event: &'j serde_json::Value) -> Option<&'j serde_json::Value> {
    path.parts().iter().try_fold(event, |here, part| here.get(part))
}

/// The last record of each worker in the quickstart's events, as its source's order has it.
fn last_records(bundle: &Bundle, source: &str, events: &str, order: &str) -> BTreeMap<String, Option<Attributes>> {
    let rules = bundle.source(&source.into()).unwrap();
    let mut last: BTreeMap<String, (String, Option<Attributes>)> = BTreeMap::new();
    for line in events.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = event["type"].as_str();
        let meaning = rules.event.meaning(kind);
        let Some(record) = at(&rules.record.id, &event).and_then(|id| id.as_str()) else { continue };
        let attributes = rules
            .attributes
            .iter()
            .filter_map(|(name, rule)| Some((name.clone(), Value::from_json(at(&rule.path, &event)?)?)));
        let attributes = match meaning {
            Some(EventMeaning::Upsert) => Some(attributes.collect()),
            Some(EventMeaning::Remove) => None,
            Some(EventMeaning::Ignore) | None => continue,
        };
        let order = event[order].to_string();
        if last.get(record).is_none_or(|(known, _)| *known < order) {
            last.insert(record.to_owned(), (order, attributes));
        }
    }
    last.into_iter().map(|(record, (_, attributes))| (record, attributes)).collect()
}

#[test]
fn the_quickstart_ends_the_same_whatever_day_it_is_played() {
    let bundle = compiled(&quickstart());
    let person = bundle.kind("person").unwrap();
    let hr = last_records(&bundle, "hr", include_str!("../../../examples/quickstart/events/hr.jsonl"), "sequence");
    let day = |text: &str| Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
    let mut phases = BTreeMap::new();
    let mut names = std::collections::BTreeSet::new();
    for attributes in hr.values().flatten().filter(|attributes| attributes.contains_key("employeeNumber")) {
        let merged = person.merge(&[(&person.anchor, attributes)]);
        let today = person.lifecycle(&merged, day("2026-01-01T00:00:00Z")).unwrap();
        let late = person.lifecycle(&merged, day("2098-12-31T00:00:00Z")).unwrap();
        assert_eq!(today, late, "{merged:?}");
        *phases.entry(today.phase.as_str()).or_insert(0) += 1;
        if today.phase == Phase::Active {
            for target in bundle.targets() {
                if let Some(wanted) = target.wants("person", &merged).unwrap() {
                    let name = wanted.attributes[&target.match_on].clone();
                    assert!(names.insert((TargetName::clone(&target.name), name.as_text().unwrap().to_owned())));
                }
            }
        }
    }
    assert_eq!(phases, BTreeMap::from([("active", 24), ("ended", 4), ("future", 1)]));
    assert_eq!(names.len(), 24 + 15, "{names:?}");
}
