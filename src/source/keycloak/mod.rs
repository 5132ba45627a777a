//! Keycloak: admin events of a realm become events of users on the source's topic, each with the whole user and their groups.
//!
//! What an event holds: `{ id, time, type, order, user }`. `id` is the admin event's, `time` its time in ms, `type` is
//! `user.upserted` or `user.deleted`, and `user` what the admin API shows (id, username, firstName, lastName, email, enabled,
//! attributes as lists) with `groups`, the names of the groups the user is directly in. Key = the user's id.
//!
//! Admin events carry no sequence, tie within a millisecond, and hold only what their caller sent. So an event is merely the
//! sign that a user changed: the user is read after it, whole. What is read is newer than the event, and may hold later
//! changes too, so `order` is not the event's time but counts what this poller writes: the poller's clock in ms, or one more
//! than the last, whichever is greater. It is kept in the cursor, in the same append as the events, and so rises through
//! restarts, other machines and clocks set back. A user who is gone when read is passed over: the delete follows.
//!
//! A look begins `overlap` before the newest event known, for events are committed out of order; those seen are dropped by id
//! (and if forgotten come again, which changes nothing: the content is the same). A group that is renamed or deleted, or
//! changed through SCIM, concerns users whom the event doesn't name: then all users are read again, as at the first start.
//!
//! Events that are not there make a full read, too: when their keeping was switched off for a while, or when they may have expired while
//! nobody looked.
//!
//! Not seen: what users change themselves (account console, registration) until an admin event or the next full read, and
//! deletes that Keycloak had expired before the poller looked.

mod client;
mod cursor;
mod event;

pub use client::{Access, KeycloakError, Login};
pub use cursor::Cursor;
pub use event::{AdminEvent, Change};

use crate::bus::embedded::Clock;
use crate::bus::{Bus, BusError, Outgoing};
use crate::codec::cloudevents::{CONTENT_TYPE, JSON};
use crate::lane::RetryPolicy;
use crate::model::{SourceName, Timestamp};
use client::Client;
use cursor::Seen;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Admin events of one page, and events of one append: with a user of some KiB each a record batch stays below 1 MiB.
const PAGE: usize = 100;
/// Users read at once: two calls each, and a Keycloak that serves logins is not to notice.
const READS_AT_ONCE: usize = 8;
/// Full lists of users that are taken until two agree: while users come and go pages shift, and somebody may fall between.
const MOST_PASSES: usize = 5;
/// How often it is asked whether admin events are kept: somebody may switch that off at any time.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Without a look for so long, admin events may have expired unread: Keycloak removes expired ones four times an hour.
const AWAY: Duration = Duration::from_secs(600);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What to poll, with secrets resolved.
#[derive(Clone, Debug)]
pub struct PollerSettings {
    pub source: SourceName,
    /// Where events go: the source's topic.
    pub topic: String,
    /// Where the cursor is kept: `TopicNames::cursors`, compacted, one record a source.
    pub cursors: String,
    pub access: Access,
    pub interval: Duration,
    pub overlap: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error(transparent)]
    Keycloak(#[from] KeycloakError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("topic {0} is not there: make it with `lockstep topics apply`, or by hand where it is the source's own")]
    NoTopic(String),
    #[error(
        "the cursor of source {0} on topic {1} can't be read; a tombstone for its key makes the poller begin afresh"
    )]
    Cursor(SourceName, String),
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Admin events that were new.
    pub seen: usize,
    /// Events written.
    pub written: usize,
}

pub struct Poller {
    settings: PollerSettings,
    client: Client,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    cursor: Option<Cursor>,
    seen: Seen,
    /// When admin events were kept.
    checked: Option<Timestamp>,
    /// When the last look came to its end.
    looked: Option<Timestamp>,
}

impl Poller {
    /// Reads where the poller stood. Asks Keycloak nothing yet.
    pub fn new(settings: PollerSettings, bus: Arc<dyn Bus>, clock: Arc<dyn Clock>) -> Result<Self, PollError> {
        for topic in [&settings.topic, &settings.cursors] {
            if bus.partitions(topic)?.is_none() {
                return Err(PollError::NoTopic(topic.clone()));
            }
        }
        let cursor = cursor::load(bus.as_ref(), &settings.cursors, &settings.source)?;
        let client = Client::new(settings.access.clone())?;
        Ok(Self { settings, client, bus, clock, cursor, seen: Seen::default(), checked: None, looked: None })
    }

