//! Lanes whose rows can't be read, made again from the commands that are still in the log.
//!
//! Such a row may hold a removal that is on its way, and nobody would carry it out: its result would never come, and all that
//! is left is the alert at its deadline. Commands are kept for 30 days, unless somebody chose less.

use super::lanes::WorkerError;
use crate::bus::Bus;
use crate::codec::public::PublicCodec;
use crate::lane::Lane;
use crate::model::{AccountId, Command, TargetName, Timestamp};
use crate::runtime::RestoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Records of one poll, and how long it waits.
const CHUNK: usize = 1_000;
const WAIT: Duration = Duration::from_millis(500);
/// The log is there, so it has to come.
const STALLED: Duration = Duration::from_secs(60);

/// Where the commands are: up to the offset at which the worker goes on by itself.
pub(super) struct Log<'a> {
    pub(super) bus: &'a dyn Bus,
    pub(super) codec: &'a PublicCodec,
    pub(super) target: &'a TargetName,
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) until: i64,
}

/// The lanes of `accounts`, of those whose commands are there. Walks through the partition once, however many there are.
pub(super) fn lanes(
    log: &Log<'_>,
    accounts: &BTreeSet<AccountId>,
    now: Timestamp,
    call_timeout: Duration,
) -> Result<BTreeMap<AccountId, Lane>, WorkerError> {
    let &Log { bus, topic, partition, .. } = log;
    let ends = bus.ends(topic, partition)?;
    let until = log.until.min(ends.end);
    let mut found: BTreeMap<AccountId, Lane> = BTreeMap::new();
    let mut reader = bus.reader()?;
    reader.seek(topic, partition, ends.start)?;
    let (mut at, mut heard) = (ends.start, Instant::now());
    while at < until {
        for record in reader.poll(CHUNK, WAIT)? {
            let wanted = record.key.as_deref().and_then(|key| str::from_utf8(key).ok()).map(AccountId::from);
            if record.offset >= until || wanted.is_none_or(|account| !accounts.contains(&account)) {
                continue;
            }
            match log.codec.decode::<Command>(record.value.as_deref().unwrap_or_default()) {
                Ok(command) if command.target == *log.target && accounts.contains(&command.account) => {
                    found.entry(command.account.clone()).or_default().accept(Box::new(command), now);
                }
                Err(error) if error.is_transient() => {
                    return Err(WorkerError::Unavailable { topic: topic.to_owned(), error });
                }
                // It was refused when it came in.
                Ok(_) | Err(_) => {}
            }
        }
        let position = reader.position(topic, partition)?;
        if position > at {
            (at, heard) = (position, Instant::now());
        } else if heard.elapsed() > STALLED {
            return Err(RestoreError::Stalled { topic: topic.to_owned(), partition, at, end: until }.into());
        }
    }
    found.values_mut().for_each(|lane| lane.look_first(now, call_timeout));
    Ok(found)
}
