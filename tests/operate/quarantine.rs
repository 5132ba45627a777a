//! The processor with one person's state gone bad: set aside, the others go on, and all of it made up for once it is mended.

use lockstep::api::ReadModel;
use lockstep::bus::embedded::{Clock, EmbeddedBus, VirtualClock};
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Outgoing};
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::codec::source::SourceDecoder;
use lockstep::entity::pack::Pack;
use lockstep::entity::{IdentityHead, key};
use lockstep::model::topic::TopicNames;
use lockstep::model::{
    Action, Address, Alert, AlertKind, AlertState, Body, BundleHash, Cause, Command, Decision, DecisionKind, EntityKey,
    EventId, IdentityId, InboxRecord, Incoming, Message, Op, Operation, Origin, RecordChange, RoutingKey, SourceEvent,
    Timestamp, Value, envelope,
};
use lockstep::rules::{Bundle, PublicFormat, SourceFile};
use lockstep::runtime::{BundleStore, Codecs, Now, Processor, ProcessorSettings, Publisher, RestoreSettings};
use lockstep::store::memory::MemoryStores;
use lockstep::store::{Stores, Write};
use lockstep::telemetry::{Health, Metrics};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 1;
const FILES: [(&str, &str); 3] = [
    (
        "sources/hr.yaml",
        "source: hr\ntopic: hr.workers\ntenant: acme\nformat: json\nevent: { id: id, order: sequence }\n\
         record: { id: worker }\nattributes: { number: worker, name: name, status: status, end: { path: end, type: date } }\n",
    ),
    (
        "identity.yaml",
        "kinds:\n  person:\n    anchor: hr\n    correlate: [number]\n    attributes: { number: [hr.number], name: [hr.name], status: [hr.status], end: [hr.end] }\n    lifecycle: { active: \"status == 'active'\", end: end }\n",
    ),
    (
        "targets/wiki.yaml",
        "target: wiki\nconnector: { sql: { url: 'sqlite:${data}/wiki.db', accounts: { table: users, key: id, \
         columns: { login: login, name: name }, active: { column: active, true: 1, false: 0 } } } }\n\
         account: { match: login, attributes: { login: number, name: name } }\n",
    ),
];

struct House {
    clock: VirtualClock,
    bus: Arc<dyn Bus>,
    stores: MemoryStores,
    topics: TopicNames,
    codec: Arc<PublicCodec>,
    metrics: Arc<Metrics>,
    processor: Processor,
    partitions: u32,
}

fn bundle(files: &[(&str, &str)]) -> Arc<Bundle> {
    let files: Vec<_> =
        files.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect();
    Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")))
}

impl House {
    fn new() -> Self {
        Self::of(PARTITIONS)
    }

