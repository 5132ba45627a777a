//! Accounts as User resources (RFC 7643, section 4.1): bodies to create, operations to patch, and what a resource shows.

use super::path::{CORE_USER, Path, member};
use crate::connector::{CallError, Observed, OpenError};
use crate::model::{AccountId, Desired, ErrorClass, Value};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

/// Attributes that are Lockstep's or the target's own.
const RESERVED: [&str; 6] = ["active", "groups", "id", "meta", "password", "schemas"];

pub(super) struct Mapping {
    paths: BTreeMap<String, Path>,
    /// False where the rules use externalId for an attribute of theirs.
    pub(super) owner: bool,
}

/// What a PATCH is to do; nothing, if the resource is as it should be.
pub(super) type Operations = Vec<Json>;

impl Mapping {
    pub(super) fn new(attributes: &BTreeMap<String, String>) -> Result<Self, OpenError> {
        let mut paths = BTreeMap::new();
        for (name, text) in attributes {
            let refused = |reason| OpenError::Rules { place: format!("connector.scim.attributes.{name}"), reason };
            let path = Path::parse(text).map_err(refused)?;
            if let Some(own) = RESERVED.iter().find(|own| path.is_core(own)) {
                return Err(refused(format!("`{own}` is not an attribute that rules may set")));
            }
            paths.insert(name.clone(), path);
        }
        let owner = !paths.values().any(|path| path.is_core("externalId"));
        Ok(Self { paths, owner })
    }

    pub(super) fn path(&self, attribute: &str) -> Result<&Path, CallError> {
        self.paths.get(attribute).ok_or_else(|| {
            let reason = format!("attribute {attribute} has no SCIM path; map it under connector.scim.attributes");
            CallError::new(ErrorClass::Unsupported, reason)
        })
    }

    pub(super) fn observed(&self, resource: &Json, groups: Option<BTreeSet<String>>) -> Observed {
        let shown = |path: &Path| path.get(resource).map_or(Value::Null, value_of);
        let text = |name: &str| member(resource, name).and_then(Json::as_str).map(str::to_owned);
        Observed {
            external_id: text("id").unwrap_or_default(),
            active: is_active(resource),
            attributes: self.paths.iter().map(|(name, path)| (name.clone(), shown(path))).collect(),
            groups,
            owner: owner_of(resource).filter(|_| self.owner).map(str::to_owned),
            version: version_of(resource).map(str::to_owned),
        }
    }

