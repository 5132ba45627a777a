//! Attribute paths (RFC 7644, section 3.5.2): where a value stands in a resource, read, written, and written out for a PATCH.
//!
//! `userName`, `name.givenName`, `emails[type eq "work"].value`, `urn:…:enterprise:2.0:User:department`.

use serde_json::{Map, Value as Json};

pub(super) const CORE_USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";

/// What an element must have, all of it: sub-attribute and value.
type Terms = Vec<(String, Json)>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    /// The extension's URN; None: the core schema.
    pub(super) schema: Option<String>,
    pub(super) attribute: String,
    /// What an element of a multi-valued attribute must have; empty: the attribute is single-valued.
    pub(super) filter: Terms,
    pub(super) sub: Option<String>,
}

impl Path {
    /// Or what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (head, bracket) = match text.split_once('[') {
            Some((head, rest)) => (head, Some(rest)),
            None => (text, None),
        };
        let is_urn = head.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("urn:"));
        let (schema, head) = match head.rsplit_once(':') {
            Some((schema, head)) if is_urn => (Some(schema), head),
            _ => (None, head),
        };
        let (attribute, filter, sub) = match bracket {
            None => match head.split_once('.') {
                Some((attribute, sub)) => (attribute, Vec::new(), Some(sub)),
                None => (head, Vec::new(), None),
            },
            Some(rest) => {
                let (filter, after) = parse_filter(rest)?;
                let sub = after.strip_prefix('.').ok_or("after `]` comes the element's part, such as `.value`")?;
                (head, filter, Some(sub))
            }
        };
        for name in [Some(attribute), sub].into_iter().flatten() {
            if !is_name(name) {
                return Err(format!(
                    "`{name}` is no attribute name; write userName, name.givenName or emails[type eq \"work\"].value"
                ));
            }
        }
        Ok(Self {
            schema: schema.filter(|schema| !schema.eq_ignore_ascii_case(CORE_USER)).map(str::to_owned),
            attribute: attribute.to_owned(),
            filter,
            sub: sub.map(str::to_owned),
        })
    }

    /// The attribute with its schema, without filter and part.
    pub(super) fn attribute_text(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}:{}", self.attribute),
            None => self.attribute.clone(),
        }
    }

    /// The attribute with its filter: one element.
    pub(super) fn element_text(&self) -> String {
        if self.filter.is_empty() {
            return self.attribute_text();
        }
        let terms: Vec<String> = self.filter.iter().map(|(name, value)| format!("{name} eq {value}")).collect();
        format!("{}[{}]", self.attribute_text(), terms.join(" and "))
    }

    pub(super) fn text(&self) -> String {
        match &self.sub {
            Some(sub) => format!("{}.{sub}", self.element_text()),
            None => self.element_text(),
        }
    }

    /// A filter that finds resources with this value, and perhaps some more: `emails.value eq "x"`, of any type.
    pub(super) fn search(&self, value: &str) -> String {
        let sub = self.sub.as_ref().map(|sub| format!(".{sub}")).unwrap_or_default();
        format!("{}{sub} eq {}", self.attribute_text(), Json::from(value))
    }

    /// Core attributes that servers are free to fold: caseExact is false for them (RFC 7643, section 8.7.1).
    pub(super) fn ignores_case(&self) -> bool {
        self.schema.is_none() && ["username", "emails"].contains(&self.attribute.to_ascii_lowercase().as_str())
    }

    pub(super) fn is_core(&self, name: &str) -> bool {
        self.schema.is_none() && self.attribute.eq_ignore_ascii_case(name)
    }

    fn container<'r>(&self, resource: &'r Json) -> Option<&'r Json> {
        match &self.schema {
            Some(schema) => member(resource, schema),
            None => Some(resource),
        }
    }

    /// The element that the filter chooses; without a filter the attribute itself.
    pub(super) fn element<'r>(&self, resource: &'r Json) -> Option<&'r Json> {
        let attribute = member(self.container(resource)?, &self.attribute)?;
        if self.filter.is_empty() {
            Some(attribute)
        } else {
            attribute.as_array()?.iter().find(|one| self.chooses(one))
        }
    }

    pub(super) fn get<'r>(&self, resource: &'r Json) -> Option<&'r Json> {
        let element = self.element(resource)?;
        match &self.sub {
            Some(sub) => member(element, sub),
            None => Some(element),
        }
    }

    fn chooses(&self, element: &Json) -> bool {
        self.filter.iter().all(|(name, wanted)| match (member(element, name), wanted) {
            (Some(Json::String(shown)), Json::String(wanted)) => shown.eq_ignore_ascii_case(wanted),
            (shown, wanted) => shown == Some(wanted),
        })
    }

    /// Writes a value where the path points, making what is missing on the way.
    pub(super) fn set(&self, resource: &mut Json, value: Json) {
        let container = match &self.schema {
            Some(schema) => {
                declare(resource, schema);
                object(slot(resource, schema))
            }
            None => resource,
        };
        let attribute = slot(container, &self.attribute);
        let element = if self.filter.is_empty() {
            attribute
        } else {
            let elements = array(attribute);
            match elements.iter().position(|one| self.chooses(one)) {
                Some(i) => &mut elements[i],
                None => {
                    elements.push(self.new_element());
                    elements.last_mut().expect("one was just pushed")
                }
            }
        };
        match &self.sub {
            Some(sub) => *slot(object(element), sub) = value,
            None => *element = value,
        }
    }

    /// Takes the value away; an element that then says nothing goes with it.
    pub(super) fn remove(&self, resource: &mut Json) {
        let container = match &self.schema {
            Some(schema) if member(resource, schema).is_none() => return,
            Some(schema) => slot(resource, schema),
            None => resource,
        };
        if member(container, &self.attribute).is_none() {
            return;
        }
        let attribute = slot(container, &self.attribute);
        let Some(sub) = &self.sub else {
            take(container, &self.attribute);
            return;
        };
        if self.filter.is_empty() {
            take(attribute, sub);
        } else if let Some(elements) = attribute.as_array_mut() {
            for element in elements.iter_mut().filter(|one| self.chooses(one)) {
                take(element, sub);
            }
            elements.retain(|element| !self.chooses(element) || self.says_something(element));
        }
        let empty = match &*attribute {
            Json::Object(members) => members.is_empty(),
            Json::Array(elements) => elements.is_empty(),
            _ => false,
        };
        if empty {
            take(container, &self.attribute);
        }
    }

    /// Whether an element has more than what chooses it.
    fn says_something(&self, element: &Json) -> bool {
        let chosen_by = |name: &str| self.filter.iter().any(|(by, _)| by.eq_ignore_ascii_case(name));
        element.as_object().is_some_and(|members| {
            members.keys().any(|name| !chosen_by(name) && !["primary", "display"].contains(&name.as_str()))
        })
    }

    /// An element that the filter chooses, with nothing else in it.
    pub(super) fn new_element(&self) -> Json {
        Json::Object(self.filter.iter().cloned().collect())
    }
}

