//! What a service provider's refusal means, by status and scimType (RFC 7644, section 3.12). Nothing else of an answer's body
//! is ever shown: `detail` quotes values.

use crate::connector::CallError;
use crate::model::ErrorClass;
use reqwest::{Method, StatusCode};
use std::time::Duration;

/// Longer than this a target is down, and is to be asked again all the same.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// An answer that is no success.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// None: there was no answer.
    pub(super) status: Option<StatusCode>,
    pub(super) error: CallError,
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self { status: None, error }
    }
}

impl Refused {
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.status, Some(StatusCode::NOT_FOUND | StatusCode::GONE))
    }

    /// The target doesn't have this method or feature: another way is to be used from now on.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.status, Some(StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED))
    }

    pub(super) fn is_bad_request(&self) -> bool {
        self.status == Some(StatusCode::BAD_REQUEST)
    }
}

/// `what` names the resource, such as "/Users": 409 on a user is a name that is taken, on a group a change at the same time.
pub(super) fn refused(
    method: &Method,
    what: &str,
    status: StatusCode,
    scim_type: Option<&str>,
    retry_after: Option<Duration>,
) -> Refused {
    let writes = *method != Method::GET;
    let scim_type = scim_type.filter(|name| is_scim_type(name));
    let (class, why) = match status.as_u16() {
        _ if scim_type.is_some_and(|name| name.eq_ignore_ascii_case("uniqueness")) => {
            (ErrorClass::Uniqueness, "a value that must be unique is another's")
        }
        400 | 413 | 414 | 422 => {
            (ErrorClass::Invalid, "the target refuses a value or a path; check the attribute mapping")
        }
        401 => (ErrorClass::Credentials, "the target refuses the token"),
        402 | 507 => (ErrorClass::Capacity, "the target has no licence or space left"),
        403 => (ErrorClass::Permission, "the token may not do this"),
        404 => (ErrorClass::ServerFault, "there is no such endpoint; check connector.scim.url"),
        405 | 501 => (ErrorClass::Unsupported, "the target does not support this"),
        408 if writes => (ErrorClass::UnknownOutcome, "the target gave up waiting"),
        408 => (ErrorClass::Unreachable, "the target gave up waiting"),
        409 if what == "/Groups" => (ErrorClass::VersionConflict, "somebody else changed it at the same time"),
        409 => {
            (ErrorClass::Uniqueness, "the account is there already, where it can't be found, or a value is another's")
        }
        412 | 428 => (ErrorClass::VersionConflict, "it was changed since it was read"),
        423 | 429 => (ErrorClass::Throttled, "the target asks for fewer calls"),
        503 if retry_after.is_some() => (ErrorClass::Throttled, "the target asks to be left alone for a while"),
        504 if writes => (ErrorClass::UnknownOutcome, "a gateway gave up waiting for the target"),
        504 => (ErrorClass::Unreachable, "a gateway gave up waiting for the target"),
        300..=399 => {
            (ErrorClass::ServerFault, "the target redirects, which is not followed; correct connector.scim.url")
        }
        500..=599 => (ErrorClass::ServerFault, "the target failed"),
        _ => (ErrorClass::ServerFault, "the target answered what SCIM doesn't know"),
    };
    let kind = scim_type.map(|name| format!(", scimType {name}")).unwrap_or_default();
    let message = format!("{why} ({method} {what}: {}{kind})", status.as_u16());
    Refused { status: Some(status), error: CallError { class, message, retry_after } }
}

/// A scimType is a word of the RFC; a target that puts anything else there may be quoting a value.
fn is_scim_type(name: &str) -> bool {
    const TYPES: [&str; 11] = [
        "invalidFilter",
        "tooMany",
        "uniqueness",
        "mutability",
        "invalidSyntax",
        "invalidPath",
        "noTarget",
        "invalidValue",
        "invalidVers",
        "sensitive",
        "noMatch",
    ];
    TYPES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// No answer, or none to the end.
pub(super) fn broken(method: &Method, what: &str, error: &reqwest::Error) -> CallError {
    let writes = *method != Method::GET;
    let why = if error.is_timeout() { "no answer in time".to_owned() } else { root_cause(error) };
    if error.is_connect() {
        return CallError::new(ErrorClass::Unreachable, format!("could not connect to the target: {why}"));
    }
    if writes {
        let message = format!("{method} {what} was sent and may or may not have happened: {why}");
        return CallError::new(ErrorClass::UnknownOutcome, message);
    }
    CallError::new(ErrorClass::Unreachable, format!("the target did not answer {method} {what}: {why}"))
}

/// The innermost cause: the outer ones quote the url, and so the filter's values.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, error as &dyn std::error::Error) {
        "the connection broke".to_owned()
    } else {
        cause.to_string()
    }
}

