//! Against a Kafka as a security team wants it: TLS, SASL, mutual TLS, tokens of a real Keycloak, and an authorizer that forbids
//! what nobody allowed.

// A test ends where something can't go on, and prints how far it has come.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod acl;
mod cluster;
mod grants;
mod house;
mod keycloak;
mod path;
mod refused;
mod tokens;
