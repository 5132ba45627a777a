//! What an auditor sees of the run while it goes on, and of its end.

use super::*;

impl World {
    /// No access past its deadline without an alert.
    pub fn watch(&mut self) -> Result<(), String> {
        self.read_on();
        let (now, workers) = (self.now(), self.story.workers.clone());
        for target in TARGETS {
            let shown = self.targets[target].shown();
            for worker in &workers {
                let account = self.account(worker, target);
                let key = (worker.clone(), target);
                let gone = self.wanted(worker, target) == Wanted::None;
                let undone = self.targets[target].contents.lock().unwrap().undone.contains(&account);
                // What somebody undid Lockstep can know only once it has looked.
                if !gone || undone || !shown.get(&account).is_some_and(|(active, _)| *active) {
                    self.unwanted.remove(&key);
                    continue;
                }
                let since = self.unwanted.entry(key).or_insert((account.clone(), now)).1;
                let open = self.alerts.contains_key(&format!("deprovision/{account}"));
                let (deadline, aside_until) = (since + rules::DEADLINE_MS, self.aside_until(worker));
                if aside_until == now && now - deadline > ALERT_SLACK_MS && !open {
                    self.faults.count("overdue while set aside");
                }
                let due = deadline.max(aside_until);
                if now - due > ALERT_SLACK_MS && !open && !self.is_rejected(&account) {
                    return Err(format!(
                        "{target}: {worker} ({account}) is unwanted for {} s, can still get in, and no alert is open\n{}",
                        (now - since) / 1_000,
                        auditor::history(self, target, &account)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Until when an alert said that nobody hears of this worker.
    fn aside_until(&self, worker: &str) -> i64 {
        let alerts = aside::depends_on(worker).map(|of| aside::alert_of(&of));
        let until = alerts.iter().map(|alert| match self.alerts.contains_key(alert) {
            true => self.now(),
            false => self.released.get(alert).copied().unwrap_or_default(),
        });
        until.max().unwrap_or_default()
    }

    /// Follows the alerts, and what operators rejected.
    pub(super) fn read_on(&mut self) {
        for alert in self.logs.alerts.all(&self.bus, &self.topics.alerts()).iter().skip(self.alerts_read) {
            match alert.state {
                AlertState::Raised => drop(self.alerts.insert(alert.key.clone(), alert.as_ref().clone())),
                AlertState::Resolved => drop(self.alerts.remove(&alert.key)),
            }
            if alert.kind == AlertKind::Quarantined && alert.state == AlertState::Resolved {
                self.released.insert(alert.key.clone(), alert.at.0.min(self.clock.now().0));
            }
            self.alerts_read += 1;
        }
        for result in self.logs.results.all(&self.bus, &self.topics.results()).iter().skip(self.results_read) {
            self.results_read += 1;
            if result.outcome == Outcome::Drifted {
                let mut contents = self.targets[result.target.as_str()].contents.lock().unwrap();
                let undone = contents.undoings.iter().filter(|(_, account)| *account == result.account);
                // Not what was undone once more since.
                if undone.map(|(at, _)| at.0).max().is_none_or(|at| result.at.0 > at + SKEW_MS) {
                    contents.undone.remove(&result.account);
                }
            }
        }
        for decision in self.logs.decisions.all(&self.bus, &self.topics.decisions()).iter().skip(self.decisions_read) {
            self.decisions_read += 1;
            if let DecisionKind::DeprovisionRejected { operation } = &decision.kind
                && self.rejections.contains(operation)
            {
                self.rejected.extend(decision.account.clone());
            }
        }
    }

    /// An operator decided at some time that the account stays.
    pub fn is_rejected(&self, account: &AccountId) -> bool {
        self.rejected.contains(account)
    }

    /// An operator decided that it is not deleted; disabled it is.
    pub fn is_kept(&self, account: &AccountId) -> bool {
        let rejected = |row: &AccountRow| row.account == *account && matches!(row.removal, Removal::Rejected { .. });
        !self.rejections.is_empty() && auditor::account_rows(self).iter().any(rejected)
    }

    /// What the Guard holds.
    pub fn held(&self) -> Vec<Held> {
        self.bus.rows(&self.topics.state(), |rows| {
            let guards = rows.iter().filter(|((_, row_key), _)| row_key.starts_with(&key::guards()));
            let held = guards
                .filter(|((_, row_key), _)| key::parse(row_key).is_some_and(|(_, name)| name.starts_with("held/")));
            held.map(|(_, row)| envelope::open(row).expect("a held row")).collect()
        })
    }

    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let codec = PublicCodec::new(None);
        let letters = |target: &&str| {
            self.bus.rows(&self.topics.dead_letters(&(*target).into()), |rows| {
                rows.values().map(|letter| codec.decode(letter).expect("a dead letter")).collect::<Vec<DeadLetter>>()
            })
        };
        TARGETS.iter().flat_map(letters).collect()
    }
}
