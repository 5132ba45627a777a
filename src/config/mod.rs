//! The config folder on disk, the environment, and secrets: what the pure rooms may not touch.
//!
//! `Config::load` reads the folder, has the rules compiled, reads lockstep.yaml, and gives either all of it or every
//! mistake in it. Secrets are resolved when they are used (`secret::resolve`), never here: a loaded config holds none.

pub mod folder;
pub mod installation;
mod kafka;
pub mod secret;

use crate::rules::{Bundle, Diagnostic, SourceFile, TargetRules, TenantRule, diagnostic};
use std::path::{Path, PathBuf};

pub use installation::{BusRules, Installation, LogFormat};
pub use kafka::{ClientCertificate, KafkaRules, PasswordMechanism, SaslRules, TlsRules, TokenRules};
pub use secret::{Secret, SecretError, resolve};

/// A config folder that is all right.
#[derive(Debug)]
pub struct Config {
    pub installation: Installation,
    pub bundle: Bundle,
    pub dir: PathBuf,
    /// lockstep.yaml as it was read.
    file: SourceFile,
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
        let installation = match folder.installation {
            Some(file) => {
                let parsed = installation::parse(&file).map_err(|problems| diagnostics.extend(problems));
                parsed.ok().map(|installation| (installation, file))
            }
            None => {
                let help = "write it: `tenants: [acme]` is all that it needs".to_owned();
                diagnostics.push(Diagnostic::of_file("lockstep.yaml", "the file is missing", Some(help)));
                None
            }
        };
        let bundle = Bundle::compile(&folder.rules).map_err(|problems| diagnostics.extend(problems)).ok();
        if let (Some((installation, _)), Some(bundle)) = (&installation, &bundle) {
            diagnostics.extend(unknown_tenants(installation, bundle));
        }
        match (installation, bundle) {
            (Some((installation, file)), Some(bundle)) if diagnostics.is_empty() => {
                Ok(Self { installation, bundle, dir: dir.to_owned(), file })
            }
            _ => Err(ConfigError::Wrong { dir: dir.to_owned(), diagnostics }),
        }
    }
}

