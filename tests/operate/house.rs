//! A processor of its own, on a bus and a disk in memory and by a clock that the test sets.

use lockstep::api::ReadModel;
use lockstep::bus::embedded::{Clock, EmbeddedBus, VirtualClock};
use lockstep::bus::topics::{self, Wishes};
use lockstep::bus::{Bus, Outgoing};
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::codec::source::SourceDecoder;
use lockstep::entity::key;
use lockstep::entity::pack::Pack;
use lockstep::model::topic::TopicNames;
use lockstep::model::{
    Action, Alert, AlertKind, AlertState, Command, EntityKey, IdentityId, Incoming, Op, Operation, RoutingKey,
    Timestamp,
};
use lockstep::rules::{Bundle, PublicFormat, SourceFile};
use lockstep::runtime::{Announcement, Codecs, Now, Processor, ProcessorSettings, Publisher, RestoreSettings};
use lockstep::store::memory::MemoryStores;
use lockstep::store::{Stores, Write};
use lockstep::telemetry::{Health, Metrics};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const PARTITIONS: u32 = 1;
pub const FILES: [(&str, &str); 3] = [
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

pub struct House {
    pub clock: VirtualClock,
    pub bus: Arc<dyn Bus>,
    pub stores: MemoryStores,
    pub topics: TopicNames,
    pub codec: Arc<PublicCodec>,
    pub metrics: Arc<Metrics>,
    pub processor: Processor,
    pub partitions: u32,
}

pub fn bundle(files: &[(&str, &str)]) -> Arc<Bundle> {
    let files: Vec<_> =
        files.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect();
    Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")))
}

impl House {
    pub fn new() -> Self {
        Self::of(PARTITIONS)
    }

    /// With so many inbox partitions; whoever is looked at more closely has to lie in the first.
    pub fn of(partitions: u32) -> Self {
        Self::on(partitions, 1, false)
    }

    /// That step on so many threads.
    pub fn of_threads(partitions: u32, threads: usize) -> Self {
        Self::on(partitions, threads, false)
    }

    /// Whose processor takes everything through the inbox.
    pub fn through_inbox() -> Self {
        Self::on(PARTITIONS, 1, true)
    }

    fn on(partitions: u32, threads: usize, through_inbox: bool) -> Self {
        let clock = VirtualClock::at(Timestamp(1_700_000_000_000));
        let now: Now = Arc::new(clock.clone());
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(now));
        let topics = TopicNames::new("lockstep.");
        let wishes = Wishes { inbox_partitions: partitions, command_partitions: 1, ..Wishes::default() };
        let mut specs = topics::specs(&topics, &["wiki".into()], &wishes);
        specs.push(topics::source("hr.workers", 1));
        bus.create(&specs).unwrap();
        Self::begin(clock, bus, MemoryStores::new(), bundle(&FILES), partitions, threads, through_inbox)
    }

    pub fn begin(
        clock: VirtualClock,
        bus: Arc<dyn Bus>,
        stores: MemoryStores,
        bundle: Arc<Bundle>,
        partitions: u32,
        threads: usize,
        through_inbox: bool,
    ) -> Self {
        let topics = TopicNames::new("lockstep.");
        let (codec, metrics) = (Arc::new(PublicCodec::new(None)), Arc::new(Metrics::new()));
        let settings = ProcessorSettings {
            topics: topics.clone(),
            group: "processor".to_owned(),
            instance: "0".to_owned(),
            inbox_partitions: partitions,
            dead_letter_bytes: 1 << 20,
            through_inbox,
            // So that damage to the disk is met at once.
            cache_bytes: 0,
            record_bytes: 1 << 20,
            restore: RestoreSettings { threads: 0, chunk: 100 },
            slice: 500,
            threads,
        };
        let sources = SourceDecoder::new(None, ["acme".into()].into(), 262_144);
        let processor = Processor::start(
            settings,
            Arc::clone(&bus),
            Arc::new(stores.clone()),
            &mut Announcement::of(bundle),
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
    pub fn restart(self, bundle: Arc<Bundle>) -> Self {
        let mut house = self.taken_over(bundle);
        house.settle();
        house
    }

    /// The same, before it has done anything.
    pub fn taken_over(self, bundle: Arc<Bundle>) -> Self {
        let Self { clock, bus, processor, partitions, .. } = self;
        processor.stop().unwrap();
        Self::begin(clock, bus, MemoryStores::new(), bundle, partitions, 1, false)
    }

    /// HR says so, and everything that follows is done.
    pub fn hr(&mut self, worker: &str, sequence: u32, name: &str) {
        self.says(worker, sequence, name, "active");
    }

    pub fn says(&mut self, worker: &str, sequence: u32, name: &str, status: &str) {
        self.event(worker, sequence, serde_json::json!({ "name": name, "status": status }));
    }

    /// Somebody whose contract ends on a day.
    pub fn ends(&mut self, worker: &str, sequence: u32, end: &str) {
        self.event(worker, sequence, serde_json::json!({ "name": "Ada", "status": "active", "end": end }));
    }

    pub fn event(&mut self, worker: &str, sequence: u32, mut event: serde_json::Value) {
        event["id"] = format!("{worker}-{sequence}").into();
        event["sequence"] = sequence.into();
        event["worker"] = worker.into();
        self.lay(worker, &event);
        self.settle();
    }

    /// HR says so, and nothing follows yet.
    pub fn lay(&self, worker: &str, event: &serde_json::Value) {
        self.put("hr.workers", worker.as_bytes().to_vec(), Some(event.to_string().into_bytes()));
    }

    pub fn put(&self, topic: &str, key: Vec<u8>, value: Option<Vec<u8>>) {
        let record = Outgoing {
            topic: topic.to_owned(),
            partition: Some(0),
            key: Some(key),
            value: value.map(Into::into),
            headers: Vec::new(),
        };
        self.bus.append(vec![record]).unwrap();
    }

    /// An operator's wish, as the api writes it.
    pub fn operate(&mut self, id: &str, action: Action) {
        let at = self.clock.now();
        let operation = Operation { id: id.to_owned(), tenant: "acme".into(), actor: "cli".to_owned(), at, action };
        let topic = self.topics.operations();
        let encoded = self.codec.encode(PublicFormat::Json, &topic, &operation).unwrap();
        self.put(&topic, id.as_bytes().to_vec(), Some(encoded.value));
        self.settle();
    }

    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let turn = self.processor.turn(Duration::ZERO).unwrap();
            quiet = if turn.committed || turn.more { 0 } else { quiet + 1 };
            self.wait(Duration::from_millis(500));
        }
    }

    pub fn wait(&self, time: Duration) {
        self.clock.set(self.clock.now().plus(time));
    }

    pub fn records(&self, topic: &str) -> Vec<Incoming> {
        let end = self.bus.ends(topic, 0).unwrap();
        let mut reader = self.bus.reader().unwrap();
        reader.seek(topic, 0, end.start).unwrap();
        let mut found = Vec::new();
        while reader.position(topic, 0).unwrap() < end.end {
            found.extend(reader.poll(100, Duration::ZERO).unwrap());
        }
        found
    }

    pub fn read<T: Public>(&self, topic: &str) -> Vec<T> {
        let values = self.records(topic).into_iter().filter_map(|record| record.value);
        values.map(|value| self.codec.decode(&value).unwrap()).collect()
    }

    /// What is on `source-dead-letters`: the reason and the detail of each.
    pub fn dead_letters(&self) -> Vec<(String, String)> {
        let header = |record: &Incoming, name: &str| {
            let (_, value) = record.headers.iter().find(|(header, _)| header == name).unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        };
        let records = self.records(&self.topics.source_dead_letters());
        records.iter().map(|r| (header(r, "lockstep_reason"), header(r, "lockstep_detail"))).collect()
    }

    /// Commands of the account with this login, by the name they set.
    pub fn names(&self, worker: &str) -> Vec<(Op, String)> {
        let commands = self.read::<Command>(&self.topics.commands(&"wiki".into()));
        let text = |command: &Command, name: &str| command.desired.attributes.get(name)?.as_text().map(str::to_owned);
        let own = commands.iter().filter(|command| text(command, "login").as_deref() == Some(worker));
        own.map(|command| (command.op, text(command, "name").unwrap())).collect()
    }

    pub fn quarantine_alerts(&self) -> Vec<AlertState> {
        let alerts = self.read::<Alert>(&self.topics.alerts());
        alerts.iter().filter(|alert| alert.kind == AlertKind::Quarantined).map(|alert| alert.state).collect()
    }

    pub fn identity(&self, worker: &str) -> EntityKey {
        let identity = IdentityId::of_anchor(&"acme".into(), &"hr".into(), &worker.into());
        EntityKey::Identity { tenant: "acme".into(), identity }
    }

    /// A row by its key, wherever it lies.
    pub fn row(&self, key: &[u8]) -> Option<Vec<u8>> {
        let beside = self.stores.open("state", 0).unwrap().get(key).unwrap();
        let packed = || self.packed(key).map(|(_, pack, entity, row)| pack.get(&entity, &row).unwrap().to_vec());
        beside.or_else(packed)
    }

    /// The pack that has a row: its key, what it holds, the entity's key and the row's name.
    pub fn packed(&self, key: &[u8]) -> Option<(Vec<u8>, Pack, Vec<u8>, String)> {
        let (of, row) = key::parse(key).filter(|(_, row)| !row.starts_with('~'))?;
        let packs = self.stores.open("state", 0).unwrap().scan(&key::packs(), &key::packs(), 100).unwrap();
        let packs = packs.into_iter().filter_map(|(key, bytes)| Some((key, Pack::open(&bytes).ok()?)));
        let mut having = packs.filter(|(_, pack)| pack.get(&key::entity(&of), &row).is_some());
        having.next().map(|(pack_key, pack)| (pack_key, pack, key::entity(&of), row))
    }

    /// The head of a person's identity, as it lies on the disk.
    pub fn head(&self, worker: &str) -> (Vec<u8>, Vec<u8>) {
        let key = key::row(&self.identity(worker), key::HEAD);
        let value = self.row(&key).unwrap();
        (key, value)
    }

    /// The record that holds a row, with this value of the row.
    pub fn with(&self, key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        match self.packed(key) {
            Some((pack_key, mut pack, entity, row)) => {
                assert!(pack.put(&entity, &row, Some(value.to_vec())).is_empty());
                (pack_key, pack.seal().unwrap())
            }
            None => (key.to_vec(), value.to_vec()),
        }
    }

    pub fn overwrite(&self, key: &[u8], value: &[u8]) {
        let mut store = self.stores.open("state", 0).unwrap();
        let position = store.position().unwrap().unwrap();
        let (key, value) = self.with(key, value);
        store.apply(&[Write { key, value: Some(value.into()), timer: None }], position).unwrap();
    }

    pub fn order(&self, worker: &str) -> (EntityKey, RoutingKey) {
        (self.identity(worker), RoutingKey::of(&"acme".into(), worker))
    }

    pub fn listed(&self) -> Vec<String> {
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
