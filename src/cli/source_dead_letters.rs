//! `lockstep source-dead-letters list|show`: events of sources that could not be taken, and why.

use super::client::Server;
use super::publish::segment;
use super::reach::{Needs, Reach};
use super::{Common, Exit, Failure, out};
use anyhow::Context as _;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
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
    /// List them, the newest first: where each came from and what was wrong with it
    List {
        /// Of events that came on this topic only
        #[arg(long)]
        topic: Option<String>,
        /// With this reason only: `not_json`, `missing_required`, …
        #[arg(long)]
        reason: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one with the event as it came
    Show {
        /// The dead letter's id, as `list` shows it
        id: String,
        /// Only the event's own bytes, to mend and send again
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Bus)?;
    match args.what {
        What::List { topic, reason, limit } => {
            let mut query = Vec::new();
            query.extend(topic.map(|topic| ("topic", topic)));
            query.extend(reason.map(|reason| ("reason", reason)));
            let items = reach.items("/v1/source-dead-letters", &query, limit)?;
            match args.json {
                true => out::json(&Value::Array(items))?,
                false => show_list(&items)?,
            }
        }
        What::Show { id, raw } => {
            let letter = reach.get(&format!("/v1/source-dead-letters/{}", segment(&id)), &[])?;
            match (raw, args.json) {
                (true, _) => show_raw(&letter)?,
                (false, true) => out::json(&letter)?,
                (false, false) => show(&letter)?,
            }
        }
    }
    Ok(Exit::Done.into())
}

fn show_list(items: &[Value]) -> anyhow::Result<()> {
    let mut table = out::table(&["ID", "AT", "CAME ON", "REASON", "BYTES", "DETAIL"]);
    for item in items {
        table.add_row([
            out::text(&item["id"]),
            out::text(&item["at"]),
            came_on(item),
            out::text(&item["reason"]),
            bytes(item),
            out::text(&item["detail"]),
        ]);
    }
    out::show(&table, "no source dead letter")
}

fn came_on(item: &Value) -> String {
    let [topic, partition, offset] = ["topic", "partition", "offset"].map(|field| out::text(&item[field]));
    if partition.is_empty() { topic } else { format!("{topic}-{partition}@{offset}") }
}

fn bytes(item: &Value) -> String {
    match item["missing_parts"].as_u64() {
        Some(missing @ 1..) => format!("{}, {missing} of {} parts gone", out::text(&item["bytes"]), item["parts"]),
        _ => out::text(&item["bytes"]),
    }
}

/// What is wrong with an event that is not shown as it came.
fn lack(letter: &Value) -> Option<String> {
    match (letter["whole"].as_bool(), letter["missing_parts"].as_u64()) {
        (Some(true), _) => None,
        (_, Some(missing @ 1..)) => {
            Some(format!("the topic no longer keeps the first {missing} of its {} parts", letter["parts"]))
        }
        _ => Some("its bytes are not those that the sha256 is of".to_owned()),
    }
}

fn show(letter: &Value) -> anyhow::Result<()> {
    for (label, value) in [
        ("id", out::text(&letter["id"])),
        ("at", out::text(&letter["at"])),
        ("came on", came_on(letter)),
        ("reason", out::text(&letter["reason"])),
        ("detail", out::text(&letter["detail"])),
        ("bytes", out::text(&letter["bytes"])),
        ("sha256", out::text(&letter["sha256"])),
        ("lacks", lack(letter).map_or_else(String::new, |lack| format!("{lack}; what is left of it is shown"))),
        ("key", out::text(&letter["key"])),
    ] {
        if !value.is_empty() {
            out::line(format!("{label:>8}: {value}"))?;
        }
    }
    for (name, value) in letter["headers"].as_object().into_iter().flatten() {
        out::line(format!("  header: {name} = {}", out::text(value)))?;
    }
    match (&letter["value"], &letter["value_hex"]) {
        (Value::Null, Value::Null) => out::line("\nno value: a tombstone"),
        (Value::Null, hex) => out::line(format!("\nnot text; in hex:\n{}", out::text(hex))),
        (text, _) => out::line(format!("\n{}", out::text(text))),
    }
}

/// Byte for byte; a terminal gets its line ended.
fn show_raw(letter: &Value) -> anyhow::Result<()> {
    if let Some(lack) = lack(letter) {
        let help = "see what is left of it without --raw, and have the source send the event again";
        return Err(Failure::new(Exit::Failed, lack).help(help).into());
    }
    let bytes = match (&letter["value"], &letter["value_hex"]) {
        (Value::String(text), _) => Cow::Borrowed(text.as_bytes()),
        (_, Value::String(hex)) => Cow::Owned(hex::decode(hex).context("what `lockstep serve` gave as its bytes")?),
        _ => return Err(Failure::new(Exit::Failed, "it has no value: it is a tombstone").into()),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes)?;
    if stdout.is_terminal() && bytes.last() != Some(&b'\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()?;
    Ok(())
}
