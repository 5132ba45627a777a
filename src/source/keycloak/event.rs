//! What an admin event says of users. Pure.

use serde::Deserialize;

/// The part of an admin event that is used. Its representation is not: it is what the caller sent, not what the user is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminEvent {
    pub id: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time: i64,
    pub operation_type: String,
    #[serde(default)]
    pub resource_type: String,
    #[serde(default)]
    pub resource_path: String,
}

/// Whose record an event concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This user is to be read.
    Upserted(String),
    Deleted(String),
    /// Users that the event doesn't name.
    Everyone,
    Nothing,
}

/// Through the SCIM API the same paths stand under this one, with the resource types' names of SCIM.
const SCIM: &str = "scim/v2/";

impl AdminEvent {
    pub fn change(&self) -> Change {
        let scim = self.resource_path.strip_prefix(SCIM);
        let path: Vec<&str> = scim.unwrap_or(&self.resource_path).split('/').collect();
        let delete = self.operation_type == "DELETE";
        match (self.resource_type.as_str(), path.as_slice()) {
            ("USER", ["users" | "Users", user]) if !user.is_empty() => {
                if delete {
                    Change::Deleted((*user).to_owned())
                } else {
                    Change::Upserted((*user).to_owned())
                }
            }
            // Below a user: credentials, federated identities, required actions. Some change the user's own record.
            ("USER" | "GROUP_MEMBERSHIP", ["users" | "Users", user, ..]) if !user.is_empty() => {
                Change::Upserted((*user).to_owned())
            }
            // Renames and deletes, of which members get no event of their own; through SCIM memberships too.
            ("GROUP", _) if scim.is_some() || self.operation_type != "CREATE" => Change::Everyone,
            // They may have been off until now.
            ("REALM", ["events", "config"]) => Change::Everyone,
            _ => Change::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_concern_the_user_in_their_path() {
        let upserted = || Change::Upserted("u-1".into());
        for (operation, kind, path, expected) in [
            ("CREATE", "USER", "users/u-1", upserted()),
            ("UPDATE", "USER", "users/u-1", upserted()),
            ("ACTION", "USER", "users/u-1/reset-password", upserted()),
            ("DELETE", "USER", "users/u-1/credentials/c-1", upserted()),
            ("DELETE", "USER", "users/u-1", Change::Deleted("u-1".into())),
            ("CREATE", "GROUP_MEMBERSHIP", "users/u-1/groups/g-1", upserted()),
            ("DELETE", "GROUP_MEMBERSHIP", "users/u-1/groups/g-1", upserted()),
            ("CREATE", "USER", "scim/v2/Users/u-1", upserted()),
            ("DELETE", "USER", "scim/v2/Users/u-1", Change::Deleted("u-1".into())),
            ("UPDATE", "GROUP", "scim/v2/Groups/g-1", Change::Everyone),
            ("CREATE", "GROUP", "scim/v2/Groups/g-1", Change::Everyone),
            ("UPDATE", "GROUP", "groups/g-1", Change::Everyone),
            ("DELETE", "GROUP", "groups/g-1", Change::Everyone),
            ("CREATE", "GROUP", "groups/g-1", Change::Nothing),
            ("CREATE", "REALM_ROLE_MAPPING", "users/u-1/role-mappings/realm", Change::Nothing),
            ("CREATE", "CLIENT", "clients/c-1", Change::Nothing),
            ("UPDATE", "REALM", "", Change::Nothing),
            ("CREATE", "USER", "users/", Change::Nothing),
        ] {
            let event = AdminEvent {
                id: "e".into(),
                time: 0,
                operation_type: operation.into(),
                resource_type: kind.into(),
                resource_path: path.into(),
            };
            assert_eq!(event.change(), expected, "{operation} {kind} {path}");
        }
    }
}
