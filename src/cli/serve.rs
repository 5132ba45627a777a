//! `lockstep serve`: the api and the status page over a Kafka bus, apart from processors and workers.

use super::host::{Host, HostParts};
use super::{Common, Exit, Failure, client, out, runtime};
use crate::api::Token;
use crate::config::BusRules;
use crate::telemetry::{Health, Metrics};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Listen here instead of where lockstep.yaml says
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = runtime::load_config(&common.config())?;
    runtime::check_references(&config, None, &common.data)?;
    let installation = &config.installation;
    runtime::start_logs(Some(installation))?;
    if matches!(installation.bus, BusRules::Embedded) {
        return Err(Failure::new(Exit::Config, "the embedded bus serves one process, which serves HTTP itself")
            .help("run `lockstep dev`, or use `bus: { kafka: … }` in lockstep.yaml")
            .into());
    }
    runtime::create_data_dir(&common.data)?;
    let token = Token::open_or_create(&common.data)?;
    let token_file = token.file().to_owned();
    let runtime_ = runtime::tokio()?;
    let cancel = runtime::cancelled_by_signals(&runtime_)?;
    let Some(bus) = runtime::until_reached(&cancel, || runtime::open_bus(&config, &common.data))? else {
        return Ok(Exit::Done.into());
    };
    let parts = HostParts {
        installation,
        bus,
        codec: runtime::codec(installation, &common.data)?,
        bundle: Arc::new(config.bundle),
        metrics: Arc::new(Metrics::new()),
        health: Health::new(),
        token,
        listen: args.listen.unwrap_or(installation.listen),
    };
    let host = Host::start(&runtime_, parts, &cancel)?;
    client::announce(&common.data, &host.url)?;
    out::line(format!("status page  {}/", host.url))?;
    out::line(format!("token        {}", token_file.display()))?;
    runtime_.block_on(cancel.cancelled());
    host.finish(&runtime_)?;
    Ok(Exit::Done.into())
}
