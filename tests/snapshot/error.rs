//! What goes wrong at the command line, and what it says then: what happened, where, what to do.

use crate::command::Here;
use std::io::{Read, Write};
use std::net::TcpListener;

const TOKEN: &str = "00000000000000000000000000000000000000000000000000000000deadbeef";
const LOCKSTEP: &str = "tenants: [acme]\n";
const IDENTITY: &str = "\
kinds:
  person:
    anchor: hr
    correlate: [employeeNumber]
    attributes:
      givenName: [hr.givenName]
";
const SOURCE: &str = "\
source: hr
topic: hr.workers
tenant: acme
format: json
event: { id: id }
record: { id: worker.id }
attributes:
  employeeNumber: worker.number
  givenName: worker.firstName
";
const TARGET: &str = "\
target: directory
connector:
  sql:
    url: sqlite:${data}/directory.db
    accounts: { table: accounts, key: id, owner: lockstep_account, columns: { userName: user_name }, active: { column: active, true: true, false: false } }
account:
  match: userName
  attributes:
    userName: lower(givenName)
tests:
  - name: everybody gets a lower-case name
    given: { hr: { employeeNumber: \"1\", givenName: Ada } }
    expect:
      accounts:
        directory: { active: true, attributes: { userName: EXPECTED } }
";

/// A small config that is all right, with a test that expects this user name.
fn config(expected: &str) -> Here {
    let here = Here::new();
    here.file("lockstep.yaml", LOCKSTEP)
        .file("identity.yaml", IDENTITY)
        .file("sources/hr.yaml", SOURCE)
        .file("targets/directory.yaml", &TARGET.replace("EXPECTED", expected));
    here
}

#[test]
fn a_process_in_a_folder_without_config() {
    let all: Vec<String> = [&["processor"][..], &["worker", "--target", "x"], &["serve"], &["topics", "plan"]]
        .into_iter()
        .map(|args| Here::new().run(args))
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn no_config_folder() {
    insta::assert_snapshot!(Here::new().run(&["rules", "check", "--config", "nowhere"]));
}

#[test]
fn an_empty_config_folder() {
    insta::assert_snapshot!(Here::new().run(&["rules", "check"]));
}

#[test]
fn mistakes_in_a_config() {
    let here = config("ada");
    here.file("lockstep.yaml", "tenants: [acme]\nbus:\n  kafak: { bootstrap: 127.0.0.1:9092 }\n")
        .file("sources/hr.yaml", &SOURCE.replace("format: json", "format: jsn"));
    insta::assert_snapshot!(here.run(&["rules", "check"]));
}

#[test]
fn mistakes_in_rules() {
    let here = config("ada");
    here.file("sources/hr.yaml", &SOURCE.replace("tenant: acme", "tenant: acmee"))
        .file("targets/directory.yaml", &TARGET.replace("lower(givenName)", "lowercase(givenname)"));
    insta::assert_snapshot!(here.run(&["rules", "check"]));
}

#[test]
fn a_config_that_is_all_right() {
    insta::assert_snapshot!(config("ada").run(&["rules", "check"]));
}

#[test]
fn rule_tests_that_pass_and_fail() {
    insta::assert_snapshot!("rule_tests_that_pass", config("ada").run(&["rules", "test"]));
    insta::assert_snapshot!("rule_tests_that_fail", config("Ada").run(&["rules", "test"]));
    insta::assert_snapshot!("rule_tests_that_fail_as_json", config("Ada").run(&["rules", "test", "--json"]));
}

#[test]
fn no_token_yet() {
    let here = Here::new();
    insta::assert_snapshot!("no_token_path", here.run(&["token", "path"]));
    insta::assert_snapshot!("no_token_to_list_identities", here.run(&["identities", "list"]));
    insta::assert_snapshot!("no_token_to_publish", here.run_with(&["publish", "hr", "--data", "elsewhere"], "{}\n"));
}

#[test]
fn where_the_token_is() {
    let here = Here::new();
    here.file("data/token", TOKEN);
    insta::assert_snapshot!(here.run(&["token", "path"]));
}

#[test]
fn a_token_file_that_holds_none() {
    let here = Here::new();
    here.file("data/token", "\n");
    insta::assert_snapshot!(here.run(&["dlq", "list"]));
}

#[test]
fn nobody_listens() {
    let here = Here::new();
    here.file("data/token", TOKEN);
    // Port 1 (tcpmux) is nobody's on a machine of today.
    insta::assert_snapshot!(here.run(&["guard", "list", "--url", "http://127.0.0.1:1"]));
}

#[test]
fn a_url_that_is_none() {
    insta::assert_snapshot!(Here::new().run(&["guard", "list", "--url", "notaurl"]));
}

#[test]
fn somebody_else_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>");
        }
    });
    let here = Here::new();
    here.file("data/token", TOKEN);
    let shown = here.run(&["identities", "list", "--url", &format!("http://{address}")]);
    insta::assert_snapshot!(shown.replace(&address.to_string(), "[ADDRESS]"));
}

#[test]
fn the_embedded_bus_is_reached_through_its_own_process() {
    let here = config("ada");
    insta::assert_snapshot!("serve_on_the_embedded_bus", here.run(&["serve"]));
    insta::assert_snapshot!("direct_on_the_embedded_bus", here.run(&["dlq", "list", "--direct"]));
}

#[test]
fn a_kafka_that_is_not_there() {
    let here = config("ada");
    here.file("lockstep.yaml", "tenants: [acme]\nbus:\n  kafka: { bootstrap: \"127.0.0.1:1\" }\n");
    let shown = here.run(&["identities", "list"]);
    // librdkafka says how often and after how long it failed.
    let (before, after) = shown.split_once(" (after ").unwrap();
    insta::assert_snapshot!(format!("{before} (…)\n{}", after.split_once('\n').unwrap().1));
}

#[test]
fn a_secret_that_is_not_set() {
    let here = config("ada");
    here.file(
        "lockstep.yaml",
        "tenants: [acme]\nbus:\n  kafka:\n    bootstrap: 127.0.0.1:1\n    properties: { sasl.password: \"${env:NOT_SET_ANYWHERE}\" }\n",
    );
    insta::assert_snapshot!(here.run(&["identities", "list", "--direct"]));
}

#[test]
fn a_secret_of_a_target_that_is_not_set() {
    let here = config("ada");
    here.file(
        "targets/directory.yaml",
        &TARGET.replace("sqlite:${data}/directory.db", "postgres://u:${env:NOPE_X}@db/x"),
    );
    insta::assert_snapshot!(here.run(&["dev", "--config", ".", "--once"]));
    assert!(!here.path().join("data").exists(), "nothing is begun");
    let on_kafka = format!("{LOCKSTEP}bus: {{ kafka: {{ bootstrap: '127.0.0.1:1' }} }}\n");
    here.file("lockstep.yaml", &on_kafka);
    let worker = here.run(&["worker", "--target", "directory"]);
    assert!(worker.contains("targets/directory.yaml:4:10") && worker.ends_with("exit code 3\n"), "{worker}");
    assert!(here.run(&["rules", "check"]).contains("exit code 0"), "a check may run elsewhere");
}

#[test]
fn a_release_that_does_not_say_what() {
    insta::assert_snapshot!(Here::new().run(&["guard", "release"]));
}

#[test]
fn a_log_filter_that_is_none() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["dlq", "list"])
        .env_clear()
        .env("LOCKSTEP_LOG", "lockstep=loud")
        .output()
        .unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap());
}
