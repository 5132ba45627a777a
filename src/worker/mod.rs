//! Workers: lanes on the bus, and calls to a target.
//!
//! `LaneLoop` (stepwise, no IO but the bus and its store) takes commands into lanes, says which calls to make, and commits
//! results, lanes and offsets in one transaction; `call` makes one call and reads it back; `shell` puts both on threads.
//! No transaction is open across a call: a call starts only after the row that says so is committed.

mod agenda;
mod call;
mod lanes;
mod lost;
mod shell;
#[cfg(test)]
mod tests;

pub use call::{Newest, Patience, make};
pub use lanes::{CallId, Completion, LaneLoop, LaneSettings, StartedCall, WorkerError};
pub use shell::{Shell, ShellError};
