//! Index: who holds one correlation value.
//!
//! Many may hold it; two identities on one value is a dispute, for the asker to see. A record that asked is answered at once
//! and again whenever the holders change, until it says `Forget`.

use super::step::{Step, StepError};
use crate::model::{Address, Body, EntityKey};
use serde::{Deserialize, Serialize};

/// Most records that wait on one value: past this a record is answered once and not remembered. A value that thousands of
/// records share is no correlation key.
const MAX_WAITING: usize = 400;

#[derive(Serialize, Deserialize)]
struct Waiting {
    asker: Address,
    epoch: u64,
}

pub(super) fn step(step: &mut Step, attribute: &str, value: &str, body: Body) -> Result<(), StepError> {
    match body {
        Body::Hold { holder } => change(step, attribute, value, holder, true),
        Body::Release { holder } => change(step, attribute, value, holder, false),
        Body::Find { asker, epoch } => {
            let waiting = step.scan::<Waiting>("w/", MAX_WAITING)?.len();
            if waiting < MAX_WAITING {
                step.put(row_of("w/", &asker), &Waiting { asker: asker.clone(), epoch });
            }
            let holders = holders(step)?;
            answer(step, attribute, value, Waiting { asker, epoch }, holders);
            Ok(())
        }
        Body::Forget { asker } => {
            step.delete(row_of("w/", &asker));
            Ok(())
        }
        _ => Err(StepError::Misdirected { entity: "index", message: "anything but hold, release, find or forget" }),
    }
}

fn change(step: &mut Step, attribute: &str, value: &str, holder: Address, holds: bool) -> Result<(), StepError> {
    let mut now = holders(step)?;
    if now.contains(&holder) == holds {
        return Ok(());
    }
    if holds {
        step.put(row_of("h/", &holder), &holder);
        now.push(holder);
        now.sort();
    } else {
        step.delete(row_of("h/", &holder));
        now.retain(|other| *other != holder);
    }
    for (_, waiting) in step.scan::<Waiting>("w/", MAX_WAITING)? {
        answer(step, attribute, value, waiting, now.clone());
    }
    Ok(())
}

fn holders(step: &Step) -> Result<Vec<Address>, StepError> {
    let mut holders: Vec<Address> =
        step.scan::<Address>("h/", MAX_WAITING)?.into_iter().map(|(_, holder)| holder).collect();
    holders.sort();
    Ok(holders)
}

fn answer(step: &mut Step, attribute: &str, value: &str, to: Waiting, holders: Vec<Address>) {
    let (attribute, value) = (attribute.to_owned(), value.to_owned());
    step.send(to.asker, Body::Holders { attribute, value, epoch: to.epoch, holders });
}

fn row_of(prefix: &str, address: &Address) -> String {
    match &address.entity {
        EntityKey::Record { source, record, .. } => format!("{prefix}{source}/{record}@{}", address.routing_key),
        EntityKey::Identity { identity, .. } => format!("{prefix}{identity}@{}", address.routing_key),
        other => format!("{prefix}{other}"),
    }
}
