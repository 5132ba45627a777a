//! Contract suites: one list of tests a trait, run against every implementation.

// A test ends where something can't go on.
#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod bus;
mod connector;
mod killed;
mod registry;
mod store;
