//! HTTP: events in, the read model's queries out, operations on to the bus. Also `/metrics`, `/healthz` and `/readyz`.
//!
//! The api changes nothing by itself: an event goes to its source's topic and an operator's wish to `operations`, and both
//! are handled like everything else on the bus. What it shows is a copy of what is on the topics (`model`). Everything but
//! health and metrics needs the token (`token`). It listens on loopback unless the config says otherwise.

mod token;

pub use token::{Token, TokenError};
