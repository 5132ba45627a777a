//! Contract suites: one list of tests a trait, run against every implementation.

// A test ends where something can't go on.
#![allow(clippy::unwrap_used)]

mod bus;
mod connector;
mod killed;
mod registry;
mod store;
