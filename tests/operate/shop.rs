//! A small company of its own: a copy of the quickstart's config, a data folder, and the built binary that runs on both.

use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use std::fmt::Debug;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far more than anything here takes, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Shop {
    dir: TempDir,
}

impl Shop {
    /// The quickstart's rules, without its people.
    pub fn new() -> Self {
        let shop = Self { dir: tempfile::tempdir().unwrap() };
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
        copy(&quickstart, &shop.config());
        std::fs::remove_dir_all(shop.config().join("events")).unwrap();
        shop
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Changes a file of the config.
    pub fn edit(&self, file: &str, from: &str, to: &str) -> &Self {
        let path = self.config().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.args(args).arg("--data").arg(self.data()).current_dir(self.dir.path()).env_clear().env("NO_COLOR", "1");
        command
    }

    /// Starts `dev` and waits until it is ready.
    pub fn start(&self) -> Dev {
        let dev = self.begin(&[]);
        eventually("dev is ready", || dev.status("/readyz").filter(|(status, _)| *status == 200));
        dev
    }

    /// Starts `dev` and waits until it listens.
    pub fn begin(&self, environment: &[(&str, &str)]) -> Dev {
        let _ = std::fs::remove_file(self.data().join("url"));
        let (out, err) = (self.dir.path().join("out"), self.dir.path().join("err"));
        let mut command = self.command(&["dev", "--listen", "127.0.0.1:0"]);
        command.arg("--config").arg(self.config()).envs(environment.iter().copied()).stdin(Stdio::null());
        let child = command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).spawn().unwrap();
        let mut dev = Dev { child, out, err, address: String::new(), token: String::new() };
        let url = eventually("dev says where it listens", || {
            assert_eq!(dev.child.try_wait().unwrap(), None, "{}", dev.stderr());
            let url = std::fs::read_to_string(self.data().join("url")).ok()?;
            url.ends_with('\n').then_some(url)
        });
        dev.address = url.trim().trim_start_matches("http://").to_owned();
        dev.token = std::fs::read_to_string(self.data().join("token")).unwrap().trim().to_owned();
        dev
    }

    /// What a subcommand prints; it has to end well.
    pub fn lockstep(&self, args: &[&str]) -> String {
        self.lockstep_with(args, "")
    }

    pub fn lockstep_with(&self, args: &[&str], input: &str) -> String {
        let (status, out, err) = self.try_lockstep(args, input);
        assert_eq!(status, 0, "lockstep {args:?} printed\n{out}{err}");
        out
    }

    pub fn try_lockstep(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// HR says this.
    pub fn hr(&self, events: &[Value]) {
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        self.lockstep_with(&["publish", "hr"], &lines.join("\n"));
    }

    /// Runs SQL on a target's database, as its owner would.
    pub fn sql(&self, database: &str, statement: &str) {
        self.on(database, async |connection: &mut SqliteConnection| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.map(drop)
        });
    }

    /// The first column of the rows, as text.
    pub fn select(&self, database: &str, query: &str) -> Vec<String> {
        self.on(database, async |connection: &mut SqliteConnection| {
            let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(query)).fetch_all(connection).await?;
            Ok(rows.iter().map(|row| row.get::<String, _>(0)).collect())
        })
    }

    fn on<T>(&self, database: &str, work: impl AsyncFn(&mut SqliteConnection) -> sqlx::Result<T>) -> T {
        let path = self.data().join(database);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = options.busy_timeout(PATIENCE).connect().await.unwrap();
            let done = work(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            done
        })
    }
}

/// A running `dev`, killed when dropped.
pub struct Dev {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    address: String,
    token: String,
}

impl Dev {
    /// Status and body of an answer; None if nobody answers.
    pub fn status(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("GET {path} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", self.token);
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.status(path).expect("it answers");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn items(&self, path: &str) -> Vec<Value> {
        self.get(path)["items"].as_array().unwrap().clone()
    }

    pub fn metrics(&self) -> String {
        self.status("/metrics").expect("it answers").1
    }

    /// The value of a series, as it is written in `/metrics`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Waits until a series has this value.
    pub fn until_metric(&self, series: &str, value: f64) {
        let mut last = None;
        let met = eventually_or(|| {
            last = self.metric(series);
            (last == Some(value)).then_some(())
        });
        assert!(met.is_some(), "{series} is {last:?} instead of {value}\n{}", self.metrics());
    }

    /// The one identity that a search finds.
    pub fn person(&self, search: &str) -> Value {
        let found = eventually(&format!("{search} is known"), || {
            self.items(&format!("/v1/identities?q={search}")).into_iter().next()
        });
        self.get(&format!("/v1/identities/{}", found["identity"].as_str().unwrap()))
    }

    /// A person's account at a target, as the api shows it.
    pub fn account(&self, search: &str, target: &str) -> Value {
        let page = self.person(search);
        let rows = page["account_rows"].as_array().unwrap();
        rows.iter().find(|row| row["target"] == target).cloned().unwrap_or(Value::Null)
    }

    /// Waits until that account is in this state, with this outcome and these marks.
    pub fn until_account(&self, search: &str, target: &str, state: &str, outcome: &str, marks: &[&str]) -> Value {
        let mut last = Value::Null;
        let met = eventually_or(|| {
            last = self.account(search, target);
            let met = last["state"] == state && last["outcome"] == outcome && last["marks"] == json!(marks);
            met.then(|| last.clone())
        });
        met.unwrap_or_else(|| {
            panic!("{search} at {target} should be {state} {outcome} {marks:?}, and is {last:#}\n{}", self.stderr())
        })
    }

    /// The lines of the board that begin so.
    pub fn board(&self, word: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.out).unwrap();
        text.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Stops it as an operator does, and gives what it printed.
    pub fn stop(mut self) -> String {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child that is not waited for yet.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.stderr());
        std::fs::read_to_string(&self.out).unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An event of HR about a worker: its number names the person, its sequence orders the events.
pub fn hr(kind: &str, number: u32, sequence: u32, changes: Value) -> Value {
    let mut worker = json!({
        "workerId": format!("W-{number}"), "employeeNumber": number.to_string(), "firstName": format!("Given{number}"),
        "lastName": format!("Family{number}"), "department": "Engineering", "type": "employee",
        "status": if kind == "terminated" { "terminated" } else { "active" }, "startDate": "2020-01-01",
    });
    for (name, value) in changes.as_object().unwrap() {
        worker[name] = value.clone();
    }
    json!({ "id": format!("hr-{number}-{sequence}"), "type": kind, "sequence": sequence, "worker": worker })
}

pub fn hired(number: u32) -> Value {
    hr("hired", number, 1, json!({}))
}

pub fn terminated(number: u32) -> Value {
    hr("terminated", number, 2, json!({}))
}

/// Waits until something is so.
pub fn eventually<T: Debug>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_or(look).unwrap_or_else(|| panic!("in vain: {what}"))
}

fn eventually_or<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    None
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let there = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &there);
        } else {
            std::fs::copy(entry.path(), there).unwrap();
        }
    }
}
