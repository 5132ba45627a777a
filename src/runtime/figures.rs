//! Gauges of what is open: deprovisions, dead letters, held removals, quarantined entities.
//!
//! They are read off the rows of the partitions that this process has, as committed, and off nothing else: so they are right
//! after a restart, after an aborted transaction and after an operator's change alike, and as every partition has one owner
//! their sum over all processors counts everything once. No other kind of process shows them.

use crate::entity::{AccountRow, GuardHead, key};
use crate::model::{EntityKey, TargetName, TenantId, Timestamp, envelope};
use crate::store::{Store, StoreError, Write};
use crate::telemetry::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Rows looked through at once when a partition comes: of what is open only, however many people there are.
const SCAN: usize = 2_000;
/// Adding up takes time when much is open, and a scrape comes every few seconds at most.
const SHOW_EVERY: Duration = Duration::from_millis(500);

type Place = (TenantId, TargetName);

pub struct Figures {
    metrics: Arc<Metrics>,
    partitions: BTreeMap<u32, Open>,
    /// Series that were ever set: they go back to 0, for one that vanishes is no longer compared with anything.
    shown: BTreeSet<Place>,
    shown_at: Timestamp,
}

/// The figures of a partition that nobody counts for now.
pub struct Aside(Open);

/// What is open in one partition.
#[derive(Default)]
struct Open {
    /// By the row's key.
    accounts: BTreeMap<Vec<u8>, OpenAccount>,
    held: BTreeMap<TenantId, BTreeMap<TargetName, u64>>,
    quarantined: BTreeSet<Vec<u8>>,
}

struct OpenAccount {
    place: Place,
    /// Of the deprovision whose clock runs.
    effective: Option<Timestamp>,
    dead: bool,
}

#[derive(Default)]
struct Sum {
    deprovisions: i64,
    oldest: Option<Timestamp>,
    dead: i64,
    held: i64,
}

impl Figures {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, partitions: BTreeMap::new(), shown: BTreeSet::new(), shown_at: Timestamp::default() }
    }

    fn put(&mut self, id: u32, open: Open) {
        self.partitions.insert(id, open);
        self.shown_at = Timestamp::default();
    }

    /// A partition has come, or come again.
    pub fn restored(&mut self, id: u32, store: &dyn Store) -> Result<(), StoreError> {
        let mut open = Open::default();
        for prefix in [key::opens(), key::guards(), key::quarantined()] {
            let mut from = prefix.clone();
            loop {
                let rows = store.scan(&prefix, &from, SCAN)?;
                let Some((last, _)) = rows.last() else { break };
                from = [last.as_slice(), &[0]].concat();
                rows.iter().for_each(|(key, value)| open.row(key, Some(value)));
            }
        }
        self.put(id, open);
        Ok(())
    }

    /// A partition's figures leave the sums, and are given to whoever may bring them back.
    pub fn set_aside(&mut self, id: u32) -> Aside {
        self.shown_at = Timestamp::default();
        Aside(self.partitions.remove(&id).unwrap_or_default())
    }

    /// The partition has come back as it went.
    pub fn take_back(&mut self, id: u32, Aside(open): Aside) {
        self.put(id, open);
    }

    /// These rows are committed.
    pub fn written(&mut self, id: u32, writes: &[Write]) {
        let open = self.partitions.entry(id).or_default();
        writes.iter().for_each(|write| open.row(&write.key, write.value.as_deref()));
    }

    /// The partitions went to another process.
    pub fn forget(&mut self) {
        self.partitions.clear();
        self.shown_at = Timestamp::default();
    }

    /// Sets the gauges as of `now`, not more often than is of use.
    pub fn show(&mut self, now: Timestamp) {
        if now.since(self.shown_at) < SHOW_EVERY && now >= self.shown_at {
            return;
        }
        self.shown_at = now;
        self.set(now);
    }

    fn set(&mut self, now: Timestamp) {
        let mut sums: BTreeMap<Place, Sum> = self.shown.iter().map(|place| (place.clone(), Sum::default())).collect();
        for open in self.partitions.values() {
            for account in open.accounts.values() {
                let sum = sums.entry(account.place.clone()).or_default();
                sum.dead += i64::from(account.dead);
                if let Some(effective) = account.effective {
                    sum.deprovisions += 1;
                    sum.oldest = Some(sum.oldest.map_or(effective, |oldest| oldest.min(effective)));
                }
            }
            for (tenant, targets) in &open.held {
                for (target, count) in targets {
                    sums.entry((tenant.clone(), target.clone())).or_default().held += *count as i64;
                }
            }
        }
        let mut dead: BTreeMap<&TargetName, i64> = BTreeMap::new();
        for ((tenant, target), sum) in &sums {
            let labels = [tenant.as_str(), target.as_str()];
            let age = sum.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
            self.metrics.deprovisions_open.of(labels).set(sum.deprovisions);
            self.metrics.deprovision_oldest_age_seconds.of(labels).set(age);
            self.metrics.held.of(labels).set(sum.held);
            *dead.entry(target).or_default() += sum.dead;
        }
        for (target, count) in dead {
            self.metrics.dead_letters_open.of([target.as_str()]).set(count);
        }
        let quarantined: usize = self.partitions.values().map(|open| open.quarantined.len()).sum();
        self.metrics.quarantined_entities.set(quarantined as i64);
        self.shown.extend(sums.into_keys());
    }
}

