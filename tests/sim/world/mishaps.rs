//! What goes wrong, as the seed has it.

use super::*;

impl World {
    pub(super) fn go_wrong(&mut self) {
        match self.random.below(17) {
            0 if self.faults.happens("processor crash", 600) => {
                let which = self.random.below(self.processors.len() as u64) as usize;
                self.processors[which].running = None;
                let off = self.down_for();
                self.processors[which].process.not_before = off;
                let faults = self.faults.clone();
                spoil(&mut self.processors[which].process, &faults);
            }
            1 if self.faults.happens("worker crash", 600) => {
                let which = self.random.below(self.workers.len() as u64) as usize;
                self.end_worker(which);
                let off = self.down_for();
                self.workers[which].process.not_before = off;
                let faults = self.faults.clone();
                spoil(&mut self.workers[which].process, &faults);
            }
            2 => {
                let now = self.now();
                let until = now + self.random_below(5 * 60_000);
                if self.faults.happens("process hung", 500) {
                    self.some_process().not_before = until;
                }
            }
            3..5 => self.expire(),
            5 if self.faults.happens("clock off", 400) => {
                let by = self.random_below(2 * SKEW_MS as u64) - SKEW_MS;
                self.some_process().off.set(Timestamp(by));
                self.pass(0);
            }
            6 if self.faults.happens("clock jumped forward", 150) => {
                let by = self.random_below(2 * 3_600_000);
                self.jump(by);
            }
            7 if self.faults.happens("clock jumped back", 150) => {
                let by = -self.random_below(2 * 3_600_000);
                self.jump(by);
            }
            8 | 9 => self.repeat_a_command(),
            // The last look at a deprovision comes a day after it.
            10 if self.faults.happens("disable undone at the target", 400) => {
                match self.targets[TARGETS[0]].undo(Duration::from_secs(20 * 3_600)) {
                    Some(account) => self.unwanted.retain(|_, (of, _)| *of != account),
                    None => self.faults.count("(nothing to undo)"),
                }
            }
            11 if self.faults.happens("process stopped and started", 400) => self.stop_one(),
            12 | 13 => self.damage(),
            14 => self.limit_rows(),
            _ => {
                let process = self.some_process();
                process.old_disk = process.disk.snapshot();
            }
        }
    }

    /// As in a rolling restart: it leaves the group, and comes back.
    pub(super) fn stop_one(&mut self) {
        let which = self.random.below((self.processors.len() + self.workers.len()) as u64) as usize;
        match which.checked_sub(self.processors.len()) {
            None => {
                if let Some(processor) = self.processors[which].running.take() {
                    processor.stop().expect("it leaves");
                }
            }
            Some(which) => {
                if let Some(lanes) = self.workers[which].running.take() {
                    lanes.stop().expect("it leaves");
                }
                self.end_worker(which);
            }
        }
    }

    pub(super) fn down_for(&mut self) -> i64 {
        let now = self.now();
        match self.random.below(3) {
            0 => now,
            1 => now + self.random_below(20_000),
            _ => now + self.random_below(10 * 60_000),
        }
    }

    pub(super) fn some_process(&mut self) -> &mut Process {
        let which = self.random.below((self.processors.len() + self.workers.len()) as u64) as usize;
        self.processes().nth(which).expect("there are so many")
    }

    /// For a moment, in which it does something.
    pub(super) fn jump(&mut self, by: i64) {
        let which = self.random.below((self.processors.len() + self.workers.len()) as u64) as usize;
        let is_worker = which >= self.processors.len();
        if by > 0
            && is_worker
            && (!self.orphans.is_empty() || self.workers.iter().any(|worker| !worker.calls.is_empty()))
        {
            // An open end (docs/open.md, a clock that jumps forward): it would take the call of another, or of before a rebalance,
            // for over.
            self.faults.count("(no jump forward: calls are under way)");
            return;
        }
        let process = self.processes().nth(which).expect("there are so many");
        let was = process.off.now();
        process.off.set(Timestamp(by));
        self.pass(0);
        for _ in 0..3 {
            match which.checked_sub(self.processors.len()) {
                None => self.turn_processor(which),
                Some(which) => self.turn_worker(which),
            };
        }
        self.processes().nth(which).expect("it is still there").off.set(was);
    }

    /// All processors stop, and the state becomes what the former release would have left: the next start is an update.
    pub(super) fn update_from_the_former_release(&mut self) {
        // What is set aside stays so; only what can be read can be written as the former release would have.
        self.mend_state(true);
        let was_calm = self.faults.is_calm();
        self.faults.calm(true);
        for processor in &mut self.processors {
            if let Some(running) = processor.running.take() {
                running.stop().expect("it leaves");
            }
            processor.process.disk.wipe();
            processor.process.old_disk = processor.process.disk.snapshot();
        }
        let state = self.topics.state();
        let records = self.bus.rows(&state, |rows| former::state(&state, rows));
        self.bus.append(records).expect("it is calm");
        self.faults.calm(was_calm);
        self.faults.count("update from the former release");
    }

    /// The session of one that hangs or is down runs out, and others take over.
    pub(super) fn expire(&mut self) {
        let now = self.now();
        let mut gone: Vec<(String, String)> = Vec::new();
        for processor in self.processors.iter().filter(|processor| processor.process.not_before > now) {
            gone.push((GROUP.to_owned(), processor.process.instance.clone()));
        }
        for worker in self.workers.iter().filter(|worker| worker.process.not_before > now) {
            gone.push((worker_group(worker.target), worker.process.instance.clone()));
        }
        for (group, instance) in gone {
            if self.faults.happens("session ran out", 700) {
                self.bus.expire(&group, &instance);
            }
        }
    }

    /// Somebody replays an old command, as at-least-once tools do.
    pub(super) fn repeat_a_command(&mut self) {
        let target = *self.random.pick(&TARGETS);
        let topic = self.topics.commands(&target.into());
        let count = self.bus.count(&topic) as u64;
        if count == 0 || !self.faults.happens("old command replayed", 400) {
            return;
        }
        let again = self.bus.record(&topic, self.random.below(count) as usize);
        let headers = vec![(REPLAYED.into(), "".into())];
        self.append(Outgoing { headers, ..again });
    }

    // --- what can be seen at any time

    /// Processors are left alone until they have caught up; then whoever is still in past the deadline must be known.
    pub(super) fn calm_moment(&mut self) -> Result<(), String> {
        let straight = self.processors.iter().all(|p| p.process.off.now().0.abs() <= SKEW_MS);
        if self.faults.is_calm() || !straight {
            return Ok(());
        }
        self.faults.calm(true);
        for processor in &mut self.processors {
            processor.process.not_before = 0;
        }
        for _ in 0..200 {
            let busy: Vec<bool> = (0..self.processors.len()).map(|which| self.turn_processor(which)).collect();
            if !busy.contains(&true) && self.bus.is_read(GROUP) {
                break;
            }
        }
        let found = if self.bus.is_read(GROUP) {
            self.watch().and_then(|()| aside::others_go_on(self))
        } else {
            Err("processors don't catch up".to_owned())
        };
        self.faults.calm(false);
        found
    }
}
