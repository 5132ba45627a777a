//! The processor: takes records off the bus, lets the entities step, and commits what came of it.
//!
//! `Processor::turn` is the whole loop body: poll a batch, step, commit one transaction, write the local stores. It asks
//! no clock but the one it was given, and has no thread but those that replay changelogs (in a simulation none), so the
//! simulator drives the very same code. What a step decided is carried out here and nowhere else; nothing here knows what
//! an identity is.

mod backlog;
mod batch;
mod bundles;
mod direct;
mod figures;
mod fit;
mod intake;
mod lag;
mod outputs;
mod pace;
mod partition;
mod place;
mod processor;
mod quarantine;
mod restore;
mod restorer;
#[cfg(test)]
mod tests;
mod work;

pub use bundles::{Announcement, BundleStore};
pub use intake::Codecs;
pub use lag::{Lag, Positions};
pub use outputs::Publisher;
pub use processor::{Processor, ProcessorError, ProcessorSettings, SLICE, Turn};
pub use quarantine::{Quarantined, Why, quarantine_id};
pub use restore::{RestoreError, Restored, STALE_AFTER, restore};
pub use restorer::{Progress, RestoreSettings};

use crate::bus::embedded::Clock;
use std::sync::Arc;

/// Where the time comes from: the wall clock, or the simulator's.
pub type Now = Arc<dyn Clock>;
