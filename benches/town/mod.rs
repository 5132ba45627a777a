//! Job W1's people, one partition of them: their events as the sources send them, and the entities' rows in memory, so that
//! what is measured is the pure rooms and the codec, without bus and disk.

use lockstep::codec::source::{Decoded, SourceDecoder};
use lockstep::config::Config;
use lockstep::entity::{self, Effect, Emission, Rows, Stamped, key};
use lockstep::model::{Address, Body, Cause, Command, Incoming, Message, Timestamp};
use lockstep::rules::Bundle;
use smol_str::SmolStr;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

const DEPARTMENTS: [&str; 2] = ["Finance", "Legal"];
/// 2026-06-15T08:00:00Z.
const NOW: Timestamp = Timestamp(1_781_510_400_000);

pub struct Town {
    bundle: Bundle,
    decoder: SourceDecoder,
    /// Every row, as the store has it.
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    events: u64,
}

struct Own<'a>(&'a BTreeMap<Vec<u8>, Vec<u8>>, Vec<u8>);

impl Rows for Own<'_> {
    fn get(&self, row: &str) -> Option<std::borrow::Cow<'_, [u8]>> {
        self.0.get(&[self.1.as_slice(), row.as_bytes()].concat()).map(|value| value.as_slice().into())
    }

    fn scan_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(SmolStr, std::borrow::Cow<'_, [u8]>)> {
        let prefix = [self.1.as_slice(), prefix.as_bytes()].concat();
        let rows = self.0.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let rows = rows.map(|(key, value)| (String::from_utf8_lossy(&key[self.1.len()..]), value));
        let rows = rows.filter(|(name, _)| after.is_none_or(|after| name.as_ref() > after));
        rows.take(limit).map(|(name, value)| (name.into(), value.as_slice().into())).collect()
    }
}

impl Town {
    /// With so many people, each with both records and three accounts.
    pub fn of(people: usize) -> Self {
        let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/w1/config"));
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let tenants = config.installation.tenants.iter().cloned().collect();
        let decoder = SourceDecoder::new(None, tenants, config.installation.event_bytes);
        let mut town = Self { bundle: config.bundle, decoder, rows: BTreeMap::new(), events: 0 };
        for person in 0..people {
            for event in [town.hr(person, "Junior Analyst", ""), town.idp(person, "team-legal-0")] {
                let message = town.message(&event);
                town.deliver(message);
            }
        }
        town
    }

    /// HR's event: the whole worker.
    pub fn hr(&mut self, person: usize, title: &str, end: &str) -> Incoming {
        self.events += 1;
        let value = format!(
            r#"{{"id":"00000007-7b1e-4a5d-8c3f-{:012x}","type":"changed","time":"2026-06-15T08:00:00.000Z","source":"urn:acme:prod:eu-central","traceparent":"00-4bf92f3577b34da6a3ce{:012x}-00f067aa{:08x}-01","worker":{{"workerId":"W{person:07}","employeeNumber":"{:08}","firstName":"Anna","lastName":"Zimmer","preferredName":"","department":"{}","jobTitle":"{title}","costCenter":"CC101","managerId":"W0000001","location":"Berlin","country":"DE","startDate":"2021-03-01","endDate":"{end}","status":"active"}}}}"#,
            self.events,
            self.events,
            self.events,
            10_000_000 + 7 * person,
            DEPARTMENTS[person % 2],
        );
        self.incoming("hr.events", &format!("W{person:07}"), value)
    }

    /// The identity provider's event: the whole user.
    pub fn idp(&mut self, person: usize, group: &str) -> Incoming {
        self.events += 1;
        let id = format!("{person:08x}-51a7-4c02-9d11-{person:012x}");
        let value = format!(
            r#"{{"id":"00000007-7b1e-4a5d-8c3f-{:012x}","type":"user.updated","time":"2026-06-15T08:00:00.000Z","source":"urn:acme:prod:eu-central","traceparent":"00-4bf92f3577b34da6a3ce{:012x}-00f067aa{:08x}-01","user":{{"id":"{id}","employeeNumber":"{:08}","login":"Anna.Zimmer.{person}","mobile":"+491512345678","groups":["{group}","team-people-1","team-platform-2","team-security-3","wiki-legal-editors","team-sales-1","team-data-0","wiki-data-editors"]}}}}"#,
            self.events,
            self.events,
            self.events,
            10_000_000 + 7 * person,
        );
        self.incoming("idp.events", &id, value)
    }

    fn incoming(&self, topic: &str, key: &str, value: String) -> Incoming {
        Incoming {
            topic: topic.to_owned(),
            partition: 0,
            offset: i64::try_from(self.events).expect("few events"),
            timestamp: NOW,
            key: Some(key.as_bytes().to_vec()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    pub fn decode(&self, incoming: &Incoming) -> Decoded {
        let source = self.bundle.sources().iter().find(|source| source.topics.contains(&incoming.topic));
        self.decoder.decode(source.expect("the topic is a source's"), incoming).expect("the event is well-formed")
    }

    /// An event as the inbox holds it.
    pub fn message(&self, incoming: &Incoming) -> Message {
        let Decoded::Event(event) = self.decode(incoming) else { panic!("the event is routed") };
        let to = Address::record(
            event.routing_key.clone(),
            event.tenant.clone(),
            event.source.clone(),
            event.record.clone(),
        );
        let cause = Cause::from(&*event);
        Message { to, body: Body::Source(event), cause }
    }

    /// Steps an entity, and whatever it sends on, and gives the commands.
    pub fn deliver(&mut self, message: Message) -> Vec<Command> {
        let (mut queue, mut commands) = (VecDeque::from([message]), Vec::new());
        while let Some(Message { to, body, cause }) = queue.pop_front() {
            let own = Own(&self.rows, key::entity(&to.entity));
            let stamped = Stamped { now: NOW, body, cause: cause.clone() };
            let transition = entity::step(&to, &own, &self.bundle, stamped).expect("the step goes through");
            for (row, value) in transition.writes {
                match value {
                    Some(value) => self.rows.insert(key::row(&to.entity, &row), value),
                    None => self.rows.remove(&key::row(&to.entity, &row)),
                };
            }
            for effect in transition.effects {
                match effect {
                    Effect::Send { to, body } => queue.push_back(Message { to, body, cause: cause.clone() }),
                    Effect::Emit(Emission::Command(command)) => commands.push(*command),
                    Effect::Emit(_) | Effect::SetTimer { .. } | Effect::ClearTimer { .. } => {}
                }
            }
        }
        commands
    }
}
