//! What each process has to be allowed on Kafka, and nothing more.
//!
//! One table, from which `lockstep topics acls` prints, `lockstep doctor` checks, docs/security.md explains and `tests/secure`
//! proves: with exactly this a process works, and without any line of it something that is named does not.

use super::topics::Layout;
use crate::model::topic::TopicNames;
use crate::model::{SourceName, TargetName};
use crate::rules::Bundle;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A kind of process, each of which may be a principal of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    Processor,
    Worker(TargetName),
    /// `serve`, and questions and operations of the command line that no running `serve` answers.
    Serve,
    /// `publish --direct`.
    Publish,
    Poll(SourceName),
    /// `topics apply`.
    Topics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Read,
    Write,
    Create,
    Describe,
    DescribeConfigs,
    AlterConfigs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Topic,
    Group,
    TransactionalId,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub kind: Kind,
    pub name: String,
    /// The name begins those that are meant.
    pub prefixed: bool,
}

/// One line of what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub resource: Resource,
    pub operations: Vec<Operation>,
    pub why: &'static str,
}

impl fmt::Display for Process {
    /// As `--as` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor => f.write_str("processor"),
            Self::Worker(target) => write!(f, "worker:{target}"),
            Self::Serve => f.write_str("serve"),
            Self::Publish => f.write_str("publish"),
            Self::Poll(source) => write!(f, "poll:{source}"),
            Self::Topics => f.write_str("topics"),
        }
    }
}

impl Operation {
    /// As Kafka's tools name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
            Self::AlterConfigs => "AlterConfigs",
        }
    }
}

impl Kind {
    /// As people say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Group => "group",
            Self::TransactionalId => "transactional id",
        }
    }

    /// The option of kafka-acls.
    fn option(self) -> &'static str {
        match self {
            Self::Topic => "--topic",
            Self::Group => "--group",
            Self::TransactionalId => "--transactional-id",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.prefixed { "*" } else { "" };
        write!(f, "{} {}{star}", self.kind.as_str(), self.name)
    }
}

impl Grant {
    /// The options of kafka-acls that say this grant.
    pub fn options(&self) -> String {
        let operations: Vec<String> = self.operations.iter().map(|o| format!("--operation {}", o.as_str())).collect();
        let pattern = if self.resource.prefixed { " --resource-pattern-type prefixed" } else { "" };
        format!("{} {} {}{pattern}", operations.join(" "), self.resource.kind.option(), self.resource.name)
    }
}

/// What the names of an installation are made of.
#[derive(Clone, Copy, Debug)]
pub struct Installation<'a> {
    pub layout: &'a Layout,
    pub bundle: &'a Bundle,
    /// Begins the transactional ids of what is appended outside of a group.
    pub client_id: &'a str,
}

