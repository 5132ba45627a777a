//! `lockstep quarantine list|show|retry|skip`: entities that couldn't take an event, with all that waits for them.

use super::client::Server;
use super::publish::segment;
use super::reach::{Needs, Reach};
use super::{Common, Exit, out};
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
    /// List quarantined entities, the oldest first
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show one: why it is there, and how much waits
    Show(Which),
    /// Try it again now, and then what waits, in order; it is tried every five minutes anyway
    Retry(Which),
    /// Give up the one message that it can't take, and try the next; the message goes to source-dead-letters
    Skip(Which),
}

#[derive(clap::Args, Debug)]
struct Which {
    /// The entity's id, as `list` shows it
    id: String,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Rows)?;
    match &args.what {
        What::List { tenant, limit } => {
            let query: Vec<_> = tenant.clone().map(|tenant| ("tenant", tenant)).into_iter().collect();
            let items = reach.items("/v1/quarantine", &query, *limit)?;
            match args.json {
                true => out::json(&Value::Array(items))?,
                false => show_list(&items)?,
            }
        }
        What::Show(which) => {
            let page = reach.get(&path(which), &[])?;
            match args.json {
                true => out::json(&page)?,
                false => show(&page)?,
            }
        }
        What::Retry(which) => operate(&reach, which, "retry", "is tried again", args.json)?,
        What::Skip(which) => operate(&reach, which, "skip", "goes on without what it can't take", args.json)?,
    }
    Ok(Exit::Done.into())
}

fn path(which: &Which) -> String {
    format!("/v1/quarantine/{}", segment(&which.id))
}

fn operate(reach: &Reach, which: &Which, verb: &str, done: &str, json: bool) -> anyhow::Result<()> {
    let answer = reach.post(&format!("{}/{verb}", path(which)), &serde_json::json!({}))?;
    match json {
        true => out::json(&answer),
        false => out::line(format!(
            "{} {done}; {} wait (operation {})",
            which.id,
            out::text(&answer["waiting"]),
            out::text(&answer["operation"])
        )),
    }
}

fn show_list(items: &[Value]) -> anyhow::Result<()> {
    let mut table = out::table(&["ID", "ENTITY", "SINCE", "WAITING", "REASON"]);
    for item in items {
        table.add_row(["id", "entity", "since", "waiting", "reason"].map(|field| out::text(&item[field])));
    }
    out::show(&table, "nothing is quarantined")
}

fn show(page: &Value) -> anyhow::Result<()> {
    for (label, field) in [
        ("id", "id"),
        ("entity", "entity"),
        ("tenant", "tenant"),
        ("identity", "identity"),
        ("since", "since"),
        ("reason", "reason"),
        ("waiting", "waiting"),
    ] {
        let value = out::text(&page[field]);
        if !value.is_empty() {
            out::line(format!("{label:>8}: {value}"))?;
        }
    }
    let id = out::text(&page["id"]);
    out::line(format!("\nonce its cause is mended: lockstep quarantine retry {id}"))?;
    out::line(format!("to give up the one message that it can't take: lockstep quarantine skip {id}"))
}
