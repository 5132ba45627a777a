//! Memberships, which SCIM keeps with the group: who is in which, and PATCH of one member at a time.
//!
//! How an account's groups are found differs by target. `members.value eq "…"` is one small query, but some targets don't
//! know it, and some of those answer it with nothing or with everything instead of an error; believed, a leaver's group would
//! look removed. So it is used only once it has given the same answer as the groups themselves; until then all are listed.
//! `User.groups` isn't used: targets fill it late or never.

use super::COLLECTION_GROUPS;
use super::call::{Client, Request};
use super::error::Refused;
use super::map::{id_of, patch_body, version_of};
use super::path::member;
use crate::connector::{CallError, GroupChanges};
use crate::model::{Desired, ErrorClass, Universe};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Group ids that are remembered; beyond it all are forgotten and found again.
const IDS_LIMIT: usize = 10_000;
/// How long an answer that there are no groups is believed: it may have been a gateway's, in the middle of an upgrade.
const ABSENCE: Duration = Duration::from_secs(60);
/// An id that no user has, to see whether the target filters at all.
const NOBODY: &str = "00000000-0000-4000-8000-6c6f636b7374";

const GROUP_SCHEMA: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";

/// Group id by the group's own spelling of its name.
pub(super) type Memberships = BTreeMap<String, String>;

#[derive(Default)]
pub(super) struct Groups {
    create: bool,
    /// By lower-case name.
    ids: Mutex<HashMap<String, String>>,
    /// Held while a group is looked for that may have to be made: targets take two groups of one name without a word.
    making: tokio::sync::Mutex<()>,
    /// Held while a group is read and put back whole.
    putting: tokio::sync::Mutex<()>,
    /// Whether `members.value eq` may be believed; unset: not known yet.
    filters: OnceLock<bool>,
    /// The target has shown its groups, so it has some way to.
    seen: AtomicBool,
    /// When it last answered that it has no groups; `None` where it hasn't.
    absent: Mutex<Option<Instant>>,
    no_patch: AtomicBool,
}

impl Groups {
    pub(super) fn new(create: bool) -> Self {
        Self { create, ..Self::default() }
    }

    /// None: the target has no groups.
    pub(super) async fn of(
        &self,
        client: &Client,
        user: &str,
        deadline: Instant,
    ) -> Result<Option<Memberships>, CallError> {
        if self.absent().is_some_and(|since| since.elapsed() < ABSENCE) {
            return Ok(None);
        }
        if self.filters.get() == Some(&true) {
            return Ok(Some(named(&self.with_member(client, user, deadline).await?)));
        }
        let Some(groups) = self.all(client, deadline).await? else { return Ok(None) };
        if self.filters.get().is_none() {
            self.try_filter(client, &groups, deadline).await?;
        }
        let mine: Vec<Json> = groups.into_iter().filter(|group| members(group).any(|member| member == user)).collect();
        Ok(Some(named(&mine)))
    }

