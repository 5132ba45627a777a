//! Keys of the state topic and of the local stores: one for each row of each entity.
//!
//! Most rows of entities lie in the pack of their routing key (`pack`), one record for all of them. What lies beside has a key
//! of its own: a tag for the kind, then the parts of the entity's key, each behind its length, then the row's name to the end. So
//! all rows of an entity lie side by side, all entities of a tenant and kind do, and no two keys can run into one another.
//!
//! Rows whose name begins with `~` belong to the runtime: timers, quarantine. Entities never name a row so, and these rows
//! are in no pack: they are found without knowing whose they are.

use crate::model::{Address, EntityKey, IdentityId, RecordId, RoutingKey, SourceName, TenantId};
use smol_str::{SmolStr, SmolStrBuilder};

/// The row that says an entity is quarantined.
pub const QUARANTINE: &str = "~q";
/// Messages that wait for a quarantined entity, in order: `~w/<16 hex digits>`.
pub const WAITING: &str = "~w/";
/// Timers: `~t/<name>`; the value is the due time.
pub const TIMER: &str = "~t/";
/// An entity's head.
pub const HEAD: &str = "";

/// Most bytes of an entity's parts together, and of a routing key. fjall ends the thread that hands it a key of more than 64 KiB,
/// and a row's name stands behind; the ids that Lockstep makes an entity of have a few KiB at most.
const MOST_KEY_BYTES: usize = 16 << 10;

const META: u8 = b'm';
const RECORD: u8 = b'r';
const IDENTITY: u8 = b'i';
const INDEX: u8 = b'x';
const GUARD: u8 = b'g';
const ROUTE: u8 = b'o';
const PACK: u8 = b'p';
const QUARANTINED: u8 = b'q';
const OPEN: u8 = b'a';

/// A row's name from its parts. Nearly all are short: they take no allocation.
pub fn name(parts: &[&str]) -> SmolStr {
    let mut name = SmolStrBuilder::new();
    parts.iter().for_each(|part| name.push_str(part));
    name.finish()
}

/// The row of a timer.
pub fn timer(timer: &str) -> SmolStr {
    name(&[TIMER, timer])
}

/// The key of a row that belongs to the partition itself.
pub fn meta(name: &str) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(name.as_bytes());
    key
}

pub fn is_meta(key: &[u8]) -> bool {
    key.first() == Some(&META)
}

/// All rows of an entity begin with this.
pub fn entity(entity: &EntityKey) -> Vec<u8> {
    match entity {
        EntityKey::Record { tenant, source, record, route } => {
            prefix(RECORD, &[&tenant.0, &source.0, &record.0, &route.0])
        }
        EntityKey::Identity { tenant, identity } => prefix(IDENTITY, &[&tenant.0, &identity.0]),
        EntityKey::Index { tenant, attribute, value } => prefix(INDEX, &[&tenant.0, attribute, value]),
        EntityKey::Guard { tenant } => prefix(GUARD, &[&tenant.0]),
        EntityKey::Route { tenant, source, record } => prefix(ROUTE, &[&tenant.0, &source.0, &record.0]),
    }
}

/// Whether there can be keys of its rows and of its pack. What Lockstep makes always has them; what others write into its topics
/// may not.
pub fn is_sound(of: &Address) -> bool {
    let bytes = |parts: &[&str]| parts.iter().map(|part| part.len()).sum::<usize>();
    let entity = match &of.entity {
        EntityKey::Record { tenant, source, record, route } => bytes(&[&tenant.0, &source.0, &record.0, &route.0]),
        EntityKey::Identity { tenant, identity } => bytes(&[&tenant.0, &identity.0]),
        EntityKey::Index { tenant, attribute, value } => bytes(&[&tenant.0, attribute, value]),
        EntityKey::Guard { tenant } => bytes(&[&tenant.0]),
        EntityKey::Route { tenant, source, record } => bytes(&[&tenant.0, &source.0, &record.0]),
    };
    entity.max(of.routing_key.0.len()) <= MOST_KEY_BYTES
}

/// The key of a row beside the packs. Quarantine rows lie together, before the key of their entity, so that all are found at
/// once.
pub fn row(of: &EntityKey, row: &str) -> Vec<u8> {
    beside(&entity(of), row)
}

/// The same, for an entity's key that is there already.
pub fn beside(entity: &[u8], row: &str) -> Vec<u8> {
    let tag: &[u8] = if row == QUARANTINE { &[QUARANTINED] } else { &[] };
    [tag, entity, row.as_bytes()].concat()
}

/// Where a former release kept an entity's row of the runtime.
pub fn formerly(of: &EntityKey, row: &str) -> Vec<u8> {
    [&entity(of), row.as_bytes()].concat()
}

/// All quarantine rows begin with this.
pub fn quarantined() -> Vec<u8> {
    vec![QUARANTINED]
}

/// The key of a routing key's pack.
pub fn pack(of: &RoutingKey) -> Vec<u8> {
    [&[PACK], of.as_str().as_bytes()].concat()
}

/// All packs begin with this.
pub fn packs() -> Vec<u8> {
    vec![PACK]
}

