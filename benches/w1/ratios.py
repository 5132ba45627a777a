"""ratios.py OUT.jsonl: the figures of a suite side by side, medians of its runs, and what each is of the others'.

The best of the two Kafka Streams configurations counts for throughput and CPU. Exits with 1 if an answer was wrong."""
import json, statistics, sys
from collections import defaultdict

runs = defaultdict(list)
for line in open(sys.argv[1]):
    row = json.loads(line)
    measure = row["measure"].split()
    # "restore 1000000" and the like: the size is the suite's, not the figure's name.
    runs[row["system"], " ".join(w for w in measure if not w.isdigit())].append(row)


def median(system, measure, key):
    values = [row[key] for row in runs.get((system, measure), []) if key in row]
    return statistics.median(values) if values else None


def best(better, measure, key):
    found = [v for v in (median(s, measure, key) for s in ("streams", "streams-1s")) if v is not None]
    return better(found) if found else None


def number(value):
    if value is None: return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def ratio(value, of):
    return "-" if value is None or not of else f"{value / of:.2f}"


ROWS = [
    ("throughput, events/s", "throughput", "events_per_s", max),
    ("throughput, second half, events/s", "throughput", "second_half_events_per_s", max),
    ("CPU-s of 1,000,000 events", "throughput", "cpu_s_per_million", min),
    ("broker's CPU-s of 1,000,000 events", "throughput", "broker_cpu_s_per_million", min),
    ("peak memory, MiB", "throughput", "peak_rss_mib", min),
    *((f"latency at {rate}/s, {key[:3]}, ms", f"latency {rate}/s", key, min) for rate in ("5", "1000") for key in ("p50_ms", "p99_ms")),
    *((f"CPU at {rate}/s, {who}, % of a core", f"latency {rate}/s", key, min)
      for rate in ("5", "1000") for who, key in (("system", "cpu_pct"), ("broker", "broker_cpu_pct"))),
    ("restart with state, all partitions, s", "restart with state", "all_s", min),
    ("restore from the topic, all partitions, s", "restore", "all_s", min),
    ("restore, CPU-s", "restore", "cpu_s", min),
    ("restore, peak memory, MiB", "restore", "peak_rss_mib", min),
]

print(f"| {'median':40} | {'floor':>8} | {'Streams':>8} | {'Lockstep':>8} | {'/ floor':>7} | {'/ Streams':>9} |")
print("| --- | --- | --- | --- | --- | --- |")
for name, measure, key, better in ROWS:
    floor, streams, ours = median("floor", measure, key), best(better, measure, key), median("lockstep", measure, key)
    print(f"| {name:40} | {number(floor):>8} | {number(streams):>8} | {number(ours):>8} | {ratio(ours, floor):>7} | {ratio(ours, streams):>9} |")

print()
for name, key in (("events/s", "events_per_s"), ("CPU-s of 1,000,000 events", "cpu_s_per_million")):
    plain, audited = median("lockstep", "throughput", key), median("lockstep-decisions", "throughput", key)
    print(f"with decisions, {name}: {number(audited)}, {ratio(audited, plain)} of what it is without")

checked = [row for rows in runs.values() for row in rows if "faults" in row]
faults = sum(row["faults"] for row in checked)
print(f"answers: {len(checked)} checks, {faults} faults")
sys.exit(1 if faults else 0)