impl Installation<'_> {
    /// Every process that this installation has.
    pub fn processes(&self) -> Vec<Process> {
        let mut processes = vec![Process::Topics, Process::Processor];
        processes.extend(self.layout.targets.iter().cloned().map(Process::Worker));
        processes.extend([Process::Serve, Process::Publish]);
        let polled = self.bundle.sources().iter().filter(|source| source.poll.is_some());
        processes.extend(polled.map(|source| Process::Poll(source.name.clone())));
        processes
    }

    /// What a process has to be allowed.
    pub fn grants(&self, process: &Process) -> Vec<Grant> {
        let names = &self.layout.names;
        let mut grants = Vec::new();
        if matches!(process, Process::Processor | Process::Worker(_)) {
            let operations = &[Operation::Describe, Operation::DescribeConfigs];
            grants.push(prefixed(Kind::Topic, &names.prefix, operations, "whether the topics are as they must be"));
        }
        match process {
            Process::Processor => grants.extend(self.processor(names)),
            Process::Worker(target) => grants.extend(worker(names, target)),
            Process::Serve => grants.extend(self.serve(names)),
            Process::Publish => {
                grants.push(literal(Kind::Topic, names.state(), &[Operation::Describe], "whether Lockstep is here"));
                grants.extend(self.appends(self.layout.source_topics.iter().cloned()));
            }
            Process::Poll(source) => grants.extend(self.poll(names, source)),
            Process::Topics => grants.push(prefixed(
                Kind::Topic,
                &names.prefix,
                // Who may alter settings may read them.
                &[Operation::Describe, Operation::Create, Operation::AlterConfigs],
                "to make the topics and set them",
            )),
        }
        merged(grants)
    }

    fn processor(&self, names: &TopicNames) -> Vec<Grant> {
        let mut grants = member(&group_of_processors(names));
        grants.extend(reads(self.layout.source_topics.iter().cloned(), "the sources' events"));
        grants.extend(reads([names.results(), names.operations()], "what workers and operators report"));
        grants.extend(reads([names.inbox(), names.state(), names.bundles()], "its own work and state"));
        let own = [names.inbox(), names.state(), names.bundles()];
        grants.extend(writes(own, "its own work and state"));
        // An installation may do without decisions.
        let there: BTreeSet<String> = self.layout.specs().into_iter().map(|spec| spec.name).collect();
        let outputs = [names.decisions(), names.alerts(), names.source_dead_letters()];
        let outputs = outputs.into_iter().filter(|topic| there.contains(topic));
        grants.extend(writes(outputs, "what it decides, and what it can't read"));
        for target in &self.layout.targets {
            grants.extend(writes([names.commands(target)], "commands"));
            grants.extend(writes([names.dead_letters(target)], "the end of a dead letter"));
        }
        grants.extend(writes([names.clock()], "the brokers' time"));
        grants.push(self.appender("a new rule bundle is written in one transaction"));
        grants
    }

    fn serve(&self, names: &TopicNames) -> Vec<Grant> {
        let mut grants = reads([names.state(), names.results(), names.source_dead_letters()], "what it shows");
        let dead_letters: Vec<String> = self.layout.targets.iter().map(|target| names.dead_letters(target)).collect();
        grants.extend(reads(dead_letters, "what it shows"));
        let operations = &[Operation::Write, Operation::DescribeConfigs];
        grants.push(literal(Kind::Topic, names.operations(), operations, "what operators do"));
        grants.extend(self.appends(self.layout.source_topics.iter().cloned()));
        grants
    }

    fn poll(&self, names: &TopicNames, source: &SourceName) -> Vec<Grant> {
        let topics = self.bundle.source(source).map(|rules| rules.topics.clone()).unwrap_or_default();
        let operations = &[Operation::Read, Operation::Write, Operation::DescribeConfigs];
        let mut grants = vec![literal(Kind::Topic, names.cursors(), operations, "where it stands")];
        grants.extend(self.appends(topics));
        grants
    }

    /// Writing to topics of the users' own.
    fn appends(&self, topics: impl IntoIterator<Item = String>) -> Vec<Grant> {
        let grant = |topic| {
            let operations = &[Operation::Write, Operation::DescribeConfigs];
            literal(Kind::Topic, topic, operations, "events, none larger than the topic takes")
        };
        let mut grants: Vec<Grant> = topics.into_iter().map(grant).collect();
        grants.push(self.appender("what is written is written whole or not at all"));
        grants
    }

    fn appender(&self, why: &'static str) -> Grant {
        prefixed(Kind::TransactionalId, &format!("{}-append-", self.client_id), &[Operation::Write], why)
    }
}

/// What the brokers say is allowed to one principal.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By name; None where there is no such thing.
    pub topics: BTreeMap<String, Option<BTreeSet<Operation>>>,
    pub groups: BTreeMap<String, Option<BTreeSet<Operation>>>,
    /// By what they begin with: whether one may be used.
    pub transactional_ids: BTreeMap<String, bool>,
}

/// Of these grants, what is not allowed. A topic that isn't there lacks nothing: that it isn't is said elsewhere.
pub fn missing(grants: &[Grant], own_topics: &[String], told: &Told) -> Vec<Grant> {
    let mut lacking = Vec::new();
    for grant in grants {
        let Resource { kind, name, prefixed } = &grant.resource;
        let allowed = |operation: &Operation| match (kind, prefixed) {
            (Kind::Topic, true) => {
                let mut begun = own_topics.iter().filter(|topic| topic.starts_with(name));
                begun.all(|topic| holds(&told.topics, topic, *operation))
            }
            (Kind::Topic, false) => holds(&told.topics, name, *operation),
            (Kind::Group, _) => holds(&told.groups, name, *operation),
            (Kind::TransactionalId, _) => told.transactional_ids.get(name).copied().unwrap_or(true),
        };
        let operations: Vec<Operation> = grant.operations.iter().copied().filter(|o| !allowed(o)).collect();
        if !operations.is_empty() {
            lacking.push(Grant { operations, ..grant.clone() });
        }
    }
    lacking
}

