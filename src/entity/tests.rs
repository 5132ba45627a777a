//! The entities as sentences: given these events, these commands, decisions and alerts.
//!
//! `Town` keeps the rows of all entities in a map and delivers what they send one another in order, as one partition would.

mod bounds;
mod disputes;
mod guard;
mod leaver;
mod overdue;
mod removal;
mod returns;

use super::*;
use crate::model::{
    AccountId, Action, AlertKind, AlertState, Attributes, Body, Cause, Command, DecisionKind, IdentityId, Intent,
    Message, Op, Operation, Origin, Outcome, PermitAnswer, RecordChange, ResultEvent, RoutingKey, SourceEvent,
    TargetName, Timestamp, Value,
};
use crate::rules::{Phase, SourceFile};
use smol_str::SmolStr;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

mod ties;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-03-02T09:00:00Z, a Monday.
const MONDAY: i64 = 1_772_442_000_000;

fn bundle(guard: u32, route_by: bool) -> Bundle {
    bundle_with(guard, route_by, "action: disable, delete_after: 30d")
}

/// `leaver` is what the directory does with one.
fn bundle_with(guard: u32, route_by: bool, leaver: &str) -> Bundle {
    let files = files(guard, route_by, leaver);
    let files: Vec<SourceFile> =
        files.into_iter().map(|(path, text)| SourceFile { path: path.to_owned(), text }).collect();
    Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn files(guard: u32, route_by: bool, leaver: &str) -> [(&'static str, String); 6] {
    let route = if route_by { "route_by: number\n" } else { "" };
    [
        (
            "sources/hr.yaml",
            format!(
                "source: hr\ntopic: hr\ntenant: acme\nformat: json\nevent: {{ id: id }}\nrecord: {{ id: id }}\n{route}attributes: {{ number: number, name: name, department: department, status: status, start: {{ path: start, type: date }}, end: {{ path: end, type: date }}, reason: reason }}\n"
            ),
        ),
        (
            "sources/idp.yaml",
            format!(
                "source: idp\ntopic: idp\ntenant: acme\nformat: json\nevent: {{ id: id }}\nrecord: {{ id: id }}\n{route}attributes: {{ number: number, phone: phone }}\n"
            ),
        ),
        (
            "identity.yaml",
            format!(
                "kinds:\n  person:\n    anchor: hr\n    correlate: [number]\n    attributes: {{ number: [hr.number], name: [hr.name], department: [hr.department], status: [hr.status], start: [hr.start], end: [hr.end], reason: [hr.reason], phone: [idp.phone] }}\n    lifecycle: {{ active: \"status == 'active'\", start: start, end: end, urgent: \"reason == 'security'\" }}\nguard: {{ limit: {guard}, window: 1h }}\n"
            ),
        ),
        (
            "entitlements.yaml",
            "grants:\n  - name: engineers\n    when: \"department == 'Engineering'\"\n    to: { directory: [eng] }\n"
                .to_owned(),
        ),
        (
            "targets/directory.yaml",
            target("directory", "", "name: \"name + '!'\", phone: phone", &format!("leaver: {{ {leaver} }}")),
        ),
        ("targets/wiki.yaml", target("wiki", "when: \"department != 'Legal'\", ", "department: department", "")),
    ]
}

fn target(name: &str, when: &str, attributes: &str, leaver: &str) -> String {
    format!(
        "target: {name}\nconnector: {{ sql: {{ url: \"sqlite:x\", accounts: {{ table: a, key: id, owner: o, columns: {{ userName: u, name: n, phone: p, department: d }}, active: {{ column: active, true: 1, false: 0 }} }}, groups: {{ table: g, account: a, group: g }} }} }}\naccount: {{ {when}match: userName, attributes: {{ userName: \"'u' + number\", {attributes} }} }}\n{leaver}\n"
    )
}

struct Town {
    bundle: Bundle,
    now: Timestamp,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    timers: BTreeMap<(Address, String), Timestamp>,
    commands: Vec<Command>,
    decisions: Vec<(Option<String>, DecisionKind)>,
    alerts: Vec<(AlertKind, AlertState)>,
    /// What they say.
    said: Vec<String>,
    events: u64,
    /// How far ahead the clocks of sources and workers are, in ms.
    ahead: i64,
    /// Where the next event stands in its partition.
    offset: i64,
    /// Continue messages that were handled.
    continued: usize,
    /// Who is fired before the next of them.
    fired_between: Option<String>,
    /// What the Guard and Routes have not come to: their partitions are away.
    waiting_elsewhere: Option<Vec<Message>>,
}

struct TownRows<'a>(&'a BTreeMap<Vec<u8>, Vec<u8>>, Vec<u8>);

impl Rows for TownRows<'_> {
    fn get(&self, row: &str) -> Option<Cow<'_, [u8]>> {
        self.0.get(&[self.1.as_slice(), row.as_bytes()].concat()).map(|value| value.as_slice().into())
    }

    fn scan_after(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(SmolStr, Cow<'_, [u8]>)> {
        let prefix = [self.1.as_slice(), prefix.as_bytes()].concat();
        let rows = self.0.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let rows = rows.map(|(key, value)| (std::str::from_utf8(&key[self.1.len()..]).unwrap(), value));
        let rows = rows.filter(|(name, _)| after.is_none_or(|after| *name > after));
        rows.take(limit).map(|(name, value)| (name.into(), value.as_slice().into())).collect()
    }
}

