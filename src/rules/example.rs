//! The users' own tests: given these records, at this time, expect this phase and these accounts.
//!
//! A test runs the same `merge`, `lifecycle` and `wants` that an event does. Its report shows the values of the test file:
//! they are examples, nobody's data.

use super::RuleError;
use super::bundle::{Bundle, Drafts};
use super::diagnostic::{Place, known_names};
use super::kind::KindRules;
use super::lifecycle::{Phase, is_date};
use super::read::{Page, Placed};
use super::source::AttributeType;
use super::yaml::{Content, Entry, Node};
use crate::model::{Attributes, Desired, Op, SourceName, TargetName, Timestamp, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// One test, read and checked.
#[derive(Debug)]
pub(super) struct Example {
    name: String,
    file: String,
    place: Place,
    kind: String,
    at: Option<Timestamp>,
    given: Vec<(SourceName, Attributes)>,
    phase: Option<Phase>,
    urgent: Option<bool>,
    accounts: BTreeMap<TargetName, ExpectedAccount>,
}

#[derive(Debug)]
enum ExpectedAccount {
    /// No access there: not yet, not any more, or out of scope.
    None,
    Some {
        active: bool,
        attributes: BTreeMap<String, Value>,
        groups: Option<BTreeSet<String>>,
    },
}

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestReport {
    pub file: String,
    pub line: usize,
    pub name: String,
    pub outcome: TestOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestOutcome {
    Passed,
    /// One line a difference.
    Failed(Vec<String>),
}

impl TestReport {
    pub fn passed(&self) -> bool {
        self.outcome == TestOutcome::Passed
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            TestOutcome::Passed => write!(f, "ok      {}: {}", self.file, self.name),
            TestOutcome::Failed(differences) => {
                write!(f, "FAILED  {}:{}: {}", self.file, self.line, self.name)?;
                differences.iter().try_for_each(|line| write!(f, "\n          {}", line.replace('\n', "\n          ")))
            }
        }
    }
}

/// All reports, and a line that counts them.
pub fn render(reports: &[TestReport]) -> String {
    let failed = reports.iter().filter(|report| !report.passed()).count();
    let lines: String = reports.iter().map(|report| format!("{report}\n")).collect();
    match (reports.len(), failed) {
        (0, _) => "there are no tests: add some under `tests:` of any rule file\n".to_owned(),
        (all, 0) => format!("{lines}\n{all} tests passed\n"),
        (all, failed) => format!("{lines}\n{failed} of {all} tests failed\n"),
    }
}

pub(super) fn read_example(
    page: &Page<'_>,
    node: &Node,
    drafts: &Drafts<'_>,
    kinds: &[KindRules],
    kind_of: &HashMap<SourceName, usize>,
) -> Option<Example> {
    let mut fields = page.fields(node)?;
    let name = fields.need_text("name", "name: an engineer gets the engineering groups");
    let undated = fields.get("at").is_none();
    let at = fields.get("at").and_then(|node| instant(page, node));
    fields.need("given", "given: { hr: { employeeNumber: \"1001\" } }");
    let mut given = Vec::new();
    let mut kind = None;
    for entry in fields.entries("given") {
        if let Some(attributes) = given_record(page, entry, drafts) {
            let source = SourceName::new(entry.key.clone());
            kind = kind.or_else(|| kind_of.get(&source).copied());
            given.push((source, attributes));
        }
    }
    let kind = kind.and_then(|index| kinds.get(index));
    for (source, _) in &given {
        let own = kind_of.get(source).and_then(|index| kinds.get(*index));
        if own.map(|own| &own.name) != kind.map(|kind| &kind.name)
            && let Some(entry) = fields.entries("given").iter().find(|entry| entry.key == source.as_str())
        {
            let message = format!("the source `{source}` is of another kind than the one before it");
            page.problem(entry.key_place, message, "a test is about one identity".to_owned());
        }
    }
    fields.need("expect", "expect: { phase: active, accounts: { directory: { active: true } } }");
    let (mut phase, mut urgent, mut accounts) = (None, None, BTreeMap::new());
    if let Some(mut expect) = fields.fields("expect") {
        let words = [("future", Phase::Future), ("active", Phase::Active), ("ended", Phase::Ended)];
        phase = expect.get("phase").and_then(|node| page.choice(node, &words));
        urgent = expect.get("urgent").and_then(|node| page.bool(node));
        for entry in expect.entries("accounts") {
            if let Some(account) = expected_account(page, entry, drafts) {
                accounts.insert(TargetName::new(entry.key.clone()), account);
            }
        }
        expect.finish();
    }
    let place = fields.place();
    fields.finish();
    let (name, kind) = (name?, kind?);
    let records: Vec<_> = given.iter().map(|(source, attributes)| (source, attributes)).collect();
    if undated && kind.is_dated(&kind.merge(&records)) {
        let help = "add `at: 2026-03-02T09:00:00Z`".to_owned();
        page.problem(place, "the answer depends on the time: `at` is missing", help);
    }
    Some(Example {
        name: name.value,
        file: page.file.path.clone(),
        place: name.place,
        kind: kind.name.clone(),
        at,
        given,
        phase,
        urgent,
        accounts,
    })
}

fn instant(page: &Page<'_>, node: &Node) -> Option<Timestamp> {
    let text = page.text(node)?;
    let parsed = text.value.parse::<jiff::Timestamp>();
    if parsed.is_err() {
        page.problem(
            text.place,
            "this is not an instant",
            "write it as in RFC 3339: `2026-03-02T09:00:00Z`".to_owned(),
        );
    }
    parsed.ok().map(|instant| Timestamp(instant.as_millisecond()))
}

fn given_record(page: &Page<'_>, entry: &Entry, drafts: &Drafts<'_>) -> Option<Attributes> {
    let Some(on) = drafts.source(&entry.key) else {
        let help = known_names(&entry.key, "sources", drafts.source_names());
        page.problem(entry.key_place, format!("no source is named `{}`", entry.key), help);
        return None;
    };
    let mut attributes = Attributes::default();
    for attribute in page.entries(&entry.value) {
        let Some(rule) = on.value.rules.attributes.get(&attribute.key) else {
            let mapped = on.value.attribute_places.keys().map(String::as_str);
            let help = known_names(&attribute.key, "attributes", mapped);
            let message = format!("the source `{}` maps no attribute `{}`", entry.key, attribute.key);
            page.problem(attribute.key_place, message, help);
            continue;
        };
        let Some(value) = page.value(&attribute.value) else { continue };
        let fits = match (&value, rule.kind) {
            (Value::Null, _) => true,
            (Value::List(_), kind) => kind == AttributeType::List,
            (_, AttributeType::Text) => true,
            (Value::Int(_), AttributeType::Int) | (Value::Bool(_), AttributeType::Bool) => true,
            (Value::Text(text), AttributeType::Date) => is_date(text),
            _ => false,
        };
        if !fits {
            let wanted = match rule.kind {
                AttributeType::Text => "a single value",
                AttributeType::Int => "a whole number",
                AttributeType::Bool => "true or false",
                AttributeType::Date => "a date (YYYY-MM-DD) or an instant as in RFC 3339",
                AttributeType::List => "a list",
            };
            page.problem(attribute.value.place, format!("`{}` is {wanted}", attribute.key), None);
        }
        attributes.insert(attribute.key.clone(), value);
    }
    Some(attributes)
}

fn expected_account(page: &Page<'_>, entry: &Entry, drafts: &Drafts<'_>) -> Option<ExpectedAccount> {
    let name = Placed { value: entry.key.clone(), place: entry.key_place };
    let Some(target) = drafts.target(&name) else {
        let help = known_names(&entry.key, "targets", drafts.target_names());
        page.problem(entry.key_place, format!("no target is named `{}`", entry.key), help);
        return None;
    };
    if matches!(&entry.value.content, Content::Text(text) if text == "none") {
        return Some(ExpectedAccount::None);
    }
    let mut fields = page.fields(&entry.value)?;
    let active = fields.bool("active", true);
    let mut attributes = BTreeMap::new();
    for attribute in fields.entries("attributes") {
        let names = target.value.attributes.iter().map(|(name, _)| name.value.as_str());
        if !names.clone().any(|name| name == attribute.key) {
            let help = known_names(&attribute.key, "account attributes", names);
            let message = format!("accounts of `{}` have no attribute `{}`", entry.key, attribute.key);
            page.problem(attribute.key_place, message, help);
        }
        if let Some(value) = page.value(&attribute.value) {
            attributes.insert(attribute.key.clone(), value);
        }
    }
    let groups = fields.texts("groups").map(|groups| groups.into_iter().map(|group| group.value).collect());
    if !active && (groups.is_some() || !attributes.is_empty()) {
        let help = "write `active: false` alone".to_owned();
        page.problem(entry.value.place, "an account that is disabled is not compared further", help);
    }
    if !active && target.value.leaver.action == Op::Delete {
        let help = format!("write `{}: none`", entry.key);
        page.problem(entry.value.place, format!("accounts of `{}` are deleted, not disabled", entry.key), help);
    }
    fields.finish();
    Some(ExpectedAccount::Some { active, attributes, groups })
}

impl Example {
    pub(super) fn run(&self, bundle: &Bundle) -> TestReport {
        let differences = match self.differences(bundle) {
            Ok(differences) => differences,
            Err(error) => vec![error.to_string()],
        };
        TestReport {
            file: self.file.clone(),
            line: self.place.line,
            name: self.name.clone(),
            outcome: match differences.is_empty() {
                true => TestOutcome::Passed,
                false => TestOutcome::Failed(differences),
            },
        }
    }

    fn differences(&self, bundle: &Bundle) -> Result<Vec<String>, RuleError> {
        let kind = bundle.kind(&self.kind).expect("a test's kind is one of its bundle");
        let records: Vec<_> = self.given.iter().map(|(source, attributes)| (source, attributes)).collect();
        let merged = kind.merge(&records);
        let lifecycle = kind.lifecycle(&merged, self.at.unwrap_or_default())?;
        let mut differences = Vec::new();
        if let Some(expected) = self.phase.filter(|expected| *expected != lifecycle.phase) {
            differences.push(format!("phase: expected {}, is {}", expected.as_str(), lifecycle.phase.as_str()));
        }
        if let Some(expected) = self.urgent {
            let urgent = kind.urgent(&merged)?;
            if urgent != expected {
                differences.push(format!("urgent: expected {expected}, is {urgent}"));
            }
        }
        let complete = kind.requires.iter().all(|source| self.given.iter().any(|(given, _)| given == source));
        for (name, expected) in &self.accounts {
            let target = bundle.target(name).expect("a test's targets are of its bundle");
            let wanted = match lifecycle.phase {
                Phase::Active if complete => target.wants(&kind.name, &merged)?,
                _ => None,
            };
            differences.extend(compare(name, expected, wanted.as_ref()));
        }
        Ok(differences)
    }
}

fn compare(name: &TargetName, expected: &ExpectedAccount, wanted: Option<&Desired>) -> Vec<String> {
    let (expected_attributes, expected_groups, wanted) = match (expected, wanted) {
        (ExpectedAccount::None | ExpectedAccount::Some { active: false, .. }, None) => return Vec::new(),
        (ExpectedAccount::None, Some(_)) => return vec![format!("{name}: expected no account, one is wanted")],
        (ExpectedAccount::Some { active: false, .. }, Some(_)) => {
            return vec![format!("{name}: expected a disabled account, an active one is wanted")];
        }
        (ExpectedAccount::Some { .. }, None) => {
            return vec![format!("{name}: expected an active account, none is wanted")];
        }
        (ExpectedAccount::Some { attributes, groups, .. }, Some(wanted)) => (attributes, groups, wanted),
    };
    let mut differences = Vec::new();
    for (attribute, expected) in expected_attributes {
        let is = wanted.attributes.get(attribute).unwrap_or(&Value::Null);
        if is != expected {
            differences.push(format!("{name}.{attribute}: expected {}, is {}", shown(expected), shown(is)));
        }
    }
    if let Some(expected) = expected_groups {
        let is = &wanted.entitlements.groups;
        let list = |groups: Vec<&String>| groups.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let (missing, more) = (list(expected.difference(is).collect()), list(is.difference(expected).collect()));
        if !missing.is_empty() {
            differences.push(format!("{name}.groups: missing {missing}"));
        }
        if !more.is_empty() {
            differences.push(format!("{name}.groups: not expected {more}"));
        }
    }
    differences
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        value => value.to_json().to_string(),
    }
}
