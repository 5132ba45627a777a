//! CloudEvents on Kafka records, by the Kafka protocol binding 1.0.2.
//!
//! Binary mode: the value is the event's data, attributes are headers `ce_<name>` (UTF-8), and `content-type` is the
//! datacontenttype (binding, section 3.2). Structured mode: the value is the whole event, and `content-type` begins with
//! `application/cloudevents` (section 3.3).

use crate::model::{Headers, Timestamp};
use bytes::Bytes;
use smol_str::SmolStr;

pub const CONTENT_TYPE: &str = "content-type";
pub const JSON: &str = "application/json";
pub const AVRO: &str = "application/avro";
/// The one structured format that is read: the JSON event format.
pub const STRUCTURED_JSON: &str = "application/cloudevents+json";
/// W3C Trace Context, a header of its own besides CloudEvents.
pub const TRACEPARENT: &str = "traceparent";

const PREFIX: &str = "ce_";
const SPEC_VERSION: &str = "1.0";

/// Attributes of an event that Lockstep writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    pub id: String,
    pub r#type: String,
    /// A URI reference (specification 1.0.2, "source").
    pub source: String,
    pub subject: Option<&'a str>,
    pub time: Timestamp,
    pub traceparent: Option<&'a str>,
}

/// Headers of a record in binary mode.
pub fn headers(attributes: Attributes<'_>, content_type: &'static str) -> Headers {
    let Attributes { id, r#type, source, subject, time, traceparent } = attributes;
    let mut headers = Headers::with_capacity(8);
    let mut put = |name, value: Bytes| headers.push((SmolStr::new_static(name), value));
    put("ce_specversion", Bytes::from_static(SPEC_VERSION.as_bytes()));
    put("ce_id", id.into());
    put("ce_type", r#type.into());
    put("ce_source", source.into());
    put("ce_time", time.to_string().into());
    for (name, value) in [("ce_subject", subject), (TRACEPARENT, traceparent)] {
        if let Some(value) = value {
            put(name, value.to_owned().into());
        }
    }
    put(CONTENT_TYPE, Bytes::from_static(content_type.as_bytes()));
    headers
}

/// The header's text. Of several with one name the last one holds; bytes that are not UTF-8 are no text.
pub fn header<'a>(headers: &'a [(SmolStr, Bytes)], name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().rev().find(|(header, _)| header.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok()
}

/// The attributes of an event in binary mode, by name. Those that are not UTF-8 are left out.
pub fn attributes(headers: &[(SmolStr, Bytes)]) -> serde_json::Map<String, serde_json::Value> {
    let attribute = |(header, value): &(SmolStr, Bytes)| {
        let name = header.split_at_checked(PREFIX.len()).filter(|(start, _)| start.eq_ignore_ascii_case(PREFIX))?.1;
        Some((name.to_owned(), std::str::from_utf8(value).ok()?.into()))
    };
    headers.iter().filter_map(attribute).collect()
}

/// Whether the record's value is the whole event.
pub fn is_structured(headers: &[(SmolStr, Bytes)]) -> bool {
    header(headers, CONTENT_TYPE)
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/cloudevents"))
}

/// A URI reference out of path segments, each percent-encoded where RFC 3986 asks for it.
pub fn source_uri(segments: &[&str]) -> String {
    let mut uri = String::new();
    for segment in segments {
        uri.push('/');
        for byte in segment.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
                _ => uri.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_in_binary_mode() {
        let written = headers(
            Attributes {
                id: "a@1".into(),
                r#type: "lockstep.command.create.v1".into(),
                source: source_uri(&["lockstep", "a b/ü"]),
                subject: Some("a"),
                time: Timestamp(1_795_416_164_598),
                traceparent: None,
            },
            JSON,
        );
        let written: Vec<String> =
            written.iter().map(|(name, value)| format!("{name}: {}", std::str::from_utf8(value).unwrap())).collect();
        let expected = "ce_specversion: 1.0\nce_id: a@1\nce_type: lockstep.command.create.v1\n\
             ce_source: /lockstep/a%20b%2F%C3%BC\nce_time: 2026-11-23T06:42:44.598Z\nce_subject: a\n\
             content-type: application/json";
        assert_eq!(written.join("\n"), expected);
    }

    #[test]
    fn headers_are_read_whatever_their_case_and_the_last_one_holds() {
        let headers = vec![
            ("Content-Type".into(), "application/cloudevents+json; charset=UTF-8".into()),
            ("ce_id".into(), "1".into()),
            ("CE_id".into(), "2".into()),
            ("ce_time".into(), vec![0xff].into()),
        ];
        assert!(is_structured(&headers));
        assert_eq!(serde_json::to_string(&attributes(&headers)).unwrap(), r#"{"id":"2"}"#);
        assert!(!is_structured(&[]));
    }
}
