//! Kafka as this config needs it: reached, signed in, topics, what is allowed, the clock.

use super::finding::{Finding, State};
use crate::bus::acls::{self, Grant, Installation, Kind, Process};
use crate::bus::kafka::{KafkaBus, Rights};
use crate::bus::{Bus, BusError, ClockReading, topics};
use crate::cli::failure::help_of;
use crate::cli::kafka;
use crate::config::{KafkaRules, SaslRules, resolve};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Ends the transactional ids that are tried: no instance is named so.
const TRIAL: &str = "~doctor";
/// A clock that is off by more is worth a look long before a process refuses to run.
const NOTABLE_MS: i64 = 1_000;

pub(super) fn all(
    rules: &KafkaRules,
    installation: &Installation<'_>,
    process: Option<&Process>,
    data: &Path,
) -> Vec<Finding> {
    let bus = match kafka::connect(rules, installation.layout, data) {
        Ok(bus) => bus,
        Err(error) => return vec![Finding::bad("brokers", "", format!("{error:#}"), help_of(&error))],
    };
    let mut findings = vec![reached(&bus)];
    findings.extend(security(rules, data));
    findings.extend(about_topics(&bus, installation));
    findings.extend(allowed(&bus, installation, process));
    findings.push(clock(&bus, installation, process));
    findings.extend(offsets(&bus, installation));
    findings
}

fn failed(check: &'static str, error: &BusError) -> Finding {
    match error {
        BusError::Denied { doing, reason, remedy } => {
            Finding::bad(check, "", format!("{doing}: {reason}"), remedy.clone())
        }
        other => Finding::bad(check, "", other.to_string(), None),
    }
}

fn reached(bus: &KafkaBus) -> Finding {
    match bus.brokers() {
        Ok((brokers, cluster)) => {
            let count = if brokers.len() == 1 { "1 broker".to_owned() } else { format!("{} brokers", brokers.len()) };
            let cluster = cluster.map_or_else(String::new, |id| format!(" of cluster {id}"));
            Finding::ok("brokers", "", format!("{count}{cluster}: {}", brokers.join(", ")))
        }
        Err(error) => failed("brokers", &error),
    }
}

/// How this process speaks to the brokers, as lockstep.yaml says it.
fn security(rules: &KafkaRules, data: &Path) -> Option<Finding> {
    const CHECK: &str = "sign-in";
    let by_properties = rules.properties.contains_key("security.protocol");
    // Names are no secrets, even where they come from the environment.
    let named = |name: &str| resolve(name, data).map_or_else(|_| name.to_owned(), |name| name.expose().to_owned());
    let who = match &rules.sasl {
        Some(SaslRules::Password { mechanism, user, .. }) => format!("{} as {}", mechanism.as_str(), named(user)),
        Some(SaslRules::Token(token)) => format!("OAUTHBEARER as client {}", named(&token.client_id)),
        None if rules.tls.as_ref().is_some_and(|tls| tls.client.is_some()) => "a client's certificate".to_owned(),
        None => "nobody in particular".to_owned(),
    };
    let add = "add `tls: {}` to `bus.kafka`, unless both ends are on one host";
    match (&rules.tls, &rules.sasl) {
        _ if by_properties => Some(Finding::ok(CHECK, "", "as `bus.kafka.properties` say")),
        (Some(_), _) => Some(Finding::ok(CHECK, "", format!("over TLS, {who}"))),
        (None, Some(_)) => {
            Some(Finding::warn(CHECK, "", format!("{who}, in the clear: others on the way can read along"), add))
        }
        (None, None) if kafka::bootstrap(rules, data).is_ok_and(|brokers| is_local(&brokers)) => None,
        (None, None) => Some(Finding::warn(CHECK, "", "no TLS: personal data crosses the network in the clear", add)),
    }
}

fn is_local(bootstrap: &str) -> bool {
    bootstrap
        .split(',')
        .all(|broker| ["127.", "localhost:", "[::1]"].iter().any(|name| broker.trim().starts_with(name)))
}

