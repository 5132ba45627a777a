//! What an operator sees and does, on the built binary: `dev` on the embedded bus with targets in SQLite, no server needed.

#![allow(clippy::unwrap_used)]

mod dashboard;
mod dead_letters;
mod deadline;
mod dev;
mod direct;
mod guard;
mod health;
mod house;
mod logs;
mod quarantine;
mod set_aside;
mod shop;
mod source_dead_letters;
