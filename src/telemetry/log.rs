//! Logs to stderr, readable or JSON, filtered by `LOCKSTEP_LOG`. Set up once, by the process's first lines.
//!
//! No attribute value gets in: `Attributes` and `Value` show names and types only under `Debug`.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Holds the filter: `info`, `lockstep=debug`, `info,lockstep::runtime=trace`, ...
pub const FILTER_VARIABLE: &str = "LOCKSTEP_LOG";

/// Lockstep's own doings, and what libraries think worth a warning.
const DEFAULT_FILTER: &str = "warn,lockstep=info";

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{FILTER_VARIABLE}: `{filter}` is not a filter ({reason}); write e.g. `info` or `lockstep=debug,warn`")]
    Filter { filter: String, reason: String },
    #[error("logs are set up already")]
    Twice,
}

/// Begins to log. `default_filter` is used where the environment names none; None is Lockstep at `info`, all else at `warn`.
pub fn init(format: LogFormat, default_filter: Option<&str>) -> Result<(), LogError> {
    let chosen = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = filter(chosen.as_deref().or(default_filter).unwrap_or(DEFAULT_FILTER))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()))
            .try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|reason| LogError::Filter { filter: text.to_owned(), reason: reason.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked_and_a_wrong_one_says_where_it_came_from() {
        for good in [DEFAULT_FILTER, "debug", "lockstep::runtime=trace,off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let error = filter("lockstep=loud").unwrap_err().to_string();
        assert!(error.starts_with("LOCKSTEP_LOG: `lockstep=loud` is not a filter"), "{error}");
    }
}
