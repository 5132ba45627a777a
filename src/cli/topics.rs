//! `lockstep topics plan|apply|acls`: Lockstep's topics on Kafka as they must be, and who may do what with them.

use super::{Common, Exit, Failure, kafka, out, runtime};
use crate::bus::topics::{self, Layout, Plan, TopicsError};
use crate::bus::{TopicSpec, acls};
use crate::config::{BusRules, Config};
use comfy_table::Table;
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Clone, Debug, PartialEq, Eq)]
enum What {
    /// Show what `apply` would do, and what stands against it; exit code 1 if something does
    Plan,
    /// Make and set the topics; nothing at all where one is refused
    Apply,
    /// List what each process has to be allowed on Kafka, and nothing more
    Acls(Acls),
}

#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
struct Acls {
    /// Of this process alone: processor, worker:TARGET, serve, publish, poll:SOURCE, topics
    #[arg(long, value_name = "PROCESS")]
    of: Option<String>,
    /// Who a process is to the brokers [default: User:lockstep-PROCESS]
    #[arg(long = "principal", value_name = "PROCESS=PRINCIPAL", value_parser = principal)]
    principals: Vec<(String, String)>,
    /// As command lines of Kafka's own kafka-acls
    #[arg(long, conflicts_with = "json")]
    commands: bool,
}

fn principal(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((process, principal)) if !process.is_empty() && principal.contains(':') => {
            Ok((process.to_owned(), principal.to_owned()))
        }
        _ => Err("write PROCESS=User:NAME".to_owned()),
    }
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&common.config()).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
    let BusRules::Kafka(rules) = &config.installation.bus else {
        out::line("the bus is embedded: it makes its topics by itself, there is nothing to plan")?;
        return Ok(Exit::Done.into());
    };
    let layout = Layout::of(&config);
    if let What::Acls(acls) = &args.what {
        return acls_of(&kafka::installation(&layout, &config.bundle), acls, args.json);
    }
    let bus = kafka::connect(rules, &layout, &common.data)?;
    let plan = topics::plan(&bus, &layout).map_err(|error| runtime::bus_failure(&error))?;
    let applied = args.what == What::Apply && plan.refuse.is_empty();
    if applied {
        topics::apply(&bus, &plan).map_err(|error| match error {
            TopicsError::Bus(error) => runtime::bus_failure(&error),
            error => error.into(),
        })?;
    }
    if args.json {
        out::json(&as_json(&plan, applied))?
    } else {
        show(&plan, &args.what, applied)?
    }
    Ok(if plan.refuse.is_empty() { Exit::Done } else { Exit::Failed }.into())
}

/// Lists what is to be granted; asks no broker.
fn acls_of(installation: &acls::Installation<'_>, args: &Acls, json: bool) -> anyhow::Result<ExitCode> {
    let all = installation.processes();
    let asked = args.of.iter().chain(args.principals.iter().map(|(process, _)| process));
    if let Some(name) = asked.into_iter().find(|name| all.iter().all(|process| process.to_string() != **name)) {
        let known: Vec<String> = all.iter().map(ToString::to_string).collect();
        return Err(Failure::new(Exit::Config, format!("there is no process `{name}` in this config"))
            .help(format!("processes there: {}", known.join(", ")))
            .into());
    }
    let mut table = out::table(&["PROCESS", "MAY", "ON", "FOR"]);
    let (mut objects, mut lines) = (Vec::new(), Vec::new());
    for process in all.iter().filter(|process| args.of.as_ref().is_none_or(|of| process.to_string() == *of)) {
        let name = process.to_string();
        let given =
            args.principals.iter().rfind(|(process, _)| *process == name).map(|(_, principal)| principal.clone());
        let principal = given.unwrap_or_else(|| format!("User:lockstep-{}", name.replace(':', "-")));
        for grant in installation.grants(process) {
            let operations: Vec<&str> = grant.operations.iter().map(|operation| operation.as_str()).collect();
            lines.push(format!(
                "kafka-acls --bootstrap-server HOST:PORT --command-config admin.properties --add --allow-principal \
                 '{principal}' {}",
                grant.options()
            ));
            objects.push(json!({
                "process": name,
                "principal": principal,
                "operations": operations,
                "resource": grant.resource.kind.as_str(),
                "name": grant.resource.name,
                "prefixed": grant.resource.prefixed,
                "why": grant.why,
            }));
            table.add_row([&name, &operations.join(", "), &grant.resource.to_string(), grant.why]);
        }
    }
    match (json, args.commands) {
        (true, _) => out::json(&Value::Array(objects))?,
        (_, true) => out::line(lines.join("\n"))?,
        _ => out::show(&table, "")?,
    }
    Ok(Exit::Done.into())
}

fn show(plan: &Plan, what: &What, applied: bool) -> anyhow::Result<()> {
    out::show(&table(plan, applied), "all topics are as they must be")?;
    out::line(summary(plan, applied))?;
    match what {
        What::Apply if !applied => out::line("nothing was changed: mend what is refused first")?,
        What::Plan if plan.refuse.is_empty() && !plan.is_done() => out::line("`lockstep topics apply` does this")?,
        _ => {}
    }
    Ok(())
}

