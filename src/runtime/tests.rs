//! The processor's loop on an embedded bus in memory, turn by turn.

use super::batch::{View, Written};
use super::partition::{Emitted, Partition};
use super::{Announcement, Codecs, Processor, ProcessorError, ProcessorSettings, Publisher, RestoreSettings};
use crate::bus::embedded::{Clock as _, EmbeddedBus, VirtualClock};
use crate::bus::topics::{self, Wishes};
use crate::bus::{BatchLimit, Bus, Membership, Outgoing, Poll, Session};
use crate::codec::public::PublicCodec;
use crate::codec::registry::Registry;
use crate::codec::source::SourceDecoder;
use crate::entity::{Emission, Rows, key};
use crate::model::topic::TopicNames;
use crate::model::{
    Address, Attributes, Body, Cause, Command, IdentityId, Message, Outcome, PartitionId, RecordId, ResultEvent,
    RoutingKey, TenantId, Timestamp, Value,
};
use crate::rules::{Bundle, SourceFile};
use crate::store::memory::MemoryStores;
use crate::store::{StoreError, Stores, Write};
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
        "target: wiki\nformat: FORMAT\nconnector: { sql: { url: 'sqlite:x', accounts: { table: users, key: id, columns: { login: login }, \
         active: { column: active, true: 1, false: 0 } } } }\naccount: { match: login, attributes: { login: LOGIN } }\n",
    ),
];

/// With the login by this expression.
fn rules(login: &str) -> Arc<Bundle> {
    rules_with(login, "json")
}

