//! The topics of Lockstep, by name and by what their correctness needs.

use super::id::TargetName;

/// Names of all topics under one prefix (`lockstep.` by default).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    pub prefix: String,
}

impl TopicNames {
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    fn named(&self, name: &str) -> String {
        [&self.prefix, name].concat()
    }

    pub fn inbox(&self) -> String {
        self.named("inbox")
    }

    /// Changelog of the inbox's entities: partition q belongs to partition q of the inbox.
    pub fn state(&self) -> String {
        self.named("state")
    }

    pub fn results(&self) -> String {
        self.named("results")
    }

    pub fn operations(&self) -> String {
        self.named("operations")
    }

    /// Rule bundles by hash.
    pub fn bundles(&self) -> String {
        self.named("bundles")
    }

    pub fn decisions(&self) -> String {
        self.named("decisions")
    }

    pub fn alerts(&self) -> String {
        self.named("alerts")
    }

    pub fn source_dead_letters(&self) -> String {
        self.named("source-dead-letters")
    }

    /// Where pollers of sources stand, by source.
    pub fn cursors(&self) -> String {
        self.named("cursors")
    }

    /// Tells the brokers' time: the broker stamps each record.
    pub fn clock(&self) -> String {
        self.named("clock")
    }

    pub fn commands(&self, target: &TargetName) -> String {
        [&self.prefix, "commands.", target.as_str()].concat()
    }

    /// Changelog of a target's lanes: partition p belongs to partition p of its commands.
    pub fn lanes(&self, target: &TargetName) -> String {
        self.named(&format!("lanes.{target}"))
    }

    pub fn dead_letters(&self, target: &TargetName) -> String {
        self.named(&format!("dead-letters.{target}"))
    }
}
