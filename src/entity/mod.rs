//! The entities: Record, Route, Index, Identity and Guard, as pure step functions.
//!
//! `step(rows, rules, event) -> Transition`. Nothing here does IO, asks for the time or draws a random number: the time comes
//! stamped on the event, everything an entity knows is in its rows, and everything it wants done is an effect, collected in
//! order and carried out by the runtime in one transaction with the rows. So a step can be printed, compared and replayed.
//!
//! Data passes through like this: a source event reaches its Record; the Record tells its Identity (an anchor's record
//! mints it, another finds it through the Index); the Identity evaluates the rules and emits commands, after the Guard's
//! permit where access is removed; results come back to the Identity.

mod account;
mod evaluate;
mod guard;
mod identity;
mod index;
pub mod key;
mod leaver;
pub mod pack;
mod quiet;
mod record;
mod route;
mod step;

pub use account::{AccountRow, AccountState, Clock, LastResult, Removal};
pub use guard::{GuardHead, Held};
pub use identity::{IdentityHead, IdentityRecord};
pub use quiet::Quiet;
pub use record::{Link, RecordHead, Route};
pub use step::{Effect, Emission, Rows, Stamped, StepError, Transition};

use crate::model::{Address, EntityKey};
use crate::rules::Bundle;
use step::Step;

/// Most effects that one step emits: a transaction stays short, whatever sets it off. What is left over a step sends itself as a
/// Continue, through the inbox and so behind what waits there.
pub const MAX_EFFECTS: usize = 500;

/// What an entity makes of one event.
pub fn step(to: &Address, rows: &dyn Rows, rules: &Bundle, event: Stamped) -> Result<Transition, StepError> {
    let Stamped { now, body, cause } = event;
    let mut step = Step::new(rows, rules, now, cause);
    match &to.entity {
        EntityKey::Record { tenant, source, record, .. } => {
            record::step(&mut step, &to.routing_key, tenant, source, record, body)?;
        }
        EntityKey::Route { .. } => route::step(&mut step, body)?,
        EntityKey::Index { attribute, value, .. } => index::step(&mut step, attribute, value, body)?,
        EntityKey::Identity { tenant, identity } => {
            identity::step(&mut step, &to.routing_key, tenant, identity, body)?;
        }
        EntityKey::Guard { tenant } => guard::step(&mut step, to, tenant, body)?,
    }
    let transition = step.finish();
    assert!(
        transition.effects.len() <= MAX_EFFECTS,
        "a step of {} has {} effects: what is over {MAX_EFFECTS} belongs into a Continue",
        to.entity,
        transition.effects.len()
    );
    Ok(transition)
}

#[cfg(test)]
mod tests;
