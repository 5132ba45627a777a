//! Entities whose steps fail for a while: a row of theirs that no release reads, a count at its end, or a process that is told a
//! limit their rows are beyond. What waits for them comes to its turn when the fault is over, by timer or by an operator.

use super::*;
use lockstep::entity::IdentityHead;
use lockstep::entity::pack::Pack;

/// No version of a row: what it stands before is there and can't be read.
const NO_VERSION: u8 = 0xff;
/// What rows may have in a process whose limit is too small: the shorter ones fit, the longer ones don't.
const LEAST_ROW_BYTES: u64 = 100;
const MOST_ROW_BYTES: u64 = 500;
/// Of a record's limit, what is kept for its framing (`runtime::fit`).
const FRAMING_BYTES: usize = 16 << 10;
/// What waits is tried again by itself after so long.
const RETRY_MS: i64 = 5 * 60_000;
/// What the limits should be.
pub(super) const RECORD_BYTES: usize = 1 << 20;

/// A row of the state topic in which something is wrong, until it is mended.
pub(super) struct Damage {
    place: Place,
    wrong: Wrong,
    until: i64,
}

/// A row of an entity, in a pack or beside.
#[derive(Clone, PartialEq)]
struct Place {
    partition: u32,
    key: Vec<u8>,
    of: EntityKey,
    row: String,
}

enum Wrong {
    Unreadable,
    /// It has asked the Guard as often as it can; so often it really has.
    AskedTooOften(u64),
}

impl World {
    /// A row is written as no release would; who reads it is set aside, sooner or later.
    pub(super) fn damage(&mut self) {
        let mut places = self.places();
        places.retain(|place| self.damages.iter().all(|damage| damage.place.of != place.of));
        let kinds: BTreeSet<&str> = places.iter().map(|place| place.of.kind()).collect();
        if kinds.is_empty() || !self.faults.happens("row of state damaged", 350) {
            return;
        }
        let kind = *self.random.pick(&kinds.into_iter().collect::<Vec<_>>());
        // Only who ends somebody's access counts: until then the identity goes on.
        let counts = kind == "identity" && self.random.percent(50);
        places.retain(|place| place.of.kind() == kind && (!counts || place.row == key::HEAD));
        let place = self.random.pick(&places).clone();
        let until = self.now() + self.lasting();
        let row = self.row_at(&place).expect("just found");
        let (wrong, row) = if counts {
            let head: IdentityHead = envelope::open(&row).expect("an identity's head");
            (Wrong::AskedTooOften(head.epoch), envelope::seal(&IdentityHead { epoch: u64::MAX, ..head }))
        } else {
            (Wrong::Unreadable, [&[NO_VERSION], row.as_slice()].concat())
        };
        self.rewrite(vec![(place.clone(), row)]);
        self.damages.push(Damage { place, wrong, until });
    }

    /// A process is started with a limit that some rows are beyond.
    pub(super) fn limit_rows(&mut self) {
        if !self.faults.happens("process with too small a limit", 250) {
            return;
        }
        let until = self.now() + self.lasting();
        let which = self.random.below(self.processors.len() as u64) as usize;
        let most = LEAST_ROW_BYTES + self.random.below(MOST_ROW_BYTES - LEAST_ROW_BYTES);
        let processor = &mut self.processors[which];
        processor.running = None;
        (processor.record_bytes, processor.limited_until) = (FRAMING_BYTES + most as usize, until);
    }

    /// Some are mended before a removal's deadline, some only after it.
    fn lasting(&mut self) -> i64 {
        let most = *self.random.pick(&[60_000, 3_600_000, 12 * 3_600_000, 36 * 3_600_000]);
        self.random_below(most)
    }

