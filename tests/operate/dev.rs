//! What `dev` makes of event files, good and bad, and what it says of them.

use crate::shop::{Shop, eventually, hired, hr};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// More than a processor gets done in the moment between the last of them and a stop.
const MANY: u32 = 5_000;

fn write(file: &Path, lines: &[impl AsRef<[u8]>]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let lines: Vec<&[u8]> = lines.iter().map(AsRef::as_ref).collect();
    std::fs::write(file, [lines.join(&b'\n'), b"\n".to_vec()].concat()).unwrap();
}

fn lines(events: &[Value]) -> Vec<String> {
    events.iter().map(Value::to_string).collect()
}

/// A folder of events beside the config, and the arguments that play it to the end.
fn folder(shop: &Shop, name: &str) -> (PathBuf, Vec<String>) {
    let folder = shop.config().parent().unwrap().join(name);
    let config = shop.config().display().to_string();
    let args = ["dev", "--once", "--listen", "127.0.0.1:0", "--config", &config, "--events", name];
    (folder.join("hr.jsonl"), args.map(str::to_owned).to_vec())
}

fn played(shop: &Shop, args: &[String]) -> (String, Vec<String>) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = shop.lockstep(&args);
    let line = out.lines().find(|line| line.starts_with("played ")).unwrap().to_owned();
    (line, shop.select("directory.db", "SELECT employee_number FROM accounts ORDER BY 1"))
}

#[test]
fn each_folder_is_played_once_and_what_a_file_grows_by() {
    let shop = Shop::new();
    let ((one, first), (other, second)) = (folder(&shop, "one"), folder(&shop, "other"));
    write(&one, &lines(&[hired(20001), hired(20002)]));
    write(&other, &lines(&[hired(20003)]));
    assert_eq!(played(&shop, &first).1, ["20001", "20002"]);
    let (line, there) = played(&shop, &second);
    assert_eq!(line, "played 1 events of hr from other/hr.jsonl", "the other folder's lines are no others");
    assert_eq!(there, ["20001", "20002", "20003"]);

    write(&one, &lines(&[hired(20001), hired(20002), hired(20004)]));
    let (line, there) = played(&shop, &first);
    assert_eq!(line, "played 1 events of hr from one/hr.jsonl; 2 were played before");
    assert_eq!(there, ["20001", "20002", "20003", "20004"]);
    let (line, _) = played(&shop, &second);
    assert_eq!(line, "played 0 events of hr from other/hr.jsonl; 1 were played before");

    // Other lines in its place are another file.
    write(&other, &lines(&[hired(20005), hired(20006)]));
    let (line, there) = played(&shop, &second);
    assert_eq!(line, "played 2 events of hr from other/hr.jsonl");
    assert_eq!(there.len(), 6);
}

#[test]
fn a_line_that_is_no_text_is_bad_input_like_any_other_and_the_rest_is_played() {
    let shop = Shop::new();
    let bad = b"{\"id\":\"\xff\"}";
    let (first, last) = (hired(20001).to_string(), hired(20002).to_string());
    write(&shop.config().join("events/hr.jsonl"), &[first.as_bytes(), bad, last.as_bytes()]);
    let dev = shop.start();
    for person in ["20001", "20002"] {
        dev.until_account(person, "directory", "active", "verified", &[]);
    }
    let letter = eventually("it is a dead letter", || dev.items("/v1/source-dead-letters").into_iter().next());
    assert_eq!(letter["reason"], "not_json");
    let letter = dev.get(&format!("/v1/source-dead-letters/{}", letter["id"].as_str().unwrap()));
    assert_eq!(letter["value_hex"], hex::encode(bad), "byte for byte");
    assert!(dev.stop().contains("3 events read, rejected: 1 not_json"));
}

/// Loops that outlive what they use panic, if they get to it before the process ends: most of the times.
const TIMES: usize = 8;

#[test]
fn an_error_while_playing_ends_the_loops_before_it_is_reported() {
    let shop = Shop::new();
    let fails = |args: &[String], words: &[&str]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (status, out, error) = shop.try_lockstep(&args, "");
        assert_eq!(status, 1, "{out}{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains("bug") && !error.contains("ERROR") && !error.contains("WARN"), "{error}");
    };
    let (file, args) = folder(&shop, "unreadable");
    std::fs::create_dir_all(&file).unwrap();
    for _ in 0..TIMES {
        fails(&args, &["error: reading unreadable/hr.jsonl\n  because: Is a directory"]);
    }
    // A folder is in the place of the file that says how far it was played: by then the workers are at the accounts.
    let (file, args) = folder(&shop, "unmarked");
    write(&file, &lines(&(20001..20041).map(hired).collect::<Vec<_>>()));
    let place = Sha256::digest(file.canonicalize().unwrap().as_os_str().as_encoded_bytes());
    std::fs::create_dir_all(shop.data().join(format!("played-hr-{}", hex::encode(&place[..8])))).unwrap();
    fails(&args, &["error: writing ", "played-hr-", "Is a directory"]);
}

