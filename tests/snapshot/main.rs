//! What a person reads: the command line's help and its errors, as the built binary prints them.
//!
//! A changed snapshot is a changed interface: look at it, then accept it with `INSTA_UPDATE=always cargo test --test snapshot`.

#![allow(clippy::unwrap_used)]

mod command;
mod error;
mod help;
