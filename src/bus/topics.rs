//! Lockstep's topics as they must be: what each is for, what its correctness needs, and what stands against it.
//!
//! Nothing here knows which bus it is: a plan is made from what `Bus::describe` says. Three kinds of difference are kept apart.
//! What endangers correctness and can't be mended without losing something (partitions, compaction that was missing,
//! replication) is refused, with the reason and the remedy. What is ours to set and safe to set is altered. What operators may
//! have chosen (retention, segments) is only warned of. Topics of the users' own are never touched.

use super::{Bus, BusError, TopicFound, TopicSpec, TopicState};
use crate::config::{BusRules, Config};
use crate::model::TargetName;
use crate::model::topic::TopicNames;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How long a changelog keeps a tombstone: a local store that was last current longer ago than half of it is rebuilt, as it
/// may have missed one (DESIGN, 'Exactly once on Kafka', 5).
pub const TOMBSTONES_KEPT_MS: u64 = 24 * HOUR_MS;
/// What is not processed within this time is lost, so it is longer than any outage, holidays included.
const UNPROCESSED_KEPT_MS: u64 = 30 * DAY_MS;
/// What `message.timestamp.type` is where the broker stamps a record as it takes it, whatever its sender says.
const BROKERS_TIME: &str = "LogAppendTime";
/// For people and audit exports.
const HISTORY_KEPT_MS: u64 = 90 * DAY_MS;
/// A changelog is compacted once a fifth of it is old: restore reads little, and the cleaner is not always at work.
const DIRTY_RATIO: &str = "0.2";
/// The active segment is never compacted, so it is closed after this long or this much.
const CHANGELOG_SEGMENT_MS: u64 = 6 * HOUR_MS;
const CHANGELOG_SEGMENT_BYTES: u64 = 128 << 20;
/// Rule bundles and dead letters are few and large; each has to fit with room for its envelope.
const LARGE_RECORD_BYTES: u64 = 8 << 20;
/// An envelope around a source event: ids, cause, base64 where the bytes are kept as they came.
const ENVELOPE_BYTES: u64 = 64 << 10;
/// Kafka's own default, which no topic goes below.
const LEAST_RECORD_BYTES: u64 = 1_048_588;

/// What an installation may choose.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    pub inbox_partitions: u32,
    /// Of every target's commands.
    pub command_partitions: u32,
    /// Of topics that are made; None: the broker's default.
    pub replicas: Option<u16>,
    /// The largest source event, in bytes.
    pub event_bytes: usize,
}

/// As in lockstep.yaml on Kafka.
impl Default for Wishes {
    fn default() -> Self {
        Self { inbox_partitions: 64, command_partitions: 6, replicas: None, event_bytes: 256 << 10 }
    }
}

/// The topics of one installation.
#[derive(Clone, Debug)]
pub struct Layout {
    pub names: TopicNames,
    pub targets: Vec<TargetName>,
    /// The users' own topics, which sources read.
    pub source_topics: Vec<String>,
    pub wishes: Wishes,
}

impl Layout {
    /// What a config asks for.
    pub fn of(config: &Config) -> Self {
        let installation = &config.installation;
        let source_topics: BTreeSet<String> =
            config.bundle.sources().iter().flat_map(|source| source.topics.iter().cloned()).collect();
        Self {
            names: installation.topics.clone(),
            targets: config.bundle.targets().iter().map(|target| target.name.clone()).collect(),
            source_topics: source_topics.into_iter().collect(),
            wishes: Wishes {
                inbox_partitions: installation.inbox_partitions,
                command_partitions: installation.command_partitions,
                replicas: match &installation.bus {
                    BusRules::Kafka(kafka) => kafka.replicas,
                    BusRules::Embedded => None,
                },
                event_bytes: installation.event_bytes,
            },
        }
    }

    pub fn specs(&self) -> Vec<TopicSpec> {
        specs(&self.names, &self.targets, &self.wishes)
    }

    /// The largest record that any of them takes: what a client has to be able to send.
    pub fn largest_record(&self) -> usize {
        let limits = self.specs().into_iter().filter_map(|s| s.settings.get("max.message.bytes")?.parse().ok());
        limits.max().unwrap_or(usize::MAX)
    }
}