/// Seconds or an HTTP date (RFC 9110, section 10.2.3); a date counts from the target's own clock where it shows it.
pub(super) fn retry_after(header: &str, date: Option<&str>, now: jiff::Timestamp) -> Option<Duration> {
    let delay = match header.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = http_date(header)?;
            let from = date.and_then(http_date).unwrap_or(now);
            Duration::try_from(until.duration_since(from)).unwrap_or(Duration::ZERO)
        }
    };
    Some(delay.min(RETRY_AFTER_LIMIT))
}

fn http_date(text: &str) -> Option<jiff::Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        for (method, what, status, scim_type, retry, class) in [
            (Method::POST, "/Users", 409, Some("uniqueness"), false, ErrorClass::Uniqueness),
            (Method::POST, "/Users", 409, None, false, ErrorClass::Uniqueness),
            (Method::POST, "/Users", 400, Some("uniqueness"), false, ErrorClass::Uniqueness),
            (Method::PATCH, "/Groups", 409, None, false, ErrorClass::VersionConflict),
            (Method::PATCH, "/Users", 400, Some("invalidValue"), false, ErrorClass::Invalid),
            (Method::POST, "/Users", 422, None, false, ErrorClass::Invalid),
            (Method::GET, "/Users", 401, None, false, ErrorClass::Credentials),
            (Method::GET, "/Users", 403, None, false, ErrorClass::Permission),
            (Method::GET, "/Users", 404, None, false, ErrorClass::ServerFault),
            (Method::PATCH, "/Users", 501, None, false, ErrorClass::Unsupported),
            (Method::PATCH, "/Users", 412, None, false, ErrorClass::VersionConflict),
            (Method::PATCH, "/Users", 429, None, false, ErrorClass::Throttled),
            (Method::GET, "/Users", 503, None, true, ErrorClass::Throttled),
            (Method::GET, "/Users", 503, None, false, ErrorClass::ServerFault),
            (Method::POST, "/Users", 504, None, false, ErrorClass::UnknownOutcome),
            (Method::GET, "/Users", 504, None, false, ErrorClass::Unreachable),
            (Method::GET, "/Users", 302, None, false, ErrorClass::ServerFault),
            (Method::POST, "/Users", 507, None, false, ErrorClass::Capacity),
        ] {
            let code = StatusCode::from_u16(status).unwrap();
            let refused = refused(&method, what, code, scim_type, retry.then_some(Duration::from_secs(1)));
            assert_eq!(refused.error.class, class, "{method} {what} {status}");
        }
    }

    #[test]
    fn a_scim_type_that_is_none_is_not_shown() {
        let refused = refused(&Method::POST, "/Users", StatusCode::CONFLICT, Some("ada@example.com is taken"), None);
        assert!(!refused.error.message.contains("ada"), "{}", refused.error);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-03-02T09:00:00Z".parse().unwrap();
        for (header, date, seconds) in [
            ("2", None, Some(2)),
            ("Mon, 02 Mar 2026 09:01:00 GMT", None, Some(60)),
            ("Mon, 02 Mar 2026 09:01:00 GMT", Some("Mon, 02 Mar 2026 09:00:50 GMT"), Some(10)),
            ("Mon, 02 Mar 2026 08:00:00 GMT", None, Some(0)),
            ("99999999999", None, Some(86_400)),
            ("soon", None, None),
        ] {
            assert_eq!(retry_after(header, date, now), seconds.map(Duration::from_secs), "{header}");
        }
    }
}
