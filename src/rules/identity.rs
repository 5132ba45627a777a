//! `identity.yaml` as read: kinds and guard, before their names and expressions are checked against the other files.

use super::bundle::GuardLimit;
use super::lifecycle::LastDay;
use super::read::{Fields, Page, Placed};
use super::yaml::{Content, Entry, Node};
use std::time::Duration;

#[derive(Debug)]
pub struct KindDraft {
    pub name: Placed<String>,
    pub anchor: Option<Placed<String>>,
    pub requires: Option<Vec<Placed<String>>>,
    pub correlate: Vec<Placed<String>>,
    pub attributes: Vec<AttributeDraft>,
    pub active: Option<Placed<String>>,
    pub start: Option<Placed<String>>,
    pub end: Option<Placed<String>>,
    pub last_day: LastDay,
    pub zone: ZoneDraft,
    pub urgent: Option<Placed<String>>,
}

#[derive(Debug)]
pub struct AttributeDraft {
    pub name: Placed<String>,
    /// `source.attribute`, in order of precedence.
    pub origins: Vec<Placed<(String, String)>>,
}

#[derive(Debug, Default)]
pub enum ZoneDraft {
    #[default]
    Utc,
    Fixed(Placed<String>),
    Attribute {
        attribute: Placed<String>,
        otherwise: Option<Placed<String>>,
    },
}

#[derive(Debug)]
pub struct GuardDraft {
    pub default: GuardLimit,
    pub targets: Vec<(Placed<String>, GuardLimit)>,
}

impl Default for GuardDraft {
    fn default() -> Self {
        Self { default: GuardLimit { limit: 20, window: Duration::from_secs(3600) }, targets: Vec::new() }
    }
}

pub fn read_kinds(fields: &mut Fields<'_>) -> Vec<KindDraft> {
    let page = fields.page();
    fields.need("kinds", "kinds: { person: { anchor: hr, attributes: { givenName: [hr.givenName] } } }");
    let entries = fields.entries("kinds");
    if entries.is_empty()
        && let Some(place) = fields.key_place("kinds")
    {
        page.problem(place, "there is no kind of identity", "add one: `person: { anchor: hr, ... }`".to_owned());
    }
    entries.iter().filter_map(|entry| kind(page, entry)).collect()
}

fn kind(page: &Page<'_>, entry: &Entry) -> Option<KindDraft> {
    let mut fields = page.fields(&entry.value)?;
    let anchor = fields.need_text("anchor", "anchor: hr");
    let requires = fields.texts("requires");
    let correlate = fields.texts("correlate").unwrap_or_default();
    fields.need("attributes", "attributes: { givenName: [hr.givenName] }");
    let attributes = fields.entries("attributes").iter().map(|entry| attribute(page, entry)).collect();
    let mut draft = KindDraft {
        name: Placed { value: entry.key.clone(), place: entry.key_place },
        anchor,
        requires,
        correlate,
        attributes,
        active: None,
        start: None,
        end: None,
        last_day: LastDay::Included,
        zone: ZoneDraft::Utc,
        urgent: None,
    };
    if let Some(mut lifecycle) = fields.fields("lifecycle") {
        draft.active = lifecycle.get("active").and_then(|node| page.expression(node));
        draft.start = lifecycle.text("start");
        draft.end = lifecycle.text("end");
        let words = [("included", LastDay::Included), ("excluded", LastDay::Excluded)];
        if let Some(last_day) = lifecycle.get("last_day").and_then(|node| page.choice(node, &words)) {
            draft.last_day = last_day;
        }
        draft.zone = lifecycle.get("time_zone").map(|node| zone(page, node)).unwrap_or_default();
        draft.urgent = lifecycle.get("urgent").and_then(|node| page.expression(node));
        lifecycle.finish();
    }
    fields.finish();
    Some(draft)
}

fn attribute(page: &Page<'_>, entry: &Entry) -> AttributeDraft {
    let written = match &entry.value.content {
        // One source needs no list.
        Content::Text(_) => page.text(&entry.value).into_iter().collect(),
        _ => page.texts(&entry.value),
    };
    let origins: Vec<_> = written
        .into_iter()
        .filter_map(|text| match text.value.split_once('.') {
            Some((source, attribute)) if !source.is_empty() && !attribute.is_empty() => {
                Some(Placed { value: (source.to_owned(), attribute.to_owned()), place: text.place })
            }
            _ => {
                let help = format!("write source and attribute: `[hr.{}]`", entry.key);
                page.problem(text.place, format!("`{}` names no source's attribute", text.value), help);
                None
            }
        })
        .collect();
    if matches!(&entry.value.content, Content::List(items) if items.is_empty()) {
        page.problem(
            entry.value.place,
            format!("no source gives `{}`", entry.key),
            format!("write `{}: [hr.{}]`", entry.key, entry.key),
        );
    }
    AttributeDraft { name: Placed { value: entry.key.clone(), place: entry.key_place }, origins }
}

fn zone(page: &Page<'_>, node: &Node) -> ZoneDraft {
    if !matches!(node.content, Content::Map(_)) {
        return page.text(node).map(ZoneDraft::Fixed).unwrap_or_default();
    }
    let Some(mut fields) = page.fields(node) else { return ZoneDraft::Utc };
    let attribute = fields.need_text("attribute", "attribute: timeZone");
    let otherwise = fields.text("default");
    fields.finish();
    attribute.map(|attribute| ZoneDraft::Attribute { attribute, otherwise }).unwrap_or_default()
}

pub fn read_guard(fields: &mut Fields<'_>) -> GuardDraft {
    let page = fields.page();
    let Some(mut guard) = fields.fields("guard") else { return GuardDraft::default() };
    let default = limit(&mut guard, GuardDraft::default().default);
    let mut targets = Vec::new();
    for entry in guard.entries("targets") {
        if let Some(mut fields) = page.fields(&entry.value) {
            let own = limit(&mut fields, default);
            fields.finish();
            targets.push((Placed { value: entry.key.clone(), place: entry.key_place }, own));
        }
    }
    guard.finish();
    GuardDraft { default, targets }
}

fn limit(fields: &mut Fields<'_>, otherwise: GuardLimit) -> GuardLimit {
    /// A limit that no installation reaches: written by who wants no Guard.
    const MOST: u64 = 1_000_000;
    let limit = fields.number("limit", 0, MOST).and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise.limit);
    let window = fields.duration("window", otherwise.window);
    if window.is_zero() {
        let place = fields.key_place("window").unwrap_or(fields.place());
        fields.page().problem(place, "a window of no length counts nothing", "write `window: 1h`".to_owned());
    }
    GuardLimit { limit, window }
}
