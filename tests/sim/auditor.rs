//! The auditor: reads the targets themselves and the logs, and trusts nothing that Lockstep says of itself.

use crate::rules::{GRACE_MS, SOURCE_TOPICS, TARGETS};
use crate::target::plain;
use crate::truth::{Account, Wanted};
use crate::world::{BAD, World};
use lockstep::entity::pack::Pack;
use lockstep::entity::{AccountRow, AccountState, IdentityHead, IdentityRecord, Removal, key};
use lockstep::lane::{Lane, Work};
use lockstep::model::{
    AccountId, Command, Decision, DecisionKind, EntityKey, Generation, Outcome, ResultEvent, envelope,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What must hold whenever everything is at rest and nothing goes wrong any more, before operators tidy up.
pub fn at_rest(world: &World) -> Result<(), String> {
    for target in TARGETS {
        let commands = commands(world, target);
        let last = generations(target, &commands)?;
        calls(world, target, &last)?;
        ends(world, target, &commands, &last)?;
    }
    commanded(world)?;
    removals(world)?;
    held(world)?;
    bad_input(world)?;
    quarantined(world)
}

/// What must hold in the end: every person has what the rules say of the newest facts, computed serially and at once.
/// `looked`: so long after the last fault that every later look at a deprovision has been made.
pub fn in_the_end(world: &World, looked: bool) -> Result<(), String> {
    at_rest(world)?;
    for target in TARGETS {
        accounts(world, target, looked)?;
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
            let left_to_a_person = |world: &World| world.is_rejected(&account) || world.is_kept(&account);
            if unknown || left_to_a_person(one) || left_to_a_person(other) {
                continue;
            }
            let (mine, theirs) = (shown.get(&account), others.get(&account));
            if mine != theirs && !is_given_up(one, target, &account) && !is_given_up(other, target, &account) {
                return Err(format!(
                    "{target}: {worker} ({account}) has {mine:?}, and {theirs:?} in the serial reference\n{}",
                    history(one, target, &account)
                ));
            }
        }
    }
    Ok(())
}

fn accounts(world: &World, target: &'static str, looked: bool) -> Result<(), String> {
    let mut shown = world.targets[target].shown();
    let (count, undone) = {
        let contents = world.targets[target].contents.lock().unwrap();
        (contents.accounts.len(), contents.undone.clone())
    };
    if count != shown.len() {
        return Err(format!("{target}: {count} accounts of {} owners", shown.len()));
    }
    for worker in &world.story.workers {
        let account = world.account(worker, target);
        let observed = shown.remove(&account);
        let fault = match (world.wanted(worker, target), observed) {
            (Wanted::Account(wanted), Some((true, has))) if wanted == has => continue,
            (Wanted::Account(wanted), Some((active, has))) => {
                format!("the account of {worker} is active {active} with {has:?}, but should be {wanted:?}")
            }
            (Wanted::Account(_), None) => format!("{worker} should have an account and has none"),
            // What somebody undid a moment ago nobody may have seen yet.
            (Wanted::None, Some((true, _))) if !looked && undone.contains(&account) => continue,
            (Wanted::None, Some((true, _))) if !world.is_rejected(&account) => {
                format!("{worker} is out and can still get in")
            }
            (Wanted::None, Some((false, has)))
                if world.kept(worker, target).is_some_and(|kept| kept != has.attributes)
                    && !is_given_up(world, target, &account) =>
            {
                format!(
                    "the disabled account of {worker} is not kept current: {has:?}, not {:?}",
                    world.kept(worker, target)
                )
            }
            (Wanted::None | Wanted::Unknown, _) => continue,
        };
        // Whom an operator gave up may lack what they should have, and not the other way round; a leaver's disabled account may lag.
        if world.wanted(worker, target) != Wanted::None && is_given_up(world, target, &account) {
            continue;
        }
        return Err(format!("{target}: {fault}\n{}", history(world, target, &account)));
    }
    match shown.keys().next() {
        Some(account) => Err(format!("{target}: {account} is nobody's")),
        None => Ok(()),
    }
}

