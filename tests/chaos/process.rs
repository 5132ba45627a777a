//! The binary as a user runs it, and its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A process that is killed when it is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    began: Instant,
    /// Where it serves /readyz, once it has said so.
    address: Option<String>,
}

impl Process {
    /// Logs go to `log`, added to what is there.
    pub fn start(args: &[&str], log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        // Taken all the time, or the process would come to a halt on a full pipe.
        std::thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                let _ = said.send(line);
            }
        });
        Self { child, lines, began, address: None }
    }

    pub fn kill(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended by itself, before it was killed");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal by its name: STOP, CONT, TERM.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{name}: {sent}");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it is ready, and gives how long after its start that was seen; None if it was not within the wait.
    pub fn ready(&mut self, wait: Duration) -> Option<Duration> {
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if self.is_ready() {
                return Some(self.began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    fn is_ready(&mut self) -> bool {
        for line in self.lines.try_iter() {
            if let Some((_, url)) = line.split_once("metrics ") {
                self.address =
                    url.trim().strip_prefix("http://").and_then(|url| url.split('/').next().map(str::to_owned));
            }
        }
        let Some(address) = &self.address else { return false };
        let asked = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Waits until it ends by itself.
    pub fn end(&mut self, wait: Duration) -> ExitStatus {
        let until = Instant::now() + wait;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it has not ended within {wait:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
