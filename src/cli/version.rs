//! `lockstep version`: what runs, for bug reports.

use super::{Exit, out};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let tls = if cfg!(feature = "kafka-tls") { "with" } else { "without" };
    if args.json {
        out::json(&serde_json::json!({
            "lockstep": version,
            "librdkafka": librdkafka,
            "kafka_tls": cfg!(feature = "kafka-tls"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        }))?;
    } else {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        out::line(format!("lockstep {version} ({os} {arch}, librdkafka {librdkafka}, {tls} TLS towards Kafka)"))?;
    }
    Ok(Exit::Done.into())
}
