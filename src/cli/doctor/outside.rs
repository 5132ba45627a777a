//! What lies outside of the bus: the schema registry, and the targets.

use super::finding::Finding;
use crate::cli::runtime;
use crate::codec::registry::{RegistryError, Standing};
use crate::codec::schemas::Document;
use crate::config::{Config, resolve};
use crate::connector::{self, Limits, Lookup, Purpose};
use crate::model::AccountId;
use crate::rules::{PublicFormat, TargetRules};
use std::path::Path;

/// An account that no target has.
const NOBODY: &str = "lockstep-doctor-looks-for-nobody";

/// Whether each schema that this config would write by goes with what is registered.
pub(super) fn registry(config: &Config, data: &Path) -> Vec<Finding> {
    const CHECK: &str = "registry";
    let registry = match runtime::registry(&config.installation, data) {
        Ok(Some(registry)) => registry,
        Ok(None) => {
            return vec![Finding::ok(CHECK, "", "none: Avro is single-object encoded, and sources have to be JSON")];
        }
        Err(error) => return vec![Finding::bad(CHECK, "", error.to_string(), None)],
    };
    let names = &config.installation.topics;
    let avro = config.bundle.targets().iter().filter(|target| target.format == PublicFormat::Avro);
    let mut topics: Vec<(String, Document)> = avro
        .flat_map(|target| {
            [
                (names.commands(&target.name), Document::Command),
                (names.dead_letters(&target.name), Document::DeadLetter),
                (names.results(), Document::Result),
            ]
        })
        .collect();
    topics.sort();
    topics.dedup();
    // One that is asked about in any case, so that a registry that is down is noticed.
    if topics.is_empty() {
        topics.push((names.results(), Document::Result));
    }
    let mut bad = Vec::new();
    let mut new = 0;
    for (topic, document) in &topics {
        match registry.standing(topic, document.schema_text()) {
            Ok(Standing::New) => new += 1,
            Ok(Standing::Fits) => {}
            Err(error @ RegistryError::Incompatible { .. }) => {
                bad.push(Finding::bad(CHECK, topic, error.to_string(), None));
            }
            Err(error) => return vec![Finding::bad(CHECK, "", error.to_string(), None)],
        }
    }
    if bad.is_empty() {
        let (count, fit) = (topics.len(), topics.len() - new);
        let what = format!("{registry:?} answers; of {count} subjects {fit} fit and {new} are not registered yet");
        bad.push(Finding::ok(CHECK, "", what));
    }
    bad
}

/// Whether each target answers a question.
pub(super) fn targets(config: &Config, data: &Path) -> anyhow::Result<Vec<Finding>> {
    let tokio = runtime::tokio()?;
    Ok(config.bundle.targets().iter().map(|target| tokio.block_on(target_answers(target, data))).collect())
}

async fn target_answers(target: &TargetRules, data: &Path) -> Finding {
    const CHECK: &str = "target";
    let name = target.name.as_str();
    let limits = Limits { timeout: target.timeout, concurrency: 1 };
    let secret = |text: &str| match resolve(text, data) {
        Ok(secret) => Ok(secret.expose().to_owned()),
        Err(error) => Err(format!("{error}: {}", error.remedy())),
    };
    let connector = match connector::open(&target.connector, limits, &secret).await {
        Ok(connector) => connector,
        Err(error) => return Finding::bad(CHECK, name, error.to_string(), help(name)),
    };
    let nobody = Lookup { account: AccountId::from(NOBODY), external_id: None, match_on: None };
    match tokio::time::timeout(target.timeout, connector.read(&nobody, Purpose::Deprovision)).await {
        Ok(Ok(_)) => Finding::ok(CHECK, name, "answers, and lets itself be read"),
        Ok(Err(error)) => Finding::bad(CHECK, name, error.to_string(), help(name)),
        Err(_) => {
            let what = format!("no answer within {} s", target.timeout.as_secs());
            Finding::bad(CHECK, name, what, help(name))
        }
    }
}

fn help(name: &str) -> Option<String> {
    Some(format!("check address, credentials and names under `connector:` of target {name}"))
}
