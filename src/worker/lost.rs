//! Lanes whose rows can't be read, made again from the commands that are still in the log.
//!
//! Such a row may hold a removal that is on its way, and nobody would carry it out: its result would never come, and all that
//! is left is the alert at its deadline. The commands are kept for a week at least, so the newest is there.

use super::lanes::WorkerError;
use crate::bus::Bus;
use crate::codec::public::PublicCodec;
use crate::model::{AccountId, Command};
use crate::runtime::RestoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Records of one poll, and how long it waits.
const CHUNK: usize = 1_000;
const WAIT: Duration = Duration::from_millis(500);
/// The log is there, so it has to come.
const STALLED: Duration = Duration::from_secs(60);

/// The commands of `accounts` before `until`, oldest first. Walks through the partition once, however many there are.
pub(super) fn commands(
    bus: &dyn Bus,
    codec: &PublicCodec,
    (topic, partition): (&str, u32),
    until: i64,
    accounts: &BTreeSet<AccountId>,
) -> Result<BTreeMap<AccountId, Vec<Command>>, WorkerError> {
    let ends = bus.ends(topic, partition)?;
    let until = until.min(ends.end);
    let mut found: BTreeMap<AccountId, Vec<Command>> = BTreeMap::new();
    let mut reader = bus.reader()?;
    reader.seek(topic, partition, ends.start)?;
    let mut heard = Instant::now();
    let mut at = ends.start;
    while at < until {
        for record in reader.poll(CHUNK, WAIT)? {
            let wanted = record.key.as_deref().and_then(|key| str::from_utf8(key).ok()).map(AccountId::from);
            let Some(account) = wanted.filter(|account| record.offset < until && accounts.contains(account)) else {
                continue;
            };
            match codec.decode::<Command>(record.value.as_deref().unwrap_or_default()) {
                Ok(command) => found.entry(account).or_default().push(command),
                Err(error) if error.is_transient() => {
                    return Err(WorkerError::Unavailable { topic: topic.to_owned(), error });
                }
                // It was refused when it came in.
                Err(_) => {}
            }
        }
        let position = reader.position(topic, partition)?;
        if position > at {
            (at, heard) = (position, Instant::now());
        } else if heard.elapsed() > STALLED {
            return Err(RestoreError::Stalled { topic: topic.to_owned(), partition, at, end: until }.into());
        }
    }
    Ok(found)
}
