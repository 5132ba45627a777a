//! `lockstep topics plan|apply`: Lockstep's topics on Kafka as they must be.

use super::{Common, Exit, Failure, kafka, out, runtime};
use crate::bus::TopicSpec;
use crate::bus::topics::{self, Layout, Plan};
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

#[derive(clap::Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Show what `apply` would do, and what stands against it; exit code 1 if something does
    Plan,
    /// Make and set the topics; nothing at all where one is refused
    Apply,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&common.config()).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
    let BusRules::Kafka(rules) = &config.installation.bus else {
        out::line("the bus is embedded: it makes its topics by itself, there is nothing to plan")?;
        return Ok(Exit::Done.into());
    };
    let layout = Layout::of(&config);
    let bus = kafka::connect(rules, &layout, &common.data)?;
    let plan = topics::plan(&bus, &layout).map_err(|error| runtime::bus_failure(&error))?;
    let applied = args.what == What::Apply && plan.refuse.is_empty();
    if applied {
        topics::apply(&bus, &plan)?;
    }
    if args.json {
        out::json(&as_json(&plan, applied))?
    } else {
        show(&plan, args.what, applied)?
    }
    Ok(if plan.refuse.is_empty() { Exit::Done } else { Exit::Failed }.into())
}

fn show(plan: &Plan, what: What, applied: bool) -> anyhow::Result<()> {
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
