//! `targets/*.yaml` as read, before names and expressions are checked against the other files.

use super::connector::{ConnectorRules, ScimRules, SqlAccounts, SqlActive, SqlGroups, SqlRules};
use super::read::{Fields, Page, Placed};
use super::source::{checked_name, named};
use super::target::{LeaverRules, PublicFormat};
use super::yaml::{Content, Entry};
use crate::model::Op;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub struct TargetDraft {
    pub name: Placed<String>,
    /// None: all.
    pub kinds: Option<Vec<Placed<String>>>,
    pub format: PublicFormat,
    pub connector: Option<ConnectorDraft>,
    pub timeout: Duration,
    pub concurrency: usize,
    pub when: Option<Placed<String>>,
    pub match_on: Option<Placed<String>>,
    pub attributes: Vec<(Placed<String>, Placed<String>)>,
    /// None: additive.
    pub universe: Option<Vec<Placed<String>>>,
    pub leaver: LeaverRules,
    pub leaver_place: super::Place,
    pub provision_deadline: Duration,
    pub deprovision_deadline: Duration,
}

#[derive(Debug)]
pub struct ConnectorDraft {
    pub rules: ConnectorRules,
    /// Where each mapped attribute stands.
    pub mapped: BTreeMap<String, super::Place>,
    /// What is resolved when the connector is made.
    pub references: Vec<Placed<String>>,
}

/// A worker with more calls at once than this is a load test.
const MOST_CALLS: u64 = 256;

pub fn read_target(fields: &mut Fields<'_>) -> Option<TargetDraft> {
    let page = fields.page();
    let name =
        fields.need_text("target", &named("target", page, "directory")).and_then(|name| checked_name(page, name));
    let kinds = fields.texts("kinds");
    let words = [("json", PublicFormat::Json), ("avro", PublicFormat::Avro)];
    let format = fields.get("format").and_then(|node| page.choice(node, &words)).unwrap_or(PublicFormat::Json);
    let (mut connector, mut timeout, mut concurrency) = (None, Duration::from_secs(10), 8);
    fields.need("connector", "connector: { sql: { ... } }");
    if let Some(mut section) = fields.fields("connector") {
        connector = read_connector(&mut section);
        timeout = section.duration("timeout", timeout);
        let calls = section.number("concurrency", 1, MOST_CALLS);
        concurrency = calls.and_then(|n| usize::try_from(n).ok()).unwrap_or(concurrency);
        if timeout.is_zero() {
            let place = section.key_place("timeout").unwrap_or(section.place());
            page.problem(place, "a call needs some time", "write `timeout: 10s`".to_owned());
        }
        section.finish();
    }
    let (mut when, mut match_on, mut attributes) = (None, None, Vec::new());
    fields.need("account", "account: { match: userName, attributes: { userName: employeeNumber } }");
    if let Some(mut account) = fields.fields("account") {
        when = account.get("when").and_then(|node| page.expression(node));
        match_on = account.need_text("match", "match: userName");
        account.need("attributes", "attributes: { userName: employeeNumber }");
        for entry in account.entries("attributes") {
            if let Some(text) = page.expression(&entry.value) {
                attributes.push((placed_key(entry), text));
            }
        }
        account.finish();
    }
    let universe = universe(fields);
    let (leaver, leaver_place) = leaver(fields);
    let (mut provision_deadline, mut deprovision_deadline) =
        (Duration::from_secs(4 * 3600), Duration::from_secs(15 * 60));
    if let Some(mut deadline) = fields.fields("deadline") {
        provision_deadline = deadline.duration("provision", provision_deadline);
        deprovision_deadline = deadline.duration("deprovision", deprovision_deadline);
        for (key, duration) in [("provision", provision_deadline), ("deprovision", deprovision_deadline)] {
            if duration.is_zero() {
                let place = deadline.key_place(key).unwrap_or(deadline.place());
                page.problem(place, "a deadline needs some time", format!("write `{key}: 15m`"));
            }
        }
        deadline.finish();
    }
    Some(TargetDraft {
        name: name?,
        kinds,
        format,
        connector,
        timeout,
        concurrency,
        when,
        match_on,
        attributes,
        universe,
        leaver,
        leaver_place,
        provision_deadline,
        deprovision_deadline,
    })
}

fn placed_key(entry: &Entry) -> Placed<String> {
    Placed { value: entry.key.clone(), place: entry.key_place }
}

