//! Route: by which route a record id comes in, for sources with `route_by`.
//!
//! A record whose routing attribute changed against the source's promise turns up in another partition. Here both meet:
//! the record moves, or, where it anchors an identity, the newcomer is disputed. It is never doubled.
//!
//! A removal often says no more than the record's id (a directory's delete event, a tombstone): it comes here, and goes on to
//! where the record is. One that overtakes the record's first event on its way waits for it.

use super::key::HEAD;
use super::step::{Step, StepError};
use crate::model::{Address, Body, RecordChange, RouteVerdict, SourceEvent};
use std::sync::Arc;

/// The removal that waits.
const REMOVAL: &str = "removal";
/// Who is disputed; the newest one, for which the others have given way.
const CONTENDER: &str = "contender";

pub(super) fn step(step: &mut Step, body: Body) -> Result<(), StepError> {
    match body {
        Body::Claim { record, movable } => claim(step, record, movable),
        Body::Source(event) if event.change == RecordChange::Remove => remove(step, Arc::unwrap_or_clone(event)),
        _ => Err(StepError::Misdirected { entity: "route", message: "anything but a claim or a removal" }),
    }
}

fn remove(step: &mut Step, event: SourceEvent) -> Result<(), StepError> {
    match step.get::<Address>(HEAD)? {
        Some(holder) => forward(step, holder, event),
        None => step.put(REMOVAL, &event),
    }
    Ok(())
}

fn forward(step: &mut Step, holder: Address, mut event: SourceEvent) {
    event.routing_key = holder.routing_key.clone();
    step.send(holder, Body::Source(event.into()));
}

fn claim(step: &mut Step, record: Address, movable: bool) -> Result<(), StepError> {
    let first = step.get::<Address>(HEAD)?.is_none();
    let verdict = match step.get::<Address>(HEAD)? {
        Some(holder) if holder != record && !movable => {
            let former = step.get::<Address>(CONTENDER)?;
            if former.as_ref() != Some(&record) {
                step.put(CONTENDER, &record);
            }
            if let Some(former) = former.filter(|former| *former != record) {
                let verdict = RouteVerdict::MovedTo(record.routing_key.clone());
                step.send(former, Body::Routed { verdict });
            }
            RouteVerdict::Disputed { holder: holder.routing_key }
        }
        Some(holder) if holder != record => {
            step.send(holder, Body::Routed { verdict: RouteVerdict::MovedTo(record.routing_key.clone()) });
            step.put(HEAD, &record);
            RouteVerdict::Granted
        }
        Some(_) => RouteVerdict::Granted,
        None => {
            step.put(HEAD, &record);
            RouteVerdict::Granted
        }
    };
    step.send(record.clone(), Body::Routed { verdict });
    if first && let Some(removal) = step.get::<SourceEvent>(REMOVAL)? {
        step.delete(REMOVAL);
        forward(step, record, removal);
    }
    Ok(())
}