    /// With so many inbox partitions; whoever is looked at more closely has to lie in the first.
    fn of(partitions: u32) -> Self {
        let clock = VirtualClock::at(Timestamp(1_700_000_000_000));
        let now: Now = Arc::new(clock.clone());
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(now));
        let topics = TopicNames::new("lockstep.");
        let wishes = Wishes { inbox_partitions: partitions, command_partitions: 1, ..Wishes::default() };
        let mut specs = topics::specs(&topics, &["wiki".into()], &wishes);
        specs.push(topics::source("hr.workers", 1));
        bus.create(&specs).unwrap();
        Self::begin(clock, bus, MemoryStores::new(), bundle(&FILES), partitions)
    }

    fn begin(
        clock: VirtualClock,
        bus: Arc<dyn Bus>,
        stores: MemoryStores,
        bundle: Arc<Bundle>,
        partitions: u32,
    ) -> Self {
        let topics = TopicNames::new("lockstep.");
        let (codec, metrics) = (Arc::new(PublicCodec::new(None)), Arc::new(Metrics::new()));
        let settings = ProcessorSettings {
            topics: topics.clone(),
            group: "processor".to_owned(),
            instance: "0".to_owned(),
            inbox_partitions: partitions,
            dead_letter_bytes: 1 << 20,
            through_inbox: false,
            // So that damage to the disk is met at once.
            cache_bytes: 0,
            record_bytes: 1 << 20,
            restore: RestoreSettings { threads: 0, chunk: 100 },
        };
        let sources = SourceDecoder::new(None, ["acme".into()].into(), 262_144);
        let processor = Processor::start(
            settings,
            Arc::clone(&bus),
            Arc::new(stores.clone()),
            bundle,
            Publisher::new(Arc::clone(&codec), Arc::clone(&metrics)),
            Arc::new(Codecs { public: Arc::clone(&codec), sources }),
            Arc::clone(&metrics),
            Arc::default(),
            Arc::new(clock.clone()),
        )
        .unwrap();
        Self { clock, bus, stores, topics, codec, metrics, processor, partitions }
    }

    /// The processor ends; another takes up, with these rules and without what was on the disk.
    fn restart(self, bundle: Arc<Bundle>) -> Self {
        let Self { clock, bus, processor, partitions, .. } = self;
        processor.stop().unwrap();
        let mut house = Self::begin(clock, bus, MemoryStores::new(), bundle, partitions);
        house.settle();
        house
    }

    /// HR says so, and everything that follows is done.
    fn hr(&mut self, worker: &str, sequence: u32, name: &str) {
        self.says(worker, sequence, name, "active");
    }

    fn says(&mut self, worker: &str, sequence: u32, name: &str, status: &str) {
        self.event(worker, sequence, serde_json::json!({ "name": name, "status": status }));
    }

    /// Somebody whose contract ends on a day.
    fn ends(&mut self, worker: &str, sequence: u32, end: &str) {
        self.event(worker, sequence, serde_json::json!({ "name": "Ada", "status": "active", "end": end }));
    }

    fn event(&mut self, worker: &str, sequence: u32, mut event: serde_json::Value) {
        event["id"] = format!("{worker}-{sequence}").into();
        event["sequence"] = sequence.into();
        event["worker"] = worker.into();
        let key = worker.as_bytes().to_vec();
        self.put("hr.workers", key, Some(event.to_string().into_bytes()));
        self.settle();
    }

    fn put(&self, topic: &str, key: Vec<u8>, value: Option<Vec<u8>>) {
        let record =
            Outgoing { topic: topic.to_owned(), partition: Some(0), key: Some(key), value, headers: Vec::new() };
        self.bus.append(vec![record]).unwrap();
    }

    /// An operator's wish, as the api writes it.
    fn operate(&mut self, id: &str, action: Action) {
        let at = self.clock.now();
        let operation = Operation { id: id.to_owned(), tenant: "acme".into(), actor: "cli".to_owned(), at, action };
        let topic = self.topics.operations();
        let encoded = self.codec.encode(PublicFormat::Json, &topic, &operation).unwrap();
        self.put(&topic, id.as_bytes().to_vec(), Some(encoded.value));
        self.settle();
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let turn = self.processor.turn(Duration::ZERO).unwrap();
            quiet = if turn.committed || turn.more { 0 } else { quiet + 1 };
            self.wait(Duration::from_millis(500));
        }
    }

    fn wait(&self, time: Duration) {
        self.clock.set(self.clock.now().plus(time));
    }

    fn records(&self, topic: &str) -> Vec<Incoming> {
        let end = self.bus.ends(topic, 0).unwrap();
        let mut reader = self.bus.reader().unwrap();
        reader.seek(topic, 0, end.start).unwrap();
        let mut found = Vec::new();
        while reader.position(topic, 0).unwrap() < end.end {
            found.extend(reader.poll(100, Duration::ZERO).unwrap());
        }
        found
    }

    fn read<T: Public>(&self, topic: &str) -> Vec<T> {
        let values = self.records(topic).into_iter().filter_map(|record| record.value);
        values.map(|value| self.codec.decode(&value).unwrap()).collect()
    }

    /// What is on `source-dead-letters`: the reason and the detail of each.
    fn dead_letters(&self) -> Vec<(String, String)> {
        let header = |record: &Incoming, name: &str| {
            let (_, value) = record.headers.iter().find(|(header, _)| header == name).unwrap();
            String::from_utf8(value.clone()).unwrap()
        };
        let records = self.records(&self.topics.source_dead_letters());
        records.iter().map(|r| (header(r, "lockstep_reason"), header(r, "lockstep_detail"))).collect()
    }

    /// Commands of the account with this login, by the name they set.
    fn names(&self, worker: &str) -> Vec<(Op, String)> {
        let commands = self.read::<Command>(&self.topics.commands(&"wiki".into()));
        let text = |command: &Command, name: &str| command.desired.attributes.get(name)?.as_text().map(str::to_owned);
        let own = commands.iter().filter(|command| text(command, "login").as_deref() == Some(worker));
        own.map(|command| (command.op, text(command, "name").unwrap())).collect()
    }

    fn quarantine_alerts(&self) -> Vec<AlertState> {
        let alerts = self.read::<Alert>(&self.topics.alerts());
        alerts.iter().filter(|alert| alert.kind == AlertKind::Quarantined).map(|alert| alert.state).collect()
    }

    fn identity(&self, worker: &str) -> EntityKey {
        let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &worker.into());
        EntityKey::Identity { tenant: "acme".into(), identity }
    }

    /// A row by its key, wherever it lies.
    fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        let beside = self.stores.open("state", 0).unwrap().get(key).unwrap();
        let packed = || self.packed(key).map(|(_, pack, entity, row)| pack.get(&entity, &row).unwrap().to_vec());
        beside.or_else(packed)
    }

    /// The pack that has a row: its key, what it holds, the entity's key and the row's name.
    fn packed(&self, key: &[u8]) -> Option<(Vec<u8>, Pack, Vec<u8>, String)> {
        let (of, row) = key::parse(key).filter(|(_, row)| !row.starts_with('~'))?;
        let packs = self.stores.open("state", 0).unwrap().scan(&key::packs(), &key::packs(), 100).unwrap();
        let packs = packs.into_iter().filter_map(|(key, bytes)| Some((key, Pack::open(&bytes).ok()?)));
        let mut having = packs.filter(|(_, pack)| pack.get(&key::entity(&of), &row).is_some());
        having.next().map(|(pack_key, pack)| (pack_key, pack, key::entity(&of), row))
    }

    /// The head of a person's identity, as it lies on the disk.
    fn head(&self, worker: &str) -> (Vec<u8>, Vec<u8>) {
        let key = key::row(&self.identity(worker), key::HEAD);
        let value = self.row(&key).unwrap();
        (key, value)
    }

    /// The record that holds a row, with this value of the row.
    fn with(&self, key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        match self.packed(key) {
            Some((pack_key, mut pack, entity, row)) => {
                assert!(pack.put(&entity, &row, Some(value.to_vec())).is_empty());
                (pack_key, pack.seal().unwrap())
            }
            None => (key.to_vec(), value.to_vec()),
        }
    }

    fn overwrite(&self, key: &[u8], value: &[u8]) {
        let mut store = self.stores.open("state", 0).unwrap();
        let position = store.position().unwrap().unwrap();
        let (key, value) = self.with(key, value);
        store.apply(&[Write { key, value: Some(value), timer: None }], position).unwrap();
    }

    fn order(&self, worker: &str) -> (EntityKey, RoutingKey) {
        (self.identity(worker), RoutingKey::of(&"acme".into(), worker))
    }

    fn listed(&self) -> Vec<String> {
        let (health, cancel) = (Health::new(), CancellationToken::new());
        let model = ReadModel::new(&health);
        let targets = ["wiki".into()];
        let follow = model.follow(
            Arc::clone(&self.bus),
            &self.topics,
            &targets,
            Arc::clone(&self.codec),
            &health,
            cancel.clone(),
        );
        assert!(model.wait(Duration::from_secs(20)));
        let lines = model.read().quarantined(None);
        cancel.cancel();
        follow.unwrap().join().unwrap();
        lines.into_iter().map(|line| format!("{}: {}", line.entity, line.reason)).collect()
    }
}

