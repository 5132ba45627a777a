//! What a batch asks of each partition, done by as many threads as the processor has: partitions share nothing.

use super::outputs::{Counted, Publisher};
use super::partition::{Emitted, Partition};
use super::processor::{ProcessorError, ProcessorSettings};
use crate::bus::Outgoing;
use crate::model::Message;
use crate::rules::Bundle;
use rayon::ThreadPool;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Timers fired for one partition in one turn, and identities swept: a bounded share, behind live traffic.
const TIMERS_A_TURN: usize = 200;
/// Steps that they may take, waiting messages of entities that they release included.
const STEPS_OF_TIMERS: usize = 1_000;
const SWEPT_A_TURN: usize = 50;
/// Fewer records than this are done sooner than another thread is awake.
const WORTH_SHARING: usize = 64;

/// The threads.
pub(super) struct Hands(Option<ThreadPool>);

impl Hands {
    /// One: that of the caller.
    pub fn new(threads: usize) -> Result<Self, ProcessorError> {
        if threads <= 1 {
            return Ok(Self(None));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("step {n}")).build();
        pool.map(|pool| Self(Some(pool))).map_err(|error| ProcessorError::Threads(error.to_string()))
    }

    /// Of each item, in their order.
    pub fn each<T: Send, R: Send>(&self, items: Vec<T>, records: usize, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
        match &self.0 {
            Some(pool) if records >= WORTH_SHARING => pool.install(|| items.into_par_iter().map(work).collect()),
            _ => items.into_iter().map(work).collect(),
        }
    }
}

/// What a partition is given, in order.
pub(super) enum Given {
    Message(Box<Message>),
    Switch(Arc<Bundle>),
    /// To switch to rules that this release can't use.
    Refuse(String),
}

/// What a partition has done so far in this batch.
#[derive(Default)]
pub(super) struct Stepped {
    /// Not published yet.
    pub emitted: Emitted,
    pub counted: Vec<Counted>,
    pub steps: BTreeMap<(&'static str, &'static str), u64>,
    /// There is more to do at once.
    pub more: bool,
}

/// Behind what was read: what is due and the sweep, which decides by the clock as well; unless both have to wait.
pub(super) fn end(partition: &mut Partition, timers: bool, stepped: &mut Stepped) -> Result<(), ProcessorError> {
    if !timers {
        stepped.more = partition.is_sweeping() || partition.is_due()?;
        return Ok(());
    }
    stepped.more = partition.fire_timers(TIMERS_A_TURN, STEPS_OF_TIMERS, &mut stepped.emitted)?;
    partition.sweep(SWEPT_A_TURN, &mut stepped.emitted)?;
    stepped.more |= partition.is_sweeping();
    Ok(())
}

/// What was read for it, or what other partitions have for it.
pub(super) fn go_on(partition: &mut Partition, given: Vec<Given>, stepped: &mut Stepped) -> Result<(), ProcessorError> {
    for one in given {
        match one {
            Given::Message(message) => partition.deliver(*message, &mut stepped.emitted)?,
            Given::Switch(bundle) => partition.switch(bundle)?,
            Given::Refuse(hash) => partition.refuse(&hash),
        }
    }
    Ok(())
}

/// What is the same for every partition.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub publisher: &'a Publisher,
    pub bundle: &'a Bundle,
    pub settings: &'a ProcessorSettings,
}

impl Place<'_> {
    /// Encodes what a partition has put out since it was last asked.
    pub fn publish(self, stepped: &mut Stepped) -> Result<Vec<Outgoing>, ProcessorError> {
        let emitted = std::mem::take(&mut stepped.emitted);
        for step in &emitted.steps {
            *stepped.steps.entry(*step).or_default() += 1;
        }
        let mut outputs = Vec::with_capacity(emitted.emissions.len());
        self.publisher.publish(self.bundle, self.settings, emitted, &mut outputs, &mut stepped.counted)?;
        Ok(outputs)
    }
}
