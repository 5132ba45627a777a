//! What a target's file says of its connector: shapes only. `${env:…}`, `${file:…}` and `${data}` stay as they are
//! written until the connector is made, so that no secret is ever part of a bundle.

use crate::model::Value;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorRules {
    Sql(SqlRules),
    Scim(ScimRules),
}

/// Accounts as rows of a table, on PostgreSQL or SQLite.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlRules {
    /// `postgres://…` or `sqlite:…`, unresolved.
    pub url: String,
    pub accounts: SqlAccounts,
    pub groups: Option<SqlGroups>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlAccounts {
    pub table: String,
    /// The column with the row's own id.
    pub key: String,
    /// The column in which Lockstep leaves its account id.
    pub owner: Option<String>,
    /// Account attribute to column.
    pub columns: BTreeMap<String, String>,
    /// None: a row is active, and can't be disabled.
    pub active: Option<SqlActive>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlActive {
    pub column: String,
    #[serde(rename = "true")]
    pub true_value: Value,
    #[serde(rename = "false")]
    pub false_value: Value,
}

/// Memberships as rows of a table: one an account and group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlGroups {
    pub table: String,
    /// The column that holds the account's key.
    pub account: String,
    /// The column that holds the group's name.
    pub group: String,
}

/// A SCIM 2.0 service provider (RFC 7643, RFC 7644).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScimRules {
    /// The base, up to and without `/Users`; unresolved.
    pub url: String,
    /// A bearer token, unresolved.
    pub token: Option<String>,
    /// Account attribute to SCIM path: `userName`, `name.givenName`, `emails[type eq "work"].value`.
    pub attributes: BTreeMap<String, String>,
    /// Groups that the rules grant and the target doesn't have are made there.
    #[serde(default)]
    pub create_groups: bool,
}

impl ConnectorRules {
    /// The account attributes it can write.
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Sql(sql) => &sql.accounts.columns,
            Self::Scim(scim) => &scim.attributes,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Sql(_) => "sql",
            Self::Scim(_) => "scim",
        }
    }
}
