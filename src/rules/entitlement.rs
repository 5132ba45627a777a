//! `entitlements.yaml` as read: tables and grants, before they are checked against the other files.

use super::expression::Tables;
use super::read::{Fields, Page, Placed};
use super::yaml::{Content, Entry, Node};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct GrantDraft {
    pub name: Placed<String>,
    pub when: Option<Placed<String>>,
    pub to: Vec<(Placed<String>, GroupsDraft)>,
}

#[derive(Debug)]
pub enum GroupsDraft {
    Named(Vec<Placed<String>>),
    Computed(Placed<String>),
}

pub fn read_tables(fields: &mut Fields<'_>) -> Tables {
    let page = fields.page();
    let mut tables = Tables::new();
    for table in fields.entries("tables") {
        let (written, mut entries) = (page.entries(&table.value), BTreeMap::new());
        alike(page, written);
        for entry in written {
            if let Some(value) = page.value(&entry.value) {
                entries.insert(entry.key.clone(), value);
            }
        }
        tables.insert(table.key.clone(), entries);
    }
    tables
}

/// Whoever looks something up wants either a list or a single value: the fewer are the slip.
fn alike(page: &Page<'_>, entries: &[Entry]) {
    let is_list = |entry: &&Entry| matches!(entry.value.content, Content::List(_));
    let (lists, singles): (Vec<&Entry>, Vec<&Entry>) = entries
        .iter()
        .filter(|entry| !matches!(entry.value.content, Content::Null | Content::Map(_)))
        .partition(is_list);
    if lists.is_empty() || singles.is_empty() {
        return;
    }
    let (fewer, message, help) = match singles.len() <= lists.len() {
        true => (singles, "the other entries of this table are lists, this one is not", "put it in brackets: `[x]`"),
        false => {
            (lists, "this is a list, the other entries of this table are not", "write one value, without brackets")
        }
    };
    for entry in fewer {
        page.problem(entry.value.place, message, help.to_owned());
    }
}

pub fn read_grants(fields: &mut Fields<'_>) -> Vec<GrantDraft> {
    let page = fields.page();
    let mut grants: Vec<GrantDraft> = Vec::new();
    for node in fields.items("grants") {
        let Some(grant) = grant(page, node) else { continue };
        if grants.iter().any(|other| other.name.value == grant.name.value) {
            let message = format!("a grant named `{}` stands above already", grant.name.value);
            page.problem(grant.name.place, message, "give each its own name".to_owned());
        }
        grants.push(grant);
    }
    grants
}

fn grant(page: &Page<'_>, node: &Node) -> Option<GrantDraft> {
    let mut fields = page.fields(node)?;
    let name = fields.need_text("name", "name: engineers");
    let when = fields.get("when").and_then(|node| page.expression(node));
    fields.need("to", "to: { directory: [staff] }");
    let mut to = Vec::new();
    for entry in fields.entries("to") {
        let target = Placed { value: entry.key.clone(), place: entry.key_place };
        match &entry.value.content {
            Content::List(items) if items.is_empty() => {
                page.problem(entry.value.place, "a grant of no groups grants nothing", "name a group".to_owned());
            }
            Content::List(_) => to.push((target, GroupsDraft::Named(page.texts(&entry.value)))),
            _ => {
                if let Some(text) = page.expression(&entry.value) {
                    to.push((target, GroupsDraft::Computed(text)));
                }
            }
        }
    }
    fields.finish();
    Some(GrantDraft { name: name?, when, to })
}
