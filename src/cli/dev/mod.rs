//! `lockstep dev`: processor, workers and HTTP in one process, playing events and showing what comes of them.

mod board;
mod play;
mod sample;

use super::host::{Host, HostParts};
use super::loops::{self, Parts};
use super::{Common, Exit, client, out, runtime};
use crate::api::Token;
use crate::config::BusRules;
use anyhow::Context;
use board::Board;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The config of the first command of the README.
const QUICKSTART: &str = "examples/quickstart";
/// The event in the data folder that `dev` invites people to send.
const SAMPLE: &str = "my-event.json";
/// Nothing committed for that long, with every event played and every command tried, and `--once` is done. On Kafka a
/// rebalance or a retried transaction may take a while between two commits.
const QUIET_EMBEDDED: Duration = Duration::from_millis(500);
const QUIET_KAFKA: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// End when every event is processed and every command verified, parked or dead-lettered
    #[arg(long)]
    once: bool,
    /// Play these events, a file `SOURCE.jsonl` for each source [default: the config's events/]
    #[arg(long, value_name = "DIR")]
    events: Option<PathBuf>,
    /// Listen here instead of where lockstep.yaml says
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let dir = common.config.clone().unwrap_or_else(|| PathBuf::from(QUICKSTART));
    let config = runtime::load_config(&dir)?;
    runtime::check_references(&config, config.bundle.targets(), &common.data)?;
    runtime::begin_logs(config.installation.log, Some(runtime::BESIDE_A_BOARD))?;
    let quiet = match config.installation.bus {
        BusRules::Embedded => QUIET_EMBEDDED,
        BusRules::Kafka(_) => QUIET_KAFKA,
    };
    let files = play::find(&config.bundle, args.events.as_deref(), &dir)?;
    let tokio = runtime::tokio()?;
    let cancel = runtime::cancelled_by_signals(&tokio)?;
    let instance = loops::default_instance();
    let Some(parts) = Parts::open(config, &common.data, &common.data, instance, tokio.handle(), cancel.clone())? else {
        return Ok(Exit::Done.into());
    };
    let token = Token::open_or_create(&common.data)?;
    let token_file = token.file().to_owned();
    let host = Host::start(
        &tokio,
        HostParts {
            installation: &parts.installation,
            bundle: Arc::clone(&parts.bundle),
            bus: Arc::clone(&parts.bus),
            codec: Arc::clone(&parts.codecs.public),
            metrics: Arc::clone(&parts.metrics),
            health: parts.health.clone(),
            token,
            listen: args.listen.unwrap_or(parts.installation.listen),
        },
        &cancel,
    )?;
    client::announce(&common.data, &host.url)?;
    introduce(&host.url, &token_file, &parts, &dir)?;

    let board = Board::start(&parts)?;
    let mut running = Vec::new();
    let played = begin(&parts, &mut running).and_then(|()| play::play(&parts, &files));
    let followed = played.and_then(|refused| {
        if cancel.is_cancelled() {
            return Ok(Exit::Done);
        }
        if args.once {
            let done = || parts.activity.is_quiet(&parts.now, quiet) && board.is_caught_up();
            while !cancel.is_cancelled() && !done() {
                std::thread::sleep(LOOK_EVERY);
            }
            return Ok(if refused == 0 { Exit::Done } else { Exit::Partly });
        }
        out::line(invitation(&host.url, &common.data, &parts, &files)?)?;
        tokio.block_on(cancel.cancelled());
        Ok(Exit::Done)
    });
    // Where something failed, too: the loops use the bus and the runtime until they have ended.
    cancel.cancel();
    let ended = loops::join(running);
    let summary = board.finish().context("the board ended in a bug");
    let served = host.finish(&tokio);
    let exit = followed.and_then(|exit| ended.and(served).map(|()| exit))?;
    summary?.show()?;
    Ok(exit.into())
}

/// Begins all loops; those that are begun are in `running`, whatever comes of the others.
fn begin(parts: &Parts, running: &mut Vec<JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    running.extend([parts.spawn_processor(1)?, parts.spawn_lag()?]);
    for target in parts.bundle.targets() {
        running.push(parts.spawn_worker(&target.name)?);
    }
    parts.begun.met();
    Ok(())
}

/// How to send it an event, by the command line and by HTTP: one of somebody new lies ready where there is a model for it.
fn invitation(url: &str, data: &Path, parts: &Parts, played: &[play::EventFile]) -> anyhow::Result<String> {
    let bundle = &parts.bundle;
    let rules = match played.first() {
        Some(file) => bundle.source(&file.source),
        None => bundle.sources().first(),
    };
    let rules = rules.expect("a bundle has a source, and files are played for sources only");
    let (source, id) = (&rules.name, &rules.event.id);
    let order = rules.event.order.as_ref().map(|path| format!(" and a later `{path}`")).unwrap_or_default();
    let file = data.join(SAMPLE);
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let event = played.first().and_then(|played| sample::somebody_new(bundle, rules, played, since_1970.as_secs()));
    let begin = match event {
        Some(event) => {
            std::fs::write(&file, event).with_context(|| format!("writing {}", file.display()))?;
            format!(
                "ready for an event of your own: {} is one, of somebody new. send it in one of two ways",
                file.display()
            )
        }
        None => {
            format!("ready for an event of your own: write one to {} and send it in one of two ways", file.display())
        }
    };
    let (file, data) = (file.display(), data.display());
    Ok(format!(
        "\n{begin}\n  lockstep publish {source} --data {data} < {file}\n  curl -H \"Authorization: Bearer $(cat \
         {data}/token)\" --data-binary @{file} {url}/v1/events/{source}\nthen change what you like in it, with another \
         `{id}`{order}\nctrl-c ends it\n"
    ))
}

fn introduce(url: &str, token: &Path, parts: &Parts, dir: &Path) -> anyhow::Result<()> {
    let targets: Vec<&str> = parts.bundle.targets().iter().map(|target| target.name.as_str()).collect();
    out::line(format!("config       {}", dir.display()))?;
    out::line(format!("targets      {}", targets.join(", ")))?;
    out::line(format!("status page  {url}/"))?;
    out::line(format!("metrics      {url}/metrics"))?;
    out::line(format!("data         {}", parts.data.display()))?;
    out::line(format!("token        {}\n", token.display()))
}
