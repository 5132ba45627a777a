//! Bytes to model and back: the public topics, sources' events, and the schema registry that both may use.
//!
//! - `public` is what Lockstep writes and reads on its own topics; `document` is the shape of it, `schemas/` its Avro.
//! - `source` is what comes from users' topics: mapped, typed, routed, or rejected with a reason.
//! - `registry` is the only part that talks to a network. No part keeps state beyond bounded caches of schemas.
//!
//! No error here holds a value of an attribute, and none quotes an error of a decoder that might: only names, types, sizes.

pub mod avro;
pub mod cloudevents;
mod document;
pub mod public;
pub mod registry;
pub mod schemas;
pub mod source;
