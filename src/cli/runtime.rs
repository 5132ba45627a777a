//! What running subcommands share: the config, the data folder, the bus, the codec, logs, the tokio runtime, signals.

use super::{Exit, Failure, failure};
use crate::bus::embedded::{EmbeddedBus, EmbeddedOptions};
use crate::bus::topics::Layout;
use crate::bus::{Bus, BusError};
use crate::codec::public::PublicCodec;
use crate::codec::registry::Registry;
use crate::config::{BusRules, Config, Installation, LogFormat, resolve};
use crate::rules::TargetRules;
use crate::telemetry::log;
use anyhow::Context;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Pauses before the brokers are asked anew, doubling; an attempt takes up to 10 s by itself.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon a signal ends such a pause.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The exit code of a process that a second signal ended, as shells give it to SIGINT.
const INTERRUPTED: i32 = 130;
/// rustls asks which cryptography to use, once a process.
pub fn install_tls() {
    // An error says that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A panic is logged with its place and thread, never with its payload: that may hold an attribute's value.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "a place that is not known".to_owned(), ToString::to_string);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, thread, "a bug: it panicked");
        } else {
            eprintln!("error: a bug: it panicked at {place} in thread {thread}");
        }
    }));
}

/// For subcommands that only ask something: they say themselves what goes wrong.
const QUIET: &str = "error,librdkafka=off";

/// Beside the board of `dev`, which shows what was rejected by itself.
pub const BESIDE_A_BOARD: &str = "warn,lockstep=info,lockstep::runtime::intake=error";

/// Begins to log as the config says; None for subcommands that only ask something: errors alone.
pub fn start_logs(installation: Option<&Installation>) -> anyhow::Result<()> {
    match installation {
        Some(installation) => begin_logs(installation.log, None),
        None => begin_logs(LogFormat::Text, Some(QUIET)),
    }
}

/// Begins to log with a filter for want of one in the environment.
pub fn begin_logs(format: LogFormat, filter: Option<&str>) -> anyhow::Result<()> {
    log::init(format, filter).map_err(|error| Failure::new(Exit::Failed, error.to_string()).into())
}

/// The config, or every mistake in it.
pub fn load_config(dir: &Path) -> anyhow::Result<Config> {
    Config::load(dir).map_err(|error| {
        let failure = Failure::new(Exit::Config, error.to_string());
        match dir.join("lockstep.yaml").is_file() {
            true => failure.into(),
            false => failure
                .help(format!(
                    "is {} the config folder? name the one that holds lockstep.yaml with --config; in a clone of the \
                     repository: --config examples/quickstart",
                    dir.display()
                ))
                .into(),
        }
    })
}