fn universe(fields: &mut Fields<'_>) -> Option<Vec<Placed<String>>> {
    let page = fields.page();
    let mut groups = fields.fields("groups")?;
    let mode = groups.get("mode").and_then(|node| page.choice(node, &[("additive", false), ("authoritative", true)]));
    let authoritative = mode.unwrap_or(false);
    let universe = groups.texts("universe");
    let help = "with `mode: authoritative`, `universe: [g1, g2]` names the groups that are Lockstep's alone".to_owned();
    match (authoritative, &universe) {
        (true, None) => page.problem(groups.place(), "`universe` is missing", help),
        (false, Some(_)) => {
            let place = groups.key_place("universe").unwrap_or(groups.place());
            page.problem(place, "`universe` has no meaning with `mode: additive`", help);
        }
        _ => {}
    }
    groups.finish();
    universe.filter(|_| authoritative)
}

fn leaver(fields: &mut Fields<'_>) -> (LeaverRules, super::Place) {
    let page = fields.page();
    let mut rules = LeaverRules { action: Op::Disable, delete_after: None, maintain: false };
    let Some(mut leaver) = fields.fields("leaver") else { return (rules, fields.place()) };
    let words = [("disable", Op::Disable), ("delete", Op::Delete)];
    rules.action = leaver.get("action").and_then(|node| page.choice(node, &words)).unwrap_or(Op::Disable);
    rules.delete_after = leaver.get("delete_after").and_then(|node| page.duration(node));
    if rules.action == Op::Delete
        && let Some(place) = leaver.key_place("delete_after")
    {
        let help = "write `action: disable` to delete some time after the disable, or remove `delete_after`".to_owned();
        page.problem(place, "with `action: delete` nothing is left to delete later", help);
    }
    rules.maintain = leaver.bool("maintain", false);
    if rules.action == Op::Delete
        && rules.maintain
        && let Some(place) = leaver.key_place("maintain")
    {
        let help = "write `action: disable` to keep leavers' accounts current, or remove `maintain`".to_owned();
        page.problem(place, "with `action: delete` nothing is left to maintain", help);
    }
    let place = leaver.key_place("action").unwrap_or(leaver.place());
    leaver.finish();
    (rules, place)
}

fn read_connector(section: &mut Fields<'_>) -> Option<ConnectorDraft> {
    let page = section.page();
    let (sql, scim) = (section.fields("sql"), section.fields("scim"));
    match (sql, scim) {
        (Some(mut sql), None) => {
            let (rules, mapped) = read_sql(&mut sql);
            let references = references(&mut sql, &["url"]);
            sql.finish();
            Some(ConnectorDraft { rules: ConnectorRules::Sql(rules?), mapped, references })
        }
        (None, Some(mut scim)) => {
            let (rules, mapped) = read_scim(&mut scim);
            let references = references(&mut scim, &["url", "token"]);
            scim.finish();
            Some(ConnectorDraft { rules: ConnectorRules::Scim(rules?), mapped, references })
        }
        (sql, _) => {
            let message = if sql.is_some() { "a target has one connector" } else { "the connector is missing" };
            page.problem(section.place(), message, "add `sql: { ... }` or `scim: { ... }`".to_owned());
            None
        }
    }
}

/// The values of these keys that refer to something outside.
fn references(fields: &mut Fields<'_>, keys: &[&'static str]) -> Vec<Placed<String>> {
    let texts = keys.iter().filter_map(|key| {
        let node = fields.get(key)?;
        match &node.content {
            Content::Text(text) if text.contains("${") => Some(Placed { value: text.clone(), place: node.place }),
            _ => None,
        }
    });
    texts.collect()
}

type Mapped = BTreeMap<String, super::Place>;

