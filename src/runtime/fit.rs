//! Whether what a step leaves behind fits into the topics that it goes to. What doesn't would make every commit of its
//! partition fail for good: it is found here, before the commit, and costs one event or one entity, never the partition.

use crate::entity::{Effect, Emission, Transition};
use crate::model::envelope;
use crate::model::{
    Attributes, Body, Cause, Command, InboxRecord, Message, RecordChange, Universe, Value, seal_message,
};
use std::collections::BTreeSet;
use std::fmt;

/// Of a record's limit, what is kept for its key, headers and framing, and for the ids (512 bytes each) that the next hop adds.
const ROOM_BYTES: usize = 16 << 10;
/// Attributes below this need no closer look: the least limit of a topic is 1 MiB.
const LIGHT_BYTES: usize = 64 << 10;
/// A number, a bool or a null in any of the encodings, with what stands around it.
const SCALAR_BYTES: usize = 24;

/// What one byte may become in JSON at most: `\u0001`.
const ESCAPE_BYTES: usize = 6;
/// Texts up to this are reckoned as if all of it were escaped.
const SHORT_TEXT_BYTES: usize = 64;

/// The most that a decoded event may take in the inbox: less than a row may, for it may have to wait in one, and as a message
/// between entities it is wrapped once more.
pub fn most_of_event(record_bytes: usize) -> usize {
    record_bytes.saturating_sub(2 * ROOM_BYTES)
}

/// What a message of so many bytes, as it came, takes where that is more than fits. Nearly all are seen at a glance to be small.
pub fn excess(message: &Message, came_bytes: usize, record_bytes: usize) -> Option<usize> {
    if came_bytes <= LIGHT_BYTES && weight(&message.body) <= LIGHT_BYTES {
        return None;
    }
    let bytes = seal_message(message).len();
    (bytes > most_of_event(record_bytes)).then_some(bytes)
}

/// The most that a row or a message may take.
fn most_of_row(record_bytes: usize) -> usize {
    record_bytes.saturating_sub(ROOM_BYTES)
}

/// The most that a command may take: a lane's row holds two, the one that is being carried out and the next.
fn most_of_command(record_bytes: usize) -> usize {
    most_of_row(record_bytes) / 2
}

/// Looks at everything that can be large; the reason names sizes, never values.
pub fn check(transition: &Transition, cause: &Cause, record_bytes: usize) -> Result<(), String> {
    let most = most_of_row(record_bytes);
    for value in transition.writes.iter().filter_map(|(_, value)| value.as_ref()) {
        within(format_args!("a row of its state"), value.len(), most)?;
    }
    for effect in &transition.effects {
        match effect {
            Effect::Send { to, body } if weight(body) > LIGHT_BYTES => {
                let message = Message { to: to.clone(), body: body.clone(), cause: cause.clone() };
                within(format_args!("a message"), envelope::seal(&InboxRecord::Message(message)).len(), most)?;
            }
            Effect::Emit(Emission::Command(command)) => {
                let what = format_args!("the command for target {}", command.target);
                within(what, command_bytes(command), most_of_command(record_bytes))?;
            }
            Effect::Send { .. } | Effect::Emit(_) | Effect::SetTimer { .. } | Effect::ClearTimer { .. } => {}
        }
    }
    Ok(())
}

fn within(what: fmt::Arguments<'_>, bytes: usize, most: usize) -> Result<(), String> {
    if bytes <= most {
        return Ok(());
    }
    Err(format!(
        "{what} would have {bytes} bytes, at most {most} fit: map less of the record, or raise `limits.event_bytes` in \
         lockstep.yaml"
    ))
}

/// Attributes alone make a message large.
fn weight(body: &Body) -> usize {
    match body {
        Body::Source(event) => match &event.change {
            RecordChange::Replace(attributes) | RecordChange::Merge(attributes) => attributes_bytes(attributes),
            RecordChange::Remove => 0,
        },
        Body::RecordChanged { attributes, .. } => attributes_bytes(attributes),
        _ => 0,
    }
}

/// An upper bound in every encoding of a command: JSON escapes, Avro counts and tags.
fn command_bytes(command: &Command) -> usize {
    let groups = |groups: &BTreeSet<String>| groups.iter().map(|group| text_bytes(group)).sum::<usize>();
    let entitlements = &command.desired.entitlements;
    let universe = match &entitlements.universe {
        Universe::Additive => 0,
        Universe::Authoritative(universe) => groups(universe),
    };
    attributes_bytes(&command.desired.attributes) + groups(&entitlements.groups) + universe + groups(&command.revoked)
}

fn attributes_bytes(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| text_bytes(name) + value_bytes(value)).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => SCALAR_BYTES,
        Value::Text(text) => text_bytes(text),
        Value::List(items) => SCALAR_BYTES + items.iter().map(value_bytes).sum::<usize>(),
    }
}

