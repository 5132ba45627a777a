//! `lockstep guard list|release|reject`: removals that the Guard holds because there were too many of them.

use super::client::Server;
use super::publish::segment;
use super::reach::{Needs, Reach};
use super::{Common, Exit, Failure, out};
use serde_json::Value;
use std::collections::BTreeSet;
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
    /// List what is held, the oldest first
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<String>,
        /// At this target only
        #[arg(long)]
        target: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Let removals go; each identity decides again from its current state
    Release(Scope),
    /// Keep these accounts as they are
    Reject(Scope),
}

#[derive(clap::Args, Debug)]
struct Scope {
    /// The tenant [default: the one of which something is held, if it is one]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// All that is held at this target
    #[arg(long)]
    target: Option<String>,
    /// This account
    #[arg(long)]
    account: Option<String>,
    /// All that is held of the tenant
    #[arg(long)]
    all: bool,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Rows)?;
    match args.what {
        What::List { tenant, target, limit } => {
            let mut query = Vec::new();
            query.extend(tenant.map(|tenant| ("tenant", tenant)));
            query.extend(target.map(|target| ("target", target)));
            let items = reach.items("/v1/guard", &query, limit)?;
            match args.json {
                true => out::json(&Value::Array(items))?,
                false => show_list(&items)?,
            }
        }
        What::Release(scope) => operate(&reach, scope, "release", "released", args.json)?,
        What::Reject(scope) => operate(&reach, scope, "reject", "rejected", args.json)?,
    }
    Ok(Exit::Done.into())
}

fn operate(reach: &Reach, scope: Scope, verb: &str, done: &str, json: bool) -> anyhow::Result<()> {
    let tenant = match scope.tenant {
        Some(tenant) => tenant,
        None => only_tenant(reach)?,
    };
    let Which { target, account, all } = scope.which;
    let body = serde_json::json!({ "target": target, "account": account, "all": all });
    let answer = reach.post(&format!("/v1/guard/{}/{verb}", segment(&tenant)), &body)?;
    match json {
        true => out::json(&answer),
        false => out::line(format!(
            "{} held removals of tenant {tenant} are being {done} (operation {})",
            out::text(&answer["held"]),
            out::text(&answer["operation"])
        )),
    }
}

/// The tenant that is meant where there is no choice.
fn only_tenant(reach: &Reach) -> anyhow::Result<String> {
    let items = reach.items("/v1/guard", &[], usize::MAX)?;
    let tenants: BTreeSet<String> = items.iter().map(|item| out::text(&item["tenant"])).collect();
    let mut names = tenants.iter();
    match (names.next(), names.next()) {
        (Some(tenant), None) => Ok(tenant.clone()),
        (None, _) => Err(Failure::new(Exit::Failed, "nothing is held").into()),
        _ => {
            let names = tenants.into_iter().collect::<Vec<_>>().join(", ");
            Err(Failure::new(Exit::Failed, format!("removals of several tenants are held: {names}"))
                .help("name one with --tenant")
                .into())
        }
    }
}

fn show_list(items: &[Value]) -> anyhow::Result<()> {
    let mut table = out::table(&["TENANT", "TARGET", "SOURCE", "NAME", "SINCE", "ACCOUNT", "CAUSE"]);
    for item in items {
        let fields = ["tenant", "target", "source", "name", "since", "account", "cause"];
        table.add_row(fields.map(|field| out::cell(item, field)));
    }
    out::show(&table, "nothing is held")
}