    /// Mends what has lasted for its time, or all. Some operators say at once that it is to be tried again.
    pub(super) fn mend_state(&mut self, all: bool) {
        let now = self.now();
        let (over, lasting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.damages).into_iter().partition(|damage| all || damage.until <= now);
        self.damages = lasting;
        let limited: Vec<usize> = (0..self.processors.len())
            .filter(|which| self.processors[*which].record_bytes < RECORD_BYTES)
            .filter(|which| all || self.processors[*which].limited_until <= now)
            .collect();
        if over.is_empty() && limited.is_empty() {
            return;
        }
        for which in limited {
            (self.processors[which].running, self.processors[which].record_bytes) = (None, RECORD_BYTES);
        }
        let places = self.places();
        let mended = over.into_iter().filter_map(|damage| {
            // What lay beside in the former release's state may lie in a pack by now.
            let same = |place: &&Place| (&place.of, &place.row) == (&damage.place.of, &damage.place.row);
            let place = places.iter().find(same)?.clone();
            let row = self.row_at(&place)?;
            let row = match damage.wrong {
                Wrong::Unreadable => row.strip_prefix(&[NO_VERSION])?.to_vec(),
                Wrong::AskedTooOften(epoch) => {
                    let head: IdentityHead = envelope::open(&row).expect("an identity's head");
                    envelope::seal(&IdentityHead { epoch, ..head })
                }
            };
            Some((place, row))
        });
        let mended = mended.collect();
        self.rewrite(mended);
        if self.random.percent(50) {
            self.operate(&Operate::Retry);
        }
    }

    /// Until nobody is set aside any more: all faults are over, and it is a matter of time or of an operator's word.
    pub fn release(&mut self) -> Result<(), String> {
        for _ in 0..MOST_TIDYINGS {
            self.rest()?;
            if self.set_aside().is_empty() {
                return Ok(());
            }
            match self.random.percent(50) {
                true => self.operate(&Operate::Retry),
                false => self.pass(RETRY_MS),
            }
        }
        Err(format!("{:?} stay set aside", self.set_aside()))
    }

    /// Who is set aside and how to get there.
    pub(super) fn set_aside(&self) -> Vec<Address> {
        self.bus.rows(&self.topics.state(), |rows| {
            let marks = rows.iter().filter(|((_, row_key), _)| row_key.starts_with(&key::quarantined()));
            marks.map(|(_, row)| envelope::open::<Quarantined>(row).expect("a quarantine row").to).collect()
        })
    }

    /// Whether something is wrong with a row of it.
    pub fn is_damaged(&self, of: &EntityKey) -> bool {
        self.damages.iter().any(|damage| damage.place.of == *of)
    }

    /// All rows of entities.
    fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        let mut add = |partition: u32, row_key: &[u8], of: EntityKey, row: &str| {
            if !row.starts_with('~') {
                places.push(Place { partition, key: row_key.to_vec(), of, row: row.to_owned() });
            }
        };
        self.bus.rows(&self.topics.state(), |rows| {
            for ((partition, row_key), row) in rows {
                if key::pack_of(row_key).is_some() {
                    for (entity, rows) in Pack::open(row).expect("a pack").entities() {
                        let of = key::parse(entity).expect("an entity's key").0;
                        rows.for_each(|(name, _)| add(*partition, row_key, of.clone(), name));
                    }
                } else if let Some((of, name)) = key::parse(row_key) {
                    add(*partition, row_key, of, &name);
                }
            }
        });
        places
    }

    fn row_at(&self, place: &Place) -> Option<Vec<u8>> {
        self.bus.rows(&self.topics.state(), |rows| {
            let row = rows.get(&(place.partition, place.key.clone()))?;
            match key::pack_of(&place.key) {
                Some(_) => Some(Pack::open(row).expect("a pack").get(&key::entity(&place.of), &place.row)?.to_vec()),
                None => Some(row.clone()),
            }
        })
    }

    /// Rows of the state topic are changed while no processor runs.
    fn rewrite(&mut self, rows: Vec<(Place, Vec<u8>)>) {
        if rows.is_empty() {
            return;
        }
        let was_calm = self.faults.is_calm();
        self.faults.calm(true);
        for processor in &mut self.processors {
            if let Some(running) = processor.running.take() {
                running.stop().expect("it leaves");
            }
        }
        for (place, row) in rows {
            let value = match key::pack_of(&place.key) {
                Some(_) => self.bus.rows(&self.topics.state(), |rows| {
                    let mut pack = Pack::open(&rows[&(place.partition, place.key.clone())]).expect("a pack");
                    let left = pack.put(&key::entity(&place.of), &place.row, Some(row));
                    assert!(left.is_empty(), "it stays in its pack");
                    pack.seal()
                }),
                None => Some(row),
            };
            let (topic, partition, key) = (self.topics.state(), Some(place.partition), Some(place.key));
            self.append(Outgoing { topic, partition, key, value: value.map(Into::into), headers: Vec::new() });
        }
        self.faults.calm(was_calm);
    }
}
