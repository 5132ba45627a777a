//! An identity's attributes as the rules see them: borrowed from its records, each in a slot that is known when the rules are
//! compiled. Nothing is copied and no name is compared while rules run.

use crate::model::{Attributes, Value};
use std::fmt;
use std::sync::Arc;

/// The names of all attributes that a bundle's kinds declare; a name's place among them is its slot.
#[derive(Debug, Default)]
pub struct Slots {
    /// Sorted, each once.
    names: Vec<String>,
}

/// The place of an attribute in every `Merged` of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u16);

/// Some slots. Beyond the 127th they share one bit: those count as one, so that a question whether two sets meet may be
/// answered with yes too often, and never with no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotSet(u128);

/// What the records say of each attribute, or nothing.
#[derive(Clone)]
pub struct Merged<'a> {
    slots: Arc<Slots>,
    /// With its place in the attribute's precedence.
    values: Vec<Option<(&'a Value, usize)>>,
}

impl Slots {
    /// More names than slots can be numbered are beyond what a rule file may hold.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Arc<Self> {
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(usize::from(u16::MAX));
        Arc::new(Self { names })
    }

    pub fn of(&self, name: &str) -> Option<Slot> {
        let at = self.names.binary_search_by(|own| own.as_str().cmp(name)).ok()?;
        u16::try_from(at).ok().map(Slot)
    }
}

impl SlotSet {
    const SHARED: u32 = u128::BITS - 1;

    pub fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << u32::from(slot.0).min(Self::SHARED);
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl<'a> Merged<'a> {
    /// Nobody says anything of any attribute.
    pub fn nothing(slots: &Arc<Slots>) -> Self {
        Self { slots: Arc::clone(slots), values: vec![None; slots.names.len()] }
    }

    /// Attributes that are merged already; what no kind declares is left out.
    pub fn of(slots: &Arc<Slots>, attributes: &'a Attributes) -> Self {
        let mut merged = Self::nothing(slots);
        for (name, value) in attributes.iter().filter(|(_, value)| **value != Value::Null) {
            if let Some(slot) = slots.of(name) {
                merged.offer(slot, value, 0);
            }
        }
        merged
    }

    /// Takes a value if none of the same or an earlier place is there.
    pub(super) fn offer(&mut self, slot: Slot, value: &'a Value, rank: usize) {
        let held = &mut self.values[usize::from(slot.0)];
        if held.is_none_or(|(_, before)| rank < before) {
            *held = Some((value, rank));
        }
    }

    /// None where it is null, too.
    pub fn at(&self, slot: Slot) -> Option<&'a Value> {
        self.values.get(usize::from(slot.0)).copied().flatten().map(|(value, _)| value)
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.slots.of(name).and_then(|slot| self.at(slot))
    }

    /// A copy that stands for itself; what is null isn't in it.
    pub fn to_attributes(&self) -> Attributes {
        self.said().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }

    fn said(&self) -> impl Iterator<Item = (&str, &'a Value)> {
        self.slots.names.iter().zip(&self.values).filter_map(|(name, held)| Some((name.as_str(), (*held)?.0)))
    }
}

/// Names and types only.
impl fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.said()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_slot_and_null_is_nothing() {
        let slots = Slots::new(["mail", "given", "mail"]);
        let attributes = Attributes::from([("given", "Ada".into()), ("mail", Value::Null), ("other", true.into())]);
        let merged = Merged::of(&slots, &attributes);
        assert_eq!(merged.get("given"), Some(&"Ada".into()));
        assert_eq!((merged.get("mail"), merged.get("other"), slots.of("other")), (None, None, None));
        assert_eq!(merged.to_attributes(), Attributes::from([("given", "Ada".into())]));
        assert_eq!(format!("{merged:?}"), r#"{"given": text}"#);
    }

    #[test]
    fn slots_that_share_a_bit_are_never_taken_for_apart() {
        let names: Vec<String> = (0..300).map(|n| format!("a{n:03}")).collect();
        let slots = Slots::new(names.iter().map(String::as_str));
        let set = |at: usize| SlotSet::from_iter(slots.of(&names[at]));
        for one in [0, 1, 126, 127, 128, 299] {
            for other in [0, 1, 126, 127, 128, 299] {
                assert_eq!(set(one).meets(set(other)), one == other || (one >= 127 && other >= 127), "{one} {other}");
            }
        }
        assert!(SlotSet::default().is_empty() && !set(299).is_empty());
    }
}
