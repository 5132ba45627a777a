//! Brings a local store up to its changelog.
//!
//! The store's position is where the replay begins; its end is what a read_uncommitted client sees as the end, so that
//! nothing that is being committed right now is missed. A store that can't be trusted is rebuilt from the beginning.

use super::batch::timer_of;
use crate::bus::{Bus, BusError};
use crate::model::Timestamp;
use crate::store::{Store, StoreError, Write};
use std::time::{Duration, Instant};

/// A store that was last current longer ago than this may have missed tombstones that compaction has removed since: half of
/// the `delete.retention.ms` (24 h) of our changelogs.
pub const STALE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// Records applied to the store at once.
const CHUNK: usize = 2_000;
/// How long nothing may come although the end is not reached: transactions that hang are aborted by the broker within 10 s.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("changelog {topic}-{partition}: nothing came for {} s at offset {at} of {end}", STALLED.as_secs())]
    Stalled { topic: String, partition: u32, at: i64, end: i64 },
}

/// Replays what the store lacks; gives the changelog's end. `progress` is told how many records remain.
pub fn restore(
    bus: &dyn Bus,
    topic: &str,
    partition: u32,
    store: &mut dyn Store,
    now: Timestamp,
    mut progress: impl FnMut(i64),
) -> Result<i64, RestoreError> {
    let ends = bus.ends(topic, partition)?;
    let from = match trusted(store, ends.start, ends.end, now)? {
        Some(position) => position,
        None => {
            store.clear()?;
            ends.start
        }
    };
    let mut at = from;
    if at < ends.end {
        let mut reader = bus.reader()?;
        reader.seek(topic, partition, at)?;
        let mut heard = Instant::now();
        while at < ends.end {
            progress(ends.end - at);
            let records = reader.poll(CHUNK, Duration::from_millis(200))?;
            let writes: Vec<Write> = records
                .into_iter()
                .filter_map(|record| {
                    let key = record.key?;
                    let timer = timer_of(&key, record.value.as_deref());
                    Some(Write { key, value: record.value, timer })
                })
                .collect();
            let position = reader.position(topic, partition)?;
            if position > at || !writes.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > STALLED {
                return Err(RestoreError::Stalled { topic: topic.to_owned(), partition, at, end: ends.end });
            }
            at = position;
            store.apply(&writes, at)?;
        }
    }
    progress(0);
    if store.position()?.is_none() {
        store.apply(&[], ends.end)?;
    }
    store.touch(now)?;
    Ok(ends.end)
}

/// The store's position, if replaying from there gives the whole truth.
fn trusted(store: &dyn Store, start: i64, end: i64, now: Timestamp) -> Result<Option<i64>, StoreError> {
    let (Some(position), Some(written)) = (store.position()?, store.written_at()?) else { return Ok(None) };
    let fresh = now.since(written) < STALE_AFTER;
    Ok((fresh && (start..=end).contains(&position)).then_some(position))
}