impl Town {
    fn new() -> Self {
        Self::with(bundle(100, false))
    }

    fn with(bundle: Bundle) -> Self {
        Self {
            bundle,
            now: Timestamp(MONDAY),
            rows: BTreeMap::new(),
            timers: BTreeMap::new(),
            commands: Vec::new(),
            decisions: Vec::new(),
            alerts: Vec::new(),
            said: Vec::new(),
            events: 0,
            ahead: 0,
            offset: 0,
            continued: 0,
            fired_between: None,
            waiting_elsewhere: None,
        }
    }

    fn deliver(&mut self, message: Message) {
        let mut queue = VecDeque::from([message]);
        while let Some(Message { to, body, cause }) = queue.pop_front() {
            if matches!(body, Body::Continue { .. }) {
                self.continued += 1;
                if let Some(number) = self.fired_between.take() {
                    self.fire(&number);
                }
            }
            if let (EntityKey::Guard { .. } | EntityKey::Route { .. }, Some(waiting)) =
                (&to.entity, &mut self.waiting_elsewhere)
            {
                waiting.push(Message { to, body, cause });
                continue;
            }
            let stamped = Stamped { now: self.now, body, cause: cause.clone() };
            let transition = step(&to, &TownRows(&self.rows, key::entity(&to.entity)), &self.bundle, stamped).unwrap();
            for (row, value) in transition.writes {
                match value {
                    Some(value) => self.rows.insert(key::row(&to.entity, &row), value),
                    None => self.rows.remove(&key::row(&to.entity, &row)),
                };
            }
            for effect in transition.effects {
                match effect {
                    Effect::Send { to, body } => queue.push_back(Message { to, body, cause: cause.clone() }),
                    Effect::SetTimer { name, due } => {
                        self.timers.insert((to.clone(), name.to_string()), due);
                    }
                    Effect::ClearTimer { name } => {
                        self.timers.remove(&(to.clone(), name.to_string()));
                    }
                    Effect::Emit(Emission::Command(command)) => self.commands.push(*command),
                    Effect::Emit(Emission::Decision(decision)) => {
                        self.decisions.push((decision.target.map(|target| target.to_string()), decision.kind));
                    }
                    Effect::Emit(Emission::Alert(alert)) => {
                        self.alerts.push((alert.kind, alert.state));
                        self.said.push(alert.message);
                    }
                    Effect::Emit(Emission::DeadLetterClosed { .. }) => {}
                }
            }
        }
    }

    /// An event of a source, at the town's time; the fields are `name=value`, and a number sets its order.
    fn tell(&mut self, source: &str, record: &str, fields: &str) {
        self.events += 1;
        let id = format!("e{}", self.events);
        self.tell_as(source, record, &id, None, fields);
    }