fn about_topics(bus: &KafkaBus, installation: &Installation<'_>) -> Vec<Finding> {
    const CHECK: &str = "topics";
    let plan = match topics::plan(bus, installation.layout) {
        Ok(plan) => plan,
        Err(BusError::Denied { doing, reason, .. }) => {
            let help = "doctor judges them as a principal that may describe all: processor, worker or topics";
            return vec![Finding::warn(CHECK, "", format!("{doing}: {reason}"), help)];
        }
        Err(error) => return vec![failed(CHECK, &error)],
    };
    let refused =
        |r: &topics::Refusal| Finding::bad(CHECK, &*r.topic, format!("{}: {}", r.what, r.why), r.remedy.clone());
    let mut findings: Vec<Finding> = plan.refuse.iter().map(refused).collect();
    let open: Vec<&str> = plan
        .create
        .iter()
        .map(|spec| spec.name.as_str())
        .chain(plan.alter.iter().map(|alteration| alteration.topic.as_str()))
        .collect();
    if !open.is_empty() {
        let what = format!("missing, or not set as they must be: {}", open.join(", "));
        findings.push(Finding::bad(CHECK, "", what, "run `lockstep topics apply`".to_owned()));
    }
    // What is said of many topics is said once.
    let mut warned: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for warning in &plan.warn {
        warned.entry(&warning.what).or_default().push(&warning.topic);
    }
    for (what, topics) in warned {
        let named = match topics.as_slice() {
            [first, _, rest @ ..] => format!("{first} and {} more", rest.len() + 1),
            _ => topics.join(", "),
        };
        findings.push(Finding::warn(CHECK, named, what, "see `lockstep topics plan`"));
    }
    if findings.iter().all(|finding| finding.state != State::Bad) {
        findings.insert(0, Finding::ok(CHECK, "", format!("{} are as they must be", plan.unchanged.len())));
    }
    findings
}

/// What the brokers let this principal do, against what each process needs.
fn allowed(bus: &KafkaBus, installation: &Installation<'_>, process: Option<&Process>) -> Vec<Finding> {
    const CHECK: &str = "acls";
    let processes = process.map_or_else(|| installation.processes(), |process| vec![process.clone()]);
    let grants: Vec<Grant> = processes.iter().flat_map(|process| installation.grants(process)).collect();
    let own: Vec<String> = installation.layout.specs().into_iter().map(|spec| spec.name).collect();
    let told = match told(bus, &grants, &own) {
        Ok(told) => told,
        Err(error) => return vec![failed(CHECK, &error)],
    };
    let missing_of = |process: &Process| acls::missing(&installation.grants(process), &own, &told);
    if let Some(process) = process {
        let missing = missing_of(process);
        return vec![match missing.is_empty() {
            true => Finding::ok(CHECK, process.to_string(), "all that it needs is allowed"),
            false => Finding::bad(CHECK, process.to_string(), lacks(&missing), Some(grant_them(process))),
        }];
    }
    let (able, unable): (Vec<_>, Vec<_>) = processes.iter().partition(|process| missing_of(process).is_empty());
    let names = |of: &[&Process]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (able.as_slice(), unable.as_slice()) {
        (_, []) => vec![Finding::ok(CHECK, "", "this principal may be any process")],
        ([], unable) => {
            let help = format!("`lockstep doctor --as {}` says what is missing for one of them", unable[0]);
            vec![Finding::bad(CHECK, "", format!("this principal may be none of {}", names(unable)), help)]
        }
        (able, unable) => {
            let what = format!("this principal may be {}, and not {}", names(able), names(unable));
            vec![Finding::ok(CHECK, "", format!("{what}; `--as PROCESS` says why"))]
        }
    }
}

/// The answers to every question that the grants raise.
fn told(bus: &KafkaBus, grants: &[Grant], own: &[String]) -> Result<acls::Told, BusError> {
    let of = |kind: Kind| {
        let named = grants.iter().filter(move |grant| grant.resource.kind == kind && !grant.resource.prefixed);
        named.map(|grant| grant.resource.name.clone())
    };
    let topics: BTreeSet<String> = of(Kind::Topic).chain(own.iter().cloned()).collect();
    let groups: BTreeSet<String> = of(Kind::Group).collect();
    let Rights { topics, groups } =
        bus.rights(&topics.into_iter().collect::<Vec<_>>(), &groups.into_iter().collect::<Vec<_>>())?;
    let mut told = acls::Told { topics, groups, transactional_ids: BTreeMap::new() };
    for grant in grants.iter().filter(|grant| grant.resource.kind == Kind::TransactionalId) {
        let begins = &grant.resource.name;
        if !told.transactional_ids.contains_key(begins) {
            let may = bus.may_write_as(&format!("{begins}{TRIAL}"))?;
            told.transactional_ids.insert(begins.clone(), may);
        }
    }
    Ok(told)
}

