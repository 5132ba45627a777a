//! Rule bundles on the bus: their files by hash on `bundles`, and which one is current.
//!
//! One transaction writes a new bundle, says that it is current, and puts its hash into every inbox partition; each partition
//! switches when it comes to that offset. So every process decides by the same rules at the same place in the log.

use super::restore::STALLED;
use crate::bus::{Bus, BusError, Outgoing};
use crate::model::topic::TopicNames;
use crate::model::{BundleHash, InboxRecord, envelope};
use crate::rules::{Bundle, SourceFile};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_millis(200);

/// The key under which the current bundle's hash stands.
const CURRENT: &[u8] = b"current";

#[derive(Serialize, Deserialize)]
struct Stored {
    files: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the inbox switched to rule bundle {0}, which is not on the bundles topic: was the topic deleted?")]
    Missing(String),
    #[error("{topic}: nothing came for {} s at offset {at} of {end}: does a transaction hang there?", STALLED.as_secs())]
    Stalled { topic: String, at: i64, end: i64 },
    #[error("rule bundle {hash} from the bundles topic: {reason}")]
    Unusable { hash: String, reason: String },
}

/// A process's word that its rules are the current ones: given once, however often its loop begins anew. A loop that failed for a
/// moment must not take everybody back to rules that another process has replaced meanwhile; who starts a process with former rules
/// means it.
pub struct Announcement {
    own: Arc<Bundle>,
    state: Announced,
}

enum Announced {
    No,
    /// It may have been written or not; what was current before.
    Perhaps {
        over: Option<Bytes>,
    },
    Yes,
}

impl Announcement {
    pub fn of(own: Arc<Bundle>) -> Self {
        Self { own, state: Announced::No }
    }

    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.own
    }
}

/// Bundles that this process has compiled, by hash.
pub struct BundleStore {
    bus: Arc<dyn Bus>,
    topics: TopicNames,
    compiled: BTreeMap<String, Arc<Bundle>>,
    /// How long nothing may come although the topic's end is not reached.
    patience: Duration,
}

impl BundleStore {
    pub fn new(bus: Arc<dyn Bus>, topics: TopicNames, own: Arc<Bundle>) -> Self {
        Self { bus, topics, compiled: BTreeMap::from([(own.hash().to_string(), own)]), patience: STALLED }
    }

