//! A pack: the rows of all entities of one routing key, in one record of the state topic and one row of the store.
//!
//! A person's records, identity and index entry share a routing key on the common path, and an event touches most of their
//! rows: together they are read, decoded, encoded and written once, however many steps of a batch change them. What grows
//! large doesn't belong in it: an entity of more than [`ENTITY_BYTES`] leaves the pack, and a pack of more than
//! [`PACK_BYTES`] takes no further entity. Such entities lie *beside* it, each row a record of its own.
//!
//! Format: version, flags, and the body (LZ4 block with its length before it, if the flag says so): for each entity its key
//! and its rows by name, every part behind its length (LEB128). The rows keep envelopes of their own.

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use std::cmp::Ordering;
use std::ops::Range;

/// The version of the format; rows of version 1 lay beside, each by itself.
pub const VERSION: u8 = 2;
/// An entity with more than this is one of many rows: to write all for a change of one would cost more than it saves.
pub const ENTITY_BYTES: usize = 16 << 10;
/// A pack with more than this takes no further entity: it has to fit into a record with room to spare.
pub const PACK_BYTES: usize = 64 << 10;
/// Beyond this one that grows leaves: however much all of them grow, the pack stays one that is written and read.
const MOST_PACK_BYTES: usize = 2 * PACK_BYTES;
/// Smaller bodies are not worth compressing.
const LEAST_COMPRESSED: usize = 256;
/// The longest body that is believed: many times what a pack comes to, and no more memory than a damaged length may cost.
const MOST_BODY: usize = 4 << 20;

const BESIDE: u8 = 1;
const LZ4: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("version {0} of a pack is not one this release reads (it reads {VERSION})")]
    Version(u8),
    #[error("a pack that is cut short or damaged")]
    Damaged,
}

/// Rows of one routing key's entities.
#[derive(Debug, Default)]
pub struct Pack {
    /// What it was read from; unchanged parts are ranges of it.
    body: Vec<u8>,
    entities: Vec<Entity>,
    bytes: usize,
    beside: bool,
    changed: bool,
}

#[derive(Debug)]
struct Entity {
    key: Piece,
    /// In the order of their names.
    rows: Vec<Row>,
    bytes: usize,
}

#[derive(Debug)]
struct Row {
    name: Piece,
    value: Piece,
}

/// What packs are sealed with, one after another: a fresh table costs more than the compression. As large as the largest of them.
#[derive(Default)]
pub struct Sealer {
    table: CompressTable,
    body: Vec<u8>,
    sealed: Vec<u8>,
}

/// Bytes of the body, or new ones.
#[derive(Debug)]
enum Piece {
    Read(Range<u32>),
    New(Box<[u8]>),
}

impl Piece {
    fn of<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Read(range) => &body[range.start as usize..range.end as usize],
            Self::New(bytes) => bytes,
        }
    }
}

impl Pack {
    /// An empty one. `beside`: entities of its routing key may lie beside it.
    pub fn new(beside: bool) -> Self {
        Self { beside, ..Self::default() }
    }

    pub fn open(bytes: &[u8]) -> Result<Self, PackError> {
        let (&[version, flags], rest) = bytes.split_first_chunk::<2>().ok_or(PackError::Damaged)?;
        if version != VERSION {
            return Err(PackError::Version(version));
        }
        let body = match flags & LZ4 {
            0 => rest.to_vec(),
            _ => {
                let mut rest = rest;
                let length = length(&mut rest).filter(|length| *length <= MOST_BODY).ok_or(PackError::Damaged)?;
                lz4_flex::block::decompress(rest, length).map_err(|_| PackError::Damaged)?
            }
        };
        let mut pack = Self { body, beside: flags & BESIDE != 0, ..Self::default() };
        pack.index().ok_or(PackError::Damaged)?;
        Ok(pack)
    }

