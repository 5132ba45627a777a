//! What is granted is the least: without any line of it something that is named does not work.

use crate::acl::Line;
use crate::house::{House, Login, event};

#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn doctor_names_each_grant_that_is_taken_away() {
    let house = House::new(Login::Scram);
    let listed = house.listed();
    house.authorizer.allow(&listed);
    house.done("topics", &["topics", "apply"]);
    let processes: std::collections::BTreeSet<&str> = listed.iter().map(|line| line.process.as_str()).collect();
    for process in &processes {
        // Only targets that have a user here.
        if *process != "worker:wiki" {
            house.done(process, &["doctor", "--as", process]);
        }
    }
    let mut silent = Vec::new();
    for line in listed.iter().filter(|line| line.process != "worker:wiki") {
        // What a broader line allows as well can't be told from it: Read and Write bring Describe with them.
        house.authorizer.take_away(line);
        let star = if line.prefixed { "*" } else { "" };
        let expected = format!("{} {}{star}", line.kind, line.name);
        let said = house.run(&line.process, &["doctor", "--as", &line.process]);
        let named = said.out.lines().any(|out| out.contains(&expected) && out.contains(&line.operation));
        println!("without {line}: exit {}, named: {named}", said.code);
        if said.code != 1 || !named {
            silent.push(format!("without {line}: {said:?}"));
        }
        house.authorizer.allow(std::slice::from_ref(line));
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

/// What a real process does without a grant: its log names it, and it goes on once it has it.
#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn a_process_without_a_grant_says_which_and_goes_on_when_it_has_it() {
    let mut house = House::new(Login::Scram);
    let listed = house.listed();
    house.authorizer.allow(&listed);
    house.done("topics", &["topics", "apply"]);
    let group = |name: &str| format!("sec-{}.{name}", house.id);
    // The last: whether the account is made all the same, as the call comes before what can't be written.
    let cases = [
        ("processor", "Read", group("processor"), "Group authorization failed", false),
        ("processor", "Write", group("processor:"), "Transactional Id authorization failed", false),
        ("processor", "Read", house.source("hr.workers"), "Topic authorization failed", false),
        ("processor", "Write", house.own("state"), "Topic authorization failed", false),
        ("processor", "Write", house.own("commands.directory"), "Topic authorization failed", false),
        ("worker:directory", "Read", house.own("commands.directory"), "Topic authorization failed", false),
        ("worker:directory", "Write", house.own("lanes.directory"), "Topic authorization failed", false),
        ("worker:directory", "Write", house.own("results"), "Topic authorization failed", true),
    ];
    house.spawn("worker:directory", &["worker", "--target", "directory"]);
    house.spawn("processor", &["processor"]);
    for (number, (process, operation, name, reason, made)) in (31_001..).zip(cases) {
        let line = listed.iter().find(|l| l.process == process && l.operation == operation && l.name == name);
        let line: &Line = line.unwrap_or_else(|| panic!("no {operation} on {name} for {process}"));
        println!("--- without {line}");
        house.authorizer.take_away(line);
        house.stop(process);
        match process {
            "processor" => house.spawn(process, &["processor"]),
            _ => house.spawn(process, &["worker", "--target", "directory"]),
        }
        let published = house.run_with("publish", &["publish", "hr", "--direct"], &event(number, 1, "hired"));
        assert_eq!(published.code, 0, "{published:?}");
        house.logs(process, &[reason, "lockstep topics acls"]);
        let found = house.account(number);
        assert!(made || found.is_none(), "without {line} it worked all the same: {found:?}");
        house.authorizer.allow(std::slice::from_ref(line));
        house.account_becomes(number, true);
    }
}

/// What `--commands` prints is what Kafka's own tool takes.
#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn what_is_printed_for_kafka_acls_grants_what_it_says() {
    let house = House::new(Login::Scram);
    let topics: Vec<Line> = house.listed().into_iter().filter(|line| line.process == "topics").collect();
    house.authorizer.allow(&topics);
    house.done("topics", &["topics", "apply"]);
    let publish = || house.run_with("publish", &["publish", "hr", "--direct"], &event(33_001, 1, "hired"));
    assert_eq!(publish().code, 1, "nothing is granted yet");
    let printed = house.done("topics", &["topics", "acls", "--of", "publish", "--commands"]);
    assert!(printed.lines().count() >= 3, "{printed}");
    for line in printed.lines() {
        let line = line
            .replacen("kafka-acls", &house.secured.file("kafka-acls"), 1)
            .replacen("HOST:PORT", &house.secured.listener("sasl"), 1)
            .replacen("admin.properties", &house.secured.file("admin.properties"), 1);
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let published = publish();
    assert_eq!(published.code, 0, "{published:?}");
}