    /// The groups of every account, by account; None: the target has no groups.
    pub(super) async fn of_everybody(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<Option<HashMap<String, BTreeSet<String>>>, CallError> {
        let Some(groups) = self.all(client, deadline).await? else { return Ok(None) };
        let mut everybody: HashMap<String, BTreeSet<String>> = HashMap::new();
        for group in &groups {
            for user in members(group) {
                everybody.entry(user.to_owned()).or_default().insert(name_of(group).to_owned());
            }
        }
        Ok(Some(everybody))
    }

    /// Removes and adds what the change says, in that order, so that a group which can't be joined keeps nobody in another;
    /// `current` as it was just read.
    pub(super) async fn regroup(
        &self,
        client: &Client,
        user: &str,
        desired: &Desired,
        revoked: &BTreeSet<String>,
        current: &Memberships,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let respelled = respelled(desired, revoked, current.keys());
        let changes = GroupChanges::of(&desired.entitlements, revoked, &respelled.keys().cloned().collect());
        let mut removed = Ok(());
        for name in &changes.remove {
            let Some(group) = respelled.get(name).and_then(|shown| current.get(shown)) else { continue };
            let path = format!("members[value eq {}]", Json::from(user));
            match self.patch(client, group, json!({"op": "remove", "path": path}), user, false, deadline).await {
                // Nobody is a member of a group that is gone.
                Err(refused) if refused.is_gone() => drop(self.ids().remove(&name.to_lowercase())),
                result => removed = removed.and(result),
            }
        }
        removed?;
        for name in &changes.add {
            let group = self.id(client, name, deadline).await?;
            let member = json!({"op": "add", "path": "members", "value": [{"value": user}]});
            match self.patch(client, &group, member, user, true, deadline).await {
                Err(refused) if refused.is_gone() => {
                    self.ids().remove(&name.to_lowercase());
                    return Err(missing(name));
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn patch(
        &self,
        client: &Client,
        group: &str,
        operation: Json,
        user: &str,
        add: bool,
        deadline: Instant,
    ) -> Result<(), Refused> {
        if !self.no_patch.load(Ordering::Relaxed) {
            let body = patch_body(&[operation]);
            let request =
                Request { id: Some(group), body: Some(&body), ..Request::new(Method::PATCH, COLLECTION_GROUPS) };
            match client.send(request, deadline).await {
                Err(refused) if refused.is_unsupported() => self.no_patch.store(true, Ordering::Relaxed),
                result => return result.map(|_| ()),
            }
        }
        self.put(client, group, user, add, deadline).await
    }

    /// The whole group with one member more or less, on a target that can't PATCH. Not every target has versions, so within
    /// this process one comes after the other: the later would put back what the earlier took away.
    async fn put(&self, client: &Client, group: &str, user: &str, add: bool, deadline: Instant) -> Result<(), Refused> {
        let Ok(_putting) = tokio::time::timeout_at(deadline.into(), self.putting.lock()).await else {
            let message =
                "no time was left to change a group; the target is slow, and takes one change of groups at a time";
            return Err(CallError::new(ErrorClass::Unreachable, message).into());
        };
        let get = Request { id: Some(group), ..Request::new(Method::GET, COLLECTION_GROUPS) };
        let mut whole = client.send(get, deadline).await?;
        let version = version_of(&whole).map(str::to_owned);
        let mut list: Vec<Json> = member(&whole, "members").and_then(Json::as_array).cloned().unwrap_or_default();
        list.retain(|one| member(one, "value").and_then(Json::as_str) != Some(user));
        if add {
            list.push(json!({"value": user}));
        }
        if let Some(object) = whole.as_object_mut() {
            object.retain(|name, _| !name.eq_ignore_ascii_case("meta") && !name.eq_ignore_ascii_case("members"));
            object.insert("members".to_owned(), list.into());
        }
        let put = Request {
            id: Some(group),
            body: Some(&whole),
            version: version.as_deref(),
            ..Request::new(Method::PUT, COLLECTION_GROUPS)
        };
        client.send(put, deadline).await.map(|_| ())
    }

    /// The id of a group by its name.
    async fn id(&self, client: &Client, name: &str, deadline: Instant) -> Result<String, CallError> {
        if let Some(id) = self.ids().get(&name.to_lowercase()) {
            return Ok(id.clone());
        }
        // Each request under it ends by its caller's deadline.
        let _making = if self.create { Some(self.making.lock().await) } else { None };
        if let Some(id) = self.ids().get(&name.to_lowercase()) {
            return Ok(id.clone());
        }
        let filter = format!("displayName eq {}", Json::from(name));
        let mut groups = match self.pages(client, &[("filter", &filter), ("attributes", "displayName")], deadline).await
        {
            // A target that can't filter by name shows all.
            Err(refused) if refused.is_bad_request() || refused.is_unsupported() => {
                self.pages(client, &[("attributes", "displayName")], deadline).await
            }
            result => result,
        }?;
        groups.retain(|group| name_of(group).to_lowercase() == name.to_lowercase());
        if groups.iter().any(|group| name_of(group) == name) {
            groups.retain(|group| name_of(group) == name);
        }
        let id = match groups.as_slice() {
            [group] => id_of(group).map(str::to_owned).ok_or_else(|| missing(name))?,
            [] if self.create => self.create(client, name, deadline).await?,
            [] => return Err(missing(name)),
            _ => {
                let message = format!("{} groups are named {name}; rename all but one in the target", groups.len());
                return Err(CallError::new(ErrorClass::Dependency, message));
            }
        };
        self.remember(name, &id);
        Ok(id)
    }

    async fn create(&self, client: &Client, name: &str, deadline: Instant) -> Result<String, CallError> {
        let body = json!({"schemas": [GROUP_SCHEMA], "displayName": name});
        let request = Request { body: Some(&body), ..Request::new(Method::POST, COLLECTION_GROUPS) };
        let answer = client.send(request, deadline).await?;
        id_of(&answer).map(str::to_owned).ok_or_else(|| missing(name))
    }

    /// Every group with its members; None: the target has no groups.
    async fn all(&self, client: &Client, deadline: Instant) -> Result<Option<Vec<Json>>, CallError> {
        // Some targets show members only when asked for, and then nothing else that isn't.
        match self.pages(client, &[("attributes", "id,displayName,members")], deadline).await {
            Ok(groups) => {
                for group in &groups {
                    if let Some(id) = id_of(group) {
                        self.remember(name_of(group), id);
                    }
                }
                Ok(Some(groups))
            }
            // What was there once is there still, whoever says otherwise: to be tried again.
            Err(refused) if refused.is_gone() || refused.is_unsupported() => match self.seen.load(Ordering::Relaxed) {
                true => Err(CallError { class: ErrorClass::ServerFault, ..CallError::from(refused) }),
                false => {
                    *self.absent() = Some(Instant::now());
                    Ok(None)
                }
            },
            Err(refused) => Err(refused.into()),
        }
    }

    async fn with_member(&self, client: &Client, user: &str, deadline: Instant) -> Result<Vec<Json>, Refused> {
        let filter = format!("members.value eq {}", Json::from(user));
        self.pages(client, &[("filter", &filter), ("attributes", "id,displayName")], deadline).await
    }

    /// Compares the filter's answers with the groups as listed, for one who is a member somewhere and one who is nowhere.
    async fn try_filter(&self, client: &Client, groups: &[Json], deadline: Instant) -> Result<(), CallError> {
        let Some(somebody) = groups.iter().find_map(|group| members(group).next()) else { return Ok(()) };
        let listed = groups.iter().filter(|group| members(group).any(|member| member == somebody));
        let listed: BTreeSet<Option<&str>> = listed.map(id_of).collect();
        let mut believed = true;
        for (user, expected) in [(somebody, listed), (NOBODY, BTreeSet::new())] {
            match self.with_member(client, user, deadline).await {
                Ok(found) => believed &= found.iter().map(id_of).collect::<BTreeSet<_>>() == expected,
                Err(refused) if refused.is_bad_request() || refused.is_unsupported() => believed = false,
                Err(refused) => return Err(refused.into()),
            }
        }
        // Another call may have found out meanwhile; both saw the same target.
        let _ = self.filters.set(believed);
        Ok(())
    }

    async fn pages(&self, client: &Client, query: &[(&str, &str)], deadline: Instant) -> Result<Vec<Json>, Refused> {
        let groups = super::pages(client, COLLECTION_GROUPS, query, deadline).await?;
        self.seen.store(true, Ordering::Relaxed);
        Ok(groups)
    }

    fn remember(&self, name: &str, id: &str) {
        let mut ids = self.ids();
        if ids.len() >= IDS_LIMIT {
            ids.clear();
        }
        ids.insert(name.to_lowercase(), id.to_owned());
    }

    pub(super) fn absent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.absent.lock().expect("nothing panics while it holds a time")
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.ids.lock().expect("nothing panics while it holds the group ids")
    }
}

/// Memberships in the rules' spelling, with the target's: displayName ignores case (RFC 7643, section 8.7.1).
pub(super) fn respelled<'a>(
    desired: &Desired,
    revoked: &BTreeSet<String>,
    shown: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, String> {
    let universe = match &desired.entitlements.universe {
        Universe::Authoritative(universe) => Some(universe),
        Universe::Additive => None,
    };
    let known: Vec<&String> =
        desired.entitlements.groups.iter().chain(revoked).chain(universe.into_iter().flatten()).collect();
    shown
        .map(|name| {
            let exact = known.iter().find(|known| **known == name);
            let known = exact.or_else(|| known.iter().find(|known| known.to_lowercase() == name.to_lowercase()));
            (known.map_or_else(|| name.clone(), |known| (*known).clone()), name.clone())
        })
        .collect()
}

fn named(groups: &[Json]) -> Memberships {
    groups.iter().filter_map(|group| Some((name_of(group).to_owned(), id_of(group)?.to_owned()))).collect()
}

fn name_of(group: &Json) -> &str {
    member(group, "displayName").and_then(Json::as_str).unwrap_or_default()
}

fn members(group: &Json) -> impl Iterator<Item = &str> {
    let list = member(group, "members").and_then(Json::as_array);
    list.into_iter().flatten().filter_map(|one| member(one, "value").and_then(Json::as_str))
}

fn missing(name: &str) -> CallError {
    CallError::new(
        ErrorClass::Dependency,
        format!("the target has no group {name}; create it there, or set connector.scim.create_groups"),
    )
}
