//! Against real servers: what the parts do together.

// A test ends where something can't go on.
#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod keycloak;