    /// A removal that holds no more than the record's id, as intake addresses it.
    fn remove_by_route(&mut self, source: &str, record: &str, order: Option<i64>) {
        let to = Address::route("acme".into(), source.into(), record.into());
        let event = self.removal(source, record, order);
        let cause = Cause::from(&event);
        self.deliver(Message { to, body: Body::Source(event.into()), cause });
    }

    fn removal(&self, source: &str, record: &str, order: Option<i64>) -> SourceEvent {
        let to = Address::route("acme".into(), source.into(), record.into());
        SourceEvent {
            tenant: "acme".into(),
            source: source.into(),
            record: record.into(),
            routing_key: to.routing_key,
            id: "removal".into(),
            order,
            time: self.now,
            change: RecordChange::Remove,
            origin: Origin { topic: source.to_owned(), partition: 0, offset: self.offset },
            traceparent: None,
        }
    }

    fn tell_as(&mut self, source: &str, record: &str, id: &str, order: Option<i64>, fields: &str) {
        let attributes: Vec<(String, Value)> = fields
            .split(' ')
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name.to_owned(), Value::text(value)))
            .collect();
        let change = match fields {
            "gone" => RecordChange::Remove,
            _ => RecordChange::Replace(attributes.iter().cloned().collect()),
        };
        let by_number = self.bundle.source(&source.into()).unwrap().route_by.is_some();
        let number = attributes.iter().find(|(name, _)| name == "number").and_then(|(_, value)| value.as_text());
        let route = if by_number { number.unwrap_or(record) } else { record };
        let event = SourceEvent {
            tenant: "acme".into(),
            source: source.into(),
            record: record.into(),
            routing_key: RoutingKey::of(&"acme".into(), route),
            id: id.into(),
            order,
            time: Timestamp(self.now.0 + self.ahead),
            change,
            origin: Origin { topic: source.to_owned(), partition: 0, offset: self.offset },
            traceparent: None,
        };
        let to = Address::record(
            event.routing_key.clone(),
            event.tenant.clone(),
            event.source.clone(),
            event.record.clone(),
        );
        let cause = Cause::from(&event);
        self.deliver(Message { to, body: Body::Source(event.into()), cause });
    }

    fn hire(&mut self, number: &str, department: &str) {
        self.tell(
            "hr",
            &format!("w{number}"),
            &format!("number={number} name=Augusta department={department} status=active"),
        );
    }

    fn fire(&mut self, number: &str) {
        self.tell(
            "hr",
            &format!("w{number}"),
            &format!("number={number} name=Augusta department=Engineering status=left"),
        );
    }

    /// Moves the time, firing what is due on the way in order.
    fn pass(&mut self, milliseconds: i64) {
        let until = Timestamp(self.now.0 + milliseconds);
        while let Some((at, due)) = self
            .timers
            .iter()
            .filter(|(_, due)| **due <= until)
            .min_by_key(|(at, due)| (**due, (*at).clone()))
            .map(|(at, due)| (at.clone(), *due))
        {
            self.timers.remove(&at);
            self.now = self.now.max(due);
            let cause = Cause::own(format!("timer:{}", at.1), due);
            self.deliver(Message { to: at.0, body: Body::Timer { name: at.1, due }, cause });
        }
        self.now = until;
    }

    fn result(&mut self, command: &Command, outcome: Outcome) {
        let result = ResultEvent {
            tenant: command.tenant.clone(),
            target: command.target.clone(),
            account: command.account.clone(),
            identity: command.identity.clone(),
            routing_key: command.routing_key.clone(),
            generation: command.generation,
            op: command.op,
            outcome,
            external_id: (command.op != Op::Delete).then(|| format!("x-{}", command.account)),
            error: None,
            message: None,
            attempt: 1,
            retry_at: None,
            at: Timestamp(self.now.0 + self.ahead),
            source_time: command.cause.time,
            effective: None,
            traceparent: None,
        };
        let to = Address::identity(command.routing_key.clone(), command.tenant.clone(), command.identity.clone());
        let cause = Cause::own("result".to_owned(), command.cause.time);
        self.deliver(Message { to, body: Body::Result(result.into()), cause });
    }

    /// Guard and Routes come back, and to what has waited for them.
    fn others_return(&mut self) {
        self.waiting_elsewhere.take().into_iter().flatten().for_each(|message| self.deliver(message));
    }

    /// As the sweep after a change of rules.
    fn reevaluate(&mut self, number: &str) {
        let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &format!("w{number}").as_str().into());
        let to = Address::identity(RoutingKey::of(&"acme".into(), &format!("w{number}")), "acme".into(), identity);
        let cause = Cause::own("bundle".to_owned(), self.now);
        self.deliver(Message { to, body: Body::Reevaluate, cause });
    }

    fn verify_all(&mut self) {
        for command in self.commands.clone() {
            self.result(&command, Outcome::Verified);
        }
    }

    fn operate(&mut self, to: Address, action: Action) {
        self.events += 1;
        let id = format!("op{}", self.events);
        self.operate_as(to, &id, self.now, action);
    }

    fn operate_as(&mut self, to: Address, id: &str, at: Timestamp, action: Action) {
        let operation = Operation { id: id.to_owned(), tenant: "acme".into(), actor: "cli".to_owned(), at, action };
        let cause = Cause::own(format!("operation:{id}"), at);
        self.deliver(Message { to, body: Body::Operation(operation.into()), cause });
    }

    /// Commands since the last look: `create directory 1`.
    fn commanded(&mut self) -> Vec<String> {
        let commands = std::mem::take(&mut self.commands);
        commands.iter().map(|command| format!("{} {} {}", command.op, command.target, command.generation)).collect()
    }

    fn decided(&self, kind: &DecisionKind) -> usize {
        self.decisions.iter().filter(|(_, decided)| decided == kind).count()
    }

    fn account(&self, number: &str, target: &str) -> AccountRow {
        let tenant = "acme".into();
        let identity = IdentityId::of_anchor(&tenant, &"hr".into(), &format!("w{number}").as_str().into());
        let of = EntityKey::Identity { tenant, identity };
        let row = self.rows.get(&key::row(&of, &AccountRow::row(&target.into()))).expect("the account has a row");
        crate::model::envelope::open(row).unwrap()
    }
}

