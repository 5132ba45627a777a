//! Against real servers: what the parts do together.

// A test ends where something can't go on, and prints how far it has come.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod accounts;
mod bad_input;
mod keycloak;
mod load;
mod quarantine;
mod rig;
mod shared;
mod whole_path;
mod world;
