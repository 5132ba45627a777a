//! An installation of its own on the secured Kafka: the quickstart's rules, and the built binary as processes, each signed in as
//! who it is.

use crate::acl::{self, Authorizer, Line};
use crate::cluster::Secured;
use crate::keycloak;
use lockstep::bus::{Bus, topics};
use serde_json::json;
use sqlx::{Connection, Row, SqliteConnection};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far more than anything here takes, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines of each log that a failed test shows.
const TAIL: usize = 25;

/// How processes sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// SASL_SSL with SCRAM-SHA-512, each by its own user.
    Scram,
    /// Mutual TLS, each by its own certificate.
    Certificate,
    /// SASL_SSL with OAUTHBEARER, all by one client of Keycloak.
    Token { client: String },
}

pub struct House {
    pub secured: Secured,
    pub authorizer: Authorizer,
    pub id: String,
    dir: TempDir,
    login: Login,
    processes: Vec<Process>,
}

struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a command that ended has said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl House {
    /// With its source topics and nothing allowed.
    pub fn new(login: Login) -> Self {
        let secured = Secured::new();
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let dir = tempfile::tempdir().unwrap();
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
        for folder in ["", "sources", "targets"] {
            std::fs::create_dir_all(dir.path().join("config").join(folder)).unwrap();
            for entry in std::fs::read_dir(quickstart.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let to = dir.path().join("config").join(folder).join(path.file_name().unwrap());
                    let text = std::fs::read_to_string(&path).unwrap();
                    let text = text.replace("\ntopic: ", &format!("\ntopic: sec-{id}-in."));
                    std::fs::write(to, text.replace("sqlite:${data}/", "sqlite:${env:TABLES}/")).unwrap();
                }
            }
        }
        let house = Self { authorizer: Authorizer::new(&secured), secured, id, dir, login, processes: Vec::new() };
        house.write_lockstep_yaml();
        let sources = ["hr.workers", "idp.users"].map(|name| topics::source(&house.source(name), 2));
        house.secured.admin().create(&sources).unwrap();
        house
    }

    fn write_lockstep_yaml(&self) {
        let how = match &self.login {
            Login::Scram => {
                "tls: { ca: '${env:CA}' }\n    sasl: { mechanism: scram-sha-512, user: '${env:WHO}', password: '${env:PASSWORD}' }"
                    .to_owned()
            }
            Login::Certificate => "tls: { ca: '${env:CA}', certificate: '${env:CERTIFICATE}', key: '${env:KEY}' }".to_owned(),
            Login::Token { client } => format!(
                "tls: {{ ca: '${{env:CA}}' }}\n    sasl: {{ mechanism: oauthbearer, token_url: '{}', client_id: {client}, client_secret: '${{env:PASSWORD}}' }}",
                keycloak::token_url()
            ),
        };
        let listener = match self.login {
            Login::Scram => "sasl",
            Login::Certificate => "mtls",
            Login::Token { .. } => "oauth",
        };
        let text = format!(
            "tenants: [acme]\ninbox_partitions: 2\ncommand_partitions: 2\nhttp: {{ listen: '127.0.0.1:0' }}\nbus:\n  prefix: sec-{}.\n  kafka:\n    bootstrap: {}\n    {how}\n",
            self.id,
            self.secured.listener(listener)
        );
        self.write("lockstep.yaml", &text);
    }

    /// Writes a file of the config anew.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.dir.path().join("config").join(path), text).unwrap();
    }

    pub fn source(&self, name: &str) -> String {
        format!("sec-{}-in.{name}", self.id)
    }

    pub fn own(&self, name: &str) -> String {
        format!("sec-{}.{name}", self.id)
    }

    /// All that this installation's processes have to be allowed, as the command lists it.
    pub fn listed(&self) -> Vec<Line> {
        let said = self.run("topics", &["topics", "acls", "--json"]);
        assert_eq!(said.code, 0, "{said:?}");
        let mut lines = acl::lines(&said.out);
        for line in &mut lines {
            if let Login::Token { client } = &self.login {
                line.principal = format!("User:{client}");
            }
        }
        lines.dedup();
        lines
    }

    fn command(&self, who: &str, args: &[&str]) -> Command {
        let user = format!("lockstep-{}", who.replace(':', "-"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        let tables = self.dir.path().join("tables");
        std::fs::create_dir_all(&tables).unwrap();
        command
            .args(args)
            .arg("--config")
            .arg(self.dir.path().join("config"))
            .arg("--data")
            .arg(self.dir.path().join("data").join(&user))
            .env_clear()
            .env("NO_COLOR", "1")
            .env("TABLES", tables)
            .env("CA", self.secured.file("ca.pem"))
            .current_dir(self.dir.path());
        match &self.login {
            Login::Scram => command.env("PASSWORD", format!("{user}-secret")).env("WHO", &user),
            Login::Certificate => command
                .env("CERTIFICATE", self.secured.file(&format!("{user}.pem")))
                .env("KEY", self.secured.file(&format!("{user}.key"))),
            Login::Token { .. } => command.env("PASSWORD", keycloak::SECRET),
        };
        command
    }

    /// Runs a command to its end, as one process or another.
    pub fn run(&self, who: &str, args: &[&str]) -> Said {
        self.run_with(who, args, "")
    }

    pub fn run_with(&self, who: &str, args: &[&str], input: &str) -> Said {
        said(self.command(who, args), input)
    }

    /// The same, and it has to succeed.
    pub fn done(&self, who: &str, args: &[&str]) -> String {
        let said = self.run(who, args);
        assert_eq!(said.code, 0, "lockstep {} as {who}\n{}{}", args.join(" "), said.out, said.err);
        said.out
    }

    /// Starts a process that runs until it is stopped.
    pub fn spawn(&mut self, who: &str, args: &[&str]) {
        let command = self.command(who, &[args, &["--listen", "127.0.0.1:0"]].concat());
        self.started(who, command);
    }

    fn started(&mut self, who: &str, mut command: Command) {
        let log = self.dir.path().join(format!("{}-{}.log", who.replace(':', "-"), self.processes.len()));
        let out = File::create(&log).unwrap();
        let child = command
            .env("LOCKSTEP_LOG", "info,lockstep=debug")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        self.processes.push(Process { name: who.to_owned(), child, log });
    }

    pub fn log(&self, who: &str) -> String {
        let process = self.processes.iter().rfind(|process| process.name == who).expect("it was started");
        let log = std::fs::read_to_string(&process.log).unwrap();
        no_secret(&log);
        log
    }

    /// SIGTERM: it has to end by itself, and well.
    pub fn stop(&mut self, who: &str) {
        let log = self.log(who);
        let at = self.processes.iter().rposition(|process| process.name == who).expect("it was started");
        let mut process = self.processes.remove(at);
        let killed = Command::new("kill").arg(process.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let began = Instant::now();
        while process.child.try_wait().unwrap().is_none() {
            if began.elapsed() > STOP_WITHIN {
                let _ = process.child.kill();
                panic!("{who} did not end on SIGTERM\n{}", tail(&log));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub fn until<T>(&self, what: &str, ask: impl Fn() -> Result<T, String>) -> T {
        let began = Instant::now();
        loop {
            match ask() {
                Ok(answer) => {
                    println!("{what}: after {:.1} s", began.elapsed().as_secs_f64());
                    return answer;
                }
                Err(progress) => assert!(began.elapsed() < PATIENCE, "not in time: {what}: {progress}"),
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a process's log says this.
    pub fn logs(&self, who: &str, words: &[&str]) {
        self.until(&format!("{who} says {words:?}"), || {
            let log = self.log(who);
            let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            if said { Ok(()) } else { Err(tail(&log)) }
        });
    }

    /// Whether the directory has a person's account, and whether it is active.
    pub fn account(&self, number: u32) -> Option<bool> {
        let file = self.dir.path().join("tables/directory.db");
        if !file.is_file() {
            return None;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.ok()?;
            let row = sqlx::query("SELECT active FROM accounts WHERE employee_number = ?")
                .bind(number.to_string())
                .fetch_optional(&mut connection)
                .await
                .ok()??;
            Some(row.get::<i64, _>(0) == 1)
        })
    }

    pub fn account_becomes(&self, number: u32, active: bool) {
        let what = format!("the directory shows {number} {}", if active { "active" } else { "disabled" });
        self.until(&what, || match self.account(number) {
            Some(found) if found == active => Ok(()),
            other => Err(format!("{other:?}\n{}", self.tails())),
        });
    }

    fn tails(&self) -> String {
        let tails = self.processes.iter().map(|process| {
            let log = std::fs::read_to_string(&process.log).unwrap_or_default();
            format!("--- the end of the log of {}\n{}\n", process.name, tail(&log))
        });
        tails.collect()
    }
}

fn said(mut command: Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that ends early reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    no_secret(&said.out);
    no_secret(&said.err);
    said
}

/// HR's event of a person, as one line.
pub fn event(number: u32, sequence: u32, kind: &str) -> String {
    let status = if kind == "terminated" { "terminated" } else { "active" };
    let worker = json!({
        "workerId": format!("W-{number}"), "employeeNumber": number.to_string(), "firstName": "Ada", "lastName": "Byron",
        "department": "Finance", "title": "Clerk", "type": "employee", "status": status, "timeZone": "Europe/London",
        "startDate": "2016-03-01",
        "endDate": (kind == "terminated").then_some("2020-01-31"),
    });
    json!({ "id": format!("{number}/{sequence}"), "type": kind, "sequence": sequence, "worker": worker }).to_string()
        + "\n"
}

/// Every secret of these tests ends so.
fn no_secret(text: &str) {
    let shown = text.lines().find(|line| line.contains("-secret"));
    assert!(shown.is_none(), "a secret is shown: {shown:?}");
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

impl Drop for House {
    fn drop(&mut self) {
        let tails = if std::thread::panicking() { self.tails() } else { String::new() };
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        print!("{tails}");
    }
}
