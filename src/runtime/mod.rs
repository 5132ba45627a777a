//! The processor: takes records off the bus, lets the entities step, and commits what came of it.
//!
//! `Processor::turn` is the whole loop body: poll a batch, step, commit one transaction, write the local stores. It owns no
//! thread and asks no clock but the one it was given, so the simulator drives the very same code. What a step decided is
//! carried out here and nowhere else; nothing here knows what an identity is.

mod batch;
mod bundles;
mod figures;
mod fit;
mod intake;
mod lag;
mod outputs;
mod partition;
mod processor;
mod quarantine;
mod restore;

pub use bundles::BundleStore;
pub use intake::Codecs;
pub use lag::{Lag, Positions};
pub use outputs::Publisher;
pub use processor::{Processor, ProcessorError, ProcessorSettings, Turn};
pub use quarantine::{Quarantined, Why, quarantine_id};
pub use restore::{RestoreError, STALE_AFTER, restore};

use crate::bus::embedded::Clock;
use std::sync::Arc;

/// Where the time comes from: the wall clock, or the simulator's.
pub type Now = Arc<dyn Clock>;
