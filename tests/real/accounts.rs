//! Two real targets and what is in them: `directory` on PostgreSQL, `staff` on a SCIM server.

use crate::rig::{replaced, var};
use crate::world::Accounts;
use reqwest::Method;
use serde_json::{Value as Json, json};
use sqlx::{Connection, PgConnection, Row};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Runtime;

const ENTERPRISE: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

/// An account as a target shows it; attributes without a value are not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub active: bool,
    pub attributes: BTreeMap<String, String>,
    pub groups: BTreeSet<String>,
}

/// `targets/staff.yaml`; everybody but Finance.
pub fn staff(leaver: &str) -> String {
    format!(
        r#"target: staff
format: avro
connector:
  scim:
    url: ${{env:STAFF_URL}}
    token: ${{env:STAFF_TOKEN}}
    attributes:
      userName: userName
      givenName: name.givenName
      familyName: name.familyName
      mail: emails[type eq "work"].value
      department: {ENTERPRISE}:department
    create_groups: true
  concurrency: 4 # the server works off one request after the other
account:
  when: department != 'Finance'
  match: userName
  attributes:
    userName: "'u' + employeeNumber"
    givenName: givenName
    familyName: familyName
    mail: "'u' + employeeNumber + '@example.com'"
    department: department
leaver: {{ action: {leaver} }}
deadline: {{ deprovision: 5m }}
"#
    )
}

/// The example's entitlements, with grants for `staff`.
pub fn with_staff_groups(text: &str) -> String {
    let grant =
        "grants:\n  - name: staff by department\n    to: { staff: \"lookup(tables.department, department, [])\" }\n";
    replaced(text, "grants:\n", grant)
}

/// A database of its own with the example's schema.
pub struct Directory {
    server: String,
    name: String,
    pub url: String,
}

impl Directory {
    pub async fn new(id: &str) -> Self {
        let server = var("LOCKSTEP_TEST_POSTGRES");
        let name = format!("real_{id}");
        let mut connection = PgConnection::connect(&server).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let directory = Self { server, name, url };
        directory.run(include_str!("../../examples/kafka/schema/directory.sql")).await;
        directory
    }

