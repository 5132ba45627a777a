//! What the brokers refuse this client, in words for the person who can change it: who it is (TLS, SASL), and what it may (ACLs).
//!
//! librdkafka goes on trying for ever, whatever the reason: a wrong password looks like a slow network. Here is told which is
//! which, and what to do. Its own texts name brokers, mechanisms and certificates, never a password.

use super::client::{LastError, describe};
use crate::bus::BusError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

const TLS_FEATURE: &str =
    "use a build with the cargo feature `kafka-tls`; `lockstep version` shows what a build can do";

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
        Code::UnsupportedSASLMechanism => "name a mechanism under `bus.kafka.sasl` that the listener has enabled",
        Code::SSL => "check the files of `bus.kafka.tls`",
        _ => return None,
    })
}

/// An answer to one part of a request.
pub(super) fn refused(doing: String, code: RDKafkaErrorCode) -> BusError {
    let reason = code.to_string();
    match remedy(code) {
        Some(remedy) => BusError::Denied { doing, reason, remedy: remedy.to_owned() },
        None => BusError::Failed { doing, reason },
    }
}

/// A connection that is closed at once may be a listener that speaks TLS, or a broker that is just going: this is said only after
/// some waiting.
const TLS_WANTED: &str = "connecting to a SSL listener?";

/// Why no connection comes about, where waiting is of no use.
pub(super) fn connecting(doing: &str, last: &LastError, waited: bool) -> Option<BusError> {
    if last.reason.contains(TLS_WANTED) && !waited {
        return None;
    }
    // By librdkafka's texts, as the codes don't tell these apart (rdkafka_ssl.c, rdkafka_broker.c).
    let by_text = [
        (
            "certificate verify failed",
            "name the file of the authority that signed the brokers' certificates: `bus.kafka.tls.ca`",
        ),
        ("ostname mismatch", "name the brokers in `bus.kafka.bootstrap` as their certificates do"),
        ("IP address mismatch", "name the brokers in `bus.kafka.bootstrap` as their certificates do"),
        ("certificate required", "the listener wants a client's certificate: `bus.kafka.tls.certificate` and `key`"),
        (
            "bad certificate",
            "the listener wants a client's certificate that it trusts: `bus.kafka.tls.certificate` and `key`",
        ),
        ("unknown ca", "the listener doesn't trust who signed `bus.kafka.tls.certificate`"),
        (TLS_WANTED, "if the listener speaks TLS, add `tls: {}` to `bus.kafka`"),
        ("PLAINTEXT broker listener?", "the listener speaks no TLS: use its TLS port, or leave `bus.kafka.tls` away"),
    ];
    let known = by_text.iter().find(|(text, _)| last.reason.contains(text)).map(|(_, remedy)| *remedy);
    let remedy = known.or_else(|| last.code.and_then(remedy))?;
    Some(BusError::Denied { doing: doing.to_owned(), reason: last.reason.clone(), remedy: remedy.to_owned() })
}

/// A client that can't be made: a property that isn't valid, a file that isn't there, a build without TLS.
pub(super) fn creation(doing: &str, error: &KafkaError) -> BusError {
    let (doing, reason) = (doing.to_owned(), describe(error));
    let unsupported = match error {
        KafkaError::ClientConfig(_, text, name, _) => {
            (name.starts_with("ssl.") || name == "security.protocol") && text.contains("not available at build time")
        }
        KafkaError::ClientCreation(text) => {
            text.contains("not supported by this build") || text.contains("at build time")
        }
        _ => false,
    };
    match unsupported {
        true => BusError::Denied { doing, reason, remedy: TLS_FEATURE.to_owned() },
        false => BusError::Failed { doing, reason },
    }
}
