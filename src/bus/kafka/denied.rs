//! What the brokers refuse this client, in words for the person who can change it: who it is (TLS, SASL), and what it may (ACLs).
//!
//! librdkafka goes on trying for ever, whatever the reason: a wrong password looks like a slow network. Here is told which is
//! which, and what to do. Its own texts name brokers, mechanisms and certificates, never a password.

use super::client::{LastError, code_of, describe, is_momentary};
use crate::bus::BusError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

const TLS_FEATURE: &str =
    "use a build with the cargo feature `kafka-tls`; `lockstep version` shows what a build can do";

const MECHANISM: &str = "name a mechanism under `bus.kafka.sasl` that the listener has enabled";
/// Java's TLS says "bad certificate" of one that it doesn't trust, and of none.
const OWN_CERTIFICATE: &str = "the listener wants a client's certificate, of an authority that it trusts: \
                               `bus.kafka.tls.certificate` and `key`";

/// Properties of librdkafka that name files, and where lockstep.yaml says them.
const FILES: [(&str, &str); 3] =
    [("ssl.ca.location", "ca"), ("ssl.certificate.location", "certificate"), ("ssl.key.location", "key")];

/// What to do about a refusal; None where it is none.
pub(super) fn remedy(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => {
            "grant what is missing: `lockstep topics acls` lists what each process needs"
        }
        Code::Authentication | Code::SaslAuthenticationFailed => {
            "check mechanism, user and password of `bus.kafka.sasl`, and that the user exists in the cluster"
        }
        Code::UnsupportedSASLMechanism => MECHANISM,
        Code::SSL => "check the files of `bus.kafka.tls`",
        _ => return None,
    })
}

/// Whether an error is a refusal.
pub(super) fn is(error: &KafkaError) -> bool {
    code_of(error).and_then(remedy).is_some()
}

/// An answer to one part of a request.
pub(super) fn refused(doing: String, code: RDKafkaErrorCode) -> BusError {
    refused_as(doing, code.to_string(), code)
}

/// The same, in librdkafka's own words.
pub(super) fn refused_as(doing: String, reason: String, code: RDKafkaErrorCode) -> BusError {
    match remedy(code) {
        Some(remedy) => BusError::Denied { doing, reason, remedy: remedy.to_owned() },
        None if is_momentary(code) => BusError::Retriable { doing, reason },
        None => BusError::Failed { doing, reason },
    }
}

/// A listener that speaks TLS closes a connection that doesn't as soon as it is greeted; a broker that is just going may do so,
/// too, so this is a hint and no refusal. librdkafka says it in a line of log alone.
pub(super) fn perhaps_tls(line: &str) -> bool {
    line.contains("Disconnected") && line.contains("in state APIVERSION_QUERY") && !line.contains("ssl://")
}

pub(super) const PERHAPS_TLS: &str = "if the listener speaks TLS, add `tls: {}` to `bus.kafka`";

/// Why no connection comes about, where waiting is of no use.
pub(super) fn connecting(doing: &str, last: &LastError) -> Option<BusError> {
    // By librdkafka's texts, as the codes don't tell these apart (rdkafka_ssl.c, rdkafka_broker.c).
    let by_text = [
        (
            "certificate verify failed",
            "name the file of the authority that signed the brokers' certificates: `bus.kafka.tls.ca`",
        ),
        ("ostname mismatch", "name the brokers in `bus.kafka.bootstrap` as their certificates do"),
        ("IP address mismatch", "name the brokers in `bus.kafka.bootstrap` as their certificates do"),
        ("certificate required", OWN_CERTIFICATE),
        ("bad certificate", OWN_CERTIFICATE),
        ("unknown ca", OWN_CERTIFICATE),
        ("mechanism handshake failed", MECHANISM),
        ("PLAINTEXT broker listener?", "the listener speaks no TLS: use its TLS port, or leave `bus.kafka.tls` away"),
    ];
    let known = by_text.iter().find(|(text, _)| last.reason.contains(text)).map(|(_, remedy)| *remedy);
    let remedy = known.or_else(|| last.code.and_then(remedy))?;
    Some(BusError::Denied { doing: doing.to_owned(), reason: last.reason.clone(), remedy: remedy.to_owned() })
}

/// A client that can't be made: a property that isn't valid, a file that isn't there, a build without TLS.
pub(super) fn creation(doing: &str, error: &KafkaError) -> BusError {
    let (doing, reason) = (doing.to_owned(), describe(error));
    let said = match error {
        KafkaError::ClientConfig(_, text, ..) | KafkaError::ClientCreation(text) => text.as_str(),
        _ => "",
    };
    if said.contains("at build time") || said.contains("not supported by this build") {
        return BusError::Denied { doing, reason, remedy: TLS_FEATURE.to_owned() };
    }
    match FILES.iter().find(|(property, _)| said.contains(property)) {
        Some((_, key)) => {
            let remedy = format!("`bus.kafka.tls.{key}` has to name a file in PEM that this process may read");
            BusError::Denied { doing, reason, remedy }
        }
        None => BusError::Failed { doing, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: &str, code: Option<RDKafkaErrorCode>) -> Option<String> {
        match connecting("kafka at b1:9093", &LastError { code, reason: reason.to_owned() })? {
            BusError::Denied { remedy, .. } => Some(remedy),
            other => panic!("{other}"),
        }
    }

    /// The texts are librdkafka's, as `tests/secure` provokes them.
    #[test]
    fn a_refusal_is_told_from_a_network_that_is_slow() {
        use RDKafkaErrorCode as Code;
        let refused = "SASL authentication error: Authentication failed";
        assert!(told(refused, Some(Code::Authentication)).unwrap().contains("user and password"));
        let closed =
            "localhost:9093/bootstrap: Disconnected: connection closed by peer (after 1ms in state APIVERSION_QUERY)";
        assert!(told(closed, None).is_none() && perhaps_tls(closed) && !perhaps_tls(&format!("ssl://{closed}")));
        let down = "Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert_eq!(told(down, Some(Code::BrokerTransportFailure)), None);
    }

    #[test]
    fn a_build_without_tls_and_a_file_that_is_not_there_are_told_apart() {
        let remedy = |text: &str| match creation("kafka", &KafkaError::ClientCreation(text.into())) {
            BusError::Denied { remedy, .. } => remedy,
            other => other.to_string(),
        };
        assert!(remedy("ssl.ca.location failed: No such file").contains("`bus.kafka.tls.ca`"));
        assert!(remedy("OpenSSL not available at build time").contains("kafka-tls"));
        assert!(remedy("something else").contains("something else"));
    }
}
