//! The worker on threads: the lane loop on one of its own, calls on the async runtime.

use super::call::{Newest, Patience, make};
use super::lanes::{Completion, LaneLoop, StartedCall, WorkerError};
use crate::connector::Connector;
use crate::lane::Ended;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How long a poll may wait with no call under way, and with one: a call's end is noticed no later.
const IDLE_WAIT: Duration = Duration::from_millis(100);
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// Exchanges of one call: a read, the change, and the read-back.
const MOST_EXCHANGES: u32 = 3;

pub type ShellError = WorkerError;

pub struct Shell {
    pub lanes: LaneLoop,
    pub connector: Arc<dyn Connector>,
    pub newest: Arc<Newest>,
    pub metrics: Arc<Metrics>,
    pub target: String,
    /// Of one exchange with the target.
    pub exchange_timeout: Duration,
    pub runtime: Handle,
}

impl Shell {
    /// Runs until cancelled: then calls under way get their time to end, and their results are committed. `beat` sees the loop
    /// after each turn.
    pub fn run(mut self, cancel: &CancellationToken, mut beat: impl FnMut(&LaneLoop)) -> Result<(), ShellError> {
        // As many as calls under way, so bounded by the concurrency.
        let (ended, completions) = channel();
        while !cancel.is_cancelled() {
            self.turn(&completions, &ended, true)?;
            beat(&self.lanes);
        }
        let until = Instant::now() + self.exchange_timeout * MOST_EXCHANGES;
        while self.lanes.in_flight() > 0 && Instant::now() < until {
            self.turn(&completions, &ended, false)?;
        }
        self.lanes.stop()
    }

    fn turn(
        &mut self,
        completions: &Receiver<Completion>,
        ended: &Sender<Completion>,
        start: bool,
    ) -> Result<(), ShellError> {
        let wait = if self.lanes.in_flight() > 0 { BUSY_WAIT } else { IDLE_WAIT };
        let done: Vec<Completion> = completions.try_iter().collect();
        self.lanes.hold_back(!start);
        for started in self.lanes.turn(done, wait)? {
            self.call(started, ended.clone());
        }
        Ok(())
    }

    fn call(&self, started: StartedCall, ended: Sender<Completion>) {
        let (connector, newest, metrics) =
            (Arc::clone(&self.connector), Arc::clone(&self.newest), Arc::clone(&self.metrics));
        let target = self.target.clone();
        let patience = Patience { exchange: self.exchange_timeout, began: started.began };
        self.runtime.spawn(async move {
            let began = Instant::now();
            let end = make(connector.as_ref(), &started.call, &newest, patience).await;
            let outcome = match &end {
                Ended::Verified { .. } => "verified",
                Ended::Superseded => "superseded",
                Ended::Differs { .. } => "differs",
                Ended::Failed { class, .. } => class.as_str(),
            };
            let labels = [target.as_str(), started.call.op.as_str(), outcome];
            metrics.call_seconds.of(labels).observe(began.elapsed().as_secs_f64());
            // The loop is gone only when the process is about to be.
            let _ = ended.send(Completion { id: started.id, ended: end });
        });
    }
}