#[test]
fn a_joiner_gets_an_account_at_each_target_and_a_mover_its_changes() {
    let mut town = Town::new();
    town.hire("1", "Engineering");
    assert_eq!(town.commands[0].desired.entitlements.groups, ["eng".to_owned()].into());
    assert_eq!(town.commanded(), ["create directory 1", "create wiki 1"]);
    town.hire("1", "Sales");
    assert_eq!(town.commands[0].revoked, ["eng".to_owned()].into(), "the old group goes");
    assert_eq!(town.commanded(), ["update directory 2", "update wiki 2"]);
    town.hire("1", "Sales");
    assert_eq!(town.commanded(), [""; 0], "the same again changes nothing");
}

#[test]
fn a_leaver_is_disabled_and_the_clock_stops_with_the_verified_result() {
    let mut town = Town::new();
    town.hire("1", "Engineering");
    town.verify_all();
    town.commanded();
    town.pass(HOUR);
    let left = town.now;
    town.fire("1");
    let clock = town.account("1", "directory").clock.unwrap();
    assert_eq!((clock.effective, clock.deadline), (left, Timestamp(left.0 + 900_000)));
    let disable = town.commands[0].clone();
    assert!(!disable.desired.active);
    assert_eq!(
        disable.desired.attributes.get("userName"),
        Some(&Value::text("u1")),
        "a disable still says whose account"
    );
    assert_eq!(disable.external_id.as_deref(), Some(format!("x-{}", disable.account).as_str()));
    assert_eq!(town.commanded(), ["disable directory 2", "disable wiki 2"]);
    town.pass(1_000);
    town.result(&disable, Outcome::Verified);
    assert_eq!(town.account("1", "directory").clock, None);
    assert!(town.account("1", "wiki").clock.is_some(), "each target has its own clock");
    let verified = DecisionKind::DeprovisionVerified { effective: left, verified: town.now };
    assert_eq!(town.decided(&verified), 1);
}

