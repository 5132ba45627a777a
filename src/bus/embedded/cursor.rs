//! Reads a set of partitions in turn: what sessions and readers of the embedded bus have in common.
//!
//! What there is to read is looked up under the bus's lock (`spans`); the reading itself takes none.

use super::super::{BatchLimit, BusError, Incoming};
use super::log::Log;
use super::map::Map;
use super::record::{self, Place};
use std::ops::ControlFlow;

#[derive(Default)]
pub(super) struct Cursor {
    pub(super) partitions: Vec<Followed>,
    /// Whose turn it is.
    turn: usize,
}

pub(super) struct Followed {
    pub(super) topic: String,
    pub(super) place: Place,
    /// The next offset to read.
    pub(super) next: i64,
    /// Nothing is read of it for now.
    pub(super) paused: bool,
}

/// Offsets that may be read: all below `to` are committed.
pub(super) struct Span {
    at: usize,
    from: i64,
    to: i64,
}

/// A batch as it is filled.
struct Batch {
    records: Vec<Incoming>,
    limit: BatchLimit,
    bytes: usize,
    full: bool,
}

impl Cursor {
    /// What is ahead, beginning with the partition whose turn it is.
    pub(super) fn spans(&self, log: &Log) -> Result<Vec<Span>, BusError> {
        let mut spans = Vec::new();
        for step in 0..self.partitions.len() {
            let at = (self.turn + step) % self.partitions.len();
            let followed = &self.partitions[at];
            let (_, state) = log.partition(&followed.topic, followed.place.partition)?;
            if followed.next < state.end && !followed.paused {
                spans.push(Span { at, from: followed.next.max(state.start), to: state.end });
            }
        }
        Ok(spans)
    }

    /// Fills a batch with a fair share of each span, then with what room is left. At least one record, if there is any,
    /// whatever its size.
    pub(super) fn read(
        &mut self,
        map: &dyn Map,
        mut spans: Vec<Span>,
        limit: BatchLimit,
    ) -> Result<Vec<Incoming>, BusError> {
        let mut batch = Batch { records: Vec::new(), limit, bytes: 0, full: false };
        while !spans.is_empty() && !batch.full {
            let share = limit.records.saturating_sub(batch.records.len()).div_ceil(spans.len()).max(1);
            for span in &mut spans {
                self.read_span(map, span, share, &mut batch)?;
                if batch.full {
                    break;
                }
            }
            spans.retain(|span| span.from < span.to);
        }
        Ok(batch.records)
    }

    fn read_span(&mut self, map: &dyn Map, span: &mut Span, share: usize, batch: &mut Batch) -> Result<(), BusError> {
        let followed = &mut self.partitions[span.at];
        let (from, to) = (record::record_key(followed.place, span.from), record::record_key(followed.place, span.to));
        let room = batch.records.len() + share;
        let mut next = span.to;
        map.scan(&from, &to, &mut |key, value| {
            let offset = record::offset_of(key)?;
            if batch.records.len() == room || !batch.fits(value.len()) {
                next = offset;
                return Ok(ControlFlow::Break(()));
            }
            let found = record::decode(value)?;
            batch.bytes += value.len();
            batch.records.push(Incoming {
                topic: followed.topic.clone(),
                partition: followed.place.partition,
                offset,
                timestamp: found.timestamp,
                key: found.key,
                value: found.value,
                headers: found.headers,
            });
            Ok(ControlFlow::Continue(()))
        })?;
        (followed.next, span.from) = (next, next);
        self.turn = (span.at + 1) % self.partitions.len();
        Ok(())
    }
}

impl Batch {
    /// Whether a record of `bytes` may go in; the first always does.
    fn fits(&mut self, bytes: usize) -> bool {
        let some = !self.records.is_empty();
        self.full = some && (self.records.len() >= self.limit.records || self.bytes + bytes > self.limit.bytes);
        !self.full
    }
}
