//! `bus.kafka` of lockstep.yaml: how to reach the brokers, who says so, and who this process is to them.
//!
//! `tls` and `sasl` are sections of their own, so that a mistake is found before a broker is asked and a secret can't be
//! written out; everything else that librdkafka knows goes through `properties`, by its own names.

use crate::rules::read::{Fields, Page, Placed};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct KafkaRules {
    pub bootstrap: String,
    /// None: in the clear, unless `properties` say otherwise.
    pub tls: Option<TlsRules>,
    pub sasl: Option<SaslRules>,
    /// librdkafka's own; values unresolved.
    pub properties: BTreeMap<String, String>,
    /// Of the topics that are made; None: the broker's default.
    pub replicas: Option<u16>,
}

/// Files in PEM; unresolved.
#[derive(Clone, Debug, Default)]
pub struct TlsRules {
    /// Who signed the brokers' certificates; None: whom the operating system trusts.
    pub ca: Option<String>,
    /// This process's own certificate, with its key.
    pub client: Option<ClientCertificate>,
}

#[derive(Clone, Debug)]
pub struct ClientCertificate {
    pub certificate: String,
    pub key: String,
    pub key_password: Option<String>,
}

/// Unresolved.
#[derive(Clone, Debug)]
pub enum SaslRules {
    Password { mechanism: PasswordMechanism, user: String, password: String },
    Token(TokenRules),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

/// OAUTHBEARER with tokens by client credentials (RFC 6749, 4.4).
#[derive(Clone, Debug)]
pub struct TokenRules {
    pub url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
}

/// Settings that the guarantees rest on: Lockstep's to set.
const OWN_PROPERTIES: &[&str] = &[
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "partition.assignment.strategy",
    "partitioner",
    "transactional.id",
];

impl PasswordMechanism {
    /// As Kafka names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl KafkaRules {
    /// librdkafka's `security.protocol`, as the sections say it; None: they say nothing.
    pub fn protocol(&self) -> Option<&'static str> {
        match (&self.tls, &self.sasl) {
            (None, None) => None,
            (Some(_), None) => Some("ssl"),
            (None, Some(_)) => Some("sasl_plaintext"),
            (Some(_), Some(_)) => Some("sasl_ssl"),
        }
    }

    /// librdkafka's properties for `tls` and `sasl`, with the key of lockstep.yaml that each comes from; unresolved.
    pub fn security_properties(&self) -> Vec<(&'static str, &'static str, String)> {
        let Some(protocol) = self.protocol() else { return Vec::new() };
        let mut properties = vec![("tls", "security.protocol", protocol.to_owned())];
        if let Some(tls) = &self.tls {
            // `probe`: an OpenSSL that is built in has no idea where this system keeps its authorities.
            properties.push(("tls.ca", "ssl.ca.location", tls.ca.clone().unwrap_or_else(|| "probe".to_owned())));
            if let Some(client) = &tls.client {
                properties.push(("tls.certificate", "ssl.certificate.location", client.certificate.clone()));
                properties.push(("tls.key", "ssl.key.location", client.key.clone()));
                if let Some(password) = &client.key_password {
                    properties.push(("tls.key_password", "ssl.key.password", password.clone()));
                }
            }
        }
        match &self.sasl {
            None => {}
            Some(SaslRules::Password { mechanism, user, password }) => properties.extend([
                ("sasl.mechanism", "sasl.mechanism", mechanism.as_str().to_owned()),
                ("sasl.user", "sasl.username", user.clone()),
                ("sasl.password", "sasl.password", password.clone()),
            ]),
            Some(SaslRules::Token(_)) => {
                properties.push(("sasl.mechanism", "sasl.mechanism", "OAUTHBEARER".to_owned()));
            }
        }
        properties
    }
}