/// Every topic of Lockstep's own.
pub fn specs(names: &TopicNames, targets: &[TargetName], wishes: &Wishes) -> Vec<TopicSpec> {
    let (inbox, commands) = (wishes.inbox_partitions, wishes.command_partitions);
    let event = u64::try_from(wishes.event_bytes).unwrap_or(u64::MAX);
    // Base64 of the original bytes (4/3), or a decoded record, and what is said about it.
    let holds_event = (event.saturating_mul(2).saturating_add(ENVELOPE_BYTES)).max(LEAST_RECORD_BYTES);
    let spec = |name: String, partitions: u32, settings: &[(&str, String)]| {
        let unclean = ("unclean.leader.election.enable", "false".to_owned());
        let settings = settings.iter().chain([&unclean]).map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        TopicSpec { name, partitions, replicas: wishes.replicas, settings }
    };
    let mut specs = vec![
        // Work that waits: deleted by age alone, and late.
        spec(names.inbox(), inbox, &log(UNPROCESSED_KEPT_MS, holds_event)),
        spec(names.state(), inbox, &changelog(holds_event)),
        spec(names.results(), commands, &log(UNPROCESSED_KEPT_MS, holds_event)),
        // One partition: what operators do is in one order for everyone.
        spec(names.operations(), 1, &log(HISTORY_KEPT_MS, holds_event)),
        spec(names.bundles(), 1, &changelog(LARGE_RECORD_BYTES)),
        spec(names.decisions(), commands, &log(HISTORY_KEPT_MS, holds_event)),
        spec(names.alerts(), 1, &log(HISTORY_KEPT_MS, holds_event)),
        spec(names.source_dead_letters(), 1, &log(HISTORY_KEPT_MS, holds_event)),
        // A record a polled source.
        spec(names.cursors(), 1, &changelog(LEAST_RECORD_BYTES)),
        // Nobody reads it: the broker's stamp comes back with the acknowledgement.
        spec(names.clock(), 1, &stamped()),
    ];
    for target in targets {
        // Never compacted: that the newest command is an update does not say that the account was ever made, nor which groups
        // the ones before it were to take away. Lanes coalesce what waits. A worker that is away for longer than this misses
        // commands; the deprovision's clock in the identity goes on and is alerted long before.
        specs.push(spec(names.commands(target), commands, &log(UNPROCESSED_KEPT_MS, holds_event)));
        specs.push(spec(names.lanes(target), commands, &changelog(holds_event)));
        // A dead letter stays until it is resolved, which is a tombstone.
        specs.push(spec(names.dead_letters(target), commands, &changelog(holds_event)));
    }
    specs
}

/// A source's topic as the embedded bus makes it, where no one else does. On Kafka it is the users' own.
pub fn source(name: &str, partitions: u32) -> TopicSpec {
    let settings = [
        ("cleanup.policy".to_owned(), "delete".to_owned()),
        ("retention.ms".to_owned(), UNPROCESSED_KEPT_MS.to_string()),
    ];
    TopicSpec { name: name.to_owned(), partitions, replicas: None, settings: settings.into() }
}

/// Makes every topic, the sources' too: on the embedded bus, where no one else does. One that is there takes as large a record as
/// it has to, for `limits.event_bytes` may have been raised since it was made.
pub fn make(bus: &dyn Bus, layout: &Layout) -> Result<(), BusError> {
    const SIZE: &str = "max.message.bytes";
    let event = u64::try_from(layout.wishes.event_bytes).unwrap_or(u64::MAX);
    let size = event.saturating_add(ENVELOPE_BYTES).max(LEAST_RECORD_BYTES).to_string();
    let mut specs = layout.specs();
    for name in &layout.source_topics {
        let mut spec = source(name, layout.wishes.command_partitions);
        spec.settings.insert(SIZE.to_owned(), size.clone());
        specs.push(spec);
    }
    bus.create(&specs)?;
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    for (spec, state) in specs.iter().zip(bus.describe(&names)?) {
        let Some(wanted) = spec.settings.get(SIZE) else { continue };
        let takes = state.found.is_some_and(|found| found.settings.get(SIZE).is_some_and(|is| at_least(is, wanted)));
        if !takes {
            bus.configure(&spec.name, &[(SIZE.to_owned(), wanted.clone())].into())?;
        }
    }
    Ok(())
}

