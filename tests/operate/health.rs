//! `/healthz`, `/readyz` and `/metrics` of a process that starts, runs and stops.

use crate::shop::{Shop, eventually, hired};

#[test]
fn a_process_is_ready_when_all_of_it_runs_and_says_what_it_waits_for() {
    let shop = Shop::new();
    let dev = shop.begin(&[]);
    // From the first answer on: alive always, ready only with every loop restored.
    let mut waited = Vec::new();
    let ready = eventually("it is ready", || {
        let (status, text) = dev.status("/readyz")?;
        assert_eq!(dev.status("/healthz"), Some((200, "alive\n".to_owned())));
        if status != 200 {
            assert!(text.ends_with("not ready\n"), "{text}");
            waited.push(text);
            return None;
        }
        Some(text)
    });
    for part in ["bus: answers", "api: read model caught up", "processor: restored", "worker wiki: restored"] {
        assert!(ready.contains(&format!("{part} ... yes\n")), "{ready}");
    }
    assert!(waited.iter().all(|text| text.contains(" ... no: ")), "{waited:?}");
    dev.stop();
}

#[test]
fn what_was_read_is_no_lag_and_every_metric_is_well_formed() {
    let shop = Shop::new();
    let dev = shop.start();
    shop.hr(&(20001..20011).map(hired).collect::<Vec<_>>());
    for person in 20001..20011 {
        dev.until_account(&person.to_string(), "wiki", "active", "verified", &[]);
    }
    // Each loop says once a second where it stands.
    let topics = ["lockstep.inbox", "lockstep.results", "lockstep.commands.wiki", "hr.workers"];
    let text = eventually("nothing is left to read", || {
        let text = dev.metrics();
        let lags: Vec<&str> = text.lines().filter(|line| line.starts_with("lockstep_partition_lag{")).collect();
        let shown = topics.iter().all(|topic| lags.iter().any(|line| line.contains(&format!("topic=\"{topic}\""))));
        (shown && lags.iter().all(|line| line.ends_with(" 0"))).then_some(text)
    });
    for line in text.lines() {
        let named = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")).unwrap_or(line);
        assert!(named.starts_with("lockstep_"), "{line}");
    }
    match std::process::Command::new("promtool").arg("--version").output() {
        Ok(_) => promtool(&text),
        Err(_) => eprintln!("left out: promtool is not here"),
    }
}

fn promtool(metrics: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
}