fn table(plan: &Plan, applied: bool) -> Table {
    let mut table = out::table(&["ACTION", "TOPIC", "WHAT"]);
    for refusal in &plan.refuse {
        let text = format!("{}\n{}\n{}", refusal.what, refusal.why, refusal.remedy);
        table.add_row(["refused", &refusal.topic, &text]);
    }
    for spec in &plan.create {
        table.add_row([if applied { "created" } else { "create" }, &spec.name, &described(spec)]);
    }
    for alteration in &plan.alter {
        let change = |c: &topics::Change| format!("{} {} -> {}", c.setting, c.from.as_deref().unwrap_or("-"), c.to);
        let changes: Vec<String> = alteration.changes.iter().map(change).collect();
        table.add_row([if applied { "altered" } else { "alter" }, &alteration.topic, &changes.join("\n")]);
    }
    for (what, topics) in same_warnings(plan) {
        let named = match topics.as_slice() {
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            [] => String::new(),
        };
        table.add_row(["warning", &named, what]);
    }
    table
}

/// What is said of many topics is said once.
fn same_warnings(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
    let mut said: Vec<(&str, Vec<&str>)> = Vec::new();
    for warning in &plan.warn {
        match said.iter_mut().find(|(what, _)| *what == warning.what) {
            Some((_, topics)) => topics.push(&warning.topic),
            None => said.push((&warning.what, vec![&warning.topic])),
        }
    }
    said
}

fn described(spec: &TopicSpec) -> String {
    let mut parts = vec![match spec.partitions {
        1 => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    }];
    parts.extend(spec.replicas.map(|count| format!("{count} replicas")));
    parts.extend(spec.settings.iter().map(|(name, value)| format!("{name}={value}")));
    parts.join(", ")
}

fn summary(plan: &Plan, applied: bool) -> String {
    let (create, alter) = if applied { ("created", "altered") } else { ("to create", "to alter") };
    format!(
        "{} {create}, {} {alter}, {} refused, {} warned of, {} as they must be",
        plan.create.len(),
        plan.alter.len(),
        plan.refuse.len(),
        plan.warn.len(),
        plan.unchanged.len()
    )
}

fn as_json(plan: &Plan, applied: bool) -> Value {
    let create = |spec: &TopicSpec| json!({ "topic": spec.name, "partitions": spec.partitions, "replicas": spec.replicas, "settings": spec.settings });
    let change = |c: &topics::Change| json!({ "setting": c.setting, "from": c.from, "to": c.to });
    json!({
        "applied": applied,
        "create": plan.create.iter().map(create).collect::<Vec<_>>(),
        "alter": plan.alter.iter().map(|a| json!({
            "topic": a.topic,
            "changes": a.changes.iter().map(change).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "refuse": plan.refuse.iter().map(|r| json!({
            "topic": r.topic, "what": r.what, "why": r.why, "remedy": r.remedy,
        })).collect::<Vec<_>>(),
        "warn": plan.warn.iter().map(|w| json!({ "topic": w.topic, "what": w.what })).collect::<Vec<_>>(),
        "unchanged": plan.unchanged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::topics::{Alteration, Change, Refusal, Warning};

    #[test]
    fn a_plan_reads_as_what_will_happen_and_why_not() {
        let plan = Plan {
            create: vec![TopicSpec {
                name: "lockstep.inbox".into(),
                partitions: 8,
                replicas: Some(3),
                settings: [("cleanup.policy".to_owned(), "delete".to_owned())].into(),
            }],
            alter: vec![Alteration {
                topic: "lockstep.results".into(),
                changes: vec![Change {
                    setting: "max.message.bytes".into(),
                    from: Some("1000".into()),
                    to: "1048588".into(),
                }],
            }],
            refuse: vec![Refusal {
                topic: "lockstep.state".into(),
                what: "cleanup.policy is delete instead of compact".into(),
                why: "state is deleted by age".into(),
                remedy: "set it".into(),
            }],
            warn: ["hr.workers", "idp.users", "hr.leavers"]
                .map(|topic| Warning { topic: topic.into(), what: "it doesn't exist yet".into() })
                .into(),
            unchanged: vec!["lockstep.bundles".into()],
        };
        let mut table = table(&plan, false);
        table.set_width(120);
        let text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        insta::assert_snapshot!(format!("{}\n{}", text.join("\n"), summary(&plan, false)), @r"
         ACTION   TOPIC                  WHAT
         refused  lockstep.state         cleanup.policy is delete instead of compact
                                         state is deleted by age
                                         set it
         create   lockstep.inbox         8 partitions, 3 replicas, cleanup.policy=delete
         alter    lockstep.results       max.message.bytes 1000 -> 1048588
         warning  hr.workers and 2 more  it doesn't exist yet
        1 to create, 1 to alter, 1 refused, 3 warned of, 1 as they must be
        ");
        assert_eq!(as_json(&plan, true)["refuse"][0]["topic"], "lockstep.state");
    }
}
