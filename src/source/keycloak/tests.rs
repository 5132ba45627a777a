//! The poller against a stand-in for Keycloak: what it does when admin events are missing.

use super::*;
use crate::bus::TopicSpec;
use crate::bus::embedded::{EmbeddedBus, VirtualClock};
use crate::config::secret::Secret;
use crate::model::Timestamp;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::sync::Mutex;

const NINE: Timestamp = Timestamp(1_772_442_000_000);
const MINUTE: Duration = Duration::from_secs(60);

/// A realm with one user.
struct Realm {
    keeps_events: bool,
    enabled: bool,
    /// By their times, oldest first.
    events: Vec<i64>,
}

type Shared = Arc<Mutex<Realm>>;

async fn answer(State(realm): State<Shared>, uri: Uri) -> Response {
    let realm = realm.lock().unwrap();
    let query: BTreeMap<String, String> =
        uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('=')).map(owned).collect();
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<i64>().ok());
    let page = |all: Vec<Json>| {
        let first = number("first").unwrap_or(0) as usize;
        Json::from(all.into_iter().skip(first).take(number("max").unwrap_or(100) as usize).collect::<Vec<_>>())
    };
    let body = match uri.path().trim_start_matches("/admin/realms/staff") {
        "/realms/staff/protocol/openid-connect/token" => json!({"access_token": "t", "expires_in": 3_600}),
        "/events/config" => json!({"adminEventsEnabled": realm.keeps_events}),
        "/admin-events" => {
            let (from, to) = (number("dateFrom").unwrap_or(0), number("dateTo").unwrap_or(i64::MAX));
            let event = |time: &i64| {
                json!({"id": time.to_string(), "time": time, "operationType": "UPDATE", "resourceType": "USER",
                    "resourcePath": "users/ada"})
            };
            let mut events: Vec<Json> =
                realm.events.iter().filter(|time| (from..=to).contains(time)).map(event).collect();
            if query.get("direction").is_none_or(|direction| direction != "asc") {
                events.reverse();
            }
            page(events)
        }
        "/users" => page(vec![json!({"id": "ada"})]),
        "/users/ada" => json!({"id": "ada", "username": "ada", "enabled": realm.enabled}),
        "/users/ada/groups" => json!([]),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    axum::Json(body).into_response()
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

struct House {
    realm: Shared,
    url: String,
    clock: VirtualClock,
    bus: Arc<dyn Bus>,
}

impl House {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let realm = Shared::new(Mutex::new(Realm { keeps_events: true, enabled: true, events: vec![NINE.0 - 1_000] }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&realm));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let clock = VirtualClock::at(NINE);
        let bus = EmbeddedBus::memory(Arc::new(clock.clone()));
        let spec = |name: &str, policy: &str| TopicSpec {
            name: name.into(),
            partitions: 1,
            replicas: None,
            settings: BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]),
        };
        bus.create(&[spec("idp", "delete"), spec("cursors", "compact")]).unwrap();
        Self { realm, url, clock, bus: Arc::new(bus) }
    }

    fn poller(&self) -> Poller {
        let settings = PollerSettings {
            source: "idp".into(),
            topic: "idp".into(),
            cursors: "cursors".into(),
            access: Access {
                url: self.url.clone(),
                realm: "staff".into(),
                login_realm: "staff".into(),
                client_id: "lockstep".into(),
                login: Login::Client { secret: Secret::new("s") },
            },
            interval: Duration::from_secs(5),
            overlap: MINUTE,
        };
        Poller::new(settings, Arc::clone(&self.bus), Arc::new(self.clock.clone())).unwrap()
    }

    fn pass(&self, span: Duration) {
        self.clock.set(self.clock.now().plus(span));
    }

    fn set(&self, change: impl FnOnce(&mut Realm)) {
        change(&mut self.realm.lock().unwrap());
    }
}

fn is_off(look: &Result<Look, PollError>) -> bool {
    matches!(look, Err(PollError::Keycloak(KeycloakError::EventsOff { .. })))
}

#[tokio::test]
async fn admin_events_that_are_switched_off_are_said_and_then_everyone_is_read() {
    let house = House::new().await;
    let mut poller = house.poller();
    assert_eq!(poller.look().await.unwrap().written, 2, "everyone, and the event that was there");
    house.set(|realm| (realm.keeps_events, realm.enabled) = (false, false));
    house.pass(CHECK_EVERY);
    assert!(is_off(&poller.look().await));
    assert!(is_off(&poller.look().await), "as long as it is so");
    assert!(is_off(&house.poller().look().await), "after a restart too");
    house.set(|realm| realm.keeps_events = true);
    assert_eq!(house.poller().look().await.unwrap().written, 2, "another process goes on");
    assert_eq!(poller.look().await.unwrap().written, 1, "the first has seen the event");
    assert_eq!(poller.look().await.unwrap().written, 0);
}

#[tokio::test]
async fn events_that_expired_unread_make_everyone_be_read() {
    let house = House::new().await;
    house.poller().look().await.unwrap();
    let mut poller = house.poller();
    assert_eq!(poller.look().await.unwrap(), Look { seen: 1, written: 1 }, "a restart reads nobody who is unchanged");
    // The newest event known expires, and nothing happened since.
    house.set(|realm| realm.events.clear());
    for _ in 0..5 {
        house.pass(AWAY / 2);
        assert_eq!(poller.look().await.unwrap().written, 0, "whoever has looked all the time has seen all of them");
    }
    house.pass(AWAY);
    assert_eq!(poller.look().await.unwrap().written, 1, "keycloak could not be reached for a while");
    assert_eq!(house.poller().look().await.unwrap().written, 1, "nobody knows how long the process was away");
    let event = house.clock.now().0;
    house.set(|realm| realm.events.push(event));
    assert_eq!(poller.look().await.unwrap().written, 1);
    assert_eq!(house.poller().look().await.unwrap(), Look { seen: 1, written: 1 }, "the last event known is kept");
}
