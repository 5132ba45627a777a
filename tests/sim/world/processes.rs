//! The processes of the simulated installation: how they start, take a turn, and make their calls.

use super::*;

impl World {
    pub(super) fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let processors = self.processors.iter_mut().map(|processor| &mut processor.process);
        processors.chain(self.workers.iter_mut().map(|worker| &mut worker.process))
    }

    pub(super) fn own_clock(&self, process: &Process) -> Now {
        Arc::new(OwnClock { truth: self.clock.clone(), off: process.off.clone() })
    }

    pub(super) fn turn_processor(&mut self, which: usize) -> bool {
        let now = self.now();
        if self.processors[which].process.not_before > now {
            return false;
        }
        if self.processors[which].running.is_none() {
            match self.start_processor(which) {
                Ok(started) => self.processors[which].running = Some(started),
                Err(error) => {
                    assert!(!self.faults.is_calm(), "seed {}: no processor starts: {error}", self.seed);
                    return true;
                }
            }
        }
        let processor = &mut self.processors[which];
        processor.process.idle_at = -1;
        match processor.running.as_mut().expect("just started").turn(Duration::ZERO) {
            Ok(turn) => {
                let busy = turn.committed || turn.more;
                if !busy {
                    processor.process.idle_at = now;
                }
                busy
            }
            Err(error) => {
                assert!(!self.faults.is_calm(), "seed {}: a processor stopped: {error}", self.seed);
                processor.running = None;
                true
            }
        }
    }

    pub(super) fn start_processor(&self, which: usize) -> Result<Processor, lockstep::runtime::ProcessorError> {
        let process = &self.processors[which].process;
        let metrics = Arc::new(Metrics::new());
        let settings = ProcessorSettings {
            topics: self.topics.clone(),
            group: GROUP.to_owned(),
            instance: process.instance.clone(),
            inbox_partitions: self.layout.inbox_partitions,
            record_bytes: self.processors[which].record_bytes,
            dead_letter_bytes: 1 << 20,
            through_inbox: self.layout.through_inbox,
            cache_bytes: 4 << 10,
            // In the turns, and a few records in each, so that there is always something half restored.
            restore: RestoreSettings { threads: 0, chunk: 5 },
            slice: 7,
            threads: 1,
        };
        let public = Arc::new(PublicCodec::new(None));
        let sources = SourceDecoder::new(None, [TENANT.into()].into(), 262_144);
        let codecs = Codecs { public: Arc::clone(&public), sources };
        let publisher = Publisher::new(public, Arc::clone(&metrics));
        Processor::start(
            settings,
            Arc::new(self.bus.clone()),
            Arc::new(process.disk.clone()),
            &mut Announcement::of(rules::bundle(self.version, self.story.choices)),
            publisher,
            Arc::new(codecs),
            metrics,
            Arc::default(),
            self.own_clock(process),
        )
    }

    pub(super) fn start_worker(&mut self, which: usize) -> Result<LaneLoop, lockstep::worker::WorkerError> {
        let now = self.own_clock(&self.workers[which].process);
        let worker = &mut self.workers[which];
        worker.newest = Arc::new(Newest::new());
        let settings = LaneSettings {
            topics: self.topics.clone(),
            target: worker.target.into(),
            group: worker_group(worker.target),
            instance: worker.process.instance.clone(),
            format: PublicFormat::Json,
            policy: RetryPolicy::new(CALL_TIMEOUT, Instant::now()),
            concurrency: 3,
            dead_letter_bytes: 1 << 20,
        };
        LaneLoop::start(
            settings,
            Arc::new(self.bus.clone()),
            Arc::new(worker.process.disk.clone()),
            Arc::new(PublicCodec::new(None)),
            Arc::new(Metrics::new()),
            Arc::clone(&worker.newest),
            now,
        )
    }

    pub(super) fn turn_worker(&mut self, which: usize) -> bool {
        self.arrivals();
        let now = self.now();
        if self.workers[which].process.not_before > now {
            return false;
        }
        if self.workers[which].running.is_none() {
            match self.start_worker(which) {
                Ok(started) => self.workers[which].running = Some(started),
                Err(error) => {
                    assert!(!self.faults.is_calm(), "seed {}: no worker starts: {error}", self.seed);
                    return true;
                }
            }
        }
        self.moments(which);
        let worker = &mut self.workers[which];
        let ended = std::mem::take(&mut worker.ended);
        let had = !ended.is_empty();
        let lanes = worker.running.as_mut().expect("just started");
        match lanes.turn(ended, Duration::ZERO) {
            Ok(started) => {
                let busy = had || !started.is_empty() || !worker.calls.is_empty() || lanes.in_flight() > 0;
                for started in started {
                    self.begin(which, started);
                }
                busy || !self.bus.is_read(&worker_group(self.workers[which].target))
            }
            Err(error) => {
                assert!(!self.faults.is_calm(), "seed {}: a worker stopped: {error}", self.seed);
                self.end_worker(which);
                true
            }
        }
    }

    pub(super) fn begin(&mut self, which: usize, started: StartedCall) {
        let now = self.now();
        let worker = &mut self.workers[which];
        let (connector, newest) = (Arc::clone(&self.targets[worker.target]), Arc::clone(&worker.newest));
        let StartedCall { id, call, .. } = started;
        let call = Box::pin(async move { make(connector.as_ref(), &call, &newest, NEVER).await });
        worker.calls.push(InFlight { id, sent: now, at: now, under_way: false, ended: None, call });
    }

    /// The process takes answers in and sends requests. One that stood still for longer than an exchange may take sends none
    /// any more (`worker::Patience`, which goes by the machine's clock).
    pub(super) fn moments(&mut self, which: usize) {
        let now = self.now();
        let _runtime = self.calls.enter();
        let worker = &mut self.workers[which];
        let mut calls = Vec::new();
        for mut call in std::mem::take(&mut worker.calls) {
            let too_late = now - call.sent > EXCHANGE_MS;
            if call.ended.is_none() && too_late && (!call.under_way || now - call.sent > 2 * EXCHANGE_MS) {
                let (class, message) = (ErrorClass::UnknownOutcome, "no answer in time".to_owned());
                call.ended = Some(Ended::Failed { class, message, retry_after: None });
            } else if call.ended.is_none() && !call.under_way && call.at <= now && !call.go_on() {
                (call.under_way, call.sent) = (true, now);
                call.at = now + latency(&mut self.random, &self.faults);
            }
            match call.ended.take() {
                Some(ended) => worker.ended.push(Completion { id: call.id, ended }),
                None => calls.push(call),
            }
        }
        worker.calls = calls;
    }

    /// Requests that are under way arrive, those of processes that are gone, too.
    pub(super) fn arrivals(&mut self) {
        let now = self.now();
        let _runtime = self.calls.enter();
        for call in self.workers.iter_mut().flat_map(|worker| &mut worker.calls) {
            if call.under_way && call.at <= now {
                call.under_way = false;
                call.go_on();
                call.at = now + latency(&mut self.random, &self.faults);
            }
        }
        let (arrived, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.orphans).into_iter().partition(|call| call.at <= now);
        self.orphans = waiting;
        for mut call in arrived {
            self.faults.count("request of a dead process arrived");
            call.go_on();
        }
    }

    /// The worker is gone. What it had asked a target to do may still arrive, within the time-out of an exchange.
    pub(super) fn end_worker(&mut self, which: usize) {
        let worker = &mut self.workers[which];
        worker.running = None;
        worker.ended.clear();
        for call in std::mem::take(&mut worker.calls) {
            if call.under_way && self.random.percent(60) {
                self.orphans.push(call);
            }
        }
    }

    // --- what goes wrong
}
