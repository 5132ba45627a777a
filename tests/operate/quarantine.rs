//! The processor with one person's state gone bad: set aside, the others go on, and all of it made up for once it is mended.

use lockstep::api::ReadModel;
use lockstep::bus::embedded::{Clock, EmbeddedBus, VirtualClock};
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Outgoing};
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::codec::source::SourceDecoder;
use lockstep::entity::key;
use lockstep::model::topic::TopicNames;
use lockstep::model::{Alert, AlertKind, AlertState, Command, EntityKey, Op, Timestamp};
use lockstep::rules::{Bundle, SourceFile};
use lockstep::runtime::{Codecs, Now, Processor, ProcessorSettings, Publisher};
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
         record: { id: worker }\nattributes: { number: worker, name: name }\n",
    ),
    (
        "identity.yaml",
        "kinds:\n  person:\n    anchor: hr\n    correlate: [number]\n    attributes: { number: [hr.number], name: [hr.name] }\n",
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
}

impl House {
    fn new() -> Self {
        let files = FILES.map(|(path, text)| SourceFile { path: path.to_owned(), text: text.to_owned() });
        let bundle = Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")));
        let clock = VirtualClock::at(Timestamp(1_700_000_000_000));
        let now: Now = Arc::new(clock.clone());
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(Arc::clone(&now)));
        let topics = TopicNames::new("lockstep.");
        let wishes = Wishes { inbox_partitions: PARTITIONS, command_partitions: 1, ..Wishes::default() };
        let mut specs = topics::specs(&topics, &["wiki".into()], &wishes);
        specs.push(topics::source("hr.workers", 1));
        bus.create(&specs).unwrap();
        let (stores, codec, metrics) =
            (MemoryStores::new(), Arc::new(PublicCodec::new(None)), Arc::new(Metrics::new()));
        let settings = ProcessorSettings {
            topics: topics.clone(),
            group: "processor".to_owned(),
            instance: "0".to_owned(),
            inbox_partitions: PARTITIONS,
            dead_letter_bytes: 1 << 20,
            record_bytes: 1 << 20,
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
            now,
        )
        .unwrap();
        Self { clock, bus, stores, topics, codec, metrics, processor }
    }

    /// HR says so, and everything that follows is done.
    fn hr(&mut self, worker: &str, sequence: u32, name: &str) {
        let event = serde_json::json!({ "id": format!("{worker}-{sequence}"), "sequence": sequence, "worker": worker, "name": name });
        let value = Some(event.to_string().into_bytes());
        let key = Some(worker.as_bytes().to_vec());
        let record = Outgoing { topic: "hr.workers".into(), partition: None, key, value, headers: Vec::new() };
        self.bus.append(vec![record]).unwrap();
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

    fn read<T: Public>(&self, topic: &str) -> Vec<T> {
        let end = self.bus.ends(topic, 0).unwrap();
        let mut reader = self.bus.reader().unwrap();
        reader.seek(topic, 0, end.start).unwrap();
        let mut found = Vec::new();
        while reader.position(topic, 0).unwrap() < end.end {
            for record in reader.poll(100, Duration::ZERO).unwrap() {
                found.extend(record.value.map(|value| self.codec.decode(&value).unwrap()));
            }
        }
        found
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

    /// The head of a person's identity, as it lies on the disk.
    fn head(&self, worker: &str) -> (Vec<u8>, Vec<u8>) {
        let store = self.stores.open("state", 0).unwrap();
        let commands = self.read::<Command>(&self.topics.commands(&"wiki".into()));
        let own = commands
            .iter()
            .find(|command| command.desired.attributes.get("login").and_then(|login| login.as_text()) == Some(worker));
        let identity = own.unwrap().identity.clone();
        let key = key::row(&EntityKey::Identity { tenant: "acme".into(), identity }, key::HEAD);
        let value = store.get(&key).unwrap().unwrap();
        (key, value)
    }

    fn overwrite(&self, key: &[u8], value: &[u8]) {
        let mut store = self.stores.open("state", 0).unwrap();
        let position = store.position().unwrap().unwrap();
        store.apply(&[Write { key: key.to_vec(), value: Some(value.to_vec()), timer: None }], position).unwrap();
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