/// `type eq "work" and primary eq true].value`: the terms, and what comes after the bracket.
fn parse_filter(text: &str) -> Result<(Terms, &str), String> {
    const FORM: &str = "a filter is written [type eq \"work\"], or several joined by `and`";
    let mut terms = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.trim_start().split_once(char::is_whitespace).ok_or(FORM)?;
        let (operator, after) = after.trim_start().split_once(char::is_whitespace).ok_or(FORM)?;
        if !is_name(name) || !operator.eq_ignore_ascii_case("eq") {
            return Err(FORM.to_owned());
        }
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Json>();
        let value =
            values.next().and_then(Result::ok).filter(|value| !value.is_array() && !value.is_object()).ok_or(FORM)?;
        terms.push((name.to_owned(), value));
        rest = after[values.byte_offset()..].trim_start();
        if let Some(after) = rest.strip_prefix(']') {
            return Ok((terms, after));
        }
        rest = rest.strip_prefix("and ").ok_or(FORM)?;
    }
}

/// ATTRNAME of RFC 7644, and `$ref`.
fn is_name(name: &str) -> bool {
    let bare = name.strip_prefix('$').unwrap_or(name);
    bare.starts_with(|c: char| c.is_ascii_alphabetic())
        && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// An object's member; attribute names ignore case (RFC 7643, section 2.1).
pub(super) fn member<'r>(json: &'r Json, name: &str) -> Option<&'r Json> {
    let members = json.as_object()?;
    members.get(name).or_else(|| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// The member to write to, made if need be.
fn slot<'r>(json: &'r mut Json, name: &str) -> &'r mut Json {
    let members = object_of(json);
    let key = match members.keys().find(|key| key.eq_ignore_ascii_case(name)) {
        Some(key) => key.clone(),
        None => name.to_owned(),
    };
    members.entry(key).or_insert(Json::Null)
}

