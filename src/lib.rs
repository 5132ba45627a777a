//! Lockstep: identity state kept in lockstep with its sources of truth.
//!
//! The rooms of the house, in order; a room may use those above it and no other (`tests/tidy` checks it).

pub mod model;

pub mod rules;

pub mod entity;

pub mod lane;

pub mod config;

pub mod telemetry;

pub mod codec;

pub mod store;

pub mod bus;

pub mod runtime;

pub mod connector;

pub mod source;

pub mod worker;

pub mod api;

pub mod console;

pub mod cli;