    fn index(&mut self) -> Option<()> {
        let body = &self.body;
        let mut rest = body.as_slice();
        let piece = |rest: &mut &[u8]| {
            let length = length(rest)?;
            let start = body.len() - rest.len();
            *rest = rest.get(length..)?;
            Some(Piece::Read(u32::try_from(start).ok()?..u32::try_from(start + length).ok()?))
        };
        while !rest.is_empty() {
            let before = rest.len();
            let key = piece(&mut rest)?;
            let count = length(&mut rest)?;
            let mut rows = Vec::with_capacity(count.min(16));
            for _ in 0..count {
                rows.push(Row { name: piece(&mut rest)?, value: piece(&mut rest)? });
            }
            self.entities.push(Entity { key, rows, bytes: before - rest.len() });
        }
        self.bytes = body.len();
        Some(())
    }

    /// None: nothing is left, the record is deleted.
    pub fn seal(&self) -> Option<Vec<u8>> {
        self.seal_with(&mut Sealer::default())
    }

    pub fn seal_with(&self, sealer: &mut Sealer) -> Option<Vec<u8>> {
        if self.entities.is_empty() && !self.beside {
            return None;
        }
        let Sealer { table, body, sealed } = sealer;
        body.clear();
        for entity in &self.entities {
            put_piece(body, entity.key.of(&self.body));
            put_length(body, entity.rows.len());
            for row in &entity.rows {
                put_piece(body, row.name.of(&self.body));
                put_piece(body, row.value.of(&self.body));
            }
        }
        let beside = if self.beside { BESIDE } else { 0 };
        if body.len() < LEAST_COMPRESSED {
            return Some([&[VERSION, beside], body.as_slice()].concat());
        }
        sealed.clear();
        sealed.extend([VERSION, beside | LZ4]);
        put_length(sealed, body.len());
        let start = sealed.len();
        sealed.resize(start + get_maximum_output_size(body.len()), 0);
        let written =
            compress_into_with_table(body, &mut sealed[start..], table).expect("there is room for the worst case");
        Some(sealed[..start + written].to_vec())
    }

    /// Whether rows of this entity are in it, or would be put into it.
    pub fn is_home_of(&self, entity: &[u8]) -> bool {
        !self.beside || self.place(entity).is_some()
    }

    pub fn is_changed(&self) -> bool {
        self.changed
    }

    pub fn get(&self, entity: &[u8], row: &str) -> Option<&[u8]> {
        let entity = &self.entities[self.place(entity)?];
        let at = entity.place(row, &self.body).ok()?;
        Some(entity.rows[at].value.of(&self.body))
    }

    /// Rows whose name begins with `prefix`, in order of their names.
    pub fn scan<'a>(&'a self, entity: &[u8], prefix: &str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let entity = self.place(entity).map(|at| &self.entities[at]);
        entity.into_iter().flat_map(|entity| entity.named(&self.body)).filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Every entity's key with its rows.
    pub fn entities(&self) -> impl Iterator<Item = (&[u8], impl Iterator<Item = (&str, &[u8])>)> {
        self.entities.iter().map(|entity| (entity.key.of(&self.body), entity.named(&self.body)))
    }

    /// Changes a row; None deletes it. Gives the entity's rows if it has grown too large: they are no longer in the pack and
    /// lie beside it from now on.
    #[must_use = "rows that leave the pack have to be written beside it"]
    pub fn put(&mut self, entity: &[u8], row: &str, value: Option<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
        debug_assert!(self.is_home_of(entity), "rows beside a pack are not put into it");
        let at = match (self.place(entity), &value) {
            (Some(at), _) => at,
            (None, None) => return Vec::new(),
            (None, Some(_)) => {
                self.entities.push(Entity {
                    key: Piece::New(entity.into()),
                    rows: Vec::new(),
                    bytes: entity.len() + 4,
                });
                self.bytes += entity.len() + 4;
                self.entities.len() - 1
            }
        };
        let found = &mut self.entities[at];
        let before = found.bytes;
        found.put(row, value, &self.body);
        let (now, empty) = (found.bytes, found.rows.is_empty());
        self.bytes = self.bytes + now - before;
        self.changed = true;
        if empty {
            self.bytes -= self.entities.remove(at).bytes;
        } else if now > ENTITY_BYTES || (now > before && self.bytes > MOST_PACK_BYTES) {
            return self.leave(at);
        } else if self.bytes > PACK_BYTES {
            self.beside = true;
        }
        Vec::new()
    }