/// Refuses references of lockstep.yaml and of these targets that can't be resolved, before anything begins.
pub fn check_references<'t>(
    config: &Config,
    targets: impl IntoIterator<Item = &'t TargetRules>,
    data: &Path,
) -> anyhow::Result<()> {
    let checked = config.check_references(targets, data);
    checked.map_err(|error| Failure::new(Exit::Config, error.to_string()).into())
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

/// The bus that the config names; the data folder has to be there.
pub fn open_bus(config: &Config, data: &Path) -> anyhow::Result<Arc<dyn Bus>> {
    match &config.installation.bus {
        BusRules::Embedded => match EmbeddedBus::open(data, &EmbeddedOptions::default()) {
            Ok(bus) => Ok(Arc::new(bus)),
            Err(error) => Err(Failure::new(Exit::Failed, error.to_string())
                .help("one process at a time uses the embedded bus: is another lockstep running with this --data?")
                .into()),
        },
        BusRules::Kafka(kafka) => Ok(Arc::new(super::kafka::connect(kafka, &Layout::of(config), data)?)),
    }
}

/// Begins what needs the brokers, again and again while they can't be reached: one that is away comes back, and what starts
/// meanwhile waits for it. What waiting doesn't mend, a wrong password or a topic that isn't there, ends it. None: cancelled.
pub fn until_reached<T>(
    cancel: &CancellationToken,
    mut begin: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let mut pause = FIRST_PAUSE;
    while !cancel.is_cancelled() {
        let error = match begin() {
            Ok(begun) => return Ok(Some(begun)),
            Err(error) => error,
        };
        if error.downcast_ref::<Failure>().is_none_or(|failure| failure.exit() != Exit::Unreachable) {
            return Err(error);
        }
        let help = failure::help_of(&error).unwrap_or_default();
        tracing::warn!(%error, help, pause_s = pause.as_secs(), "the brokers can't be reached yet: tries again after a pause");
        let until = Instant::now() + pause;
        while Instant::now() < until && !cancel.is_cancelled() {
            std::thread::sleep(LOOK_EVERY);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(None)
}

/// An error of the bus, with what can be done about it.
pub fn bus_failure(error: &BusError) -> anyhow::Error {
    match error {
        BusError::Retriable { doing, reason } => Failure::new(Exit::Unreachable, format!("{doing}: {reason}"))
            .help("check `bus:` in lockstep.yaml, and that the brokers run and can be reached from here")
            .into(),
        BusError::Denied { doing, reason, remedy } => {
            Failure::new(Exit::Failed, format!("{doing}: {reason}")).help(remedy.clone()).into()
        }
        BusError::Fenced(_) => {
            Failure::new(Exit::Failed, error.to_string()).help("give each process an instance name of its own").into()
        }
        BusError::Failed { .. } | BusError::TooLarge { .. } => Failure::new(Exit::Failed, error.to_string()).into(),
    }
}

/// Reads and writes the public topics, with the config's registry if it names one.
pub fn codec(installation: &Installation, data: &Path) -> anyhow::Result<Arc<PublicCodec>> {
    Ok(Arc::new(PublicCodec::new(registry(installation, data)?)))
}

/// The config's schema registry; nobody is called yet.
pub fn registry(installation: &Installation, data: &Path) -> anyhow::Result<Option<Arc<Registry>>> {
    let failure = |error: String| Failure::new(Exit::Config, format!("lockstep.yaml: registry: {error}"));
    let Some(url) = &installation.registry else { return Ok(None) };
    let url = resolve(url, data).map_err(|error| failure(error.to_string()).help(error.remedy()))?;
    let registry = Registry::new(url.expose()).map_err(|error| failure(error.to_string()))?;
    Ok(Some(Arc::new(registry)))
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

    /// Panics in a process of its own, which has a hook and a log of its own.
    #[test]
    fn a_panic_is_logged_with_its_place_and_thread_but_not_with_what_it_holds() {
        const NAME: &str =
            "cli::runtime::tests::a_panic_is_logged_with_its_place_and_thread_but_not_with_what_it_holds";
        const LOGS: &str = "LOCKSTEP_TEST_PANICS_WITH_LOGS";
        if let Some(logs) = std::env::var_os(LOGS) {
            log_panics();
            if logs == "yes" {
                start_logs(None).unwrap();
            }
            let value = "Ada Byron";
            let thread = std::thread::Builder::new().name("worker wiki".to_owned());
            assert!(thread.spawn(move || panic!("{value} was not expected")).unwrap().join().is_err());
            return;
        }
        for (logs, words) in [("yes", "a bug: it panicked place="), ("no", "error: a bug: it panicked at ")] {
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(LOGS, logs)
                .env_remove(log::FILTER_VARIABLE)
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&child.stderr);
            assert!(child.status.success(), "{shown}");
            for expected in [words, "src/cli/runtime.rs:", "worker wiki"] {
                assert!(shown.contains(expected), "{expected:?} is missing: {shown}");
            }
            assert!(!shown.contains("Byron"), "{shown}");
        }
    }

    #[test]
    fn brokers_that_are_away_are_waited_for_and_a_refusal_is_not() {
        let retriable = || BusError::Retriable { doing: "kafka at b:9092".into(), reason: "refused".into() };
        let denied = BusError::Denied { doing: "kafka".into(), reason: "no such user".into(), remedy: "mend".into() };
        let cancel = CancellationToken::new();
        let mut answers = vec![Ok(7), Err(bus_failure(&retriable()))];
        let reached = until_reached(&cancel, || answers.pop().expect("it is not asked once more"));
        assert_eq!(reached.unwrap(), Some(7));

        let mut asked = 0;
        let refused = until_reached(&cancel, || {
            asked += 1;
            Err::<(), _>(bus_failure(&denied))
        });
        assert_eq!((refused.unwrap_err().to_string().as_str(), asked), ("kafka: no such user", 1));

        let began = Instant::now();
        let cancelled = until_reached(&cancel, || {
            cancel.cancel();
            Err::<(), _>(bus_failure(&retriable()))
        });
        assert!(cancelled.unwrap().is_none() && began.elapsed() < FIRST_PAUSE);
    }

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
