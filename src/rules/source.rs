//! `sources/*.yaml`: where a source's events are and what in them is what.
//!
//! Intake decodes by these; nothing here decodes. Presets (`cloudevents`, `keycloak`) fill in what a file leaves out.

use super::diagnostic::{PATTERN_HELP, Place, known_names, pattern_problem};
use super::poll::{self, PollRules};
use super::read::{Fields, Page, Placed};
use super::yaml::{Content, Node};
use crate::model::{SourceName, TenantId};
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug)]
pub struct SourceRules {
    pub name: SourceName,
    pub topics: Vec<String>,
    pub tenant: TenantRule,
    /// The file that declares it, and where in it the tenant stands: for checks against lockstep.yaml.
    pub file: String,
    pub tenant_place: Place,
    pub format: SourceFormat,
    pub event: EventRules,
    pub record: RecordRules,
    /// A mapped attribute that never changes for a record: its value routes instead of the record id.
    pub route_by: Option<String>,
    pub attributes: BTreeMap<String, AttributeRule>,
    /// Where `lockstep poll` fetches the events; None: they come by themselves.
    pub poll: Option<PollRules>,
}

#[derive(Clone, Debug)]
pub enum TenantRule {
    Constant(TenantId),
    Header(String),
    Field(EventPath),
    Topic(TopicPattern),
}

/// A pattern over topic names with a group named `tenant`.
#[derive(Clone, Debug)]
pub struct TopicPattern(Regex);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFormat {
    Json,
    Avro,
    CloudEvents,
    Keycloak,
}

/// What makes an event itself, and where it stands in its record's history.
#[derive(Clone, Debug)]
pub struct EventRules {
    pub id: EventPath,
    /// RFC 3339 text or a number of ms; None: the broker's timestamp.
    pub time: Option<EventPath>,
    /// An integer, or a time; None: the order of arrival.
    pub order: Option<EventPath>,
    /// None: every event is an upsert.
    pub kind: Option<EventPath>,
    pub kinds: BTreeMap<String, EventMeaning>,
}

/// What an event of a type does to its record. A type that is not listed is bad input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventMeaning {
    Upsert,
    Remove,
    Ignore,
}

#[derive(Clone, Debug)]
pub struct RecordRules {
    pub id: EventPath,
    /// What is not in an event is unchanged.
    pub partial: bool,
    /// With `partial`: a null removes the attribute.
    pub null_removes: bool,
    /// What a record of the topic that has a key and no value means.
    pub tombstones: Tombstones,
}

/// By convention a tombstone of a compacted topic says that its key is gone; but a topic's key need not be the record's id,
/// and access is not taken away on a convention: a source has to say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tombstones {
    /// Bad input.
    #[default]
    Reject,
    /// The key, as text, is the id of a record that is gone.
    Remove,
    Ignore,
}

#[derive(Clone, Debug)]
pub struct AttributeRule {
    pub path: EventPath,
    pub kind: AttributeType,
    /// An event without it is bad input.
    pub required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeType {
    /// Any scalar, as it is.
    Text,
    Int,
    Bool,
    /// `YYYY-MM-DD` or RFC 3339; it stays text.
    Date,
    List,
}

/// A dotted path into an event: `worker.startDate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPath(Vec<String>);

/// A source as read, with the places that later checks point at.
#[derive(Debug)]
pub struct SourceDraft {
    pub rules: SourceRules,
    pub name: Placed<String>,
    /// Where each topic is named.
    pub topic_places: Vec<Place>,
    /// Where each attribute is declared.
    pub attribute_places: BTreeMap<String, Place>,
}

impl SourceRules {
    /// Whether a removal may have neither an order nor a route: it comes another way than the record's other events.
    pub fn removes_out_of_order(&self) -> bool {
        self.route_by.is_some() && (self.event.order.is_none() || self.record.tombstones == Tombstones::Remove)
    }
}

impl EventPath {
    pub fn new(dotted: &str) -> Option<Self> {
        let parts: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        (!parts.iter().any(String::is_empty)).then_some(Self(parts))
    }

