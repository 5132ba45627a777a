//! The bus contract on a real Apache Kafka, and what only Kafka has: fences by generation, static members, brokers that fail.

use crate::bus::{
    Bed, LIMIT, PATIENCE, append_numbers, contract_suite, copy_to, member, next_batch, offsets_after, process,
    read_all, record, topic, topic_with, unique, values, wait_assigned,
};
use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::topics::{self, Layout, Plan, TopicsError, Wishes};
use lockstep::bus::{Bus, CommitError, Membership, Outgoing, Poll, Transaction};
use lockstep::model::topic::TopicNames;
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MAX_RECORD_BYTES: usize = 900_000;

contract_suite!(contract, crate::bus::kafka::kafka_bed, ignore = "needs Kafka: tests/run bus");
contract_suite!(secured, crate::bus::kafka::secured_bed, ignore = "needs a secured Kafka: tests/run secure");

pub struct KafkaBed {
    bus: KafkaBus,
    bootstrap: String,
    /// What a client needs to get in.
    properties: BTreeMap<String, String>,
}

pub fn bootstrap() -> String {
    std::env::var("LOCKSTEP_TEST_KAFKA").expect("LOCKSTEP_TEST_KAFKA is host:port of a Kafka")
}

pub fn connect(properties: &[(&str, &str)]) -> KafkaBus {
    // The least that brokers allow by default, so that tests of lost members don't take long.
    let properties = [("session.timeout.ms", "6000")].iter().chain(properties);
    KafkaBus::connect(KafkaSettings {
        bootstrap: bootstrap(),
        properties: properties.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        client_id: "contract".into(),
        max_record_bytes: MAX_RECORD_BYTES,
    })
    .unwrap()
}

pub fn kafka_bed() -> KafkaBed {
    KafkaBed { bus: connect(&[]), bootstrap: bootstrap(), properties: BTreeMap::new() }
}