#[test]
fn an_entity_whose_state_is_unreadable_waits_alone_and_makes_up_for_all_of_it_in_order() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (key, good) = house.head("W1");
    house.overwrite(&key, b"\xffnot of any release");

    house.hr("W1", 2, "Ada B.");
    house.hr("W2", 2, "Bob C.");
    house.hr("W1", 3, "Ada Byron");
    let create = |name: &str| (Op::Create, name.to_owned());
    let update = |name: &str| (Op::Update, name.to_owned());
    assert_eq!(house.names("W1"), [create("Ada")], "it is set aside");
    assert_eq!(house.names("W2"), [create("Bob"), update("Bob C.")], "the others go on");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised], "once, however many events wait");
    assert_eq!(house.metrics.quarantined_entities.get(), 1);
    let listed = house.listed();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].starts_with("identity acme/") && listed[0].contains("can't be read: version 255"), "{listed:?}");

    // Tried again while nothing is mended: it stays, and says nothing new.
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!((house.names("W1").len(), house.quarantine_alerts().len()), (1, 1));

    house.overwrite(&key, &good);
    house.hr("W1", 4, "Ada Lovelace");
    assert_eq!(house.names("W1").len(), 1, "not before its turn: what waits goes first");
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(
        house.names("W1"),
        [create("Ada"), update("Ada B."), update("Ada Byron"), update("Ada Lovelace")],
        "each event in its order"
    );
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
    assert_eq!(house.metrics.quarantined_entities.get(), 0);
    assert_eq!(house.listed(), Vec::<String>::new());
}

