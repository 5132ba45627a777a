//! `lockstep identities list|show`: who is known, and what each target should show of them.

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
    /// List identities
    List(List),
    /// Show one identity with its records and accounts
    Show {
        /// The identity's id, as `list` shows it
        id: String,
    },
}

#[derive(clap::Args, Debug)]
struct List {
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<String>,
    /// Those whose id, name, record id or any attribute contains this
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Rows)?;
    match args.what {
        What::List(list) => {
            let mut query = Vec::new();
            query.extend(list.tenant.map(|tenant| ("tenant", tenant)));
            query.extend(list.search.map(|text| ("q", text)));
            let items = reach.items("/v1/identities", &query, list.limit)?;
            match args.json {
                true => out::json(&Value::Array(items))?,
                false => show_list(&items)?,
            }
        }
        What::Show { id } => {
            let page = reach.get(&format!("/v1/identities/{}", segment(&id)), &[])?;
            match args.json {
                true => out::json(&page)?,
                false => show_page(&page)?,
            }
        }
    }
    Ok(Exit::Done.into())
}

fn show_list(items: &[Value]) -> anyhow::Result<()> {
    let mut table = out::table(&["IDENTITY", "NAME", "PHASE", "RECORDS", "ACCOUNTS"]);
    for item in items {
        let accounts: Vec<String> = item["accounts"].as_array().into_iter().flatten().map(account).collect();
        table.add_row([
            out::text(&item["identity"]),
            out::cell(item, "name"),
            out::text(&item["phase"]),
            out::list(&item["records"]),
            accounts.join("\n"),
        ]);
    }
    out::show(&table, "no identity")
}

fn account(account: &Value) -> String {
    let mut words = vec![format!("{}: {}", out::text(&account["target"]), out::text(&account["state"]))];
    let marks = account["marks"].as_array().map_or(&[][..], Vec::as_slice);
    // An open dead letter is among the marks.
    let outcome = account["outcome"].as_str().filter(|_| !marks.iter().any(|mark| mark == "dead_letter"));
    words.extend(outcome.map(str::to_owned));
    words.extend(marks.iter().map(|mark| out::text(mark).to_uppercase()));
    words.join(" ")
}

fn show_page(page: &Value) -> anyhow::Result<()> {
    out::line(format!("{}  {}", out::text(&page["identity"]), out::text(&page["name"])))?;
    for (label, value) in [
        ("tenant", out::text(&page["tenant"])),
        ("kind", out::text(&page["kind"])),
        ("phase", format!("{} since {}", out::text(&page["phase"]), out::text(&page["since"]))),
        ("ended", out::text(&page["ended"])),
        ("failing rules", out::list(&page["failing"])),
        ("quarantined", if page["quarantined"] == true { "yes".to_owned() } else { String::new() }),
    ] {
        if !value.is_empty() {
            out::line(format!("  {label}: {value}"))?;
        }
    }
    for record in page["record_rows"].as_array().into_iter().flatten() {
        let title = format!("{}/{}", out::text(&record["source"]), out::text(&record["record"]));
        out::line(format!("\nrecord {title}  (as of {})", out::text(&record["time"])))?;
        attributes(&record["attributes"])?;
    }
    for row in page["account_rows"].as_array().into_iter().flatten() {
        out::line(format!("\naccount at {}  {}", out::text(&row["target"]), account(row)))?;
        for (label, field) in [
            ("account", "account"),
            ("external id", "external_id"),
            ("generation", "generation"),
            ("last op", "last_op"),
            ("last error", "last_error"),
            ("as of", "at"),
            ("effective", "effective"),
            ("deadline", "deadline"),
            ("delete due", "delete_due"),
            ("groups", "groups"),
        ] {
            let value = out::text(&row[field]);
            if !value.is_empty() {
                out::line(format!("  {label}: {value}"))?;
            }
        }
        attributes(&row["attributes"])?;
    }
    Ok(())
}

fn attributes(attributes: &Value) -> anyhow::Result<()> {
    for (name, value) in attributes.as_object().into_iter().flatten() {
        out::line(format!("    {name} = {}", out::text(value)))?;
    }
    Ok(())
}
