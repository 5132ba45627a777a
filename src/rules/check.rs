//! The files against each other: every name that one uses has to be declared by another, every expression has to compile,
//! and every rule has to be able to apply.

use super::Rule;
use super::bundle::{Drafts, GuardLimit, On};
use super::connector::ConnectorRules;
use super::diagnostic::{Place, SourceFile, known_names};
use super::entitlement::GroupsDraft;
use super::expression::{CompileError, Expression, Language};
use super::identity::{AttributeDraft, GuardDraft, KindDraft, ZoneDraft};
use super::kind::{Feeds, KindRules, Origin};
use super::lifecycle::{DateRule, LifecycleRules, ZoneRule, time_zone, time_zone_names};
use super::read::{Page, Placed};
use super::shape::{Names, Shape};
use super::source::{AttributeType, SourceDraft};
use super::target::{AccountRules, Grant, Groups, TargetRules};
use super::target_draft::TargetDraft;
use crate::model::{Op, SourceName, TargetName, Universe, Value};
use jiff::tz::TimeZone;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A kind, and the shapes of its attributes as expressions see them.
pub type CheckedKind = (KindRules, Names);

/// Words that CEL keeps for itself, and names that expressions have anyway.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "kind",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "tables",
    "true",
    "var",
    "void",
    "while",
    "optional",
    "strings",
];

pub fn unique<'f>(names: impl Iterator<Item = (&'f Page<'f>, &'f Placed<String>)>, what: &str) {
    let mut seen: BTreeMap<&str, &Page<'_>> = BTreeMap::new();
    for (page, name) in names {
        if let Some(first) = seen.insert(&name.value, page) {
            let message = format!("a {what} named `{}` is declared in {} already", name.value, first.file.path);
            page.problem(name.place, message, "give each its own name".to_owned());
        }
    }
}

/// A topic's records belong to one source, or nobody could tell whose they are.
pub fn topics(sources: &[On<'_, SourceDraft>]) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for on in sources {
        for (topic, place) in on.value.rules.topics.iter().zip(&on.value.topic_places) {
            if let Some(other) = seen.insert(topic, &on.value.name.value) {
                let message = format!("the topic `{topic}` is read by the source `{other}` already");
                on.page.problem(*place, message, "a topic belongs to one source".to_owned());
            }
        }
    }
}

pub fn kind(drafts: &Drafts<'_>, on: &On<'_, KindDraft>, language: &Arc<Language>) -> Option<CheckedKind> {
    let (page, draft) = (on.page, &on.value);
    let anchor = draft.anchor.as_ref().filter(|anchor| known_source(drafts, page, anchor))?;
    let names = attribute_names(drafts, page, &draft.attributes);
    let attributes: BTreeMap<String, Vec<Origin>> = draft
        .attributes
        .iter()
        .map(|attribute| {
            let origins = attribute.origins.iter().map(|origin| Origin {
                source: SourceName::new(origin.value.0.clone()),
                attribute: origin.value.1.clone(),
            });
            (attribute.name.value.clone(), origins.collect())
        })
        .collect();
    let anchor_name = SourceName::new(anchor.value.clone());
    let requires = match &draft.requires {
        None => vec![anchor_name.clone()],
        Some(required) => {
            let known = required.iter().filter(|source| known_source(drafts, page, source));
            known.map(|source| SourceName::new(source.value.clone())).collect()
        }
    };
    let lifecycle = lifecycle(drafts, page, draft, &names, language);
    let urgent = draft.urgent.as_ref().and_then(|text| {
        condition(drafts, page, text, &names, language, &format!("kinds.{}.lifecycle.urgent", draft.name.value))
    });
    let rules = KindRules {
        name: draft.name.value.clone(),
        anchor: anchor_name,
        requires,
        correlate: draft.correlate.iter().map(|key| key.value.clone()).collect(),
        feeds: Feeds::new(&attributes, language.slots()),
        attributes,
        lifecycle,
        urgent,
    };
    correlation(drafts, page, draft, &rules);
    Some((rules, names))
}