    /// Takes in a row that lay beside until now.
    pub fn admit(&mut self, entity: &[u8], row: &str, value: Vec<u8>) {
        let at = self.place(entity).unwrap_or_else(|| {
            self.entities.push(Entity { key: Piece::New(entity.into()), rows: Vec::new(), bytes: entity.len() + 4 });
            self.bytes += entity.len() + 4;
            self.entities.len() - 1
        });
        let before = self.entities[at].bytes;
        self.entities[at].put(row, Some(value), &self.body);
        self.bytes = self.bytes + self.entities[at].bytes - before;
        self.changed = true;
    }

    /// From now on the rows of this entity, of which there may be none yet, are its own.
    pub fn admit_entity(&mut self, entity: &[u8]) {
        if self.place(entity).is_none() {
            self.entities.push(Entity { key: Piece::New(entity.into()), rows: Vec::new(), bytes: entity.len() + 4 });
            self.bytes += entity.len() + 4;
        }
    }

    fn leave(&mut self, at: usize) -> Vec<(String, Vec<u8>)> {
        let entity = self.entities.remove(at);
        self.bytes -= entity.bytes;
        self.beside = true;
        entity.named(&self.body).map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
    }

    fn place(&self, entity: &[u8]) -> Option<usize> {
        self.entities.iter().position(|other| other.key.of(&self.body) == entity)
    }
}

impl Entity {
    fn place(&self, name: &str, body: &[u8]) -> Result<usize, usize> {
        for (at, row) in self.rows.iter().enumerate() {
            match row.name.of(body).cmp(name.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(at),
                Ordering::Greater => return Err(at),
            }
        }
        Err(self.rows.len())
    }

    fn put(&mut self, name: &str, value: Option<Vec<u8>>, body: &[u8]) {
        match (self.place(name, body), value) {
            (Ok(at), Some(value)) => {
                self.bytes = self.bytes + value.len() - self.rows[at].value.of(body).len();
                self.rows[at].value = Piece::New(value.into());
            }
            (Ok(at), None) => {
                let row = self.rows.remove(at);
                self.bytes -= row.name.of(body).len() + row.value.of(body).len();
            }
            (Err(at), Some(value)) => {
                self.bytes += name.len() + value.len();
                self.rows.insert(at, Row { name: Piece::New(name.as_bytes().into()), value: Piece::New(value.into()) });
            }
            (Err(_), None) => {}
        }
    }

    /// A name that is no text is nobody's: it isn't shown.
    fn named<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let named = |row: &'a Row| Some((std::str::from_utf8(row.name.of(body)).ok()?, row.value.of(body)));
        self.rows.iter().filter_map(named)
    }
}

fn put_piece(to: &mut Vec<u8>, piece: &[u8]) {
    put_length(to, piece.len());
    to.extend_from_slice(piece);
}