fn rules_with(login: &str, format: &str) -> Arc<Bundle> {
    let text = |text: &str| text.replace("LOGIN", login).replace("FORMAT", format);
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

/// A partition with nothing in it.
fn empty(id: PartitionId, count: u32, rules: &Arc<Bundle>) -> Partition {
    let store = MemoryStores::new().open("state", 0).unwrap();
    Partition::open(id, count, 1 << 20, 1 << 20, store, rules, |_| Ok::<_, StoreError>(None)).unwrap()
}

fn committed(partition: &mut Partition) {
    partition.changelog("state");
    partition.settle(1).unwrap();
}

/// A person's identity, and a word of the HR record: until when.
fn identity(routing_key: &RoutingKey, name: &str) -> Address {
    Address::identity(routing_key.clone(), "acme".into(), IdentityId(name.into()))
}

fn until(to: &Address, end: &str) -> Message {
    Message {
        to: to.clone(),
        body: Body::RecordChanged {
            source: "hr".into(),
            record: RecordId("w".into()),
            attributes: Attributes::from([("number", Value::from("w")), ("end", Value::from(end))]),
            time: NINE,
            route: to.routing_key.clone(),
        },
        cause: Cause::own("event".into(), NINE),
    }
}

const RETRY: Duration = Duration::from_secs(300);

/// A leaver's identity was set aside and is tried again by its timer. What it asks the Guard, which lives in another partition, is
/// for that one to answer.
#[test]
fn what_a_released_entity_sends_goes_to_the_partition_that_it_is_for() {
    const PARTITIONS: u32 = 64;
    let tenant: TenantId = "acme".into();
    let guard = Address::guard(tenant.clone());
    let elsewhere = |key: &RoutingKey| key.partition(PARTITIONS) != guard.routing_key.partition(PARTITIONS);
    let keys = (0..).map(|n| RoutingKey::of(&tenant, &format!("w{n}")));
    let routing_key = keys.into_iter().find(elsewhere).expect("only one in 64 lies beside it");
    let mut partition = empty(routing_key.partition(PARTITIONS), PARTITIONS, &rules("number"));
    let person = identity(&routing_key, "i");
    let mut emitted = Emitted::default();
    partition.tick(NINE);
    partition.deliver(until(&person, "2027-03-02T10:00:00Z"), &mut emitted).unwrap();
    partition.set_aside(until(&person, "2026-03-01T10:00:00Z"), "for a test".to_owned(), &mut emitted);
    committed(&mut partition);

    let mut emitted = Emitted::default();
    partition.tick(NINE.plus(RETRY));
    partition.fire_timers(10, 100, &mut emitted).unwrap();
    assert_eq!(emitted.steps, [("identity", "done")]);
    let sent: Vec<_> = emitted.sends.iter().map(|message| (&message.to, message.body.kind())).collect();
    assert_eq!(sent, [(&guard, "permit_request")]);
    let commands = emitted.emissions.iter().filter(|emission| matches!(emission, Emission::Command(_))).count();
    assert_eq!(commands, 0, "nobody has permitted it yet");
}

#[test]
fn a_turn_takes_a_bounded_number_of_the_steps_that_wait_for_released_entities() {
    let (waiting, people) = (60, 20);
    let mut partition = empty(PartitionId(0), 1, &rules("number"));
    let routing_key = RoutingKey::of(&"acme".into(), "w");
    let mut emitted = Emitted::default();
    partition.tick(NINE);
    for n in 0..people {
        let person = identity(&routing_key, &format!("i{n}"));
        partition.set_aside(until(&person, "2027-03-02T10:00:00Z"), "for a test".to_owned(), &mut emitted);
        (1..waiting).for_each(|_| partition.deliver(until(&person, "2027-03-02T10:00:00Z"), &mut emitted).unwrap());
    }
    committed(&mut partition);
    partition.tick(NINE.plus(RETRY));
    let (mut steps, mut turns) = (0, 0);
    let mut more = true;
    while more {
        let mut emitted = Emitted::default();
        more = partition.fire_timers(200, 100, &mut emitted).unwrap();
        assert!(emitted.steps.len() < 100 + waiting, "{} steps in one turn", emitted.steps.len());
        steps += emitted.steps.len();
        turns += 1;
        committed(&mut partition);
    }
    assert_eq!(steps, waiting * people);
    assert!(turns >= waiting * people / (100 + waiting), "{turns} turns");
}

#[test]
fn a_timer_of_an_entity_for_which_nothing_more_can_wait_is_not_lost() {
    let mut partition = empty(PartitionId(0), 1, &rules("number"));
    let person = identity(&RoutingKey::of(&"acme".into(), "w"), "i");
    let mut emitted = Emitted::default();
    partition.tick(NINE);
    partition.set_aside(until(&person, "2027-03-02T10:00:00Z"), "for a test".to_owned(), &mut emitted);
    for _ in 1..10_000 {
        partition.deliver(until(&person, "2027-03-02T10:00:00Z"), &mut emitted).unwrap();
    }
    assert!(emitted.undeliverable.is_empty());
    let body = Body::Timer { name: "deadline/wiki".into(), due: NINE };
    partition.deliver(Message { to: person, body, cause: Cause::own("timer".into(), NINE) }, &mut emitted).unwrap();
    committed(&mut partition);
    assert!(emitted.undeliverable.is_empty(), "nobody sends a timer again");
    let timers = partition.store.due(NINE.plus(RETRY), 10).unwrap();
    let names: Vec<_> = timers.iter().filter_map(|timer| Some(key::parse(&timer.key)?.1.to_string())).collect();
    assert!(names.contains(&"~t/deadline/wiki".to_owned()), "{names:?}");
}

/// The store would end the thread, and the next process's after it.
#[test]
fn what_comes_for_an_address_that_no_store_takes_is_a_dead_letter() {
    let mut partition = empty(PartitionId(0), 1, &rules("number"));
    let mut emitted = Emitted::default();
    let long = identity(&RoutingKey::of(&"acme".into(), &"w".repeat(70_000)), "i");
    partition.tick(NINE);
    partition.deliver(until(&long, "2027-03-02T10:00:00Z"), &mut emitted).unwrap();
    assert_eq!((emitted.steps.len(), emitted.undeliverable.len()), (0, 1));
    assert!(partition.changelog("state").iter().flat_map(|record| &record.key).all(|key| key.len() < 70_000));
}

#[test]
fn a_switch_that_follows_another_in_the_first_batch_of_a_partition_sweeps() {
    let (first, second) = (rules("number"), rules("\"number + ''\""));
    let mut partition = empty(PartitionId(0), 1, &first);
    partition.switch(Arc::clone(&first)).unwrap();
    assert!(!partition.is_sweeping(), "there is nobody yet");
    let person = identity(&RoutingKey::of(&"acme".into(), "w"), "i");
    partition.deliver(until(&person, "2027-03-02T10:00:00Z"), &mut Emitted::default()).unwrap();
    partition.switch(second).unwrap();
    assert!(partition.is_sweeping(), "whom the first rules have decided about");
}

#[test]
fn a_sweep_comes_to_everybody_also_to_who_grows_out_of_a_pack_meanwhile() {
    let first = rules("number");
    let mut partition = empty(PartitionId(0), 1, &first);
    partition.switch(first).unwrap();
    let people: Vec<Address> =
        (0..60).map(|n| identity(&RoutingKey::of(&"acme".into(), &format!("w{n:02}")), "i")).collect();
    let commands = |emitted: &Emitted| -> Vec<Command> {
        let commands = emitted.emissions.iter().filter_map(|emission| match emission {
            Emission::Command(command) => Some(command.as_ref().clone()),
            _ => None,
        });
        commands.collect()
    };
    let mut made = Emitted::default();
    partition.tick(NINE);
    people.iter().for_each(|to| partition.deliver(until(to, "2027-03-02T10:00:00Z"), &mut made).unwrap());
    partition.switch(rules("\"number + '!'\"")).unwrap();
    committed(&mut partition);
    let mut made = commands(&made);
    made.sort_by(|a, b| a.routing_key.cmp(&b.routing_key));
    let (last, mut updated) = (made.pop().unwrap(), Vec::new());
    for turn in 0.. {
        if turn == 2 {
            // What the worker says brings nothing to be decided, and no row of the last of them is small any more.
            let result = ResultEvent {
                tenant: last.tenant.clone(),
                target: last.target.clone(),
                account: last.account.clone(),
                identity: last.identity.clone(),
                routing_key: last.routing_key.clone(),
                generation: last.generation,
                op: last.op,
                outcome: Outcome::Verified,
                external_id: Some("x".repeat(20_000)),
                error: None,
                message: None,
                attempt: 1,
                retry_at: None,
                at: NINE,
                source_time: NINE,
                effective: None,
                traceparent: None,
            };
            let to = Address::identity(last.routing_key.clone(), last.tenant.clone(), last.identity.clone());
            let cause = Cause::own("result".into(), NINE);
            let message = Message { to, body: Body::Result(result.into()), cause };
            partition.deliver(message, &mut Emitted::default()).unwrap();
        } else if !partition.is_sweeping() {
            break;
        } else {
            let mut emitted = Emitted::default();
            partition.sweep(50, &mut emitted).unwrap();
            updated.extend(commands(&emitted).into_iter().map(|command| command.routing_key));
        }
        committed(&mut partition);
    }
    updated.sort();
    let mut everybody: Vec<_> = people.into_iter().map(|person| person.routing_key).collect();
    everybody.sort();
    assert_eq!(updated, everybody);
}

#[test]
fn a_scan_goes_on_behind_a_row_without_reading_those_before_it() {
    let guard = Address::guard("acme".into());
    let mut store = MemoryStores::new().open("state", 0).unwrap();
    let row = |name: &str| key::row(&guard.entity, name);
    let put = |name: &str| Write { key: row(name), value: Some("old".into()), timer: None };
    let names = ["head", "held/a", "held/b", "held/c", "held/d", "held/f", "later"];
    store.apply(&names.map(put), 1).unwrap();
    let mut written = Written::default();
    written.put(row("held/a"), None);
    written.put(row("held/c"), None);
    written.put(row("held/e"), Some(b"new".to_vec()));
    let view = View::beside(store.as_ref(), &written, &guard.entity);
    let scan = |after, limit| {
        let rows = view.scan_after("held/", after, limit).into_iter();
        rows.map(|(name, _)| name.trim_start_matches("held/").to_owned()).collect::<Vec<_>>().concat()
    };
    assert_eq!([scan(None, 10), scan(None, 2), scan(Some("held/b"), 2)], ["bdef", "bd", "de"]);
    assert_eq!([scan(Some("held/d"), 9), scan(Some("held/f"), 9), scan(Some(""), 9)], ["ef", "", "bdef"]);
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
        self.begin(&mut Announcement::of(Arc::clone(&self.bundle))).unwrap()
    }

    /// A process's loop, for the first time or anew.
    fn begin(&self, announcement: &mut Announcement) -> Result<Processor, ProcessorError> {
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
            announcement,
            Publisher::new(Arc::clone(&self.codec), Arc::default()),
            Arc::new(codecs),
            Arc::default(),
            Arc::default(),
            Arc::new(self.clock.clone()),
        )
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

    /// The hash of the rules by which the partition decides.
    fn decides_by(&self) -> String {
        let row = self.disk.open("state", 0).unwrap().get(&key::meta("bundle")).unwrap();
        String::from_utf8(row.unwrap()).unwrap()
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

/// A store that was last known to be current long ago is rebuilt, so it has to be said that it is, under load as well; and by
/// nobody who can't know.
#[test]
fn a_store_is_current_as_of_the_last_commit_or_look_and_not_once_another_has_written() {
    let house = House::new();
    let written_at = |house: &House| house.disk.open("state", 0).unwrap().written_at().unwrap();
    let mut process = house.process();
    run(&mut process);
    house.pass(HOUR);
    house.hr("extended", 1, "2026-03-02T20:00:00Z");
    let turn = process.turn(Duration::ZERO).unwrap();
    assert!(turn.committed, "a turn that is not idle");
    process.stop().unwrap();
    assert_eq!(written_at(&house), Some(NINE.plus(HOUR)));

    let mut process = house.process();
    run(&mut process);
    house.pass(HOUR);
    process.turn(Duration::ZERO).unwrap();
    process.stop().unwrap();
    assert_eq!(written_at(&house), Some(NINE.plus(2 * HOUR)), "idle, and its changelog ends where it left it");

    // It was stopped, another had its partition, and it does not know that yet.
    let mut process = house.process();
    run(&mut process);
    let (topic, key) = (house.names.state(), Some(b"another's".to_vec()));
    house.bus.append(vec![Outgoing { topic, partition: Some(0), key, value: None, headers: Vec::new() }]).unwrap();
    house.pass(HOUR);
    process.turn(Duration::ZERO).unwrap();
    process.stop().unwrap();
    assert_eq!(written_at(&house), Some(NINE.plus(2 * HOUR)));
}

/// Nothing listens on port 1 of the loopback interface.
#[test]
fn a_registry_that_is_away_is_noticed_at_the_start_and_not_at_the_first_command() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = Arc::new(Registry::new("http://127.0.0.1:1").unwrap());
    let mut house = House { codec: Arc::new(PublicCodec::new(Some(registry))), ..House::new() };
    assert!(house.begin(&mut Announcement::of(Arc::clone(&house.bundle))).is_ok(), "nothing here is written in Avro");
    house.bundle = rules_with("number", "avro");
    let said = house
        .begin(&mut Announcement::of(Arc::clone(&house.bundle)))
        .err()
        .expect("it can't register the schema")
        .to_string();
    let expected = "target wiki has `format: avro`, and the schema of its commands can't be registered: could not \
                    look for subject lockstep.commands.wiki-value: the schema registry at http://127.0.0.1:1";
    assert!(said.starts_with(expected), "{said}");
}

/// An update comes to one process after the other. The one that has not had it fails for a moment, and begins anew by itself.
#[test]
fn a_loop_that_begins_anew_takes_nobody_back_to_rules_that_another_process_has_replaced() {
    let (former, new) = (rules("number"), rules("\"number + ''\""));
    let house = House::new();
    let begin = |own: &mut Announcement| {
        let mut process = house.begin(own).unwrap();
        run(&mut process);
        process.stop().unwrap();
        house.decides_by()
    };
    let mut not_updated = Announcement::of(Arc::clone(&former));
    assert_eq!(begin(&mut not_updated), former.hash().as_str());
    assert_eq!(begin(&mut Announcement::of(Arc::clone(&new))), new.hash().as_str());
    assert_eq!(begin(&mut not_updated), new.hash().as_str(), "its loop begins anew");
    assert_eq!(begin(&mut Announcement::of(Arc::clone(&former))), former.hash().as_str(), "a start takes them back");
}
