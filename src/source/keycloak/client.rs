//! Keycloak's admin REST API, as far as the poller needs it. Errors hold no user's data.

use super::event::AdminEvent;
use crate::codec::cloudevents::source_uri;
use crate::config::secret::Secret;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One call, from connecting to the last byte.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A token is not used in the last seconds of its life: it would expire on its way.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// A page of a hundred events with their representations, or of a user's groups, is far below it.
const MOST_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Groups of a user that are asked for at once.
const GROUP_PAGE: usize = 500;

/// What of a user goes into events: what an identity may be mapped from, and nothing of credentials or sessions.
const USER_FIELDS: [&str; 9] =
    ["id", "username", "firstName", "lastName", "email", "emailVerified", "enabled", "createdTimestamp", "attributes"];

/// A realm and the way in, with secrets resolved.
#[derive(Clone, Debug)]
pub struct Access {
    /// The server's base, without `/admin` and `/realms`.
    pub url: String,
    pub realm: String,
    pub login_realm: String,
    pub client_id: String,
    pub login: Login,
}

#[derive(Clone, Debug)]
pub enum Login {
    Client { secret: Secret },
    User { name: String, password: Secret },
}

#[derive(Debug, thiserror::Error)]
pub enum KeycloakError {
    #[error("keycloak at {url} can't be used: {reason}; check `url` of the source's `poll`")]
    Url { url: String, reason: String },
    #[error("could not {doing}: keycloak at {url} did not answer ({reason})")]
    Unreachable { doing: &'static str, url: String, reason: String },
    #[error("could not {doing}: keycloak at {url} has a fault (status {status})")]
    Faulty { doing: &'static str, url: String, status: u16 },
    #[error(
        "could not sign in to realm {realm} as client {client} (status {status}): check `client_id`, the secret or password, \
         and that the client has a service account or direct access grants"
    )]
    Login { realm: String, client: String, status: u16 },
    #[error(
        "could not {doing} of realm {realm} (status {status}): give the poller's account the roles view-users, query-groups, \
         view-realm and view-events of client realm-management"
    )]
    Forbidden { doing: &'static str, realm: String, status: u16 },
    #[error("could not {doing}: keycloak at {url} has no realm {realm}; check `realm` of the source's `poll`")]
    NoRealm { doing: &'static str, url: String, realm: String },
    #[error(
        "realm {realm} keeps no admin events, and the poller lives on them: switch them on under realm settings, events"
    )]
    EventsOff { realm: String },
}

impl KeycloakError {
    /// Whether it may pass without anybody changing the config.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Faulty { .. })
    }
}

pub(super) struct Client {
    http: reqwest::Client,
    access: Access,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    bearer: String,
    until: Instant,
}