    pub fn parts(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for EventPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl TopicPattern {
    /// The whole name has to match.
    pub fn tenant(&self, topic: &str) -> Option<TenantId> {
        let found = self.0.captures(topic)?.name("tenant")?.as_str();
        (!found.is_empty()).then(|| TenantId::from(found))
    }
}

impl EventRules {
    /// What an event of this type does; None: a type that nobody declared.
    pub fn meaning(&self, kind: Option<&str>) -> Option<EventMeaning> {
        match kind {
            _ if self.kind.is_none() => Some(EventMeaning::Upsert),
            Some(kind) => self.kinds.get(kind).copied(),
            None => None,
        }
    }
}

/// The paths a format has by itself.
struct Preset {
    id: Option<&'static str>,
    time: Option<&'static str>,
    order: Option<&'static str>,
    kind: Option<&'static str>,
    kinds: &'static [(&'static str, EventMeaning)],
    record: Option<&'static str>,
}

impl SourceFormat {
    fn preset(self) -> Preset {
        match self {
            Self::Json | Self::Avro => {
                Preset { id: None, time: None, order: None, kind: None, kinds: &[], record: None }
            }
            // CloudEvents 1.0: the context attributes beside `data`, in binary mode from the headers.
            Self::CloudEvents => Preset {
                id: Some("id"),
                time: Some("time"),
                order: None,
                kind: Some("type"),
                kinds: &[],
                record: Some("subject"),
            },
            // What `lockstep poll keycloak` writes: the admin event's id and time, and the whole user as read after it.
            Self::Keycloak => Preset {
                id: Some("id"),
                time: Some("time"),
                order: Some("order"),
                kind: Some("type"),
                kinds: &[("user.upserted", EventMeaning::Upsert), ("user.deleted", EventMeaning::Remove)],
                record: Some("user.id"),
            },
        }
    }
}

impl SourceDraft {
    /// Reads a file; None where too little is there to go on with. `tests:` is left to the caller, and so is `finish`.
    pub fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let page = fields.page();
        let name = fields.need_text("source", &named("source", page, "hr")).and_then(|name| checked_name(page, name));
        let topics = topics(fields);
        let tenant = tenant(fields);
        let tenant_place = fields.get("tenant").map_or(fields.place(), |node| node.place);
        let format = fields.get("format").and_then(|node| {
            page.choice(
                node,
                &[
                    ("json", SourceFormat::Json),
                    ("avro", SourceFormat::Avro),
                    ("cloudevents", SourceFormat::CloudEvents),
                    ("keycloak", SourceFormat::Keycloak),
                ],
            )
        });
        let format = format.unwrap_or(SourceFormat::Json);
        let preset = format.preset();
        let event = event(fields, &preset);
        let record = record(fields, &preset);
        let route_by = fields.text("route_by");
        let mut attributes = BTreeMap::new();
        let mut attribute_places = BTreeMap::new();
        fields.need("attributes", "attributes: { employeeNumber: worker.number }");
        for entry in fields.entries("attributes") {
            attribute_places.insert(entry.key.clone(), entry.key_place);
            if let Some(rule) = attribute(page, &entry.value) {
                attributes.insert(entry.key.clone(), rule);
            }
        }
        if let Some(route_by) = &route_by
            && !attribute_places.contains_key(&route_by.value)
        {
            page.problem(
                route_by.place,
                format!("`route_by` names `{}`, which this source does not map", route_by.value),
                known_names(&route_by.value, "attributes", attribute_places.keys().map(String::as_str)),
            );
        }
        let poll = poll::read(fields, format);
        let (name, topics) = (name?, topics?);
        let rules = SourceRules {
            name: SourceName::new(name.value.clone()),
            topics: topics.iter().map(|topic| topic.value.clone()).collect(),
            tenant: tenant?,
            file: page.file.path.clone(),
            tenant_place,
            format,
            event: event?,
            record: record?,
            route_by: route_by.map(|route_by| route_by.value),
            attributes,
            poll,
        };
        let topic_places = topics.into_iter().map(|topic| topic.place).collect();
        Some(Self { rules, name, topic_places, attribute_places })
    }
}

/// Names of sources and targets are parts of topic names, metric labels and file names.
pub fn checked_name(page: &Page<'_>, name: Placed<String>) -> Option<Placed<String>> {
    if is_name(&name.value) {
        return Some(name);
    }
    page.problem(
        name.place,
        format!("`{}` can't be a name", name.value),
        format!("use letters, digits, `-` and `_`, at most {LONGEST_NAME}, and not `lockstep`"),
    );
    None
}