const GARBAGE: &[u8] = b"\xffnot of any release";

fn update(name: &str) -> (Op, String) {
    (Op::Update, name.to_owned())
}

#[test]
fn a_step_that_panics_costs_its_entity_and_nobody_else() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (key, good) = house.head("W1");
    // The next question to the Guard can't be counted any more: the step ends in a panic.
    let head = envelope::open::<IdentityHead>(&good).unwrap();
    house.overwrite(&key, &envelope::seal(&IdentityHead { epoch: u64::MAX, ..head }));
    house.says("W1", 2, "Ada", "left");
    house.says("W2", 2, "Bob", "left");
    assert_eq!(house.names("W1").len(), 1, "its removal waits");
    assert_eq!(house.names("W2").last().unwrap().0, Op::Disable, "the others go on");
    let listed = house.listed();
    assert!(listed.len() == 1 && listed[0].ends_with("its step panicked; the log has the place"), "{listed:?}");

    house.overwrite(&key, &good);
    let (entity, routing_key) = house.order("W1");
    house.operate("o-1", Action::QuarantineRetry { entity, routing_key });
    assert_eq!(house.names("W1").last().unwrap().0, Op::Disable);
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
    let decisions = house.read::<Decision>(&house.topics.decisions());
    let retried = decisions
        .iter()
        .any(|line| matches!(&line.kind, DecisionKind::QuarantineRetried { operation, .. } if operation == "o-1"));
    assert!(retried, "the audit says who had it tried again");
}

/// What an expression can do to the one who evaluates it, by what a source says. It costs the target and nothing else.
#[test]
fn an_expression_that_blows_up_blocks_its_target_and_quarantines_nobody() {
    for (expression, good, bad) in [
        ("string(9223372036854775807 + int(name))", "0", "1"),
        ("string(-9223372036854775807 - int(name))", "1", "2"),
        ("string(9223372036854775807 * int(name))", "1", "2"),
        ("string(10 / int(name))", "5", "0"),
        ("string(10 % int(name))", "5", "0"),
        ("string((-9223372036854775807 - 1) / int(name))", "2", "-1"),
        ("['a', 'b'][int(name)]", "1", "7"),
        ("['a', 'b'][int(name)]", "1", "-1"),
        ("string(int(name))", "1", "no number"),
    ] {
        let target = FILES[2].1.replace("name: name } }", &format!("name: \"{expression}\" }} }}"));
        let mut house = House::new().restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
        house.hr("W1", 1, good);
        house.hr("W1", 2, bad);
        house.hr("W2", 1, good);
        let alerts = house.read::<Alert>(&house.topics.alerts());
        let failed = alerts.iter().filter(|alert| alert.kind == AlertKind::RuleFailed).count();
        assert_eq!((failed, alerts.len()), (1, 1), "{expression} with {bad}: {alerts:?}");
        assert_eq!((house.names("W1").len(), house.names("W2").len()), (1, 1), "{expression}: nobody else is held up");
        house.says("W1", 3, bad, "left");
        assert_eq!(house.names("W1").last().unwrap().0, Op::Disable, "{expression}: a leaver is out all the same");
        assert_eq!(house.metrics.quarantined_entities.get(), 0, "{expression}");
    }
}