/// An answer that the caller has to look at.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Client {
    pub fn new(access: Access) -> Result<Self, KeycloakError> {
        let unusable = |reason: String| KeycloakError::Url { url: access.url.clone(), reason };
        reqwest::Url::parse(&access.url).map_err(|e| unusable(e.to_string()))?;
        let http = reqwest::Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT).build();
        let http = http.map_err(|e| unusable(e.to_string()))?;
        let access = Access { url: access.url.trim_end_matches('/').to_owned(), ..access };
        Ok(Self { http, access, token: Mutex::new(None) })
    }

    /// That the realm is there, keeps admin events, and lets the poller read them.
    pub async fn check(&self) -> Result<(), KeycloakError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct EventsConfig {
            #[serde(default)]
            admin_events_enabled: bool,
        }
        let config: EventsConfig = self.get("read the events' settings", "/events/config", &[]).await?;
        if config.admin_events_enabled {
            Ok(())
        } else {
            Err(KeycloakError::EventsOff { realm: self.access.realm.clone() })
        }
    }

    /// In ms; 0 where there is no event yet.
    pub async fn newest_event_time(&self) -> Result<i64, KeycloakError> {
        let newest: Vec<AdminEvent> =
            self.get("read the newest admin event", "/admin-events", &[("max", "1".to_owned())]).await?;
        Ok(newest.first().map_or(0, |event| event.time))
    }

    /// Whether an event of then (ms, inclusive) or before is kept: the oldest expire first.
    pub async fn has_events_until(&self, until: i64) -> Result<bool, KeycloakError> {
        let query = [("dateTo", until.to_string()), ("max", "1".to_owned())];
        let oldest: Vec<AdminEvent> = self.get("look how long admin events are kept", "/admin-events", &query).await?;
        Ok(!oldest.is_empty())
    }

    /// Events from a time on (ms, inclusive), oldest first: new ones come at the end, so pages don't move.
    pub async fn events(&self, from: i64, first: usize, max: usize) -> Result<Vec<AdminEvent>, KeycloakError> {
        let query = [
            ("dateFrom", from.max(0).to_string()),
            ("direction", "asc".to_owned()),
            ("first", first.to_string()),
            ("max", max.to_string()),
        ];
        self.get("read the admin events", "/admin-events", &query).await
    }

    pub async fn user_ids(&self, first: usize, max: usize) -> Result<Vec<String>, KeycloakError> {
        #[derive(Deserialize)]
        struct User {
            id: String,
        }
        let query =
            [("first", first.to_string()), ("max", max.to_string()), ("briefRepresentation", "true".to_owned())];
        let users: Vec<User> = self.get("list the users", "/users", &query).await?;
        Ok(users.into_iter().map(|user| user.id).collect())
    }

    /// The user with the names of their groups; None where they are gone.
    pub async fn user(&self, id: &str) -> Result<Option<Json>, KeycloakError> {
        let path = format!("/users{}", source_uri(&[id]));
        let Some(mut user) = self.find::<Map<String, Json>>("read a user", &path, &[]).await? else {
            return Ok(None);
        };
        user.retain(|name, _| USER_FIELDS.contains(&name.as_str()));
        let Some(groups) = self.groups(&path).await? else { return Ok(None) };
        user.insert("groups".to_owned(), groups.into());
        Ok(Some(Json::Object(user)))
    }

    async fn groups(&self, user: &str) -> Result<Option<Vec<String>>, KeycloakError> {
        #[derive(Deserialize)]
        struct Group {
            name: String,
        }
        let path = format!("{user}/groups");
        let mut names = Vec::new();
        loop {
            let query = [
                ("first", names.len().to_string()),
                ("max", GROUP_PAGE.to_string()),
                ("briefRepresentation", "true".to_owned()),
            ];
            let Some(page) = self.find::<Vec<Group>>("read a user's groups", &path, &query).await? else {
                return Ok(None);
            };
            let last = page.len() < GROUP_PAGE;
            names.extend(page.into_iter().map(|group| group.name));
            if last {
                break;
            }
        }
        names.sort();
        names.dedup();
        Ok(Some(names))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, KeycloakError> {
        let found = self.find(doing, path, query).await?;
        found.ok_or_else(|| KeycloakError::NoRealm {
            doing,
            url: self.access.url.clone(),
            realm: self.access.realm.clone(),
        })
    }

    /// None: there is no such thing (404).
    async fn find<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<T>, KeycloakError> {
        let mut answer = self.ask(doing, path, query).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            // The session was ended, or the keys were rotated: once more with a new token.
            self.forget_token();
            answer = self.ask(doing, path, query).await?;
        }
        match answer.status.as_u16() {
            200 => match serde_json::from_slice(&answer.body) {
                Ok(found) => Ok(Some(found)),
                Err(_) => Err(self.unreachable(doing, "what answers there is not keycloak's admin API".to_owned())),
            },
            404 => Ok(None),
            status @ (401 | 403) => Err(KeycloakError::Forbidden { doing, realm: self.access.realm.clone(), status }),
            status => Err(KeycloakError::Faulty { doing, url: self.access.url.clone(), status }),
        }
    }

    async fn ask(&self, doing: &'static str, path: &str, query: &[(&str, String)]) -> Result<Answer, KeycloakError> {
        let token = self.token().await?;
        let url = format!("{}/admin/realms{}{path}", self.access.url, source_uri(&[&self.access.realm]));
        self.send(doing, self.http.get(url).query(query).bearer_auth(token)).await
    }

    async fn token(&self) -> Result<String, KeycloakError> {
        if let Some(token) = self.kept_token() {
            return Ok(token);
        }
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            expires_in: u64,
        }
        let access = &self.access;
        let mut form = vec![("client_id", access.client_id.as_str())];
        match &access.login {
            Login::Client { secret } => {
                form.extend([("grant_type", "client_credentials"), ("client_secret", secret.expose())]);
            }
            Login::User { name, password } => {
                form.extend([("grant_type", "password"), ("username", name), ("password", password.expose())]);
            }
        }
        let realm = source_uri(&[&access.login_realm]);
        let url = format!("{}/realms{realm}/protocol/openid-connect/token", access.url);
        let answer = self.send("sign in", self.http.post(url).form(&form)).await?;
        match answer.status.as_u16() {
            200 => {}
            status @ (408 | 429 | 500..) => {
                return Err(KeycloakError::Faulty { doing: "sign in", url: access.url.clone(), status });
            }
            status => {
                let (realm, client) = (access.login_realm.clone(), access.client_id.clone());
                return Err(KeycloakError::Login { realm, client, status });
            }
        }
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| self.unreachable("sign in", "what answers there is not keycloak".to_owned()))?;
        let life = Duration::from_secs(granted.expires_in).saturating_sub(TOKEN_MARGIN);
        let token = Token { bearer: granted.access_token.clone(), until: Instant::now() + life };
        *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(token);
        Ok(granted.access_token)
    }

    fn kept_token(&self) -> Option<String> {
        let token = self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        token.as_ref().filter(|token| Instant::now() < token.until).map(|token| token.bearer.clone())
    }

    fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    async fn send(&self, doing: &'static str, request: reqwest::RequestBuilder) -> Result<Answer, KeycloakError> {
        let failed = |error: reqwest::Error| self.unreachable(doing, reason(error));
        let mut response = request.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MOST_ANSWER_BYTES {
                return Err(self.unreachable(doing, format!("an answer of more than {MOST_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status: response.status(), body })
    }

    fn unreachable(&self, doing: &'static str, reason: String) -> KeycloakError {
        KeycloakError::Unreachable { doing, url: self.access.url.clone(), reason }
    }
}

/// The innermost cause, without the URL: that names users.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() {
        return format!("no answer within {} s", CALL_TIMEOUT.as_secs());
    }
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
