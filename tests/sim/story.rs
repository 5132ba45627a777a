//! The generator: what happens to a few people, as events of an HR system and an IdP, with the rules they are under.

use crate::random::Random;
use lockstep::rules::{Bundle, SourceFile};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PEOPLE: u64 = 12;
const EVENTS: u64 = 90;
const DEPARTMENTS: [&str; 4] = ["Engineering", "Sales", "Support", "Legal"];

pub const HR_TOPIC: &str = "hr.workers";
pub const IDP_TOPIC: &str = "idp.users";
pub const TARGETS: [&str; 2] = ["directory", "wiki"];

const FILES: [(&str, &str); 6] = [
    (
        "sources/hr.yaml",
        "source: hr\ntopic: hr.workers\ntenant: acme\nformat: json\nevent: { id: id, time: time, order: sequence, type: type, types: { upsert: upsert, gone: remove } }\nrecord: { id: worker }\nattributes: { worker: worker, name: name, department: department, status: status }\n",
    ),
    (
        "sources/idp.yaml",
        "source: idp\ntopic: idp.users\ntenant: acme\nformat: json\nevent: { id: id, time: time, order: sequence }\nrecord: { id: user }\nattributes: { worker: worker, phone: phone, teams: { path: teams, type: list } }\n",
    ),
    (
        "identity.yaml",
        "kinds:\n  person:\n    anchor: hr\n    correlate: [worker]\n    attributes: { worker: [hr.worker], name: [hr.name], department: [hr.department], status: [hr.status], phone: [idp.phone], teams: [idp.teams] }\n    lifecycle: { active: \"status == 'active'\" }\nguard: { limit: 100000, window: 1h }\n",
    ),
    (
        "entitlements.yaml",
        "tables:\n  department: { Engineering: [eng, all], Sales: [sales, all], Support: [support, all], Legal: [all] }\ngrants:\n  - name: by department\n    to: { directory: \"tables.department[department]\" }\n  - name: by team\n    when: \"teams != null\"\n    to: { wiki: \"teams\" }\n",
    ),
    (
        "targets/directory.yaml",
        "target: directory\nconnector: { sql: { url: \"sqlite:never-opened\", accounts: { table: a, key: id, owner: owner, columns: { userName: u, name: n, department: d, phone: p }, active: { column: active, true: 1, false: 0 } }, groups: { table: g, account: a, group: g } } }\naccount: { match: userName, attributes: { userName: \"lower(worker)\", name: name, department: department, phone: phone } }\n",
    ),
    (
        "targets/wiki.yaml",
        "target: wiki\nconnector: { sql: { url: \"sqlite:never-opened\", accounts: { table: a, key: id, owner: owner, columns: { userName: u, name: n }, active: { column: active, true: 1, false: 0 } }, groups: { table: g, account: a, group: g } } }\naccount: { when: \"department != 'Legal'\", match: userName, attributes: { userName: \"'w-' + lower(worker)\", name: name } }\n",
    ),
];

/// Half of the seeds route both sources by the worker, so that a person's records meet in one partition.
pub fn bundle(seed: u64) -> Bundle {
    let text_of = |path: &str, text: &str| match seed % 2 == 1 && path.starts_with("sources/") {
        true => format!("{text}route_by: worker\n"),
        false => text.to_owned(),
    };
    let files: Vec<SourceFile> =
        FILES.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: text_of(path, text) }).collect();
    Bundle::compile(&files).unwrap_or_else(|faults| panic!("the simulation's own rules: {faults:#?}"))
}

/// An event on its way to a topic.
#[derive(Clone, Debug)]
pub struct Told {
    pub topic: &'static str,
    pub key: String,
    pub event: Value,
}

/// One person's newest records, as the sources themselves have them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub hr: Option<Value>,
    pub idp: Option<Value>,
}

/// A whole story: what is told, in the order of the telling, and how things really stand in the end.
pub struct Story {
    pub told: Vec<Told>,
    pub facts: BTreeMap<String, Facts>,
}

pub fn write(random: &mut Random) -> Story {
    let mut facts: BTreeMap<String, Facts> = BTreeMap::new();
    let mut told: Vec<Told> = Vec::new();
    for number in 0..EVENTS {
        let worker = format!("W{}", random.below(PEOPLE));
        let person = facts.entry(worker.clone()).or_default();
        let event =
            if random.percent(70) { hr(random, &worker, number, person) } else { idp(random, &worker, number, person) };
        told.push(event);
        if random.percent(10) {
            // A redelivery of one of the last few.
            let from = told.len().saturating_sub(8);
            let again = told[from + random.below((told.len() - from) as u64) as usize].clone();
            told.push(again);
        }
        if random.percent(10) && told.len() > 1 {
            // Two events swap places: one of them is late.
            let last = told.len() - 1;
            told.swap(last, last - 1);
        }
    }
    Story { told, facts }
}

fn hr(random: &mut Random, worker: &str, number: u64, person: &mut Facts) -> Told {
    let status = if random.percent(70) { "active" } else { "left" };
    let mut event = json!({
        "id": format!("hr-{number}"), "time": 1_000_000 + number, "sequence": number, "type": "upsert", "worker": worker,
        "name": format!("{worker} {}", random.below(1_000)), "department": random.pick(&DEPARTMENTS), "status": status,
    });
    person.hr = Some(event.clone());
    if random.percent(5) {
        event["type"] = "gone".into();
        person.hr = None;
    }
    Told { topic: HR_TOPIC, key: worker.to_owned(), event }
}

fn idp(random: &mut Random, worker: &str, number: u64, person: &mut Facts) -> Told {
    let teams: Vec<String> = (0..random.below(3)).map(|_| format!("team-{}", random.below(5))).collect();
    let event = json!({
        "id": format!("idp-{number}"), "time": 1_000_000 + number, "sequence": number, "user": format!("u-{worker}"),
        "worker": worker, "phone": format!("+{}", random.below(1_000)), "teams": teams,
    });
    person.idp = Some(event.clone());
    Told { topic: IDP_TOPIC, key: format!("u-{worker}"), event }
}
