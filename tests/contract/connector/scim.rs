//! The suite on real SCIM service providers: scim2-server (ETags, 204), and any other whose address is given.

use super::{Fault, SHORT, TIMEOUT, Target, whole};
use async_trait::async_trait;
use lockstep::connector::{Connector, Limits, open};
use lockstep::model::AccountId;
use lockstep::rules::{ConnectorRules, ScimRules};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

struct Provider {
    http: reqwest::Client,
    url: String,
    token: String,
    connector: Arc<dyn Connector>,
    /// Its filters know an escaped quote.
    quotes: bool,
}

impl Provider {
    /// An empty one, with its groups.
    async fn new(url: String, token: String) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connector = opened(&url, &token, TIMEOUT).await;
        let http = reqwest::Client::new();
        let query = [("filter", r#"userName eq "a\"b""#)];
        let asked = http.get(format!("{url}/Users")).query(&query).bearer_auth(&token).send().await.unwrap();
        let quotes = asked.status().is_success();
        let provider = Self { http, url, token, connector, quotes };
        for collection in ["Users", "Groups"] {
            for resource in provider.all(collection).await {
                provider.send(Method::DELETE, &format!("{collection}/{}", text(&resource["id"])), None).await;
            }
        }
        for name in ["eng", "ops", "vpn"] {
            let group = json!({"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name});
            provider.send(Method::POST, "Groups", Some(group)).await;
        }
        provider
    }

    async fn send(&self, method: Method, path: &str, body: Option<Json>) -> Option<Json> {
        let mut request = self.http.request(method, format!("{}/{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/scim+json").body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.text().await.unwrap();
        assert!(status.is_success() || status == 404, "{path}: {status} {body}");
        (status != 404).then(|| serde_json::from_str(&body).unwrap_or(Json::Null))
    }

    async fn patch(&self, path: &str, operation: Json) {
        let schema = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
        let body = json!({"schemas": [schema], "Operations": [operation]});
        self.send(Method::PATCH, path, Some(body)).await.unwrap();
    }

    async fn all(&self, collection: &str) -> Vec<Json> {
        let mut all: Vec<Json> = Vec::new();
        loop {
            let path = format!("{collection}?startIndex={}&count=50", all.len() + 1);
            let list = self.send(Method::GET, &path, None).await.unwrap();
            all.extend(list["Resources"].as_array().cloned().unwrap_or_default());
            // Not "until a page is empty": beyond the end some providers begin again.
            if all.len() as u64 >= list["totalResults"].as_u64().unwrap() {
                return all;
            }
        }
    }

    async fn group(&self, name: &str) -> Json {
        self.all("Groups").await.into_iter().find(|group| group["displayName"] == name).unwrap()
    }
}

fn text(json: &Json) -> String {
    json.as_str().unwrap().to_owned()
}

async fn opened(url: &str, token: &str, timeout: Duration) -> Arc<dyn Connector> {
    let attributes = [
        ("userName", "userName"),
        ("givenName", "name.givenName"),
        ("familyName", "name.familyName"),
        ("mail", r#"emails[type eq "work"].value"#),
        ("mobile", r#"phoneNumbers[type eq "mobile"].value"#),
        ("department", "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department"),
    ];
    let rules = ScimRules {
        url: url.to_owned(),
        token: Some(token.to_owned()),
        attributes: attributes.into_iter().map(|(name, path)| (name.to_owned(), path.to_owned())).collect(),
        create_groups: false,
    };
    let limits = Limits { timeout, concurrency: 4 };
    open(&ConnectorRules::Scim(rules), limits, &|text| Ok(text.to_owned())).await.unwrap()
}

#[async_trait]
impl Target for Provider {
    fn connector(&self) -> Arc<dyn Connector> {
        self.connector.clone()
    }

    async fn broken(&self, fault: Fault) -> Option<Arc<dyn Connector>> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v2", listener.local_addr().unwrap());
        Some(match fault {
            Fault::Credentials => opened(&self.url, "wrong", SHORT).await,
            Fault::Gone => {
                drop(listener);
                opened(&url, &self.token, SHORT).await
            }
            Fault::Hanging => {
                // Kept open for as long as the process lives.
                std::mem::forget(listener);
                opened(&url, &self.token, SHORT).await
            }
        })
    }

    async fn seed(&self, user_name: &str, owner: Option<&AccountId>) -> String {
        let mut user = json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": user_name, "name": {"givenName": "x", "familyName": "y"}, "active": true,
        });
        if let Some(owner) = owner {
            user["externalId"] = owner.0.as_str().into();
        }
        text(&self.send(Method::POST, "Users", Some(user)).await.unwrap()["id"])
    }

    async fn raw(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let user = self.send(Method::GET, &format!("Users/{key}"), None).await?;
        let mut all: BTreeMap<String, String> =
            user.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.to_string())).collect();
        for name in ["active", "meta", "groups"] {
            all.remove(name);
        }
        Some(all)
    }

    async fn count(&self) -> usize {
        self.all("Users").await.len()
    }

    async fn set(&self, key: &str, attribute: &str, value: &str) {
        let path = match attribute {
            "givenName" | "familyName" => format!("name.{attribute}"),
            "mail" => r#"emails[type eq "work"].value"#.to_owned(),
            "mobile" => r#"phoneNumbers[type eq "mobile"].value"#.to_owned(),
            "department" => format!("{ENTERPRISE}:department"),
            plain => plain.to_owned(),
        };
        self.patch(&format!("Users/{key}"), json!({"op": "replace", "path": path, "value": value})).await;
    }

    async fn mark(&self, key: &str, owner: &AccountId) {
        let operation = json!({"op": "replace", "path": "externalId", "value": owner.0.as_str()});
        self.patch(&format!("Users/{key}"), operation).await;
    }

    async fn set_active(&self, key: &str, active: bool) {
        self.patch(&format!("Users/{key}"), json!({"op": "replace", "path": "active", "value": active})).await;
    }

    async fn join(&self, key: &str, group: &str) {
        let id = text(&self.group(group).await["id"]);
        let member = json!({"op": "add", "path": "members", "value": [{"value": key}]});
        self.patch(&format!("Groups/{id}"), member).await;
    }

    async fn leave(&self, key: &str, group: &str) {
        let id = text(&self.group(group).await["id"]);
        let path = format!("members[value eq {}]", Json::from(key));
        self.patch(&format!("Groups/{id}"), json!({"op": "remove", "path": path})).await;
    }

    async fn memberships(&self, key: &str, group: &str) -> usize {
        let id = text(&self.group(group).await["id"]);
        // Not every provider shows members unasked.
        let path = format!("Groups/{id}?attributes=id,displayName,members");
        let group = self.send(Method::GET, &path, None).await.unwrap();
        group["members"].as_array().into_iter().flatten().filter(|member| member["value"] == key).count()
    }

    fn searchable(&self, text: &str) -> bool {
        self.quotes || !text.contains('"')
    }

    fn unstorable(&self) -> Option<String> {
        None
    }

    fn longest_department(&self) -> Option<usize> {
        None
    }
}

#[tokio::test]
#[ignore = "needs scim2-server: tests/run connector"]
async fn scim2_server() {
    let url = std::env::var("LOCKSTEP_TEST_SCIM").expect("LOCKSTEP_TEST_SCIM is the base url of a SCIM server");
    let token = std::env::var("LOCKSTEP_TEST_SCIM_TOKEN").unwrap_or_else(|_| "lockstep-test".to_owned());
    whole(&Provider::new(url, token).await).await;
}
