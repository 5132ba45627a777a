//! Accounts as Users of a SCIM 2.0 service provider (RFC 7643, RFC 7644).
//!
//! An account is found by its id, else by `externalId`, in which Lockstep leaves its account id, else by the match attribute.
//! It is read before every change, so that a change says only what differs and carries the version that was read. What a
//! target turns out not to support is remembered for as long as the process lives, and done another way; that it has no groups
//! only for a minute.

mod call;
mod error;
mod groups;
mod map;
mod path;

#[cfg(test)]
mod tests;

use super::{
    Applied, CallError, Capabilities, Change, Connector, GroupChanges, Limits, Lookup, Observed, OpenError, Page,
    Purpose, Resolve, compare, remarked,
};
use crate::model::{Desired, ErrorClass, Op};
use crate::rules::ScimRules;
use async_trait::async_trait;
use call::{Client, Request};
use error::Refused;
use groups::{Groups, respelled};
use map::{Mapping, activation, id_of, owner_of, patch_body, version_of};
use reqwest::Method;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const COLLECTION_USERS: &str = "/Users";
const COLLECTION_GROUPS: &str = "/Groups";
/// Resources on a page; targets commonly give no more than 100 or 200.
const PAGE: usize = 100;
/// Answers to a search for one account: enough to see that there are several.
const SEARCH: &str = "10";

pub struct ScimConnector {
    client: Client,
    mapping: Mapping,
    groups: Groups,
    timeout: Duration,
    /// The target has shown an externalId: it keeps them. Not all do.
    keeps_owner: AtomicBool,
    /// It can't be asked for an externalId.
    no_owner_search: AtomicBool,
    no_patch: AtomicBool,
}

enum Located {
    Ours(Json),
    /// The account of our id, which has another's externalId by now; only where access is to end.
    Remarked(Json),
    /// The match attribute is that of an account that is somebody else's.
    Anothers,
    Nowhere,
}