#[test]
fn a_waiting_message_that_cannot_be_read_holds_the_others_until_it_is_readable_or_skipped() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    for (sequence, name) in [(2, "Ada B."), (3, "Ada Byron"), (4, "Ada Lovelace")] {
        house.hr("W1", sequence, name);
    }
    let second = key::row(&house.identity("W1"), "~w/0000000000000001");
    house.overwrite(&second, GARBAGE);
    house.overwrite(&head, &good);
    let (entity, routing_key) = house.order("W1");
    let retry = || Action::QuarantineRetry { entity: entity.clone(), routing_key: routing_key.clone() };
    house.operate("o-1", retry());
    let created = (Op::Create, "Ada".to_owned());
    assert_eq!(house.names("W1"), [created.clone(), update("Ada B.")], "up to what can't be read");
    house.hr("W1", 5, "Ada King");
    assert_eq!(house.names("W1").len(), 2, "what comes waits behind it");
    let listed = house.listed();
    assert!(listed[0].contains("the message that waits can't be read: version 255"), "{listed:?}");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised]);

    let skip = |position| Action::QuarantineSkip { entity: entity.clone(), routing_key: routing_key.clone(), position };
    house.operate("o-2", skip(0));
    assert_eq!(
        (house.names("W1").len(), house.dead_letters().len()),
        (2, 0),
        "that one is long gone: nothing is skipped"
    );
    house.operate("o-3", skip(1));
    assert_eq!(house.names("W1"), [created, update("Ada B."), update("Ada Lovelace"), update("Ada King")]);
    house.operate("o-3", skip(1));
    let letters = house.dead_letters();
    assert_eq!(letters.len(), 1, "once: {letters:?}");
    assert!(letters[0].0 == "skipped" && letters[0].1.starts_with("identity acme/"), "{letters:?}");
    assert_eq!(house.records(&house.topics.source_dead_letters())[0].value.as_deref(), Some(GARBAGE), "as it was");
    assert_eq!(house.quarantine_alerts(), [AlertState::Raised, AlertState::Resolved]);
}

#[test]
fn what_an_entity_sends_once_it_is_mended_is_not_overtaken_by_what_it_sends_after() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let route = RoutingKey::of(&"acme".into(), "W1");
    let record =
        EntityKey::Record { tenant: "acme".into(), source: "hr".into(), record: "W1".into(), route: route.clone() };
    let head = key::row(&record, key::HEAD);
    let good = house.row(&head).unwrap();
    house.overwrite(&head, GARBAGE);
    house.hr("W1", 2, "Ada B.");
    house.hr("W1", 3, "Ada Byron");
    house.overwrite(&head, &good);

    // In one batch: it is tried again, and then HR says something new.
    let to = Address { routing_key: route.clone(), entity: record.clone() };
    let action = Action::QuarantineRetry { entity: record, routing_key: route.clone() };
    let at = house.clock.now();
    let operation = Operation { id: "o".into(), tenant: "acme".into(), actor: "cli".into(), at, action };
    let event = SourceEvent {
        tenant: "acme".into(),
        source: "hr".into(),
        record: "W1".into(),
        routing_key: route,
        id: EventId::new("W1-4"),
        order: Some(4),
        time: at,
        change: RecordChange::Replace(
            [("number", "W1"), ("name", "Ada Lovelace"), ("status", "active")].map(|(n, v)| (n, Value::from(v))).into(),
        ),
        origin: Origin { topic: "hr.workers".into(), partition: 0, offset: 3 },
        traceparent: None,
    };
    for body in [Body::Operation(operation), Body::Source(event)] {
        let message = Message { to: to.clone(), body, cause: Cause::own("test".to_owned(), at) };
        house.put(&house.topics.inbox(), b"x".to_vec(), Some(envelope::seal(&InboxRecord::Message(message))));
    }
    house.settle();
    assert_eq!(
        house.names("W1"),
        [(Op::Create, "Ada".to_owned()), update("Ada B."), update("Ada Byron"), update("Ada Lovelace")],
        "each in its order"
    );
}