const LONGEST_NAME: usize = 64;

fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && name != "lockstep"
}

/// The line that names what a file declares: as the file itself is named, since no other has that name.
pub fn named(key: &str, page: &Page<'_>, otherwise: &str) -> String {
    let path = &page.file.path;
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    format!("{key}: {}", if is_name(stem) { stem } else { otherwise })
}

fn topics(fields: &mut Fields<'_>) -> Option<Vec<Placed<String>>> {
    let (one, many) = (fields.text("topic"), fields.texts("topics"));
    match (one, many) {
        (Some(one), None) => Some(vec![one]),
        (None, Some(many)) if !many.is_empty() => Some(many),
        (Some(one), Some(_)) => {
            fields.page().problem(one.place, "`topic` and `topics` can't both stand", "keep `topics`".to_owned());
            None
        }
        // What stands there instead of a list was complained about.
        _ if fields.get("topics").is_some_and(|node| !matches!(node.content, Content::List(_))) => None,
        _ => {
            let place = fields.place();
            fields.page().problem(place, "`topic` is missing", "add `topic: hr.workers`".to_owned());
            None
        }
    }
}

fn tenant(fields: &mut Fields<'_>) -> Option<TenantRule> {
    let node = fields.need("tenant", "tenant: acme")?;
    let page = fields.page();
    if !matches!(node.content, Content::Map(_)) {
        return page.text(node).map(|name| TenantRule::Constant(TenantId::new(name.value)));
    }
    let mut rule = page.fields(node)?;
    let header = rule.text("header").map(|header| TenantRule::Header(header.value));
    let field = rule.get("field").and_then(|node| path(page, node)).map(TenantRule::Field);
    let topic = rule.text("topic").and_then(|pattern| topic_pattern(page, &pattern)).map(TenantRule::Topic);
    let written = ["header", "field", "topic"].iter().filter(|key| rule.key_place(key).is_some()).count();
    rule.finish();
    if written != 1 {
        page.problem(
            node.place,
            "the tenant comes from one place",
            "write `tenant: acme`, `{header: x-tenant}`, `{field: company}` or `{topic: 'hr\\.(?P<tenant>[a-z]+)'}`"
                .to_owned(),
        );
    }
    header.or(field).or(topic)
}

fn topic_pattern(page: &Page<'_>, pattern: &Placed<String>) -> Option<TopicPattern> {
    match Regex::new(&format!("^(?:{})$", pattern.value)) {
        Ok(regex) if regex.capture_names().flatten().any(|name| name == "tenant") => Some(TopicPattern(regex)),
        Ok(_) => {
            let help = "name the part that is the tenant: `hr\\.(?P<tenant>[a-z]+)\\.workers`".to_owned();
            page.problem(pattern.place, "the pattern has no group named `tenant`", help);
            None
        }
        Err(error) => {
            page.problem(pattern.place, pattern_problem(&error), PATTERN_HELP.to_owned());
            None
        }
    }
}

