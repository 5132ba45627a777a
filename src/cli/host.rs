//! The HTTP side of a process: the read model, the api and the status page, as `dev`, `serve` and a direct question have it.

use super::{Exit, Failure};
use crate::api::{self, EventIntake, Parts, ReadModel, Token};
use crate::bus::Bus;
use crate::codec::public::PublicCodec;
use crate::codec::source;
use crate::config::Installation;
use crate::console;
use crate::model::{SourceName, TargetName};
use crate::rules::{Bundle, SourceFormat, SourceRules, TenantRule};
use crate::telemetry::{Health, Metrics};
use anyhow::Context;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the HTTP side is made of.
pub struct HostParts<'a> {
    pub installation: &'a Installation,
    pub bundle: Arc<Bundle>,
    pub bus: Arc<dyn Bus>,
    pub codec: Arc<PublicCodec>,
    pub metrics: Arc<Metrics>,
    pub health: Health,
    pub token: Token,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
}

/// A running HTTP side.
pub struct Host {
    /// Where it listens: `http://127.0.0.1:7070`.
    pub url: String,
    pub model: Arc<ReadModel>,
    serving: JoinHandle<Result<(), api::ApiError>>,
    tail: std::thread::JoinHandle<()>,
}

impl Host {
    /// Listens, and serves until it is cancelled.
    pub fn start(runtime: &Runtime, parts: HostParts<'_>, cancel: &CancellationToken) -> anyhow::Result<Self> {
        let HostParts { installation, bundle, bus, codec, metrics, health, token, listen } = parts;
        let listener = runtime.block_on(api::listen(&listen.to_string())).map_err(|error| {
            Failure::new(Exit::Failed, error.to_string()).help(
                "does another lockstep run here? change `http: { listen: 127.0.0.1:7070 }` in lockstep.yaml, or use \
                 --listen",
            )
        })?;
        let url = format!("http://{}", listener.local_addr().context("asking where HTTP listens")?);
        let targets: Vec<TargetName> = bundle.targets().iter().map(|target| target.name.clone()).collect();
        let model = ReadModel::new(&health);
        let tail = model
            .follow(Arc::clone(&bus), &installation.topics, &targets, Arc::clone(&codec), &health, cancel.clone())
            .context("starting the read model")?;
        let router = api::router(Parts {
            bus,
            topics: installation.topics.clone(),
            tenants: installation.tenants.clone(),
            targets,
            sources: sources(&bundle),
            event_bytes: installation.event_bytes,
            token,
            model: Arc::clone(&model),
            codec,
            metrics,
            health,
        });
        let serving = runtime.spawn(api::serve(listener, router.merge(console::router()), cancel.clone()));
        Ok(Self { url, model, serving, tail })
    }

    /// Waits for its end, after a cancel.
    pub fn finish(self, runtime: &Runtime) -> anyhow::Result<()> {
        runtime.block_on(self.serving).context("the HTTP server ended in a bug")??;
        self.tail.join().map_err(|_| anyhow::anyhow!("the read model ended in a bug: see the log"))
    }
}

/// How each source takes events by HTTP.
pub fn sources(bundle: &Arc<Bundle>) -> BTreeMap<SourceName, EventIntake> {
    bundle.sources().iter().map(|rules| (rules.name.clone(), intake(bundle, rules))).collect()
}

fn intake(bundle: &Arc<Bundle>, rules: &SourceRules) -> EventIntake {
    let (bundle, name) = (Arc::clone(bundle), rules.name.clone());
    EventIntake {
        topics: rules.topics.clone(),
        json: rules.format != SourceFormat::Avro,
        headers: match &rules.tenant {
            TenantRule::Header(header) => vec![header.clone()],
            TenantRule::Constant(_) | TenantRule::Field(_) | TenantRule::Topic(_) => Vec::new(),
        },
        key_of: Arc::new(move |event| source::record_key(bundle.source(&name)?, event).map(String::into_bytes)),
    }
}