    /// The desired attributes with their paths, as JSON; null where there is to be no value.
    fn wanted<'a>(&'a self, desired: &'a Desired) -> Result<Vec<(&'a str, &'a Path, Json)>, CallError> {
        desired
            .attributes
            .iter()
            .map(|(name, value)| {
                let path = self.path(name)?;
                let json = match value {
                    Value::Text(text) if text.is_empty() => Json::Null,
                    Value::List(items) if items.is_empty() => Json::Null,
                    Value::List(_) if path.sub.is_some() => {
                        let reason = format!("attribute {name} is a list, but {} holds one value", path.text());
                        return Err(CallError::new(ErrorClass::Invalid, reason));
                    }
                    value => value.to_json(),
                };
                Ok((name.as_str(), path, json))
            })
            .collect()
    }

    pub(super) fn body(&self, account: &AccountId, desired: &Desired) -> Result<Json, CallError> {
        let mut body = json!({"schemas": [CORE_USER], "active": desired.active});
        if self.owner {
            body["externalId"] = account.0.as_str().into();
        }
        for (_, path, value) in self.wanted(desired)? {
            if !value.is_null() {
                path.set(&mut body, value);
            }
        }
        Ok(body)
    }

    /// What makes the resource the account that is desired. A resource that is nobody's becomes `account`'s.
    pub(super) fn operations(
        &self,
        account: &AccountId,
        desired: &Desired,
        resource: &Json,
    ) -> Result<Operations, CallError> {
        let mut operations = Operations::new();
        if self.owner && owner_of(resource).is_none() {
            operations.push(json!({"op": "add", "path": "externalId", "value": account.0}));
        }
        let mut elements: Vec<(&Path, Json)> = Vec::new();
        let wanted = self.wanted(desired)?;
        for (_, path, value) in &wanted {
            let shown = path.get(resource);
            let same = same(path, &from_json(value), &shown.map_or(Value::Null, value_of), true);
            match (value, path.element(resource)) {
                _ if same => {}
                (Json::Null, _) => {
                    let remove = json!({"op": "remove", "path": self.removal(path, &wanted, resource)});
                    // Two attributes of one element: it goes once.
                    if !operations.contains(&remove) {
                        operations.push(remove);
                    }
                }
                // A filter that chooses nothing is an error (noTarget), so the element is added whole.
                (value, None) if !path.filter.is_empty() => {
                    let whole = elements.iter().position(|(other, _)| other.element_text() == path.element_text());
                    let whole = whole.unwrap_or_else(|| {
                        elements.push((path, path.new_element()));
                        elements.len() - 1
                    });
                    if let Some(sub) = &path.sub {
                        elements[whole].1[sub.as_str()] = value.clone();
                    }
                }
                (value, _) => {
                    let op = if shown.is_some() { "replace" } else { "add" };
                    operations.push(json!({"op": op, "path": path.text(), "value": value}));
                }
            }
        }
        for (path, element) in elements {
            operations.push(json!({"op": "add", "path": path.attribute_text(), "value": [element]}));
        }
        operations.extend(activation(desired.active, resource));
        Ok(operations)
    }

    /// An element of a multi-valued attribute goes whole when nothing that the rules know stays in it.
    fn removal(&self, path: &Path, wanted: &[(&str, &Path, Json)], resource: &Json) -> String {
        let element = path.element_text();
        let stays = |other: &Path| {
            let value = wanted.iter().find(|(_, wanted, _)| *wanted == other).map(|(_, _, value)| value);
            match value {
                Some(value) => !value.is_null(),
                None => other.get(resource).is_some(),
            }
        };
        let shared = self.paths.values().any(|other| other != path && other.element_text() == element && stays(other));
        if path.filter.is_empty() || shared { path.text() } else { element }
    }

    /// The whole resource with the operations carried out, for a target that can't PATCH.
    pub(super) fn carried_out(&self, operations: &[Json], resource: &Json) -> Json {
        let mut whole = resource.clone();
        for operation in operations {
            let (path, value) = (operation["path"].as_str().unwrap_or_default(), &operation["value"]);
            match (operation["op"].as_str(), Path::parse(path)) {
                (Some("remove"), Ok(path)) => path.remove(&mut whole),
                // The removal of a whole element, and the addition of one, aren't paths to one value.
                (Some("remove"), Err(_)) => {
                    let gone = self.paths.values().filter(|known| known.element_text() == path);
                    gone.for_each(|known| known.remove(&mut whole));
                }
                (Some(_), Ok(path)) => match value.as_array().and_then(|elements| elements.first()) {
                    Some(element) if element.is_object() => {
                        let mut elements = path.get(&whole).and_then(Json::as_array).cloned().unwrap_or_default();
                        elements.push(element.clone());
                        path.set(&mut whole, elements.into());
                    }
                    _ => path.set(&mut whole, value.clone()),
                },
                _ => {}
            }
        }
        if let Some(members) = whole.as_object_mut() {
            // Read-only, both (RFC 7643, sections 3.1 and 4.1.2).
            members.retain(|name, _| !name.eq_ignore_ascii_case("meta") && !name.eq_ignore_ascii_case("groups"));
        }
        whole
    }

    /// Whether the target shows an attribute as it is desired.
    pub(super) fn shows(&self, name: &str, desired: &Value, observed: Option<&Value>) -> bool {
        let shown = observed.unwrap_or(&Value::Null);
        self.paths.get(name).is_some_and(|path| same(path, desired, shown, false))
    }
}

