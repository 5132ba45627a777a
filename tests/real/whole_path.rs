//! The whole path as users run it: topics, processor, workers, serve and poller as processes of their own on a real Kafka,
//! HR as Avro with a registry, users and groups made in a real Keycloak, accounts on PostgreSQL and on a SCIM server.

use crate::accounts::{Targets, staff, with_staff_groups};
use crate::keycloak::{Realm, SECRET};
use crate::rig::{Rig, replaced};
use crate::world::{Person, register_hr, settle};
use lockstep::model::{Attributes, Decision, DecisionKind, Outcome, ResultEvent, Value};
use lockstep::rules::Bundle;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// For a wave of a dozen events, with a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST: u32 = 20_001;
const FUTURE: u32 = 20_013;
/// Somebody else holds the user name.
const BLOCKED: u32 = 20_014;

/// Everything that one run of the test has.
struct Story {
    rig: Rig,
    bundle: Bundle,
    targets: Targets,
    realm: Realm,
    people: BTreeMap<u32, Person>,
    frame: Vec<u8>,
    hr_topic: String,
}

impl Story {
    fn begin() -> Self {
        let mut rig = Rig::new("kafka", |path, text| match path {
            "sources/hr.yaml" => replaced(&text, "format: json", "format: avro").replace("  time: time\n", ""),
            "sources/idp.yaml" => replaced(&text, "interval: 5s", "interval: 200ms"),
            "entitlements.yaml" => with_staff_groups(&text),
            _ => text,
        });
        rig.write_config("targets/staff.yaml", &staff("delete"));
        let realm = rig.runtime.block_on(Realm::new());
        let idp = std::fs::read_to_string(rig.config_dir().join("sources/idp.yaml")).unwrap();
        rig.write_config("sources/idp.yaml", &replaced(&idp, "realm: staff", &format!("realm: {}", realm.name)));
        rig.runtime.block_on(async {
            // Attributes of one's own are off by default.
            let mut profile = realm.admin(Method::GET, "/users/profile", None).await;
            profile["unmanagedAttributePolicy"] = json!("ENABLED");
            realm.put("/users/profile", profile).await;
            realm.client(&["view-users", "query-groups", "view-realm", "view-events"]).await;
        });
        let targets = rig.runtime.block_on(Targets::new(&rig.id));
        rig.env.extend(targets.env());
        rig.env.extend([("KEYCLOAK_URL", realm.url.clone()), ("KEYCLOAK_SECRET", SECRET.to_owned())]);
        let hr_topic = format!("real-{}.hr.workers", rig.id);
        let frame = register_hr(&rig.registry, &hr_topic);
        let bundle = rig.config().bundle;
        Self { rig, bundle, targets, realm, people: BTreeMap::new(), frame, hr_topic }
    }

    /// HR sends what it knows of these people now.
    fn hr(&mut self, kind: &str, numbers: &[u32]) {
        let mut events = Vec::new();
        for number in numbers {
            events.push(self.people.get_mut(number).unwrap().event(kind, &self.frame));
        }
        self.rig.append(&self.hr_topic, events);
    }

    fn person(&mut self, number: u32) -> &mut Person {
        self.people.get_mut(&number).unwrap()
    }

    /// Waits until both targets show what the rules say of everybody.
    fn settled(&mut self, wave: &str) {
        let people: Vec<Person> = self.people.values().cloned().collect();
        for (target, accounts) in &mut self.targets.expected {
            settle(&self.bundle, target, accounts, &people);
        }
        self.targets.expected.get_mut("directory").unwrap().remove(&BLOCKED);
        let targets = &self.targets;
        self.rig.until(&format!("the accounts are right after {wave}"), PATIENCE, |rig| targets.compare(&rig.runtime));
        println!("the accounts are right after {wave}");
    }

    /// A user of Keycloak, with an employee number or with a mail address alone.
    fn user(&mut self, number: u32, by_number: bool, group: &str) -> String {
        let (mail, mobile) = (format!("p{number}@example.com"), format!("+49 170 {number}"));
        let mut attributes = json!({"mobile": [mobile.clone()]});
        let mut known = Attributes::from([("mail", Value::text(mail.as_str())), ("mobile", Value::text(mobile))]);
        if by_number {
            attributes["employeeNumber"] = json!([number.to_string()]);
            known.insert("employeeNumber", Value::text(number.to_string()));
        }
        known.insert("groups", Value::List(vec![Value::text("vpn")]));
        self.person(number).idp = Some(known);
        let user = json!({"username": format!("p{number}"), "email": mail, "enabled": true, "attributes": attributes});
        self.rig.runtime.block_on(async {
            let id = self.realm.make("/users", user).await;
            self.realm.put(&format!("/users/{id}/groups/{group}"), json!({})).await;
            id
        })
    }
}