#[test]
fn an_account_is_deleted_after_its_grace_unless_the_person_comes_back() {
    let mut town = Town::new();
    for number in ["1", "2"] {
        town.hire(number, "Engineering");
        town.fire(number);
    }
    town.verify_all();
    town.commanded();
    town.pass(10 * DAY);
    town.hire("2", "Engineering");
    assert_eq!(town.commanded(), ["enable directory 3", "enable wiki 3"]);
    town.pass(21 * DAY);
    assert_eq!(town.commanded(), ["delete directory 3"], "the first one's; at the wiki nothing is deleted");
    town.hire("1", "Engineering");
    assert_eq!(town.commanded(), ["create directory 4", "enable wiki 3"], "generations go on");
}

#[test]
fn a_future_hire_gets_nothing_before_the_day_and_an_end_date_takes_effect_by_itself() {
    let mut town = Town::new();
    let fields = "number=1 name=Augusta department=Sales status=active start=2026-03-05 end=2026-03-10";
    town.tell("hr", "w1", fields);
    assert_eq!(town.commanded(), [""; 0]);
    town.pass(2 * DAY);
    assert_eq!(town.commanded(), [""; 0]);
    town.pass(DAY);
    assert_eq!(town.commanded(), ["create directory 1", "create wiki 1"]);
    town.pass(5 * DAY);
    assert_eq!(town.commanded(), [""; 0], "the last day is included");
    town.pass(DAY);
    let disable = town.commands[0].deprovision.unwrap();
    assert_eq!(disable.effective.to_string(), "2026-03-11T00:00:00.000Z", "the clock runs from the end date");
    assert_eq!(town.commanded(), ["disable directory 2", "disable wiki 2"]);
}

#[test]
fn out_of_scope_is_out_of_that_target_only() {
    let mut town = Town::new();
    town.hire("1", "Engineering");
    town.hire("1", "Legal");
    assert_eq!(town.commanded(), ["create directory 1", "create wiki 1", "update directory 2", "disable wiki 2"]);
}

#[test]
fn redelivered_and_late_events_change_nothing() {
    let mut town = Town::new();
    let person = |status: &str| format!("number=1 name=Augusta department=Sales status={status}");
    town.tell_as("hr", "w1", "a", Some(1), &person("active"));
    town.tell_as("hr", "w1", "c", Some(3), &person("left"));
    town.commanded();
    town.tell_as("hr", "w1", "b", Some(2), &person("active"));
    town.tell_as("hr", "w1", "a", Some(1), &person("active"));
    town.tell_as("hr", "w1", "c", Some(9), &person("active"));
    assert_eq!(town.commanded(), [""; 0], "late, redelivered, and the id of an event that was there");
}

#[test]
fn the_idp_record_links_whichever_comes_first() {
    for hr_first in [true, false] {
        let mut town = Town::new();
        let mut tell = |hr: bool| match hr {
            true => town.hire("1", "Sales"),
            false => town.tell("idp", "u1", "number=1 phone=+49"),
        };
        tell(hr_first);
        tell(!hr_first);
        let phone = town.account("1", "directory").desired.unwrap().attributes.get("phone").cloned();
        assert_eq!(phone, Some(Value::text("+49")), "hr first: {hr_first}");
    }
}

#[test]
fn values_that_say_nothing_link_nobody() {
    let mut town = Town::new();
    for (record, number) in [("w1", "n/a"), ("w2", "n/a")] {
        town.tell("hr", record, &format!("number={number} name=Augusta department=Sales status=active"));
    }
    town.tell("idp", "u1", "number=N/A phone=+49");
    assert!(!town.rows.keys().any(|key| matches!(key::parse(key), Some((EntityKey::Index { .. }, _)))));
}

#[test]
fn a_value_that_two_hold_is_a_dispute_and_links_nobody_anew() {
    let mut town = Town::new();
    town.hire("1", "Sales");
    town.tell("idp", "u1", "number=1 phone=+49");
    town.commanded();
    town.tell("hr", "w9", "number=1 name=Double department=Sales status=active");
    town.tell("idp", "u2", "number=1 phone=+50");
    let phone =
        |town: &Town, number: &str| town.account(number, "directory").desired.unwrap().attributes.get("phone").cloned();
    assert_eq!(phone(&town, "1"), Some(Value::text("+49")), "who had it keeps it");
    assert_eq!(phone(&town, "9"), Some(Value::Null), "nothing, and to be emptied");
    assert_eq!(
        town.alerts.iter().filter(|alert| **alert == (AlertKind::RecordDisputed, AlertState::Raised)).count(),
        2
    );
    town.tell("hr", "w9", "number=9 name=Double department=Sales status=active");
    assert_eq!(
        town.alerts.iter().filter(|alert| **alert == (AlertKind::RecordDisputed, AlertState::Resolved)).count(),
        2
    );
}

