//! The Keycloak poller against a real Keycloak: what an administrator does becomes events of users on the source's topic.

use lockstep::bus::embedded::{EmbeddedBus, WallClock};
use lockstep::bus::{Bus, Incoming, TopicSpec};
use lockstep::config::secret::Secret;
use lockstep::source::keycloak::{Access, KeycloakError, Login, Look, PollError, Poller, PollerSettings};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TOPIC: &str = "idp.users";
const CURSORS: &str = "lockstep.cursors";
pub const SECRET: &str = "s3cret";

/// A realm of its own for each test, and its administrator.
pub struct Realm {
    pub url: String,
    pub name: String,
    http: reqwest::Client,
}

impl Realm {
    pub async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = std::env::var("LOCKSTEP_TEST_KEYCLOAK").expect("LOCKSTEP_TEST_KEYCLOAK: tests/run keycloak");
        let name = format!("lockstep-{}", Uuid::new_v4());
        let realm = Self { url, name, http: reqwest::Client::new() };
        let settings = json!({"realm": realm.name, "enabled": true, "adminEventsEnabled": true,
            "adminEventsDetailsEnabled": true, "scimApiEnabled": true});
        realm.call(reqwest::Method::POST, "", "", Some(settings)).await;
        realm
    }

    /// The body, or the id in the Location header of what was made.
    async fn call(&self, method: reqwest::Method, realm: &str, path: &str, body: Option<Json>) -> Json {
        let form =
            [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "admin"), ("password", "admin")];
        let token = format!("{}/realms/master/protocol/openid-connect/token", self.url);
        let token: Json = self.http.post(token).form(&form).send().await.unwrap().json().await.unwrap();
        let url = format!("{}/admin/realms{realm}{path}", self.url);
        let mut request = self.http.request(method, url).bearer_auth(token["access_token"].as_str().unwrap());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let made = response.headers().get("location").map(|made| made.to_str().unwrap().to_owned());
        let body = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        match made {
            Some(made) => made.rsplit('/').next().unwrap().into(),
            None => serde_json::from_str(&body).unwrap_or(Json::Null),
        }
    }

    pub async fn admin(&self, method: reqwest::Method, path: &str, body: Option<Json>) -> Json {
        self.call(method, &format!("/{}", self.name), path, body).await
    }

    pub async fn make(&self, path: &str, body: Json) -> String {
        self.admin(reqwest::Method::POST, path, Some(body)).await.as_str().unwrap().to_owned()
    }

    pub async fn put(&self, path: &str, body: Json) {
        self.admin(reqwest::Method::PUT, path, Some(body)).await;
    }

    pub async fn delete(&self, path: &str) {
        self.admin(reqwest::Method::DELETE, path, None).await;
    }

    async fn user(&self, name: &str) -> String {
        self.make("/users", json!({"username": name, "firstName": name, "lastName": "L", "email": format!("{name}@example.org"), "enabled": true})).await
    }

    fn administrator(&self) -> Access {
        Access {
            url: format!("{}/", self.url),
            realm: self.name.clone(),
            login_realm: "master".into(),
            client_id: "admin-cli".into(),
            login: Login::User { name: "admin".into(), password: Secret::new("admin") },
        }
    }

    /// A confidential client with a service account that has just these roles.
    pub async fn client(&self, roles: &[&str]) -> Access {
        let client = self
            .make("/clients", json!({"clientId": "lockstep", "enabled": true, "publicClient": false, "serviceAccountsEnabled": true, "standardFlowEnabled": false, "secret": SECRET}))
            .await;
        let management = self.admin(reqwest::Method::GET, "/clients?clientId=realm-management", None).await;
        let management = management[0]["id"].as_str().unwrap();
        let account = self.admin(reqwest::Method::GET, &format!("/clients/{client}/service-account-user"), None).await;
        let mut granted = Vec::new();
        for role in roles {
            granted.push(self.admin(reqwest::Method::GET, &format!("/clients/{management}/roles/{role}"), None).await);
        }
        let path = format!("/users/{}/role-mappings/clients/{management}", account["id"].as_str().unwrap());
        self.admin(reqwest::Method::POST, &path, Some(granted.into())).await;
        Access {
            login_realm: self.name.clone(),
            client_id: "lockstep".into(),
            login: Login::Client { secret: Secret::new(SECRET) },
            ..self.administrator()
        }
    }

    pub async fn drop(self) {
        self.call(reqwest::Method::DELETE, &format!("/{}", self.name), "", None).await;
    }
}