#[test]
#[ignore = "needs Kafka, a registry, Keycloak, PostgreSQL and a SCIM server: tests/run real"]
fn people_join_move_and_leave_through_every_part() {
    let mut story = Story::begin();
    an_unknown_layout_is_refused(&mut story);
    for (name, args) in [
        ("processor", &["processor"][..]),
        ("worker-directory", &["worker", "--target", "directory"]),
        ("worker-staff", &["worker", "--target", "staff"]),
        ("serve", &["serve"]),
    ] {
        story.rig.spawn_serving(name, args);
    }
    story.rig.spawn("poll", &["poll", "keycloak", "--source", "idp"]);
    let serving = ["processor", "worker-directory", "worker-staff", "serve"];
    story.rig.wait_ready(&serving);
    for name in serving {
        let metrics = story.rig.get(&format!("{}/metrics", story.rig.url(name).unwrap()));
        assert!(metrics.starts_with("200") && metrics.contains("\n# TYPE lockstep_"), "{name}: {metrics}");
    }

    let users = join(&mut story);
    change(&mut story, &users);
    restart(&mut story);
    leave(&mut story, &users);

    check_topics(&mut story);
    check_questions(&mut story, "with serve running");
    for name in ["poll", "worker-directory", "worker-staff", "processor", "serve"] {
        story.rig.stop(name);
    }
    check_questions(&mut story, "without any process");
    the_groups_are_left(&mut story);
    story.targets.compare(&story.rig.runtime).unwrap();
    story.rig.runtime.block_on(story.realm.drop());
    story.rig.runtime.block_on(story.targets.directory.drop());
}

