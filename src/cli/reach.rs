//! How subcommands that ask or change something reach a lockstep: by HTTP, or on Kafka without any that serves.
//!
//! Without one, the api is started in this process, on a free port of loopback with a token that nobody else knows, over the
//! config's Kafka: one way to ask, whoever answers. The embedded bus belongs to the process that runs it, so there it is
//! HTTP or nothing.

use super::client::{Client, Refusal, Server};
use super::host::{Host, HostParts};
use super::{Common, Exit, Failure, runtime};
use crate::api::Token;
use crate::config::{BusRules, Config};
use crate::telemetry::{Health, Metrics};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// How long the read model of a direct question may take to read the topics.
const CATCH_UP: Duration = Duration::from_secs(300);
/// Items asked for at once.
const PAGE: usize = 1000;

/// What a question needs of the api.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only to hand something to the bus.
    Bus,
    /// All that is on the topics.
    Rows,
}

pub struct Reach {
    client: Client,
    /// The api in this process, if nobody else's answered.
    _own: Option<Own>,
}

struct Own {
    host: Option<Host>,
    runtime: Runtime,
    cancel: CancellationToken,
}

impl Reach {
    pub fn new(common: &Common, server: &Server, needs: Needs) -> anyhow::Result<Self> {
        runtime::start_logs(None)?;
        if server.direct {
            let config = runtime::load_config(&common.config())?;
            return Self::directly(common, config, needs);
        }
        let error = match Client::of(common, server).and_then(|client| client.answers().map(|()| client)) {
            Ok(client) => return Ok(Self { client, _own: None }),
            Err(error) => error,
        };
        // A config that is on Kafka says where else the answer is; without one the first error is the one to show.
        match Config::load(&common.config()) {
            Ok(config) if server.url.is_none() && matches!(config.installation.bus, BusRules::Kafka(_)) => {
                Self::directly(common, config, needs)
            }
            _ => Err(error),
        }
    }

    fn directly(common: &Common, config: Config, needs: Needs) -> anyhow::Result<Self> {
        let installation = &config.installation;
        if matches!(installation.bus, BusRules::Embedded) {
            return Err(Failure::new(
                Exit::Config,
                "the embedded bus is reached only through the process that runs it",
            )
            .help("leave --direct away, and start `lockstep dev` if it doesn't run")
            .into());
        }
        let bus = runtime::open_bus(&config, &common.data)?;
        let state = installation.topics.state();
        if bus.partitions(&state).map_err(|error| runtime::bus_failure(&error))?.is_none() {
            return Err(Failure::new(Exit::Failed, format!("there is no topic {state} on this Kafka"))
                .help("make Lockstep's topics with `lockstep topics apply`")
                .into());
        }
        let runtime_ = runtime::tokio()?;
        let (token, text) = Token::of_process()?;
        let health = Health::new();
        let parts = HostParts {
            installation,
            bus,
            codec: runtime::codec(installation, &common.data)?,
            bundle: Arc::new(config.bundle),
            metrics: Arc::new(Metrics::new()),
            health: health.clone(),
            token,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let cancel = CancellationToken::new();
        let host = Host::start(&runtime_, parts, &cancel)?;
        if needs == Needs::Rows && !host.model.wait(CATCH_UP) {
            let waits = health.readiness().into_iter().find_map(|condition| condition.waiting_for).unwrap_or_default();
            return Err(Failure::new(Exit::Unreachable, format!("the topics could not be read: {waits}"))
                .help("are the brokers overloaded? try again, or let `lockstep serve` follow the topics")
                .into());
        }
        let client = Client::to(host.url.clone(), text)?;
        Ok(Self { client, _own: Some(Own { host: Some(host), runtime: runtime_, cancel }) })
    }

    pub fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.client.get(path, query)
    }

    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.client.post(path, body)
    }

    pub fn post_lines(&self, path: &str, lines: Vec<u8>) -> anyhow::Result<Result<Value, Refusal>> {
        self.client.post_lines(path, lines)
    }

    /// The items of a list, page after page, at most `limit`.
    pub fn items(&self, path: &str, query: &[(&str, String)], limit: usize) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        while items.len() < limit {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.min(limit - items.len()).to_string()));
            query.extend(after.take().map(|after| ("after", after)));
            let mut page = self.get(path, &query)?;
            if let Some(found) = page["items"].as_array_mut() {
                items.append(found);
            }
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => break,
            }
        }
        Ok(items)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(host) = self.host.take()
            && let Err(error) = host.finish(&self.runtime)
        {
            tracing::debug!(%error, "the api of this process ended");
        }
    }
}