fn bus() -> Arc<dyn Bus> {
    let bus = EmbeddedBus::memory(Arc::new(WallClock));
    let spec = |name: &str, partitions, policy: &str| TopicSpec {
        name: name.into(),
        partitions,
        replicas: None,
        settings: BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]),
    };
    bus.create(&[spec(TOPIC, 3, "delete"), spec(CURSORS, 1, "compact")]).unwrap();
    Arc::new(bus)
}

fn poller(access: Access, bus: &Arc<dyn Bus>) -> Poller {
    let settings = PollerSettings {
        source: "idp".into(),
        topic: TOPIC.into(),
        cursors: CURSORS.into(),
        access,
        interval: Duration::from_millis(200),
        overlap: Duration::from_secs(60),
    };
    Poller::new(settings, Arc::clone(bus), Arc::new(WallClock)).unwrap()
}

/// All events, in the order in which they were written.
fn events(bus: &Arc<dyn Bus>) -> Vec<Json> {
    let mut reader = bus.reader().unwrap();
    (0..3).for_each(|partition| reader.seek(TOPIC, partition, 0).unwrap());
    let mut records: Vec<Incoming> = Vec::new();
    loop {
        let some = reader.poll(1_000, Duration::from_millis(50)).unwrap();
        if some.is_empty() {
            break;
        }
        records.extend(some);
    }
    let mut events: Vec<Json> = Vec::new();
    for record in records {
        let event: Json = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        assert_eq!(
            event["user"]["id"].as_str().unwrap().as_bytes(),
            record.key.as_deref().unwrap(),
            "the key is the user"
        );
        events.push(event);
    }
    events.sort_by_key(|event| event["order"].as_i64().unwrap());
    let orders: Vec<i64> = events.iter().map(|event| event["order"].as_i64().unwrap()).collect();
    assert!(orders.windows(2).all(|pair| pair[0] < pair[1]), "order rises: {orders:?}");
    events
}

