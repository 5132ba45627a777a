//! How things really stand at the sources, and what the rules, read as a person would, make of it: the serial reference.
//!
//! None of Lockstep's own code is used here: neither its correlation nor its expressions nor its dates.

use crate::rules::{TARGETS, Version};
use crate::story::{Told, day_of};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A record as its source has it.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub present: bool,
    pub sequence: u64,
    /// Of the event whose content stands: what counts among several of one sequence.
    rank: Rank,
    /// As they were last while it was present.
    pub attributes: BTreeMap<String, Value>,
}

/// Content by which access ends stands above any other, then the greater id: the longer one, then byte by byte.
type Rank = (bool, usize, String);

/// The sources' own contents, by record id.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub workers: BTreeMap<String, Record>,
    pub users: BTreeMap<String, Record>,
    pub badges: BTreeMap<String, Record>,
}

/// Whom a record that is no anchor belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    Worker(String),
    Disputed(BTreeSet<String>),
}

/// What one person should have in one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Account(Account),
    /// No access.
    None,
    /// A rule fails for them, or a record of theirs is disputed: what they have may be of before.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Those without a value are left out.
    pub attributes: BTreeMap<String, String>,
    pub groups: BTreeSet<String>,
}

impl Facts {
    /// Takes an event in as whoever knows its source would: what is older than the newest says nothing.
    pub fn take(&mut self, told: &Told) {
        let event = told.event.as_object().expect("an event is an object");
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (records, id, partial) = match told.topic {
            crate::rules::HR_TOPIC => (&mut self.workers, text("worker"), false),
            crate::rules::IDP_TOPIC => (&mut self.users, text("user"), false),
            _ => (&mut self.badges, text("badge"), true),
        };
        let sequence = event.get("sequence").and_then(Value::as_u64).expect("the story numbers its events");
        let record = records.entry(id).or_default();
        let tied = sequence == record.sequence;
        if sequence < record.sequence || tied && (partial || !record.present) {
            return;
        }
        record.sequence = sequence;
        record.present = text("type") != "gone";
        let ends = told.topic == crate::rules::HR_TOPIC && (text("status") != "active" || event.contains_key("end"));
        let rank = (ends, text("id").len(), text("id"));
        if !record.present || tied && rank < record.rank {
            return;
        }
        record.rank = rank;
        if !partial {
            record.attributes.clear();
        }
        for (name, value) in event {
            match value {
                Value::Null => drop(record.attributes.remove(name)),
                value => drop(record.attributes.insert(name.clone(), value.clone())),
            }
        }
    }

    /// By the first key that anybody holds. What a leaver held stays held.
    pub fn holder(&self, record: &Record) -> Holder {
        for key in ["worker", "mail"] {
            let Some(value) = record.normalised(key) else { continue };
            let holders: BTreeSet<String> = self
                .workers
                .iter()
                .filter(|(_, worker)| worker.normalised(key).as_ref() == Some(&value))
                .map(|(id, _)| id.clone())
                .collect();
            match holders.len() {
                0 => {}
                1 => return Holder::Worker(holders.into_iter().next().expect("one")),
                _ => return Holder::Disputed(holders),
            }
        }
        Holder::Nobody
    }

    pub fn wanted(&self, worker: &str, target: &str, version: Version, now: i64) -> Wanted {
        match self.workers.get(worker) {
            Some(hr) if hr.has_access(now) => self.shows(hr, worker, target, version),
            _ => Wanted::None,
        }
    }

    /// What the directory's account of somebody who left says of them, where it is kept current; None where that isn't certain.
    pub fn kept_of_a_leaver(&self, worker: &str, version: Version, now: i64) -> Option<BTreeMap<String, String>> {
        let hr = self.workers.get(worker).filter(|hr| hr.present && hr.has_ended(now))?;
        match self.shows(hr, worker, TARGETS[0], version) {
            Wanted::Account(account) => Some(account.attributes),
            Wanted::None | Wanted::Unknown => None,
        }
    }

    /// What an account shows, whoever has access.
    fn shows(&self, hr: &Record, worker: &str, target: &str, version: Version) -> Wanted {
        let department = hr.text("department").unwrap_or_default();
        if target == TARGETS[1] && !version.has_wiki(&department) {
            return Wanted::None;
        }
        let (Some(users), Some(badges)) = (self.linked(&self.users, worker), self.linked(&self.badges, worker)) else {
            return Wanted::Unknown;
        };
        let first = |records: &[&Record], name: &str| {
            records.iter().find_map(|record| record.attributes.get(name)).cloned().unwrap_or(Value::Null)
        };
        let name = |text: String| if version == Version::Second { text.to_uppercase() } else { text };
        let (attributes, groups): (Vec<(&str, Option<String>)>, BTreeSet<String>) = if target == TARGETS[0] {
            let Some(groups) = version.groups_of(&department) else { return Wanted::Unknown };
            let attributes = vec![
                ("userName", Some(worker.to_lowercase())),
                ("name", hr.text("name").map(name)),
                ("mail", hr.text("mail")),
                ("phone", first(&users, "phone").as_str().map(str::to_owned)),
            ];
            (attributes, groups.iter().map(|group| (*group).to_owned()).collect())
        } else {
            let attributes = vec![
                ("userName", Some(format!("w-{}", worker.to_lowercase()))),
                ("desk", first(&badges, "desk").as_str().map(str::to_owned)),
                ("floor", first(&badges, "floor").as_str().map(str::to_owned)),
            ];
            let teams = first(&users, "teams");
            let teams = teams.as_array().into_iter().flatten().filter_map(Value::as_str);
            (attributes, teams.map(str::to_owned).collect())
        };
        let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        Wanted::Account(Account { attributes, groups })
    }

    /// The present records of one source that belong to a worker, in order; None where one of them may or may not.
    fn linked<'a>(&'a self, records: &'a BTreeMap<String, Record>, worker: &str) -> Option<Vec<&'a Record>> {
        let mut linked = Vec::new();
        for record in records.values().filter(|record| record.present) {
            match self.holder(record) {
                Holder::Worker(holder) if holder == worker => linked.push(record),
                Holder::Disputed(holders) if holders.contains(worker) => return None,
                _ => {}
            }
        }
        Some(linked)
    }
}

impl Record {
    pub fn text(&self, name: &str) -> Option<String> {
        self.attributes.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    fn normalised(&self, name: &str) -> Option<String> {
        let text = self.text(name)?.trim().to_lowercase();
        (!["", "n/a"].contains(&text.as_str())).then_some(text)
    }

    /// In from the first moment of the start to the last of the end, both in UTC.
    fn has_access(&self, now: i64) -> bool {
        let started = self.text("start").is_none_or(|start| day_of(&start) <= now);
        self.present && started && !self.has_ended(now)
    }

    fn has_ended(&self, now: i64) -> bool {
        let ended = self.text("end").is_some_and(|end| day_of(&end) + 86_400_000 <= now);
        ended || self.text("status").as_deref() != Some("active")
    }
}