impl Config {
    /// Resolves what a process needs at its start, all of lockstep.yaml and of these targets, and says what can't be: a secret
    /// that is missing is found before anything is written or joined. Nothing of it is kept.
    pub fn check_references<'t>(
        &self,
        targets: impl IntoIterator<Item = &'t TargetRules>,
        data_dir: &Path,
    ) -> Result<(), ConfigError> {
        let own = self.installation.references.iter().map(|reference| (&self.file, reference));
        let of_targets = targets.into_iter().flat_map(|target| {
            let file = self.bundle.files().iter().find(|file| file.path == target.file);
            let file = file.expect("a target is declared in a file of its bundle");
            target.references.iter().map(move |reference| (file, reference))
        });
        let diagnostics: Vec<Diagnostic> = own
            .chain(of_targets)
            .filter_map(|(file, reference)| {
                let error = resolve(&reference.value, data_dir).err()?;
                Some(file.diagnostic(reference.place, error.to_string(), Some(error.remedy().to_owned())))
            })
            .collect();
        match diagnostics.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Wrong { dir: self.dir.clone(), diagnostics }),
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
    use crate::rules::example;

    fn quickstart() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart")
    }

    /// A copy of the quickstart's rules, with lockstep.yaml as given.
    fn copied(lockstep: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["", "sources", "targets"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            for entry in std::fs::read_dir(quickstart().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    std::fs::copy(&path, dir.path().join(folder).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        std::fs::write(dir.path().join("lockstep.yaml"), lockstep).unwrap();
        dir
    }

    fn refused(dir: &tempfile::TempDir) -> String {
        let error = Config::load(dir.path()).expect_err("a config that is wrong").to_string();
        error.replace(&dir.path().display().to_string(), "DIR")
    }

    #[test]
    fn the_quickstart_loads_and_its_tests_pass() {
        let config = Config::load(&quickstart()).unwrap_or_else(|error| panic!("{error}"));
        let reports = config.bundle.run_tests();
        assert_eq!(reports.len(), 13);
        assert!(reports.iter().all(|report| report.passed()), "{}", example::render(&reports));
        assert!(matches!(config.installation.bus, BusRules::Embedded));
        assert_eq!((config.installation.inbox_partitions, config.installation.command_partitions), (8, 6));
        assert!(config.installation.decisions, "the audit is written unless somebody says no");
    }

    #[test]
    fn the_configs_on_kafka_load_and_their_tests_pass() {
        for folder in ["examples/kafka", "benches/w1/config"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let config = Config::load(&dir).unwrap_or_else(|error| panic!("{error}"));
            let reports = config.bundle.run_tests();
            let passed = !reports.is_empty() && reports.iter().all(|report| report.passed());
            assert!(passed, "{folder}: {}", example::render(&reports));
            assert!(matches!(config.installation.bus, BusRules::Kafka(_)));
        }
    }

    #[test]
    fn everything_of_lockstep_yaml_is_read() {
        let dir = copied(
            "bus:\n  kafka:\n    bootstrap: b1:9092,b2:9092\n    properties: { security.protocol: SASL_SSL, sasl.password: '${env:KAFKA_PASSWORD}', socket.timeout.ms: 6000 }\n    replicas: 3\n  prefix: idm.\ninbox_partitions: 32\ncommand_partitions: 12\nregistry: { url: http://registry:8081 }\nhttp: { listen: '[::1]:8080' }\nlog: json\ntenants: [acme, globex]\ndecisions: false\nlimits: { event_bytes: 65536 }\n",
        );
        let installation = Config::load(dir.path()).unwrap_or_else(|error| panic!("{error}")).installation;
        let BusRules::Kafka(kafka) = &installation.bus else { panic!("kafka is what it says") };
        assert_eq!((kafka.bootstrap.as_str(), kafka.replicas), ("b1:9092,b2:9092", Some(3)));
        assert_eq!(kafka.properties["sasl.password"], "${env:KAFKA_PASSWORD}");
        assert_eq!(kafka.properties["socket.timeout.ms"], "6000");
        assert_eq!(installation.topics.inbox(), "idm.inbox");
        assert_eq!((installation.inbox_partitions, installation.command_partitions), (32, 12));
        assert_eq!(installation.registry.as_deref(), Some("http://registry:8081"));
        assert_eq!(installation.listen.to_string(), "[::1]:8080");
        assert_eq!((installation.log, installation.event_bytes), (LogFormat::Json, 65536));
        assert_eq!((installation.tenants.len(), installation.decisions), (2, false));
    }

    #[test]
    fn kafka_has_more_partitions_by_default() {
        let dir = copied("bus: { kafka: { bootstrap: 'b1:9092' } }\ntenants: [acme]\n");
        assert_eq!(Config::load(dir.path()).unwrap().installation.inbox_partitions, 64);
    }

    #[test]
    fn a_wrong_lockstep_yaml_is_refused_with_all_its_mistakes() {
        let dir = copied(
            "bus:\n  embedded: {}\n  kafka:\n    bootstrp: b1:9092\n    properties: { sasl.password: hunter2, transactional.id: mine }\n  prefix: lock step\ninbox_partitions: 0\nhttp: { listen: localhost }\nlog: loud\ntenants: [acme, acme]\n",
        );
        let shown = refused(&dir);
        assert!(!shown.contains("hunter2"));
        insta::assert_snapshot!(shown, @r#"
        error: there is one bus: `embedded` or `kafka`
         --> lockstep.yaml:3:3
          |
        3 |   kafka:
          |   ^^^^^
          |
          = help: remove one of the two

        error: `bootstrap` is missing
         --> lockstep.yaml:4:5
          |
        4 |     bootstrp: b1:9092
          |     ^
          |
          = help: add `bootstrap: 127.0.0.1:9092`

        error: the key `bootstrp` is not known here
         --> lockstep.yaml:4:5
          |
        4 |     bootstrp: b1:9092
          |     ^^^^^^^^
          |
          = help: did you mean `bootstrap`?

        error: a secret must not stand in lockstep.yaml
         --> lockstep.yaml:5:34
          |
        5 |     properties: { sasl.password: ***
          |                                  ^^^
          |
          = help: write `${env:NAME}` or `${file:PATH}`

        error: `transactional.id` is set by Lockstep: its guarantees rest on it
         --> lockstep.yaml:5:43
          |
        5 |     properties: { sasl.password: *******, transactional.id: mine }
          |                                           ^^^^^^^^^^^^^^^^
          |
          = help: remove it

        error: this can't begin the name of a topic
         --> lockstep.yaml:6:11
          |
        6 |   prefix: lock step
          |           ^^^^^^^^^
          |
          = help: use letters, digits, `.`, `-` and `_`: `lockstep.`

        error: a number from 1 to 4096 belongs here
         --> lockstep.yaml:7:19
          |
        7 | inbox_partitions: 0
          |                   ^

        error: this is not an address to listen on
         --> lockstep.yaml:8:17
          |
        8 | http: { listen: localhost }
          |                 ^^^^^^^^^
          |
          = help: write an address and a port: `127.0.0.1:7070`, `[::1]:7070`

        error: `loud` is not a word that is known here
         --> lockstep.yaml:9:6
          |
        9 | log: loud
          |      ^^^^
          |
          = help: words known here: `json`, `text`

        error: the tenant `acme` stands twice
          --> lockstep.yaml:10:17
           |
        10 | tenants: [acme, acme]
           |                 ^^^^
           |
           = help: remove one

        10 mistakes in DIR
        "#);
    }

    #[test]
    fn what_has_no_place_in_the_folder_is_named() {
        let dir = copied("tenants: [globex]\n");
        std::fs::create_dir(dir.path().join("source")).unwrap();
        std::fs::create_dir(dir.path().join("targets/old")).unwrap();
        std::fs::write(dir.path().join("targets/notes.txt"), "").unwrap();
        std::fs::write(dir.path().join("README.md"), "").unwrap();
        std::fs::write(dir.path().join("entitlement.yaml"), "").unwrap();
        std::fs::write(dir.path().join("sources/latin.yaml"), b"source: caf\xe9").unwrap();
        insta::assert_snapshot!(refused(&dir), @r#"
        error: this folder is not read
          --> source
          = help: did you mean `sources`?

        error: the file is not UTF-8 text
          --> sources/latin.yaml
          = help: save it as UTF-8

        error: this is not a rule file
          --> targets/notes.txt
          = help: this folder holds .yaml files only: move it elsewhere

        error: this is not a rule file
          --> targets/old
          = help: this folder holds .yaml files only: move it elsewhere

        error: this file has no place here
          --> entitlement.yaml
          = help: did you mean `entitlements.yaml`?

        5 mistakes in DIR
        "#);
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_shown_before_anything_begins() {
        let dir = copied(
            "tenants: [acme]\nregistry: { url: \"http://u:${env:LOCKSTEP_NOT_SET}@r\" }\nbus:\n  kafka:\n    bootstrap: ${env:LOCKSTEP_NOT_SET}\n    sasl: { mechanism: plain, user: u, password: '${file:/nowhere/x}' }\n",
        );
        let path = dir.path().join("targets/directory.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let from = "sqlite:${data}/directory.db";
        std::fs::write(&path, text.replace(from, "postgres://u:${env:LOCKSTEP_NOT_SET_X}@db/x")).unwrap();
        let config = Config::load(dir.path()).unwrap_or_else(|error| panic!("{error}"));
        let shown = |targets: &[TargetRules]| {
            let error = config.check_references(targets, dir.path()).unwrap_err().to_string();
            error.replace(&dir.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!(shown(config.bundle.targets()), @r#"
        error: the environment variable LOCKSTEP_NOT_SET is not set
         --> lockstep.yaml:2:18
          |
        2 | registry: { url: "http://u:${env:LOCKSTEP_NOT_SET}@r" }
          |                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: set it where this process starts, or use `${file:PATH}`

        error: the environment variable LOCKSTEP_NOT_SET is not set
         --> lockstep.yaml:5:16
          |
        5 |     bootstrap: ${env:LOCKSTEP_NOT_SET}
          |                ^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: set it where this process starts, or use `${file:PATH}`

        error: can't read the secret file /nowhere/x: No such file or directory (os error 2)
         --> lockstep.yaml:6:50
          |
        6 |     sasl: { mechanism: plain, user: u, password: '${file:/nowhere/x}' }
          |                                                  ^^^^^^^^^^^^^^^^^^^^
          |
          = help: let this process read it, or name another

        error: the environment variable LOCKSTEP_NOT_SET_X is not set
         --> targets/directory.yaml:5:10
          |
        5 |     url: postgres://u:${env:LOCKSTEP_NOT_SET_X}@db/x
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: set it where this process starts, or use `${file:PATH}`

        4 mistakes in DIR
        "#);
        assert!(shown(&[]).ends_with("3 mistakes in DIR"), "a worker resolves nothing of other targets");
        let quickstart = Config::load(&quickstart()).unwrap();
        quickstart.check_references(quickstart.bundle.targets(), dir.path()).unwrap();
    }

    #[test]
    fn a_source_of_a_tenant_that_nobody_declared_is_refused() {
        insta::assert_snapshot!(refused(&copied("tenants: [acme-corp]\n")), @r#"
        error: lockstep.yaml names no tenant `acme`
         --> sources/hr.yaml:4:9
          |
        4 | tenant: acme
          |         ^^^^
          |
          = help: tenants known here: `acme-corp`

        error: lockstep.yaml names no tenant `acme`
         --> sources/idp.yaml:4:9
          |
        4 | tenant: acme
          |         ^^^^
          |
          = help: tenants known here: `acme-corp`

        2 mistakes in DIR
        "#);
    }

    #[test]
    fn an_absent_folder_says_what_to_do() {
        let error = Config::load(Path::new("/nowhere/at/all")).expect_err("it is not there").to_string();
        assert!(error.starts_with("there is no config folder at /nowhere/at/all: create it with"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        insta::assert_snapshot!(refused(&empty), @r#"
        error: the file is missing
          --> lockstep.yaml
          = help: write it: `tenants: [acme]` is all that it needs

        error: the file is missing
          --> identity.yaml
          = help: write it: `kinds: { person: { anchor: hr, attributes: { givenName: [hr.givenName] } } }`

        error: there is no source
          --> sources/
          = help: write sources/hr.yaml: `source:`, `topic:`, `tenant:`, `event:`, `record:`, `attributes:`

        3 mistakes in DIR
        "#);
    }
}
