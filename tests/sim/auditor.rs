//! The auditor: reads the targets themselves and the logs, and trusts nothing that Lockstep says of itself.

use crate::story::{Facts, TARGETS};
use crate::world::{REPLAYED, World, read_all};
use lockstep::codec::public::PublicCodec;
use lockstep::connector::Observed;
use lockstep::model::{Attributes, Command, Desired, Generation, SourceName, TargetName, Value};
use std::collections::BTreeMap;

pub fn audit(world: &World) -> Result<(), String> {
    for target in TARGETS {
        accounts(world, target).map_err(|fault| format!("{fault}\n{}", history(world, target)))?;
        let last = generations(world, target)?;
        calls(world, target, &last)?;
    }
    Ok(())
}

/// Every person's account is what the rules say of the newest facts, computed serially and at once.
fn accounts(world: &World, target: &str) -> Result<(), String> {
    let contents = world.targets[target].contents.lock().unwrap();
    let mut by_name: BTreeMap<&str, &Observed> = BTreeMap::new();
    for observed in contents.accounts.values() {
        let name = observed.attributes.get("userName").and_then(Value::as_text).unwrap_or_default();
        if by_name.insert(name, observed).is_some() {
            return Err(format!("{target}: two accounts are called {name}"));
        }
    }
    let mut expected = 0;
    for (worker, facts) in &world.story.facts {
        let name = if target == "wiki" { format!("w-{}", worker.to_lowercase()) } else { worker.to_lowercase() };
        let observed = by_name.get(name.as_str());
        match (reference(world, target, facts), observed) {
            (Some(desired), Some(observed)) => {
                expected += 1;
                let groups = observed.groups.clone().unwrap_or_default();
                if !observed.active
                    || observed.attributes != desired.attributes
                    || groups != desired.entitlements.groups
                {
                    return Err(format!(
                        "{target}: the account of {worker} is active {} with {:?} and {groups:?}, but should be {:?} with {:?}",
                        observed.active,
                        observed.attributes.values().map(Value::to_json).collect::<Vec<_>>(),
                        desired.attributes.values().map(Value::to_json).collect::<Vec<_>>(),
                        desired.entitlements.groups
                    ));
                }
            }
            (Some(_), None) => return Err(format!("{target}: {worker} should have an account and has none")),
            (None, Some(observed)) if observed.active => {
                return Err(format!("{target}: {worker} is out and can still get in"));
            }
            (None, observed) => expected += usize::from(observed.is_some()),
        }
    }
    if expected != contents.accounts.len() {
        return Err(format!("{target}: {} accounts, {expected} of them anybody's", contents.accounts.len()));
    }
    Ok(())
}

/// What a person should have: None is no access.
fn reference(world: &World, target: &str, facts: &Facts) -> Option<Desired> {
    let hr = facts.hr.as_ref()?;
    let bundle = &world.bundle;
    let kind = bundle.kind("person").expect("the story's kind");
    let text = |of: &serde_json::Value, name: &str| of.get(name).and_then(Value::from_json).unwrap_or(Value::Null);
    let (hr_name, idp_name) = (SourceName::from("hr"), SourceName::from("idp"));
    let worker = Attributes::from(["worker", "name", "department", "status"].map(|name| (name, text(hr, name))));
    let user = facts
        .idp
        .as_ref()
        .map(|idp| Attributes::from(["worker", "phone", "teams"].map(|name| (name, text(idp, name)))));
    let mut records = vec![(&hr_name, &worker)];
    records.extend(user.as_ref().map(|user| (&idp_name, user)));
    let merged = kind.merge(&records);
    if merged.get("status").and_then(Value::as_text) != Some("active") {
        return None;
    }
    let rules = bundle.target(&TargetName::from(target)).expect("the story's target");
    rules.wants("person", &merged).expect("the story's rules give an answer")
}

/// Generations of an account go 1, 2, 3 without gap or repetition.
fn generations(world: &World, target: &str) -> Result<BTreeMap<String, Generation>, String> {
    let mut last: BTreeMap<String, Generation> = BTreeMap::new();
    for command in commands(world, target) {
        let before = last.insert(command.account.to_string(), command.generation).unwrap_or_default();
        if command.generation != before.next() {
            return Err(format!(
                "{target}: account {} goes from generation {before} to {}",
                command.account, command.generation
            ));
        }
    }
    Ok(last)
}

/// At the target nothing older follows anything newer, and the same command comes twice only after a read.
fn calls(world: &World, target: &str, last: &BTreeMap<String, Generation>) -> Result<(), String> {
    let contents = world.targets[target].contents.lock().unwrap();
    let mut newest: BTreeMap<&str, Generation> = BTreeMap::new();
    for call in &contents.log {
        let before = newest.insert(call.account.as_str(), call.generation).unwrap_or_default();
        if call.generation < before {
            return Err(format!("{target}: generation {} reached {} after {before}", call.generation, call.account));
        }
        if call.generation == before && !call.read_before {
            return Err(format!("{target}: {} was repeated for {} without a read", call.op, call.account));
        }
        if last.get(call.account.as_str()).is_none_or(|last| call.generation > *last) {
            return Err(format!(
                "{target}: {} was called with generation {} that nobody issued",
                call.account, call.generation
            ));
        }
    }
    Ok(())
}

/// What was commanded and what was called, for whoever looks for the fault.
fn history(world: &World, target: &str) -> String {
    let mut lines: Vec<String> = commands(world, target)
        .iter()
        .map(|command| {
            format!(
                "  command {} {}@{} by {} groups {:?} revoked {:?}",
                command.op,
                command.account,
                command.generation,
                command.cause.event,
                command.desired.entitlements.groups,
                command.revoked
            )
        })
        .collect();
    lines.sort();
    let contents = world.targets[target].contents.lock().unwrap();
    lines.extend(contents.log.iter().map(|call| {
        format!(
            "  call {} {}@{} groups {:?} revoked {:?} lie {}",
            call.op, call.account, call.generation, call.groups, call.revoked, call.lie
        )
    }));
    let name = |observed: &Observed| {
        observed.attributes.get("userName").and_then(Value::as_text).unwrap_or_default().to_owned()
    };
    lines.extend(
        contents.accounts.values().map(|observed| format!("  account {:?} is {}", observed.owner, name(observed))),
    );
    lines.join("\n")
}

/// Those that Lockstep wrote.
fn commands(world: &World, target: &str) -> Vec<Command> {
    let codec = PublicCodec::new(None);
    read_all(world.bus.as_ref(), &world.topics.commands(&TargetName::from(target)))
        .into_iter()
        .filter(|record| !record.headers.iter().any(|(name, _)| name == REPLAYED))
        .map(|record| codec.decode::<Command>(&record.value.unwrap_or_default()).expect("a command"))
        .collect()
}