fn read_sql(sql: &mut Fields<'_>) -> (Option<SqlRules>, Mapped) {
    let page = sql.page();
    let mut mapped = Mapped::new();
    let url = sql
        .need_text("url", "url: sqlite:${data}/directory.db")
        .and_then(|url| checked_url(page, url, &["sqlite:", "postgres:", "postgresql:", "${"]));
    sql.need("accounts", "accounts: { table: accounts, key: id, columns: { userName: user_name } }");
    let accounts = sql.fields("accounts").and_then(|mut accounts| {
        let table = column(&mut accounts, "table", "table: accounts");
        let key = column(&mut accounts, "key", "key: id");
        let owner = accounts.text("owner").and_then(|owner| sql_name(page, owner));
        let columns = mapping(&mut accounts, "columns", "columns: { userName: user_name }", &mut mapped);
        for entry in accounts.entries("columns") {
            if let Some(name) = columns.get(&entry.key) {
                sql_name(page, Placed { value: name.clone(), place: entry.value.place });
            }
        }
        let active = accounts.fields("active").and_then(|mut active| {
            let name = column(&mut active, "column", "column: active");
            let true_value = active.need("true", "true: true").and_then(|node| page.value(node));
            let false_value = active.need("false", "false: false").and_then(|node| page.value(node));
            active.finish();
            let (column, true_value, false_value) = (name?, true_value?, false_value?);
            if true_value == false_value {
                page.problem(active_place(&accounts), "active and disabled look the same", None);
            }
            Some(SqlActive { column, true_value, false_value })
        });
        accounts.finish();
        Some(SqlAccounts { table: table?, key: key?, owner, columns, active })
    });
    let groups = sql.fields("groups").and_then(|mut groups| {
        let table = column(&mut groups, "table", "table: memberships");
        let account = column(&mut groups, "account", "account: account_id");
        let group = column(&mut groups, "group", "group: group_name");
        groups.finish();
        Some(SqlGroups { table: table?, account: account?, group: group? })
    });
    let rules = url.zip(accounts).map(|(url, accounts)| SqlRules { url, accounts, groups });
    (rules, mapped)
}

fn active_place(accounts: &Fields<'_>) -> super::Place {
    accounts.key_place("active").unwrap_or(accounts.place())
}

fn read_scim(scim: &mut Fields<'_>) -> (Option<ScimRules>, Mapped) {
    let page = scim.page();
    let mut mapped = Mapped::new();
    let url = scim
        .need_text("url", "url: https://directory.example.com/scim/v2")
        .and_then(|url| checked_url(page, url, &["http:", "https:", "${"]));
    let token = scim.text("token").and_then(|token| referenced_secret(page, token));
    let attributes = mapping(scim, "attributes", "attributes: { userName: userName }", &mut mapped);
    let create_groups = scim.bool("create_groups", false);
    (url.map(|url| ScimRules { url, token, attributes, create_groups }), mapped)
}

fn column(fields: &mut Fields<'_>, key: &'static str, example: &str) -> Option<String> {
    let page = fields.page();
    fields.need_text(key, example).and_then(|name| sql_name(page, name))
}

fn mapping(fields: &mut Fields<'_>, key: &'static str, example: &str, mapped: &mut Mapped) -> BTreeMap<String, String> {
    let page = fields.page();
    fields.need(key, example);
    let entries = fields.entries(key);
    mapped.extend(entries.iter().map(|entry| (entry.key.clone(), entry.key_place)));
    entries.iter().filter_map(|entry| Some((entry.key.clone(), page.text(&entry.value)?.value))).collect()
}

/// Table and column names go into statements: letters, digits, `_`, and one `schema.` before a table.
fn sql_name(page: &Page<'_>, name: Placed<String>) -> Option<String> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = name.value.split('.').collect();
    if parts.len() <= 2 && parts.iter().all(|name| part(name)) {
        return Some(name.value);
    }
    let help = "use letters, digits and `_`; a table may have its schema before it: `hr.accounts`".to_owned();
    page.problem(name.place, format!("`{}` can't be the name of a table or column", name.value), help);
    None
}

/// A secret stands in the environment or in a file, never here; the line is shown without it.
pub(super) fn referenced_secret(page: &Page<'_>, secret: Placed<String>) -> Option<String> {
    if secret.value.starts_with("${env:") || secret.value.starts_with("${file:") {
        return Some(secret.value);
    }
    page.secret_problem(&secret, "a secret must not stand in a rule file");
    None
}

pub(super) fn checked_url(page: &Page<'_>, url: Placed<String>, schemes: &[&str]) -> Option<String> {
    let authority = url.value.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let password =
        authority.and_then(|authority| authority.rsplit_once('@')).and_then(|(user, _)| user.split_once(':'));
    if password.is_some_and(|(_, password)| !password.starts_with("${")) {
        page.secret_problem(&url, "a password must not stand in a rule file");
        return None;
    }
    if schemes.iter().any(|scheme| url.value.starts_with(scheme)) {
        return Some(url.value);
    }
    let known: Vec<_> = schemes.iter().filter(|scheme| **scheme != "${").map(|scheme| format!("`{scheme}`")).collect();
    page.problem(url.place, "this connector can't use that url", format!("begin it with {}", known.join(", ")));
    None
}