    /// Makes a process's own bundle the current one of the installation, unless it is already, or this process said so before. True
    /// if it was made so now.
    pub fn announce(&self, announcement: &mut Announcement, inbox_partitions: u32) -> Result<bool, BundleError> {
        if matches!(announcement.state, Announced::Yes) {
            return Ok(false);
        }
        let own = &announcement.own;
        let hash = own.hash().0.as_bytes();
        let current = self.stored()?.remove(CURRENT);
        let was_replaced = matches!(&announcement.state, Announced::Perhaps { over } if *over != current);
        if was_replaced || current.as_deref() == Some(hash) {
            announcement.state = Announced::Yes;
            return Ok(false);
        }
        let files = own.files().iter().map(|file| (file.path.clone(), file.text.clone())).collect();
        let record = |key: &[u8], value: Vec<u8>| Outgoing {
            topic: self.topics.bundles(),
            partition: Some(0),
            key: Some(key.to_vec()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let switch = envelope::seal(&InboxRecord::Switch { bundle: own.hash().clone() });
        let mut records = vec![record(hash, envelope::seal(&Stored { files })), record(CURRENT, hash.to_vec())];
        records.extend((0..inbox_partitions).map(|partition| Outgoing {
            topic: self.topics.inbox(),
            partition: Some(partition),
            key: None,
            value: Some(switch.clone().into()),
            headers: Vec::new(),
        }));
        announcement.state = Announced::Perhaps { over: current };
        self.bus.append(records)?;
        announcement.state = Announced::Yes;
        Ok(true)
    }

    pub fn get(&mut self, hash: &str) -> Result<Arc<Bundle>, BundleError> {
        if let Some(bundle) = self.compiled.get(hash) {
            return Ok(Arc::clone(bundle));
        }
        let stored = self.stored()?;
        let bytes = stored.get(hash.as_bytes()).ok_or_else(|| BundleError::Missing(hash.to_owned()))?;
        let unusable = |reason: String| BundleError::Unusable { hash: hash.to_owned(), reason };
        let Stored { files } = envelope::open(bytes).map_err(|error| unusable(error.to_string()))?;
        let files: Vec<SourceFile> = files.into_iter().map(|(path, text)| SourceFile { path, text }).collect();
        let bundle = Bundle::compile(&files).map_err(|faults| {
            unusable(format!(
                "this release finds {} faults in it; run its rules through `lockstep rules check`",
                faults.len()
            ))
        })?;
        if *bundle.hash() != BundleHash::from(hash) {
            return Err(unusable("its content has another hash".to_owned()));
        }
        let bundle = Arc::new(bundle);
        self.compiled.insert(hash.to_owned(), Arc::clone(&bundle));
        Ok(bundle)
    }

    /// The bundle, unless it can't be used by this release: that is for good, said in the log, and stops no partition.
    pub fn usable(&mut self, hash: &str) -> Result<Option<Arc<Bundle>>, BundleError> {
        match self.get(hash) {
            Ok(bundle) => Ok(Some(bundle)),
            Err(error @ (BundleError::Bus(_) | BundleError::Stalled { .. })) => Err(error),
            Err(error @ (BundleError::Missing(_) | BundleError::Unusable { .. })) => {
                tracing::error!(%error, "the rules that were switched to can't be used; others decide");
                Ok(None)
            }
        }
    }

    /// The topic by key; it is small: one record a bundle that was ever current, compacted.
    fn stored(&self) -> Result<BTreeMap<Vec<u8>, Bytes>, BundleError> {
        let topic = self.topics.bundles();
        let ends = self.bus.ends(&topic, 0)?;
        let mut reader = self.bus.reader()?;
        reader.seek(&topic, 0, ends.start)?;
        let (mut rows, mut heard) = (BTreeMap::new(), Instant::now());
        let mut at = reader.position(&topic, 0)?;
        while at < ends.end {
            for record in reader.poll(100, WAIT)? {
                if let (Some(key), Some(value)) = (record.key, record.value) {
                    rows.insert(key, value);
                }
            }
            let before = std::mem::replace(&mut at, reader.position(&topic, 0)?);
            if at > before {
                heard = Instant::now();
            } else if heard.elapsed() > self.patience {
                return Err(BundleError::Stalled { topic, at, end: ends.end });
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::embedded::{EmbeddedBus, Fault, WallClock};
    use crate::bus::{Ends, Membership, Reader, Session, TopicSpec, TopicState, topics};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn bundle(path: &str) -> Arc<Bundle> {
        let text = "kinds:\n  person:\n    anchor: hr\n    attributes: { PATH: [hr.number] }\n".replace("PATH", path);
        let source = "source: hr\ntopic: hr\ntenant: acme\nformat: json\nevent: { id: id, order: at }\nrecord: { id: n }\n\
             attributes: { number: n }\n";
        let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
        let files = [file("identity.yaml", &text), file("sources/hr.yaml", source)];
        Arc::new(Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:?}")))
    }

    #[test]
    fn what_could_not_be_announced_is_tried_again_unless_another_was_meanwhile() {
        let refused = Arc::new(AtomicBool::new(false));
        let ask = Arc::clone(&refused);
        let faults = move |_: crate::bus::embedded::FaultPoint<'_>| match ask.load(Ordering::SeqCst) {
            true => Fault::Refuse,
            false => Fault::None,
        };
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::memory_with_faults(Arc::new(WallClock), Box::new(faults)));
        let names = TopicNames::new("");
        bus.create(&[names.bundles(), names.inbox()].map(|name| topics::source(&name, 1))).unwrap();
        let announce = |announcement: &mut Announcement| {
            let own = Arc::clone(announcement.bundle());
            BundleStore::new(Arc::clone(&bus), names.clone(), own).announce(announcement, 1)
        };
        let of = |path| Announcement::of(bundle(path));
        let (mut first, mut second, mut third) = (of("a"), of("b"), of("c"));
        refused.store(true, Ordering::SeqCst);
        assert!(announce(&mut first).is_err() && announce(&mut second).is_err());
        refused.store(false, Ordering::SeqCst);
        assert!(announce(&mut first).unwrap(), "nothing came in between");
        assert!(!announce(&mut first).unwrap(), "it is said");
        assert!(!announce(&mut second).unwrap(), "the first was, after the second had looked");
        assert!(announce(&mut third).unwrap());
        assert!(!announce(&mut second).unwrap());
        assert!(announce(&mut of("b")).unwrap(), "who starts a process means it");
    }

    /// What was written last is held by a transaction that nobody ends.
    struct Hanging(EmbeddedBus);

    impl Bus for Hanging {
        fn reader(&self) -> Result<Box<dyn Reader>, BusError> {
            self.0.reader()
        }
        fn ends(&self, topic: &str, partition: u32) -> Result<Ends, BusError> {
            let Ends { start, end } = self.0.ends(topic, partition)?;
            Ok(Ends { start, end: end + 1 })
        }
        fn identity(&self) -> Result<String, BusError> {
            self.0.identity()
        }
        fn join(&self, _: &Membership) -> Result<Box<dyn Session>, BusError> {
            unreachable!("nobody joins")
        }
        fn commit_markers(&self) -> i64 {
            unreachable!("nobody commits")
        }
        fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError> {
            self.0.partitions(topic)
        }
        fn append(&self, records: Vec<Outgoing>) -> Result<(), BusError> {
            self.0.append(records)
        }
        fn describe(&self, topics: &[String]) -> Result<Vec<TopicState>, BusError> {
            self.0.describe(topics)
        }
        fn create(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
            self.0.create(specs)
        }
        fn configure(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
            self.0.configure(topic, settings)
        }
    }

    #[test]
    fn a_topic_whose_end_never_comes_is_an_error_and_no_rules_are_taken_for_lost() {
        let names = TopicNames::new("");
        let bus = Hanging(EmbeddedBus::memory(Arc::new(WallClock)));
        bus.create(&[topics::source(&names.bundles(), 1)]).unwrap();
        let own = bundle("a");
        let mut store = BundleStore::new(Arc::new(bus), names, Arc::clone(&own));
        store.patience = Duration::from_millis(300);
        let refused = store.announce(&mut Announcement::of(own), 1);
        assert!(matches!(refused, Err(BundleError::Stalled { at: 0, end: 1, .. })), "{refused:?}");
        assert!(matches!(store.usable("another"), Err(BundleError::Stalled { .. })));
    }
}