fn known_source(drafts: &Drafts<'_>, page: &Page<'_>, name: &Placed<String>) -> bool {
    let known = drafts.source(&name.value).is_some();
    if !known {
        let help = known_names(&name.value, "sources", drafts.source_names());
        page.problem(name.place, format!("no source is named `{}`", name.value), help);
    }
    known
}

/// Checks that each attribute can be named in an expression and comes from somewhere; gives their shapes.
fn attribute_names(drafts: &Drafts<'_>, page: &Page<'_>, attributes: &[AttributeDraft]) -> Names {
    let mut names = Names::new();
    for attribute in attributes {
        let name = &attribute.name;
        let mut chars = name.value.chars();
        let fine = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fine || RESERVED.contains(&name.value.as_str()) {
            let help = "use letters, digits and `_`, a letter first, and no word of the expression language".to_owned();
            page.problem(name.place, format!("`{}` can't be the name of an attribute", name.value), help);
        }
        let mut known: Option<Shape> = None;
        for origin in &attribute.origins {
            let (source, source_attribute) = &origin.value;
            let Some(on) = drafts.source(source) else {
                let help = known_names(source, "sources", drafts.source_names());
                page.problem(origin.place, format!("no source is named `{source}`"), help);
                continue;
            };
            if !on.value.attribute_places.contains_key(source_attribute) {
                let mapped = on.value.attribute_places.keys().map(String::as_str);
                let mut help = known_names(source_attribute, "attributes", mapped);
                if !help.starts_with("did you mean") {
                    help = format!("map it in {}, or use another: {help}", on.page.file.path);
                }
                page.problem(
                    origin.place,
                    format!("the source `{source}` maps no attribute `{source_attribute}`"),
                    help,
                );
                continue;
            }
            let shape = on.value.rules.attributes.get(source_attribute).map_or(Shape::Any, |rule| shape_of(rule.kind));
            known = Some(known.map_or(shape, |known| known.or(shape)));
        }
        names.insert(name.value.clone(), known.unwrap_or(Shape::Any));
    }
    names
}

fn shape_of(kind: AttributeType) -> Shape {
    match kind {
        AttributeType::Text => Shape::Scalar,
        AttributeType::Int => Shape::Int,
        AttributeType::Bool => Shape::Bool,
        AttributeType::Date => Shape::Text,
        AttributeType::List => Shape::List,
    }
}

/// Each key has to be mapped by the anchor, and each other source has to map at least one of them.
fn correlation(drafts: &Drafts<'_>, page: &Page<'_>, draft: &KindDraft, rules: &KindRules) {
    let Some(anchor) = drafts.source(rules.anchor.as_str()) else { return };
    for key in &draft.correlate {
        if !anchor.value.attribute_places.contains_key(&key.value) {
            let mapped = anchor.value.attribute_places.keys().map(String::as_str);
            let help = known_names(&key.value, "attributes", mapped);
            let message = format!("the anchor `{}` maps no attribute `{}` to correlate by", rules.anchor, key.value);
            page.problem(key.place, message, help);
        }
    }
    for source in rules.sources().into_iter().filter(|source| **source != rules.anchor) {
        let Some(on) = drafts.source(source.as_str()) else { continue };
        let linked = draft.correlate.iter().any(|key| on.value.attribute_places.contains_key(&key.value));
        if !linked {
            let place = draft.correlate.first().map_or(draft.name.place, |key| key.place);
            let message = format!("nothing links records of `{source}` to those of `{}`", rules.anchor);
            let help = format!(
                "name an attribute that both map, for example `correlate: [{}]`",
                shared_attribute(&anchor.value, &on.value).unwrap_or("employeeNumber")
            );
            page.problem(place, message, help);
        }
    }
}

fn shared_attribute<'a>(one: &'a SourceDraft, other: &SourceDraft) -> Option<&'a str> {
    one.attribute_places.keys().find(|name| other.attribute_places.contains_key(*name)).map(String::as_str)
}

