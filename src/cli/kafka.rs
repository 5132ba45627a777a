//! The Kafka that lockstep.yaml names, with the secrets that it refers to.

use super::{Exit, Failure, runtime};
use crate::bus::acls;
use crate::bus::kafka::{KafkaBus, KafkaSettings, TokenLogin};
use crate::bus::topics::Layout;
use crate::config::{KafkaRules, SaslRules, Secret, resolve};
use crate::rules::Bundle;
use std::collections::BTreeMap;
use std::path::Path;

/// How the brokers' logs, quotas and ACLs know a process of Lockstep.
pub const CLIENT_ID: &str = "lockstep";

/// Reaches the cluster, or says what to mend.
pub fn connect(rules: &KafkaRules, layout: &Layout, data: &Path) -> anyhow::Result<KafkaBus> {
    let settings = settings(rules, layout, data)?;
    let connected = match login(rules, data)? {
        None => KafkaBus::connect(settings),
        Some(login) => KafkaBus::connect_with_tokens(settings, login),
    };
    connected.map_err(|error| runtime::bus_failure(&error))
}

/// What the installation's names on the cluster are made of.
pub fn installation<'a>(layout: &'a Layout, bundle: &'a Bundle) -> acls::Installation<'a> {
    acls::Installation { layout, bundle, client_id: CLIENT_ID }
}

/// The brokers' addresses, as they are asked first.
pub fn bootstrap(rules: &KafkaRules, data: &Path) -> anyhow::Result<String> {
    resolved("bootstrap", &rules.bootstrap, data)
}

fn settings(rules: &KafkaRules, layout: &Layout, data: &Path) -> anyhow::Result<KafkaSettings> {
    let mut properties = BTreeMap::new();
    for (name, value) in &rules.properties {
        properties.insert(name.clone(), resolved(&format!("properties.{name}"), value, data)?);
    }
    for (key, name, value) in rules.security_properties() {
        properties.insert(name.to_owned(), resolved(key, &value, data)?);
    }
    Ok(KafkaSettings {
        bootstrap: bootstrap(rules, data)?,
        properties,
        client_id: CLIENT_ID.to_owned(),
        max_record_bytes: layout.largest_record(),
    })
}

fn login(rules: &KafkaRules, data: &Path) -> anyhow::Result<Option<TokenLogin>> {
    let Some(SaslRules::Token(token)) = &rules.sasl else { return Ok(None) };
    let text = |key: &str, value: &str| resolved(&format!("sasl.{key}"), value, data);
    let ca = rules.tls.as_ref().and_then(|tls| tls.ca.as_deref());
    Ok(Some(TokenLogin {
        url: text("token_url", &token.url)?,
        client_id: text("client_id", &token.client_id)?,
        client_secret: Secret::new(text("client_secret", &token.client_secret)?),
        scope: token.scope.as_deref().map(|scope| text("scope", scope)).transpose()?,
        ca: ca.map(|path| resolved("tls.ca", path, data)).transpose()?.map(Into::into),
    }))
}

fn resolved(key: &str, text: &str, data: &Path) -> anyhow::Result<String> {
    match resolve(text, data) {
        Ok(secret) => Ok(secret.expose().to_owned()),
        Err(error) => Err(Failure::new(Exit::Config, format!("lockstep.yaml, bus.kafka.{key}: {error}"))
            .help(error.remedy())
            .into()),
    }
}