#[test]
fn a_record_that_is_gone_ends_access_and_an_idp_record_that_is_gone_does_not() {
    let mut town = Town::new();
    town.hire("1", "Sales");
    town.tell("idp", "u1", "number=1 phone=+49");
    town.commanded();
    town.tell("idp", "u1", "gone");
    assert_eq!(town.commanded(), ["update directory 3"]);
    town.tell("hr", "w1", "gone");
    assert_eq!(town.commanded(), ["disable directory 4", "disable wiki 2"]);
}

#[test]
fn over_the_limit_the_guard_holds_and_the_clock_runs_on() {
    let mut town = Town::with(bundle(2, false));
    for number in ["1", "2", "3", "4"] {
        town.hire(number, "Engineering");
    }
    town.commanded();
    for number in ["1", "2", "3", "4"] {
        town.fire(number);
    }
    assert_eq!(town.commanded().len(), 4, "two people at two targets");
    let held = town.account("3", "directory");
    assert!(matches!(held.removal, Removal::Held { .. }) && held.clock.is_some());
    town.tell("idp", "u3", "number=3 phone=+49");
    assert_eq!(town.commanded(), [""; 0], "a held account is frozen");
    town.pass(HOUR);
    let overdue =
        town.alerts.iter().filter(|alert| **alert == (AlertKind::DeprovisionOverdue, AlertState::Raised)).count();
    assert_eq!(overdue, 8);

    let guard = Address::guard("acme".into());
    town.operate(guard.clone(), Action::GuardRelease { target: Some("wiki".into()), account: None });
    assert_eq!(town.commanded(), ["disable wiki 2", "disable wiki 2"]);
    let account = town.account("3", "directory").account;
    town.operate(guard.clone(), Action::GuardReject { target: None, account: Some(account) });
    assert_eq!(town.commanded(), [""; 0]);
    assert_eq!(town.account("3", "directory").removal, Removal::Rejected { left: true });
    assert_eq!(town.account("3", "directory").clock, None);
    town.operate(guard, Action::GuardRelease { target: None, account: None });
    assert_eq!(town.commanded(), ["disable directory 2"]);
    assert_eq!(town.alerts.last(), Some(&(AlertKind::GuardHolding, AlertState::Resolved)));
}

#[test]
fn the_window_slides() {
    let mut town = Town::with(bundle(1, false));
    for number in ["1", "2", "3"] {
        town.hire(number, "Legal");
    }
    town.commanded();
    town.fire("1");
    town.pass(50 * 60_000);
    town.fire("2");
    assert_eq!(town.commanded(), ["disable directory 2"]);
    town.pass(12 * 60_000);
    town.fire("3");
    assert_eq!(town.commanded(), ["disable directory 2"], "an hour after the first there is room again");
}

#[test]
fn somebody_who_comes_back_while_held_is_withdrawn() {
    let mut town = Town::with(bundle(0, false));
    town.hire("1", "Legal");
    town.fire("1");
    town.hire("1", "Legal");
    town.commanded();
    let guard = Address::guard("acme".into());
    town.operate(guard, Action::GuardRelease { target: None, account: None });
    assert_eq!(town.commanded(), [""; 0]);
    assert_eq!(town.account("1", "directory").removal, Removal::None);
    assert_eq!(town.decided(&DecisionKind::DeprovisionCancelled), 1);
}

#[test]
fn an_urgent_leaver_passes_a_closed_guard_even_when_already_held() {
    let mut town = Town::with(bundle(0, false));
    town.hire("1", "Legal");
    town.commanded();
    town.fire("1");
    assert_eq!(town.commanded(), [""; 0]);
    town.tell("hr", "w1", "number=1 name=Augusta department=Legal status=left reason=security");
    assert_eq!(town.commanded(), ["disable directory 2"]);
    assert_eq!(town.decided(&DecisionKind::Urgent), 1);
}