fn lifecycle(
    drafts: &Drafts<'_>,
    page: &Page<'_>,
    draft: &KindDraft,
    names: &Names,
    language: &Arc<Language>,
) -> LifecycleRules {
    let at = |key: &str| format!("kinds.{}.lifecycle.{key}", draft.name.value);
    let date = |attribute: &Option<Placed<String>>, key: &str| {
        let attribute = attribute.as_ref()?;
        known_attribute(page, attribute, names)?;
        // A date is text that intake has checked; text that it hasn't would fail on the first event instead.
        let declared = draft.attributes.iter().find(|declared| declared.name.value == attribute.value)?;
        for origin in &declared.origins {
            let on = drafts.source(&origin.value.0)?;
            let rule = on.value.rules.attributes.get(&origin.value.1)?;
            if rule.kind != AttributeType::Date {
                page.problem(
                    attribute.place,
                    format!("`{}` comes from {}.{}, which is no date", attribute.value, origin.value.0, origin.value.1),
                    format!(
                        "write `{}: {{ path: {}, type: date }}` in {}",
                        origin.value.1, rule.path, on.page.file.path
                    ),
                );
            }
        }
        Some(DateRule { attribute: attribute.value.clone(), rule: label(page, attribute.place, &at(key)) })
    };
    LifecycleRules {
        active: draft.active.as_ref().and_then(|text| condition(drafts, page, text, names, language, &at("active"))),
        start: date(&draft.start, "start"),
        end: date(&draft.end, "end"),
        last_day: draft.last_day,
        zone: match &draft.zone {
            ZoneDraft::Utc => ZoneRule::Fixed(TimeZone::UTC),
            ZoneDraft::Fixed(name) => ZoneRule::Fixed(known_zone(page, name)),
            ZoneDraft::Attribute { attribute, otherwise } => {
                let otherwise = otherwise.as_ref().map_or(TimeZone::UTC, |name| known_zone(page, name));
                match known_attribute(page, attribute, names) {
                    Some(()) => ZoneRule::Attribute {
                        attribute: attribute.value.clone(),
                        otherwise,
                        rule: label(page, attribute.place, &at("time_zone")),
                    },
                    None => ZoneRule::Fixed(otherwise),
                }
            }
        },
    }
}

fn known_attribute(page: &Page<'_>, attribute: &Placed<String>, names: &Names) -> Option<()> {
    if names.contains_key(&attribute.value) {
        return Some(());
    }
    let help = known_names(&attribute.value, "attributes", names.keys().map(String::as_str));
    page.problem(attribute.place, format!("no attribute is named `{}`", attribute.value), help);
    None
}

fn known_zone(page: &Page<'_>, name: &Placed<String>) -> TimeZone {
    time_zone(&name.value).unwrap_or_else(|| {
        let names = time_zone_names();
        let near = super::diagnostic::did_you_mean(&name.value, names.iter().map(String::as_str));
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write an IANA name: `Europe/Berlin`, `America/New_York`, `UTC`".to_owned(),
        };
        page.problem(name.place, format!("no time zone is named `{}`", name.value), help);
        TimeZone::UTC
    })
}

/// Which kind each source belongs to; one in two kinds could not tell whose its records are.
pub fn kinds_of_sources(drafts: &Drafts<'_>, kinds: &[CheckedKind]) -> HashMap<SourceName, usize> {
    let mut index: HashMap<SourceName, usize> = HashMap::new();
    for (at, (kind, _)) in kinds.iter().enumerate() {
        for source in kind.sources() {
            let first = *index.entry(source.clone()).or_insert(at);
            if first == at {
                continue;
            }
            let Some(on) = drafts.kinds.iter().find(|on| on.value.name.value == kind.name) else { continue };
            let used = on.value.attributes.iter().flat_map(|attribute| &attribute.origins);
            let place = match &on.value.anchor {
                Some(anchor) if anchor.value == source.as_str() => anchor.place,
                _ => used
                    .filter(|origin| origin.value.0 == source.as_str())
                    .map(|origin| origin.place)
                    .next()
                    .unwrap_or(on.value.name.place),
            };
            let message = format!("the source `{source}` belongs to the kind `{}` already", kinds[first].0.name);
            on.page.problem(place, message, "a source's records are of one kind: split the source".to_owned());
        }
    }
    index
}

