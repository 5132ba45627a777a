//! The processor's loop on an embedded bus in memory, turn by turn.

use super::partition::{Emitted, Partition};
use super::{Codecs, Processor, ProcessorSettings, Publisher, RestoreSettings};
use crate::bus::embedded::{Clock as _, EmbeddedBus, VirtualClock};
use crate::bus::topics::{self, Wishes};
use crate::bus::{BatchLimit, Bus, Membership, Outgoing, Poll, Session};
use crate::codec::public::PublicCodec;
use crate::codec::source::SourceDecoder;
use crate::entity::Emission;
use crate::model::topic::TopicNames;
use crate::model::{
    Address, Attributes, Body, Cause, Command, IdentityId, Message, RecordId, RoutingKey, SourceName, TenantId,
    Timestamp, Value,
};
use crate::rules::{Bundle, SourceFile};
use crate::store::memory::MemoryStores;
use crate::store::{StoreError, Stores};
use std::sync::Arc;
use std::time::Duration;

/// 2026-03-02T09:00:00Z.
const NINE: Timestamp = Timestamp(1_772_442_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

const FILES: [(&str, &str); 3] = [
    (
        "sources/hr.yaml",
        "source: hr\ntopic: hr\ntenant: acme\nformat: json\nevent: { id: id, order: sequence }\nrecord: { id: worker }\n\
         attributes: { number: worker, end: { path: end, type: date } }\n",
    ),
    (
        "identity.yaml",
        "kinds:\n  person:\n    anchor: hr\n    attributes: { number: [hr.number], end: [hr.end] }\n    lifecycle: { end: end }\n",
    ),
    (
        "targets/wiki.yaml",
        "target: wiki\nconnector: { sql: { url: 'sqlite:x', accounts: { table: users, key: id, columns: { login: login }, \
         active: { column: active, true: 1, false: 0 } } } }\naccount: { match: login, attributes: { login: LOGIN } }\n",
    ),
];

/// With the login by this expression.
fn rules(login: &str) -> Arc<Bundle> {
    let text = |text: &str| text.replace("LOGIN", login);
    let files = FILES.map(|(path, file)| SourceFile { path: path.into(), text: text(file) });
    Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")))
}

/// A member that has its partitions: one of the inbox and one of a source, `hr`.
pub(super) fn member_at(now: Timestamp) -> (Arc<dyn Bus>, TopicNames, Box<dyn Session>) {
    let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(Arc::new(VirtualClock::at(now))));
    let names = TopicNames::new("");
    let topics = vec![names.inbox(), "hr".to_owned()];
    bus.create(&topics.iter().map(|name| topics::source(name, 1)).collect::<Vec<_>>()).unwrap();
    let membership = Membership { group: "g".into(), instance: "0".into(), topics };
    let mut session = bus.join(&membership).unwrap();
    while !matches!(session.poll(BatchLimit::new(9, 999), Duration::ZERO).unwrap(), Poll::Assigned(_)) {}
    (bus, names, session)
}

/// A leaver's identity was set aside and is tried again by its timer. What it asks the Guard, which lives in another partition, is
/// for that one to answer.
#[test]
fn what_a_released_entity_sends_goes_to_the_partition_that_it_is_for() {
    const PARTITIONS: u32 = 64;
    const RETRY: Duration = Duration::from_secs(300);
    let (tenant, source): (TenantId, SourceName) = ("acme".into(), "hr".into());
    let guard = Address::guard(tenant.clone());
    let elsewhere = |key: &RoutingKey| key.partition(PARTITIONS) != guard.routing_key.partition(PARTITIONS);
    let keys = (0..).map(|n| RoutingKey::of(&tenant, &format!("w{n}")));
    let routing_key = keys.into_iter().find(elsewhere).expect("only one in 64 lies beside it");
    let rules = rules("number");
    let mut partition = Partition::open(
        routing_key.partition(PARTITIONS),
        PARTITIONS,
        1 << 20,
        1 << 20,
        MemoryStores::new().open("state", 0).unwrap(),
        &rules,
        |_| Ok::<_, StoreError>(None),
    )
    .unwrap();
    let identity = Address::identity(routing_key.clone(), tenant, IdentityId("i".into()));
    let record = |end: &str| Message {
        to: identity.clone(),
        body: Body::RecordChanged {
            source: source.clone(),
            record: RecordId("w".into()),
            attributes: Attributes::from([("number", Value::from("w")), ("end", Value::from(end))]),
            time: NINE,
            route: routing_key.clone(),
        },
        cause: Cause::own("event".into(), NINE),
    };
    let mut emitted = Emitted::default();
    partition.tick(NINE);
    partition.deliver(record("2027-03-02T10:00:00Z"), &mut emitted).unwrap();
    partition.set_aside(record("2026-03-01T10:00:00Z"), "for a test".to_owned(), &mut emitted);
    partition.changelog("state");
    partition.settle(1).unwrap();

    let mut emitted = Emitted::default();
    partition.tick(NINE.plus(RETRY));
    partition.fire_timers(10, &mut emitted).unwrap();
    assert_eq!(emitted.steps, [("identity", "done")]);
    let sent: Vec<_> = emitted.sends.iter().map(|message| (&message.to, message.body.kind())).collect();
    assert_eq!(sent, [(&guard, "permit_request")]);
    let commands = emitted.emissions.iter().filter(|emission| matches!(emission, Emission::Command(_))).count();
    assert_eq!(commands, 0, "nobody has permitted it yet");
}

