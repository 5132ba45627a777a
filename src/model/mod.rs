//! Plain data that every room shares: ids, attribute values, events, messages between entities, commands and results.
//!
//! Nothing here does IO, asks for the time or draws a random number. Two rules hold for every type that is stored:
//! it is encoded by `postcard` (so no `flatten`, `tag`, `untagged` or skipped fields), and new variants and fields go at the
//! end, with the version of its envelope (`model::envelope`) raised.

pub mod command;
pub mod envelope;
pub mod event;
pub mod id;
pub mod message;
pub mod operation;
pub mod report;
pub mod time;
pub mod topic;
pub mod value;
pub mod wire;

pub use command::{Command, Deprovision, Desired, Entitlements, Op, Universe};
pub use event::{Cause, Origin, RecordChange, SourceEvent};
pub use id::{
    AccountId, BundleHash, EventId, Generation, IdentityId, Intent, PartitionId, RecordId, RoutingKey, SourceName,
    TargetName, TenantId,
};
pub use message::{Address, Body, EntityKey, InboxRecord, Message, PermitAnswer, RouteVerdict, seal_message};
pub use operation::{Action, Operation};
pub use report::{Alert, AlertKind, AlertState, DeadLetter, Decision, DecisionKind, ErrorClass, Outcome, ResultEvent};
pub use time::{CLOCKS_APART, Timestamp};
pub use value::{Attributes, Value};
pub use wire::{Headers, Incoming, Outgoing};
