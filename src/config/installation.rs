//! lockstep.yaml: the installation itself. Everything else of the config folder is rules.
//!
//! Secrets stay references (`${env:NAME}`, `${file:PATH}`); one that is written out is refused, and not shown.

use super::kafka::{self, KafkaRules};
use crate::model::TenantId;
use crate::model::topic::TopicNames;
use crate::rules::diagnostic::{Diagnostic, SourceFile};
use crate::rules::read::{Fields, Page, Placed};
use crate::rules::yaml::{self, Content, Node};
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Installation {
    pub bus: BusRules,
    pub topics: TopicNames,
    /// Fixed at creation: checked at every start.
    pub inbox_partitions: u32,
    /// Of every target's commands.
    pub command_partitions: u32,
    /// The base url of a schema registry that speaks Confluent's API; unresolved. None: single-object encoding.
    pub registry: Option<String>,
    pub listen: SocketAddr,
    pub log: LogFormat,
    pub tenants: Vec<TenantId>,
    /// Whether the audit is written to `decisions`.
    pub decisions: bool,
    /// The largest source event, and the largest body of an HTTP event.
    pub event_bytes: usize,
    /// What a process may keep of its local state in memory, in MiB.
    pub memory_mib: u32,
    /// Every value that refers to something outside; unresolved.
    pub references: Vec<Placed<String>>,
}

impl Installation {
    /// Five eighths of it are for state that was touched last, as most of what is read is found there.
    pub fn cache_bytes(&self) -> usize {
        (self.memory_mib as usize * 5 / 8) << 20
    }

    /// The rest is the store's.
    pub fn store_mib(&self) -> u32 {
        self.memory_mib - self.memory_mib * 5 / 8
    }
}

#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
#[derive(Clone, Debug)]
pub enum BusRules {
    Embedded,
    Kafka(KafkaRules),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

const PREFIX: &str = "lockstep.";
/// More partitions than this cost more than they carry: each has its own store and changelog.
const MOST_PARTITIONS: u64 = 4096;
const KAFKA_INBOX_PARTITIONS: u32 = 64;
/// One process on one disk: few partitions, few stores.
const EMBEDDED_INBOX_PARTITIONS: u32 = 8;
const COMMAND_PARTITIONS: u32 = 6;
const EVENT_BYTES: usize = 256 * 1024;
/// A whole event with its envelope has to fit the broker's `max.message.bytes` (1 MiB by default) several times over.
const MOST_EVENT_BYTES: u64 = 8 * 1024 * 1024;
const LEAST_EVENT_BYTES: u64 = 1024;
const MEMORY_MIB: u32 = 128;
const MOST_MEMORY_MIB: u64 = 1 << 20;
const LEAST_MEMORY_MIB: u64 = 16;

pub fn parse(file: &SourceFile) -> Result<Installation, Vec<Diagnostic>> {
    let node = yaml::parse(file).map_err(|problem| vec![problem])?;
    let page = Page::new(file);
    let mut installation = page.fields(&node).and_then(read);
    if let Some(installation) = &mut installation {
        references(&node, &mut installation.references);
    }
    let mut problems = page.into_problems();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    match installation {
        Some(installation) if problems.is_empty() => Ok(installation),
        _ => Err(problems),
    }
}

/// Whatever may hold a reference here is resolved at the start.
fn references(node: &Node, found: &mut Vec<Placed<String>>) {
    match &node.content {
        Content::Text(text) if text.contains("${") => found.push(Placed { value: text.clone(), place: node.place }),
        Content::List(items) => items.iter().for_each(|item| references(item, found)),
        Content::Map(entries) => entries.iter().for_each(|entry| references(&entry.value, found)),
        _ => {}
    }
}

fn read(mut fields: Fields<'_>) -> Option<Installation> {
    let page = fields.page();
    let (bus, prefix) = match fields.fields("bus") {
        Some(section) => bus(section),
        None => (Some(BusRules::Embedded), PREFIX.to_owned()),
    };
    let partitions = |fields: &mut Fields<'_>, key| {
        fields.number(key, 1, MOST_PARTITIONS).and_then(|count| u32::try_from(count).ok())
    };
    let inbox = partitions(&mut fields, "inbox_partitions");
    let commands = partitions(&mut fields, "command_partitions");
    let registry = fields.fields("registry").and_then(|mut registry| {
        let url = registry.need_text("url", "url: http://127.0.0.1:8081/apis/ccompat/v7");
        registry.finish();
        let url = url?;
        if ["http://", "https://", "${"].iter().any(|start| url.value.starts_with(start)) {
            return Some(url.value);
        }
        page.problem(
            url.place,
            "this is not the url of a registry",
            "begin it with `http://` or `https://`".to_owned(),
        );
        None
    });
    let listen = fields.fields("http").and_then(|mut http| {
        let listen = http.text("listen");
        http.finish();
        listen.and_then(|listen| address(page, &listen))
    });
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = fields.get("log").and_then(|node| page.choice(node, &words));
    let tenants = tenants(&mut fields);
    let decisions = fields.bool("decisions", true);
    let (event_bytes, memory_mib) = fields.fields("limits").map_or((None, None), |mut limits| {
        let bytes = limits.number("event_bytes", LEAST_EVENT_BYTES, MOST_EVENT_BYTES);
        let memory = limits.number("memory_mib", LEAST_MEMORY_MIB, MOST_MEMORY_MIB);
        limits.finish();
        (bytes.and_then(|bytes| usize::try_from(bytes).ok()), memory.and_then(|mib| u32::try_from(mib).ok()))
    });
    fields.finish();
    let bus = bus?;
    let default_inbox = match bus {
        BusRules::Embedded => EMBEDDED_INBOX_PARTITIONS,
        BusRules::Kafka(_) => KAFKA_INBOX_PARTITIONS,
    };
    Some(Installation {
        bus,
        topics: TopicNames::new(prefix),
        inbox_partitions: inbox.unwrap_or(default_inbox),
        command_partitions: commands.unwrap_or(COMMAND_PARTITIONS),
        registry,
        listen: listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7070))),
        log: log.unwrap_or_default(),
        tenants: tenants?,
        decisions,
        event_bytes: event_bytes.unwrap_or(EVENT_BYTES),
        memory_mib: memory_mib.unwrap_or(MEMORY_MIB),
        references: Vec::new(),
    })
}

