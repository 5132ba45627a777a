//! The load: people who join, move, are renamed, leave and come back, the config that serves them, and what the targets must
//! show of them in the end by those rules, reckoned here without any of the code under test.

use crate::random::Random;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const DEPARTMENTS: [(&str, &[&str]); 4] =
    [("Engineering", &["code", "build"]), ("Sales", &["crm"]), ("Support", &["crm", "desk"]), ("Finance", &[])];
const IN_THE_WIKI: [&str; 2] = ["Engineering", "Support"];

/// What a target shows of one account that is not out. By the name of the account.
pub type Rows = BTreeMap<String, Row>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub department: String,
    pub version: String,
    pub groups: BTreeSet<String>,
}

struct Person {
    number: usize,
    family: u64,
    department: usize,
    active: bool,
    version: u64,
    last: String,
    /// It was out, or not wanted in the wiki: then how many commands there are depends on the moments.
    left: BTreeSet<&'static str>,
}

pub struct Load {
    random: Random,
    people: Vec<Person>,
    most: usize,
    pub events: usize,
}

impl Load {
    /// At most that many people.
    pub fn new(seed: u64, most: usize) -> Self {
        Self { random: Random::new(seed), people: Vec::new(), most, events: 0 }
    }

    /// The next events, a line each.
    pub fn next(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event()).collect()
    }

    /// What some of them had last, sent again: it changes nothing.
    pub fn again(&mut self, count: usize) -> Vec<String> {
        let people = self.people.len() as u64;
        (0..count).map(|_| self.people[self.random.below(people) as usize].last.clone()).collect()
    }

    fn event(&mut self) -> String {
        self.events += 1;
        if self.people.len() < self.most && self.random.percent(40) || self.people.is_empty() {
            let person = Person {
                number: 10_000 + self.people.len(),
                family: self.random.below(10),
                department: self.random.below(DEPARTMENTS.len() as u64) as usize,
                active: true,
                version: 0,
                last: String::new(),
                left: BTreeSet::new(),
            };
            self.people.push(person);
            return self.people.last_mut().unwrap().changed("hired");
        }
        let chosen = self.random.below(self.people.len() as u64) as usize;
        let person = &mut self.people[chosen];
        match self.random.below(20) {
            // Redelivered: changes nothing.
            0 => person.last.clone(),
            1..=3 if person.active => {
                person.active = false;
                person.changed("terminated")
            }
            4..=6 => {
                person.family = self.random.below(10);
                person.changed("changed")
            }
            _ => {
                person.active = true;
                person.department = self.random.below(DEPARTMENTS.len() as u64) as usize;
                person.changed("changed")
            }
        }
    }

    /// What `target` must show of those who are not out.
    pub fn answer(&self, target: &str) -> Rows {
        let of = |person: &Person| {
            let (department, groups) = DEPARTMENTS[person.department];
            let groups: BTreeSet<String> = match target {
                "directory" => groups.iter().copied().chain(["staff"]).map(str::to_owned).collect(),
                _ if !IN_THE_WIKI.contains(&department) => return None,
                _ => BTreeSet::from(["readers".to_owned()]),
            };
            person.active.then(|| {
                let (department, version) = (department.to_owned(), person.version.to_string());
                (person.user_name(), Row { department, version, groups })
            })
        };
        self.people.iter().filter_map(of).collect()
    }

    /// Of those who were in `target` from the beginning to the end: how often each changed, by number. Every change has one
    /// command then, as every event changes the attribute `version`.
    pub fn versions(&self, target: &str) -> BTreeMap<String, u64> {
        let stayed = self.people.iter().filter(|person| !person.left.contains(target));
        stayed.map(|person| (person.number.to_string(), person.version)).collect()
    }
}

impl Person {
    fn user_name(&self) -> String {
        format!("ada.family{}{}", self.family, self.number)
    }

