//! The config folder on disk, the environment, and secrets: what the pure rooms may not touch.
//!
//! `Config::load` reads the folder, has the rules compiled, reads lockstep.yaml, and gives either all of it or every
//! mistake in it. Secrets are resolved when they are used (`secret::resolve`), never here: a loaded config holds none.

pub mod folder;
pub mod installation;
pub mod secret;

use crate::rules::{Bundle, Diagnostic, TenantRule, diagnostic};
use std::path::{Path, PathBuf};

pub use installation::{BusRules, Installation, KafkaRules, LogFormat};
pub use secret::{Secret, SecretError, resolve};

/// A config folder that is all right.
#[derive(Debug)]
pub struct Config {
    pub installation: Installation,
    pub bundle: Bundle,
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "there is no config folder at {}: create it with lockstep.yaml, identity.yaml, sources/ and targets/ \
         (examples/quickstart is one to copy), or name another with --config",
        .dir.display()
    )]
    Absent { dir: PathBuf },
    #[error("can't read {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: std::io::Error },
    #[error("{}\n\n{} in {}", diagnostic::render(.diagnostics), mistakes(.diagnostics.len()), .dir.display())]
    Wrong { dir: PathBuf, diagnostics: Vec<Diagnostic> },
}

fn mistakes(count: usize) -> String {
    match count {
        1 => "1 mistake".to_owned(),
        count => format!("{count} mistakes"),
    }
}

impl Config {
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let folder = folder::read(dir)?;
        let mut diagnostics = folder.problems;
        let installation = match &folder.installation {
            Some(file) => installation::parse(file).map_err(|problems| diagnostics.extend(problems)).ok(),
            None => {
                let help = "write it: `tenants: [acme]` is all that it needs".to_owned();
                diagnostics.push(Diagnostic::of_file("lockstep.yaml", "the file is missing", Some(help)));
                None
            }
        };
        let bundle = Bundle::compile(&folder.rules).map_err(|problems| diagnostics.extend(problems)).ok();
        if let (Some(installation), Some(bundle)) = (&installation, &bundle) {
            diagnostics.extend(unknown_tenants(installation, bundle));
        }
        match (installation, bundle) {
            (Some(installation), Some(bundle)) if diagnostics.is_empty() => {
                Ok(Self { installation, bundle, dir: dir.to_owned() })
            }
            _ => Err(ConfigError::Wrong { dir: dir.to_owned(), diagnostics }),
        }
    }
}

/// A source of a tenant that lockstep.yaml doesn't name would have every event refused.
fn unknown_tenants(installation: &Installation, bundle: &Bundle) -> Vec<Diagnostic> {
    let unknown = bundle.sources().iter().filter_map(|source| match &source.tenant {
        TenantRule::Constant(tenant) if !installation.tenants.contains(tenant) => Some((source, tenant)),
        _ => None,
    });
    unknown
        .filter_map(|(source, tenant)| {
            let file = bundle.files().iter().find(|file| file.path == source.file)?;
            let known = installation.tenants.iter().map(|tenant| tenant.as_str());
            let help = diagnostic::known_names(tenant.as_str(), "tenants", known);
            let message = format!("lockstep.yaml names no tenant `{tenant}`");
            Some(file.diagnostic(source.tenant_place, message, Some(help)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickstart_loads_and_its_tests_pass() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
        let config = Config::load(&dir).unwrap_or_else(|error| panic!("{error}"));
        let reports = config.bundle.run_tests();
        assert!(
            reports.len() > 10 && reports.iter().all(|report| report.passed()),
            "{}",
            crate::rules::example::render(&reports)
        );
    }
}
