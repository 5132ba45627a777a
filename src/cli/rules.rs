//! `lockstep rules check|test`: is the config right, and do its rules do what their tests say?

use super::{Common, Exit, out, runtime};
use crate::config::{BusRules, Config};
use crate::rules::{TestOutcome, TestReport, example};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Check every file of the config folder; nothing is started
    Check,
    /// Run the rules' own tests
    Test,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = runtime::load_config(&common.config())?;
    match args.what {
        What::Check => check(&config, args.json),
        What::Test => test(&config, args.json),
    }
}

fn check(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let bundle = &config.bundle;
    let bus = match config.installation.bus {
        BusRules::Embedded => "embedded",
        BusRules::Kafka(_) => "kafka",
    };
    let sources: Vec<_> = bundle.sources().iter().map(|source| source.name.as_str()).collect();
    let targets: Vec<_> = bundle.targets().iter().map(|target| target.name.as_str()).collect();
    let kinds: Vec<_> = bundle.kinds().iter().map(|kind| kind.name.as_str()).collect();
    if json {
        out::json(&json!({
            "bus": bus, "tenants": config.installation.tenants, "sources": sources, "kinds": kinds, "targets": targets,
            "bundle": bundle.hash(),
        }))?;
    } else {
        out::line(format!("{} is all right", config.dir.display()))?;
        out::line(format!("  bus      {bus}"))?;
        out::line(format!("  sources  {}", sources.join(", ")))?;
        out::line(format!("  kinds    {}", kinds.join(", ")))?;
        out::line(format!("  targets  {}", targets.join(", ")))?;
        out::line(format!("  bundle   {}", bundle.hash()))?;
    }
    Ok(Exit::Done.into())
}

fn test(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let reports = config.bundle.run_tests();
    let failed = reports.iter().filter(|report| !report.passed()).count();
    if json {
        out::json(&reports.iter().map(as_json).collect())?;
    } else {
        out::line(example::render(&reports).trim_end())?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Config }.into())
}

fn as_json(report: &TestReport) -> serde_json::Value {
    let differences = match &report.outcome {
        TestOutcome::Passed => Vec::new(),
        TestOutcome::Failed(differences) => differences.clone(),
    };
    json!({
        "file": report.file, "line": report.line, "name": report.name, "passed": report.passed(),
        "differences": differences,
    })
}