fn holds(told: &BTreeMap<String, Option<BTreeSet<Operation>>>, name: &str, operation: Operation) -> bool {
    told.get(name).and_then(Option::as_ref).is_none_or(|operations| operations.contains(&operation))
}

/// One grant a resource.
fn merged(grants: Vec<Grant>) -> Vec<Grant> {
    let mut merged: Vec<Grant> = Vec::new();
    for grant in grants {
        match merged.iter_mut().find(|other| other.resource == grant.resource) {
            None => merged.push(grant),
            Some(other) => {
                for operation in grant.operations {
                    if !other.operations.contains(&operation) {
                        other.operations.push(operation);
                    }
                }
            }
        }
    }
    merged
}

/// The consumer group of an installation's processors.
pub fn group_of_processors(names: &TopicNames) -> String {
    format!("{}processor", names.prefix)
}

/// The consumer group of a target's workers.
pub fn group_of_workers(names: &TopicNames, target: &TargetName) -> String {
    format!("{}worker.{target}", names.prefix)
}

/// What the transactional ids of a group's members begin with. No group's name can hold the colon: the ids of `wiki`'s workers would
/// else be among those of `wiki-eu`'s, as would be what they are allowed.
pub fn transactional_ids_of(group: &str) -> String {
    format!("{group}:")
}

fn worker(names: &TopicNames, target: &TargetName) -> Vec<Grant> {
    let mut grants = member(&group_of_workers(names, target));
    grants.extend(reads([names.commands(target)], "commands"));
    grants.extend(reads([names.lanes(target)], "its own state"));
    grants.extend(writes([names.lanes(target)], "its own state"));
    grants.extend(writes([names.results(), names.dead_letters(target)], "what came of a command"));
    grants.extend(writes([names.source_dead_letters()], "commands that it can't read"));
    grants.extend(writes([names.clock()], "the brokers' time"));
    grants
}

/// A member of a group, whose transactional id begins with the group's name.
fn member(group: &str) -> Vec<Grant> {
    vec![
        literal(Kind::Group, group.to_owned(), &[Operation::Read], "it shares the partitions with others of its kind"),
        prefixed(
            Kind::TransactionalId,
            &transactional_ids_of(group),
            &[Operation::Write],
            "outputs and offsets are committed together; each process has an id of its own",
        ),
    ]
}

fn reads(topics: impl IntoIterator<Item = String>, why: &'static str) -> Vec<Grant> {
    topics.into_iter().map(|topic| literal(Kind::Topic, topic, &[Operation::Read], why)).collect()
}

fn writes(topics: impl IntoIterator<Item = String>, why: &'static str) -> Vec<Grant> {
    topics.into_iter().map(|topic| literal(Kind::Topic, topic, &[Operation::Write], why)).collect()
}

fn literal(kind: Kind, name: String, operations: &[Operation], why: &'static str) -> Grant {
    Grant { resource: Resource { kind, name, prefixed: false }, operations: operations.to_vec(), why }
}