fn bus(mut section: Fields<'_>) -> (Option<BusRules>, String) {
    let page = section.page();
    let prefix = section.text("prefix").and_then(|prefix| topic_prefix(page, prefix));
    let embedded = section.fields("embedded").map(|empty| {
        empty.finish();
        BusRules::Embedded
    });
    let written_kafka = section.key_place("kafka");
    let kafka = section.fields("kafka").and_then(kafka::read).map(BusRules::Kafka);
    if let (Some(_), Some(place)) = (&embedded, written_kafka) {
        page.problem(place, "there is one bus: `embedded` or `kafka`", "remove one of the two".to_owned());
    }
    section.finish();
    let bus = match written_kafka {
        Some(_) => kafka,
        None => Some(BusRules::Embedded),
    };
    (bus, prefix.unwrap_or_else(|| PREFIX.to_owned()))
}

/// What Kafka takes as a part of a topic's name.
fn topic_prefix(page: &Page<'_>, prefix: Placed<String>) -> Option<String> {
    let fine = prefix.value.len() <= 100
        && prefix.value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if fine {
        return Some(prefix.value);
    }
    let help = "use letters, digits, `.`, `-` and `_`: `lockstep.`".to_owned();
    page.problem(prefix.place, "this can't begin the name of a topic", help);
    None
}

fn address(page: &Page<'_>, listen: &Placed<String>) -> Option<SocketAddr> {
    let parsed = listen.value.parse();
    if parsed.is_err() {
        let help = "write an address and a port: `127.0.0.1:7070`, `[::1]:7070`".to_owned();
        page.problem(listen.place, "this is not an address to listen on", help);
    }
    parsed.ok()
}

fn tenants(fields: &mut Fields<'_>) -> Option<Vec<TenantId>> {
    let page = fields.page();
    fields.need("tenants", "tenants: [acme]");
    let named = fields.texts("tenants")?;
    let mut tenants: Vec<TenantId> = Vec::new();
    for name in &named {
        let fine = name.value.len() <= 64
            && name.value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !fine {
            let help = "use letters, digits, `-`, `_` and `.`, at most 64".to_owned();
            page.problem(name.place, format!("`{}` can't be a tenant's name", name.value), help);
        }
        let tenant = TenantId::new(name.value.clone());
        if tenants.contains(&tenant) {
            page.problem(name.place, format!("the tenant `{tenant}` stands twice"), "remove one".to_owned());
        }
        tenants.push(tenant);
    }
    if tenants.is_empty()
        && let Some(place) = fields.key_place("tenants")
    {
        page.problem(place, "there is no tenant", "name one: `tenants: [acme]`".to_owned());
        return None;
    }
    Some(tenants)
}