#[test]
fn more_than_a_turn_takes_is_made_up_for_in_order_while_more_comes() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    for sequence in 2..=250 {
        house.hr("W1", sequence, &format!("Ada {sequence}"));
    }
    house.overwrite(&head, &good);
    let (entity, routing_key) = house.order("W1");
    house.operate("o", Action::QuarantineRetry { entity, routing_key });
    house.hr("W1", 251, "Ada 251");
    let expected: Vec<_> = (2..=251).map(|sequence| update(&format!("Ada {sequence}"))).collect();
    assert_eq!(house.names("W1")[1..], expected);
    assert_eq!(house.metrics.quarantined_entities.get(), 0);
}

#[test]
fn a_quarantine_row_that_cannot_be_read_loses_nothing_of_what_waits() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let (head, good) = house.head("W1");
    house.overwrite(&head, GARBAGE);
    house.hr("W1", 2, "Ada B.");
    house.hr("W1", 3, "Ada Byron");
    house.overwrite(&key::row(&house.identity("W1"), key::QUARANTINE), GARBAGE);
    house.hr("W1", 4, "Ada Lovelace");
    assert_eq!(house.dead_letters(), [], "it waits like the others");
    assert_eq!(house.listed().len(), 1);
    house.overwrite(&head, &good);
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(house.names("W1")[1..], [update("Ada B."), update("Ada Byron"), update("Ada Lovelace")]);
}

#[test]
fn a_timer_that_finds_its_identity_unreadable_waits_and_what_it_asks_is_answered_to_the_right_address() {
    // Of several partitions the first is not where an empty key would lead.
    let partitions = (2..).find(|count| RoutingKey::new("").partition(*count).0 != 0).unwrap();
    let route = |worker: &str| RoutingKey::of(&"acme".into(), worker);
    let worker = (1..).map(|n| format!("W{n}")).find(|worker| route(worker).partition(partitions).0 == 0).unwrap();
    let mut house = House::of(partitions);
    let date = |days: u64| house.clock.now().plus(Duration::from_secs(days * 86_400)).to_string()[..10].to_owned();
    let last = date(2);
    house.ends(&worker, 1, &last);
    assert_eq!(house.names(&worker).len(), 1);
    let (head, good) = house.head(&worker);
    house.overwrite(&head, GARBAGE);
    // The last day is over, and nobody can say whose day it was.
    house.wait(Duration::from_secs(4 * 86_400));
    house.settle();
    assert_eq!((house.names(&worker).len(), house.listed().len()), (1, 1));
    house.overwrite(&head, &good);
    house.wait(Duration::from_secs(301));
    house.settle();
    assert_eq!(house.names(&worker).last().unwrap().0, Op::Disable, "the Guard's answer found it");
    assert_eq!(house.listed(), Vec::<String>::new());
}

#[test]
fn a_deadline_whose_timer_cannot_be_read_is_kept_all_the_same() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.says("W1", 2, "Ada", "left");
    let timer = key::row(&house.identity("W1"), "~t/deadline/wiki");
    assert!(house.row(&timer).is_some(), "its clock runs");
    house.put(&house.topics.state(), timer, Some(GARBAGE.to_vec()));
    let mut house = house.restart(bundle(&FILES));
    let overdue = |house: &House| {
        let alerts = house.read::<Alert>(&house.topics.alerts());
        alerts.iter().filter(|alert| alert.kind == AlertKind::DeprovisionOverdue).count()
    };
    assert_eq!(overdue(&house), 0, "not before its time");
    house.wait(Duration::from_secs(3600));
    house.settle();
    assert_eq!(overdue(&house), 1);
}

