//! Against real servers: what the parts do together.

// A test ends where something can't go on.
#![allow(clippy::unwrap_used)]

mod keycloak;
