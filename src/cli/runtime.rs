//! What running subcommands share: the data folder, the tokio runtime, signals.

use super::{Exit, Failure};
use anyhow::Context;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that a second signal ended, as shells give it to SIGINT.
const INTERRUPTED: i32 = 130;

/// rustls asks which cryptography to use, once a process.
pub fn install_tls() {
    // An error says that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes the data folder, for its owner only: it holds personal data and the token.
pub fn create_data_dir(path: &Path) -> anyhow::Result<()> {
    let failure = || {
        Failure::new(Exit::Failed, format!("the data folder {} can't be used", path.display()))
            .help("name one that you may write to with --data")
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(failure)?;
    let mode = std::fs::metadata(path).with_context(failure)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:o}", mode & 0o777),
            "the data folder is open to other users: `chmod 700` it"
        );
    }
    Ok(())
}

/// The runtime of workers and HTTP.
pub fn tokio() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once, which loses nothing: what isn't
/// committed comes again.
pub fn cancelled_by_signals(runtime: &Runtime) -> anyhow::Result<CancellationToken> {
    let cancel = CancellationToken::new();
    let _in_runtime = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let cancelled = cancel.clone();
    runtime.spawn(async move {
        let name = tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        tracing::info!(signal = name, "stopping: finishing what is under way");
        cancelled.cancel();
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(INTERRUPTED);
    });
    Ok(cancel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_is_its_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/data");
        create_data_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        create_data_dir(&path).unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        let error = create_data_dir(&parent.path().join("file/data")).unwrap_err();
        assert!(error.to_string().contains("can't be used"), "{error:#}");
    }
}
