//! Runs the built binary in a folder of its own and shows all that came out.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a started process may take until it listens, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A path of the repository.
pub fn repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A folder to run in.
pub struct Here {
    dir: TempDir,
}

impl Here {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, with the folders to it.
    pub fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// What `lockstep ARGS < input` prints and ends with.
    pub fn run_with(&self, args: &[&str], input: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        match child.stdin.take().unwrap().write_all(input.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
            _ => {}
        }
        let output = child.wait_with_output().unwrap();
        let mut shown = format!("$ lockstep {}\n", args.join(" "));
        shown.push_str(&String::from_utf8(output.stdout).unwrap());
        if !output.stderr.is_empty() {
            shown.push_str("--- stderr\n");
            shown.push_str(&String::from_utf8(output.stderr).unwrap());
        }
        shown.push_str(&format!("--- exit code {}\n", output.status.code().unwrap()));
        shown.replace(&self.path().display().to_string(), "[HERE]")
    }

    pub fn run(&self, args: &[&str]) -> String {
        self.run_with(args, "")
    }

    /// Starts `lockstep ARGS`, which serves HTTP, and waits until it listens.
    pub fn start(&self, args: &[&str]) -> Running {
        // One of a run before says nothing of this one.
        let _ = std::fs::remove_file(self.path().join("data/url"));
        let child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(self.path().join("data").join(name)).unwrap_or_default();
        let until = Instant::now() + PATIENCE;
        while read("url").is_empty() {
            assert!(Instant::now() < until, "it does not listen within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Running { child, url: read("url").trim().to_owned(), token: read("token").trim().to_owned() }
    }
}

/// A process that serves HTTP; it ends with this value.
pub struct Running {
    child: Child,
    url: String,
    token: String,
}

impl Running {
    /// Status and body of the answer.
    pub fn post(&self, path: &str, body: Vec<u8>) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // An error says that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        runtime.block_on(async {
            let request =
                reqwest::Client::new().post(format!("{}{path}", self.url)).bearer_auth(&self.token).body(body);
            let answer = request.send().await.unwrap();
            format!("{} {}", answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    /// Asks it to stop, and gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child that was not waited for yet: its id is nobody else's.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not stop within {PATIENCE:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both are errors where it has ended already, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
