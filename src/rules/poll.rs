//! `poll:` of a source's file: the system that `lockstep poll` asks for changes, and how.

use super::read::Fields;
use super::source::SourceFormat;
use super::target_draft::{checked_url, referenced_secret};
use std::time::Duration;

/// Below this a poller is nothing but load.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub enum PollRules {
    Keycloak(KeycloakPollRules),
}

/// A realm of a Keycloak server, read through its admin API.
#[derive(Clone, Debug)]
pub struct KeycloakPollRules {
    /// The server's base, up to and without `/admin` and `/realms`; unresolved.
    pub url: String,
    pub realm: String,
    /// The realm that the poller signs in to.
    pub login_realm: String,
    pub client_id: String,
    pub login: KeycloakLogin,
    /// Between two looks.
    pub interval: Duration,
    /// How far behind the newest event each look begins: events are committed out of order.
    pub overlap: Duration,
}

/// Secrets are references, resolved when the poller is made.
#[derive(Clone, Debug)]
pub enum KeycloakLogin {
    Client { secret: String },
    User { name: String, password: String },
}

pub(super) fn read(fields: &mut Fields<'_>, format: SourceFormat) -> Option<PollRules> {
    let node = fields.get("poll")?;
    let page = fields.page();
    let mut poll = page.fields(node)?;
    let place = poll.place();
    let keycloak = poll.need("keycloak", "keycloak: { url: https://id.example.com, realm: staff, client_id: lockstep, client_secret: \"${env:KEYCLOAK_SECRET}\" }");
    poll.finish();
    if format != SourceFormat::Keycloak {
        page.problem(
            place,
            "what is polled from Keycloak is of format keycloak",
            "write `format: keycloak`".to_owned(),
        );
    }
    let mut keycloak = page.fields(keycloak?)?;
    let url = keycloak.need_text("url", "url: https://id.example.com");
    let url = url.and_then(|url| checked_url(page, url, &["http://", "https://", "${"]));
    let realm = keycloak.need_text("realm", "realm: staff").map(|realm| realm.value);
    let login_realm = keycloak.text("login_realm").map(|realm| realm.value);
    let client_id = keycloak.need_text("client_id", "client_id: lockstep").map(|id| id.value);
    let secret = keycloak.text("client_secret");
    let (name, password) = (keycloak.text("username"), keycloak.text("password"));
    let login = match (secret, name, password) {
        (Some(secret), None, None) => referenced_secret(page, secret).map(|secret| KeycloakLogin::Client { secret }),
        (None, Some(name), Some(password)) => {
            referenced_secret(page, password).map(|password| KeycloakLogin::User { name: name.value, password })
        }
        _ => {
            let help = "write `client_secret: \"${env:NAME}\"` (a client with a service account), or `username` and `password`";
            page.problem(keycloak.place(), "the poller has to sign in, in one way", help.to_owned());
            None
        }
    };
    let interval_place = keycloak.key_place("interval");
    let interval = keycloak.duration("interval", Duration::from_secs(5));
    if let Some(place) = interval_place.filter(|_| interval < SHORTEST_INTERVAL) {
        page.problem(place, "this is too often", "write at least `interval: 100ms`".to_owned());
    }
    let overlap = keycloak.duration("overlap", Duration::from_secs(60));
    keycloak.finish();
    let realm = realm?;
    Some(PollRules::Keycloak(KeycloakPollRules {
        url: url?,
        login_realm: login_realm.unwrap_or_else(|| realm.clone()),
        realm,
        client_id: client_id?,
        login: login?,
        interval,
        overlap,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Bundle, SourceFile};

    fn compile(poll: &str, format: &str) -> Result<Option<PollRules>, Vec<String>> {
        let file = |path: &str, text: String| SourceFile { path: path.to_owned(), text };
        let source = format!(
            "source: idp\ntopic: idp.users\ntenant: acme\nformat: {format}\nevent: {{ id: id }}\nrecord: {{ id: user.id }}\n\
             attributes: {{ name: user.username }}\n{poll}"
        );
        let identity =
            "kinds:\n  person:\n    anchor: idp\n    correlate: [name]\n    attributes: { name: [idp.name] }\n"
                .to_owned();
        let target = "target: t\nconnector:\n  sql:\n    url: sqlite:t.db\n    accounts: { table: a, key: id, columns: { n: n } }\n\
                      account: { match: n, attributes: { n: name } }\nleaver: { action: delete }\n"
            .to_owned();
        let files = [file("sources/idp.yaml", source), file("identity.yaml", identity), file("targets/t.yaml", target)];
        match Bundle::compile(&files) {
            Ok(bundle) => Ok(bundle.sources()[0].poll.clone()),
            Err(problems) => Err(problems.into_iter().map(|problem| problem.message).collect()),
        }
    }

    #[test]
    fn a_keycloak_is_polled_with_usual_times_in_the_realm_it_signs_in_to() {
        let text = "poll: { keycloak: { url: 'https://id.example.com', realm: staff, client_id: lockstep, client_secret: '${env:S}' } }";
        let Some(PollRules::Keycloak(rules)) = compile(text, "keycloak").unwrap() else { panic!("a poll") };
        assert_eq!((rules.realm.as_str(), rules.login_realm.as_str()), ("staff", "staff"));
        assert_eq!((rules.interval, rules.overlap), (Duration::from_secs(5), Duration::from_secs(60)));
        assert!(matches!(rules.login, KeycloakLogin::Client { secret } if secret == "${env:S}"));
        assert!(compile("", "keycloak").unwrap().is_none());
    }

    #[test]
    fn what_can_not_work_is_refused() {
        let with = |rest: &str| {
            format!("poll: {{ keycloak: {{ url: 'https://id.example.com', realm: staff, client_id: c, {rest} }} }}")
        };
        for (poll, format, expected) in [
            (with("client_secret: 's3cret'"), "keycloak", "a secret must not stand in a rule file"),
            (with("username: me, password: s3cret"), "keycloak", "a secret must not stand in a rule file"),
            (with("interval: 5s"), "keycloak", "the poller has to sign in, in one way"),
            (with("username: me, client_secret: '${env:S}'"), "keycloak", "the poller has to sign in, in one way"),
            (with("client_secret: '${env:S}', interval: 1ms"), "keycloak", "this is too often"),
            (with("client_secret: '${env:S}'"), "json", "what is polled from Keycloak is of format keycloak"),
        ] {
            assert_eq!(compile(&poll, format).unwrap_err(), [expected], "{poll}");
        }
    }
}
