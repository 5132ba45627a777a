//! The Guard's limit, held against what was carried out: by the commands, and by the permits that travelled through the inbox.
//!
//! A removal counts when the Guard lets it through, by the clock of its partition, which is of another time than the command
//! where the permit had to wait. That clock is read off the state topic: each commit that has a step of the Guard writes it.

use crate::rules::{GUARD_WINDOW_MS, TARGETS, TENANT};
use crate::world::{REPLAYED, World};
use lockstep::bus::Outgoing;
use lockstep::codec::public::PublicCodec;
use lockstep::entity::key;
use lockstep::model::{
    Address, Body, Command, DecisionKind, EntityKey, IdentityId, InboxRecord, PartitionId, PermitAnswer, SourceName,
    TargetName, envelope,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a removal is known by: whose account it is, where, and the event that it is for.
type Removal = (IdentityId, TargetName, String);

/// A removal that the Guard let through by itself.
struct Passed {
    commit: usize,
    at: i64,
    urgent: bool,
}

/// In no window has the Guard let more through than its limit. What a person released doesn't count, and what is urgent counts
/// and passes. No removal is commanded that neither the Guard nor a person let through.
pub fn kept(world: &World) -> Result<(), String> {
    let (clock, counted) = (clock(world), counted(world));
    let at = |commit: usize| clock.get(&commit).copied().ok_or("a permit was given in a commit without the clock");
    let (urgent, by_a_person) = (decided(world, is_urgent), decided(world, is_by_a_person));
    let mut passed: BTreeMap<(SourceName, TargetName), Vec<Passed>> = BTreeMap::new();
    let mut travelled: BTreeMap<Removal, Vec<usize>> = BTreeMap::new();
    for (commit, (removal, source)) in permits(world) {
        let urgent = urgent.contains(&removal);
        travelled.entry(removal.clone()).or_default().push(commit);
        passed.entry((source, removal.1)).or_default().push(Passed { commit, at: at(commit)?, urgent });
    }
    for (commit, command) in removals(world) {
        let event = command.cause.event.to_string();
        let removal = (command.identity.clone(), command.target.clone(), event);
        if by_a_person.contains(&removal) {
            continue;
        }
        // The same timer may delete an account that was made anew: what was permitted later is not for this one.
        let earlier =
            |permits: &mut Vec<usize>| permits.iter().position(|given| *given <= commit).map(|at| permits.remove(at));
        match travelled.get_mut(&removal).and_then(earlier) {
            Some(_) => {}
            // What the Guard says to an identity of the same process takes effect in the same commit, and travels nowhere.
            _ if counted.contains(&commit) => {
                let urgent = urgent.contains(&removal);
                let of = (command.cause.source, command.target);
                passed.entry(of).or_default().push(Passed { commit, at: at(commit)?, urgent });
            }
            _ => return Err(format!("{}@{} is commanded without a permit", command.account, command.generation)),
        }
    }
    passed.into_iter().try_for_each(|((source, target), passed)| {
        within(&passed, u64::from(world.story.choices.limit)).map_err(|fault| format!("{source}/{target}: {fault}"))
    })
}

/// When one passes that is not urgent, what has passed within the window before, and it, are no more than the limit.
fn within(passed: &[Passed], limit: u64) -> Result<(), String> {
    for last in passed.iter().filter(|passed| !passed.urgent) {
        // Which of one commit came first is not known: an urgent one may have come after.
        let counts = |other: &&Passed| {
            let before = other.commit < last.commit || other.commit == last.commit && !other.urgent;
            before && other.at > last.at - GUARD_WINDOW_MS
        };
        let count = passed.iter().filter(counts).count() as u64;
        if count > limit {
            return Err(format!("{count} removals passed within the window that ends at {}, of {limit}", last.at));
        }
    }
    Ok(())
}

fn is_urgent(kind: &DecisionKind) -> bool {
    matches!(kind, DecisionKind::Urgent)
}

fn is_by_a_person(kind: &DecisionKind) -> bool {
    matches!(kind, DecisionKind::Released { .. } | DecisionKind::Redriven { .. })
}

/// What the audit says such a thing of.
fn decided(world: &World, such: fn(&DecisionKind) -> bool) -> BTreeSet<Removal> {
    let decisions = world.logs.decisions.all(&world.bus, &world.topics.decisions());
    let chosen = decisions.iter().filter(|decision| such(&decision.kind));
    chosen
        .filter_map(|decision| Some((decision.identity.clone()?, decision.target.clone()?, decision.cause.to_string())))
        .collect()
}

fn guard(world: &World) -> PartitionId {
    Address::guard(TENANT.into()).routing_key.partition(world.layout.inbox_partitions)
}

/// Commits in which the Guard has counted.
fn counted(world: &World) -> BTreeSet<usize> {
    let head = key::row(&Address::guard(TENANT.into()).entity, key::HEAD);
    let counted = world.bus.by_commit(&world.topics.state(), |row| (*row.key.as_ref()? == head).then_some(()));
    counted.into_iter().map(|(commit, ())| commit).collect()
}

/// The clock of the Guard's partition, by commit.
fn clock(world: &World) -> BTreeMap<usize, i64> {
    let (guard, clock) = (guard(world), key::meta("clock"));
    let clocks = world.bus.by_commit(&world.topics.state(), |row| {
        let value = row.value.as_ref().filter(|_| row.partition == Some(guard.0) && row.key.as_ref() == Some(&clock));
        Some(i64::from_be_bytes(*value?.first_chunk()?))
    });
    clocks.into_iter().collect()
}

/// What the Guard let through and didn't take effect at once: it went through the inbox, or waited for an identity that was set
/// aside, or both. Each once, when it was given.
fn permits(world: &World) -> Vec<(usize, (Removal, SourceName))> {
    let permit = |value: &[u8]| {
        let InboxRecord::Message(message) = envelope::open(value).expect("an inbox record") else { return None };
        match (message.to.entity, message.body) {
            (EntityKey::Identity { identity, .. }, Body::Permit { target, answer: PermitAnswer::Granted, epoch }) => {
                let event = message.cause.event.to_string();
                Some((epoch, ((identity, target, event), message.cause.source)))
            }
            _ => None,
        }
    };
    let mut permits = world.bus.by_commit(&world.topics.inbox(), |record| permit(record.value.as_ref()?));
    permits.extend(world.bus.by_commit(&world.topics.state(), |row| {
        let (_, name) = key::parse(row.key.as_ref()?)?;
        permit(row.value.as_ref().filter(|_| name.starts_with(key::WAITING))?)
    }));
    permits.sort_by_key(|(commit, _)| *commit);
    let mut given = BTreeSet::new();
    permits.retain(|(_, (epoch, ((identity, target, _), _)))| given.insert((identity.clone(), target.clone(), *epoch)));
    permits.into_iter().map(|(commit, (_, permit))| (commit, permit)).collect()
}

/// The commands that take access away.
fn removals(world: &World) -> Vec<(usize, Command)> {
    let codec = PublicCodec::new(None);
    let removal = |record: &Outgoing| {
        let ours = !record.headers.iter().any(|(name, _)| name == REPLAYED);
        let value = record.value.as_ref().filter(|_| ours)?;
        let command: Command = codec.decode(value).expect("a command");
        command.op.is_deprovision().then_some(command)
    };
    let topics = TARGETS.iter().map(|target| world.topics.commands(&(*target).into()));
    topics.flat_map(|topic| world.bus.by_commit(&topic, removal)).collect()
}
