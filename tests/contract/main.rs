//! Contract suites: one list of tests a trait, run against every implementation.

mod bus;
mod bus_kafka;