fn summary(events: &[Json]) -> Vec<String> {
    let one = |event: &Json| {
        let user = &event["user"];
        format!("{} {} {}", event["type"].as_str().unwrap(), user["firstName"].as_str().unwrap_or("-"), user["groups"])
    };
    events.iter().map(one).collect()
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn a_life_in_keycloak_becomes_events_with_the_whole_user() {
    let realm = Realm::new().await;
    let bus = bus();
    let mut poller = poller(realm.administrator(), &bus);
    let ada = realm.user("ada").await;
    let group = realm.make("/groups", json!({"name": "eng"})).await;
    assert_eq!(poller.look().await.unwrap().seen, 2, "the full read, and what was there already");
    let before = events(&bus).len();

    realm.put(&format!("/users/{ada}/groups/{group}"), json!({})).await;
    poller.look().await.unwrap();
    // A partial representation: what it doesn't name is still part of the event.
    realm.put(&format!("/users/{ada}"), json!({"firstName": "Augusta"})).await;
    poller.look().await.unwrap();
    realm.put(&format!("/users/{ada}"), json!({"enabled": false})).await;
    realm.delete(&format!("/users/{ada}/groups/{group}")).await;
    poller.look().await.unwrap();
    let all = events(&bus);
    let expected = [
        r#"user.upserted ada ["eng"]"#,
        r#"user.upserted Augusta ["eng"]"#,
        "user.upserted Augusta []",
        "user.upserted Augusta []",
    ];
    assert_eq!(summary(&all[before..]), expected);
    let last = &all.last().unwrap()["user"];
    assert_eq!((&last["enabled"], &last["username"], &last["lastName"]), (&json!(false), &json!("ada"), &json!("L")));
    assert_eq!(last["email"], "ada@example.org");

    realm.delete(&format!("/users/{ada}")).await;
    poller.look().await.unwrap();
    let all = events(&bus);
    assert_eq!(all.last().unwrap()["type"], "user.deleted");
    assert_eq!(poller.look().await.unwrap(), Look::default(), "seen events do not come again");
    let ids: std::collections::BTreeSet<_> = all.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), all.len(), "each event has an id of its own");
    realm.drop().await;
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn the_first_look_reads_everyone_and_a_restart_goes_on_from_the_cursor() {
    const USERS: usize = 230;
    let realm = Realm::new().await;
    // Imported: no admin event names them.
    let users: Vec<Json> = (0..USERS).map(|i| json!({"username": format!("u{i:03}"), "enabled": true})).collect();
    realm
        .admin(reqwest::Method::POST, "/partialImport", Some(json!({"ifResourceExists": "FAIL", "users": users})))
        .await;
    let bus = bus();
    let mut first = poller(realm.administrator(), &bus);
    first.look().await.unwrap();
    let read = events(&bus);
    let ids: std::collections::BTreeSet<_> = read.iter().map(|event| event["user"]["id"].to_string()).collect();
    assert_eq!(ids.len(), USERS);
    drop(first);

    let ada = realm.user("ada").await;
    let brief = realm.user("brief").await;
    realm.delete(&format!("/users/{brief}")).await;
    let mut second = poller(realm.administrator(), &bus);
    second.look().await.unwrap();
    let all = events(&bus);
    let of = |user: &str| -> Vec<&str> {
        all[read.len()..].iter().filter(|e| e["user"]["id"] == user).map(|e| e["type"].as_str().unwrap()).collect()
    };
    assert_eq!(of(&ada), ["user.upserted"]);
    assert_eq!(of(&brief), ["user.deleted"], "who is gone when read is passed over: the delete follows");
    assert!(all.len() < read.len() + USERS, "nobody is read in full again");
    realm.drop().await;
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn members_of_a_group_that_is_renamed_or_deleted_are_read_again() {
    let realm = Realm::new().await;
    let bus = bus();
    let mut poller = poller(realm.administrator(), &bus);
    let ada = realm.user("ada").await;
    let group = realm.make("/groups", json!({"name": "eng"})).await;
    realm.put(&format!("/users/{ada}/groups/{group}"), json!({})).await;
    poller.look().await.unwrap();
    let groups = || events(&bus).last().unwrap()["user"]["groups"].clone();
    assert_eq!(groups(), json!(["eng"]));
    realm.put(&format!("/groups/{group}"), json!({"name": "engineering"})).await;
    poller.look().await.unwrap();
    poller.look().await.unwrap();
    assert_eq!(groups(), json!(["engineering"]));
    realm.delete(&format!("/groups/{group}")).await;
    poller.look().await.unwrap();
    poller.look().await.unwrap();
    assert_eq!(groups(), json!([]));
    realm.drop().await;
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn a_service_account_with_the_named_roles_is_enough_and_what_is_missing_is_said() {
    let realm = Realm::new().await;
    let access = realm.client(&["view-users", "query-groups", "view-realm", "view-events"]).await;
    let ada = realm.user("ada").await;
    poller(access.clone(), &bus()).look().await.unwrap();
    let found = {
        let bus = bus();
        poller(access.clone(), &bus).look().await.unwrap();
        events(&bus).iter().any(|event| event["user"]["id"] == ada.as_str())
    };
    assert!(found);
    let says = |access: Access| async move { poller(access, &bus()).look().await.unwrap_err().to_string() };
    let wrong = Access { login: Login::Client { secret: Secret::new("wrong") }, ..access.clone() };
    let said = says(wrong).await;
    assert!(
        said.starts_with("could not sign in to realm ") && said.contains("as client lockstep (status 401)"),
        "{said}"
    );
    let said = says(Access { realm: "nowhere".into(), ..realm.administrator() }).await;
    assert!(said.contains("has no realm nowhere"), "{said}");
    let said = says(Access { url: "http://127.0.0.1:1".into(), ..access }).await;
    assert!(said.starts_with("could not sign in: keycloak at http://127.0.0.1:1 did not answer"), "{said}");
    realm.admin(reqwest::Method::PUT, "", Some(json!({"adminEventsEnabled": false}))).await;
    let off = poller(realm.administrator(), &bus()).look().await.unwrap_err();
    assert!(matches!(off, PollError::Keycloak(KeycloakError::EventsOff { .. })), "{off}");
    let weak = Realm::new().await;
    let access = weak.client(&["view-users"]).await;
    let said = says(access).await;
    assert!(said.contains("view-events"), "{said}");
    weak.drop().await;
    realm.drop().await;
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn whoever_changed_while_events_were_off_or_whose_event_is_gone_is_read_all_the_same() {
    let realm = Realm::new().await;
    let bus = bus();
    let (ada, grace) = (realm.user("ada").await, realm.user("grace").await);
    poller(realm.administrator(), &bus).look().await.unwrap();
    let enabled = |user: &str| {
        let all = events(&bus);
        all.iter().rev().find(|event| event["user"]["id"] == user).map(|event| event["user"]["enabled"].clone())
    };
    realm.put("/events/config", json!({"adminEventsEnabled": false})).await;
    realm.put(&format!("/users/{ada}"), json!({"enabled": false})).await;
    let off = poller(realm.administrator(), &bus).look().await.unwrap_err();
    assert!(matches!(off, PollError::Keycloak(KeycloakError::EventsOff { .. })), "{off}");
    realm.put("/events/config", json!({"adminEventsEnabled": true})).await;
    poller(realm.administrator(), &bus).look().await.unwrap();
    assert_eq!(enabled(&ada), Some(json!(false)), "it was off");

    realm.put(&format!("/users/{grace}"), json!({"enabled": false})).await;
    realm.delete("/admin-events").await;
    let before = events(&bus).len();
    poller(realm.administrator(), &bus).look().await.unwrap();
    assert_eq!(enabled(&grace), Some(json!(false)), "its event is gone");
    assert_eq!(events(&bus).len(), before + 2, "everyone is read once");
    realm.drop().await;
}

#[tokio::test]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn events_that_were_off_between_two_looks_make_everyone_be_read() {
    let realm = Realm::new().await;
    let bus = bus();
    let ada = realm.user("ada").await;
    let mut poller = poller(realm.administrator(), &bus);
    poller.look().await.unwrap();
    realm.put("/events/config", json!({"adminEventsEnabled": false})).await;
    realm.put(&format!("/users/{ada}"), json!({"enabled": false})).await;
    realm.put("/events/config", json!({"adminEventsEnabled": true})).await;
    poller.look().await.unwrap();
    poller.look().await.unwrap();
    assert_eq!(events(&bus).last().unwrap()["user"]["enabled"], json!(false));
    realm.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Keycloak: tests/run keycloak"]
async fn it_runs_until_cancelled() {
    let realm = Realm::new().await;
    let bus = bus();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(poller(realm.administrator(), &bus).run(cancel.clone()));
    let ada = realm.user("ada").await;
    let written = async {
        while !events(&bus).iter().any(|event| event["user"]["id"] == ada.as_str()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), written).await.expect("the user's event");
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("a quick end").unwrap().unwrap();
    realm.drop().await;
}
