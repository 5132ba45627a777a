//! What becomes of a source event that is bad input: its bytes on `source-dead-letters`, unchanged, with headers that say
//! where they came from and what is wrong with them.

use super::Rejection;
use crate::model::{Incoming, Outgoing};
use sha2::{Digest, Sha256};

const PREFIX: &str = "lockstep_";
/// What a record takes on the wire beside its parts: varints, offsets, the batch's header. Generous.
const RECORD_OVERHEAD_BYTES: usize = 128;
const HEADER_OVERHEAD_BYTES: usize = 10;

type Headers = Vec<(String, Vec<u8>)>;

/// The dead letter of a source event. It keeps the event's key and headers; where it would be larger than `most_bytes`
/// (`max.message.bytes` of the topic) the value is cut, and headers say so with the original's size and SHA-256; where that is
/// not enough, key and headers of the original are left out.
pub fn dead_letter(topic: &str, incoming: &Incoming, rejection: &Rejection, most_bytes: usize) -> Outgoing {
    let own = own_headers(incoming, rejection);
    // An event that was taken from here and sent again brings the former letter's headers along.
    let theirs = incoming.headers.iter().filter(|(name, _)| !name.starts_with(PREFIX)).cloned();
    let mut letter = Outgoing {
        topic: topic.to_owned(),
        partition: None,
        key: incoming.key.clone(),
        value: incoming.value.clone(),
        headers: own.iter().cloned().chain(theirs).collect(),
    };
    if bytes(&letter) <= most_bytes {
        return letter;
    }
    let original = incoming.value.as_deref().unwrap_or_default();
    let cut_headers = [
        ("lockstep_cut", b"true".to_vec()),
        ("lockstep_original_bytes", original.len().to_string().into_bytes()),
        ("lockstep_original_sha256", hex(&Sha256::digest(original)).into_bytes()),
    ];
    letter.headers.extend(cut_headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    letter.value = None;
    if bytes(&letter) > most_bytes {
        letter.key = None;
        letter.headers = own;
        letter.headers.extend(cut_headers.map(|(name, value)| (name.to_owned(), value)));
        letter.headers.push(("lockstep_headers_left_out".to_owned(), incoming.headers.len().to_string().into_bytes()));
    }
    let room = most_bytes.saturating_sub(bytes(&letter)).min(original.len());
    letter.value = Some(original[..room].to_vec());
    letter
}

fn own_headers(incoming: &Incoming, rejection: &Rejection) -> Headers {
    [
        ("topic", incoming.topic.clone()),
        ("partition", incoming.partition.to_string()),
        ("offset", incoming.offset.to_string()),
        ("timestamp", incoming.timestamp.0.to_string()),
        ("reason", rejection.reason.to_string()),
        ("detail", rejection.detail.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{PREFIX}{name}"), value.into_bytes()))
    .collect()
}

fn bytes(letter: &Outgoing) -> usize {
    let headers: usize =
        letter.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    let key = letter.key.as_ref().map_or(0, Vec::len);
    let value = letter.value.as_ref().map_or(0, Vec::len);
    RECORD_OVERHEAD_BYTES + headers + key + value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;
    use crate::codec::cloudevents::header;
    use crate::model::Timestamp;

    fn incoming(value: &[u8], headers: Headers) -> Incoming {
        Incoming {
            topic: "hr.workers".into(),
            partition: 3,
            offset: 42,
            timestamp: Timestamp(1_000),
            key: Some(b"w-1".to_vec()),
            value: Some(value.to_vec()),
            headers,
        }
    }

    fn rejection() -> Rejection {
        Rejection::new(Reason::NotJson, "not JSON from line 1, column 2 on")
    }

    #[test]
    fn the_original_is_kept_unchanged_beside_where_it_was_and_why() {
        let headers = vec![("x".to_owned(), vec![0xff]), ("lockstep_reason".to_owned(), b"former".to_vec())];
        let letter =
            dead_letter("lockstep.source-dead-letters", &incoming(b"\0\xffnot json", headers), &rejection(), 1_000);
        assert_eq!(letter.value.as_deref(), Some(b"\0\xffnot json".as_slice()));
        assert_eq!(letter.key.as_deref(), Some(b"w-1".as_slice()));
        let shown: Vec<String> =
            letter.headers.iter().map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect();
        let expected = "lockstep_topic=hr.workers lockstep_partition=3 lockstep_offset=42 lockstep_timestamp=1000 \
             lockstep_reason=not_json lockstep_detail=not JSON from line 1, column 2 on x=\u{fffd}";
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn what_is_too_large_is_cut_to_the_limit_and_says_so() {
        let value = vec![b'a'; 5_000];
        let many = vec![("h".to_owned(), vec![b'b'; 5_000])];
        for (headers, left_out) in [(Vec::new(), None), (many, Some("1"))] {
            let letter = dead_letter("t", &incoming(&value, headers), &rejection(), 2_000);
            assert_eq!(bytes(&letter), 2_000, "it uses the room there is");
            assert!(value.starts_with(letter.value.as_deref().unwrap()));
            assert_eq!(header(&letter.headers, "lockstep_cut"), Some("true"));
            assert_eq!(header(&letter.headers, "lockstep_original_bytes"), Some("5000"));
            assert_eq!(
                header(&letter.headers, "lockstep_original_sha256"),
                Some(hex(&Sha256::digest(&value)).as_str())
            );
            assert_eq!(header(&letter.headers, "lockstep_headers_left_out"), left_out);
            assert_eq!(header(&letter.headers, "lockstep_offset"), Some("42"));
        }
    }

    #[test]
    fn a_tombstone_stays_one() {
        let letter = dead_letter("t", &Incoming { value: None, ..incoming(b"", Vec::new()) }, &rejection(), 1_000);
        assert_eq!(letter.value, None);
    }
}