fn an_unknown_layout_is_refused(story: &mut Story) {
    let rig = &mut story.rig;
    let said = rig.run(&["processor", "--listen", "127.0.0.1:0"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("run `lockstep topics apply`"), "{}", said.err);
    let said = rig.done(&["topics", "apply"]);
    assert!(said.contains(&rig.names.inbox()), "{said}");
    rig.done(&["topics", "plan"]);
    rig.make_source_topics();
    let right = std::fs::read_to_string(rig.config_dir().join("lockstep.yaml")).unwrap();
    rig.write_config("lockstep.yaml", &replaced(&right, "inbox_partitions: 16", "inbox_partitions: 8"));
    for args in
        [&["processor", "--listen", "127.0.0.1:0"][..], &["worker", "--target", "staff", "--listen", "127.0.0.1:0"]]
    {
        let said = rig.run(args);
        assert_eq!(said.code, 3, "{}", said.err);
        assert!(said.err.contains("it has 16 partitions instead of 8"), "{}", said.err);
    }
    rig.write_config("lockstep.yaml", &right);
}

/// Gives the users of Keycloak by employee number.
fn join(story: &mut Story) -> BTreeMap<u32, String> {
    for number in FIRST..=BLOCKED {
        story.people.insert(number, Person::new(number));
    }
    story.person(FUTURE).set("startDate", "2099-01-01");
    story.person(FIRST + 6).set("department", "Sales");
    let people: Vec<Person> = story.people.values().cloned().collect();
    let mut accounts = BTreeMap::new();
    settle(&story.bundle, "directory", &mut accounts, &people);
    let taken = accounts[&BLOCKED].attributes["userName"].clone();
    story.rig.runtime.block_on(story.targets.directory.occupy(&taken));

    // Some are known to the identity provider before HR knows them, some after.
    let group = story.rig.runtime.block_on(story.realm.make("/groups", json!({"name": "vpn"})));
    let mut users: BTreeMap<u32, String> =
        [FIRST, FIRST + 1, FIRST + 4].map(|number| (number, story.user(number, number < FIRST + 4, &group))).into();
    story.rig.append(&story.hr_topic, vec![("w-0".into(), b"not avro at all".to_vec())]);
    let everybody: Vec<u32> = story.people.keys().copied().collect();
    story.hr("hired", &everybody);
    users.extend([FIRST + 2, FIRST + 3, FIRST + 5].map(|n| (n, story.user(n, n < FIRST + 4, &group))));
    users.insert(0, group);
    story.settled("joining");
    users
}

fn change(story: &mut Story, users: &BTreeMap<u32, String>) {
    for number in FIRST..FIRST + 5 {
        story.person(number).move_on();
    }
    story.hr("changed", &[FIRST, FIRST + 1, FIRST + 2, FIRST + 3, FIRST + 4]);
    // Twice at once: the first may never be carried out, and what it revoked is still to be revoked.
    story.person(FIRST + 4).move_on();
    story.hr("changed", &[FIRST + 4]);
    // Out of scope at one target.
    story.person(FIRST + 6).set("department", "Finance");
    story.hr("changed", &[FIRST + 6]);
    // In the identity provider: out of a group, another phone.
    story.rig.runtime.block_on(story.realm.delete(&format!("/users/{}/groups/{}", users[&(FIRST + 5)], users[&0])));
    story.person(FIRST + 5).idp.as_mut().unwrap().insert("groups", Value::List(vec![]));
    let path = format!("/users/{}", users[&(FIRST + 1)]);
    let attributes = json!({"employeeNumber": [(FIRST + 1).to_string()], "mobile": ["+49 160 1"]});
    let user = json!({"email": format!("p{}@example.com", FIRST + 1), "attributes": attributes});
    story.rig.runtime.block_on(story.realm.put(&path, user));
    story.person(FIRST + 1).idp.as_mut().unwrap().insert("mobile", Value::text("+49 160 1"));
    story.settled("moving");
}

/// While an event waits.
fn restart(story: &mut Story) {
    story.rig.stop("processor");
    story.rig.stop("worker-directory");
    story.person(FIRST + 9).set("title", "Head of Waiting");
    story.hr("changed", &[FIRST + 9]);
    story.rig.spawn_serving("processor", &["processor"]);
    story.rig.spawn_serving("worker-directory", &["worker", "--target", "directory"]);
    story.rig.wait_ready(&["processor", "worker-directory"]);
    story.settled("a restart");
}

fn leave(story: &mut Story, users: &BTreeMap<u32, String>) {
    for number in [FIRST, FIRST + 1, FIRST + 7] {
        story.person(number).set("status", "terminated");
    }
    story.hr("terminated", &[FIRST, FIRST + 1, FIRST + 7]);
    story.person(FIRST + 2).set("endDate", "2026-01-31");
    story.hr("changed", &[FIRST + 2]);
    // Gone from the identity provider: an employee goes on without what came from there.
    for number in [FIRST, FIRST + 3] {
        story.rig.runtime.block_on(story.realm.delete(&format!("/users/{}", users[&number])));
        story.person(number).idp = None;
    }
    story.settled("leaving");
    story.person(FIRST + 7).set("status", "active");
    story.hr("hired", &[FIRST + 7]);
    story.settled("coming back");
}

/// Commands, results, decisions and dead letters, as they are on Kafka.
fn check_topics(story: &mut Story) {
    let blocked = |commands: &[lockstep::model::Command]| {
        commands[0].desired.attributes.get("employeeNumber").and_then(Value::as_text) == Some(&*BLOCKED.to_string())
    };
    let topic = story.rig.names.results();
    for target in ["directory", "staff"] {
        let commands = story.rig.commands(target);
        assert!(!commands.is_empty());
        // The last result is written with the account, or a moment later.
        story.rig.until(&format!("every command to {target} has come to an end"), PATIENCE, |rig| {
            let results: BTreeMap<(String, u64), Outcome> = rig
                .documents::<ResultEvent>(&topic)
                .into_iter()
                .map(|result| ((result.account.to_string(), result.generation.0), result.outcome))
                .collect();
            for (account, commands) in &commands {
                let last = results.get(&(account.clone(), commands.len() as u64));
                let wanted = if blocked(commands) { Outcome::DeadLettered } else { Outcome::Verified };
                if last != Some(&wanted) {
                    return Err(format!("account {account}, generation {}: {last:?}", commands.len()));
                }
            }
            Ok(())
        });
        println!(
            "{target}: {} commands to {} accounts",
            commands.values().map(Vec::len).sum::<usize>(),
            commands.len()
        );
    }
    let decided = story.rig.names.decisions();
    story.rig.until("every deprovision is verified", PATIENCE, |rig| {
        let decisions: Vec<Decision> = rig.documents(&decided);
        let count = |is: fn(&DecisionKind) -> bool| decisions.iter().filter(|decision| is(&decision.kind)).count();
        let opened = count(|kind| matches!(kind, DecisionKind::DeprovisionOpened { .. }));
        let verified = count(|kind| matches!(kind, DecisionKind::DeprovisionVerified { .. }));
        let minted = count(|kind| matches!(kind, DecisionKind::IdentityMinted));
        let (joined, left, again) = (
            count(|kind| matches!(kind, DecisionKind::Joined)),
            count(|kind| matches!(kind, DecisionKind::Left)),
            count(|kind| matches!(kind, DecisionKind::Rehired)),
        );
        let says = format!(
            "{minted} minted, {joined} joined, {left} left, {again} back, {opened} opened, {verified} verified"
        );
        if minted == 14 && left == 4 && again == 1 && opened > 0 && opened == verified { Ok(()) } else { Err(says) }
    });
    assert_eq!(story.rig.records(&story.rig.names.source_dead_letters()).len(), 1, "what is no Avro");
}

/// What the command line answers, whoever it asks.
fn check_questions(story: &mut Story, how: &str) {
    let rig = &mut story.rig;
    let json = |text: String| serde_json::from_str::<Json>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    rig.until(&format!("the read model knows the dead letter, {how}"), PATIENCE, |rig| {
        let letters = json(rig.done(&["dlq", "list", "--json"]));
        let letters = letters.as_array().unwrap();
        match letters.as_slice() {
            [letter] if letter["target"] == "directory" && letter["error"] == "uniqueness" => Ok(()),
            _ => Err(format!("{letters:?}")),
        }
    });
    let identities = json(rig.done(&["identities", "list", "--json"]));
    let identities = identities.as_array().unwrap();
    assert_eq!(identities.len(), 14, "{identities:?}");
    let ended = identities.iter().filter(|identity| identity["phase"] == "ended").count();
    assert_eq!(ended, 3, "{identities:?}");
    let id = identities[0]["identity"].as_str().unwrap();
    let page = rig.done(&["identities", "show", id]);
    assert!(page.contains(id) && page.contains("record hr/w-"), "{page}");
    println!("identities list, identities show and dlq list answer {how}");
}

/// A static member keeps its place for the session time-out, so that a restart moves nothing; then it is gone.
fn the_groups_are_left(story: &mut Story) {
    let bootstrap = crate::rig::var("LOCKSTEP_TEST_KAFKA");
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    for name in ["processor", "worker.directory", "worker.staff"] {
        let group = format!("{}{name}", story.rig.names.prefix);
        story.rig.until(&format!("group {group} is empty"), Duration::from_secs(20), |_| {
            let found = consumer.fetch_group_list(Some(&group), Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let members = found.groups().iter().map(|group| group.members().len()).sum::<usize>();
            if members == 0 { Ok(()) } else { Err(format!("{members} members")) }
        });
    }
}

#[test]
#[ignore = "needs Kafka: tests/run real"]
fn dev_plays_the_quickstart_on_kafka() {
    let rig = Rig::new("quickstart", |path, text| match path {
        "lockstep.yaml" => {
            let text = replaced(&text, "  embedded: {}", "  kafka:\n    bootstrap: \"${env:LOCKSTEP_KAFKA}\"\n  #");
            format!("{text}\ninbox_partitions: 4\ncommand_partitions: 2\n")
        }
        _ => text,
    });
    rig.done(&["topics", "apply"]);
    rig.make_source_topics();
    let events = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart/events");
    let said = rig.done(&["dev", "--once", "--listen", "127.0.0.1:0", "--events", events.to_str().unwrap()]);
    println!("{said}");
    let mut verified = 0;
    for target in ["directory", "wiki"] {
        verified += rig.commands(target).len();
    }
    assert!(verified > 20, "{verified} accounts");
    let results: Vec<ResultEvent> = rig.documents(&rig.names.results());
    assert!(results.iter().any(|result| result.outcome == Outcome::Verified));
}
