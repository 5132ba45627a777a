//! A process that is killed while it writes: the test binary runs one of its own tests again as a child, and kills it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Names the folder that a child is to write to; what has it set is a child.
const FOLDER: &str = "LOCKSTEP_TEST_CHILD_FOLDER";

/// Before each number that a child has written and acknowledges.
const MARK: &str = "written:";

/// The folder to write to, if this process is the child.
pub fn child_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Says that everything up to `number` was written.
pub fn acknowledge(number: i64) {
    // Not `print!`: the test harness keeps that back.
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{number}").and_then(|()| out.flush()).unwrap();
}

/// Runs `test` (its whole path in this binary) as a child that writes to `folder`, lets it get going and then write for
/// `span`, kills it (SIGKILL), and gives the last number that it acknowledged.
pub fn run_and_kill(test: &str, folder: &Path, span: Duration) -> i64 {
    let mut child = start(test, folder);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains(MARK) {
        assert!(output.read_line(&mut seen).unwrap() > 0, "the child ended before it wrote anything: {seen}");
    }
    // What the child prints meanwhile must be taken, or it would come to a halt on a full pipe.
    let reader = std::thread::spawn(move || {
        output.read_to_string(&mut seen).unwrap();
        seen
    });
    std::thread::sleep(span);
    child.kill().unwrap();
    child.wait().unwrap();
    let seen = reader.join().unwrap();
    // The last line may be cut in the middle.
    let whole = &seen[..=seen.rfind('\n').unwrap()];
    let numbers = whole.lines().filter_map(|line| line.split(MARK).nth(1));
    numbers.map(|number| number.parse().unwrap()).next_back().unwrap()
}

/// As `run_and_kill`, but doesn't wait until it has got going: it may be killed while it opens the folder, or before.
pub fn run_and_kill_early(test: &str, folder: &Path, span: Duration) {
    let mut child = start(test, folder);
    // Not taken from it: in so short a time it doesn't fill the pipe.
    std::thread::sleep(span);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn start(test: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}
