//! Runs the built binary in a folder of its own and shows all that came out.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

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
}