fn lacks(missing: &[Grant]) -> String {
    let line = |grant: &Grant| {
        let operations: Vec<&str> = grant.operations.iter().map(|operation| operation.as_str()).collect();
        format!("may not {} {}", operations.join(", "), grant.resource)
    };
    missing.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn grant_them(process: &Process) -> String {
    format!("`lockstep topics acls --of {process}` prints what to grant")
}

fn clock(bus: &KafkaBus, installation: &Installation<'_>, process: Option<&Process>) -> Finding {
    const CHECK: &str = "clock";
    let needs_it = matches!(process, None | Some(Process::Processor | Process::Worker(_)));
    match bus.clock(&installation.layout.names.clock()) {
        Ok(Some(reading)) => judged(&reading),
        Ok(None) => Finding::ok(CHECK, "", "the only one there is"),
        Err(BusError::Denied { .. }) if process.is_none() || !needs_it => {
            let help = "processors and workers look at it themselves: `--as processor`";
            Finding::warn(CHECK, "", "this principal may not ask the brokers for their time", help)
        }
        Err(error) => failed(CHECK, &error),
    }
}

/// Whether processors that were all away find what they committed. Not every principal may ask; what else goes wrong is said elsewhere.
fn offsets(bus: &KafkaBus, installation: &Installation<'_>) -> Option<Finding> {
    let kept = bus.offsets_kept().ok()??;
    let found = bus.describe(&[installation.layout.names.inbox()]).ok()?.pop()?.found?;
    let inbox_ms: i64 = found.settings.get("retention.ms")?.parse().ok()?;
    Some(offsets_judged(kept, u64::try_from(inbox_ms).ok().map(Duration::from_millis)))
}

/// `inbox`: how long its records are kept; None: for ever.
fn offsets_judged(kept: Duration, inbox: Option<Duration>) -> Finding {
    const CHECK: &str = "offsets";
    let days = |time: Duration| format!("{:.1} days", time.as_secs_f64() / 86_400.0);
    if inbox.is_some_and(|inbox| kept >= inbox) {
        return Finding::ok(CHECK, "", format!("of a group that nobody is in, kept for {}", days(kept)));
    }
    let what = format!(
        "the brokers forget those of a group that nobody is in after {}, and the inbox is kept {}: processors that are all away for \
         longer read it again from its start",
        days(kept),
        inbox.map_or_else(|| "for ever".to_owned(), |inbox| format!("for {}", days(inbox)))
    );
    let minutes = inbox.map_or_else(|| "more".to_owned(), |inbox| format!("{} or more", inbox.as_secs().div_ceil(60)));
    Finding::warn(CHECK, "", what, format!("set `offsets.retention.minutes` of the brokers to {minutes}"))
}

fn judged(reading: &ClockReading) -> Finding {
    const CHECK: &str = "clock";
    let help = "set it by NTP, here and on the brokers";
    if reading.is_off() {
        return Finding::bad(CHECK, "", format!("{reading}: no process runs so"), Some(help.to_owned()));
    }
    if reading.ahead_ms.abs() - reading.uncertain_ms > NOTABLE_MS {
        return Finding::warn(CHECK, "", reading.to_string(), help);
    }
    Finding::ok(CHECK, "", reading.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_judged_by_what_is_certain() {
        let state = |ahead_ms, uncertain_ms| judged(&ClockReading { ahead_ms, uncertain_ms }).state;
        assert_eq!(state(900, 10), State::Ok);
        assert_eq!(state(-2_000, 10), State::Warn);
        assert_eq!(state(2_000, 1_500), State::Ok);
        assert_eq!(state(-31_000, 10), State::Bad);
    }

    #[test]
    fn offsets_are_to_outlive_what_they_point_at() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(offsets_judged(days(30), Some(days(30))).state, State::Ok);
        let short = offsets_judged(days(7), Some(days(30)));
        assert_eq!(short.state, State::Warn);
        assert!(
            short.what.contains("after 7.0 days") && short.help.unwrap().ends_with("43200 or more"),
            "{}",
            short.what
        );
        assert_eq!(offsets_judged(days(365), None).state, State::Warn, "the inbox is kept for ever");
    }

    #[test]
    fn only_this_host_is_reached_in_the_clear_without_a_word() {
        for (bootstrap, local) in [
            ("127.0.0.1:9092", true),
            ("localhost:9092, [::1]:9092", true),
            ("localhost.example.com:9092", false),
            ("127.0.0.1:9092,b2:9092", false),
        ] {
            assert_eq!(is_local(bootstrap), local, "{bootstrap}");
        }
    }
}