pub fn target(
    drafts: &Drafts<'_>,
    on: &On<'_, TargetDraft>,
    kinds: &[CheckedKind],
    language: &Arc<Language>,
) -> Option<TargetRules> {
    let (page, draft) = (on.page, &on.value);
    let own_kinds: Vec<String> = match &draft.kinds {
        None => drafts.kind_names().map(str::to_owned).collect(),
        Some(named) => named
            .iter()
            .filter(|name| {
                let known = drafts.kind_names().any(|kind| kind == name.value);
                if !known {
                    let help = known_names(&name.value, "kinds", drafts.kind_names());
                    page.problem(name.place, format!("no kind is named `{}`", name.value), help);
                }
                known
            })
            .map(|name| name.value.clone())
            .collect(),
    };
    if draft.kinds.as_ref().is_some_and(|named| named.len() != own_kinds.len()) {
        return None;
    }
    let names = names_of(kinds, &own_kinds);
    let scope = draft.when.as_ref().and_then(|text| condition(drafts, page, text, &names, language, "account.when"));
    let attributes: Vec<(SmolStr, Rule)> = draft
        .attributes
        .iter()
        .filter_map(|(name, text)| {
            let at = format!("account.attributes.{}", name.value);
            let rule = rule(drafts, page, text, &names, language, &at)?;
            if rule.expression.shape() == Shape::Map {
                page.problem(text.place, "an attribute can't hold a map", None);
            }
            Some((name.value.as_str().into(), rule))
        })
        .collect();
    if let Some(match_on) = &draft.match_on
        && !draft.attributes.iter().any(|(name, _)| name.value == match_on.value)
    {
        let names = draft.attributes.iter().map(|(name, _)| name.value.as_str());
        let help = known_names(&match_on.value, "account attributes", names);
        let message = format!("`match` names `{}`, which is no attribute of the account", match_on.value);
        page.problem(match_on.place, message, help);
    }
    connector(page, draft);
    let universe = draft.universe.as_ref().map_or(Universe::Additive, |groups| {
        Universe::Authoritative(groups.iter().map(|group| group.value.clone()).collect())
    });
    let grants = target_grants(drafts, draft, &names, language);
    Some(TargetRules {
        name: TargetName::new(draft.name.value.clone()),
        file: page.file.path.clone(),
        references: draft.connector.as_ref()?.references.clone(),
        kinds: own_kinds,
        format: draft.format,
        connector: draft.connector.as_ref()?.rules.clone(),
        timeout: draft.timeout,
        concurrency: draft.concurrency,
        match_on: draft.match_on.as_ref()?.value.clone(),
        leaver: draft.leaver,
        provision_deadline: draft.provision_deadline,
        deprovision_deadline: draft.deprovision_deadline,
        account: AccountRules::new(scope, attributes, grants, universe),
    })
}

/// The attributes of all these kinds: what only one of them has is null for the others.
fn names_of(kinds: &[CheckedKind], own: &[String]) -> Names {
    let mut names = Names::new();
    for (_, attributes) in kinds.iter().filter(|(kind, _)| own.contains(&kind.name)) {
        for (name, shape) in attributes {
            let known = names.entry(name.clone()).or_insert(*shape);
            *known = known.or(*shape);
        }
    }
    names
}

/// What the rules give the connector has to be able to write.
fn connector(page: &Page<'_>, draft: &TargetDraft) {
    let Some(connector) = &draft.connector else { return };
    let written = connector.rules.name();
    let section = match connector.rules {
        ConnectorRules::Sql(_) => "accounts.columns",
        ConnectorRules::Scim(_) => "attributes",
    };
    for (name, _) in &draft.attributes {
        if !connector.mapped.contains_key(&name.value) {
            let near = super::diagnostic::did_you_mean(&name.value, connector.mapped.keys().map(String::as_str));
            let help = match near {
                Some(near) => format!("`{near}` stands under `{written}.{section}`: write both alike"),
                None => format!("add `{}: …` under `{written}.{section}`", name.value),
            };
            page.problem(name.place, format!("the connector doesn't know where to write `{}`", name.value), help);
        }
    }
    if let ConnectorRules::Sql(sql) = &connector.rules
        && sql.accounts.active.is_none()
        && draft.leaver.action == Op::Disable
    {
        page.problem(
            draft.leaver_place,
            "leavers are to be disabled here, but the table has no column for it",
            "add `active: { column: active, true: true, false: false }` under `accounts`, or write `leaver: { action: delete }`"
                .to_owned(),
        );
    }
}

