//! The auditor: reads the targets themselves and the logs, and trusts nothing that Lockstep says of itself.

use crate::rules::{GRACE_MS, TARGETS};
use crate::target::plain;
use crate::truth::Wanted;
use crate::world::{REPLAYED, World};
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::entity::{AccountRow, Removal, key};
use lockstep::model::{
    AccountId, Command, Decision, DecisionKind, EntityKey, Generation, Outcome, ResultEvent, TargetName,
    envelope,
};
use std::collections::BTreeMap;

/// What must hold whenever everything is at rest and nothing goes wrong any more, before operators tidy up.
pub fn at_rest(world: &World) -> Result<(), String> {
    for target in TARGETS {
        let commands = commands(world, target);
        let last = generations(target, &commands)?;
        calls(world, target, &last)?;
        ends(world, target, &commands, &last)?;
    }
    commanded(world)?;
    held(world)?;
    quarantined(world)
}

/// What must hold in the end: every person has what the rules say of the newest facts, computed serially and at once.
pub fn in_the_end(world: &World) -> Result<(), String> {
    at_rest(world)?;
    for target in TARGETS {
        accounts(world, target).map_err(|fault| format!("{fault}\n{}", history(world, target)))?;
    }
    Ok(())
}

/// Two installations that were told the same end with the same accounts. Those that an operator kept depend on when it was.
pub fn same(one: &World, other: &World) -> Result<(), String> {
    for target in TARGETS {
        let (shown, others) = (one.targets[target].shown(), other.targets[target].shown());
        for worker in &one.story.workers {
            let account = one.account(worker, target);
            let unknown = one.wanted(worker, target) == Wanted::Unknown;
            if unknown || one.is_rejected(&account) || other.is_rejected(&account) {
                continue;
            }
            let (mine, theirs) = (shown.get(&account), others.get(&account));
            if mine != theirs {
                return Err(format!(
                    "{target}: {worker} ({account}) has {mine:?}, and {theirs:?} in the serial reference\n{}",
                    history(one, target)
                ));
            }
        }
    }
    Ok(())
}

fn accounts(world: &World, target: &'static str) -> Result<(), String> {
    let mut shown = world.targets[target].shown();
    let count = world.targets[target].contents.lock().unwrap().accounts.len();
    if count != shown.len() {
        return Err(format!("{target}: {count} accounts of {} owners", shown.len()));
    }
    for worker in &world.story.workers {
        let account = world.account(worker, target);
        let observed = shown.remove(&account);
        match (world.wanted(worker, target), observed) {
            (Wanted::Account(wanted), Some((true, has))) if wanted == has => {}
            (Wanted::Account(wanted), Some((active, has))) => {
                return Err(format!(
                    "{target}: the account of {worker} ({account}) is active {active} with {has:?}, but should be {wanted:?}"
                ));
            }
            (Wanted::Account(_), None) => {
                return Err(format!("{target}: {worker} ({account}) should have an account and has none"));
            }
            (Wanted::None, Some((true, _))) if !world.is_rejected(&account) => {
                return Err(format!("{target}: {worker} ({account}) is out and can still get in"));
            }
            (Wanted::None | Wanted::Unknown, _) => {}
        }
    }
    match shown.keys().next() {
        Some(account) => Err(format!("{target}: {account} is nobody's")),
        None => Ok(()),
    }
}

/// After the grace nothing is left of those who are out.
pub fn after_the_grace(world: &World) -> Result<(), String> {
    for target in TARGETS {
        let shown = world.targets[target].shown();
        for worker in &world.story.workers {
            let account = world.account(worker, target);
            let left = shown.get(&account);
            if world.wanted(worker, target) == Wanted::None && left.is_some() && !world.is_rejected(&account) {
                return Err(format!(
                    "{target}: {worker} ({account}) is out for more than {} days, and {left:?} is left\n{}",
                    GRACE_MS / 86_400_000,
                    history(world, target)
                ));
            }
        }
    }
    Ok(())
}