    pub async fn run(&self, sql: &'static str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }

    /// An account of somebody else's.
    pub async fn occupy(&self, user_name: &str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let insert = "INSERT INTO accounts (user_name, lockstep_account) VALUES ($1, 'of another system')";
        sqlx::query(insert).bind(user_name).execute(&mut connection).await.unwrap();
    }

    /// By employee number: the accounts that Lockstep has made.
    pub async fn accounts(&self) -> Accounts {
        let columns = [
            ("userName", "user_name"),
            ("displayName", "display_name"),
            ("mail", "mail"),
            ("mobile", "mobile"),
            ("department", "department"),
            ("title", "title"),
            ("employeeNumber", "employee_number"),
        ];
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let query = "SELECT a.*, array(SELECT group_name FROM memberships m WHERE m.account_id = a.id) AS groups \
                     FROM accounts a WHERE employee_number IS NOT NULL";
        let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
        let mut accounts = Accounts::new();
        for row in rows {
            let text = |column: &str| row.get::<Option<String>, _>(column);
            let attributes = columns.iter().filter_map(|(name, column)| Some(((*name).to_owned(), text(column)?)));
            let account = Account {
                active: row.get("active"),
                attributes: attributes.collect(),
                groups: row.get::<Vec<String>, _>("groups").into_iter().collect(),
            };
            assert!(text("lockstep_account").is_some(), "an account without its owner");
            let twice = accounts.insert(text("employee_number").unwrap().parse().unwrap(), account);
            assert!(twice.is_none(), "two accounts of one person");
        }
        accounts
    }

    pub async fn drop(self) {
        let mut connection = PgConnection::connect(&self.server).await.unwrap();
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
}

/// The SCIM server, which tests share one after the other: emptied at first.
pub struct Staff {
    http: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl Staff {
    pub async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (url, token) = (var("LOCKSTEP_TEST_SCIM"), var("LOCKSTEP_TEST_SCIM_TOKEN"));
        let staff = Self { http: reqwest::Client::new(), url, token };
        for collection in ["Groups", "Users"] {
            for resource in staff.all(collection).await {
                staff.send(Method::DELETE, &format!("{collection}/{}", resource["id"].as_str().unwrap())).await;
            }
        }
        staff
    }

    async fn send(&self, method: Method, path: &str) -> Json {
        let request = self.http.request(method, format!("{}/{path}", self.url)).bearer_auth(&self.token);
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or(json!(null))
    }

    async fn all(&self, collection: &str) -> Vec<Json> {
        let mut all: Vec<Json> = Vec::new();
        loop {
            let list = self.send(Method::GET, &format!("{collection}?startIndex={}&count=100", all.len() + 1)).await;
            all.extend(list["Resources"].as_array().cloned().unwrap_or_default());
            // Not "until a page is empty": beyond the end some providers begin again.
            if all.len() as u64 >= list["totalResults"].as_u64().unwrap() {
                return all;
            }
        }
    }

    pub async fn accounts(&self) -> Accounts {
        let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for group in self.all("Groups").await {
            let name = group["displayName"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "two groups {name}");
            for member in group["members"].as_array().into_iter().flatten() {
                groups.entry(member["value"].as_str().unwrap().to_owned()).or_default().insert(name.to_owned());
            }
        }
        let mut accounts = Accounts::new();
        for user in self.all("Users").await {
            let fields = [
                ("userName", &user["userName"]),
                ("givenName", &user["name"]["givenName"]),
                ("familyName", &user["name"]["familyName"]),
                ("mail", &user["emails"][0]["value"]),
                ("department", &user[ENTERPRISE]["department"]),
            ];
            let text = |(name, value): &(&str, &Json)| Some(((*name).to_owned(), value.as_str()?.to_owned()));
            let account = Account {
                active: user["active"] == true,
                attributes: fields.iter().filter_map(text).collect(),
                groups: groups.remove(user["id"].as_str().unwrap()).unwrap_or_default(),
            };
            let number = user["userName"].as_str().unwrap().trim_start_matches('u').parse().unwrap();
            assert!(accounts.insert(number, account).is_none(), "two accounts of one person");
        }
        accounts
    }
}

/// Both targets, and what they should show.
pub struct Targets {
    pub directory: Directory,
    pub staff: Staff,
    pub expected: BTreeMap<&'static str, Accounts>,
}

impl Targets {
    pub async fn new(id: &str) -> Self {
        let expected = BTreeMap::from([("directory", Accounts::new()), ("staff", Accounts::new())]);
        Self { directory: Directory::new(id).await, staff: Staff::new().await, expected }
    }

    pub fn env(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("DIRECTORY_URL", self.directory.url.clone()),
            ("STAFF_URL", self.staff.url.clone()),
            ("STAFF_TOKEN", self.staff.token.clone()),
        ])
    }

    /// Ok when both show what they should; else how many accounts are not as they should be, and the first of them.
    pub fn compare(&self, runtime: &Runtime) -> Result<(), String> {
        for (target, expected) in &self.expected {
            let found = match *target {
                "directory" => runtime.block_on(self.directory.accounts()),
                _ => runtime.block_on(self.staff.accounts()),
            };
            let numbers: BTreeSet<u32> = expected.keys().chain(found.keys()).copied().collect();
            let wrong: Vec<u32> =
                numbers.iter().copied().filter(|number| expected.get(number) != found.get(number)).collect();
            if let Some(first) = wrong.first() {
                let (wanted, shown) = (expected.get(first), found.get(first));
                return Err(format!(
                    "{} of {} accounts at {target} are not as the rules say; {first}: wanted {wanted:?}, found {shown:?}",
                    wrong.len(),
                    numbers.len()
                ));
            }
        }
        Ok(())
    }
}