/// Every grant names targets that are there and can hold groups.
pub fn grants(drafts: &Drafts<'_>) {
    let mut without_groups = BTreeSet::new();
    for on in &drafts.grants {
        for (target, groups) in &on.value.to {
            let Some(found) = drafts.target(target) else {
                if drafts.a_target_is_nameless {
                    continue;
                }
                let help = known_names(&target.value, "targets", drafts.target_names());
                on.page.problem(target.place, format!("no target is named `{}`", target.value), help);
                continue;
            };
            let connector = found.value.connector.as_ref();
            if let Some(ConnectorRules::Sql(sql)) = connector.map(|connector| &connector.rules)
                && sql.groups.is_none()
                && without_groups.insert(&target.value)
            {
                let message = format!("accounts of the target `{}` have no groups", target.value);
                let help = format!("add `groups: {{ table: …, account: …, group: … }}` in {}", found.page.file.path);
                on.page.problem(target.place, message, help);
            }
            let (GroupsDraft::Named(named), Some(universe)) = (groups, &found.value.universe) else { continue };
            for group in named.iter().filter(|group| !universe.iter().any(|own| own.value == group.value)) {
                let message = format!("the group `{}` is not in the universe of `{}`", group.value, target.value);
                let help = format!("add it to `groups.universe` in {}", found.page.file.path);
                on.page.problem(group.place, message, help);
            }
        }
    }
}

/// The grants of one target, compiled for the attributes of its kinds.
fn target_grants(drafts: &Drafts<'_>, target: &TargetDraft, names: &Names, language: &Arc<Language>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for on in &drafts.grants {
        let (page, grant) = (on.page, &on.value);
        let Some((_, groups)) = grant.to.iter().find(|(name, _)| name.value == target.name.value) else { continue };
        let at = |key: &str| format!("the grant `{}`, {key}", grant.name.value);
        let when = match &grant.when {
            None => None,
            Some(text) => match condition(drafts, page, text, names, language, &at("when")) {
                Some(rule) => Some(rule),
                None => continue,
            },
        };
        let groups = match groups {
            GroupsDraft::Named(named) => Groups::Named(named.iter().map(|group| group.value.clone()).collect()),
            GroupsDraft::Computed(text) => {
                let key = format!("to.{}", target.name.value);
                let Some(rule) = rule(drafts, page, text, names, language, &at(&key)) else { continue };
                if !matches!(rule.expression.shape(), Shape::Any | Shape::List | Shape::Null) {
                    let help = "write `[\"group\"]` for one group".to_owned();
                    let message = format!("a list of groups belongs here, not {}", rule.expression.shape().name());
                    page.problem(text.place, message, help);
                }
                Groups::Computed(Box::new(rule))
            }
        };
        grants.push(Grant { name: grant.name.value.clone(), when, groups });
    }
    grants
}

pub fn guard(drafts: &Drafts<'_>, on: &On<'_, GuardDraft>) -> (GuardLimit, BTreeMap<String, GuardLimit>) {
    let mut targets = BTreeMap::new();
    for (name, limit) in &on.value.targets {
        if drafts.target(name).is_none() && !drafts.a_target_is_nameless {
            let help = known_names(&name.value, "targets", drafts.target_names());
            on.page.problem(name.place, format!("no target is named `{}`", name.value), help);
        }
        targets.insert(name.value.clone(), *limit);
    }
    (on.value.default, targets)
}

/// An expression that says yes or no, and not always no.
fn condition(
    drafts: &Drafts<'_>,
    page: &Page<'_>,
    text: &Placed<String>,
    names: &Names,
    language: &Arc<Language>,
    what: &str,
) -> Option<Rule> {
    let rule = rule(drafts, page, text, names, language, what)?;
    let shape = rule.expression.shape();
    if shape.is_no_condition() {
        page.problem(
            text.place,
            format!("a condition is true or false; this one gives {}", shape.name()),
            comparison(drafts, text, shape),
        );
    } else if rule.expression.constant() == Some(Value::Bool(false)) {
        let help = "remove the rule, or let the condition look at an attribute".to_owned();
        page.problem(text.place, "this never applies: it is false for everybody", help);
    }
    Some(rule)
}

