//! `lockstep dlq list|show|redrive|drop`: commands that need a person or a changed cause.

use super::client::Server;
use super::publish::segment;
use super::reach::{Needs, Reach};
use super::{Common, Exit, Failure, out};
use serde_json::Value;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    server: Server,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// List dead letters, the oldest first
    List {
        /// Of this target only
        #[arg(long)]
        target: Option<String>,
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show one dead letter
    Show(Which),
    /// Have the identity issue the command afresh, from its current state
    Redrive(Which),
    /// Give a dead letter up
    Drop(Which),
}

#[derive(clap::Args, Debug)]
struct Which {
    /// The target
    target: String,
    /// The account, as `list` shows it
    account: String,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Rows)?;
    match &args.what {
        What::List { target, tenant, limit } => {
            let mut query = Vec::new();
            query.extend(target.clone().map(|target| ("target", target)));
            query.extend(tenant.clone().map(|tenant| ("tenant", tenant)));
            let items = reach.items("/v1/dead-letters", &query, *limit)?;
            match args.json {
                true => out::json(&Value::Array(items))?,
                false => show_list(&items)?,
            }
        }
        What::Show(which) => {
            let letter = find(&reach, which)?;
            match args.json {
                true => out::json(&letter)?,
                false => show(&letter)?,
            }
        }
        What::Redrive(which) => operate(&reach, which, "redrive", "redriven", args.json)?,
        What::Drop(which) => operate(&reach, which, "drop", "dropped", args.json)?,
    }
    Ok(Exit::Done.into())
}

fn find(reach: &Reach, which: &Which) -> anyhow::Result<Value> {
    let items = reach.items("/v1/dead-letters", &[("target", which.target.clone())], usize::MAX)?;
    items.into_iter().find(|item| item["account"] == which.account.as_str()).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("no dead letter of account {} at target {}", which.account, which.target))
            .help("see which there are with `lockstep dlq list`")
            .into()
    })
}

fn operate(reach: &Reach, which: &Which, verb: &str, done: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/dead-letters/{}/{}/{verb}", segment(&which.target), segment(&which.account));
    let answer = reach.post(&path, &serde_json::json!({}))?;
    match json {
        true => out::json(&answer),
        false => out::line(format!(
            "the command of account {} at {} is being {done} (operation {})",
            which.account,
            which.target,
            out::text(&answer["operation"])
        )),
    }
}

fn show_list(items: &[Value]) -> anyhow::Result<()> {
    let mut table = out::table(&["TARGET", "ACCOUNT", "NAME", "OP", "SINCE", "ERROR", "MESSAGE"]);
    for item in items {
        let fields = ["target", "account", "name", "op", "at", "error", "message"];
        table.add_row(fields.map(|field| out::cell(item, field)));
    }
    out::show(&table, "no dead letter")
}

fn show(letter: &Value) -> anyhow::Result<()> {
    for (label, field) in [
        ("target", "target"),
        ("account", "account"),
        ("tenant", "tenant"),
        ("identity", "identity"),
        ("name", "name"),
        ("op", "op"),
        ("generation", "generation"),
        ("error", "error"),
        ("message", "message"),
        ("attempts", "attempts"),
        ("since", "at"),
        ("deadline", "deadline"),
        ("cause", "cause"),
        ("sets", "attributes"),
    ] {
        out::line(format!("{label:>10}: {}", out::text(&letter[field])))?;
    }
    out::line(format!(
        "\nonce its cause is mended: lockstep dlq redrive {} {}",
        out::text(&letter["target"]),
        out::text(&letter["account"])
    ))
}