/// As JSON writes it (RFC 8259, section 7), with its quotes and what stands around it.
fn text_bytes(text: &str) -> usize {
    if text.len() <= SHORT_TEXT_BYTES {
        // Nearly every text: not worth a look at each byte.
        return ESCAPE_BYTES * text.len() + SCALAR_BYTES;
    }
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..=0x1f => 6,
        _ => 1,
    });
    escaped.sum::<usize>() + SCALAR_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        AccountId, Address, Desired, Entitlements, Generation, IdentityId, Intent, Op, RecordId, RoutingKey,
        SourceName, TargetName, TenantId, Timestamp,
    };
    use smol_str::SmolStr;

    const LIMIT: usize = 1_048_588;

    fn attributes(value: Value) -> Attributes {
        Attributes::from([("note", value)])
    }

    fn command(attributes: Attributes, groups: usize) -> Effect {
        let cause = Cause::own("e".into(), Timestamp(0));
        Effect::Emit(Emission::Command(Box::new(Command {
            tenant: TenantId::from("acme"),
            target: TargetName::from("directory"),
            account: AccountId("a".into()),
            identity: IdentityId("i".into()),
            intent: Intent::default_intent(),
            routing_key: RoutingKey::from("r"),
            external_id: None,
            generation: Generation(1),
            op: Op::Create,
            desired: Desired {
                active: true,
                attributes,
                entitlements: Entitlements {
                    groups: (0..groups).map(|n| format!("group {n}")).collect(),
                    universe: Universe::Additive,
                },
            },
            revoked: BTreeSet::new(),
            match_on: "note".into(),
            deadline: Timestamp(0),
            deprovision: None,
            issued: Timestamp(0),
            cause,
        })))
    }

    fn send(attributes: Attributes) -> Effect {
        let to = Address::identity(RoutingKey::from("r"), TenantId::from("acme"), IdentityId("i".into()));
        let body = Body::RecordChanged {
            source: SourceName::from("hr"),
            record: RecordId::from("w"),
            attributes,
            time: Timestamp(0),
            route: RoutingKey::from("r"),
        };
        Effect::Send { to, body }
    }

    fn checked(writes: Vec<(SmolStr, Option<Vec<u8>>)>, effects: Vec<Effect>) -> Result<(), String> {
        check(&Transition { writes, effects, ..Transition::default() }, &Cause::own("e".into(), Timestamp(0)), LIMIT)
    }

    #[test]
    fn what_fits_passes_and_what_does_not_is_named_with_its_size() {
        let text = |bytes: usize| attributes(Value::text("a".repeat(bytes)));
        let row = |bytes: usize| vec![("head".into(), Some(vec![0; bytes])), ("gone".into(), None)];
        assert_eq!(checked(row(LIMIT - ROOM_BYTES), vec![command(text(500_000), 10), send(text(1_000_000))]), Ok(()));
        let cases = [
            (checked(row(LIMIT - ROOM_BYTES + 1), Vec::new()), "a row of its state would have 1032205 bytes"),
            (checked(row(1), vec![send(text(LIMIT))]), "a message would have "),
            (checked(row(1), vec![command(text(516_100), 0)]), "the command for target directory would have "),
            (checked(row(1), vec![command(text(1), 20_000)]), "the command for target directory would have "),
            // What JSON escapes takes up to six times its room.
            (
                checked(row(1), vec![command(attributes(Value::text("\u{1}".repeat(100_000))), 0)]),
                "the command for target directory would have 600",
            ),
        ];
        for (case, (found, expected)) in cases.into_iter().enumerate() {
            let found = found.expect_err("it does not fit");
            assert!(found.starts_with(expected) && !found.contains("aaa"), "case {case}: {found}");
        }
    }

    #[test]
    fn an_encoded_command_never_takes_more_than_was_reckoned() {
        let values = [
            Value::text("\u{1}\"\\\n\u{7f}ä".repeat(1_000)),
            Value::List(vec![Value::Float(-1.5e-300); 1_000]),
            Value::List(vec![Value::Int(i64::MIN); 1_000]),
            Value::List(vec![Value::List(vec![Value::Null]); 1_000]),
        ];
        for value in values {
            let Effect::Emit(Emission::Command(command)) = command(attributes(value), 100) else { unreachable!() };
            let json = serde_json::to_vec(&command.desired).unwrap().len();
            let stored = postcard::to_allocvec(&command.desired).unwrap().len();
            // The fixed part of `desired` is in the room that is kept.
            assert!(json.max(stored) <= command_bytes(&command) + 200, "{json} {stored} {}", command_bytes(&command));
        }
    }
}
