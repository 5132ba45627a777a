//! The source tree as it is to be: rooms in their order, pure rooms without the outside world, files that fit a screen or
//! ten, names in their one place. What clippy can't say, as it knows neither folders nor prose.
//!
//! Each check takes files and gives the faults it finds, so that a test beside it shows that it can fail.

#![expect(clippy::unwrap_used, reason = "a test's unwrap is an assertion")]

mod check;
mod source;

use check::{Fault, ROOMS};
use source::File;

/// Every check on the whole tree.
fn faults(files: &[File], lib: &str) -> Vec<Fault> {
    let checks: [fn(&File) -> Vec<Fault>; 6] =
        [check::rooms, check::purity, check::length, check::heading, check::leftovers, check::logs];
    let mut faults: Vec<Fault> = checks.into_iter().flat_map(|check| files.iter().flat_map(check)).collect();
    faults.extend(check::order(lib));
    faults.extend(check::metrics(files));
    faults
}

#[test]
fn the_tree_is_tidy() {
    let files = source::all(&["src", "tests", "benches", "examples"]);
    assert!(files.len() > 100, "only {} files were found", files.len());
    for room in ROOMS {
        assert!(files.iter().any(|file| file.room() == Some(room)), "the room {room} has no files");
    }
    let lib = files.iter().find(|file| file.path == "src/lib.rs").unwrap();
    let shown: Vec<String> = faults(&files, &lib.text).iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{} faults:\n{}", shown.len(), shown.join("\n"));
}

/// What a check says of one file with this text.
fn said(check: fn(&File) -> Vec<Fault>, path: &str, text: &str) -> Vec<String> {
    let file = File { path: path.to_owned(), text: text.to_owned() };
    check(&file).iter().map(ToString::to_string).collect()
}

#[test]
fn a_room_that_uses_one_below_it_is_found() {
    let wrong = "use crate::bus::Bus;\nuse crate::model::Id;\nfn f() { crate::cli::run(); }\n";
    assert_eq!(
        said(check::rooms, "src/store/disk.rs", wrong),
        [
            "src/store/disk.rs:1: the room `store` may not use `bus`, which is not above it",
            "src/store/disk.rs:3: the room `store` may not use `cli`, which is not above it",
        ]
    );
    assert_eq!(said(check::rooms, "src/store/disk.rs", "use crate::{\n    model::Id,\n    cli::run,\n};").len(), 1);
    assert_eq!(said(check::rooms, "src/runtime/mod.rs", "use crate::bus::embedded::Clock; // crate::cli\n").len(), 0);
}

#[test]
fn a_pure_room_that_reaches_outside_is_found() {
    for wrong in [
        "use std::fs;",
        "use std::{env, fmt};",
        "let now = Instant::now();",
        "let now = SystemTime::now();",
        "let now = jiff::Timestamp::now();",
        "let now = Zoned::now();",
        "std::thread::sleep(pause);",
        "use tokio::sync::Mutex;",
        "let id = Uuid::new_v4();",
        "getrandom::fill(&mut bytes);",
        "let mut random = rand::rng();",
        "tracing::info!(\"a step\");",
        "println!(\"a step\");",
        "std::process::exit(1);",
    ] {
        assert_eq!(said(check::purity, "src/entity/step.rs", wrong).len(), 1, "{wrong}");
        assert_eq!(said(check::purity, "src/runtime/processor.rs", wrong).len(), 0, "{wrong} in a room that may");
        let in_test = format!("fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n    {wrong}\n}}\n");
        assert_eq!(said(check::purity, "src/entity/step.rs", &in_test).len(), 0, "{wrong} in a test");
        assert_eq!(said(check::purity, "src/entity/step.rs", &format!("// {wrong}")).len(), 0, "{wrong} in a comment");
    }
    for fine in ["use std::time::{Duration, Instant};", "fn operand(standard: Environment) {}", "std::fmt::Display"] {
        assert_eq!(said(check::purity, "src/lane/retry.rs", fine).len(), 0, "{fine}");
    }
}

