//! An event's bytes as one JSON document, whatever they were: plain JSON, Avro, or a CloudEvent with its attributes beside
//! `data`.

use super::json::Json;
use super::{DecodeError, Reason, Rejection, SourceDecoder};
use crate::codec::avro::{Framed, ReadError, WriterSchema, sniff};
use crate::codec::cloudevents;
use crate::rules::SourceFormat;
use apache_avro::types::Value as Avro;
use bytes::Bytes;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use smol_str::SmolStr;
use std::borrow::Cow;

/// What Avro counts its dates and times from, in UTC.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl SourceDecoder {
    pub(super) fn document<'v>(
        &self,
        format: SourceFormat,
        value: &'v [u8],
        headers: &[(SmolStr, Bytes)],
    ) -> Result<Json<'v>, DecodeError> {
        match format {
            SourceFormat::Json | SourceFormat::Keycloak => Ok(object(value)?),
            SourceFormat::Avro => self.avro(value),
            SourceFormat::CloudEvents if cloudevents::is_structured(headers) => Ok(structured(value)?),
            SourceFormat::CloudEvents => self.binary(value, headers),
        }
    }

    /// The Kafka binding's binary mode: attributes in headers, data in the value.
    fn binary<'v>(&self, value: &'v [u8], headers: &[(SmolStr, Bytes)]) -> Result<Json<'v>, DecodeError> {
        let attributes = cloudevents::attributes(headers);
        if attributes.is_empty() {
            let detail = "there is neither a header ce_id nor a content-type of application/cloudevents+json";
            return Err(Rejection::new(Reason::NotCloudEvent, detail).into());
        }
        let data = match sniff(value) {
            Framed::Registered { .. } | Framed::SingleObject { .. } => self.avro(value)?,
            _ if value.is_empty() => Json::Null,
            _ => json_of(value)?,
        };
        let attributes = attributes.into_iter().map(|(name, value)| (Cow::Owned(name), Json::from(value)));
        Ok(Json::Object(attributes.chain([(Cow::Borrowed("data"), data)]).collect()))
    }

    fn avro(&self, value: &[u8]) -> Result<Json<'static>, DecodeError> {
        let unknown = |detail: String| Rejection::new(Reason::UnknownSchema, detail);
        match sniff(value) {
            Framed::Registered { id, body } => {
                let registry = self.registry.as_ref().ok_or_else(|| {
                    unknown(format!("written with schema id {id}, but lockstep.yaml has no registry.url"))
                })?;
                let writer = registry.by_id(id).map_err(|error| match error {
                    error if error.is_transient() => DecodeError::Unavailable(error),
                    error => unknown(error.to_string()).into(),
                })?;
                Ok(read(&writer, body)?)
            }
            Framed::SingleObject { fingerprint, body } => {
                let writer = self.schemas.get(&fingerprint).ok_or_else(|| {
                    unknown(format!("written by the schema with fingerprint {fingerprint}, which is not known here"))
                })?;
                Ok(read(writer, body)?)
            }
            Framed::Json(_) | Framed::Unknown => {
                let detail = "the value begins neither with a schema id (Confluent's format) nor with a fingerprint \
                              (single-object encoding)";
                Err(Rejection::new(Reason::NotAvro, detail).into())
            }
        }
    }
}

/// The Kafka binding's structured mode, in the JSON event format.
fn structured(value: &[u8]) -> Result<Json<'_>, Rejection> {
    let document = object(value)?;
    if document.get("data_base64").is_some() {
        let detail = "field data_base64: binary data is not read; send data as JSON";
        return Err(Rejection::new(Reason::NotCloudEvent, detail));
    }
    Ok(document)
}

fn object(value: &[u8]) -> Result<Json<'_>, Rejection> {
    let document = json_of(value)?;
    if document.is_object() {
        Ok(document)
    } else {
        let found = super::mapping::type_name(Some(&document));
        Err(Rejection::new(Reason::NotJson, format!("an object wanted, {found} found")))
    }
}

fn json_of(value: &[u8]) -> Result<Json<'_>, Rejection> {
    serde_json::from_slice(value).map_err(|error| {
        let detail = format!("not JSON from line {}, column {} on", error.line(), error.column());
        Rejection::new(Reason::NotJson, detail)
    })
}

fn read(writer: &WriterSchema, body: &[u8]) -> Result<Json<'static>, Rejection> {
    let value =
        writer.read_value(body).map_err(|error: ReadError| Rejection::new(Reason::NotAvro, error.to_string()))?;
    Ok(json_of_avro(value))
}

/// Dates and times become text as JSON sources send it. What has no counterpart becomes an object, which no attribute takes.
fn json_of_avro(value: Avro) -> Json<'static> {
    match value {
        Avro::Null => Json::Null,
        Avro::Boolean(b) => Json::Bool(b),
        Avro::Int(i) | Avro::TimeMillis(i) => Json::Number(i.into()),
        Avro::Long(i) | Avro::TimeMicros(i) => Json::Number(i.into()),
        Avro::Float(x) => double(f64::from(x)),
        Avro::Double(x) => double(x),
        Avro::String(text) | Avro::Enum(_, text) => Json::String(text.into()),
        Avro::Uuid(id) => Json::String(id.to_string().into()),
        Avro::Union(_, inner) => json_of_avro(*inner),
        Avro::Array(items) => Json::Array(items.into_iter().map(json_of_avro).collect()),
        Avro::Map(entries) => members(entries),
        Avro::Record(fields) => members(fields),
        Avro::Date(days) => text_of(EPOCH.date().checked_add(SignedDuration::from_hours(24 * i64::from(days))).ok()),
        Avro::TimestampMillis(ms) => instant(SignedDuration::from_millis(ms)),
        Avro::TimestampMicros(us) => instant(SignedDuration::from_micros(us)),
        Avro::TimestampNanos(ns) => instant(SignedDuration::from_micros(ns / 1_000)),
        Avro::BigDecimal(number) => Json::String(number.to_string().into()),
        Avro::Bytes(_)
        | Avro::Fixed(..)
        | Avro::Decimal(_)
        | Avro::Duration(_)
        | Avro::LocalTimestampMillis(_)
        | Avro::LocalTimestampMicros(_)
        | Avro::LocalTimestampNanos(_) => Json::Object(Vec::new()),
    }
}

fn double(number: f64) -> Json<'static> {
    serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number)
}

fn members(entries: impl IntoIterator<Item = (String, Avro)>) -> Json<'static> {
    Json::Object(entries.into_iter().map(|(name, value)| (name.into(), json_of_avro(value))).collect())
}

/// By the calendar, which has the whole year 9999: jiff's instants end within its 30 December.
fn instant(since_epoch: SignedDuration) -> Json<'static> {
    text_of(EPOCH.checked_add(since_epoch).ok().map(|time| format!("{time}Z")))
}

fn text_of(time: Option<impl ToString>) -> Json<'static> {
    time.map_or(Json::Object(Vec::new()), |time| Json::String(time.to_string().into()))
}