/// Back from a key to the routing key whose pack it is.
pub fn pack_of(key: &[u8]) -> Option<RoutingKey> {
    let routing_key = key.strip_prefix(&[PACK])?;
    std::str::from_utf8(routing_key).ok().map(RoutingKey::from)
}

/// Whether an entity's rows may lie in a pack. A Guard's never do: it has a row for each of maybe 100,000 that it holds.
pub fn is_packed(of: &EntityKey) -> bool {
    !matches!(of, EntityKey::Guard { .. })
}

/// The key of a copy of an account's row while something about it is open, so that what is open is found after a restart
/// without reading everybody.
pub fn open(entity: &[u8], row: &str) -> Vec<u8> {
    [&[OPEN], entity, row.as_bytes()].concat()
}

/// All of these begin with this.
pub fn opens() -> Vec<u8> {
    vec![OPEN]
}

/// The row's own key, if this is the key of such a copy.
pub fn open_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[OPEN])
}

/// All rows of all identities begin with this; with a tenant, of that tenant's.
pub fn identities(tenant: Option<&TenantId>) -> Vec<u8> {
    prefix(IDENTITY, &tenant.map(TenantId::as_str).into_iter().collect::<Vec<_>>())
}

/// All rows of all Guards begin with this.
pub fn guards() -> Vec<u8> {
    vec![GUARD]
}

/// Back from a key to its entity and row; None for rows of the partition itself and for what is no key of ours.
pub fn parse(key: &[u8]) -> Option<(EntityKey, String)> {
    let key = key.strip_prefix(&[QUARANTINED]).unwrap_or(key);
    let (tag, mut rest) = key.split_first()?;
    let mut part = || -> Option<SmolStr> {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = after;
        std::str::from_utf8(text).ok().map(SmolStr::from)
    };
    let entity = match *tag {
        RECORD => EntityKey::Record {
            tenant: TenantId(part()?),
            source: SourceName(part()?),
            record: RecordId(part()?),
            route: RoutingKey(part()?),
        },
        IDENTITY => EntityKey::Identity { tenant: TenantId(part()?), identity: IdentityId(part()?) },
        INDEX => {
            EntityKey::Index { tenant: TenantId(part()?), attribute: part()?.to_string(), value: part()?.to_string() }
        }
        GUARD => EntityKey::Guard { tenant: TenantId(part()?) },
        ROUTE => EntityKey::Route { tenant: TenantId(part()?), source: SourceName(part()?), record: RecordId(part()?) },
        _ => return None,
    };
    Some((entity, String::from_utf8(rest.to_vec()).ok()?))
}

/// Parts longer than 64 KiB can't come here: intake refuses ids and values of more than 1 KiB.
fn prefix(tag: u8, parts: &[&str]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len() + 2).sum::<usize>());
    key.push(tag);
    for part in parts {
        let length = u16::try_from(part.len()).expect("intake bounds the length of ids and correlation values");
        key.extend_from_slice(&length.to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_what_they_were_made_from() {
        for of in [
            EntityKey::Record { tenant: "a".into(), source: "hr".into(), record: "1/2".into(), route: "a/1".into() },
            EntityKey::Identity { tenant: "a".into(), identity: "x".into() },
            EntityKey::Index { tenant: "a".into(), attribute: "mail".into(), value: "ü@x".into() },
            EntityKey::Guard { tenant: "a".into() },
            EntityKey::Route { tenant: "".into(), source: "hr".into(), record: "~".into() },
        ] {
            for name in ["", "account/directory", "~t/x", QUARANTINE] {
                assert_eq!(parse(&row(&of, name)), Some((of.clone(), name.to_owned())));
            }
        }
        assert_eq!(parse(&pack(&"acme/1".into())), None);
        assert_eq!(pack_of(&pack(&"acme/1".into())), Some("acme/1".into()));
        assert_eq!(parse(&meta("bundle")), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"i\x00\x09abc"), None);
    }

    #[test]
    fn a_key_that_no_store_takes_is_not_sound() {
        let long = "x".repeat(MOST_KEY_BYTES + 1);
        let of = |routing_key: &str, identity: &str| Address::identity(routing_key.into(), "a".into(), identity.into());
        assert!(is_sound(&of("a/1", "x")));
        assert!(!is_sound(&of(&long, "x")));
        assert!(!is_sound(&of("a/1", &long)));
        // Each part may be fine by itself.
        let (half, tenant) = ("x".repeat(MOST_KEY_BYTES / 2), "a");
        assert!(!is_sound(&Address::route(tenant.into(), half.as_str().into(), half.as_str().into())));
    }

    #[test]
    fn a_tenants_prefix_holds_no_other_tenants_rows() {
        let of = |tenant: &str| entity(&EntityKey::Identity { tenant: tenant.into(), identity: "x".into() });
        let prefix = identities(Some(&"ab".into()));
        assert!(of("ab").starts_with(&prefix));
        assert!(!of("abc").starts_with(&prefix));
        assert!(!of("a").starts_with(&prefix));
    }
}
