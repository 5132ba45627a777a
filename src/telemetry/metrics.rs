//! Every metric's name, labels, unit and meaning. Whoever measures holds an `Arc<Metrics>`; nobody else makes a metric.
//!
//! Labels are names from the config (tenant, target, source), partitions, or words from a closed enum, so the number of
//! series is bounded by the config: never a record, a person or an account.

use prometheus::core::{AtomicF64, AtomicI64, AtomicU64, Collector, MetricVec, MetricVecBuilder};
use prometheus::core::{GenericCounterVec, GenericGaugeVec};
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::cell::RefCell;
use std::time::Duration;

/// Content type of `Metrics::render` (Prometheus text exposition format 0.0.4).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds from 10 ms to a week: a verified disable takes milliseconds, one behind a broken target days.
const DEPROVISION_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0,
    259_200.0, 604_800.0,
];

/// Seconds of one call to a target: up to the longest time-out anyone sets.
const CALL_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Seconds of one commit: 1 ms embedded, up to the transaction time-out of 10 s on Kafka.
const COMMIT_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Records of one batch: powers of 4 up to more than any batch limit.
const BATCH_RECORDS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0];

/// A metric with labels. Their number is part of the type; their order is the one the field's docs name.
#[derive(Clone)]
pub struct Family<B: MetricVecBuilder, const LABELS: usize>(MetricVec<B>);

impl<B: MetricVecBuilder, const LABELS: usize> Family<B, LABELS> {
    /// The series with these label values.
    pub fn of(&self, labels: [&str; LABELS]) -> B::M {
        self.0.with_label_values(&labels)
    }

    /// Forgets one series, so that a partition or a target that is gone doesn't stay at its last value.
    pub fn forget(&self, labels: [&str; LABELS]) {
        // The only error is that there is no such series, which is what was asked for.
        let _ = self.0.remove_label_values(&labels);
    }

    /// Forgets all series, before a gauge is set anew from the whole picture.
    pub fn clear(&self) {
        self.0.reset();
    }
}

pub type Gauges<const LABELS: usize> = Family<<GenericGaugeVec<AtomicI64> as Builder>::Of, LABELS>;
pub type FloatGauges<const LABELS: usize> = Family<<GenericGaugeVec<AtomicF64> as Builder>::Of, LABELS>;
pub type Counters<const LABELS: usize> = Family<<GenericCounterVec<AtomicU64> as Builder>::Of, LABELS>;
pub type Histograms<const LABELS: usize> = Family<<HistogramVec as Builder>::Of, LABELS>;

/// Names the builder of a vector: the crate keeps those types private.
pub trait Builder {
    type Of: MetricVecBuilder;
}

impl<B: MetricVecBuilder> Builder for MetricVec<B> {
    type Of = B;
}

/// The registry, and what it holds in words.
struct Shelf {
    registry: Registry,
    described: RefCell<Vec<Described>>,
}

/// A metric as docs, alert rules and dashboards have to name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: String,
    /// As its docs say it.
    pub help: String,
    /// `gauge`, `counter` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
}

pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,

    /// `[tenant, target]`: deprovisions not yet verified.
    pub deprovisions_open: Gauges<2>,
    /// `[tenant, target]`: seconds since the effective time of the oldest of them; 0 where none is open.
    pub deprovision_oldest_age_seconds: FloatGauges<2>,
    /// `[tenant, target]`: seconds from effective time to verified.
    pub deprovision_seconds: Histograms<2>,
    /// `[target]`: seconds within which a deprovision has to be verified, as the rules say.
    pub deprovision_deadline_seconds: FloatGauges<1>,
    /// `[tenant, target]`: deprovisions that passed their deadline, each counted once.
    pub deprovisions_overdue_total: Counters<2>,
    /// `[target]`: commands that need a person or a changed cause.
    pub dead_letters_open: Gauges<1>,
    /// `[source, outcome]`: events taken from source topics, by what intake made of them.
    pub source_events_total: Counters<2>,
    /// `[source, reason]`: source events that went to `source-dead-letters`.
    pub source_dead_letters_total: Counters<2>,
    /// `[tenant, target]`: removals that the Guard holds.
    pub held: Gauges<2>,
    /// Entities that couldn't take an event and wait with all their later ones.
    pub quarantined_entities: IntGauge,
    /// Partitions that were told to switch to rules which this release can't use, and decide by those they had.
    pub partitions_behind_rules: IntGauge,
    /// Inbox partitions for which what comes in is delivered at once.
    pub partitions_direct: IntGauge,
    /// `[target]`: 1 while the breaker is open and the target is not called.
    pub breaker_open: Gauges<1>,
    /// `[topic, partition]`: records behind what is committed, of the partitions that this process reads.
    pub partition_lag: Gauges<2>,
    /// `[topic, partition]`: seconds that records have waited there with no commit.
    pub partition_stalled_seconds: FloatGauges<2>,
    /// Transactions committed.
    pub commits_total: IntCounter,
    /// Seconds of a commit, flush included.
    pub commit_seconds: Histogram,
    /// Records handled in one transaction.
    pub batch_records: Histogram,
    /// `[entity, outcome]`: steps of entities, by kind of entity.
    pub steps_total: Counters<2>,
    /// `[kind]`: messages through the inbox, by what they say. What stays within a partition takes no hop.
    pub hops_total: Counters<1>,
    /// `[tenant, target, op]`: commands issued.
    pub commands_total: Counters<3>,
    /// `[tenant, target, outcome]`: results of workers.
    pub results_total: Counters<3>,
    /// `[tenant, target]`: seconds from the source event's time to the verified account.
    pub event_to_verified_seconds: Histograms<2>,
    /// `[target, op, outcome]`: seconds of calls to targets.
    pub call_seconds: Histograms<3>,
    /// `[target, state]`: lanes of a worker.
    pub lanes: Gauges<2>,
    /// Transactions aborted whose records came again.
    pub rewinds_total: IntCounter,
    /// `[loop]`: loops that failed and begin anew.
    pub loop_restarts_total: Counters<1>,
    /// Seconds by which this host's clock is ahead of the brokers', as of the last look.
    pub clock_offset_seconds: Gauge,
    /// `[partition]`: changelog records still to be replayed before the partition is served.
    pub restore_remaining_records: Gauges<1>,
    /// Changelog records replayed.
    pub restored_records_total: IntCounter,
    /// `[partition]`: seconds that its last restore took.
    pub restore_seconds: FloatGauges<1>,
    /// `[how]`: partitions taken up, by what it took: kept (what was in memory is still right), current (the store was), replayed.
    pub partitions_taken_total: Counters<1>,
    /// Partitions given back because the group decided so.
    pub partitions_revoked_total: IntCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics in a registry of their own.
    pub fn new() -> Self {
        let r = Shelf { registry: Registry::new(), described: RefCell::default() };
        let build = gauges(&r, "lockstep_build_info", "always 1; the labels say what runs", ["version"]);
        build.of([env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            deprovisions_open: gauges(
                &r,
                "lockstep_deprovisions_open",
                "deprovisions not yet verified",
                ["tenant", "target"],
            ),
            deprovision_oldest_age_seconds: float_gauges(
                &r,
                "lockstep_deprovision_oldest_age_seconds",
                "seconds since the effective time of the oldest open deprovision",
                ["tenant", "target"],
            ),
            deprovision_seconds: histograms(
                &r,
                "lockstep_deprovision_seconds",
                "seconds from a deprovision's effective time to its verified result",
                DEPROVISION_SECONDS,
                ["tenant", "target"],
            ),
            deprovision_deadline_seconds: float_gauges(
                &r,
                "lockstep_deprovision_deadline_seconds",
                "seconds within which a deprovision has to be verified",
                ["target"],
            ),
            deprovisions_overdue_total: counters(
                &r,
                "lockstep_deprovisions_overdue_total",
                "deprovisions that passed their deadline",
                ["tenant", "target"],
            ),
            dead_letters_open: gauges(
                &r,
                "lockstep_dead_letters_open",
                "commands that need a person or a changed cause",
                ["target"],
            ),
            source_events_total: counters(
                &r,
                "lockstep_source_events_total",
                "events taken from source topics, by what became of them",
                ["source", "outcome"],
            ),
            source_dead_letters_total: counters(
                &r,
                "lockstep_source_dead_letters_total",
                "source events that went to source-dead-letters",
                ["source", "reason"],
            ),
            held: gauges(&r, "lockstep_held", "removals that the Guard holds", ["tenant", "target"]),
            quarantined_entities: registered(
                &r,
                IntGauge::new("lockstep_quarantined_entities", "entities that couldn't take an event and wait"),
            ),
            partitions_behind_rules: registered(
                &r,
                IntGauge::new(
                    "lockstep_partitions_behind_rules",
                    "partitions that could not switch to the current rules and decide by former ones",
                ),
            ),
            partitions_direct: registered(
                &r,
                IntGauge::new("lockstep_partitions_direct", "inbox partitions that events reach without the inbox"),
            ),
            breaker_open: gauges(
                &r,
                "lockstep_breaker_open",
                "1 while the breaker is open and the target is not called",
                ["target"],
            ),
            partition_lag: gauges(&r, "lockstep_partition_lag", "records not yet read", ["topic", "partition"]),
            partition_stalled_seconds: float_gauges(
                &r,
                "lockstep_partition_stalled_seconds",
                "seconds that records have waited with no commit",
                ["topic", "partition"],
            ),
            commits_total: registered(&r, IntCounter::new("lockstep_commits_total", "transactions committed")),
            commit_seconds: histogram(
                &r,
                "lockstep_commit_seconds",
                "seconds of a commit, flush included",
                COMMIT_SECONDS,
            ),
            batch_records: histogram(&r, "lockstep_batch_records", "records handled in one transaction", BATCH_RECORDS),
            steps_total: counters(&r, "lockstep_steps_total", "steps of entities", ["entity", "outcome"]),
            hops_total: counters(&r, "lockstep_hops_total", "messages through the inbox, by what they say", ["kind"]),
            commands_total: counters(&r, "lockstep_commands_total", "commands issued", ["tenant", "target", "op"]),
            results_total: counters(
                &r,
                "lockstep_results_total",
                "results of workers",
                ["tenant", "target", "outcome"],
            ),
            event_to_verified_seconds: histograms(
                &r,
                "lockstep_event_to_verified_seconds",
                "seconds from the source event's time to the verified account",
                DEPROVISION_SECONDS,
                ["tenant", "target"],
            ),
            call_seconds: histograms(
                &r,
                "lockstep_call_seconds",
                "seconds of calls to targets",
                CALL_SECONDS,
                ["target", "op", "outcome"],
            ),
            lanes: gauges(&r, "lockstep_lanes", "lanes of a worker, by state", ["target", "state"]),
            rewinds_total: registered(
                &r,
                IntCounter::new("lockstep_rewinds_total", "transactions aborted whose records came again"),
            ),
            loop_restarts_total: counters(
                &r,
                "lockstep_loop_restarts_total",
                "loops that failed and begin anew",
                ["loop"],
            ),
            clock_offset_seconds: registered(
                &r,
                Gauge::new(
                    "lockstep_clock_offset_seconds",
                    "seconds by which this host's clock is ahead of the brokers'",
                ),
            ),
            restore_remaining_records: gauges(
                &r,
                "lockstep_restore_remaining_records",
                "changelog records still to be replayed before the partition is served",
                ["partition"],
            ),
            restored_records_total: registered(
                &r,
                IntCounter::new("lockstep_restored_records_total", "changelog records replayed"),
            ),
            restore_seconds: float_gauges(
                &r,
                "lockstep_restore_seconds",
                "seconds that the last restore of the partition took",
                ["partition"],
            ),
            partitions_taken_total: counters(
                &r,
                "lockstep_partitions_taken_total",
                "partitions taken up, by what it took",
                ["how"],
            ),
            partitions_revoked_total: registered(
                &r,
                IntCounter::new("lockstep_partitions_revoked_total", "partitions given back as the group decided"),
            ),
            registry: r.registry,
            described: r.described.into_inner(),
        }
    }

    /// Every metric, in the order in which they are made.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// Begins what alert rules compare at 0: a series that comes up at its first 1 has had no increase. For a processor, which
    /// alone shows what is open.
    pub fn begin_processor(&self, tenants: &[&str], deadlines: &[(&str, Duration)]) {
        for (target, deadline) in deadlines {
            self.deprovision_deadline_seconds.of([target]).set(deadline.as_secs_f64());
            self.dead_letters_open.of([target]).set(0);
            for tenant in tenants {
                let labels = [*tenant, *target];
                self.deprovisions_open.of(labels).set(0);
                self.deprovision_oldest_age_seconds.of(labels).set(0.0);
                self.held.of(labels).set(0);
                self.deprovisions_overdue_total.of(labels).reset();
                // A vector's series is there once it is named.
                let _ = self.deprovision_seconds.of(labels);
                let _ = self.event_to_verified_seconds.of(labels);
            }
        }
    }

    /// The same for what becomes of a source's events.
    pub fn begin_source(&self, source: &str, reasons: &[&str]) {
        for outcome in ["taken", "ignored", "rejected"] {
            self.source_events_total.of([source, outcome]).reset();
        }
        for reason in reasons {
            self.source_dead_letters_total.of([source, reason]).reset();
        }
    }

    /// The same for a target's worker.
    pub fn begin_worker(&self, tenants: &[&str], target: &str, outcomes: &[&str]) {
        self.breaker_open.of([target]).set(0);
        for tenant in tenants {
            for outcome in outcomes {
                self.results_total.of([*tenant, target, outcome]).reset();
            }
        }
    }

    /// All of it as `/metrics` serves it; its content type is `CONTENT_TYPE`.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("names and labels are checked when made")
    }
}