fn object(json: &mut Json) -> &mut Json {
    object_of(json);
    json
}

/// What is no object becomes an empty one.
fn object_of(json: &mut Json) -> &mut Map<String, Json> {
    if !json.is_object() {
        *json = Json::Object(Map::new());
    }
    json.as_object_mut().expect("it was just made an object")
}

fn array(json: &mut Json) -> &mut Vec<Json> {
    if !json.is_array() {
        *json = Json::Array(Vec::new());
    }
    json.as_array_mut().expect("it was just made an array")
}

fn take(json: &mut Json, name: &str) {
    if let Some(members) = json.as_object_mut() {
        members.retain(|key, _| !key.eq_ignore_ascii_case(name));
    }
}

/// Names an extension among the resource's schemas.
fn declare(resource: &mut Json, schema: &str) {
    let schemas = array(slot(resource, "schemas"));
    if !schemas.iter().any(|known| known.as_str().is_some_and(|known| known.eq_ignore_ascii_case(schema))) {
        schemas.push(schema.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEPARTMENT: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department";

    #[test]
    fn paths_read_as_they_are_written() {
        for text in [
            "userName",
            "name.givenName",
            r#"emails[type eq "work"].value"#,
            r#"addresses[type eq "work" and primary eq true].postal-code"#,
            DEPARTMENT,
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.value",
            r#"urn:example:x:1.0:User:badges[kind eq "a ] \" b"].code"#,
        ] {
            assert_eq!(Path::parse(text).unwrap().text(), text);
        }
        let core = Path::parse("urn:ietf:params:scim:schemas:core:2.0:User:name.givenName").unwrap();
        assert_eq!(core.text(), "name.givenName");
    }

    #[test]
    fn wrong_paths_are_refused() {
        for text in [
            "",
            "a b",
            "1x",
            "name.",
            "a.b.c",
            "emails[type eq work].value",
            "emails[type eq \"work\"]",
            "emails[type ne \"x\"].value",
            "emails[].value",
            "emails[type eq \"work\"",
            "x:y",
        ] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_set_found_and_removed() {
        let mut resource = json!({"schemas": [CORE_USER]});
        let pairs = [
            ("userName", "ada"),
            ("name.givenName", "Ada"),
            ("name.familyName", "L"),
            (r#"emails[type eq "work"].value"#, "a@x"),
            (r#"emails[type eq "home"].value"#, "b@x"),
            (r#"emails[type eq "work"].display"#, "A"),
            (DEPARTMENT, "Eng"),
        ];
        for (path, value) in pairs {
            Path::parse(path).unwrap().set(&mut resource, value.into());
        }
        assert_eq!(
            resource,
            json!({
                "schemas": [CORE_USER, "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],
                "userName": "ada",
                "name": {"givenName": "Ada", "familyName": "L"},
                "emails": [{"type": "work", "value": "a@x", "display": "A"}, {"type": "home", "value": "b@x"}],
                "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {"department": "Eng"},
            })
        );
        for (path, value) in pairs {
            assert_eq!(Path::parse(path).unwrap().get(&resource), Some(&Json::from(value)), "{path}");
        }
        assert_eq!(Path::parse("USERNAME").unwrap().get(&resource), Some(&Json::from("ada")));
        for path in [r#"emails[type eq "work"].value"#, "name.givenName", "name.familyName", "nickName", DEPARTMENT] {
            Path::parse(path).unwrap().remove(&mut resource);
            assert_eq!(Path::parse(path).unwrap().get(&resource), None, "{path}");
        }
        assert_eq!(resource["emails"], json!([{"type": "home", "value": "b@x"}]));
        assert_eq!(resource.get("name"), None);
    }
}
