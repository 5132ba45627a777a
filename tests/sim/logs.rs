//! The public topics, decoded once.

use crate::bus::SimBus;
use crate::world::REPLAYED;
use lockstep::codec::public::{Public, PublicCodec};
use lockstep::model::{Alert, Command, Decision, ResultEvent};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

#[derive(Default)]
pub struct Logs {
    /// By target.
    pub commands: [Log<Command>; 2],
    pub results: Log<ResultEvent>,
    pub decisions: Log<Decision>,
    pub alerts: Log<Alert>,
}

pub struct Log<T> {
    read: Cell<usize>,
    records: RefCell<Vec<Rc<T>>>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { read: Cell::new(0), records: RefCell::default() }
    }
}

impl<T: Public> Log<T> {
    /// All that Lockstep ever wrote there, in the order in which it was committed.
    pub fn all(&self, bus: &SimBus, topic: &str) -> Vec<Rc<T>> {
        let codec = PublicCodec::new(None);
        let written = bus.written(topic, self.read.get());
        self.read.set(self.read.get() + written.len());
        let mut records = self.records.borrow_mut();
        for record in written.into_iter().filter(|record| !record.headers.iter().any(|(name, _)| name == REPLAYED)) {
            records.push(Rc::new(codec.decode(&record.value.unwrap_or_default()).expect("a public record")));
        }
        records.clone()
    }
}