    /// Looks at every interval until cancelled. The first look's failure is given back where trying again won't help; later
    /// ones are said, and tried again with growing pauses.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), PollError> {
        let mut retries = RetryPolicy::new(client::CALL_TIMEOUT, Instant::now());
        retries.longest_delay = LONGEST_PAUSE;
        let (mut failures, mut looked) = (0, false);
        loop {
            let look = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                look = self.look() => look,
            };
            let pause = match look {
                Ok(look) => {
                    if look.written > 0 {
                        tracing::info!(source = %self.settings.source, events = look.written, "polled");
                    }
                    (failures, looked) = (0, true);
                    self.settings.interval
                }
                Err(error) if !looked && !is_transient(&error) => return Err(error),
                Err(error) => {
                    failures += 1;
                    let pause = retries.delay(self.settings.source.as_str(), failures);
                    tracing::warn!(source = %self.settings.source, %error, pause_ms = pause.as_millis(), "polling failed");
                    pause
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look: a full read where one is due, then the admin events since the last look. Whatever it was stopped at, the
    /// next one goes on from the last append.
    pub async fn look(&mut self) -> Result<Look, PollError> {
        let mut look = Look::default();
        self.check().await?;
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            // From before the full read: what happens meanwhile is found among the events.
            None => Cursor { time: self.client.newest_event_time().await?, order: 0, complete: false },
        };
        self.cursor = Some(cursor);
        if !cursor.complete {
            look.written += self.read_everyone().await?;
        }
        let from = self.standing().time.saturating_sub(millis(self.settings.overlap));
        for page in 0.. {
            let events = self.client.events(from, page * PAGE, PAGE).await?;
            let last = events.len() < PAGE;
            let new: Vec<AdminEvent> = events.into_iter().filter(|event| !self.seen.contains(&event.id)).collect();
            look.seen += new.len();
            look.written += self.take(new).await?;
            if last {
                break;
            }
        }
        self.looked = Some(self.clock.now());
        Ok(look)
    }

    /// Whether the admin events are all there. Where some may be missing, everyone is to be read.
    async fn check(&mut self) -> Result<(), PollError> {
        let now = self.clock.now();
        if is_due(self.checked, CHECK_EVERY, now) {
            match self.client.check().await {
                Ok(()) => self.checked = Some(now),
                Err(error) => {
                    if let (KeycloakError::EventsOff { .. }, Some(cursor)) = (&error, self.known()) {
                        self.append(Vec::new(), Cursor { complete: false, ..cursor })?;
                    }
                    return Err(error.into());
                }
            }
        }
        if is_due(self.looked, AWAY, now)
            && let Some(cursor) = self.known()
            && !self.client.has_events_until(cursor.time).await?
        {
            tracing::warn!(
                source = %self.settings.source,
                "the last admin event known is not kept any more, and others may have expired unread: every user is read again. \
                 keep admin events for longer than the poller may be away"
            );
            self.cursor = Some(Cursor { complete: false, ..cursor });
        }
        Ok(())
    }

    /// Where it stands, unless everyone is to be read anyway.
    fn known(&self) -> Option<Cursor> {
        self.cursor.filter(|cursor| cursor.complete)
    }

    /// Writes what a page of admin events means, and moves the cursor.
    async fn take(&mut self, events: Vec<AdminEvent>) -> Result<usize, PollError> {
        if events.is_empty() {
            return Ok(0);
        }
        let changes: Vec<(&AdminEvent, Change)> = events.iter().map(|event| (event, event.change())).collect();
        let users: BTreeSet<&str> = changes
            .iter()
            .filter_map(|(_, change)| if let Change::Upserted(user) = change { Some(user.as_str()) } else { None })
            .collect();
        let users = self.read(users.into_iter().map(str::to_owned).collect()).await?;
        let mut cursor = self.standing();
        let mut records = Vec::new();
        for (event, change) in &changes {
            cursor.time = cursor.time.max(event.time);
            match change {
                Change::Upserted(id) => {
                    if let Some(user) = users.get(id) {
                        let order = cursor.next_order(self.clock.now());
                        records.push(self.record(id, upserted(&event.id, event.time, order, user)));
                    }
                }
                Change::Deleted(id) => {
                    let order = cursor.next_order(self.clock.now());
                    records.push(self.record(id, deleted(&event.id, event.time, order, id)));
                }
                Change::Everyone => cursor.complete = false,
                Change::Nothing => {}
            }
        }
        let written = records.len();
        self.append(records, cursor)?;
        events.into_iter().for_each(|event| self.seen.insert(event.id));
        Ok(written)
    }

    /// Writes every user of the realm as they are now.
    async fn read_everyone(&mut self) -> Result<usize, PollError> {
        let began = self.clock.now();
        let users = self.everyone().await?;
        tracing::info!(source = %self.settings.source, users = users.len(), "reading every user");
        let mut written = 0;
        for some in users.chunks(PAGE) {
            let read = self.read(some.to_vec()).await?;
            let mut cursor = self.standing();
            let mut records = Vec::with_capacity(read.len());
            for (id, user) in &read {
                let now = self.clock.now();
                let order = cursor.next_order(now);
                records.push(self.record(id, upserted(&format!("read/{}/{id}", began.0), now.0, order, user)));
            }
            written += records.len();
            self.append(records, cursor)?;
        }
        let cursor = Cursor { complete: true, ..self.standing() };
        self.append(Vec::new(), cursor)?;
        Ok(written)
    }

    /// Ids of all users: the union of full lists, until one brings nobody new.
    async fn everyone(&self) -> Result<Vec<String>, PollError> {
        let mut ids = BTreeSet::new();
        for _ in 0..MOST_PASSES {
            let before = ids.len();
            for page in 0.. {
                let users = self.client.user_ids(page * PAGE, PAGE).await?;
                let last = users.len() < PAGE;
                ids.extend(users);
                if last {
                    break;
                }
            }
            if ids.len() == before {
                break;
            }
        }
        Ok(ids.into_iter().collect())
    }

    /// Users by id, without those who are gone.
    async fn read(&self, ids: Vec<String>) -> Result<BTreeMap<String, Json>, PollError> {
        let reads = ids.into_iter().map(|id| async move {
            let user = self.client.user(&id).await?;
            Ok::<_, KeycloakError>((id, user))
        });
        let users: Vec<(String, Option<Json>)> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        Ok(users.into_iter().filter_map(|(id, user)| Some((id, user?))).collect())
    }

    fn standing(&self) -> Cursor {
        self.cursor.expect("a look begins by setting it")
    }

    fn record(&self, user: &str, event: Json) -> Outgoing {
        Outgoing {
            topic: self.settings.topic.clone(),
            partition: None,
            key: Some(user.as_bytes().to_vec()),
            value: Some(event.to_string().into()),
            headers: vec![(CONTENT_TYPE.into(), JSON.into())],
        }
    }

    fn append(&mut self, mut records: Vec<Outgoing>, cursor: Cursor) -> Result<(), PollError> {
        records.push(cursor.record(&self.settings.cursors, &self.settings.source));
        // Blocking, for as long as the bus takes: the poller has nothing else to do.
        self.bus.append(records)?;
        self.cursor = Some(cursor);
        Ok(())
    }
}

fn upserted(id: &str, time: i64, order: i64, user: &Json) -> Json {
    json!({"id": id, "time": time, "type": "user.upserted", "order": order, "user": user})
}

fn deleted(id: &str, time: i64, order: i64, user: &str) -> Json {
    json!({"id": id, "time": time, "type": "user.deleted", "order": order, "user": {"id": user}})
}

/// A clock that was set back is no reason to wait.
fn is_due(last: Option<Timestamp>, every: Duration, now: Timestamp) -> bool {
    last.is_none_or(|last| now < last || now.since(last) >= every)
}

fn is_transient(error: &PollError) -> bool {
    match error {
        PollError::Keycloak(error) => error.is_transient(),
        PollError::Bus(error) => matches!(error, BusError::Retriable { .. }),
        PollError::NoTopic(_) | PollError::Cursor(..) => false,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