/// The same over TLS, signed in by SCRAM, with an authorizer on: tests/parts/kafka-secure.sh.
pub fn secured_bed() -> KafkaBed {
    let folder = std::env::var("LOCKSTEP_TEST_KAFKA_SECURE").expect("LOCKSTEP_TEST_KAFKA_SECURE is the part's folder");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap().trim().to_owned();
    let properties: BTreeMap<String, String> = [
        ("security.protocol", "SASL_SSL".to_owned()),
        ("ssl.ca.location", format!("{folder}/ca.pem")),
        ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
        ("sasl.username", "admin".to_owned()),
        ("sasl.password", read("admin")),
        ("session.timeout.ms", "6000".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let bus = KafkaBus::connect(KafkaSettings {
        bootstrap: read("sasl"),
        properties: properties.clone(),
        client_id: "contract".into(),
        max_record_bytes: MAX_RECORD_BYTES,
    });
    KafkaBed { bus: bus.unwrap(), bootstrap: read("sasl"), properties }
}

impl Bed for KafkaBed {
    fn bus(&self) -> &dyn Bus {
        &self.bus
    }

    fn shares(&self) -> bool {
        true
    }

    fn too_large(&self) -> usize {
        MAX_RECORD_BYTES
    }

    fn die_mid_commit(&self, member: &Membership, outputs: &[Outgoing]) -> bool {
        let mut config = ClientConfig::new();
        for (name, value) in self.properties.iter().filter(|(name, _)| *name != "session.timeout.ms") {
            config.set(name, value);
        }
        let producer: BaseProducer = config
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", format!("{}:{}", member.group, member.instance))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        for output in outputs {
            let (key, value) = (output.key.as_deref().unwrap(), output.value.as_deref().unwrap());
            producer.send(BaseRecord::to(&output.topic).key(key).payload(value)).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        true
    }
}

// --- what only Kafka has -----------------------------------------------------------------------------------------------

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_cluster_says_which_it_is_and_how_long_it_keeps_the_offsets_of_a_group_that_is_away() {
    let bus = connect(&[]);
    let identity = bus.identity().unwrap();
    assert!(!identity.is_empty());
    assert_eq!(connect(&[]).identity().unwrap(), identity);
    assert_eq!(bus.offsets_kept().unwrap(), Some(Duration::from_secs(7 * 86_400)), "as brokers do by default");
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_commit_that_the_brokers_refuse_is_rewound_and_gives_its_records_again() {
    let bus = connect(&[]);
    let (input, output) = (topic(&bus, "in", 2), topic(&bus, "out", 1));
    // A topic that takes less than it did when this process last asked.
    let refusing = topic(&bus, "refusing", 1);
    bus.append(vec![record(&refusing, "k", "fine")]).unwrap();
    connect(&[]).configure(&refusing, &[("max.message.bytes".to_owned(), "1000".to_owned())].into()).unwrap();
    append_numbers(&bus, &input, 0..10);
    let mut session = bus.join(&member("refused", &[&input])).unwrap();
    let batch = next_batch(session.as_mut());
    let outputs = vec![record(&output, "k", "half"), record(&refusing, "k", &"x".repeat(5000))];
    match session.commit(Transaction { outputs, offsets: offsets_after(&batch) }) {
        Err(CommitError::Rewound(reason)) => assert!(reason.contains(&refusing), "{reason}"),
        other => panic!("expected Rewound, got {other:?}"),
    }
    assert!(read_all(&bus, &output).is_empty(), "the half that was written must not show");

    let mut seen = Vec::new();
    while seen.len() < 10 {
        let again = next_batch(session.as_mut());
        let outputs = again.iter().map(|r| copy_to(&output, r)).collect();
        session.commit(Transaction { outputs, offsets: offsets_after(&again) }).unwrap();
        seen.extend(values(&again));
    }
    seen.sort_by_key(|v| v.parse::<u32>().unwrap());
    assert_eq!(seen, (0..10).map(|n| n.to_string()).collect::<Vec<_>>(), "each again, once");
    assert_eq!(read_all(&bus, &output).len(), 10);
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_member_that_was_away_too_long_commits_nothing_not_even_timers() {
    let away = connect(&[("max.poll.interval.ms", "6000")]);
    let bus = connect(&[]);
    let (input, output) = (topic(&bus, "in", 1), topic(&bus, "out", 1));
    append_numbers(&bus, &input, 0..3);
    let one = member("zombie", &[&input]);
    let mut zombie = away.join(&one).unwrap();
    assert!(!next_batch(zombie.as_mut()).is_empty());

    // It does not poll for longer than it may, and another member takes its partition.
    let two = Membership { instance: "two".into(), ..one };
    assert_eq!(process(&bus, &two, &output, 3), ["0", "1", "2"]);
    let outputs = vec![record(&output, "timer", "from the grave")];
    match zombie.commit(Transaction { outputs, offsets: BTreeMap::new() }) {
        Err(CommitError::Rewound(_)) => {}
        other => panic!("expected Rewound, got {other:?}"),
    }
    assert_eq!(values(&read_all(&bus, &output)), ["0", "1", "2"]);
    match zombie.poll(LIMIT, Duration::from_secs(5)).unwrap() {
        Poll::Revoked(gone) => assert_eq!(gone, [(input.clone(), 0)]),
        other => panic!("expected Revoked, got {other:?}"),
    }
    // It joins again, and goes on where the other left off.
    wait_assigned(zombie.as_mut());
    append_numbers(&bus, &input, 3..4);
    assert_eq!(values(&next_batch(zombie.as_mut())), ["3"]);
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_commit_without_offsets_carries_those_that_stand() {
    let bus = connect(&[]);
    let (input, output) = (topic(&bus, "in", 2), topic(&bus, "out", 1));
    let member = member("carries", &[&input]);
    let mut session = bus.join(&member).unwrap();
    wait_assigned(session.as_mut());
    let timer = || Transaction { outputs: vec![record(&output, "k", "v")], offsets: BTreeMap::new() };
    assert_eq!(committed(&member.group, &input, 2), [None, None]);
    session.commit(timer()).unwrap();
    assert_eq!(committed(&member.group, &input, 2), [Some(0), Some(0)]);

    bus.append(vec![Outgoing { partition: Some(1), ..record(&input, "k", "v") }]).unwrap();
    let batch = next_batch(session.as_mut());
    session.commit(Transaction { outputs: vec![], offsets: offsets_after(&batch) }).unwrap();
    session.commit(timer()).unwrap();
    assert_eq!(committed(&member.group, &input, 2), [Some(0), Some(1)]);
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_restarted_member_has_its_partitions_at_once() {
    let bus = connect(&[]);
    let input = topic(&bus, "in", 4);
    let member = member("restart", &[&input]);
    for _ in 0..3 {
        let started = Instant::now();
        let mut session = bus.join(&member).unwrap();
        assert_eq!(wait_assigned(session.as_mut()).len(), 4);
        assert!(started.elapsed() < Duration::from_secs(5), "waited {:?} for itself", started.elapsed());
        session.leave().unwrap();
    }
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_session_may_go_at_any_moment_of_a_rebalance() {
    let bus = connect(&[]);
    let (input, output) = (topic(&bus, "in", 4), topic(&bus, "out", 1));
    append_numbers(&bus, &input, 0..10);
    let one = member("goes", &[&input]);
    let two = Membership { instance: "two".into(), ..one.clone() };
    let rounds: u64 = std::env::var("LOCKSTEP_TEST_ROUNDS").map_or(40, |n| n.parse().unwrap());
    for round in 0..rounds {
        let mut first = bus.join(&one).unwrap();
        let second = (round % 3 == 0).then(|| bus.join(&two).unwrap());
        let until = Instant::now() + Duration::from_millis(round * 7 % 61);
        while Instant::now() < until {
            first.poll(LIMIT, Duration::from_millis(round % 4)).unwrap();
        }
        let started = Instant::now();
        drop(first);
        drop(second);
        assert!(started.elapsed() < Duration::from_secs(10), "round {round}: {:?} to go", started.elapsed());
    }
    let mut seen = process(&bus, &one, &output, 10);
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn a_topic_takes_no_more_than_its_own_limit() {
    let bus = connect(&[]);
    let small = topic_with(&bus, "small", 1, &[("max.message.bytes", "2000")]);
    let refused = bus.append(vec![record(&small, "k", &"x".repeat(2000))]).unwrap_err().to_string();
    assert!(refused.contains(&small) && refused.contains("2000"), "{refused}");
    // What was let through, the broker takes.
    bus.append(vec![record(&small, "k", &"x".repeat(2000 - 88))]).unwrap();
    assert_eq!(read_all(&bus, &small).len(), 1);
}

#[test]
fn a_cluster_that_is_not_there_is_named_with_the_reason() {
    let started = Instant::now();
    let settings = KafkaSettings {
        bootstrap: "127.0.0.1:1".into(),
        properties: BTreeMap::new(),
        client_id: "contract".into(),
        max_record_bytes: MAX_RECORD_BYTES,
    };
    let error = KafkaBus::connect(settings).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("Connection refused"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// What a group has committed, partition by partition.
fn committed(group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let found = consumer.committed_offsets(list, PATIENCE).unwrap();
    (0..partitions)
        .map(|p| match found.find_partition(topic, p).unwrap().offset() {
            rdkafka::Offset::Offset(offset) => Some(offset),
            _ => None,
        })
        .collect()
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn topics_are_planned_applied_and_refused_when_they_endanger_correctness() {
    let bus = connect(&[]);
    let missing_source = unique("hr");
    let layout = Layout {
        names: TopicNames::new(format!("{}.", unique("lockstep"))),
        targets: vec!["directory".into(), "wiki".into()],
        source_topics: vec![missing_source.clone()],
        wishes: Wishes { inbox_partitions: 3, command_partitions: 2, replicas: Some(1), event_bytes: 600_000 },
    };
    let count = layout.specs().len();
    assert!(matches!(topics::verify(&bus, &layout), Err(TopicsError::NotApplied(missing)) if missing.len() == count));
    let plan = topics::plan(&bus, &layout).unwrap();
    assert_eq!((plan.create.len(), plan.alter.len(), plan.refuse.len()), (count, 0, 0));
    topics::apply(&bus, &plan).unwrap();

    let warnings = topics::verify(&bus, &layout).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].topic, missing_source);
    assert_eq!(bus.partitions(&missing_source).unwrap(), None, "a source's topic is the users' own");
    assert_eq!(topics::plan(&bus, &layout).unwrap().unchanged.len(), count);
    let large = Outgoing { value: Some(vec![0; 800_000].into()), ..record(&layout.names.inbox(), "k", "") };
    bus.append(vec![large]).unwrap();

    // What is ours to mend is mended, what only operators can decide is refused.
    bus.configure(&layout.names.state(), &[("delete.retention.ms".to_owned(), "1000".to_owned())].into()).unwrap();
    let plan = wait_for(&bus, &layout, |plan| !plan.alter.is_empty());
    assert_eq!(plan.alter[0].changes[0].setting, "delete.retention.ms");
    topics::apply(&bus, &plan).unwrap();
    wait_for(&bus, &layout, |plan| plan.is_done());
    let lanes = layout.names.lanes(&"wiki".into());
    bus.configure(&lanes, &[("cleanup.policy".to_owned(), "delete".to_owned())].into()).unwrap();
    let plan = wait_for(&bus, &layout, |plan| !plan.refuse.is_empty());
    assert_eq!(plan.refuse[0].topic, lanes);
    assert!(matches!(topics::apply(&bus, &plan), Err(TopicsError::Refused(_))));
    assert!(matches!(topics::verify(&bus, &layout), Err(TopicsError::Refused(_))));
    let more = Layout { wishes: Wishes { inbox_partitions: 4, ..layout.wishes }, ..layout };
    let refused = topics::plan(&bus, &more).unwrap().refuse;
    assert!(refused.iter().any(|r| r.topic == more.names.inbox() && r.what.contains("3 partitions instead of 4")));
}

/// The first plan that is so: settings reach the brokers a moment after they are acknowledged.
fn wait_for(bus: &dyn Bus, layout: &Layout, so: impl Fn(&Plan) -> bool) -> Plan {
    let until = Instant::now() + PATIENCE;
    loop {
        let plan = topics::plan(bus, layout).unwrap();
        if so(&plan) {
            return plan;
        }
        assert!(Instant::now() < until, "{plan:?}");
    }
}

#[test]
#[ignore = "needs Kafka: tests/run bus"]
fn the_brokers_tell_their_time_on_a_topic_that_they_stamp() {
    let bus = connect(&[]);
    let clock = topic_with(&bus, "clock", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let reading = bus.clock(&clock).unwrap().unwrap();
    assert!(
        reading.ahead_ms.abs() <= reading.uncertain_ms + 1000 && !reading.is_off(),
        "{reading}: one host, one clock"
    );
    let unstamped = topic(&bus, "unstamped", 1);
    let error = bus.clock(&unstamped).unwrap_err().to_string();
    assert!(error.contains("not stamped by the broker") && error.contains("topics apply"), "{error}");
    let absent = unique("absent");
    let error = bus.clock(&absent).unwrap_err().to_string();
    assert!(error.contains("doesn't exist"), "{error}");
    assert_eq!(bus.partitions(&absent).unwrap(), None, "asking makes no topic");
}