fn event(fields: &mut Fields<'_>, preset: &Preset) -> Option<EventRules> {
    let page = fields.page();
    let own = |path: Option<&'static str>| path.and_then(EventPath::new);
    let node = match preset.id {
        Some(_) => fields.get("event"),
        None => fields.need("event", "event: { id: id, time: time, type: type }"),
    };
    let Some(mut rule) = node.and_then(|node| page.fields(node)) else {
        return Some(EventRules {
            id: own(preset.id)?,
            time: own(preset.time),
            order: own(preset.order),
            kind: own(preset.kind).filter(|_| !preset.kinds.is_empty()),
            kinds: preset.kinds.iter().map(|(name, meaning)| ((*name).to_owned(), *meaning)).collect(),
        });
    };
    let at = |rule: &mut Fields<'_>, key, preset: Option<&'static str>| {
        rule.get(key).and_then(|node| path(page, node)).or_else(|| own(preset))
    };
    let id = at(&mut rule, "id", preset.id);
    let time = at(&mut rule, "time", preset.time);
    let order = at(&mut rule, "order", preset.order);
    let kind = at(&mut rule, "type", preset.kind);
    let types_place = rule.key_place("types");
    let mut kinds = BTreeMap::new();
    for entry in rule.entries("types") {
        let words =
            [("upsert", EventMeaning::Upsert), ("remove", EventMeaning::Remove), ("ignore", EventMeaning::Ignore)];
        if let Some(meaning) = page.choice(&entry.value, &words) {
            kinds.insert(entry.key.clone(), meaning);
        }
    }
    if types_place.is_none() {
        kinds = preset.kinds.iter().map(|(name, meaning)| ((*name).to_owned(), *meaning)).collect();
    }
    if id.is_none() && rule.key_place("id").is_none() {
        let help = "add `id: id`, the path to what is the same when an event comes twice".to_owned();
        page.problem(rule.place(), "`id` is missing", help);
    }
    let written = rule.key_place("type");
    match (written, types_place) {
        (Some(place), None) if kinds.is_empty() => page.problem(
            place,
            "`type` is read, but `types` doesn't say what each means",
            "add `types: { changed: upsert, deleted: remove, noted: ignore }`".to_owned(),
        ),
        (None, Some(place)) if kind.is_none() => {
            page.problem(place, "`types` needs `type`, the path to an event's type", "add `type: type`".to_owned());
        }
        _ => {}
    }
    rule.finish();
    // A preset's type without a list of types says nothing: every event is an upsert.
    let kind = kind.filter(|_| !kinds.is_empty());
    Some(EventRules { id: id?, time, order, kind, kinds })
}

fn record(fields: &mut Fields<'_>, preset: &Preset) -> Option<RecordRules> {
    let page = fields.page();
    let node = match preset.record {
        Some(_) => fields.get("record"),
        None => fields.need("record", "record: { id: worker.id }"),
    };
    let own = preset.record.and_then(EventPath::new);
    let Some(mut rule) = node.and_then(|node| page.fields(node)) else {
        return own.map(|id| RecordRules { id, partial: false, null_removes: false, tombstones: Tombstones::Reject });
    };
    let id = match own {
        Some(own) => rule.get("id").map_or(Some(own), |node| path(page, node)),
        None => rule.need("id", "id: worker.id").and_then(|node| path(page, node)),
    };
    let partial = rule.bool("partial", false);
    let null_removes = rule.bool("null_removes", false);
    if null_removes && !partial {
        let place = rule.key_place("null_removes").unwrap_or(rule.place());
        let help = "add `partial: true`, or remove this: without it an event is the whole record".to_owned();
        page.problem(place, "`null_removes` has a meaning with `partial: true` only", help);
    }
    let words = [("reject", Tombstones::Reject), ("remove", Tombstones::Remove), ("ignore", Tombstones::Ignore)];
    let tombstones = rule.get("tombstones").and_then(|node| page.choice(node, &words)).unwrap_or_default();
    rule.finish();
    Some(RecordRules { id: id?, partial, null_removes, tombstones })
}

fn attribute(page: &Page<'_>, node: &Node) -> Option<AttributeRule> {
    if !matches!(node.content, Content::Map(_)) {
        return path(page, node).map(|path| AttributeRule { path, kind: AttributeType::Text, required: false });
    }
    let mut rule = page.fields(node)?;
    let at = rule.need("path", "path: worker.startDate").and_then(|node| path(page, node));
    let kind = rule.get("type").and_then(|node| {
        page.choice(
            node,
            &[
                ("text", AttributeType::Text),
                ("int", AttributeType::Int),
                ("bool", AttributeType::Bool),
                ("date", AttributeType::Date),
                ("list", AttributeType::List),
            ],
        )
    });
    let required = rule.bool("required", false);
    rule.finish();
    Some(AttributeRule { path: at?, kind: kind.unwrap_or(AttributeType::Text), required })
}

fn path(page: &Page<'_>, node: &Node) -> Option<EventPath> {
    let text = page.text(node)?;
    let path = EventPath::new(&text.value);
    if path.is_none() {
        let help = "write the names from the outside in, with dots: `worker.startDate`".to_owned();
        page.problem(text.place, "this is not a path", help);
    }
    path
}