#[test]
fn a_sweep_sets_aside_whom_it_cannot_read_and_brings_the_others_up_to_the_rules() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    house.hr("W2", 1, "Bob");
    let (head, _) = house.head("W1");
    let (key, value) = house.with(&head, GARBAGE);
    house.put(&house.topics.state(), key, Some(value));
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let house = house.restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    assert_eq!(house.names("W2").last(), Some(&update("Bob!")));
    assert_eq!(house.names("W1").len(), 1);
    assert_eq!(house.listed().len(), 1, "nobody is passed over in silence");
}

#[test]
fn records_in_the_inbox_that_nobody_can_take_stop_nothing() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let inbox = house.topics.inbox();
    let poison = |house: &House, record: &InboxRecord| house.put(&inbox, b"x".to_vec(), Some(envelope::seal(record)));
    poison(&house, &InboxRecord::Switch { bundle: BundleHash::new("no such rules") });
    let long = EntityKey::Guard { tenant: "a".repeat(70_000).as_str().into() };
    let to = Address { routing_key: "x".into(), entity: long };
    let cause = Cause::own("test".to_owned(), house.clock.now());
    poison(&house, &InboxRecord::Message(Message { to, body: Body::Reevaluate, cause }));
    house.put(&inbox, b"x".to_vec(), Some(GARBAGE.to_vec()));
    house.hr("W1", 2, "Ada B.");
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.")));
    let reasons: Vec<String> = house.dead_letters().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["unreadable", "unreadable"]);
    assert_eq!(house.metrics.partitions_behind_rules.get(), 1, "it decides by the rules it had, and says so");

    // A process that knows no better goes on so; the next switch mends it.
    let house = house.restart(bundle(&FILES));
    assert_eq!(house.metrics.partitions_behind_rules.get(), 1);
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let house = house.restart(bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.!")));
    assert_eq!(house.metrics.partitions_behind_rules.get(), 0);
}

#[test]
fn rules_that_are_changed_and_changed_back_within_one_batch_are_those_that_were_named_last() {
    let mut house = House::new();
    house.hr("W1", 1, "Ada");
    let target = FILES[2].1.replace("name: name } }", "name: \"name + '!'\" } }");
    let (own, other) = (bundle(&FILES), bundle(&[FILES[0], FILES[1], (FILES[2].0, &target)]));
    for rules in [&other, &own] {
        let store = BundleStore::new(Arc::clone(&house.bus), house.topics.clone(), Arc::clone(rules));
        assert!(store.announce(rules, PARTITIONS).unwrap());
    }
    house.settle();
    assert_eq!(house.row(&key::meta("bundle")).as_deref(), Some(own.hash().as_str().as_bytes()));
    house.hr("W1", 2, "Ada B.");
    assert_eq!(house.names("W1").last(), Some(&update("Ada B.")));
}

/// Each row of the state in turn, damaged in three ways, on the topic itself: the processor restores, steps, fires, and goes on.
#[test]
fn whatever_row_is_damaged_a_restart_goes_well_and_the_others_are_served() {
    let story = || {
        let mut house = House::new();
        house.hr("W1", 1, "Ada");
        house.hr("W2", 1, "Bob");
        house.says("W1", 2, "Ada", "left");
        let (head, _) = house.head("W2");
        house.overwrite(&head, GARBAGE);
        house.hr("W2", 2, "Bob B.");
        house
    };
    let rows = story().stores.open("state", 0).unwrap().scan(b"", b"", 1000).unwrap();
    assert!(rows.len() > 10, "records, index, identities, accounts, a guard, a quarantine, timers: {}", rows.len());
    for (key, good) in rows {
        for bad in [&[][..], GARBAGE, &good[..good.len() / 2]] {
            let house = story();
            house.put(&house.topics.state(), key.clone(), Some(bad.to_vec()));
            let mut house = house.restart(bundle(&FILES));
            house.wait(Duration::from_secs(3600));
            house.hr("W1", 3, "Ada Byron");
            house.hr("W2", 3, "Bob C.");
            house.hr("W3", 1, "Cid");
            house.wait(Duration::from_secs(3600));
            house.settle();
            assert_eq!(house.names("W3"), [(Op::Create, "Cid".to_owned())], "after damage to {key:?}");
        }
    }
}
