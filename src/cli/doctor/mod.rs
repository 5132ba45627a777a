//! `lockstep doctor`: looks at everything that a process of this config needs, changes nothing that anybody would notice, and
//! says of each thing whether it is well and what to do if not.
//!
//! A check that can't be made because an earlier one failed is left out: its cause is said once. Beside reading, it appends an
//! empty record to the topic `clock`, and takes transactional ids that no process has.

mod brokers;
mod data;
mod finding;
mod outside;

use super::{Common, Exit, Failure, out, runtime};
use crate::bus::acls::Process;
use crate::bus::topics::Layout;
use crate::config::{BusRules, Config};
use finding::{Finding, State};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Judge what this process is allowed on Kafka: processor, worker:TARGET, serve, publish, poll:SOURCE, topics
    /// [default: say which of them this principal may be]
    #[arg(long = "as", value_name = "PROCESS")]
    process: Option<String>,
    /// Look at the targets too: reads one account that isn't there from each
    #[arg(long)]
    targets: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = runtime::load_config(&common.config())?;
    runtime::start_logs(None)?;
    let layout = Layout::of(&config);
    let installation = super::kafka::installation(&layout, &config.bundle);
    let processes = installation.processes();
    let process = args.process.as_deref().map(|name| named(&processes, name)).transpose()?;

    let mut findings = vec![about_config(&config), data::folder(&common.data)];
    match &config.installation.bus {
        BusRules::Kafka(rules) => {
            findings.extend(brokers::all(rules, &installation, process.as_ref(), &common.data));
        }
        BusRules::Embedded => findings.push(Finding::ok("bus", "", "embedded, in the data folder: nothing to reach")),
    }
    findings.extend(outside::registry(&config, &common.data));
    if args.targets {
        findings.extend(outside::targets(&config, &common.data)?);
    }
    if args.json {
        let bad = findings.iter().any(|finding| finding.state == State::Bad);
        out::json(&json!({ "ok": !bad, "findings": findings.iter().map(Finding::as_json).collect::<Vec<_>>() }))?;
    } else {
        out::line(finding::render(&findings).trim_end())?;
    }
    Ok(if findings.iter().any(|finding| finding.state == State::Bad) { Exit::Failed } else { Exit::Done }.into())
}

fn named(processes: &[Process], name: &str) -> anyhow::Result<Process> {
    processes.iter().find(|process| process.to_string() == name).cloned().ok_or_else(|| {
        let known: Vec<String> = processes.iter().map(ToString::to_string).collect();
        Failure::new(Exit::Config, format!("there is no process `{name}` in this config"))
            .help(format!("processes there: {}", known.join(", ")))
            .into()
    })
}

fn about_config(config: &Config) -> Finding {
    let count = |count: usize, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    let what = [
        count(config.bundle.sources().len(), "source"),
        count(config.bundle.targets().len(), "target"),
        count(config.installation.tenants.len(), "tenant"),
    ];
    let hash: String = config.bundle.hash().0.chars().take(12).collect();
    Finding::ok("config", "", format!("{}: {}, rules {hash}", config.dir.display(), what.join(", ")))
}
