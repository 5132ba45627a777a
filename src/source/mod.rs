//! Systems of record that don't write to a topic by themselves: a poller fetches their changes and writes them as events.
//!
//! A poller knows nothing of rules, identities or targets; what it writes is decoded by intake like any other source's events.
//! Its events and where it stands are one atomic append, so a crash neither loses an event nor forgets one that was written.

pub mod keycloak;