/// The newest command of an account is a dead letter that an operator dropped: it stays as it is until something else is wanted.
fn is_given_up(world: &World, target: &'static str, account: &AccountId) -> bool {
    let newest =
        commands(world, target).iter().filter(|command| command.account == *account).map(|c| c.generation).max();
    let about = |result: &&Rc<ResultEvent>| result.account == *account && Some(result.generation) == newest;
    let ended = results(world).iter().rfind(about).map(|result| result.outcome);
    ended == Some(Outcome::DeadLettered) && is_dropped(world, account)
}

fn is_dropped(world: &World, account: &AccountId) -> bool {
    let of = |decision: &&Rc<Decision>| decision.account.as_ref() == Some(account);
    decisions(world).iter().filter(of).any(|decision| matches!(decision.kind, DecisionKind::Dropped { .. }))
}

/// After the grace nothing is left of those who are out.
pub fn after_the_grace(world: &World) -> Result<(), String> {
    for target in TARGETS {
        let shown = world.targets[target].shown();
        for worker in &world.story.workers {
            let account = world.account(worker, target);
            let left = shown.get(&account);
            let is_kept = || world.is_rejected(&account) || world.is_kept(&account);
            if world.wanted(worker, target) == Wanted::None && left.is_some() && !is_kept() {
                return Err(format!(
                    "{target}: {worker} ({account}) is out for more than {} days, and {left:?} is left\n{}",
                    GRACE_MS / 86_400_000,
                    history(world, target, &account)
                ));
            }
        }
    }
    Ok(())
}

/// The time of a partition never goes back, whatever the clocks of the processes that have it do.
pub fn time_goes_on(world: &World) -> Result<(), String> {
    let name = key::meta("clock");
    let clocks = world.bus.by_commit(&world.topics.state(), |row| {
        let value = row.value.as_ref().filter(|_| row.key.as_ref() == Some(&name))?;
        Some((row.partition, i64::from_be_bytes(*value.first_chunk()?)))
    });
    let mut last = BTreeMap::new();
    for (_, (partition, now)) in clocks {
        let before = last.insert(partition, now).unwrap_or(now);
        if now < before {
            return Err(format!("the time of inbox partition {partition:?} goes from {before} back to {now}"));
        }
    }
    match last.is_empty() {
        true => Err("no partition has a time".to_owned()),
        false => Ok(()),
    }
}

/// Generations of an account go 1, 2, 3 without gap or repetition.
fn generations(target: &str, commands: &[Rc<Command>]) -> Result<BTreeMap<AccountId, Generation>, String> {
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
fn calls(world: &World, target: &'static str, last: &BTreeMap<AccountId, Generation>) -> Result<(), String> {
    let log = world.targets[target].contents.lock().unwrap().log.clone();
    let mut newest: BTreeMap<&AccountId, Generation> = BTreeMap::new();
    for call in &log {
        let (op, account, generation) = (call.op, &call.account, call.generation);
        let before = newest.insert(account, generation).unwrap_or_default();
        let fault = if generation < before {
            format!("generation {generation} reached {account} after {before}")
        } else if generation == before && !call.read_before {
            format!("{op} was repeated for {account} without a read")
        } else if last.get(account).is_none_or(|last| generation > *last) {
            format!("{op} was called for {account} with generation {generation} that nobody issued")
        } else {
            continue;
        };
        return Err(format!("{target}: {fault}\n{}", history(world, target, account)));
    }
    Ok(())
}

/// Every command ends applied, superseded, or dead-lettered and alerted. At rest none is parked any more.
fn ends(
    world: &World,
    target: &'static str,
    commands: &[Rc<Command>],
    last: &BTreeMap<AccountId, Generation>,
) -> Result<(), String> {
    let mut outcomes: BTreeMap<(&AccountId, Generation), Outcome> = BTreeMap::new();
    let results = results(world);
    for result in results.iter().filter(|result| result.target.as_str() == target) {
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
                if !(listed && alerted || is_dropped(world, &command.account)) {
                    return Err(format!("{} is a dead letter, listed {listed}, alerted {alerted}", what()));
                }
            }
            other => {
                let history = history(world, target, &command.account);
                return Err(format!("{} has not ended: {other:?}\n{history}", what()));
            }
        }
    }
    Ok(())
}