impl ScimConnector {
    pub fn open(rules: &ScimRules, limits: Limits, resolve: Resolve<'_>) -> Result<Self, OpenError> {
        let secret = |place, text: &str| resolve(text).map_err(|reason| OpenError::Secret { place, reason });
        let url = secret("connector.scim.url", &rules.url)?;
        let token = rules.token.as_ref().map(|token| secret("connector.scim.token", token)).transpose()?;
        Ok(Self {
            client: Client::open(&url, token.as_deref(), limits)?,
            mapping: Mapping::new(&rules.attributes)?,
            groups: Groups::new(rules.create_groups),
            timeout: limits.timeout,
            keeps_owner: AtomicBool::new(false),
            no_owner_search: AtomicBool::new(false),
            no_patch: AtomicBool::new(false),
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    async fn locate(&self, lookup: &Lookup, purpose: Purpose, deadline: Instant) -> Result<Located, CallError> {
        let foreign = |user: &Json| self.mapping.owner && owner_of(user).is_some_and(|owner| owner != lookup.account.0);
        let by_id = match &lookup.external_id {
            Some(id) => self.get(id, deadline).await?,
            None => None,
        };
        // An id is never given to another account (RFC 7643, section 3.1), so this one was ours, deleted or not.
        let (mut found, remarked) = match by_id {
            Some(user) if foreign(&user) => (None, Some(user).filter(|_| purpose != Purpose::Provision)),
            user => (user, None),
        };
        // "Not found" is believed only of a target whose collection answers.
        let mut answered = found.is_some();
        if found.is_none() && self.mapping.owner && !self.no_owner_search.load(Ordering::Relaxed) {
            let filter = format!("externalId eq {}", Json::from(lookup.account.as_str()));
            match self.search(&filter, |user| owner_of(user) == Some(lookup.account.as_str()), deadline).await {
                Ok(user) => {
                    answered = true;
                    found = user;
                }
                Err(refused) if refused.is_bad_request() || refused.is_unsupported() => {
                    self.no_owner_search.store(true, Ordering::Relaxed);
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        if found.is_none()
            && let Some(user) = remarked
        {
            return Ok(Located::Remarked(user));
        }
        if found.is_none()
            && let Some((name, value)) = &lookup.match_on
        {
            let path = self.mapping.path(name)?;
            let wanted = value.as_str().into();
            let matches =
                |user: &Json| self.mapping.shows(name, &wanted, self.mapping.observed(user, None).attributes.get(name));
            match self.search(&path.search(value), matches, deadline).await {
                Ok(user) => {
                    answered = true;
                    found = user;
                }
                Err(refused) if refused.is_unsupported() => {
                    let reason = format!("the target can't be asked for {name}; take another match attribute");
                    return Err(CallError::new(ErrorClass::Unsupported, reason));
                }
                // Nobody has such a value, or nobody may be asked for by it. Our mark would have shown the account to be there.
                Err(refused)
                    if refused.is_bad_request()
                        && purpose != Purpose::Provision
                        && answered
                        && self.keeps_owner.load(Ordering::Relaxed) => {}
                Err(refused) if refused.is_bad_request() => {
                    let reason = format!(
                        "the target refuses to be asked for {name}, or for a value such as this account's; take another \
                         match attribute if it is so for all"
                    );
                    return Err(CallError::new(ErrorClass::Invalid, reason));
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        if !answered {
            let query = [("startIndex", "1"), ("count", "1")];
            let request = Request { query: &query, ..Request::new(Method::GET, COLLECTION_USERS) };
            self.client.send(request, deadline).await?;
        }
        Ok(match found {
            Some(user) if foreign(&user) => Located::Anothers,
            Some(user) => Located::Ours(user),
            None => Located::Nowhere,
        })
    }

    async fn get(&self, id: &str, deadline: Instant) -> Result<Option<Json>, CallError> {
        let request = Request { id: Some(id), ..Request::new(Method::GET, COLLECTION_USERS) };
        match self.client.send(request, deadline).await {
            Ok(user) => {
                self.learn(&user);
                Ok(Some(user))
            }
            // Some targets call an id that isn't of their own form a bad request.
            Err(refused) if refused.is_gone() || refused.is_bad_request() => Ok(None),
            Err(refused) => Err(refused.into()),
        }
    }

    /// The one user that a filter finds. What is found is looked at again: a target may fold, or ignore filters.
    async fn search(
        &self,
        filter: &str,
        matches: impl Fn(&Json) -> bool,
        deadline: Instant,
    ) -> Result<Option<Json>, Refused> {
        let query = [("filter", filter), ("startIndex", "1"), ("count", SEARCH)];
        let request = Request { query: &query, ..Request::new(Method::GET, COLLECTION_USERS) };
        let (users, total) = resources(self.client.send(request, deadline).await?)?;
        let shown = users.len();
        let mut found: Vec<Json> = users.into_iter().filter(matches).collect();
        found.iter().for_each(|user| self.learn(user));
        match (found.pop(), found.len()) {
            (Some(user), 0) => Ok(Some(user)),
            (Some(_), _) => {
                let name = filter.split(' ').next().unwrap_or_default();
                let reason = format!("more than one account has this {name}; correct it in the target");
                Err(CallError::new(ErrorClass::Uniqueness, reason).into())
            }
            // The one that is looked for may be among those that are not shown.
            (None, _) if shown > 0 && total > shown => {
                let reason = "the target ignores filters, so an account can't be found";
                Err(CallError::new(ErrorClass::Unsupported, reason).into())
            }
            (None, _) => Ok(None),
        }
    }

    fn learn(&self, user: &Json) {
        if self.mapping.owner && owner_of(user).is_some() {
            self.keeps_owner.store(true, Ordering::Relaxed);
        }
    }

    async fn create(&self, change: &Change, deadline: Instant) -> Result<String, CallError> {
        let body = self.mapping.body(&change.lookup.account, &change.desired)?;
        let request = Request { body: Some(&body), ..Request::new(Method::POST, COLLECTION_USERS) };
        let answer = self.client.send(request, deadline).await?;
        if let Some(id) = id_of(&answer) {
            return Ok(id.to_owned());
        }
        match self.locate(&change.lookup, Purpose::Provision, deadline).await? {
            Located::Ours(user) => id_of(&user).map(str::to_owned),
            Located::Remarked(_) | Located::Anothers | Located::Nowhere => None,
        }
        .ok_or_else(|| CallError::new(ErrorClass::FalseSuccess, "the target says it made the account, but shows none"))
    }

    /// PATCH, or PUT of the whole where a target can't.
    async fn patch(&self, operations: &[Json], user: &Json, deadline: Instant) -> Result<(), Refused> {
        let (Some(id), false) = (id_of(user), operations.is_empty()) else { return Ok(()) };
        if !self.no_patch.load(Ordering::Relaxed) {
            let body = patch_body(operations);
            match self.client.send(changing(Method::PATCH, id, Some(&body), user), deadline).await {
                Err(refused) if refused.is_unsupported() => self.no_patch.store(true, Ordering::Relaxed),
                result => return result.map(|_| ()),
            }
        }
        let whole = self.mapping.carried_out(operations, user);
        self.client.send(changing(Method::PUT, id, Some(&whole), user), deadline).await.map(|_| ())
    }

    async fn update(&self, change: &Change, user: &Json, deadline: Instant) -> Result<String, CallError> {
        let operations = self.mapping.operations(&change.lookup.account, &change.desired, user)?;
        self.patch(&operations, user, deadline)
            .await
            .map_err(|refused| missing(refused, ErrorClass::MissingOnUpdate))?;
        let id = id_of(user).unwrap_or_default().to_owned();
        if GroupChanges::are_possible(&change.desired.entitlements, &change.revoked) {
            let current = self.groups.of(&self.client, &id, deadline).await?.ok_or_else(no_groups)?;
            self.regroup(change, &id, &current, deadline).await?;
        }
        Ok(id)
    }

    async fn regroup(
        &self,
        change: &Change,
        id: &str,
        current: &groups::Memberships,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let regrouped =
            self.groups.regroup(&self.client, id, &change.desired, &change.revoked, current, deadline).await;
        regrouped.map_err(|error| CallError {
            message: format!("the account itself is as it should be, but not its groups: {}", error.message),
            ..error
        })
    }

    async fn delete(&self, user: &Json, deadline: Instant) -> Result<(), CallError> {
        let id = id_of(user).unwrap_or_default();
        let sent = self.client.send(changing(Method::DELETE, id, None, user), deadline).await;
        sent.map(|_| ()).map_err(|refused| missing(refused, ErrorClass::AlreadyGone))
    }
}

#[async_trait]
impl Connector for ScimConnector {
    /// `owner` turns true when the target first shows an externalId: some take it and forget it.
    fn capabilities(&self) -> Capabilities {
        let owner = self.mapping.owner && self.keeps_owner.load(Ordering::Relaxed);
        Capabilities { groups: true, disable: true, delete: true, list: true, owner }
    }

    async fn read(&self, lookup: &Lookup, purpose: Purpose) -> Result<Option<Observed>, CallError> {
        let deadline = self.deadline();
        let user = match self.locate(lookup, purpose, deadline).await? {
            Located::Ours(user) | Located::Remarked(user) => user,
            Located::Anothers | Located::Nowhere => return Ok(None),
        };
        let groups = match purpose {
            Purpose::Provision => self.groups.of(&self.client, id_of(&user).unwrap_or_default(), deadline).await?,
            Purpose::Deprovision | Purpose::Deleted => None,
        };
        Ok(Some(self.mapping.observed(&user, groups.map(|groups| groups.into_keys().collect()))))
    }

    async fn apply(&self, change: &Change) -> Result<Applied, CallError> {
        let deadline = self.deadline();
        let purpose = Purpose::of(change.op, &change.desired);
        let located = self.locate(&change.lookup, purpose, deadline).await?;
        let external_id = match (change.op, located) {
            (Op::Create, Located::Anothers) => {
                let reason =
                    "an account with the same match attribute has another externalId, so it is somebody else's";
                return Err(CallError::new(ErrorClass::Uniqueness, reason));
            }
            (Op::Disable, Located::Remarked(user)) if activation(false, &user).is_none() => {
                id_of(&user).map(str::to_owned)
            }
            (_, Located::Remarked(_)) => return Err(remarked("externalId")),
            (Op::Create, Located::Nowhere) => {
                let id = self.create(change, deadline).await?;
                // A new account is in no group yet.
                self.regroup(change, &id, &groups::Memberships::new(), deadline).await?;
                Some(id)
            }
            (Op::Create | Op::Update | Op::Enable, Located::Ours(user)) => {
                Some(self.update(change, &user, deadline).await?)
            }
            (Op::Update | Op::Enable, Located::Anothers | Located::Nowhere) => {
                return Err(CallError::new(ErrorClass::MissingOnUpdate, "the target has no such account"));
            }
            (Op::Disable, Located::Ours(user)) => {
                let operations = Vec::from_iter(activation(false, &user));
                let patched = self.patch(&operations, &user, deadline).await;
                patched.map_err(|refused| missing(refused, ErrorClass::AlreadyGone))?;
                id_of(&user).map(str::to_owned)
            }
            (Op::Delete, Located::Ours(user)) => {
                self.delete(&user, deadline).await?;
                None
            }
            (Op::Disable | Op::Delete, Located::Anothers | Located::Nowhere) => {
                return Err(CallError::new(ErrorClass::AlreadyGone, "the target has no such account"));
            }
            (Op::Verify, Located::Ours(user)) => id_of(&user).map(str::to_owned),
            (Op::Verify, Located::Anothers | Located::Nowhere) => None,
        };
        Ok(Applied { external_id })
    }

    async fn list(&self, cursor: Option<&str>) -> Result<Page, CallError> {
        let deadline = self.deadline();
        let start: usize = cursor
            .map_or(Ok(1), str::parse)
            .map_err(|_| CallError::new(ErrorClass::Invalid, "the cursor is none that this connector gave"))?;
        let (users, next) = page(&self.client, COLLECTION_USERS, &[], start, deadline).await?;
        let everybody = if users.is_empty() { None } else { self.groups.of_everybody(&self.client, deadline).await? };
        users.iter().for_each(|user| self.learn(user));
        let accounts = users.iter().map(|user| {
            let groups = everybody
                .as_ref()
                .map(|everybody| everybody.get(id_of(user).unwrap_or_default()).cloned().unwrap_or_default());
            self.mapping.observed(user, groups)
        });
        Ok(Page { accounts: accounts.collect(), next: next.map(|next| next.to_string()) })
    }

    fn differences(
        &self,
        op: Op,
        desired: &Desired,
        revoked: &BTreeSet<String>,
        observed: Option<&Observed>,
    ) -> Vec<String> {
        compare(
            op,
            desired,
            revoked,
            observed,
            |name, observed| {
                desired
                    .attributes
                    .get(name)
                    .is_some_and(|wanted| !self.mapping.shows(name, wanted, observed.attributes.get(name)))
            },
            |shown| respelled(desired, revoked, shown.iter()).into_keys().collect(),
        )
    }
}

/// One page of a collection, and where the next one starts.
async fn page(
    client: &Client,
    collection: &'static str,
    query: &[(&str, &str)],
    start: usize,
    deadline: Instant,
) -> Result<(Vec<Json>, Option<usize>), Refused> {
    let (start_text, count) = (start.to_string(), PAGE.to_string());
    let mut query = query.to_vec();
    query.extend([("startIndex", start_text.as_str()), ("count", count.as_str())]);
    let request = Request { query: &query, ..Request::new(Method::GET, collection) };
    let list = client.send(request, deadline).await?;
    let shown_from = path::member(&list, "startIndex").and_then(Json::as_u64);
    let (resources, total) = resources(list)?;
    if !resources.is_empty() && shown_from.is_some_and(|from| from != start as u64) {
        return Err(no_paging(collection).into());
    }
    // A target may give fewer than asked for; none, or the last of its own count, is the end.
    let next = start + resources.len();
    let next = (!resources.is_empty() && next <= total).then_some(next);
    Ok((resources, next))
}

/// All pages of a collection, each resource once.
async fn pages(
    client: &Client,
    collection: &'static str,
    query: &[(&str, &str)],
    deadline: Instant,
) -> Result<Vec<Json>, Refused> {
    let (mut all, mut seen, mut start) = (Vec::new(), BTreeSet::new(), Some(1));
    while let Some(from) = start {
        let (resources, next) = page(client, collection, query, from, deadline).await?;
        let before = all.len();
        all.extend(resources.into_iter().filter(|one| id_of(one).is_some_and(|id| seen.insert(id.to_owned()))));
        // The same page again: what isn't on it will never be seen, and must not be taken for absent.
        if next.is_some() && all.len() == before {
            return Err(no_paging(collection).into());
        }
        start = next;
    }
    Ok(all)
}

fn no_paging(collection: &str) -> CallError {
    let reason = format!("the target ignores startIndex, so only the first page of {collection} can be seen");
    CallError::new(ErrorClass::Unsupported, reason)
}

/// The resources of a list, and how many there are in all.
fn resources(mut list: Json) -> Result<(Vec<Json>, usize), CallError> {
    let total = path::member(&list, "totalResults").and_then(Json::as_u64).map(|total| total as usize);
    let key = list.as_object().and_then(|list| list.keys().find(|key| key.eq_ignore_ascii_case("Resources")).cloned());
    match key.and_then(|key| list.get_mut(&key).map(Json::take)) {
        Some(Json::Array(resources)) => {
            let total = total.unwrap_or(resources.len());
            Ok((resources, total))
        }
        // Without results the list may be left out (RFC 7644, section 3.4.2).
        None | Some(Json::Null) if total == Some(0) || list.get("schemas").is_some() => Ok((Vec::new(), 0)),
        _ => {
            let reason = "the target answered a query with what is not a SCIM list; check connector.scim.url";
            Err(CallError::new(ErrorClass::ServerFault, reason))
        }
    }
}

/// A change of a resource, of the version that was read.
fn changing<'a>(method: Method, id: &'a str, body: Option<&'a Json>, user: &'a Json) -> Request<'a> {
    Request { id: Some(id), body, version: version_of(user), ..Request::new(method, COLLECTION_USERS) }
}

/// What was there when it was read, and no longer when it was changed.
fn missing(refused: Refused, class: ErrorClass) -> CallError {
    if refused.is_gone() { CallError::new(class, "the account went away meanwhile") } else { refused.into() }
}

fn no_groups() -> CallError {
    CallError::new(ErrorClass::Unsupported, "the rules say something of groups, but the target has none")
}