fn log(kept_ms: u64, record_bytes: u64) -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "delete".into()),
        ("retention.ms", kept_ms.to_string()),
        ("retention.bytes", "-1".into()),
        ("max.message.bytes", record_bytes.to_string()),
    ]
}

fn stamped() -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "delete".into()),
        ("retention.ms", HOUR_MS.to_string()),
        ("message.timestamp.type", BROKERS_TIME.into()),
    ]
}

fn changelog(record_bytes: u64) -> Vec<(&'static str, String)> {
    vec![
        ("cleanup.policy", "compact".into()),
        ("delete.retention.ms", TOMBSTONES_KEPT_MS.to_string()),
        ("min.cleanable.dirty.ratio", DIRTY_RATIO.into()),
        ("segment.ms", CHANGELOG_SEGMENT_MS.to_string()),
        ("segment.bytes", CHANGELOG_SEGMENT_BYTES.to_string()),
        ("max.message.bytes", record_bytes.to_string()),
    ]
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub topic: String,
    pub what: String,
    pub why: String,
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}: {}: {}; {}", self.topic, self.what, self.why, self.remedy)
    }
}

/// One thing that operators may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub topic: String,
    pub what: String,
}

/// Settings that will be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alteration {
    pub topic: String,
    /// Setting, as it is, as it will be.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub setting: String,
    pub from: Option<String>,
    pub to: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub create: Vec<TopicSpec>,
    pub alter: Vec<Alteration>,
    pub refuse: Vec<Refusal>,
    pub warn: Vec<Warning>,
    /// Topics that are as they must be.
    pub unchanged: Vec<String>,
}

impl Plan {
    pub fn is_done(&self) -> bool {
        self.create.is_empty() && self.alter.is_empty() && self.refuse.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("{} of the topics can't be used as they are:\n{}", .0.len(), lines(.0))]
    Refused(Vec<Refusal>),
    #[error("topics are missing or not set as they must be ({}): run `lockstep topics apply`", .0.join(", "))]
    NotApplied(Vec<String>),
}

fn lines(refusals: &[Refusal]) -> String {
    refusals.iter().map(|r| format!("  {r}")).collect::<Vec<_>>().join("\n")
}