/// The operation that switches an account on or off, where it isn't so.
pub(super) fn activation(active: bool, resource: &Json) -> Option<Json> {
    let shown = member(resource, "active").is_some();
    // Where nothing is shown it is said anyway: a target may leave out what it doesn't know.
    (is_active(resource) != active || !shown).then(|| {
        let op = if shown { "replace" } else { "add" };
        json!({"op": op, "path": "active", "value": active})
    })
}

pub(super) fn patch_body(operations: &[Json]) -> Json {
    json!({"schemas": [PATCH_OP], "Operations": operations})
}

pub(super) fn id_of(resource: &Json) -> Option<&str> {
    member(resource, "id").and_then(Json::as_str).filter(|id| !id.is_empty())
}

pub(super) fn owner_of(resource: &Json) -> Option<&str> {
    member(resource, "externalId").and_then(Json::as_str).filter(|owner| !owner.is_empty())
}

/// Not the ETag header: a framework may make one of its own from the answer's bytes, and then refuse it.
pub(super) fn version_of(resource: &Json) -> Option<&str> {
    member(resource, "meta").and_then(|meta| member(meta, "version")).and_then(Json::as_str)
}

/// Only what says false is inactive: what isn't said may let someone in. Some targets say it as text.
fn is_active(resource: &Json) -> bool {
    match member(resource, "active") {
        Some(Json::Bool(active)) => *active,
        Some(Json::String(text)) => !text.eq_ignore_ascii_case("false"),
        _ => true,
    }
}

/// What the rules see of a JSON value: of a complex one its `value`.
fn value_of(json: &Json) -> Value {
    match json {
        Json::Object(_) => member(json, "value").map_or(Value::Null, value_of),
        Json::Array(items) => Value::List(items.iter().map(value_of).collect()),
        plain => from_json(plain),
    }
}

fn from_json(json: &Json) -> Value {
    Value::from_json(json).unwrap_or(Value::Null)
}

/// Unassigned, null, empty text and empty list are one (RFC 7643, section 2.5); lists have no order; `exactly` minds case
/// even where a target need not.
fn same(path: &Path, desired: &Value, shown: &Value, exactly: bool) -> bool {
    let fold = |text: String| if path.ignores_case() && !exactly { text.to_lowercase() } else { text };
    let texts = |value: &Value| {
        let mut texts: Vec<String> = match value {
            Value::List(items) => items.iter().filter_map(plain_text).collect(),
            one => plain_text(one).into_iter().collect(),
        };
        texts.sort_unstable();
        texts.into_iter().map(fold).collect::<Vec<_>>()
    };
    // "True" for true.
    if let (Value::Bool(wanted), Value::Text(text)) = (desired, shown) {
        return text.eq_ignore_ascii_case(&wanted.to_string());
    }
    texts(desired) == texts(shown)
}

fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::List(_) => None,
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(x) => Some(x.to_string()),
        Value::Text(text) => Some(text.to_string()).filter(|text| !text.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Entitlements;

    const WORK: &str = r#"emails[type eq "work"].value"#;

    fn mapping() -> Mapping {
        let attributes = [
            ("userName", "userName"),
            ("givenName", "name.givenName"),
            ("mail", WORK),
            ("mailName", r#"emails[type eq "work"].display"#),
            ("department", "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department"),
        ];
        Mapping::new(&attributes.into_iter().map(|(name, path)| (name.to_owned(), path.to_owned())).collect()).unwrap()
    }

    fn desired<const N: usize>(attributes: [(&str, Value); N]) -> Desired {
        Desired {
            active: true,
            attributes: crate::model::Attributes::from(attributes),
            entitlements: Entitlements::default(),
        }
    }

    fn operations<const N: usize>(attributes: [(&str, Value); N], resource: &Json) -> Vec<Json> {
        mapping().operations(&"a1".into(), &desired(attributes), resource).unwrap()
    }

    fn resource() -> Json {
        json!({"id": "1", "externalId": "a1", "userName": "ada", "active": true, "emails": [{"type": "work", "value": "a@x"}]})
    }

    #[test]
    fn a_patch_says_only_what_differs() {
        let all = [("userName", Value::from("ada")), ("mail", "a@x".into()), ("givenName", Value::Null)];
        assert_eq!(operations(all, &resource()), Vec::<Json>::new());
        let case = [("userName", Value::from("Ada")), ("mail", "a@x".into())];
        assert_eq!(operations(case, &resource()), [json!({"op": "replace", "path": "userName", "value": "Ada"})]);
        assert_eq!(
            operations([("mail", "b@x".into()), ("givenName", "Ada".into())], &resource()),
            [
                json!({"op": "add", "path": "name.givenName", "value": "Ada"}),
                json!({"op": "replace", "path": WORK, "value": "b@x"})
            ]
        );
    }

    #[test]
    fn elements_are_added_and_removed_whole_but_for_what_stays_in_them() {
        let bare = json!({"id": "1", "externalId": "a1", "active": true});
        assert_eq!(
            operations([("mail", "a@x".into()), ("mailName", "A".into())], &bare),
            [json!({"op": "add", "path": "emails", "value": [{"type": "work", "value": "a@x", "display": "A"}]})]
        );
        let full = json!({"id": "1", "externalId": "a1", "active": true, "emails": [{"type": "work", "value": "a@x", "display": "A"}]});
        assert_eq!(operations([("mail", Value::Null)], &full), [json!({"op": "remove", "path": WORK})]);
        let both = operations([("mail", Value::Null), ("mailName", Value::Null)], &full);
        assert_eq!(both, [json!({"op": "remove", "path": r#"emails[type eq "work"]"#})]);
    }

    #[test]
    fn what_is_nobodys_becomes_ours_and_active_is_said_where_it_is_not_shown() {
        assert_eq!(
            operations([], &json!({"id": "1"})),
            [
                json!({"op": "add", "path": "externalId", "value": "a1"}),
                json!({"op": "add", "path": "active", "value": true})
            ]
        );
        assert_eq!(activation(false, &json!({"active": "False"})), None);
        assert_eq!(
            activation(false, &json!({"active": "True"})),
            Some(json!({"op": "replace", "path": "active", "value": false}))
        );
    }

    #[test]
    fn operations_carried_out_on_the_whole_resource_leave_nothing_to_do() {
        for (attributes, start) in [
            ([("mail", Value::from("b@x")), ("mailName", "B".into()), ("department", "Eng".into())], resource()),
            (
                [("mail", Value::from("b@x")), ("mailName", "B".into()), ("department", "Eng".into())],
                json!({"id": "1"}),
            ),
            ([("mail", Value::Null), ("mailName", Value::Null), ("department", Value::Null)], resource()),
        ] {
            let todo = operations(attributes.clone(), &start);
            let whole = mapping().carried_out(&todo, &start);
            assert_eq!(operations(attributes, &whole), Vec::<Json>::new(), "{todo:?}");
        }
    }

    #[test]
    fn values_compare_as_service_providers_store_them() {
        for (name, desired, shown, expected) in [
            ("userName", Value::from("Ada"), Value::from("ada"), true),
            ("mail", Value::from("A@X"), Value::from("a@x"), true),
            ("givenName", Value::from("Ada"), Value::from("ada"), false),
            ("givenName", Value::from(""), Value::Null, true),
            ("givenName", Value::Bool(true), Value::from("True"), true),
            ("givenName", Value::Null, Value::from("Ada"), false),
            ("givenName", Value::List(vec!["b".into(), "a".into()]), Value::List(vec!["a".into(), "b".into()]), true),
        ] {
            assert_eq!(mapping().shows(name, &desired, Some(&shown)), expected, "{name}");
        }
    }

    #[test]
    fn reserved_attributes_are_refused_and_external_id_may_be_the_rules() {
        let one = |path: &str| Mapping::new(&BTreeMap::from([("x".to_owned(), path.to_owned())]));
        assert!(matches!(one("active"), Err(OpenError::Rules { place, .. }) if place == "connector.scim.attributes.x"));
        assert!(one("password").is_err());
        assert!(!one("externalId").unwrap().owner);
    }
}
