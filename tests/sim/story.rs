//! The generator: what happens to some people from joining to coming back, as events of three sources and operators' acts.
//!
//! A story is written before anything runs, with a time for each event, so the same one can be told to any installation:
//! among faults, in its true order, to one partition or to many. `truth` is what really happened, in order; `told` what
//! the sources make of it: events come twice and late.

use crate::random::Random;
use crate::rules::{Choices, DESK_TOPIC, GRACE_MS, HR_TOPIC, IDP_TOPIC, TARGETS, TEAMS, UNKNOWN_DEPARTMENT, Version};
use crate::truth::{Facts, Holder, Record};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Monday, 2 March 2026.
pub const BEGIN_MS: i64 = 1_772_409_600_000;
const DAY_MS: i64 = 86_400_000;
const DEPARTMENTS: [&str; 4] = ["Engineering", "Sales", "Support", "Legal"];
/// How far an event may come too late, in steps of the story.
const LATE_STEPS: u64 = 7;

/// An event on its way to a topic.
#[derive(Clone, Debug)]
pub struct Told {
    pub topic: &'static str,
    pub key: String,
    pub event: Value,
}

/// Bytes on a source's topic that are no event of it.
#[derive(Clone, Debug)]
pub struct Bad {
    pub topic: &'static str,
    pub key: String,
    pub value: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum What {
    Event(Told),
    Bad(Bad),
    Operate(Operate),
    /// From now on processes start with these rules.
    Switch(Version),
}

/// What an operator does.
#[derive(Clone, Debug)]
pub enum Operate {
    /// All of a target, or all.
    Release(Option<&'static str>),
    Reject(Option<&'static str>),
    /// Of one worker's account.
    ReleaseOne(&'static str, String),
    RejectOne(&'static str, String),
    Redrive,
    Drop,
    /// Of whoever is set aside.
    Retry,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// Not before this, in milliseconds since 1970.
    pub at: i64,
    pub what: What,
}

pub struct Story {
    pub choices: Choices,
    /// In the order in which it really happened, each once.
    pub truth: Vec<Step>,
    /// As the sources tell it.
    pub told: Vec<Step>,
    pub workers: Vec<String>,
    pub late: u64,
    pub twice: u64,
    /// What happened, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// The first moment of a day, in UTC.
pub fn day_of(date: &str) -> i64 {
    let date: jiff::civil::Date = date.parse().expect("the story writes dates");
    let midnight = jiff::tz::TimeZone::UTC.to_ambiguous_timestamp(date.at(0, 0, 0, 0));
    midnight.compatible().expect("a day of this century").as_millisecond()
}

fn date_of(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).expect("a time of this century");
    jiff::tz::TimeZone::UTC.to_datetime(at).date().to_string()
}

pub fn write(random: &mut Random, events: usize) -> Story {
    let (routed, limit) = (random.percent(40), *random.pick(&[2, 3, 5, 100_000]));
    let choices = Choices { routed, limit, maintained: random.percent(35) };
    let mut writer = Writer {
        people: 4 + random.below(10),
        random: Random::new(random.next()),
        choices,
        at: BEGIN_MS,
        sequence: 0,
        made: 0,
        facts: Facts::default(),
        version: Version::First,
        steps: Vec::new(),
        kinds: BTreeMap::new(),
    };
    while writer.steps.len() < events {
        writer.pass();
        writer.happen();
    }
    writer.tidy();
    if choices.maintained {
        writer.count("leavers' accounts maintained");
    }
    let (told, late, twice) = tell(&mut writer.random, &writer.steps);
    let workers = writer.facts.workers.keys().cloned().collect();
    Story { choices, truth: writer.steps, told, workers, late, twice, kinds: writer.kinds }
}

/// The same steps with some of the events late and some twice. A source that tells only what changed tells it in order.
fn tell(random: &mut Random, steps: &[Step]) -> (Vec<Step>, u64, u64) {
    // A place in the order for each: by tenths of a step, ties in the order of their making.
    let mut placed: Vec<(u64, Step)> = Vec::new();
    let (mut late, mut twice) = (0, 0);
    for (index, step) in (0u64..).zip(steps) {
        let mut at = index * 10;
        if let What::Event(told) = &step.what {
            if told.topic != DESK_TOPIC && random.percent(12) {
                at += 10 * (1 + random.below(LATE_STEPS)) + 5;
                late += 1;
            }
            if random.percent(10) {
                placed.push((at + 10 * random.below(3 * LATE_STEPS), step.clone()));
                twice += 1;
            }
        }
        placed.push((at, step.clone()));
    }
    placed.sort_by_key(|(at, _)| *at);
    let mut told: Vec<Step> = placed.into_iter().map(|(_, step)| step).collect();
    let mut at = BEGIN_MS;
    for step in &mut told {
        at = at.max(step.at);
        step.at = at;
    }
    (told, late, twice)
}

struct Writer {
    random: Random,
    choices: Choices,
    people: u64,
    at: i64,
    sequence: u64,
    /// Events so far: what their ids are made of.
    made: u64,
    facts: Facts,
    version: Version,
    steps: Vec<Step>,
    kinds: BTreeMap<&'static str, u64>,
}

impl Writer {
    fn pass(&mut self) {
        let random = &mut self.random;
        self.at += match random.below(100) {
            0..45 => random.below(300) as i64,
            45..75 => random.below(20_000) as i64,
            75..88 => random.below(20 * 60_000) as i64,
            88..96 => random.below(10 * 3_600_000) as i64,
            _ => random.below(3 * DAY_MS as u64) as i64,
        };
    }

    fn happen(&mut self) {
        let roll = self.random.below(114);
        match roll {
            0..14 => self.join(),
            14..18 => self.hire_ahead(),
            18..28 => self.move_on(),
            28..31 => self.rename(),
            31..39 => self.change_mail(),
            39..44 => self.take_mail(),
            44..50 => self.leave(false),
            50..53 => self.leave_by_date(),
            53..55 => self.leave(true),
            55..58 => self.leave_all(),
            58..61 => self.flap(),
            61..65 => self.come_back(),
            65..67 => self.remove_worker(),
            67..82 => self.user(),
            82..84 => self.remove_user(),
            84..91 => self.badge(),
            91..98 => self.operate(),
            98..100 => self.switch(),
            100..103 => self.hand_on(),
            103..105 => self.tie(),
            107..110 => self.become_urgent(),
            110..113 => self.redrive_leavers(),
            113 => self.keep_disabled(),
            _ => self.blunder(),
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }

    fn push(&mut self, what: What) {
        if let What::Event(told) = &what {
            self.facts.take(told);
        }
        self.steps.push(Step { at: self.at, what });
    }

    fn event(&mut self, topic: &'static str, key: &str, mut fields: Map<String, Value>) {
        self.sequence += 1;
        self.made += 1;
        fields.insert("id".to_owned(), format!("e-{}", self.made).into());
        fields.insert("time".to_owned(), self.at.into());
        fields.insert("sequence".to_owned(), self.sequence.into());
        fields.entry("type").or_insert("upsert".into());
        self.push(What::Event(Told { topic, key: key.to_owned(), event: fields.into() }));
    }

    fn some_worker(&mut self) -> String {
        format!("W{}", self.random.below(self.people))
    }

    /// One that HR has, active or not.
    fn known_worker(&mut self) -> Option<String> {
        let known: Vec<String> =
            self.facts.workers.iter().filter(|(_, worker)| worker.present).map(|(id, _)| id.clone()).collect();
        (!known.is_empty()).then(|| self.random.pick(&known).clone())
    }

    fn active_workers(&self) -> Vec<String> {
        let active = |worker: &&String| self.facts.workers[*worker].text("status").as_deref() == Some("active");
        let present = self.facts.workers.iter().filter(|(_, worker)| worker.present).map(|(id, _)| id);
        present.filter(active).cloned().collect()
    }

    fn active_worker(&mut self) -> Option<String> {
        let active = self.active_workers();
        (!active.is_empty()).then(|| self.random.pick(&active).clone())
    }

    /// HR tells of a worker what it knows, with some of it changed. None takes a value away.
    fn hr(&mut self, worker: &str, changes: &[(&str, Option<&str>)]) {
        let known = self.facts.workers.get(worker).cloned().unwrap_or_default();
        self.hr_of(worker, known, changes);
    }

    /// As if this was all that it knew.
    fn hr_of(&mut self, worker: &str, known: Record, changes: &[(&str, Option<&str>)]) {
        let mut fields: Map<String, Value> = known.attributes.into_iter().collect();
        fields.insert("worker".to_owned(), worker.into());
        fields.remove("type");
        for (name, value) in changes {
            match value {
                Some(value) => drop(fields.insert((*name).to_owned(), (*value).into())),
                None => drop(fields.remove(*name)),
            }
        }
        self.event(HR_TOPIC, worker, fields);
    }

    fn join(&mut self) {
        let worker = self.some_worker();
        if self.facts.workers.get(&worker).is_some_and(|known| known.present) {
            return self.move_on();
        }
        self.count("joiner");
        let (department, name) = (*self.random.pick(&DEPARTMENTS), format!("{worker} the {}th", self.random.below(90)));
        let mail = format!("{}@x", worker.to_lowercase());
        let changes = [
            ("department", Some(department)),
            ("name", Some(name.as_str())),
            ("mail", Some(mail.as_str())),
            ("status", Some("active")),
            ("urgent", None),
            ("start", None),
            ("end", None),
        ];
        self.hr(&worker, &changes);
    }

    fn hire_ahead(&mut self) {
        let worker = self.some_worker();
        if self.facts.workers.get(&worker).is_some_and(|known| known.present) {
            return;
        }
        self.count("future hire");
        let start = date_of(self.at + DAY_MS * self.random.below(12) as i64);
        let mail = format!("{}@x", worker.to_lowercase());
        let department = *self.random.pick(&DEPARTMENTS);
        self.hr(
            &worker,
            &[
                ("department", Some(department)),
                ("name", Some("To Come")),
                ("mail", Some(&mail)),
                ("status", Some("active")),
                ("urgent", None),
                ("start", Some(&start)),
                ("end", None),
            ],
        );
    }

    fn move_on(&mut self) {
        let Some(worker) = self.active_worker() else { return };
        let department = match self.random.percent(6) {
            true => UNKNOWN_DEPARTMENT,
            false => *self.random.pick(&DEPARTMENTS),
        };
        self.count(if department == UNKNOWN_DEPARTMENT { "mover whom a rule fails for" } else { "mover" });
        self.hr(&worker, &[("department", Some(department))]);
    }

    fn rename(&mut self) {
        let Some(worker) = self.known_worker() else { return };
        self.count("change of name");
        let name = format!("{worker} the {}th", self.random.below(90));
        self.hr(&worker, &[("name", Some(&name))]);
    }

    /// A correlation value changes; users of the IdP follow, before or after, or not.
    fn change_mail(&mut self) {
        let Some(worker) = self.known_worker() else { return };
        self.count("change of a correlation value");
        let old = self.facts.workers[&worker].text("mail");
        let mail = self.new_mail(&worker);
        let follower = self.facts.users.iter().find(|(_, user)| user.present && user.text("mail") == old);
        let follower = follower.map(|(id, _)| id.clone()).filter(|_| self.random.percent(70));
        let first = self.random.percent(50);
        if let Some(user) = follower.clone().filter(|_| first) {
            self.idp(&user, &[("mail", Some(&mail))]);
        }
        self.hr(&worker, &[("mail", Some(&mail))]);
        if let Some(user) = follower.filter(|_| !first) {
            self.idp(&user, &[("mail", Some(&mail))]);
        }
    }

    fn new_mail(&mut self, worker: &str) -> String {
        let mail = format!("{}.{}@x", worker.to_lowercase(), self.random.below(3));
        if self.random.percent(20) { format!(" {}", mail.to_uppercase()) } else { mail }
    }

    /// Two workers with one mail: a dispute over whoever has it.
    fn take_mail(&mut self) {
        let (Some(worker), Some(other)) = (self.known_worker(), self.known_worker()) else { return };
        let Some(mail) = self.facts.workers[&other].text("mail") else { return };
        if worker == other {
            return;
        }
        self.count("dispute");
        self.hr(&worker, &[("mail", Some(&mail))]);
        if self.random.percent(60) {
            self.pass();
            let mail = self.new_mail(&other);
            self.count("relink");
            self.hr(&other, &[("mail", Some(&mail))]);
        }
    }

    fn leave(&mut self, urgent: bool) {
        let Some(worker) = self.active_worker() else { return };
        self.count(if urgent { "urgent leaver" } else { "leaver by event" });
        self.hr(&worker, &[("status", Some("left")), ("urgent", urgent.then_some("yes"))]);
    }

    fn leave_by_date(&mut self) {
        let Some(worker) = self.active_worker() else { return };
        self.count("leaver by date");
        let end = date_of(self.at + DAY_MS * self.random.below(8) as i64);
        self.hr(&worker, &[("end", Some(&end))]);
        if self.random.percent(25) {
            self.pass();
            self.count("end date taken back");
            self.hr(&worker, &[("end", None)]);
        }
    }

    /// Many at once: a re-organisation, or a broken export.
    fn leave_all(&mut self) {
        self.count("mass leave");
        let share = 50 + self.random.below(50);
        for worker in self.active_workers() {
            if self.random.percent(share) {
                self.hr(&worker, &[("status", Some("left"))]);
                self.at += self.random.below(500) as i64;
            }
        }
    }

    /// Somebody leaves, and then it turns out that it can't wait: the Guard may have held it, or may not have answered yet.
    fn become_urgent(&mut self) {
        let Some(worker) = self.active_worker() else { return };
        if self.random.percent(50) {
            self.leave_all();
        }
        self.count("leaver who becomes urgent");
        self.hr(&worker, &[("status", Some("left")), ("urgent", None)]);
        self.at += self.random.below(200) as i64;
        self.hr(&worker, &[("status", Some("left")), ("urgent", Some("yes"))]);
    }

    /// Dead letters are redriven while those whom they are about leave.
    fn redrive_leavers(&mut self) {
        self.leave_all();
        self.at += self.random.below(60_000) as i64;
        self.count("redrive while many leave");
        self.push(What::Operate(Operate::Redrive));
    }

    /// Many have left and are out; when their disabled accounts are to be deleted, somebody wants to keep them.
    fn keep_disabled(&mut self) {
        self.count("rejected deletions");
        self.leave_all();
        self.badge();
        self.at += 10 * 60_000;
        self.push(What::Operate(Operate::Release(None)));
        self.at += GRACE_MS;
        for _ in 0..2 {
            self.badge();
            self.at += 10 * 60_000;
            self.push(What::Operate(Operate::Reject(Some(TARGETS[0]))));
        }
    }

    /// Out, in, and sometimes out again within moments: the first was a mistake. Others leave in between.
    fn flap(&mut self) {
        let Some(worker) = self.active_worker() else { return };
        self.count("leaver taken back");
        for round in 0..1 + self.random.below(3) {
            self.hr(&worker, &[("status", Some("left"))]);
            self.at += self.random.below(200) as i64;
            if self.random.percent(40) {
                self.leave(false);
            }
            if round < 2 || self.random.percent(50) {
                self.hr(&worker, &[("status", Some("active"))]);
                self.at += self.random.below(200) as i64;
            }
        }
    }

    fn come_back(&mut self) {
        let left = |worker: &&String| self.facts.workers[*worker].text("status").as_deref() == Some("left");
        let gone: Vec<String> = self.facts.workers.keys().filter(left).cloned().collect();
        if gone.is_empty() {
            return;
        }
        self.count("rehire");
        let worker = self.random.pick(&gone).clone();
        self.hr(&worker, &[("status", Some("active")), ("urgent", None), ("end", None)]);
    }

    fn remove_worker(&mut self) {
        let Some(worker) = self.known_worker() else { return };
        self.count("removal of a worker");
        self.gone(&worker);
    }

    fn gone(&mut self, worker: &str) {
        let fields = json!({ "worker": worker, "type": "gone" });
        self.event(HR_TOPIC, worker, fields.as_object().cloned().expect("an object"));
    }

    /// As `hr`, of a user.
    fn idp(&mut self, user: &str, changes: &[(&str, Option<&str>)]) {
        let mut fields: Map<String, Value> = match self.facts.users.get(user) {
            Some(record) => record.attributes.clone().into_iter().collect(),
            None => Map::new(),
        };
        fields.insert("user".to_owned(), user.into());
        fields.remove("type");
        for (name, value) in changes {
            match value {
                Some(value) => drop(fields.insert((*name).to_owned(), (*value).into())),
                None => drop(fields.remove(*name)),
            }
        }
        self.event(IDP_TOPIC, user, fields);
    }

    /// A user is handed from one person to the next and on, before whoever holds a mail can have said so.
    fn hand_on(&mut self) {
        let present = self.facts.users.iter().filter(|(_, user)| user.present);
        let users: Vec<String> = present.map(|(id, _)| id.clone()).collect();
        if users.is_empty() {
            return;
        }
        self.count("user handed on and on");
        let user = self.random.pick(&users).clone();
        for _ in 0..2 + self.random.below(2) {
            let Some(worker) = self.known_worker() else { return };
            let mail = self.facts.workers[&worker].text("mail");
            self.idp(&user, &[("mail", mail.as_deref())]);
            self.at += self.random.below(50) as i64;
        }
    }

    /// Two changes of a worker that their source gives the same place in its order, neither of which knows of the other.
    fn tie(&mut self) {
        let Some(worker) = self.active_worker() else { return };
        self.count("tie of order");
        let known = self.facts.workers[&worker].clone();
        for _ in 0..2 {
            let (name, department) =
                (format!("{worker} the {}th", self.random.below(90)), *self.random.pick(&DEPARTMENTS));
            let end = date_of(self.at + DAY_MS * self.random.below(8) as i64);
            match self.random.below(6) {
                0 | 1 => self.hr_of(&worker, known.clone(), &[("name", Some(&name))]),
                2 => self.hr_of(&worker, known.clone(), &[("department", Some(department))]),
                3 => self.hr_of(&worker, known.clone(), &[("status", Some("left"))]),
                4 => self.hr_of(&worker, known.clone(), &[("end", Some(&end))]),
                _ => self.gone(&worker),
            }
            self.sequence -= 1;
        }
        self.sequence += 1;
    }

    /// Something comes by a source's topic that is none of its events.
    fn blunder(&mut self) {
        self.count("bad input");
        let (worker, topic) = (self.some_worker(), *self.random.pick(&[HR_TOPIC, IDP_TOPIC]));
        let record = if topic == HR_TOPIC { "worker" } else { "user" };
        self.sequence += 1;
        self.made += 1;
        let (id, sequence) = (format!("e-{}", self.made), self.sequence);
        let mut event = json!({
            "id": id, "time": self.at, "sequence": sequence, "type": "upsert", record: worker, "status": "left",
        });
        let value = match self.random.below(7) {
            0 => None,
            1 => Some(format!("{{\"id\": \"{id}\", \"worker\": ").into_bytes()),
            2 => Some([b"\xff\xfe".as_slice(), id.as_bytes()].concat()),
            3 => Some(json!([event]).to_string().into_bytes()),
            at => {
                let (field, wrong) = [("id", Value::Null), ("type", "promoted".into()), (record, json!([worker]))]
                    [at as usize - 4]
                    .clone();
                event[field] = wrong;
                Some(event.to_string().into_bytes())
            }
        };
        self.push(What::Bad(Bad { topic, key: worker, value }));
    }

    /// A user is made or changed: most people have one, some two, some users are nobody's yet.
    fn user(&mut self) {
        let worker = self.some_worker();
        let user = format!("u-{}{}", worker, if self.random.percent(20) { "b" } else { "" });
        self.count("change of a user");
        if self.facts.users.get(&user).is_none_or(|known| !known.present) {
            let mail = match self.facts.workers.get(&worker).and_then(|worker| worker.text("mail")) {
                Some(mail) if self.random.percent(80) => mail,
                _ => self.new_mail(&worker),
            };
            // Where records are routed by it, it is in every event of a user, and never changes.
            let named = (self.choices.routed || self.random.percent(15)).then_some(worker.as_str());
            self.idp(&user, &[("worker", named), ("mail", Some(&mail))]);
        }
        match self.random.below(4) {
            0 => {
                let mail = match self.known_worker() {
                    Some(other) if self.random.percent(60) => self.facts.workers[&other].text("mail"),
                    _ => Some(self.new_mail(&worker)),
                };
                self.count("user's correlation value changes");
                self.idp(&user, &[("mail", mail.as_deref())]);
            }
            1 => {
                let phone = format!("+{}", self.random.below(1_000));
                self.idp(&user, &[("phone", (phone != "+0").then_some(phone.as_str()))]);
            }
            _ => {
                self.count("group change");
                let teams: Vec<Value> = TEAMS.iter().filter(|_| self.random.percent(35)).map(|t| (*t).into()).collect();
                let mut fields: Map<String, Value> = self.facts.users[&user].attributes.clone().into_iter().collect();
                fields.remove("type");
                fields.insert("teams".to_owned(), teams.into());
                self.event(IDP_TOPIC, &user, fields);
            }
        }
    }

    fn remove_user(&mut self) {
        let present: Vec<String> =
            self.facts.users.iter().filter(|(_, user)| user.present).map(|(id, _)| id.clone()).collect();
        if present.is_empty() {
            return;
        }
        self.count("removal of a user");
        let user = self.random.pick(&present).clone();
        let mut fields = json!({ "user": user, "type": "gone" }).as_object().cloned().expect("an object");
        // A removal may say no more than the record's id: it goes by the record's route then.
        if self.choices.routed
            && self.random.percent(50)
            && let Some(worker) = self.facts.users[&user].text("worker")
        {
            fields.insert("worker".to_owned(), worker.into());
        }
        self.event(IDP_TOPIC, &user, fields);
    }

    /// A third source, which tells only what changed.
    fn badge(&mut self) {
        let worker = self.some_worker();
        let badge = format!("b-{worker}");
        self.count("partial update");
        let mut fields = Map::new();
        fields.insert("badge".to_owned(), badge.clone().into());
        if !self.facts.badges.contains_key(&badge) || self.random.percent(20) {
            fields.insert("worker".to_owned(), worker.into());
        }
        let name = *self.random.pick(&["desk", "floor"]);
        let value =
            if self.random.percent(20) { Value::Null } else { format!("{name}-{}", self.random.below(30)).into() };
        fields.insert(name.to_owned(), value);
        self.event(DESK_TOPIC, &badge, fields);
    }

    fn operate(&mut self) {
        let target = *self.random.pick(&TARGETS);
        let worker = self.some_worker();
        let (kind, operate) = match self.random.below(13) {
            0..3 => ("release", Operate::Release(None)),
            3 => ("release", Operate::Release(Some(target))),
            4 => ("reject", Operate::Reject(Some(target))),
            5 => ("reject", Operate::Reject(None)),
            6..8 => ("release of one", Operate::ReleaseOne(target, worker)),
            8 => ("reject of one", Operate::RejectOne(target, worker)),
            9..11 => ("redrive", Operate::Redrive),
            11 => ("drop of a dead letter", Operate::Drop),
            _ => ("retry of what is set aside", Operate::Retry),
        };
        self.count(kind);
        self.push(What::Operate(operate));
    }

    fn switch(&mut self) {
        self.count("switch of rules");
        self.version = if self.version == Version::First { Version::Second } else { Version::First };
        self.push(What::Switch(self.version));
    }

    /// In the end no correlation value is in dispute, so that it is certain who has what: path doesn't matter any more.
    fn tidy(&mut self) {
        let disputed = |facts: &Facts| {
            let records = facts.users.values().chain(facts.badges.values()).filter(|record| record.present);
            records.into_iter().find_map(|record| match facts.holder(record) {
                Holder::Disputed(holders) => Some(holders),
                _ => None,
            })
        };
        while let Some(holders) = disputed(&self.facts) {
            self.pass();
            let worker = holders.into_iter().find(|id| self.facts.workers[id].present);
            match worker {
                Some(worker) => {
                    let mail = format!("{}.{}@own", worker.to_lowercase(), self.sequence);
                    self.hr(&worker, &[("mail", Some(&mail))]);
                }
                // All of them are gone: the users who ask go, too.
                None => {
                    let facts = self.facts.clone();
                    for (user, _) in facts
                        .users
                        .iter()
                        .filter(|(_, user)| user.present && matches!(facts.holder(user), Holder::Disputed(_)))
                    {
                        self.idp(user, &[("mail", None)]);
                    }
                }
            }
        }
    }
}