/// What `apply` would do, and what stands against it.
pub fn plan(bus: &dyn Bus, layout: &Layout) -> Result<Plan, BusError> {
    let (specs, source_topics) = (layout.specs(), &layout.source_topics);
    let names: Vec<String> = specs.iter().map(|s| s.name.clone()).collect();
    let states: BTreeMap<String, TopicState> =
        bus.describe(&names)?.into_iter().map(|state| (state.name.clone(), state)).collect();
    let found = |name: &str| states.get(name).and_then(|state| state.found.as_ref());
    let mut plan = Plan::default();
    for spec in &specs {
        match found(&spec.name) {
            None => plan.create.push(spec.clone()),
            Some(found) => plan.compare(spec, found),
        }
    }
    for name in source_topics {
        match bus.partitions(name) {
            Ok(Some(_)) => {}
            Ok(None) => plan.warn.push(Warning {
                topic: name.clone(),
                what: "a source reads it and it doesn't exist yet: it is yours to make".into(),
            }),
            // Who may not look at it doesn't read it, as a worker; who does is told when it joins.
            Err(BusError::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(plan)
}

/// Carries a plan out. One with refusals is not begun.
pub fn apply(bus: &dyn Bus, plan: &Plan) -> Result<(), TopicsError> {
    if !plan.refuse.is_empty() {
        return Err(TopicsError::Refused(plan.refuse.clone()));
    }
    bus.create(&plan.create)?;
    keep_written_twice(bus, &plan.create)?;
    for alteration in &plan.alter {
        let settings = alteration.changes.iter().map(|c| (c.setting.clone(), c.to.clone())).collect();
        bus.configure(&alteration.topic, &settings)?;
    }
    Ok(())
}

/// Only now is known how many replicas the broker's default is. With three or more, a write counts once two have it.
fn keep_written_twice(bus: &dyn Bus, made: &[TopicSpec]) -> Result<(), BusError> {
    let names: Vec<String> = made.iter().map(|spec| spec.name.clone()).collect();
    for state in bus.describe(&names)? {
        let Some(found) = state.found else { continue };
        let least = found.settings.get("min.insync.replicas").and_then(|v| v.parse::<u16>().ok());
        if found.replicas >= 3 && least.is_some_and(|least| least < 2) {
            let settings = [("min.insync.replicas".to_owned(), "2".to_owned())].into();
            bus.configure(&state.name, &settings)?;
        }
    }
    Ok(())
}

/// What must hold before anything runs: every topic is there and correct. Gives what is only worth a warning.
pub fn verify(bus: &dyn Bus, layout: &Layout) -> Result<Vec<Warning>, TopicsError> {
    let plan = plan(bus, layout)?;
    if !plan.refuse.is_empty() {
        return Err(TopicsError::Refused(plan.refuse));
    }
    let open: Vec<String> =
        plan.create.iter().map(|s| s.name.clone()).chain(plan.alter.iter().map(|a| a.topic.clone())).collect();
    if open.is_empty() { Ok(plan.warn) } else { Err(TopicsError::NotApplied(open)) }
}

impl Plan {
    fn compare(&mut self, spec: &TopicSpec, found: &TopicFound) {
        let before = (self.refuse.len(), self.alter.len());
        self.partitions(spec, found);
        self.policy(spec, found);
        self.replication(spec, found);
        self.settings(spec, found);
        if before == (self.refuse.len(), self.alter.len()) {
            self.unchanged.push(spec.name.clone());
        }
    }

    fn refuse(&mut self, topic: &str, what: String, why: &str, remedy: String) {
        self.refuse.push(Refusal { topic: topic.to_owned(), what, why: why.to_owned(), remedy });
    }

    fn partitions(&mut self, spec: &TopicSpec, found: &TopicFound) {
        if found.partitions == spec.partitions {
            return;
        }
        self.refuse(
            &spec.name,
            format!("it has {} partitions instead of {}", found.partitions, spec.partitions),
            "a key's partition follows from their number, and its state lies there: with another number events miss it",
            format!(
                "set the number in lockstep.yaml to {} as it was at creation, or copy the topics offline",
                found.partitions
            ),
        );
    }

    fn policy(&mut self, spec: &TopicSpec, found: &TopicFound) {
        let (Some(wanted), Some(actual)) = (spec.settings.get("cleanup.policy"), found.settings.get("cleanup.policy"))
        else {
            return;
        };
        if wanted == actual {
            return;
        }
        let alter = alter_command(&spec.name, "cleanup.policy", wanted);
        let what = format!("cleanup.policy is {actual} instead of {wanted}");
        let (why, remedy) = if is_changelog(spec) {
            (
                "the newest value of a key is deleted by age, and with it state that nothing else has",
                format!("if the topic is new, {alter}; else rows may be gone already: restore it from a backup first"),
            )
        } else {
            ("events of one key are compacted away before they are read", format!("if nothing is lost yet, {alter}"))
        };
        self.refuse(&spec.name, what, why, remedy);
    }

    fn replication(&mut self, spec: &TopicSpec, found: &TopicFound) {
        let least: Option<u16> = found.settings.get("min.insync.replicas").and_then(|v| v.parse().ok());
        match least {
            Some(least) if found.replicas > 1 && least >= found.replicas => self.refuse(
                &spec.name,
                format!("min.insync.replicas is {least} of {} replicas", found.replicas),
                "one broker that is down stops every write",
                alter_command(&spec.name, "min.insync.replicas", &(found.replicas - 1).max(1).to_string()),
            ),
            Some(least) if found.replicas >= 3 && least < 2 => self.refuse(
                &spec.name,
                format!("min.insync.replicas is {least} of {} replicas", found.replicas),
                "what was acknowledged is on one broker alone for a time, and is lost with it",
                alter_command(&spec.name, "min.insync.replicas", "2"),
            ),
            _ => {}
        }
        if found.settings.get("unclean.leader.election.enable").is_some_and(|v| v == "true") {
            self.refuse(
                &spec.name,
                "unclean.leader.election.enable is true".into(),
                "a replica that lags may become leader, and committed records are gone",
                alter_command(&spec.name, "unclean.leader.election.enable", "false"),
            );
        }
        if let Some(wanted) = spec.replicas
            && found.replicas != wanted
        {
            let what = format!("it has {} replicas, lockstep.yaml says {wanted}", found.replicas);
            self.warn.push(Warning { topic: spec.name.clone(), what });
        } else if found.replicas == 1 && spec.replicas.is_none_or(|r| r > 1) {
            let what = "it has one replica: with its broker's disk everything is lost".into();
            self.warn.push(Warning { topic: spec.name.clone(), what });
        }
    }

    fn settings(&mut self, spec: &TopicSpec, found: &TopicFound) {
        let mut changes = Vec::new();
        for (setting, wanted) in &spec.settings {
            let actual = found.settings.get(setting);
            if JUDGED_APART.contains(&setting.as_str()) || actual == Some(wanted) {
                continue;
            }
            let change = Change { setting: setting.clone(), from: actual.cloned(), to: wanted.clone() };
            match judge(setting, actual, wanted) {
                Verdict::Fine => {}
                Verdict::Alter => changes.push(change),
                Verdict::Warn => {
                    let actual = actual.map_or("not set", String::as_str);
                    let what = format!("{setting} is {actual}; lockstep would make it {wanted}");
                    self.warn.push(Warning { topic: spec.name.clone(), what });
                }
            }
        }
        if !changes.is_empty() {
            self.alter.push(Alteration { topic: spec.name.clone(), changes });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Alter,
    Warn,
}

/// By `policy` and `replication`.
const JUDGED_APART: [&str; 3] = ["cleanup.policy", "min.insync.replicas", "unclean.leader.election.enable"];

/// A setting that correctness needs at least so large is raised; one that operators may choose is warned of where theirs keeps
/// less or makes restores longer.
fn judge(setting: &str, actual: Option<&String>, wanted: &str) -> Verdict {
    // A bus that doesn't know a setting (the embedded one has no segments) has nothing to be set.
    let Some(actual) = actual else { return Verdict::Fine };
    let enough = match setting {
        "segment.ms" | "segment.bytes" | "min.cleanable.dirty.ratio" => at_least(wanted, actual),
        "message.timestamp.type" => actual == wanted,
        _ => at_least(actual, wanted),
    };
    match setting {
        _ if enough => Verdict::Fine,
        // A record that doesn't fit stops its partition; a tombstone that goes early is missed by a store that was away.
        // A time that the sender wrote says nothing of the broker's clock.
        "max.message.bytes" | "delete.retention.ms" | "message.timestamp.type" => Verdict::Alter,
        _ => Verdict::Warn,
    }
}

/// -1 is without end.
fn at_least(actual: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().map(|n| if n < 0.0 { f64::INFINITY } else { n });
    matches!((number(actual), number(wanted)), (Some(actual), Some(wanted)) if actual >= wanted)
}

fn is_changelog(spec: &TopicSpec) -> bool {
    spec.settings.get("cleanup.policy").is_some_and(|policy| policy == "compact")
}

fn alter_command(topic: &str, setting: &str, value: &str) -> String {
    format!(
        "`kafka-configs --bootstrap-server HOST:PORT --alter --entity-type topics --entity-name {topic} \
         --add-config {setting}={value}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<TopicSpec> {
        let wishes = Wishes { inbox_partitions: 8, ..Wishes::default() };
        super::specs(&TopicNames::new("lockstep."), &["directory".into()], &wishes)
    }

    fn spec(name: &str) -> TopicSpec {
        specs().into_iter().find(|s| s.name == format!("lockstep.{name}")).unwrap()
    }

    /// The topic as `apply` makes it on three brokers.
    fn made(spec: &TopicSpec) -> TopicFound {
        let mut settings = spec.settings.clone();
        settings.insert("min.insync.replicas".into(), "2".into());
        TopicFound { partitions: spec.partitions, replicas: 3, settings }
    }

    fn plan_of(spec: &TopicSpec, found: &TopicFound) -> Plan {
        let mut plan = Plan::default();
        plan.compare(spec, found);
        plan
    }

    #[test]
    fn what_apply_makes_is_right() {
        for spec in specs() {
            let plan = plan_of(&spec, &made(&spec));
            assert!(plan.is_done() && plan.warn.is_empty(), "{plan:?}");
            assert_eq!(plan.unchanged, [spec.name]);
        }
    }

    #[test]
    fn what_endangers_correctness_is_refused_with_reason_and_remedy() {
        let set = |setting: &'static str, value: &'static str| {
            move |found: &mut TopicFound| {
                found.settings.insert(setting.into(), value.into());
            }
        };
        type Spoil = Box<dyn Fn(&mut TopicFound)>;
        let cases: Vec<(&str, Spoil, &str)> = vec![
            ("inbox", Box::new(|f| f.partitions = 9), "9 partitions instead of 8"),
            ("state", Box::new(|f| f.partitions = 4), "4 partitions instead of 8"),
            ("commands.directory", Box::new(|f| f.partitions = 12), "12 partitions instead of 6"),
            ("state", Box::new(set("cleanup.policy", "delete")), "cleanup.policy is delete"),
            ("lanes.directory", Box::new(set("cleanup.policy", "compact,delete")), "cleanup.policy is compact,delete"),
            ("bundles", Box::new(set("cleanup.policy", "delete")), "cleanup.policy is delete"),
            ("inbox", Box::new(set("cleanup.policy", "compact")), "cleanup.policy is compact"),
            ("state", Box::new(set("min.insync.replicas", "1")), "min.insync.replicas is 1 of 3"),
            ("state", Box::new(set("min.insync.replicas", "3")), "min.insync.replicas is 3 of 3"),
            (
                "inbox",
                Box::new(set("unclean.leader.election.enable", "true")),
                "unclean.leader.election.enable is true",
            ),
        ];
        for (name, spoil, expected) in cases {
            let spec = spec(name);
            let mut found = made(&spec);
            spoil(&mut found);
            let plan = plan_of(&spec, &found);
            assert_eq!(plan.refuse.len(), 1, "{name}: {expected}: {plan:?}");
            let refusal = &plan.refuse[0];
            assert!(refusal.what.contains(expected), "{refusal}");
            assert!(!refusal.why.is_empty() && refusal.remedy.len() > 20, "{refusal}");
            assert!(plan.unchanged.is_empty() && !plan.is_done());
        }
    }

    #[test]
    fn what_is_ours_is_raised_and_what_operators_choose_is_warned_of() {
        let cases = [
            ("inbox", "max.message.bytes", "100000", Verdict::Alter),
            ("inbox", "max.message.bytes", "99999999", Verdict::Fine),
            ("clock", "message.timestamp.type", "CreateTime", Verdict::Alter),
            ("state", "delete.retention.ms", "60000", Verdict::Alter),
            ("state", "delete.retention.ms", "999999999999", Verdict::Fine),
            ("inbox", "retention.ms", "3600000", Verdict::Warn),
            ("inbox", "retention.ms", "-1", Verdict::Fine),
            ("inbox", "retention.bytes", "1000000", Verdict::Warn),
            ("state", "segment.ms", "604800000", Verdict::Warn),
            ("state", "segment.ms", "3600000", Verdict::Fine),
            ("state", "min.cleanable.dirty.ratio", "0.5", Verdict::Warn),
            ("state", "min.cleanable.dirty.ratio", "0.1", Verdict::Fine),
        ];
        for (name, setting, value, expected) in cases {
            let spec = spec(name);
            let mut found = made(&spec);
            found.settings.insert(setting.into(), value.into());
            let plan = plan_of(&spec, &found);
            let seen = match (plan.alter.is_empty(), plan.warn.is_empty()) {
                (false, _) => Verdict::Alter,
                (true, false) => Verdict::Warn,
                (true, true) => Verdict::Fine,
            };
            assert_eq!(seen, expected, "{name} {setting}={value}");
            assert!(plan.refuse.is_empty());
        }
    }

    #[test]
    fn one_replica_is_warned_of_and_wanted_replicas_are_compared() {
        let mut spec = spec("inbox");
        let mut found = made(&spec);
        found.replicas = 1;
        found.settings.insert("min.insync.replicas".into(), "1".into());
        assert!(plan_of(&spec, &found).warn[0].what.contains("one replica"));
        spec.replicas = Some(1);
        assert!(plan_of(&spec, &found).warn.is_empty(), "it was asked for");
        spec.replicas = Some(3);
        assert!(plan_of(&spec, &found).warn[0].what.contains("says 3"));
    }

    #[test]
    fn every_topic_holds_an_event_with_its_envelope() {
        let holds = |s: &TopicSpec| s.settings["max.message.bytes"].parse::<usize>().unwrap();
        for spec in specs().iter().filter(|spec| spec.name != "lockstep.clock") {
            assert!(holds(spec) >= 2 * 262_144 + 65_536, "{}", spec.name);
        }
    }
}
