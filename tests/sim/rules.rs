//! The rules that the simulated people are under, in two versions: a story may switch from one to the other.

use lockstep::rules::{Bundle, SourceFile};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub const HR_TOPIC: &str = "hr.workers";
pub const IDP_TOPIC: &str = "idp.users";
pub const DESK_TOPIC: &str = "desks.changes";
pub const SOURCE_TOPICS: [&str; 3] = [HR_TOPIC, IDP_TOPIC, DESK_TOPIC];
pub const TARGETS: [&str; 2] = ["directory", "wiki"];
pub const TENANT: &str = "acme";

/// How long a removal may take before an alert is due.
pub const DEADLINE_MS: i64 = 15 * 60_000;
/// The Guard's window.
pub const GUARD_WINDOW_MS: i64 = 3_600_000;
/// A disabled account of the directory is deleted after so long.
pub const GRACE_MS: i64 = 10 * 86_400_000;
/// Groups of the wiki that are Lockstep's alone.
pub const TEAMS: [&str; 5] = ["team-0", "team-1", "team-2", "team-3", "team-4"];
/// Nobody has written down which groups it is in: its people's directory rule fails.
pub const UNKNOWN_DEPARTMENT: &str = "Limbo";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    First,
    Second,
}

/// What differs between installations.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Both people's sources are routed by the worker, so that a person's records meet in one partition.
    pub routed: bool,
    /// Removals that the Guard lets pass in an hour.
    pub limit: u32,
    /// The directory keeps the disabled accounts of those who left current.
    pub maintained: bool,
}

impl Version {
    pub fn groups_of(self, department: &str) -> Option<&'static [&'static str]> {
        Some(match (self, department) {
            (Self::First, "Engineering") => &["eng", "all"],
            (Self::Second, "Engineering") => &["dev", "all"],
            (_, "Sales") => &["sales", "all"],
            (Self::First, "Support") => &["support", "all"],
            (Self::Second, "Support") => &["support"],
            (_, "Legal") => &["all"],
            _ => return None,
        })
    }

    pub fn has_wiki(self, department: &str) -> bool {
        department != "Legal" && (self == Self::First || department != "Support")
    }
}

type Compiled = BTreeMap<(bool, bool, u32, bool), Arc<Bundle>>;

/// Compiled once for all runs.
pub fn bundle(version: Version, choices: Choices) -> Arc<Bundle> {
    static COMPILED: Mutex<Compiled> = Mutex::new(Compiled::new());
    let which = (version == Version::Second, choices.routed, choices.limit, choices.maintained);
    let mut compiled = COMPILED.lock().unwrap();
    Arc::clone(compiled.entry(which).or_insert_with(|| compile(version, choices)))
}

fn compile(version: Version, choices: Choices) -> Arc<Bundle> {
    let second = version == Version::Second;
    let route = if choices.routed { "route_by: worker\n" } else { "" };
    let table: Vec<String> = ["Engineering", "Sales", "Support", "Legal"]
        .iter()
        .map(|name| format!("{name}: [{}]", version.groups_of(name).expect("written down").join(", ")))
        .collect();
    let wiki_when = if second { "department != 'Legal' && department != 'Support'" } else { "department != 'Legal'" };
    let name = if second { "upper(name)" } else { "name" };
    let connector = |columns: &str| {
        format!(
            "connector: {{ sql: {{ url: \"sqlite:never-opened\", accounts: {{ table: a, key: id, owner: owner, columns: {{ {columns} }}, active: {{ column: active, true: 1, false: 0 }} }}, groups: {{ table: g, account: a, group: g }} }} }}"
        )
    };
    let files = [
        (
            "sources/hr.yaml",
            format!(
                "source: hr\ntopic: {HR_TOPIC}\ntenant: {TENANT}\nformat: json\nevent: {{ id: id, time: time, order: sequence, type: type, types: {{ upsert: upsert, gone: remove }} }}\nrecord: {{ id: worker }}\nattributes: {{ worker: worker, name: name, mail: mail, department: department, status: status, urgent: urgent, start: {{ path: start, type: date }}, end: {{ path: end, type: date }} }}\n{route}"
            ),
        ),
        (
            "sources/idp.yaml",
            format!(
                "source: idp\ntopic: {IDP_TOPIC}\ntenant: {TENANT}\nformat: json\nevent: {{ id: id, time: time, order: sequence, type: type, types: {{ upsert: upsert, gone: remove }} }}\nrecord: {{ id: user }}\nattributes: {{ worker: worker, mail: mail, phone: phone, teams: {{ path: teams, type: list }} }}\n{route}"
            ),
        ),
        (
            "sources/desks.yaml",
            format!(
                "source: desks\ntopic: {DESK_TOPIC}\ntenant: {TENANT}\nformat: json\nevent: {{ id: id, time: time }}\nrecord: {{ id: badge, partial: true, null_removes: true }}\nattributes: {{ worker: worker, desk: desk, floor: floor }}\n"
            ),
        ),
        (
            "identity.yaml",
            format!(
                "kinds:\n  person:\n    anchor: hr\n    correlate: [worker, mail]\n    attributes: {{ worker: [hr.worker], name: [hr.name], mail: [hr.mail], department: [hr.department], status: [hr.status], urgent: [hr.urgent], start: [hr.start], end: [hr.end], phone: [idp.phone], teams: [idp.teams], desk: [desks.desk], floor: [desks.floor] }}\n    lifecycle: {{ active: \"status == 'active'\", start: start, end: end, urgent: \"urgent == 'yes'\" }}\nguard: {{ limit: {}, window: 1h }}\n",
                choices.limit
            ),
        ),
        (
            "entitlements.yaml",
            format!(
                "tables:\n  department: {{ {} }}\ngrants:\n  - name: by department\n    to: {{ directory: \"tables.department[department]\" }}\n  - name: by team\n    when: \"teams != null\"\n    to: {{ wiki: \"teams\" }}\n",
                table.join(", ")
            ),
        ),
        (
            "targets/directory.yaml",
            format!(
                "target: directory\n{}\naccount: {{ match: userName, attributes: {{ userName: \"lower(worker)\", name: \"{name}\", mail: mail, phone: phone }} }}\nleaver: {{ action: disable, delete_after: 10d, maintain: {} }}\ndeadline: {{ deprovision: 15m }}\n",
                connector("userName: u, name: n, mail: m, phone: p"),
                choices.maintained
            ),
        ),
        (
            "targets/wiki.yaml",
            format!(
                "target: wiki\n{}\naccount: {{ when: \"{wiki_when}\", match: userName, attributes: {{ userName: \"'w-' + lower(worker)\", desk: desk, floor: floor }} }}\ngroups: {{ mode: authoritative, universe: [{}] }}\nleaver: {{ action: delete }}\ndeadline: {{ deprovision: 15m }}\n",
                connector("userName: u, desk: d, floor: f"),
                TEAMS.join(", ")
            ),
        ),
    ];
    let files: Vec<SourceFile> =
        files.into_iter().map(|(path, text)| SourceFile { path: path.to_owned(), text }).collect();
    Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("the simulation's own rules: {faults:#?}")))
}
