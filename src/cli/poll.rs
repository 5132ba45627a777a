//! `lockstep poll keycloak`: brings what changes in a system that doesn't write to a topic by itself to its source's topic.

use super::{Common, Exit, Failure, runtime};
use crate::bus::embedded::WallClock;
use crate::config::secret::{self, Secret};
use crate::model::SourceName;
use crate::rules::{KeycloakLogin, KeycloakPollRules, PollRules, SourceRules};
use crate::source::keycloak::{Access, Login, PollError, Poller, PollerSettings};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    system: System,
}

#[derive(clap::Subcommand, Debug)]
enum System {
    /// A realm of Keycloak: its admin events, each with the whole user
    Keycloak(KeycloakArgs),
}

#[derive(clap::Args, Debug)]
struct KeycloakArgs {
    /// The source, whose file in sources/ has `poll: { keycloak: … }`
    #[arg(long, value_name = "NAME")]
    source: String,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let System::Keycloak(KeycloakArgs { source }) = args.system;
    let config = runtime::load_config(&common.config())?;
    runtime::check_references(&config, None, &common.data)?;
    runtime::start_logs(Some(&config.installation))?;
    let rules = config.bundle.source(&SourceName::new(&*source)).ok_or_else(|| {
        let known: Vec<&str> = config.bundle.sources().iter().map(|source| source.name.as_str()).collect();
        Failure::new(Exit::Config, format!("there is no source {source}"))
            .help(format!("the config has {}", known.join(", ")))
    })?;
    let Some(PollRules::Keycloak(keycloak)) = &rules.poll else {
        return Err(Failure::new(Exit::Config, format!("source {source} says nothing of a Keycloak to poll"))
            .help("add `poll: { keycloak: { url: …, realm: …, client_id: …, client_secret: \"${env:NAME}\" } }` to its file")
            .into());
    };
    let settings = settings(rules, keycloak, config.installation.topics.cursors(), &common.data)?;
    runtime::create_data_dir(&common.data)?;
    let runtime_ = runtime::tokio()?;
    let cancel = runtime::cancelled_by_signals(&runtime_)?;
    let Some(bus) = runtime::until_reached(&cancel, || runtime::open_bus(&config, &common.data))? else {
        return Ok(Exit::Done.into());
    };
    let poller = Poller::new(settings, bus, Arc::new(WallClock)).map_err(failure)?;
    runtime_.block_on(poller.run(cancel)).map_err(failure)?;
    Ok(Exit::Done.into())
}

fn settings(
    rules: &SourceRules,
    keycloak: &KeycloakPollRules,
    cursors: String,
    data: &Path,
) -> anyhow::Result<PollerSettings> {
    let resolve = |text: &str| -> anyhow::Result<Secret> {
        secret::resolve(text, data).map_err(|error| {
            Failure::new(Exit::Config, format!("source {}: poll: keycloak: {error}", rules.name))
                .help(error.remedy())
                .into()
        })
    };
    let login = match &keycloak.login {
        KeycloakLogin::Client { secret } => Login::Client { secret: resolve(secret)? },
        KeycloakLogin::User { name, password } => Login::User { name: name.clone(), password: resolve(password)? },
    };
    let [topic] = rules.topics.as_slice() else {
        return Err(Failure::new(Exit::Config, format!("source {} has several topics", rules.name))
            .help("write `topic: …`: a poller writes to one")
            .into());
    };
    Ok(PollerSettings {
        source: rules.name.clone(),
        topic: topic.clone(),
        cursors,
        access: Access {
            url: resolve(&keycloak.url)?.expose().to_owned(),
            realm: keycloak.realm.clone(),
            login_realm: keycloak.login_realm.clone(),
            client_id: keycloak.client_id.clone(),
            login,
        },
        interval: keycloak.interval,
        overlap: keycloak.overlap,
    })
}

fn failure(error: PollError) -> anyhow::Error {
    match error {
        PollError::Bus(error) => runtime::bus_failure(&error),
        PollError::Keycloak(error) if error.is_transient() => Failure::new(Exit::Unreachable, error.to_string()).into(),
        error => Failure::new(Exit::Config, error.to_string()).into(),
    }
}
