//! The binary: hands the command line to `lockstep::cli`, which says what it does and with which exit code it ends.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep::cli::main()
}