fn prefixed(kind: Kind, name: &str, operations: &[Operation], why: &'static str) -> Grant {
    Grant { resource: Resource { kind, name: name.to_owned(), prefixed: true }, operations: operations.to_vec(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn of_the_quickstart<T>(ask: impl FnOnce(&Installation<'_>) -> T) -> T {
        let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kafka")).unwrap();
        let layout = Layout::of(&config);
        ask(&Installation { layout: &layout, bundle: &config.bundle, client_id: "lockstep" })
    }

    #[test]
    fn every_process_is_granted_what_it_uses_and_no_more() {
        let text = of_the_quickstart(|installation| {
            let mut text = String::new();
            for process in installation.processes() {
                text.push_str(&format!("{process}\n"));
                for grant in installation.grants(&process) {
                    let operations: Vec<&str> = grant.operations.iter().map(|o| o.as_str()).collect();
                    text.push_str(&format!("  {} on {}\n", operations.join(", "), grant.resource));
                }
            }
            text
        });
        insta::assert_snapshot!(text, @r"
        topics
          Describe, Create, AlterConfigs on topic lockstep.*
        processor
          Describe, DescribeConfigs on topic lockstep.*
          Read on group lockstep.processor
          Write on transactional id lockstep.processor:*
          Read on topic hr.workers
          Read on topic idp.users
          Read on topic lockstep.results
          Read on topic lockstep.operations
          Read, Write on topic lockstep.inbox
          Read, Write on topic lockstep.state
          Read, Write on topic lockstep.bundles
          Write on topic lockstep.decisions
          Write on topic lockstep.alerts
          Write on topic lockstep.source-dead-letters
          Write on topic lockstep.commands.directory
          Write on topic lockstep.dead-letters.directory
          Write on topic lockstep.clock
          Write on transactional id lockstep-append-*
        worker:directory
          Describe, DescribeConfigs on topic lockstep.*
          Read on group lockstep.worker.directory
          Write on transactional id lockstep.worker.directory:*
          Read on topic lockstep.commands.directory
          Read, Write on topic lockstep.lanes.directory
          Write on topic lockstep.results
          Write on topic lockstep.dead-letters.directory
          Write on topic lockstep.source-dead-letters
          Write on topic lockstep.clock
        serve
          Read on topic lockstep.state
          Read on topic lockstep.results
          Read on topic lockstep.source-dead-letters
          Read on topic lockstep.dead-letters.directory
          Write, DescribeConfigs on topic lockstep.operations
          Write, DescribeConfigs on topic hr.workers
          Write, DescribeConfigs on topic idp.users
          Write on transactional id lockstep-append-*
        publish
          Describe on topic lockstep.state
          Write, DescribeConfigs on topic hr.workers
          Write, DescribeConfigs on topic idp.users
          Write on transactional id lockstep-append-*
        poll:idp
          Read, Write, DescribeConfigs on topic lockstep.cursors
          Write, DescribeConfigs on topic idp.users
          Write on transactional id lockstep-append-*
        ");
    }

    #[test]
    fn no_worker_of_a_target_may_use_an_id_of_another_target_s() {
        let names = TopicNames::new("lockstep.");
        let ids = |target: &str| transactional_ids_of(&group_of_workers(&names, &target.into()));
        let (wiki, wiki_eu) = (ids("wiki"), ids("wiki-eu"));
        assert_ne!(format!("{wiki}eu-1"), format!("{wiki_eu}1"));
        assert!(!wiki_eu.starts_with(&wiki), "nor may it be granted them");
    }

    #[test]
    fn a_grant_reads_as_options_of_kafka_acls() {
        let grant = prefixed(Kind::TransactionalId, "lockstep.processor:", &[Operation::Write], "");
        assert_eq!(
            grant.options(),
            "--operation Write --transactional-id lockstep.processor: --resource-pattern-type prefixed"
        );
    }

    #[test]
    fn what_is_missing_is_told_operation_by_operation() {
        let own = ["p.inbox".to_owned(), "p.state".to_owned(), "p.absent".to_owned()];
        let grants = [
            prefixed(Kind::Topic, "p.", &[Operation::Describe, Operation::DescribeConfigs], ""),
            literal(Kind::Topic, "p.inbox".into(), &[Operation::Read, Operation::Write], ""),
            literal(Kind::Topic, "p.absent".into(), &[Operation::Read], ""),
            literal(Kind::Group, "p.processor".into(), &[Operation::Read], ""),
            prefixed(Kind::TransactionalId, "p.processor:", &[Operation::Write], ""),
        ];
        let all = BTreeSet::from([Operation::Read, Operation::Write, Operation::Describe, Operation::DescribeConfigs]);
        let mut told = Told {
            topics: own.iter().map(|topic| (topic.clone(), Some(all.clone()))).collect(),
            groups: [("p.processor".to_owned(), Some(all.clone()))].into(),
            transactional_ids: [("p.processor:".to_owned(), true)].into(),
        };
        told.topics.insert("p.absent".into(), None);
        assert!(missing(&grants, &own, &told).is_empty());
        told.topics.insert("p.state".into(), Some([Operation::Describe].into()));
        told.topics.insert("p.inbox".into(), Some([Operation::Describe, Operation::DescribeConfigs].into()));
        told.groups.insert("p.processor".into(), Some(BTreeSet::new()));
        told.transactional_ids.insert("p.processor:".into(), false);
        let missing = missing(&grants, &own, &told);
        let shown: Vec<String> = missing.iter().map(|g| format!("{:?} {}", g.operations, g.resource)).collect();
        assert_eq!(
            shown,
            [
                "[DescribeConfigs] topic p.*",
                "[Read, Write] topic p.inbox",
                "[Read] group p.processor",
                "[Write] transactional id p.processor:*",
            ]
        );
    }
}
