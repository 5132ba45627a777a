//! The api over HTTP, on an embedded bus in memory, with the rows that the entities would have written.

use super::*;
use crate::bus::embedded::{EmbeddedBus, WallClock};
use crate::bus::{Incoming, Outgoing, TopicSpec};
use crate::codec::public::Public;
use crate::codec::source::{Reason, Rejection, dead_letter as dead_letter_records};
use crate::entity::{AccountRow, Clock, Held, IdentityHead, IdentityRecord, key};
use crate::model::{
    AccountId, Action, Address, Attributes, Cause, Command, DeadLetter, Desired, Entitlements, EntityKey, ErrorClass,
    Generation, IdentityId, Intent, Op, Operation, Outcome, ResultEvent, RoutingKey, TargetName, Timestamp, envelope,
};
use crate::rules::{Phase, PublicFormat};
use crate::runtime::Quarantined;
use serde_json::{Value, json};
use std::time::Instant;

const EVENT_BYTES: usize = 1000;

fn codec() -> Arc<PublicCodec> {
    Arc::new(PublicCodec::new(None))
}

/// As its topic's writers write it; in Avro, as some targets declare.
fn public<T: Public>(topic: &str, value: &T) -> Vec<u8> {
    codec().encode(PublicFormat::Avro, topic, value).unwrap().value
}