/// The audit says of every command that it was issued, and of no other.
fn commanded(world: &World) -> Result<(), String> {
    let mut said: BTreeMap<AccountId, u64> = BTreeMap::new();
    for decision in decisions(world) {
        if let (DecisionKind::Commanded { .. }, Some(account)) = (&decision.kind, &decision.account) {
            *said.entry(account.clone()).or_default() += 1;
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

/// While the clock of a removal runs nobody is given access, and an operator who keeps an account that is disabled stops no clock:
/// that the access is gone is still to be seen.
fn removals(world: &World) -> Result<(), String> {
    let mut active: BTreeMap<(AccountId, Generation), bool> = BTreeMap::new();
    for command in TARGETS.iter().flat_map(|target| commands(world, target)) {
        active.insert((command.account.clone(), command.generation), command.desired.active);
    }
    let (mut running, mut has_access) = (BTreeSet::new(), BTreeMap::new());
    for decision in decisions(world) {
        let Some(account) = &decision.account else { continue };
        match &decision.kind {
            DecisionKind::DeprovisionOpened { .. } => drop(running.insert(account.clone())),
            DecisionKind::DeprovisionRejected { operation } if has_access.get(account) == Some(&false) => {
                return Err(format!("{account} was disabled, and {operation} stopped its clock"));
            }
            DecisionKind::DeprovisionVerified { .. }
            | DecisionKind::DeprovisionCancelled
            | DecisionKind::DeprovisionRejected { .. } => drop(running.remove(account)),
            DecisionKind::Commanded { op } => {
                let generation = decision.generation.ok_or(format!("{op} of {account} has no generation"))?;
                let gives = active[&(account.clone(), generation)];
                if gives && running.contains(account) {
                    return Err(format!("{op} of {account}@{generation} gives access while its removal's clock runs"));
                }
                has_access.insert(account.clone(), gives);
            }
            _ => {}
        }
    }
    Ok(())
}

/// All that is known of accounts.
pub fn account_rows(world: &World) -> Vec<AccountRow> {
    let is_account =
        |of: &EntityKey, name: &str| matches!(of, EntityKey::Identity { .. }) && name.starts_with("account/");
    let rows = rows_of(world, is_account).into_iter();
    rows.map(|(of, _, row)| envelope::open(&row).unwrap_or_else(|error| panic!("an account of {of}: {error}")))
        .collect()
}

/// What the Guard holds is what is frozen, and nothing else: a removal that nobody can release would stay for ever. What is urgent
/// it never holds.
fn held(world: &World) -> Result<(), String> {
    let mut held: BTreeMap<AccountId, u64> = world.held().into_iter().map(|held| (held.account, held.epoch)).collect();
    let is_urgent = |worker: &&String| {
        let record = world.facts.workers.get(*worker);
        record.is_some_and(|record| record.present && record.text("urgent").as_deref() == Some("yes"))
    };
    let urgent = world.story.workers.iter().filter(is_urgent);
    let urgent: BTreeSet<AccountId> =
        urgent.flat_map(|worker| TARGETS.map(|target| world.account(worker, target))).collect();
    for row in account_rows(world) {
        if matches!(row.removal, Removal::Held { .. })
            && row.state == AccountState::Present
            && urgent.contains(&row.account)
        {
            return Err(format!("{} is urgent, and held", row.account));
        }
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

/// What is no event ends among the dead letters of sources, each once and as it came; nothing else does.
fn bad_input(world: &World) -> Result<(), String> {
    let values = |topic: &str, bad: bool| {
        let records = world.bus.written(topic, 0).into_iter();
        let chosen = records.filter(|record| record.headers.iter().any(|(name, _)| name == BAD) == bad);
        chosen.map(|record| (record.key, record.value)).collect::<Vec<_>>()
    };
    let letters = world.topics.source_dead_letters();
    let mut came: Vec<_> = SOURCE_TOPICS.iter().flat_map(|topic| values(topic, true)).collect();
    let mut ended = values(&letters, true);
    came.sort();
    ended.sort();
    match values(&letters, false).len() {
        0 if came == ended => Ok(()),
        0 => Err(format!("{} records are bad input, and {} are dead letters of sources", came.len(), ended.len())),
        others => Err(format!("{others} good events are dead letters of sources")),
    }
}

/// Nobody is set aside for good: nothing in any story is more than Lockstep can handle, once what is wrong with its state is mended.
fn quarantined(world: &World) -> Result<(), String> {
    match rows_of(world, |_, name| name == key::QUARANTINE).into_iter().next() {
        Some((of, ..)) => Err(format!("{of} is in quarantine")),
        None => Ok(()),
    }
}

/// Rows of entities, as they are committed: in packs, and beside them.
pub fn rows_of(world: &World, chosen: impl Fn(&EntityKey, &str) -> bool) -> Vec<(EntityKey, String, Vec<u8>)> {
    world.bus.rows(&world.topics.state(), |rows| {
        let packed = rows.iter().filter(|((_, row_key), _)| key::pack_of(row_key).is_some()).flat_map(|(_, row)| {
            let pack = Pack::open(row).expect("a pack of this release");
            let rows = pack.entities().flat_map(|(entity, rows)| {
                let of = key::parse(entity).expect("an entity's key").0;
                rows.map(move |(name, row)| (of.clone(), name.to_owned(), row.to_vec())).collect::<Vec<_>>()
            });
            rows.collect::<Vec<_>>()
        });
        let beside = rows.iter().filter_map(|((_, row_key), row)| {
            let (of, name) = key::parse(row_key).filter(|_| key::pack_of(row_key).is_none())?;
            Some((of, name, row.clone()))
        });
        packed.chain(beside).filter(|(of, name, _)| chosen(of, name)).collect()
    })
}

fn commands(world: &World, target: &'static str) -> Vec<Rc<Command>> {
    let log = &world.logs.commands[usize::from(target != TARGETS[0])];
    log.all(&world.bus, &world.topics.commands(&target.into()))
}

fn decisions(world: &World) -> Vec<Rc<Decision>> {
    world.logs.decisions.all(&world.bus, &world.topics.decisions())
}

fn results(world: &World) -> Vec<Rc<ResultEvent>> {
    world.logs.results.all(&world.bus, &world.topics.results())
}

/// What was decided, commanded, called and answered of one account, for whoever looks for the fault.
pub fn history(world: &World, target: &'static str, account: &AccountId) -> String {
    let mut lines: Vec<(i64, String)> = Vec::new();
    for command in commands(world, target).iter().filter(|command| command.account == *account) {
        let line = format!(
            "command {}@{} by {} {:?} groups {:?} revoked {:?}",
            command.op,
            command.generation,
            command.cause.event,
            plain(&command.desired.attributes),
            command.desired.entitlements.groups,
            command.revoked
        );
        lines.push((command.issued.0, line));
    }
    for decision in decisions(world).iter().filter(|decision| decision.account.as_ref() == Some(account)) {
        lines.push((decision.at.0, format!("decision {:?} by {}", decision.kind, decision.cause)));
    }
    for result in results(world) {
        if result.account == *account {
            let line = format!("result {:?} {}@{} {:?}", result.outcome, result.op, result.generation, result.message);
            lines.push((result.at.0, line));
        }
    }
    let calls = world.targets[target].contents.lock().unwrap().log.clone();
    for call in calls.iter().filter(|call| call.account == *account) {
        let line = format!(
            "call {}@{} groups {:?} revoked {:?} lie {}",
            call.op, call.generation, call.groups, call.revoked, call.lie
        );
        lines.push((call.at.0, line));
    }
    let lane = world.bus.rows(&world.topics.lanes(&target.into()), |rows| {
        let row = rows.iter().find(|((_, key), _)| key == account.as_str().as_bytes())?.1;
        let Lane { seen, applied, work, checks, verified, .. } = envelope::open(row).ok()?;
        let work = match work {
            Work::Idle => "idle".to_owned(),
            Work::Waiting(pending) => format!("waits until {} with {}", pending.due.0, pending.op),
            Work::Running { pending, started, .. } => format!("runs {} since {}", pending.op, started.0),
            Work::Checking { started, .. } => format!("looks again since {}", started.0),
        };
        let about = verified.map(|command| command.generation);
        Some(format!("lane: {work}, seen {seen}, applied {applied}, looks at {checks:?} about {about:?}"))
    });
    lines.extend(lane.map(|lane| (i64::MAX, lane)));
    let (log, undone) = {
        let contents = world.targets[target].contents.lock().unwrap();
        (contents.undoings.clone(), contents.undone.contains(account))
    };
    lines.extend(
        log.into_iter().filter(|(_, of)| of == account).map(|(at, _)| (at.0, "UNDONE at the target".to_owned())),
    );
    lines.push((i64::MAX, format!("undone and not seen: {undone}")));
    lines.sort_by_key(|(at, _)| *at);
    let lines: Vec<String> = lines.into_iter().map(|(at, line)| format!("  {at} {line}")).collect();
    format!("now {}, account {account}:\n{}", world.now(), lines.join("\n"))
}

/// What an installation has come to, less what depends on when each step was taken.
pub struct Entities {
    /// By the identity's row, as text.
    identities: BTreeMap<String, String>,
    accounts: BTreeMap<(&'static str, AccountId), (bool, Account)>,
    commands: BTreeMap<(&'static str, AccountId), Vec<String>>,
}

pub fn entities(world: &World) -> Entities {
    let mut identities = BTreeMap::new();
    for (of, name, row) in rows_of(world, |of, _| matches!(of, EntityKey::Identity { .. })) {
        let text = match name.split_once('/') {
            None if name == key::HEAD => {
                let head: IdentityHead = envelope::open(&row).expect("an identity's head");
                format!("{} {:?} ended {} failing {:?}", head.kind, head.phase, head.ended.is_some(), head.failing)
            }
            Some(("record", _)) => {
                let record: IdentityRecord = envelope::open(&row).expect("an identity's record");
                format!("{:?} of {:?}", record.attributes, record.time)
            }
            Some(("account", _)) => {
                let row: AccountRow = envelope::open(&row).expect("an account's row");
                let (removal, last) = (std::mem::discriminant(&row.removal), row.last.map(|last| last.outcome));
                let state = (row.generation, row.state, row.desired, row.external_id.is_some(), last, row.dead);
                format!("{state:?} {removal:?} clock {}", row.clock.is_some())
            }
            _ => continue,
        };
        identities.insert(format!("{of} {name}"), text);
    }
    let (mut accounts, mut issued) = (BTreeMap::new(), BTreeMap::new());
    for target in TARGETS {
        let shown = world.targets[target].shown();
        accounts.extend(shown.into_iter().map(|(account, shown)| ((target, account), shown)));
        for command in commands(world, target) {
            let text = format!("{} {:?} revoked {:?}", command.op, command.desired, command.revoked);
            issued.entry((target, command.account.clone())).or_insert_with(Vec::new).push(text);
        }
    }
    Entities { identities, accounts, commands: issued }
}

impl Entities {
    pub fn difference(&self, other: &Self) -> Option<String> {
        fn first<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
            one: &BTreeMap<K, V>,
            other: &BTreeMap<K, V>,
        ) -> Option<String> {
            let keys = one.keys().chain(other.keys());
            let mut differ = keys.filter(|key| one.get(*key) != other.get(*key));
            differ.next().map(|key| format!("{key:?}: {:?} and {:?}", one.get(key), other.get(key)))
        }
        first(&self.accounts, &other.accounts)
            .or_else(|| first(&self.commands, &other.commands))
            .or_else(|| first(&self.identities, &other.identities))
    }
}