/// The section `bus.kafka`.
pub(super) fn read(mut section: Fields<'_>) -> Option<KafkaRules> {
    let bootstrap = section.need_text("bootstrap", "bootstrap: 127.0.0.1:9092");
    let bootstrap = bootstrap.and_then(|brokers| with_ports(section.page(), brokers));
    let tls = written(&mut section, "tls", "tls: {}").map(tls);
    let sasl = written(&mut section, "sasl", SASL_EXAMPLE).and_then(sasl);
    let replicas = section.number("replicas", 1, 100).and_then(|count| u16::try_from(count).ok());
    let mut rules = KafkaRules { bootstrap: String::new(), tls, sasl, properties: BTreeMap::new(), replicas };
    rules.properties = properties(&mut section, &rules);
    section.finish();
    rules.bootstrap = bootstrap?.value;
    Some(rules)
}

/// Brokers as `HOST:PORT,…`: a port that is left out would be guessed. What a reference stands for isn't known yet.
fn with_ports(page: &Page<'_>, brokers: Placed<String>) -> Option<Placed<String>> {
    let fine = |broker: &str| {
        let port = broker.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        broker.contains("${") || port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if brokers.value.split(',').all(fine) {
        return Some(brokers);
    }
    let help = "write HOST:PORT for each, with commas between: `b1.example.com:9092,b2.example.com:9092`".to_owned();
    page.problem(brokers.place, "a broker's address has a host and a port", help);
    None
}

const SASL_EXAMPLE: &str = "sasl: { mechanism: scram-sha-512, user: lockstep, password: '${env:KAFKA_PASSWORD}' }";

/// A section that is written. A key with nothing after it would otherwise pass for one that isn't there, and a connection
/// that was meant to be encrypted would not be.
fn written<'f>(section: &mut Fields<'f>, key: &'static str, example: &str) -> Option<Fields<'f>> {
    let page = section.page();
    let node = section.get(key);
    if let (None, Some(place)) = (node, section.key_place(key)) {
        page.problem(place, format!("`{key}` is empty"), format!("write `{example}`"));
    }
    node.and_then(|node| page.fields(node))
}

fn tls(mut section: Fields<'_>) -> TlsRules {
    let page = section.page();
    let file = |section: &mut Fields<'_>, key| section.text(key).and_then(|path| path_of(page, path));
    let ca = file(&mut section, "ca");
    let certificate = file(&mut section, "certificate");
    let key = file(&mut section, "key");
    let key_password = section.text("key_password").and_then(|password| secret(page, password));
    for (key, other, there) in [
        ("certificate", "key", key.is_some()),
        ("key", "certificate", certificate.is_some()),
        ("key_password", "key", key.is_some()),
    ] {
        if let (Some(place), false, None) = (section.key_place(key), there, section.key_place(other)) {
            page.problem(place, format!("`{key}` is of no use without `{other}`"), format!("add `{other}: FILE.pem`"));
        }
    }
    section.finish();
    let client = certificate.zip(key).map(|(certificate, key)| ClientCertificate { certificate, key, key_password });
    TlsRules { ca, client }
}

fn sasl(mut section: Fields<'_>) -> Option<SaslRules> {
    const WORDS: [(&str, Option<PasswordMechanism>); 4] = [
        ("scram-sha-512", Some(PasswordMechanism::ScramSha512)),
        ("scram-sha-256", Some(PasswordMechanism::ScramSha256)),
        ("plain", Some(PasswordMechanism::Plain)),
        ("oauthbearer", None),
    ];
    let page = section.page();
    let mechanism = section.need("mechanism", "mechanism: scram-sha-512").and_then(|node| page.choice(node, &WORDS));
    let rules = match mechanism? {
        Some(mechanism) => {
            let user = section.need_text("user", "user: lockstep");
            let password = section.need_text("password", "password: ${env:KAFKA_PASSWORD}");
            let password = password.and_then(|password| secret(page, password));
            user.zip(password).map(|(user, password)| SaslRules::Password { mechanism, user: user.value, password })
        }
        None => token(&mut section).map(SaslRules::Token),
    };
    section.finish();
    rules
}

fn token(section: &mut Fields<'_>) -> Option<TokenRules> {
    let page = section.page();
    let url = section.need_text("token_url", "token_url: https://idp.example.com/oauth2/token").and_then(|url| {
        if ["http://", "https://", "${"].iter().any(|start| url.value.starts_with(start)) {
            return Some(url.value);
        }
        page.problem(url.place, "this is not the url of a token endpoint", "begin it with `https://`".to_owned());
        None
    });
    let client_id = section.need_text("client_id", "client_id: lockstep");
    let client_secret = section.need_text("client_secret", "client_secret: ${env:KAFKA_CLIENT_SECRET}");
    let client_secret = client_secret.and_then(|text| secret(page, text));
    let scope = section.text("scope").map(|scope| scope.value);
    Some(TokenRules { url: url?, client_id: client_id?.value, client_secret: client_secret?, scope })
}

/// A file's path. PEM text in its place would be a key in a config folder.
fn path_of(page: &Page<'_>, path: Placed<String>) -> Option<String> {
    if path.value.contains("-----BEGIN") {
        page.secret_problem(&path, "the path of a file belongs here, not what is in it");
        return None;
    }
    Some(path.value)
}

fn secret(page: &Page<'_>, text: Placed<String>) -> Option<String> {
    if text.value.starts_with("${") {
        return Some(text.value);
    }
    page.secret_problem(&text, "a secret must not stand in lockstep.yaml");
    None
}

fn properties(section: &mut Fields<'_>, rules: &KafkaRules) -> BTreeMap<String, String> {
    let page = section.page();
    let given = rules.security_properties();
    let mut properties = BTreeMap::new();
    for entry in section.entries("properties") {
        if OWN_PROPERTIES.contains(&entry.key.as_str()) {
            let message = format!("`{}` is set by Lockstep: its guarantees rest on it", entry.key);
            page.problem(entry.key_place, message, "remove it".to_owned());
            continue;
        }
        // `sasl.mechanisms` is librdkafka's other name for the same.
        let name = if entry.key == "sasl.mechanisms" { "sasl.mechanism" } else { entry.key.as_str() };
        if let Some((key, ..)) = given.iter().find(|(_, property, _)| *property == name) {
            let message = format!("`{}` is what `bus.kafka.{key}` says already", entry.key);
            page.problem(entry.key_place, message, "remove it".to_owned());
            continue;
        }
        let Some(value) = page.scalar(&entry.value) else {
            page.wrong_type(&entry.value, "text");
            continue;
        };
        let is_secret = ["password", "secret", "key.pem", "jaas", "token"].iter().any(|word| entry.key.contains(word));
        // A token endpoint's address, and how keys are named, are no secrets.
        let value = match is_secret && !entry.key.ends_with(".url") {
            true => secret(page, Placed { value, place: entry.value.place }),
            false => Some(value),
        };
        if let Some(value) = value {
            properties.insert(entry.key.clone(), value);
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BusRules, installation};
    use crate::rules::diagnostic::{self, SourceFile};

    fn parsed(kafka: &str) -> Result<KafkaRules, String> {
        let text = format!("tenants: [acme]\nbus:\n  kafka:\n    bootstrap: b1:9093\n{kafka}");
        match installation::parse(&SourceFile::new("lockstep.yaml", &text)) {
            Ok(installation) => match installation.bus {
                BusRules::Kafka(rules) => Ok(rules),
                BusRules::Embedded => panic!("kafka is what it says"),
            },
            Err(problems) => Err(diagnostic::render(&problems)),
        }
    }

    fn properties(kafka: &str) -> BTreeMap<&'static str, String> {
        let rules = parsed(kafka).unwrap_or_else(|problems| panic!("{problems}"));
        rules.security_properties().into_iter().map(|(_, name, value)| (name, value)).collect()
    }

    #[test]
    fn sections_become_what_librdkafka_knows() {
        assert!(properties("").is_empty());
        assert_eq!(
            properties("    tls: {}\n"),
            BTreeMap::from([("security.protocol", "ssl".to_owned()), ("ssl.ca.location", "probe".to_owned())])
        );
        let both = properties(
            "    tls: { ca: ca.pem, certificate: c.pem, key: k.pem, key_password: '${env:P}' }\n    sasl: { mechanism: scram-sha-256, user: u, password: '${file:/s}' }\n",
        );
        for (name, value) in [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "ca.pem"),
            ("ssl.certificate.location", "c.pem"),
            ("ssl.key.location", "k.pem"),
            ("ssl.key.password", "${env:P}"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.username", "u"),
            ("sasl.password", "${file:/s}"),
        ] {
            assert_eq!(both[name], value, "{name}");
        }
        let clear = properties("    sasl: { mechanism: plain, user: u, password: '${env:P}' }\n");
        assert_eq!(clear["security.protocol"], "sasl_plaintext");
        let token = "    tls: {}\n    sasl: { mechanism: oauthbearer, token_url: 'https://idp/t', client_id: c, client_secret: '${env:S}' }\n";
        assert_eq!(properties(token)["sasl.mechanism"], "OAUTHBEARER");
        assert!(matches!(parsed(token).unwrap().sasl, Some(SaslRules::Token(token)) if token.scope.is_none()));
    }

    #[test]
    fn a_connection_that_would_not_be_as_it_was_meant_is_refused() {
        let shown = parsed(
            "    tls:\n    sasl: { mechanism: scram, user: u }\n    properties: { security.protocol: ssl, sasl.username: me }\n",
        )
        .unwrap_err();
        insta::assert_snapshot!(shown, @r"
        error: `tls` is empty
         --> lockstep.yaml:5:5
          |
        5 |     tls:
          |     ^^^
          |
          = help: write `tls: {}`

        error: `scram` is not a word that is known here
         --> lockstep.yaml:6:24
          |
        6 |     sasl: { mechanism: scram, user: u }
          |                        ^^^^^
          |
          = help: words known here: `oauthbearer`, `plain`, `scram-sha-256`, `scram-sha-512`
        ");
        let shown = parsed(
            "    tls: { certificate: c.pem, key_password: hunter2 }\n    sasl: { mechanism: oauthbearer, token_url: idp, client_id: c, client_secret: hunter2, pasword: x }\n    properties: { security.protocol: ssl }\n",
        )
        .unwrap_err();
        assert!(!shown.contains("hunter2"), "{shown}");
        let messages: Vec<&str> = shown.lines().filter(|line| line.starts_with("error: ")).collect();
        insta::assert_snapshot!(messages.join("\n"), @r"
        error: `certificate` is of no use without `key`
        error: `key_password` is of no use without `key`
        error: a secret must not stand in lockstep.yaml
        error: this is not the url of a token endpoint
        error: a secret must not stand in lockstep.yaml
        error: the key `pasword` is not known here
        error: `security.protocol` is what `bus.kafka.tls` says already
        ");
    }

    #[test]
    fn brokers_are_named_with_their_ports() {
        for (bootstrap, fine) in [
            ("b1:9092", true),
            ("b1:9092, ssl://[::1]:9093", true),
            ("${env:BROKERS}", true),
            ("b1:9092,${env:BROKER}:9092", true),
            ("nohost", false),
            ("b1:9092,b2", false),
            ("b1:", false),
            (":9092", false),
            ("b1:99999", false),
            ("b1:9092,", false),
        ] {
            let text = format!("tenants: [acme]\nbus: {{ kafka: {{ bootstrap: '{bootstrap}' }} }}\n");
            let parsed = installation::parse(&SourceFile::new("lockstep.yaml", &text));
            let problems = parsed.err().map(|problems| diagnostic::render(&problems)).unwrap_or_default();
            assert_eq!(problems.is_empty(), fine, "{bootstrap}: {problems}");
            assert!(fine || problems.contains("write HOST:PORT"), "{bootstrap}: {problems}");
        }
    }
}