fn gauges<const N: usize>(registry: &Shelf, name: &str, help: &str, labels: [&str; N]) -> Gauges<N> {
    Family(registered(registry, GenericGaugeVec::new(Opts::new(name, help), &labels)))
}

fn float_gauges<const N: usize>(registry: &Shelf, name: &str, help: &str, labels: [&str; N]) -> FloatGauges<N> {
    Family(registered(registry, GenericGaugeVec::new(Opts::new(name, help), &labels)))
}

fn counters<const N: usize>(registry: &Shelf, name: &str, help: &str, labels: [&str; N]) -> Counters<N> {
    Family(registered(registry, GenericCounterVec::new(Opts::new(name, help), &labels)))
}

fn histograms<const N: usize>(
    registry: &Shelf,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: [&str; N],
) -> Histograms<N> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    Family(registered(registry, HistogramVec::new(opts, &labels)))
}

fn histogram(registry: &Shelf, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

fn registered<C: Collector + Clone + 'static>(shelf: &Shelf, made: prometheus::Result<C>) -> C {
    let collector = made.expect("names, labels and buckets in this file are valid");
    shelf.registry.register(Box::new(collector.clone())).expect("each name in this file is there once");
    let kind = match std::any::type_name::<C>() {
        name if name.contains("Histogram") => "histogram",
        name if name.contains("Counter") => "counter",
        _ => "gauge",
    };
    shelf.described.borrow_mut().extend(collector.desc().into_iter().map(|desc| Described {
        name: desc.fq_name.clone(),
        help: desc.help.clone(),
        kind,
        labels: desc.variable_labels.clone(),
    }));
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered_under_its_name_and_labels() {
        let metrics = Metrics::new();
        metrics.deprovisions_open.of(["acme", "directory"]).set(2);
        metrics.deprovision_oldest_age_seconds.of(["acme", "directory"]).set(1.5);
        metrics.deprovision_seconds.of(["acme", "directory"]).observe(0.04);
        metrics.commands_total.of(["acme", "directory", "disable"]).inc();
        metrics.commits_total.inc();
        let text = metrics.render();
        for line in [
            r#"lockstep_deprovisions_open{target="directory",tenant="acme"} 2"#,
            r#"lockstep_deprovision_oldest_age_seconds{target="directory",tenant="acme"} 1.5"#,
            r#"lockstep_deprovision_seconds_bucket{target="directory",tenant="acme",le="0.05"} 1"#,
            r#"lockstep_deprovision_seconds_bucket{target="directory",tenant="acme",le="0.025"} 0"#,
            r#"lockstep_commands_total{op="disable",target="directory",tenant="acme"} 1"#,
            "lockstep_commits_total 1",
            concat!(r#"lockstep_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        // A label that could name a person would make a series a person.
        for label in ["account=", "identity=", "record="] {
            assert!(!text.contains(label), "{label}");
        }
    }

    #[test]
    fn what_alert_rules_compare_is_there_before_anything_happens() {
        let metrics = Metrics::new();
        metrics.begin_processor(&["acme"], &[("wiki", Duration::from_secs(300))]);
        metrics.begin_source("hr", &["not_json"]);
        metrics.begin_worker(&["acme"], "wiki", &["verified"]);
        let text = metrics.render();
        for line in [
            r#"lockstep_deprovision_deadline_seconds{target="wiki"} 300"#,
            r#"lockstep_deprovisions_overdue_total{target="wiki",tenant="acme"} 0"#,
            r#"lockstep_deprovisions_open{target="wiki",tenant="acme"} 0"#,
            r#"lockstep_deprovision_oldest_age_seconds{target="wiki",tenant="acme"} 0"#,
            r#"lockstep_deprovision_seconds_count{target="wiki",tenant="acme"} 0"#,
            r#"lockstep_dead_letters_open{target="wiki"} 0"#,
            r#"lockstep_held{target="wiki",tenant="acme"} 0"#,
            r#"lockstep_source_dead_letters_total{reason="not_json",source="hr"} 0"#,
            r#"lockstep_source_events_total{outcome="taken",source="hr"} 0"#,
            r#"lockstep_results_total{outcome="verified",target="wiki",tenant="acme"} 0"#,
            r#"lockstep_breaker_open{target="wiki"} 0"#,
            "lockstep_quarantined_entities 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_series_that_is_forgotten_is_no_longer_shown() {
        let metrics = Metrics::new();
        metrics.partition_lag.of(["inbox", "0"]).set(7);
        metrics.partition_lag.of(["inbox", "1"]).set(9);
        metrics.partition_lag.forget(["inbox", "0"]);
        metrics.partition_lag.forget(["inbox", "5"]);
        let text = metrics.render();
        assert!(!text.contains(r#"partition="0""#) && text.contains(r#"{partition="1",topic="inbox"} 9"#), "{text}");
        metrics.partition_lag.clear();
        assert!(!metrics.render().contains("lockstep_partition_lag{"));
    }
}