#[test]
fn an_answer_to_an_older_request_is_not_used() {
    let mut town = Town::with(bundle(0, false));
    town.hire("1", "Legal");
    town.fire("1");
    town.hire("1", "Legal");
    town.fire("1");
    town.commanded();
    let row = town.account("1", "directory");
    let Removal::Held { epoch, .. } = row.removal else { panic!("{row:?}") };
    let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &"w1".into());
    let to = Address::identity(RoutingKey::of(&"acme".into(), "w1"), "acme".into(), identity);
    for (epoch, commands) in [(epoch - 1, 0), (epoch, 1)] {
        let body = Body::Permit { target: "directory".into(), epoch, answer: PermitAnswer::Granted };
        town.deliver(Message { to: to.clone(), body, cause: Cause::own("test".to_owned(), town.now) });
        assert_eq!(town.commanded().len(), commands, "epoch {epoch}");
    }
}

#[test]
fn a_rule_that_fails_blocks_one_target_and_no_leaver() {
    let mut town = Town::new();
    town.tell("hr", "w1", "number=1 name=Augusta department=Sales status=active");
    town.commanded();
    town.tell("hr", "w1", "number=1 department=Support status=active");
    assert_eq!(town.commanded(), ["update wiki 2"], "the directory's rule needs a name");
    assert_eq!(town.alerts, [(AlertKind::RuleFailed, AlertState::Raised)]);
    town.tell("hr", "w1", "number=1 department=Support status=left");
    assert_eq!(town.commanded(), ["disable directory 2", "disable wiki 3"]);
}

#[test]
fn a_dead_letter_is_redriven_from_the_current_state() {
    let mut town = Town::new();
    town.hire("1", "Legal");
    let create = town.commands[0].clone();
    town.result(&create, Outcome::DeadLettered);
    assert!(town.account("1", "directory").dead);
    let to = Address::identity(create.routing_key.clone(), create.tenant.clone(), create.identity.clone());
    let action = Action::Redrive {
        target: create.target.clone(),
        account: create.account.clone(),
        identity: create.identity.clone(),
        routing_key: create.routing_key.clone(),
    };
    town.commanded();
    town.operate(to, action);
    assert_eq!(town.commands[0].op, Op::Create, "it never was there");
    town.verify_all();
    assert_eq!(
        town.alerts,
        [(AlertKind::DeadLetter, AlertState::Raised), (AlertKind::DeadLetter, AlertState::Resolved)]
    );
}

#[test]
fn a_deprovision_that_the_target_undoes_starts_its_clock_again() {
    let mut town = Town::new();
    town.hire("1", "Legal");
    town.fire("1");
    let disable = town.commands[1].clone();
    town.result(&disable, Outcome::Verified);
    town.pass(HOUR);
    town.result(&disable, Outcome::Drifted);
    assert_eq!(town.account("1", "directory").clock.unwrap().effective, town.now);
    town.result(&disable, Outcome::Verified);
    assert_eq!(town.account("1", "directory").clock, None);
    assert_eq!(town.alerts, [(AlertKind::Drift, AlertState::Raised), (AlertKind::Drift, AlertState::Resolved)]);
}

#[test]
fn a_result_of_a_generation_that_was_never_issued_is_not_believed() {
    let mut town = Town::new();
    town.hire("1", "Legal");
    let mut forged = town.commands[0].clone();
    forged.generation = crate::model::Generation(7);
    let before = town.account("1", "directory");
    town.result(&forged, Outcome::Verified);
    assert_eq!(town.account("1", "directory"), before);
}

#[test]
fn account_ids_are_the_same_in_every_run() {
    let mut town = Town::new();
    town.hire("1", "Legal");
    let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &"w1".into());
    let account = AccountId::of(&"acme".into(), &TargetName::from("directory"), &identity, &Intent::default_intent());
    assert_eq!(town.commands[0].account, account);
    assert_eq!(town.commands[0].idempotency_key(), format!("{account}@1"));
}