/// What to write instead of a condition that is none. An attribute alone is compared, or declared as true or false.
fn comparison(drafts: &Drafts<'_>, text: &Placed<String>, shape: Shape) -> String {
    let name = text.value.trim();
    let mut attributes = drafts.kinds.iter().flat_map(|on| &on.value.attributes);
    let Some(declared) = attributes.find(|attribute| attribute.name.value == name) else {
        return "compare with something: `department == 'Sales'`, `size(groups) > 0`, `mail != null`".to_owned();
    };
    let origin = declared.origins.iter().find_map(|origin| {
        let (source, attribute) = &origin.value;
        let on = drafts.source(source)?;
        let rule = on.value.rules.attributes.get(attribute)?;
        (rule.kind == AttributeType::Text).then_some((attribute, &rule.path, &on.page.file.path))
    });
    match (shape, origin) {
        (Shape::Scalar, Some((attribute, path, file))) => format!(
            "write `{name} == '…'`, or, if it is true or false, map it in {file} as `{attribute}: {{ path: {path}, \
             type: bool }}`"
        ),
        (Shape::List, _) => format!("write `size({name}) > 0`, or `'vpn' in {name}`"),
        (Shape::Int | Shape::Float, _) => format!("write `{name} > 0`"),
        _ => format!("write `{name} != null`"),
    }
}

fn rule(
    drafts: &Drafts<'_>,
    page: &Page<'_>,
    text: &Placed<String>,
    names: &Names,
    language: &Arc<Language>,
    what: &str,
) -> Option<Rule> {
    match Expression::compile(&text.value, language, names) {
        Ok(expression) => Some(Rule { expression, rule: label(page, text.place, what) }),
        Err(errors) => {
            for error in errors {
                let help = undeclared_help(drafts, &error).or(error.help);
                page.problem(inside(page.file, text, error.at, error.width), error.message, help);
            }
            None
        }
    }
}

/// A source may map an attribute that no kind has taken up: a common slip, with a plain remedy.
fn undeclared_help(drafts: &Drafts<'_>, error: &CompileError) -> Option<String> {
    let name = error.undeclared.as_deref()?;
    let source = drafts.sources.iter().find(|on| on.value.attribute_places.contains_key(name))?;
    let source = &source.value.name.value;
    Some(format!("the source `{source}` maps it: add `{name}: [{source}.{name}]` to the kind's attributes"))
}

fn label(page: &Page<'_>, place: Place, what: &str) -> String {
    format!("{}:{}:{} ({what})", page.file.path, place.line, place.column)
}

/// The place of a character of an expression, which YAML may have quoted, folded or indented.
fn inside(file: &SourceFile, text: &Placed<String>, at: usize, width: usize) -> Place {
    let Some(raw) = file.text.get(text.place.offset..) else { return text.place };
    let (mut line, mut column, mut offset) = (text.place.line, text.place.column, text.place.offset);
    let mut raw = raw.chars().peekable();
    let mut step = |c: char, line: &mut usize, column: &mut usize| {
        offset += c.len_utf8();
        if c == '\n' {
            *line += 1;
            *column = 1;
        } else {
            *column += 1;
        }
        offset
    };
    let quote = raw.peek().copied().filter(|c| *c == '\'' || *c == '"');
    // A plain scalar may begin with a quote of CEL's own only where YAML's quotes come first.
    if let Some(quote) = quote {
        raw.next();
        step(quote, &mut line, &mut column);
    }
    for wanted in text.value.chars().take(at) {
        let Some(c) = raw.next() else { return text.place };
        step(c, &mut line, &mut column);
        match (quote, c) {
            // '' and \x stand for one character.
            (Some('\''), '\'') | (Some('"'), '\\') => {
                if let Some(c) = raw.next() {
                    step(c, &mut line, &mut column);
                }
            }
            // A fold, or the indentation of a block.
            (_, '\n') => {
                while let Some(c) = raw.next_if(|c| *c == ' ' || *c == '\n') {
                    step(c, &mut line, &mut column);
                }
            }
            _ if c != wanted => return text.place,
            _ => {}
        }
    }
    Place { line, column, width, offset }
}