/// A running api.
struct Running {
    runtime: tokio::runtime::Runtime,
    bus: Arc<dyn Bus>,
    topics: TopicNames,
    url: String,
    token: String,
    health: Health,
    model: Arc<ReadModel>,
    cancel: CancellationToken,
    http: reqwest::Client,
    _data: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Running {
    fn start() -> Self {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let topics = TopicNames::new("lockstep.");
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(Arc::new(WallClock)));
        let names = [
            ("hr.workers".to_owned(), 1),
            (topics.state(), 2),
            (topics.results(), 1),
            (topics.operations(), 1),
            (topics.source_dead_letters(), 1),
            (topics.dead_letters(&"directory".into()), 1),
        ];
        let specs =
            names.map(|(name, partitions)| TopicSpec { name, partitions, replicas: None, settings: BTreeMap::new() });
        bus.create(&specs).unwrap();
        let data = tempfile::tempdir().unwrap();
        let token = Token::open_or_create(data.path()).unwrap();
        let (health, cancel) = (Health::new(), CancellationToken::new());
        let model = ReadModel::new(&health);
        model.follow(Arc::clone(&bus), &topics, &["directory".into()], codec(), &health, cancel.clone()).unwrap();
        assert!(model.wait(Duration::from_secs(10)));
        let intake = EventIntake {
            topics: vec!["hr.workers".into()],
            json: true,
            headers: vec!["x-tenant".into()],
            key_of: Arc::new(|event| {
                serde_json::from_slice::<Value>(event).ok()?["id"].as_str().map(|id| id.as_bytes().to_vec())
            }),
        };
        let text = Token::read(token.file()).unwrap();
        let router = router(Parts {
            bus: Arc::clone(&bus),
            topics: topics.clone(),
            tenants: vec!["acme".into(), "umbrella".into()],
            targets: vec!["directory".into(), "wiki".into()],
            sources: BTreeMap::from([("hr".into(), intake)]),
            event_bytes: EVENT_BYTES,
            token,
            model: Arc::clone(&model),
            codec: codec(),
            metrics: Arc::new(Metrics::new()),
            health: health.clone(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(listen("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, router, cancel.clone()));
        let http = reqwest::Client::new();
        Self { runtime, bus, topics, url, token: text, health, model, cancel, http, _data: data }
    }

    fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        self.runtime.block_on(async {
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let text = response.text().await.unwrap();
            (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
        })
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token))
    }

    fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.send(self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).body(body))
    }

    fn records(&self, topic: &str) -> Vec<Incoming> {
        let mut reader = self.bus.reader().unwrap();
        reader.seek(topic, 0, 0).unwrap();
        reader.poll(1000, Duration::ZERO).unwrap()
    }

    fn write(&self, topic: &str, key: Vec<u8>, value: Option<Vec<u8>>) {
        let record = Outgoing {
            topic: topic.to_owned(),
            partition: Some(0),
            key: Some(key),
            value: value.map(Into::into),
            headers: vec![],
        };
        self.bus.append(vec![record]).unwrap();
    }

    fn state<T: serde::Serialize>(&self, of: &EntityKey, row: &str, value: &T) {
        self.write(&self.topics.state(), key::row(of, row), Some(envelope::seal(value)));
    }

    /// Until the list has as many items.
    fn list(&self, path: &str, length: usize) -> Value {
        let began = Instant::now();
        loop {
            let (status, answer) = self.get(path);
            assert_eq!(status, 200, "{answer}");
            if answer["items"].as_array().unwrap().len() == length {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{path} never had {length} items: {answer}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn identity(id: &str) -> EntityKey {
    EntityKey::Identity { tenant: "acme".into(), identity: id.into() }
}

fn head() -> IdentityHead {
    IdentityHead {
        routing_key: RoutingKey::of(&"acme".into(), "1001"),
        kind: "person".into(),
        phase: Some(Phase::Active),
        ended: None,
        since: Timestamp(0),
        epoch: 0,
        failing: Default::default(),
        quiet: None,
    }
}

fn record(name: &str) -> IdentityRecord {
    IdentityRecord {
        source: "hr".into(),
        record: "1001".into(),
        attributes: Attributes::from([("givenName", "Ada".into()), ("familyName", name.into())]),
        time: Timestamp(0),
        route: RoutingKey::of(&"acme".into(), "1001"),
    }
}

fn account(id: &str) -> AccountRow {
    AccountRow::new(&"acme".into(), &"directory".into(), &id.into())
}

fn dead_letter(id: &str) -> DeadLetter {
    DeadLetter {
        command: Command {
            tenant: "acme".into(),
            target: "directory".into(),
            account: account(id).account,
            identity: id.into(),
            intent: Intent::default_intent(),
            routing_key: RoutingKey::of(&"acme".into(), "1001"),
            external_id: None,
            generation: Generation(3),
            op: Op::Update,
            desired: Desired {
                active: true,
                attributes: Attributes::from([("mail", "secret@example.com".into())]),
                entitlements: Entitlements::default(),
            },
            revoked: Default::default(),
            match_on: "mail".into(),
            deadline: Timestamp(0),
            deprovision: None,
            issued: Timestamp(0),
            cause: Cause::own("e-1".into(), Timestamp(0)),
        },
        error: ErrorClass::Uniqueness,
        message: "another account has this mail".into(),
        attempts: 1,
        at: Timestamp(5),
    }
}

#[test]
fn events_reach_their_topic_byte_for_byte_with_key_and_headers() {
    let api = Running::start();
    assert_eq!(
        api.post("/v1/events/hr", "[{\"id\":\"1\", \"n\": 1.00}, {\"id\":\"2\"}]"),
        (202, json!({ "accepted": 2, "source": "hr", "topic": "hr.workers" }))
    );
    let request = api.http.post(format!("{}/v1/events/hr", api.url)).bearer_auth(&api.token).header("X-Tenant", "acme");
    assert_eq!(
        api.send(request.body("not json")).0,
        202,
        "what can't be decoded is accepted: it ends as a dead letter"
    );
    let records = api.records("hr.workers");
    let values: Vec<_> = records.iter().map(|r| String::from_utf8_lossy(r.value.as_ref().unwrap())).collect();
    assert_eq!(values, ["{\"id\":\"1\", \"n\": 1.00}", "{\"id\":\"2\"}", "not json"]);
    assert_eq!(records[0].key.as_deref(), Some(&b"1"[..]));
    assert_eq!(records[2].key, None);
    assert_eq!(records[2].headers, [("x-tenant".into(), "acme".into())]);
}

#[test]
fn what_is_refused_says_why_and_what_to_do_and_leaves_nothing_behind() {
    let api = Running::start();
    let (status, answer) = api.post("/v1/events/payroll", "{}");
    assert_eq!((status, answer["remedy"].as_str()), (404, Some("known sources: hr")), "{answer}");
    let (status, answer) = api.post("/v1/events/hr?topic=other", "{}");
    assert_eq!((status, answer["remedy"].as_str()), (404, Some("its topics: hr.workers")), "{answer}");
    let lines = format!("{{}}\n{{\"x\":\"{}\"}}", "x".repeat(EVENT_BYTES));
    let (status, answer) = api.post("/v1/events/hr", lines);
    assert_eq!((status, answer["event"].as_u64()), (413, Some(2)), "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("the limit is 1000"), "{answer}");
    let (status, answer) = api.post("/v1/events/hr", vec![b' '; 9 << 20]);
    assert_eq!((status, answer["error"].as_str()), (413, Some("a request may have 8388608 bytes")), "{answer}");
    assert_eq!(api.post("/v1/events/hr", " \n").0, 400);
    assert_eq!(api.post("/v1/nothing", "{}").0, 404);
    let (status, answer) = api.get("/v1/events/hr");
    assert_eq!(status, 405, "{answer}");
    assert!(api.records("hr.workers").is_empty());
}

#[test]
fn a_query_that_cannot_be_read_or_names_what_is_not_there_is_refused_with_a_remedy() {
    let api = Running::start();
    for (path, status, error, remedy) in [
        ("/v1/identities?limit=abc", 400, "limit", "`limit` is a number"),
        ("/v1/source-dead-letters?limit=-1", 400, "limit", "`limit` is a number"),
        ("/v1/identities?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/identities/x?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/guard?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/results?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/quarantine?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/dead-letters?tenant=nope", 404, "no tenant is called \"nope\"", "known tenants: acme, umbrella"),
        ("/v1/dead-letters?target=nope", 404, "no target is called \"nope\"", "known targets: directory, wiki"),
        ("/v1/deprovisions?target=nope", 404, "no target is called \"nope\"", "known targets: directory, wiki"),
        (
            "/v1/source-dead-letters?reason=nope",
            404,
            "no reason is called \"nope\"",
            "known reasons: missing_required, no_id",
        ),
    ] {
        let (answered, answer) = api.get(path);
        assert_eq!(answered, status, "{path}: {answer}");
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        assert!(text("error").contains(error) && text("remedy").starts_with(remedy), "{path}: {answer}");
    }
    for reason in ["quarantine_full", "skipped", "unreadable"] {
        assert_eq!(api.get(&format!("/v1/source-dead-letters?reason={reason}")).0, 200, "{reason}");
    }
}

#[test]
fn without_the_token_nothing_is_shown_but_health_and_metrics() {
    let api = Running::start();
    for path in [
        "/v1/identities",
        "/v1/identities/x",
        "/v1/guard",
        "/v1/dead-letters",
        "/v1/deprovisions",
        "/v1/results",
        "/v1/quarantine",
        "/v1/quarantine/x",
        "/v1/source-dead-letters",
        "/v1/source-dead-letters/0",
    ] {
        let (status, answer) = api.send(api.http.get(format!("{}{path}", api.url)));
        assert_eq!(status, 401, "{path}");
        assert_eq!(answer["error"], "the request bears no token");
        assert!(answer["remedy"].as_str().unwrap().ends_with("/token"), "{answer}");
        assert_eq!(api.send(api.http.get(format!("{}{path}", api.url)).bearer_auth("0".repeat(64))).0, 401, "{path}");
    }
    for path in ["/v1/events/hr", "/v1/guard/acme/release", "/v1/dead-letters/directory/x/drop"] {
        assert_eq!(api.send(api.http.post(format!("{}{path}", api.url)).body("{}")).0, 401, "{path}");
    }
    assert!(api.records("hr.workers").is_empty() && api.records(&api.topics.operations()).is_empty());
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(api.send(api.http.get(format!("{}{path}", api.url))).0, 200, "{path}");
    }
}

#[test]
fn identities_are_listed_searched_and_shown_as_they_change() {
    let api = Running::start();
    for id in ["id-1", "id-2", "id-3"] {
        api.state(&identity(id), key::HEAD, &head());
        api.state(&identity(id), "record/hr/1001", &record(&format!("Love-{id}")));
        api.state(&identity(id), "account/directory", &account(id));
    }
    // Rows of no one's page must not appear, and bytes that can't be read must not hide those that can.
    api.state(
        &EntityKey::Record {
            tenant: "acme".into(),
            source: "hr".into(),
            record: "1001".into(),
            route: "acme/1001".into(),
        },
        key::HEAD,
        &head(),
    );
    api.write(&api.topics.state(), b"?".to_vec(), Some(vec![1, 2, 3]));
    api.write(&api.topics.state(), key::row(&identity("id-9"), key::HEAD), Some(vec![255]));
    let all = api.list("/v1/identities", 3);
    assert_eq!(all["items"][0]["name"], "Ada Love-id-1");
    assert_eq!(all["items"][0]["records"], json!(["hr/1001"]));
    assert_eq!(all["items"][0]["accounts"][0]["state"], "absent");
    assert_eq!(all["next"], Value::Null);

    let first = api.list("/v1/identities?limit=2&tenant=acme", 2);
    let rest = api.list(&format!("/v1/identities?limit=2&tenant=acme&after={}", first["next"].as_str().unwrap()), 1);
    assert_eq!((&rest["items"][0]["identity"], &rest["next"]), (&json!("id-3"), &Value::Null));
    assert_eq!(api.list("/v1/identities?q=LOVE-ID-2", 1)["items"][0]["identity"], "id-2");
    api.list("/v1/identities?tenant=umbrella", 0);
    assert_eq!(api.get("/v1/identities?after=zz").0, 400);

    let (status, page) = api.get("/v1/identities/id-2");
    assert_eq!(status, 200);
    assert_eq!(page["record_rows"][0]["attributes"]["givenName"], "Ada");
    assert_eq!(api.get("/v1/identities/id-4").0, 404);

    for row in [key::HEAD, "record/hr/1001", "account/directory"] {
        api.write(&api.topics.state(), key::row(&identity("id-2"), row), None);
    }
    api.list("/v1/identities", 2);
    assert!(api.model.read().state.keys().all(|k| !k.starts_with(&key::entity(&identity("id-2")))), "no row is left");
}

#[test]
fn an_open_deprovision_is_shown_until_its_clock_stops() {
    let api = Running::start();
    api.state(&identity("id-1"), key::HEAD, &head());
    api.state(&identity("id-1"), "record/hr/1001", &record("Lovelace"));
    let mut row = account("id-1");
    row.clock = Some(Clock { effective: Timestamp(1000), deadline: Timestamp(2000), overdue: true, generation: None });
    row.dead = true;
    api.state(&identity("id-1"), "account/directory", &row);
    let open = api.list("/v1/deprovisions", 1);
    assert_eq!(open["items"][0]["overdue"], true);
    assert_eq!((&open["total"], &open["overdue"]), (&json!(1), &json!(1)));
    assert_eq!(open["items"][0]["waits_for"], "dead_letter");
    assert_eq!(open["items"][0]["name"], "Ada Lovelace");
    assert_eq!(open["items"][0]["effective"], "1970-01-01T00:00:01.000Z");
    assert!(open["items"][0]["age_seconds"].as_f64().unwrap() > 1e9);
    api.list("/v1/deprovisions?target=wiki", 0);
    row.clock = None;
    api.state(&identity("id-1"), "account/directory", &row);
    api.list("/v1/deprovisions", 0);
}

#[test]
fn what_is_held_is_released_by_an_operation_that_says_what_it_means() {
    let api = Running::start();
    assert_eq!(api.post("/v1/guard/acme/release", r#"{"all": true}"#).0, 404, "nothing is held");
    let held = Held {
        asker: Address::identity(RoutingKey::of(&"acme".into(), "1001"), "acme".into(), "id-1".into()),
        account: "account-1".into(),
        target: "directory".into(),
        source: "hr".into(),
        epoch: 1,
        since: Timestamp(0),
        cause: "e-1".into(),
    };
    api.state(&EntityKey::Guard { tenant: "acme".into() }, "held/account-1", &held);
    assert_eq!(api.list("/v1/guard", 1)["items"][0]["identity"], "id-1");
    for (tenant, body, status) in [
        ("acme", "", 400),
        ("acme", "{}", 400),
        ("acme", r#"{"al": true}"#, 400),
        ("acme", "nonsense", 400),
        ("acme", r#"{"target": "wiki"}"#, 404),
        ("other", r#"{"all": true}"#, 404),
    ] {
        let answer = api.post(&format!("/v1/guard/{tenant}/release"), body);
        assert_eq!(answer.0, status, "{body}: {}", answer.1);
    }
    assert!(api.records(&api.topics.operations()).is_empty());
    let (status, answer) = api.post("/v1/guard/acme/release", r#"{"target": "directory"}"#);
    assert_eq!((status, answer["held"].as_u64()), (202, Some(1)), "{answer}");
    assert_eq!(api.post("/v1/guard/acme/reject", r#"{"account": "account-1"}"#).0, 202);
    let records = api.records(&api.topics.operations());
    let operations: Vec<Operation> =
        records.iter().map(|r| codec().decode(r.value.as_ref().unwrap()).unwrap()).collect();
    assert_eq!(records[0].key.as_deref(), Some(operations[0].id.as_bytes()), "as schemas/operation.avsc says");
    assert_eq!(answer["operation"], operations[0].id.as_str());
    assert_eq!(operations[0].action, Action::GuardRelease { target: Some("directory".into()), account: None });
    assert_eq!(operations[1].action, Action::GuardReject { target: None, account: Some(AccountId::new("account-1")) });
    assert_ne!(operations[0].id, operations[1].id);
}

#[test]
fn a_dead_letter_is_listed_redriven_and_gone_with_its_tombstone() {
    let api = Running::start();
    let letter = dead_letter("id-1");
    let topic = api.topics.dead_letters(&TargetName::from("directory"));
    let key = letter.command.account.0.as_bytes().to_vec();
    api.write(&topic, key.clone(), Some(public(&topic, &letter)));
    api.write(&topic, b"unreadable".to_vec(), Some(b"?".to_vec()));
    let list = api.list("/v1/dead-letters", 1);
    assert_eq!(list["items"][0]["error"], "uniqueness");
    assert!(!list.to_string().contains("secret@example.com"), "a list shows no values: {list}");
    api.list("/v1/dead-letters?target=wiki", 0);

    let path = format!("/v1/dead-letters/directory/{}", letter.command.account);
    assert_eq!(api.post(&format!("{path}/redrive"), "").0, 202);
    assert_eq!(api.post(&format!("{path}/drop"), "").0, 202);
    assert_eq!(api.post("/v1/dead-letters/directory/other/redrive", "").0, 404);
    let operations = api.records(&api.topics.operations());
    let actions: Vec<Action> =
        operations.iter().map(|r| codec().decode::<Operation>(r.value.as_ref().unwrap()).unwrap().action).collect();
    let (target, account, identity, routing_key) =
        (TargetName::from("directory"), letter.command.account, IdentityId::from("id-1"), letter.command.routing_key);
    assert_eq!(
        actions,
        [
            Action::Redrive {
                target: target.clone(),
                account: account.clone(),
                identity: identity.clone(),
                routing_key: routing_key.clone()
            },
            Action::Drop { target, account, identity, routing_key },
        ]
    );
    api.write(&topic, key, None);
    api.list("/v1/dead-letters", 0);
}

#[test]
fn results_are_shown_the_newest_first() {
    let api = Running::start();
    for n in 0..3u32 {
        let result = ResultEvent {
            tenant: "acme".into(),
            target: "directory".into(),
            account: "a".into(),
            identity: "id-1".into(),
            routing_key: RoutingKey::of(&"acme".into(), "1001"),
            generation: Generation(1),
            op: Op::Disable,
            outcome: Outcome::Verified,
            external_id: None,
            error: None,
            message: None,
            attempt: n,
            retry_at: None,
            at: Timestamp(1250),
            source_time: Timestamp(1000),
            effective: None,
            traceparent: None,
        };
        api.write(&api.topics.results(), b"a".to_vec(), Some(public(&api.topics.results(), &result)));
    }
    let results = api.list("/v1/results", 3);
    assert_eq!((&results["items"][0]["attempt"], &results["items"][0]["millis"]), (&json!(2), &json!(250)));
    api.list("/v1/results?limit=1", 1);
}

#[test]
fn a_quarantined_entity_is_listed_shown_retried_and_skipped_by_an_id_that_tells_no_value() {
    let api = Running::start();
    let to = Address::index("acme".into(), "mail", "ada@example.com");
    let row = Quarantined { to: to.clone(), reason: "a bug".into(), since: Timestamp(0), first: 3, next: 5 };
    api.state(&to.entity, key::QUARANTINE, &row);
    let list = api.list("/v1/quarantine", 1);
    let line = &list["items"][0];
    assert_eq!((&line["entity"], &line["waiting"]), (&json!("index acme/mail"), &json!(2)), "{line}");
    assert!(!list.to_string().contains("ada@"), "{list}");
    api.list("/v1/quarantine?tenant=umbrella", 0);

    let path = format!("/v1/quarantine/{}", line["id"].as_str().unwrap());
    let (status, page) = api.get(&path);
    assert_eq!((status, &page["reason"], &page["first"]), (200, &json!("a bug"), &json!(3)), "{page}");
    assert_eq!(api.get("/v1/quarantine/0123").0, 404);
    assert_eq!(api.post("/v1/quarantine/0123/retry", "").0, 404);
    let (status, answer) = api.post(&format!("{path}/retry"), "");
    assert_eq!((status, &answer["waiting"]), (202, &json!(2)), "{answer}");
    assert_eq!(api.post(&format!("{path}/skip"), "").0, 202);
    let records = api.records(&api.topics.operations());
    let actions: Vec<Action> =
        records.iter().map(|r| codec().decode::<Operation>(r.value.as_ref().unwrap()).unwrap().action).collect();
    let (entity, routing_key) = (to.entity.clone(), to.routing_key.clone());
    assert_eq!(
        actions,
        [
            Action::QuarantineRetry { entity: entity.clone(), routing_key: routing_key.clone() },
            Action::QuarantineSkip { entity, routing_key, position: 3 },
        ]
    );

    // Its row gone bad: it is listed still, and nothing is sent to a partition that may be another's.
    api.write(&api.topics.state(), key::row(&to.entity, key::QUARANTINE), Some(b"\xff".to_vec()));
    let began = Instant::now();
    while api.list("/v1/quarantine", 1)["items"][0]["waiting"] != 0 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(api.post(&format!("{path}/retry"), "").0, 503);
    api.write(&api.topics.state(), key::row(&to.entity, key::QUARANTINE), None);
    api.list("/v1/quarantine", 0);
}

#[test]
fn source_dead_letters_are_read_off_their_topic_in_pages_the_newest_first() {
    let api = Running::start();
    let topic = api.topics.source_dead_letters();
    for n in 0..5 {
        let reason = if n == 2 { "not_avro" } else { "not_json" };
        let headers =
            [("topic", "hr.workers"), ("partition", "3"), ("offset", "7"), ("reason", reason), ("detail", "no")];
        let record = Outgoing {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(b"k".to_vec()),
            value: Some(if n == 2 { vec![0xff].into() } else { format!("secret-{n}").into() }),
            headers: headers.map(|(name, value)| (format!("lockstep_{name}").into(), value.to_owned().into())).into(),
        };
        api.bus.append(vec![record]).unwrap();
    }
    let (status, first) = api.get("/v1/source-dead-letters?limit=2");
    assert_eq!((status, &first["next"]), (200, &json!("3")), "{first}");
    let ids = |page: &Value| page["items"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&first), ["4", "3"]);
    assert!(!first.to_string().contains("secret"), "a list shows no value: {first}");
    let (_, second) = api.get("/v1/source-dead-letters?limit=2&after=3");
    assert_eq!((ids(&second), &second["next"]), (vec![json!("2"), json!("1")], &json!("1")));
    let (_, third) = api.get("/v1/source-dead-letters?limit=2&after=1");
    assert_eq!((ids(&third), &third["next"]), (vec![json!("0")], &Value::Null));
    let (_, avro) = api.get("/v1/source-dead-letters?reason=not_avro");
    assert_eq!((ids(&avro), &avro["items"][0]["offset"]), (vec![json!("2")], &json!(7)));
    assert_eq!(ids(&api.get("/v1/source-dead-letters?topic=other").1), [Value::Null; 0]);

    let (status, page) = api.get("/v1/source-dead-letters/4");
    assert_eq!((status, &page["value"], &page["key"]), (200, &json!("secret-4"), &json!("k")), "{page}");
    let (_, bytes) = api.get("/v1/source-dead-letters/2");
    assert_eq!((&bytes["value"], &bytes["value_hex"]), (&Value::Null, &json!("ff")));
    assert_eq!(api.get("/v1/source-dead-letters/5").0, 404);
    assert_eq!(api.get("/v1/source-dead-letters/x").0, 404);
    assert_eq!(api.get("/v1/source-dead-letters?after=x").0, 400);
}

#[test]
fn a_source_dead_letter_in_parts_is_one_of_the_list_and_is_shown_whole_or_with_what_it_lacks() {
    let api = Running::start();
    let topic = api.topics.source_dead_letters();
    let event = |offset: i64, value: &[u8]| Incoming {
        topic: "hr.workers".into(),
        partition: 3,
        offset,
        timestamp: Timestamp(0),
        key: Some(b"k".to_vec()),
        value: Some(value.to_vec().into()),
        headers: vec![("x".into(), "y".into())],
    };
    let rejection = Rejection { reason: Reason::TooLarge, detail: "no".into() };
    let parts = |offset: i64, value: &[u8]| dead_letter_records(&topic, &event(offset, value), &rejection, 1_060);
    let (text, bytes) = ("0123456789".repeat(200), vec![0xff; 2_000]);
    let [one, other, third] = [parts(1, text.as_bytes()), parts(2, &bytes), parts(3, text.as_bytes())];
    assert_eq!((one.len(), other.len(), third.len()), (4, 4, 4));
    // The first of one are gone. Two others were written by two processors at the same time.
    let mut records = one[2..].to_vec();
    records.extend(other.iter().zip(&third).flat_map(|(other, third)| [other.clone(), third.clone()]));
    records.extend(parts(4, b"small"));
    // And one of them once more: its topic was read again.
    records.extend(other.clone());
    for record in records {
        api.bus.append(vec![record]).unwrap();
    }
    let row = |item: &Value| {
        let fields = ["id", "offset", "bytes", "parts", "missing_parts"].map(|field| item[field].to_string());
        fields.join(" ").replace('"', "")
    };
    let rows = |page: &Value| page["items"].as_array().unwrap().iter().map(row).collect::<Vec<_>>();
    let (_, all) = api.get("/v1/source-dead-letters");
    assert_eq!(rows(&all), ["14 2 2000 4 0", "10 4 5 1 0", "9 3 2000 4 0", "8 2 2000 4 0", "1 1 2000 4 2"], "{all}");
    // Of a page that ends in the middle of them too.
    let (_, page) = api.get("/v1/source-dead-letters?limit=2&after=10");
    assert_eq!((rows(&page), &page["next"]), (vec!["9 3 2000 4 0".into(), "8 2 2000 4 0".into()], &json!("8")));
    let (_, page) = api.get("/v1/source-dead-letters?limit=2&after=8");
    assert_eq!((rows(&page), &page["next"]), (vec![], &json!("6")));

    for (id, value, hex) in [("14", None, Some(&bytes)), ("8", None, Some(&bytes)), ("9", Some(&text), None)] {
        let (_, page) = api.get(&format!("/v1/source-dead-letters/{id}"));
        let hex = hex.map(hex::encode);
        assert_eq!((&page["value"], &page["value_hex"]), (&json!(value), &json!(hex)), "{id}");
        assert_eq!((&page["whole"], &page["key"], &page["headers"]), (&json!(true), &json!("k"), &json!({"x": "y"})));
    }
    let (_, rest) = api.get("/v1/source-dead-letters/1");
    assert_eq!((&rest["whole"], &rest["missing_parts"], &rest["bytes"]), (&json!(false), &json!(2), &json!(2_000)));
    assert!(rest["value"].as_str().is_some_and(|left| left.len() < 1_500 && text.ends_with(left)), "{rest}");
    assert_eq!(api.get("/v1/source-dead-letters/6").0, 404, "a part in the middle is no letter");
}

#[test]
fn ready_is_when_the_model_has_caught_up_and_a_stop_ends_the_server() {
    let api = Running::start();
    assert!(api.health.is_ready());
    assert_eq!(api.get("/readyz"), (200, "api: read model caught up ... yes\nready\n".into()));
    api.cancel.cancel();
    let began = Instant::now();
    let refused = || api.runtime.block_on(api.http.get(format!("{}/healthz", api.url)).send()).is_err();
    while !refused() {
        assert!(began.elapsed() < Duration::from_secs(10), "it still answers");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_model_waits_for_a_topic_that_is_not_there_yet() {
    let topics = TopicNames::new("later.");
    let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory(Arc::new(WallClock)));
    let (health, cancel) = (Health::new(), CancellationToken::new());
    let model = ReadModel::new(&health);
    let thread = model.follow(Arc::clone(&bus), &topics, &[], codec(), &health, cancel.clone()).unwrap();
    assert!(!model.wait(Duration::from_millis(200)));
    assert_eq!(health.readiness()[0].waiting_for.as_deref(), Some("topic later.state isn't there yet"));
    bus.create(&[TopicSpec { name: topics.state(), partitions: 1, replicas: None, settings: BTreeMap::new() }])
        .unwrap();
    assert!(model.wait(Duration::from_secs(10)));
    cancel.cancel();
    thread.join().unwrap();
    assert_eq!(health.silent(), []);
}
