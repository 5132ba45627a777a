//! The secured Kafka that tests/parts/kafka-secure.sh runs: its listeners, files and users.

use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub struct Secured {
    dir: PathBuf,
}

impl Secured {
    pub fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { dir: PathBuf::from(var("LOCKSTEP_TEST_KAFKA_SECURE")) }
    }

    /// `host:port` of a listener: sasl, mtls, oauth, plain.
    pub fn listener(&self, name: &str) -> String {
        read(&self.dir.join(name))
    }

    pub fn file(&self, name: &str) -> String {
        let path = self.dir.join(name);
        assert!(path.is_file(), "{}", path.display());
        path.display().to_string()
    }

    /// librdkafka's properties of the user who may do everything.
    pub fn admin_properties(&self) -> BTreeMap<String, String> {
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("ssl.ca.location", self.file("ca.pem")),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", "admin".to_owned()),
            ("sasl.password", read(&self.dir.join("admin"))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    pub fn admin(&self) -> KafkaBus {
        KafkaBus::connect(KafkaSettings {
            bootstrap: self.listener("sasl"),
            properties: self.admin_properties(),
            client_id: "secure".into(),
            max_record_bytes: 1_000_000,
        })
        .unwrap()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

pub fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}: run tests/run secure"))
}