fn put_length(to: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        to.push(length as u8 | 0x80);
        length >>= 7;
    }
    to.push(length as u8);
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let (first, after) = rest.split_first()?;
        *rest = after;
        length |= usize::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rows_of(pack: &Pack) -> BTreeMap<(Vec<u8>, String), Vec<u8>> {
        let rows = pack.entities().flat_map(|(key, rows)| {
            let key = key.to_vec();
            rows.map(move |(name, value)| ((key.clone(), name.to_owned()), value.to_vec())).collect::<Vec<_>>()
        });
        rows.collect()
    }

    proptest! {
        /// Whatever is written, in whatever order, over however many readings: what comes back is what a map would hold.
        #[test]
        fn a_pack_is_a_map_that_survives_its_sealing(
            changes in vec((0u8..4, 0usize..5, option::of(vec(any::<u8>(), 0..600)), any::<bool>()), 0..60),
        ) {
            let mut pack = Pack::new(false);
            let mut expected = BTreeMap::new();
            for (entity, row, value, reopened) in changes {
                let (key, name) = (vec![b'r', entity], ["", "account/a", "account/b", "record/hr/1", "z"][row]);
                prop_assert!(pack.put(&key, name, value.clone()).is_empty());
                match value {
                    Some(value) => expected.insert((key.clone(), name.to_owned()), value),
                    None => expected.remove(&(key.clone(), name.to_owned())),
                };
                prop_assert_eq!(pack.get(&key, name), expected.get(&(key, name.to_owned())).map(Vec::as_slice));
                if reopened {
                    pack = pack.seal().map_or_else(|| Pack::new(false), |bytes| Pack::open(&bytes).unwrap());
                }
            }
            prop_assert_eq!(rows_of(&pack), expected);
        }

        #[test]
        fn bytes_that_are_no_pack_are_an_error_and_nothing_worse(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Pack::open(&[&[VERSION, 0], bytes.as_slice()].concat());
            let _ = Pack::open(&[&[VERSION, LZ4], bytes.as_slice()].concat());
            let _ = Pack::open(&bytes);
        }
    }

    #[test]
    fn what_grows_large_leaves_and_lies_beside() {
        let mut pack = Pack::new(false);
        assert!(pack.put(b"small", "", Some(vec![1])).is_empty());
        assert!(pack.put(b"large", "", Some(vec![2; 10])).is_empty());
        let left = pack.put(b"large", "row", Some(vec![3; ENTITY_BYTES]));
        assert_eq!(
            left.iter().map(|(name, value)| (name.as_str(), value.len())).collect::<Vec<_>>(),
            [("", 10), ("row", ENTITY_BYTES)]
        );
        let pack = Pack::open(&pack.seal().unwrap()).unwrap();
        assert_eq!(
            (pack.is_home_of(b"small"), pack.is_home_of(b"large"), pack.is_home_of(b"new")),
            (true, false, false)
        );
        assert_eq!(pack.get(b"large", ""), None);
    }

    #[test]
    fn a_full_pack_takes_no_further_entity_and_keeps_those_it_has() {
        let mut pack = Pack::new(false);
        let mut entities = 0u32;
        while pack.is_home_of(&entities.to_be_bytes()) {
            assert!(pack.put(&entities.to_be_bytes(), "", Some(vec![0; 1000])).is_empty());
            entities += 1;
        }
        assert!((64..=70).contains(&entities), "{entities}");
        let mut pack = Pack::open(&pack.seal().unwrap()).unwrap();
        assert!(pack.put(&3u32.to_be_bytes(), "", Some(vec![9; 1200])).is_empty());
        assert_eq!(pack.get(&3u32.to_be_bytes(), "").unwrap().len(), 1200);
        assert!(!pack.is_home_of(&entities.to_be_bytes()));
    }

    /// A hundred and fifty records of one routing key, all of which grow: each for itself is small enough.
    #[test]
    fn a_pack_whose_entities_all_grow_stays_one_that_can_be_read() {
        let (mut pack, mut beside) = (Pack::new(false), BTreeMap::new());
        let mut random = 1u64;
        // Nothing that compresses.
        let mut bytes = |count: usize| -> Vec<u8> {
            let next = |random: &mut u64| {
                *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (*random >> 33) as u8
            };
            (0..count).map(|_| next(&mut random)).collect()
        };
        for size in [400, 2_300, 12_000] {
            for entity in 0..150u32 {
                let key = entity.to_be_bytes();
                let value = bytes(size);
                match pack.is_home_of(&key) {
                    true => beside.extend(pack.put(&key, "", Some(value)).into_iter().map(|(_, value)| (key, value))),
                    false => drop(beside.insert(key, value)),
                }
                let sealed = pack.seal().unwrap();
                assert!(sealed.len() < MOST_PACK_BYTES + ENTITY_BYTES, "{} bytes", sealed.len());
                pack = Pack::open(&sealed).unwrap();
            }
        }
        assert_eq!(pack.entities().count() + beside.len(), 150, "each is in one place");
        assert!(pack.entities().count() > 0);
    }

    #[test]
    fn an_emptied_pack_is_no_record_unless_something_lies_beside() {
        let mut pack = Pack::new(false);
        assert!(pack.put(b"a", "", Some(vec![1])).is_empty());
        assert!(pack.put(b"a", "", None).is_empty());
        assert_eq!(pack.seal(), None);
        assert!(Pack::open(&Pack::new(true).seal().unwrap()).unwrap().beside);
        assert_eq!(Pack::open(&[7, 0]).unwrap_err(), PackError::Version(7));
        assert_eq!(Pack::open(&[]).unwrap_err(), PackError::Damaged);
    }
}