#[test]
fn a_file_that_is_too_long_or_says_not_what_it_is_for_is_found() {
    let long = format!("//! What for.\n{}", "fn f() {}\n".repeat(check::MOST_LINES));
    assert_eq!(
        said(check::length, "src/a.rs", &long),
        ["src/a.rs:701: 701 lines, at most 700: what else is it about that could have a file of its own?"]
    );
    assert_eq!(said(check::length, "src/a.rs", "//! What for.\n"), [""; 0]);
    assert_eq!(said(check::heading, "src/a.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(said(check::heading, "src/a.rs", "//!\n").len(), 1);
    assert_eq!(said(check::heading, "src/a.rs", "//! What for.\n").len(), 0);
}

#[test]
fn what_was_left_unfinished_is_found() {
    // In pieces, or this very file would be at fault.
    for name in ["todo", "dbg", "unimplemented"] {
        assert_eq!(said(check::leftovers, "src/a.rs", &format!("fn f() {{ {name}!() }}")).len(), 1, "{name}");
        assert_eq!(said(check::leftovers, "tests/sim/a.rs", &format!("{name}![]")).len(), 1, "{name}");
    }
    assert_eq!(said(check::leftovers, "src/a.rs", &format!("#![{}(clippy::all)]", "allow")).len(), 1);
    assert_eq!(said(check::leftovers, "src/a.rs", "fn todos() {}").len(), 0);
}

#[test]
fn a_log_that_could_hold_a_value_is_found() {
    for wrong in [
        "tracing::info!(?command, \"issued\");",
        "tracing::warn!(\n    topic,\n    of = ?record.attributes,\n    \"x\"\n);",
        "tracing::error!(\"{} is not\", desired.attributes);",
        "tracing::debug!(payload = %text, \"came\");",
        "tracing::debug!(\"{value}\");",
        "tracing::info!(\"{:?}\", change);",
    ] {
        assert_eq!(said(check::logs, "src/worker/a.rs", wrong).len(), 1, "{wrong}");
    }
    for fine in [
        "tracing::info!(topic = record.topic, offset = record.offset, \"no value here; a payload neither\");",
        "tracing::warn!(%error, pause_s = pause.as_secs(), \"again\");",
        "let value = record.value;",
    ] {
        assert_eq!(said(check::logs, "src/worker/a.rs", fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_metric_that_is_named_elsewhere_or_nowhere_is_found() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let names = file(check::METRICS, "gauges(&r, \"lockstep_held\", \"removals\", [\"tenant\"])");
    let found = |text: &str| check::metrics(&[file(check::METRICS, &names.text), file("src/api/a.rs", text)]).len();
    assert_eq!(found("let name = \"lockstep_held\";"), 1);
    assert_eq!(found("use prometheus::IntGauge;"), 1);
    assert_eq!(found("let header = \"lockstep_topic\";"), 0);
    let faults =
        check::unknown_metrics("rules.yml", "expr: lockstep_held > 1\nexpr: lockstep_hold_bucket", &names.text);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].to_string().starts_with("rules.yml:2: "), "{}", faults[0]);
}

#[test]
fn rules_for_alerts_ask_only_for_metrics_that_exist() {
    let metrics = std::fs::read_to_string(source::root().join(check::METRICS)).unwrap();
    let path = "deploy/prometheus/lockstep-rules.yml";
    let rules = std::fs::read_to_string(source::root().join(path)).unwrap();
    let shown: Vec<String> = check::unknown_metrics(path, &rules, &metrics).iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn a_list_of_rooms_in_another_order_is_found() {
    let lib: String = ROOMS.iter().map(|room| format!("pub mod {room};\n")).collect();
    assert_eq!(check::order(&lib).len(), 0);
    let swapped = lib.replace("pub mod model;\npub mod rules;", "pub mod rules;\npub mod model;");
    assert_eq!(check::order(&swapped).len(), 1);
    assert_eq!(check::order(&format!("{lib}pub mod attic;\n")).len(), 1);
}
