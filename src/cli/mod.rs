//! The command line: a file a subcommand, each with its `Args` and `run`. Nothing is decided here; it wires rooms together
//! and says what came of it.
//!
//! Results go to stdout (`--json` for machines), progress and errors to stderr. Exit codes: see [`Exit`].

pub mod client;
mod dev;
mod dlq;
mod doctor;
mod failure;
mod guard;
pub mod host;
mod identities;
mod kafka;
mod loops;
pub mod out;
mod poll;
mod processor;
mod progress;
mod publish;
mod quarantine;
mod reach;
mod rules;
pub mod runtime;
mod serve;
mod source_dead_letters;
mod token;
pub mod topics;
mod version;
mod worker;

pub use failure::{Exit, Failure};

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong command line · 3 wrong config or failed rule tests
            4 no running lockstep, bus or registry could be reached · 5 done in part: some input was refused

Environment: LOCKSTEP_CONFIG, LOCKSTEP_DATA and LOCKSTEP_URL stand in for --config, --data and --url; LOCKSTEP_LOG is
the log filter (`debug`, `lockstep::runtime=trace,info`); NO_COLOR turns colours off.";

#[derive(Parser, Debug)]
#[command(
    name = "lockstep",
    version,
    about = "Identity state kept in lockstep with its sources of truth",
    after_help = AFTER_HELP,
    max_term_width = 120
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// What every subcommand knows.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// The config folder: lockstep.yaml, sources/, identity.yaml, targets/ [default: examples/quickstart for `dev`, else .]
    #[arg(long, global = true, value_name = "DIR", env = "LOCKSTEP_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// The data folder: local state, the embedded bus, the token
    #[arg(long, global = true, value_name = "DIR", env = "LOCKSTEP_DATA", hide_env = true, default_value = "data")]
    pub data: PathBuf,
}

impl Common {
    /// The config folder, of every subcommand but `dev`.
    pub fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from("."))
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run everything in one process, play the quickstart's events and show what comes of them
    Dev(dev::Args),
    /// Run the processor: events in, commands out (on Kafka)
    Processor(processor::Args),
    /// Carry out the commands of one target (on Kafka)
    Worker(worker::Args),
    /// The HTTP api and the status page, on Kafka
    Serve(serve::Args),
    /// Check the config folder, or run its rules' own tests
    Rules(rules::Args),
    /// Bring source events from stdin, one JSON object a line, to a source's topic
    Publish(publish::Args),
    /// Bring changes from a system that writes to no topic to its source's topic
    Poll(poll::Args),
    /// Who is known, and what each target should show of them
    Identities(identities::Args),
    /// Dead letters: commands that need a person or a changed cause
    Dlq(dlq::Args),
    /// Removals that are held because there were too many
    Guard(guard::Args),
    /// Entities that couldn't take an event, with all that waits for them
    Quarantine(quarantine::Args),
    /// Events of sources that could not be taken, and why
    SourceDeadLetters(source_dead_letters::Args),
    /// The token that the HTTP api asks for
    Token(token::Args),
    /// Kafka's topics: what is missing or wrong, and making them
    Topics(topics::Args),
    /// Look at all that a process needs, and say what to mend
    Doctor(doctor::Args),
    /// What runs
    Version(version::Args),
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    runtime::log_panics();
    runtime::install_tls();
    let Cli { command, common } = Cli::parse();
    let outcome = match command {
        Command::Dev(args) => dev::run(&common, args),
        Command::Processor(args) => processor::run(&common, args),
        Command::Worker(args) => worker::run(&common, args),
        Command::Serve(args) => serve::run(&common, args),
        Command::Rules(args) => rules::run(&common, args),
        Command::Identities(args) => identities::run(&common, args),
        Command::Dlq(args) => dlq::run(&common, args),
        Command::Guard(args) => guard::run(&common, args),
        Command::Quarantine(args) => quarantine::run(&common, args),
        Command::SourceDeadLetters(args) => source_dead_letters::run(&common, args),
        Command::Publish(args) => publish::run(&common, args),
        Command::Poll(args) => poll::run(&common, args),
        Command::Token(args) => token::run(&common, args),
        Command::Topics(args) => topics::run(&common, args),
        Command::Doctor(args) => doctor::run(&common, args),
        Command::Version(args) => version::run(args),
    };
    outcome.unwrap_or_else(|error| failure::report(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
