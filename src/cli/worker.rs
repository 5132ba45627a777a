//! `lockstep worker`: carries out the commands of one target, as a process of its own on Kafka.

use super::processor::{Process, run_loops};
use super::{Common, Exit, Failure, loops, runtime};
use crate::model::TargetName;
use crate::rules::ConnectorRules;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The target, as named in targets/*.yaml
    #[arg(long, value_name = "NAME")]
    target: String,
    #[command(flatten)]
    process: Process,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = runtime::load_config(&common.config())?;
    let target = TargetName::new(args.target);
    let Some(rules) = config.bundle.target(&target) else {
        let known: Vec<&str> = config.bundle.targets().iter().map(|target| target.name.as_str()).collect();
        return Err(Failure::new(Exit::Config, format!("there is no target `{target}` in {}", config.dir.display()))
            .help(format!("targets there: {}", known.join(", ")))
            .into());
    };
    runtime::check_references(&config, [rules], &common.data)?;
    let on_this_host = matches!(&rules.connector, ConnectorRules::Sql(sql) if sql.url.starts_with("sqlite:"));
    let instance = args.process.instance.clone().unwrap_or_else(loops::default_instance);
    let folder = format!("worker-{target}-{instance}");
    run_loops(common, &args.process, config, &folder, instance, |parts| {
        if on_this_host {
            tracing::warn!(
                %target,
                "its accounts are in an SQLite database, which is a file of this host: run all workers of this target here, \
                 with the same --data"
            );
        }
        Ok(vec![parts.spawn_worker(&target)?])
    })
}