    fn changed(&mut self, kind: &str) -> String {
        self.version += 1;
        if !self.active {
            self.left.extend(["directory", "wiki"]);
        } else if !IN_THE_WIKI.contains(&DEPARTMENTS[self.department].0) {
            self.left.insert("wiki");
        }
        let (number, version) = (self.number.to_string(), self.version);
        let status = if self.active { "active" } else { "terminated" };
        self.last = json!({
            "id": format!("hr-{number}-{version}"), "type": kind, "sequence": version,
            "worker": {
                "workerId": format!("W-{number}"), "employeeNumber": number, "firstName": "Ada",
                "lastName": format!("Family{}", self.family), "department": DEPARTMENTS[self.department].0,
                "status": status, "version": version.to_string(),
            },
        })
        .to_string();
        self.last.clone()
    }
}

/// Seconds from a leaver's event until access has to be gone, or an alert is due: kills and failovers take longer.
pub const DEADLINE_S: u64 = 5;

/// Writes the config folder. `bus` is the text below `bus:`; a target is a name and its database's url.
pub fn write_config(dir: &Path, bus: &str, topic: &str, targets: &[(&str, &str)]) {
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "lockstep.yaml",
        &format!("bus:\n{bus}\ninbox_partitions: 8\nhttp: {{ listen: 127.0.0.1:0 }}\ntenants: [acme]\n"),
    );
    write("sources/hr.yaml", &SOURCE.replace("TOPIC", topic));
    write("identity.yaml", IDENTITY);
    let mut tables = String::from("tables:\n  department:\n");
    for (department, groups) in DEPARTMENTS {
        tables.push_str(&format!("    {department}: [{}]\n", groups.join(", ")));
    }
    let mut grants = String::from("grants:\n");
    for (target, url) in targets {
        match *target {
            "directory" => {
                grants.push_str("  - { name: staff, to: { directory: [staff] } }\n");
                grants.push_str(
                    "  - { name: department, to: { directory: \"lookup(tables.department, department, [])\" } }\n",
                );
                write("targets/directory.yaml", &filled(DIRECTORY, url));
            }
            _ => {
                grants.push_str("  - { name: readers, to: { wiki: [readers] } }\n");
                write("targets/wiki.yaml", &filled(WIKI, url));
            }
        }
    }
    write("entitlements.yaml", &(tables + &grants));
}

fn filled(text: &str, url: &str) -> String {
    text.replace("URL", url).replace("DEADLINE", &DEADLINE_S.to_string())
}

const SOURCE: &str = "\
source: hr
topic: TOPIC
tenant: acme
format: json
event:
  id: id
  type: type
  types: { hired: upsert, changed: upsert, terminated: upsert }
  order: sequence
record:
  id: worker.workerId
route_by: employeeNumber
attributes:
  employeeNumber: { path: worker.employeeNumber, required: true }
  givenName: worker.firstName
  familyName: worker.lastName
  department: worker.department
  status: worker.status
  version: worker.version
";

const IDENTITY: &str = "\
kinds:
  person:
    anchor: hr
    correlate: [employeeNumber]
    attributes:
      employeeNumber: [hr.employeeNumber]
      givenName: [hr.givenName]
      familyName: [hr.familyName]
      department: [hr.department]
      status: [hr.status]
      version: [hr.version]
    lifecycle:
      active: status != 'terminated'
guard: { limit: 1000000, window: 1h }
";

const DIRECTORY: &str = "\
target: directory
connector:
  sql:
    url: URL
    accounts:
      table: accounts
      key: id
      owner: owner
      columns: { userName: user_name, department: department, version: version }
      active: { column: active, true: 1, false: 0 }
    groups: { table: memberships, account: account_id, group: group_name }
  timeout: 2s
account:
  match: userName
  attributes:
    userName: lower(givenName + '.' + familyName) + employeeNumber
    department: department
    version: version
groups: { mode: additive }
leaver: { action: disable }
deadline: { deprovision: DEADLINEs }
";

const WIKI: &str = "\
target: wiki
connector:
  sql:
    url: URL
    accounts:
      table: accounts
      key: id
      owner: owner
      columns: { userName: user_name, department: department, version: version }
      active: { column: active, true: 1, false: 0 }
    groups: { table: memberships, account: account_id, group: group_name }
  timeout: 2s
account:
  when: department in ['Engineering', 'Support']
  match: userName
  attributes:
    userName: lower(givenName + '.' + familyName) + employeeNumber
    department: department
    version: version
groups: { mode: authoritative, universe: [readers] }
leaver: { action: delete }
deadline: { deprovision: DEADLINEs }
";