struct House {
    bus: Arc<EmbeddedBus>,
    names: TopicNames,
    clock: VirtualClock,
    disk: MemoryStores,
    codec: Arc<PublicCodec>,
    bundle: Arc<Bundle>,
}

impl House {
    fn new() -> Self {
        let clock = VirtualClock::at(NINE);
        let bus = Arc::new(EmbeddedBus::memory(Arc::new(clock.clone())));
        let names = TopicNames::new("lockstep.");
        let wishes = Wishes { inbox_partitions: 1, command_partitions: 1, ..Wishes::default() };
        let mut specs = topics::specs(&names, &["wiki".into()], &wishes);
        specs.push(topics::source("hr", 1));
        bus.create(&specs).unwrap();
        let bundle = rules("number");
        let (disk, codec) = (MemoryStores::new(), Arc::new(PublicCodec::new(None)));
        Self { bus, names, clock, disk, codec, bundle }
    }

    fn process(&self) -> Processor {
        let settings = ProcessorSettings {
            topics: self.names.clone(),
            group: "processor".into(),
            instance: "one".into(),
            inbox_partitions: 1,
            record_bytes: 1 << 20,
            dead_letter_bytes: 1 << 20,
            through_inbox: false,
            cache_bytes: 1 << 20,
            restore: RestoreSettings { threads: 0, ..RestoreSettings::default() },
            slice: 500,
            threads: 1,
        };
        let sources = SourceDecoder::new(None, ["acme".into()].into(), 262_144);
        let codecs = Codecs { public: Arc::clone(&self.codec), sources };
        Processor::start(
            settings,
            Arc::clone(&self.bus) as Arc<dyn Bus>,
            Arc::new(self.disk.clone()),
            Arc::clone(&self.bundle),
            Publisher::new(Arc::clone(&self.codec), Arc::default()),
            Arc::new(codecs),
            Arc::default(),
            Arc::default(),
            Arc::new(self.clock.clone()),
        )
        .unwrap()
    }

    fn pass(&self, span: Duration) {
        self.clock.set(self.clock.now().plus(span));
    }

    fn hr(&self, worker: &str, sequence: u32, end: &str) {
        self.hr_times(1, worker, sequence, end);
    }

    /// The same event, again and again.
    fn hr_times(&self, times: usize, worker: &str, sequence: u32, end: &str) {
        let id = format!("{worker}-{sequence}");
        let event = serde_json::json!({ "id": id, "sequence": sequence, "worker": worker, "end": end }).to_string();
        let (topic, key) = ("hr".to_owned(), Some(worker.into()));
        let record = Outgoing { topic, partition: None, key, value: Some(event.into()), headers: Vec::new() };
        self.bus.append(vec![record; times]).unwrap();
    }

    /// Every command so far: `create 1`.
    fn commands(&self) -> Vec<String> {
        let topic = self.names.commands(&"wiki".into());
        let mut reader = self.bus.reader().unwrap();
        reader.seek(&topic, 0, 0).unwrap();
        let records = reader.poll(1_000, Duration::ZERO).unwrap();
        let told = records.iter().map(|record| {
            let command: Command = self.codec.decode(record.value.as_deref().unwrap()).unwrap();
            format!("{} {}", command.op, command.desired.attributes.get("login").unwrap().as_text().unwrap())
        });
        told.collect()
    }
}

/// As long as it has something to do.
fn run(processor: &mut Processor) {
    for _ in 0..20 {
        processor.turn(Duration::ZERO).unwrap();
    }
}

#[test]
fn what_was_called_off_while_nobody_was_there_does_not_happen_on_the_way() {
    for new_rules in [false, true] {
        called_off(new_rules);
    }
}

fn called_off(new_rules: bool) {
    let mut house = House::new();
    let mut first = house.process();
    house.hr("extended", 1, "2026-03-02T10:00:00Z");
    house.hr("leaver", 1, "2026-03-02T10:00:00Z");
    run(&mut first);
    assert_eq!(house.commands(), ["create extended", "create leaver"]);
    first.stop().unwrap();

    // Their access ends at ten, or so it was; nobody runs until eleven.
    house.pass(HOUR / 2);
    house.hr("extended", 2, "2027-03-02T10:00:00Z");
    house.pass(HOUR + HOUR / 2);
    if new_rules {
        // All are decided anew by them, which asks for the time as a timer does.
        house.bundle = rules("\"number + ''\"");
    }
    let mut second = house.process();
    run(&mut second);
    assert_eq!(house.commands(), ["create extended", "create leaver", "disable leaver"], "new rules: {new_rules}");
}

#[test]
fn a_backlog_that_is_never_read_to_its_end_keeps_no_leaver_waiting_for_long() {
    let house = House::new();
    let mut first = house.process();
    house.hr("leaver", 1, "2026-03-02T10:00:00Z");
    run(&mut first);
    first.stop().unwrap();
    house.pass(2 * HOUR);

    // More than is read within the time that timers wait.
    house.hr_times(40_000, "other", 1, "2027-03-02T10:00:00Z");
    let mut second = house.process();
    let began = house.clock.now();
    while !house.commands().contains(&"disable leaver".to_owned()) {
        second.turn(Duration::ZERO).unwrap();
        house.pass(Duration::from_secs(15));
        let waited = house.clock.now().since(began);
        assert!(waited <= Duration::from_secs(120), "{:?}", house.commands());
    }
    assert!(second.turn(Duration::ZERO).unwrap().records > 0, "that was not all");
}
