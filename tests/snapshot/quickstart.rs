//! The quickstart, played to its end: what is in the two targets then, what was rejected, what `dev --once` says.

use crate::command::{Here, repository};
use crate::database::rows;
use std::path::Path;

const DIRECTORY: &str = "\
    SELECT user_name, display_name, given_name, family_name, mail, mobile, department, title, manager, employee_number,
      CASE active WHEN 1 THEN 'active' ELSE 'disabled' END,
      (SELECT group_concat(group_name, ' ' ORDER BY group_name) FROM memberships WHERE account_id = id)
    FROM accounts ORDER BY user_name";
const WIKI: &str = "\
    SELECT login, full_name, email, state,
      (SELECT group_concat(group_name, ' ' ORDER BY group_name) FROM user_groups AS g WHERE g.user_id = users.user_id)
    FROM users ORDER BY login";
/// What says which rows were ever written: a row that is made anew gets another rowid.
const ROWIDS: &str = "SELECT rowid, * FROM accounts ORDER BY rowid";

fn quickstart() -> String {
    repository("examples/quickstart")
}

fn dev<'a>(config: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["dev", "--once", "--config", config, "--listen", "127.0.0.1:0"], more].concat()
}

/// The lines of the end that do not depend on how fast the machine is: neither times nor how many commands became one.
fn summary(shown: &str) -> String {
    let mut lines = Vec::new();
    for line in shown.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        match cells[..] {
            // target created updated disabled enabled deleted parked dead-letters p50 max
            [target @ ("directory" | "wiki"), _, _, _, _, _, parked, dead, _, _] => {
                lines.push(format!("{target}: {parked} parked, {dead} dead letters"));
            }
            _ if line.contains("events of") || line.contains("events read") || line.starts_with("no command") => {
                lines.push(line.to_owned());
            }
            _ => {}
        }
    }
    lines.push(shown.lines().last().unwrap_or_default().to_owned());
    lines.join("\n").replace(&repository(""), "[REPOSITORY]/")
}

fn targets(here: &Here) -> String {
    let rows = |file: &str, query: &str| {
        let rows = rows(&here.path().join(file), query).into_iter();
        // What a disabled account still holds depends on what its worker had done when it was disabled.
        let shown = rows.map(|row| match row.split_once(" | ") {
            Some((name, rest)) if rest.contains("disabled") => format!("{name} | disabled"),
            _ => row,
        });
        shown.collect::<Vec<_>>().join("\n")
    };
    format!("directory\n{}\n\nwiki\n{}", rows("data/directory.db", DIRECTORY), rows("data/wiki.db", WIKI))
}

#[test]
fn the_quickstart_ends_in_these_accounts_and_a_second_run_changes_nothing() {
    let (here, config) = (Here::new(), quickstart());
    let shown = here.run(&dev(&config, &[]));
    let mut rejected: Vec<&str> = shown.lines().filter(|line| line.starts_with("bad ")).collect();
    rejected.sort_unstable();
    insta::assert_snapshot!("quickstart_summary", format!("{}\n\n{}", summary(&shown), rejected.join("\n")));
    insta::assert_snapshot!("quickstart_targets", targets(&here));
    let before = rows(&here.path().join("data/directory.db"), ROWIDS);

    let again = here.run(&dev(&config, &[]));
    insta::assert_snapshot!("quickstart_again", summary(&again));
    assert!(!again.lines().any(|line| line.contains(" verified ")), "a command was carried out: {again}");
    assert_eq!(rows(&here.path().join("data/directory.db"), ROWIDS), before);
    insta::assert_snapshot!("quickstart_targets", targets(&here));
}

#[test]
fn other_events_and_another_config_are_played_where_they_are_named() {
    let here = Here::new();
    copy(Path::new(&quickstart()), &here.path().join("mine"));
    let hired = |id: &str, number: &str| {
        format!(
            "{{\"id\":\"{id}\",\"type\":\"hired\",\"sequence\":1,\"worker\":{{\"workerId\":\"W-{number}\",\"employeeNumber\":\
             \"{number}\",\"firstName\":\"Ada\",\"lastName\":\"Byron\",\"department\":\"Sales\",\"type\":\"employee\",\
             \"status\":\"active\",\"startDate\":\"2016-03-01\"}}}}\n"
        )
    };
    here.file("events/hr.jsonl", &hired("e-1", "20001"));
    let shown = here.run(&dev("mine", &["--events", "events", "--data", "elsewhere"]));
    assert!(shown.contains("played 1 events of hr from events/hr.jsonl"), "{shown}");
    assert!(shown.ends_with("--- exit code 0\n"), "{shown}");
    let names = |data: &str| {
        rows(&here.path().join(data).join("directory.db"), "SELECT user_name FROM accounts ORDER BY user_name")
    };
    assert_eq!(names("elsewhere"), ["ada.byron20001"]);

    // What was added to the file is played, and nothing else.
    here.file("events/hr.jsonl", &format!("{}{}", hired("e-1", "20001"), hired("e-2", "20002")));
    let shown = here.run(&dev("mine", &["--events", "events", "--data", "elsewhere"]));
    assert!(shown.contains("played 1 events of hr from events/hr.jsonl; 1 were played before"), "{shown}");
    assert_eq!(names("elsewhere"), ["ada.byron20001", "ada.byron20002"]);

    // A file that is named after no source is a mistake, and nothing was played.
    here.file("wrong/hrr.jsonl", &hired("e-3", "20003"));
    insta::assert_snapshot!(here.run(&dev("mine", &["--events", "wrong", "--data", "nothing"])));
    assert!(!here.path().join("nothing").exists());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}
