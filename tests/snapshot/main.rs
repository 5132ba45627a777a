//! What a person gets of the built binary: help, errors, what becomes of the quickstart and of bad input.
//!
//! A changed snapshot is a changed interface: look at it, then accept it with `INSTA_UPDATE=always cargo test --test snapshot`.

#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod bad_input;
mod command;
mod database;
mod error;
mod help;
mod quickstart;
