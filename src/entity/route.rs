//! Route: by which route a record id comes in, for sources with `route_by`.
//!
//! A record whose routing attribute changed against the source's promise turns up in another partition. Here both meet:
//! the record moves, or, where it anchors an identity, the newcomer is disputed. It is never doubled.

use super::key::HEAD;
use super::step::{Step, StepError};
use crate::model::{Address, Body, RouteVerdict};

pub(super) fn step(step: &mut Step, body: Body) -> Result<(), StepError> {
    let Body::Claim { record, movable } = body else {
        return Err(StepError::Misdirected { entity: "route", message: "anything but a claim" });
    };
    let verdict = match step.get::<Address>(HEAD)? {
        Some(holder) if holder != record && !movable => RouteVerdict::Disputed { holder: holder.routing_key },
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
    step.send(record, Body::Routed { verdict });
    Ok(())
}
