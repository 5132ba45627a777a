//! How a subcommand fails: what happened, what to do about it, and the exit code.

use std::fmt;
use std::process::ExitCode;

/// Exit codes, as `lockstep --help` lists them. 2 is clap's: a wrong command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    /// The config is wrong, or its tests fail.
    Config = 3,
    /// A running lockstep, a bus or a registry couldn't be reached.
    Unreachable = 4,
    /// Some of the input was refused; the rest is done.
    Partly = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error for a person: printed as `error: …` and `help: …`.
#[derive(Debug)]
pub struct Failure {
    what: String,
    help: Vec<String>,
    exit: Exit,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), help: Vec::new(), exit }
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Prints an error to stderr and gives the exit code that goes with it.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    eprint!("{}", text(error));
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit).into()
}

/// What an error says there is to do.
pub(super) fn help_of(error: &anyhow::Error) -> Option<String> {
    let help = &error.downcast_ref::<Failure>()?.help;
    (!help.is_empty()).then(|| help.join("\n"))
}

fn text(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    // Diagnostics of the config bring their own, one each.
    let label = if said.starts_with("error: ") { "" } else { "error: " };
    let mut text = format!("{label}{said}\n");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors repeat their source in their own text.
        if !said.contains(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
        }
        said = cause;
    }
    for line in error.downcast_ref::<Failure>().map_or(&[][..], |failure| &failure.help) {
        text.push_str(&format!("help: {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let failure = Failure::new(Exit::Config, "no token at data/token").help("start `lockstep dev`");
        assert_eq!(text(&failure.into()), "error: no token at data/token\nhelp: start `lockstep dev`\n");

        let diagnostics = Failure::new(Exit::Config, "error: one\n\nerror: two\n\n2 mistakes in .");
        assert_eq!(text(&diagnostics.into()), "error: one\n\nerror: two\n\n2 mistakes in .\n");

        let plain = std::fs::read("/nonexistent/token").context("reading the token").unwrap_err();
        assert_eq!(text(&plain), "error: reading the token\n  because: No such file or directory (os error 2)\n");

        let wrapped = std::fs::read("/nonexistent")
            .context(Failure::new(Exit::Failed, "the data folder can't be used").help("name another with --data"))
            .unwrap_err();
        assert_eq!(
            text(&wrapped),
            "error: the data folder can't be used\n  because: No such file or directory (os error 2)\n\
             help: name another with --data\n"
        );
    }
}