/// Generations of an account go 1, 2, 3 without gap or repetition.
fn generations(target: &str, commands: &[Command]) -> Result<BTreeMap<AccountId, Generation>, String> {
    let mut last: BTreeMap<AccountId, Generation> = BTreeMap::new();
    for command in commands {
        let before = last.insert(command.account.clone(), command.generation).unwrap_or_default();
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
fn calls(world: &World, target: &str, last: &BTreeMap<AccountId, Generation>) -> Result<(), String> {
    let contents = world.targets[target].contents.lock().unwrap();
    let mut newest: BTreeMap<&AccountId, Generation> = BTreeMap::new();
    for call in &contents.log {
        let before = newest.insert(&call.account, call.generation).unwrap_or_default();
        if call.generation < before {
            return Err(format!("{target}: generation {} reached {} after {before}", call.generation, call.account));
        }
        if call.generation == before && !call.read_before {
            return Err(format!("{target}: {} was repeated for {} without a read", call.op, call.account));
        }
        if last.get(&call.account).is_none_or(|last| call.generation > *last) {
            return Err(format!(
                "{target}: {} was called for {} with generation {} that nobody issued",
                call.op, call.account, call.generation
            ));
        }
    }
    Ok(())
}

/// Every command ends applied, superseded, or dead-lettered and alerted. At rest none is parked any more.
fn ends(
    world: &World,
    target: &str,
    commands: &[Command],
    last: &BTreeMap<AccountId, Generation>,
) -> Result<(), String> {
    let mut outcomes: BTreeMap<(&AccountId, Generation), Outcome> = BTreeMap::new();
    let results: Vec<ResultEvent> = decoded(world, &world.topics.results());
    let mut results: Vec<&ResultEvent> = results.iter().filter(|result| result.target.as_str() == target).collect();
    // Each partition is in order; all of them together are as they were committed.
    results.sort_by_key(|result| result.generation);
    for result in results {
        if result.generation > last.get(&result.account).copied().unwrap_or_default() {
            return Err(format!("{target}: a result of {} {} that nobody issued", result.account, result.generation));
        }
        outcomes.insert((&result.account, result.generation), result.outcome);
    }
    let letters = world.dead_letters();
    for command in commands {
        let what = || format!("{target}: {} of {}@{}", command.op, command.account, command.generation);
        let newest = last[&command.account] == command.generation;
        match outcomes.get(&(&command.account, command.generation)) {
            Some(Outcome::Verified) => {}
            Some(Outcome::Superseded) if !newest => {}
            Some(Outcome::Superseded) => return Err(format!("{} is superseded by nothing", what())),
            Some(Outcome::DeadLettered) if !newest => {}
            Some(Outcome::DeadLettered) => {
                let listed = letters.iter().any(|letter| letter.command.account == command.account);
                let alerted = world.alerts.contains_key(&format!("dead-letter/{}", command.account));
                let dropped = decisions(world).iter().any(|decision| {
                    matches!(decision.kind, DecisionKind::Dropped { .. })
                        && decision.account.as_ref() == Some(&command.account)
                });
                if !(listed && alerted || dropped) {
                    return Err(format!("{} is a dead letter, listed {listed}, alerted {alerted}", what()));
                }
            }
            other => return Err(format!("{} has not ended: {other:?}\n{}", what(), history(world, target))),
        }
    }
    Ok(())
}

/// The audit says of every command that it was issued, and of no other.
fn commanded(world: &World) -> Result<(), String> {
    let mut said: BTreeMap<AccountId, u64> = BTreeMap::new();
    for decision in decisions(world) {
        if let (DecisionKind::Commanded { .. }, Some(account)) = (decision.kind, decision.account) {
            *said.entry(account).or_default() += 1;
        }
    }
    for target in TARGETS {
        for (account, last) in generations(target, &commands(world, target))? {
            let said = said.remove(&account).unwrap_or_default();
            if said != last.0 {
                return Err(format!("{target}: {account} has {last} commands, of which the audit says {said}"));
            }
        }
    }
    match said.into_iter().next() {
        Some((account, count)) => Err(format!("the audit says {count} commands of {account}, which has none")),
        None => Ok(()),
    }
}

/// What the Guard holds is what is frozen, and nothing else: a removal that nobody can release would stay for ever.
fn held(world: &World) -> Result<(), String> {
    let mut held: BTreeMap<AccountId, u64> =
        world.held().into_iter().map(|held| (held.account, held.epoch)).collect();
    for (row_key, row) in world.rows(&world.topics.state()) {
        let Some((EntityKey::Identity { .. }, name)) = key::parse(&row_key) else { continue };
        if !name.starts_with("account/") {
            continue;
        }
        let row: AccountRow = envelope::open(&row).map_err(|error| format!("an account's row: {error}"))?;
        match (&row.removal, held.remove(&row.account)) {
            (Removal::Held { epoch, .. }, Some(of)) if of == *epoch => {}
            (Removal::Held { .. }, of) => {
                return Err(format!("{} is frozen, and the Guard holds {of:?} of it", row.account));
            }
            (Removal::Asked { .. }, _) => return Err(format!("{} waits for the Guard's answer", row.account)),
            (_, Some(_)) => return Err(format!("the Guard holds {}, which waits for nothing", row.account)),
            (_, None) => {}
        }
    }
    match held.into_keys().next() {
        Some(account) => Err(format!("the Guard holds {account}, which has no row")),
        None => Ok(()),
    }
}

/// Nothing in any story is more than Lockstep can handle.
fn quarantined(world: &World) -> Result<(), String> {
    let rows = world.rows(&world.topics.state());
    let marks = rows.keys().filter_map(|row| key::parse(row)).filter(|(_, name)| name == key::QUARANTINE);
    match marks.map(|(of, _)| of).next() {
        Some(of) => Err(format!("{of} is in quarantine")),
        None => Ok(()),
    }
}

/// Those that Lockstep wrote.
pub fn commands(world: &World, target: &str) -> Vec<Command> {
    let codec = PublicCodec::new(None);
    let written = world.bus.written(&world.topics.commands(&TargetName::from(target)), 0);
    let own = written.into_iter().filter(|record| !record.headers.iter().any(|(name, _)| name == REPLAYED));
    own.map(|record| codec.decode(&record.value.unwrap_or_default()).expect("a command")).collect()
}

pub fn decisions(world: &World) -> Vec<Decision> {
    decoded(world, &world.topics.decisions())
}

fn decoded<T: Public>(world: &World, topic: &str) -> Vec<T> {
    let codec = PublicCodec::new(None);
    let written = world.bus.written(topic, 0);
    written.into_iter().map(|record| codec.decode(&record.value.unwrap_or_default()).expect("a public record")).collect()
}

/// What was commanded and what was called, for whoever looks for the fault.
fn history(world: &World, target: &str) -> String {
    let mut lines: Vec<String> = commands(world, target)
        .iter()
        .map(|command| {
            format!(
                "  command {} {}@{} by {} at {} {:?} groups {:?} revoked {:?}",
                command.op,
                command.account,
                command.generation,
                command.cause.event,
                command.issued.0,
                plain(&command.desired.attributes),
                command.desired.entitlements.groups,
                command.revoked
            )
        })
        .collect();
    lines.sort();
    let contents = world.targets[target].contents.lock().unwrap();
    lines.extend(contents.log.iter().map(|call| {
        format!(
            "  call {} {}@{} at {} groups {:?} revoked {:?} lie {}",
            call.op, call.account, call.generation, call.at.0, call.groups, call.revoked, call.lie
        )
    }));
    lines.join("\n")
}