#[test]
fn a_line_larger_than_its_topic_takes_is_named_and_the_rest_is_played() {
    // So many that they are played in few transactions, of which one has to be taken apart.
    const PEOPLE: u32 = 240;
    let shop = Shop::new();
    let (file, args) = folder(&shop, "large");
    let mut events = lines(&(20001..20001 + PEOPLE).map(hired).collect::<Vec<_>>());
    events.insert(100, "x".repeat(4 << 20));
    events.insert(0, String::new());
    write(&file, &events);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (status, out, error) = shop.try_lockstep(&args, "");
    assert_eq!(status, 5, "{out}{error}");
    assert!(out.contains(&format!("played {PEOPLE} events of hr from large/hr.jsonl, 1 refused")), "{out}");
    assert!(error.contains("large/hr.jsonl:102: refused: the record for topic hr.workers has 41943"), "{error}");
    assert_eq!(shop.select("directory.db", "SELECT CAST(count(*) AS TEXT) FROM accounts"), [PEOPLE.to_string()]);
    // It isn't tried again.
    let (line, _) = played(&shop, &args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
    assert_eq!(line, format!("played 0 events of hr from large/hr.jsonl; {} were played before", PEOPLE + 1));
}

#[test]
fn control_characters_and_endless_names_of_a_source_reach_no_terminal() {
    let shop = Shop::new();
    shop.edit("targets/directory.yaml", "match: userName", "match: displayName");
    let dev = shop.start();
    let name = format!("\u{1b}[31mred\nnew {}", "x".repeat(200));
    shop.hr(&[hr("hired", 20001, 1, json!({ "lastName": name }))]);
    dev.until_account("20001", "directory", "active", "verified", &[]);
    let line =
        eventually("it is on the board", || dev.board("joiner").into_iter().find(|line| line.contains("directory")));
    let list = shop.lockstep(&["identities", "list"]);
    let printed = dev.stop();
    for text in [&printed, &list] {
        assert!(!text.contains('\u{1b}') && !text.lines().any(|line| line.starts_with("new ")), "{text:?}");
        assert!(!text.contains(&"x".repeat(60)) && text.contains('…'), "{text}");
    }
    assert!(line.contains("\u{fffd}[31mred\u{fffd}new xxx") && line.ends_with(" ms"), "{line:?}");
}

#[test]
fn what_an_interrupted_dev_says_of_its_events_is_true() {
    let shop = Shop::new();
    let mut events: Vec<String> = (0..MANY).map(|number| hired(20001 + number).to_string()).collect();
    events.insert(0, "no event".to_owned());
    write(&shop.config().join("events/hr.jsonl"), &events);
    let dev = shop.begin(&[]);
    eventually("all are on their topic", || dev.board("played").pop());
    let printed = dev.stop();
    let summary = printed.lines().last().unwrap();
    let (came, rest) = summary.split_once(" events came in, ").unwrap_or_else(|| panic!("{printed}"));
    let left: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(came, (MANY + 1).to_string());
    let bad = printed.lines().filter(|line| line.starts_with("bad ")).count();
    assert!(
        summary.contains(if bad == 1 { "so far rejected: 1 not_json" } else { "so far none rejected" }),
        "{printed}"
    );

    // What was left is what the next one takes.
    let dev = shop.start();
    let taken = || {
        let of = |outcome: &str| {
            dev.metric(&format!(r#"lockstep_source_events_total{{outcome="{outcome}",source="hr"}}"#)).unwrap()
        };
        of("taken") + of("rejected")
    };
    eventually("it takes what was left", || (taken() >= f64::from(left)).then_some(()));
    eventually("and has caught up", || {
        let lag: f64 = dev
            .metrics()
            .lines()
            .filter(|line| line.starts_with("lockstep_partition_lag") && line.contains(r#"topic="hr.workers""#))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum();
        (lag == 0.0).then_some(())
    });
    assert_eq!(taken(), f64::from(left));
}
