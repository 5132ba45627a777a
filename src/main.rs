//! The binary: hands the command line to `lockstep::cli`, which says what it does and with which exit code it ends.

use std::process::ExitCode;

/// A step makes many small values that live as long as the step: with glibc's allocator they are a third of an event's cost.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    lockstep::cli::main()
}
