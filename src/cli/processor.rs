//! `lockstep processor`: the entities, as a process of its own on Kafka.

use super::loops::{self, Parts};
use super::{Common, Exit, Failure, out, runtime};
use crate::api;
use crate::config::{BusRules, Config};
use anyhow::Context;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Threads on which its partitions step: as many as cores are of use
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS))]
    threads: u16,
    #[command(flatten)]
    process: Process,
}

const MOST_THREADS: i64 = 64;

/// What processors and workers have in common.
#[derive(clap::Args, Clone, Debug)]
pub struct Process {
    /// This process's name among its kind, the same after every restart [default: the host's name]
    #[arg(long, value_name = "NAME", env = "LOCKSTEP_INSTANCE", hide_env = true)]
    pub instance: Option<String>,
    /// Serve /metrics, /healthz and /readyz here instead of where lockstep.yaml says
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = runtime::load_config(&common.config())?;
    runtime::check_references(&config, None, &common.data)?;
    let instance = args.process.instance.clone().unwrap_or_else(loops::default_instance);
    run_loops(common, &args.process, config, &format!("processor-{instance}"), instance, |parts| {
        Ok(vec![parts.spawn_processor(args.threads.into())?, parts.spawn_progress()?])
    })
}

/// Runs loops beside the status routes until a signal ends them. Their state lies below the data folder, under `folder`.
pub fn run_loops(
    common: &Common,
    process: &Process,
    config: Config,
    folder: &str,
    instance: String,
    begin: impl FnOnce(&Parts) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<()>>>>,
) -> anyhow::Result<ExitCode> {
    runtime::start_logs(Some(&config.installation))?;
    if matches!(config.installation.bus, BusRules::Embedded) {
        return Err(Failure::new(Exit::Config, "the embedded bus serves one process, which runs everything itself")
            .help("run `lockstep dev`, or use `bus: { kafka: … }` in lockstep.yaml")
            .into());
    }
    let listen = process.listen.unwrap_or(config.installation.listen);
    let tokio = runtime::tokio()?;
    let cancel = runtime::cancelled_by_signals(&tokio)?;
    runtime::create_data_dir(&common.data)?;
    let state = common.data.join(folder);
    let Some(parts) = Parts::open(config, &common.data, &state, instance, tokio.handle(), cancel.clone())? else {
        return Ok(Exit::Done.into());
    };
    let listener = tokio.block_on(api::listen(&listen.to_string())).map_err(|error| {
        Failure::new(Exit::Failed, error.to_string()).help("does another lockstep run here? use --listen")
    })?;
    let url = format!("http://{}", listener.local_addr().context("asking where HTTP listens")?);
    let router = api::status_router(Arc::clone(&parts.metrics), parts.health.clone());
    let serving = tokio.spawn(api::serve(listener, router, cancel.clone()));
    let mut running = begin(&parts)?;
    running.extend([parts.spawn_lag()?, parts.spawn_clock()?]);
    parts.begun.met();
    out::line(format!("metrics  {url}/metrics"))?;
    let ended = loops::join(running);
    cancel.cancel();
    tokio.block_on(serving).context("the HTTP server ended in a bug")??;
    ended?;
    Ok(Exit::Done.into())
}
