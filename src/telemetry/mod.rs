//! What Lockstep shows of itself: metrics (every name in `metrics`), logs (`log`) and health (`health`).
//!
//! Nothing here decides anything, and no attribute value gets in: labels are names from the config, classes and counts.

pub mod health;
pub mod log;
pub mod metrics;

pub use health::{Condition, Health, Heartbeat};
pub use metrics::Metrics;