/// A loop that ends, well or not, counts nothing any more: it may begin anew, and others may have its partitions by then.
impl Drop for Figures {
    fn drop(&mut self) {
        self.forget();
        self.set(Timestamp::default());
        self.metrics.partitions_behind_rules.set(0);
        self.metrics.partitions_direct.set(0);
    }
}

impl Open {
    fn row(&mut self, row_key: &[u8], value: Option<&[u8]>) {
        let copy = key::open_of(row_key);
        let Some((of, row)) = key::parse(copy.unwrap_or(row_key)) else { return };
        match (of, row.as_str()) {
            (_, key::QUARANTINE) => match value {
                Some(_) => drop(self.quarantined.insert(row_key.to_vec())),
                None => drop(self.quarantined.remove(row_key)),
            },
            (EntityKey::Identity { tenant, .. }, _) if copy.is_some() => {
                let row = value.and_then(|value| envelope::open::<AccountRow>(value).ok());
                match row.filter(|row| row.dead || row.clock.is_some()) {
                    Some(row) => {
                        let effective = row.clock.map(|clock| clock.effective);
                        let account = OpenAccount { place: (tenant, row.target), effective, dead: row.dead };
                        self.accounts.insert(row_key.to_vec(), account);
                    }
                    None => drop(self.accounts.remove(row_key)),
                }
            }
            (EntityKey::Guard { tenant }, key::HEAD) => {
                let head = value.and_then(|value| envelope::open::<GuardHead>(value).ok()).unwrap_or_default();
                self.held.insert(tenant, head.held);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::Clock;
    use crate::store::Stores;
    use crate::store::memory::MemoryStores;

    fn account(target: &str, person: &str, change: impl FnOnce(&mut AccountRow)) -> Write {
        let mut row = AccountRow::new(&"acme".into(), &target.into(), &person.into());
        change(&mut row);
        let of = EntityKey::Identity { tenant: "acme".into(), identity: person.into() };
        let key = key::open(&key::entity(&of), &AccountRow::row(&target.into()));
        Write { key, value: row.is_open().then(|| envelope::seal(&row).into()), timer: None }
    }

    fn clock(effective: i64) -> Option<Clock> {
        let (effective, deadline) = (Timestamp(effective), Timestamp(effective + 1));
        Some(Clock { effective, deadline, overdue: false, generation: None })
    }

    fn holds(count: u64) -> Write {
        let held = if count == 0 { BTreeMap::new() } else { BTreeMap::from([("wiki".into(), count)]) };
        let head = GuardHead { held, ..GuardHead::default() };
        let key = key::row(&EntityKey::Guard { tenant: "acme".into() }, key::HEAD);
        Write { key, value: Some(envelope::seal(&head).into()), timer: None }
    }

    fn shows(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.render();
        for line in lines {
            assert!(text.lines().any(|shown| shown == *line), "{line} is missing in\n{text}");
        }
    }

    /// What is open: two clocks, a dead letter, seven held removals, an entity in quarantine.
    fn rows() -> Vec<Write> {
        let index = EntityKey::Index { tenant: "acme".into(), attribute: "mail".into(), value: "x".into() };
        vec![
            account("wiki", "a", |row| row.clock = clock(4_000)),
            account("wiki", "b", |row| (row.clock, row.dead) = (clock(1_000), true)),
            account("wiki", "c", |_| ()),
            holds(7),
            Write { key: key::row(&index, key::QUARANTINE), value: Some("of any release".into()), timer: None },
            Write { key: key::row(&index, "~t/~retry"), value: Some(vec![0; 8].into()), timer: Some(Timestamp(1)) },
        ]
    }

    const OPEN: [&str; 5] = [
        r#"lockstep_deprovisions_open{target="wiki",tenant="acme"} 2"#,
        r#"lockstep_deprovision_oldest_age_seconds{target="wiki",tenant="acme"} 9"#,
        r#"lockstep_dead_letters_open{target="wiki"} 1"#,
        r#"lockstep_held{target="wiki",tenant="acme"} 7"#,
        "lockstep_quarantined_entities 1",
    ];

    #[test]
    fn rows_as_they_are_committed_and_rows_that_were_there_give_the_same_figures() {
        let metrics = Arc::new(Metrics::new());
        let mut live = Figures::new(Arc::clone(&metrics));
        live.written(0, &rows());
        live.written(0, &rows());
        live.show(Timestamp(10_000));
        shows(&metrics, &OPEN);

        let metrics = Arc::new(Metrics::new());
        let mut store = MemoryStores::new().open("state", 0).unwrap();
        store.apply(&rows(), 1).unwrap();
        let mut restarted = Figures::new(Arc::clone(&metrics));
        restarted.restored(0, store.as_ref()).unwrap();
        restarted.restored(0, store.as_ref()).unwrap();
        restarted.show(Timestamp(10_000));
        shows(&metrics, &OPEN);
    }

    #[test]
    fn what_is_over_or_elsewhere_counts_no_longer_and_its_series_stay_at_0() {
        let metrics = Arc::new(Metrics::new());
        let mut figures = Figures::new(Arc::clone(&metrics));
        figures.written(0, &rows());
        figures.show(Timestamp(10_000));
        figures.written(0, &[account("wiki", "b", |_| ()), holds(0)]);
        figures.show(Timestamp(10_000));
        shows(&metrics, &OPEN);
        figures.show(Timestamp(10_500));
        shows(
            &metrics,
            &[
                r#"lockstep_deprovisions_open{target="wiki",tenant="acme"} 1"#,
                r#"lockstep_deprovision_oldest_age_seconds{target="wiki",tenant="acme"} 6.5"#,
                r#"lockstep_dead_letters_open{target="wiki"} 0"#,
                r#"lockstep_held{target="wiki",tenant="acme"} 0"#,
            ],
        );
        figures.forget();
        figures.show(Timestamp(10_501));
        shows(
            &metrics,
            &[
                r#"lockstep_deprovisions_open{target="wiki",tenant="acme"} 0"#,
                r#"lockstep_deprovision_oldest_age_seconds{target="wiki",tenant="acme"} 0"#,
                "lockstep_quarantined_entities 0",
            ],
        );
    }

    #[test]
    fn a_loop_that_ends_leaves_no_figure_as_it_was() {
        let metrics = Arc::new(Metrics::new());
        let mut figures = Figures::new(Arc::clone(&metrics));
        figures.written(0, &rows());
        figures.show(Timestamp(10_000));
        metrics.partitions_behind_rules.set(1);
        shows(&metrics, &OPEN);
        drop(figures);
        shows(
            &metrics,
            &[
                r#"lockstep_deprovisions_open{target="wiki",tenant="acme"} 0"#,
                r#"lockstep_deprovision_oldest_age_seconds{target="wiki",tenant="acme"} 0"#,
                r#"lockstep_dead_letters_open{target="wiki"} 0"#,
                r#"lockstep_held{target="wiki",tenant="acme"} 0"#,
                "lockstep_quarantined_entities 0",
                "lockstep_partitions_behind_rules 0",
            ],
        );
    }
}
