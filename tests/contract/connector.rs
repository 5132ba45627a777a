//! What a connector must do, whatever its target: one suite, run against every target there is.
//!
//! A target is seen from two sides: through the connector, and behind its back (`Target`), so that the connector can't
//! vouch for itself.

mod scim;
mod sql;

use async_trait::async_trait;
use lockstep::connector::{CallError, Change, Connector, Lookup, Observed, Purpose};
use lockstep::model::{AccountId, Attributes, Desired, Entitlements, ErrorClass, Op, Universe, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of each connector's calls.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Of the calls to a target that never answers.
pub const SHORT: Duration = Duration::from_millis(800);

pub enum Fault {
    Credentials,
    /// Nothing listens.
    Gone,
    /// Accepts connections, and never answers.
    Hanging,
}

/// A target that starts without accounts and with the groups `eng`, `ops` and `vpn`. Its connector maps userName (the match
/// attribute), givenName, familyName, mail, mobile and department.
#[async_trait]
pub trait Target: Send + Sync {
    fn connector(&self) -> Arc<dyn Connector>;
    /// The same target with something wrong; None where that can't be.
    async fn broken(&self, fault: Fault) -> Option<Arc<dyn Connector>>;
    /// An account made by somebody else; its key.
    async fn seed(&self, user_name: &str, owner: Option<&AccountId>) -> String;
    /// Everything that is kept of an account but whether it is active and what group it is in; None where there is none.
    async fn raw(&self, key: &str) -> Option<BTreeMap<String, String>>;
    async fn count(&self) -> usize;
    async fn set(&self, key: &str, attribute: &str, value: &str);
    /// Somebody else makes the account theirs.
    async fn mark(&self, key: &str, owner: &AccountId);
    async fn set_active(&self, key: &str, active: bool);
    async fn join(&self, key: &str, group: &str);
    async fn leave(&self, key: &str, group: &str);
    /// How often the account is in the group: never more than once.
    async fn memberships(&self, key: &str, group: &str) -> usize;
    /// Whether an account can be asked for by this text: not every target's filters take every text.
    fn searchable(&self, _text: &str) -> bool {
        true
    }
    /// A user name that it can't hold, where it takes not every text.
    fn unstorable(&self) -> Option<String>;
    /// How many characters a department may have, where that is limited.
    fn longest_department(&self) -> Option<usize>;
}

pub async fn whole(target: &dyn Target) {
    create_update_and_remove_an_attribute(target).await;
    create_adopts_what_is_nobodys_and_refuses_what_is_anothers(target).await;
    what_was_ours_and_is_marked_as_anothers_is_not_taken_for_gone(target).await;
    disable_changes_nothing_else(target).await;
    what_is_not_there_is_never_made(target).await;
    groups_are_added_once_and_removed_only_where_managed(target).await;
    an_unknown_group_is_said_to_be_missing_or_is_a_name_only(target).await;
    delete_removes_everything_once(target).await;
    every_lookup_finds_the_same_account(target).await;
    strange_texts_are_only_texts(target).await;
    refused_values_are_invalid(target).await;
    what_cannot_be_stored_is_not_there(target).await;
    changes_behind_our_back_show_as_differences(target).await;
    list_shows_every_account_once(target).await;
    faults_have_their_classes(target).await;
}

fn account(name: &str) -> AccountId {
    AccountId::of(&"acme".into(), &"t".into(), &name.into(), &"default".into())
}

fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn desired(user_name: &str, in_groups: &[&str]) -> Desired {
    Desired {
        active: true,
        attributes: Attributes::from([
            ("userName", user_name.into()),
            ("givenName", "Ada".into()),
            ("familyName", "Lovelace".into()),
            ("mail", format!("{user_name}@example.com").as_str().into()),
            ("mobile", "+49 170 1".into()),
            ("department", "Engineering".into()),
        ]),
        entitlements: Entitlements { groups: groups(in_groups), universe: Universe::Additive },
    }
}

fn lookup(user_name: &str, external_id: Option<&str>) -> Lookup {
    Lookup {
        account: account(user_name),
        external_id: external_id.map(str::to_owned),
        match_on: Some(("userName".to_owned(), user_name.to_owned())),
    }
}

fn change(op: Op, lookup: &Lookup, desired: &Desired, revoked: &[&str]) -> Change {
    Change {
        op,
        lookup: lookup.clone(),
        desired: desired.clone(),
        revoked: groups(revoked),
        observed: None,
        idempotency_key: format!("{}@1", lookup.account),
    }
}

/// Applies, and reads back until nothing differs; what was read.
async fn apply(target: &dyn Target, change: &Change) -> Result<Option<Observed>, CallError> {
    let connector = target.connector();
    let applied = connector.apply(change).await?;
    let mut lookup = change.lookup.clone();
    lookup.external_id = applied.external_id.or(lookup.external_id);
    let purpose = if change.op == Op::Delete { Purpose::Deleted } else { Purpose::of(change.op, &change.desired) };
    let observed = connector.read(&lookup, purpose).await?;
    let differences = connector.differences(change.op, &change.desired, &change.revoked, observed.as_ref());
    assert_eq!(differences, [""; 0], "after {}", change.op);
    Ok(observed)
}

async fn created(target: &dyn Target, user_name: &str, in_groups: &[&str]) -> Observed {
    let change = change(Op::Create, &lookup(user_name, None), &desired(user_name, in_groups), &[]);
    apply(target, &change).await.unwrap().unwrap()
}

async fn class_of(target: &dyn Target, change: &Change) -> ErrorClass {
    target.connector().apply(change).await.unwrap_err().class
}

async fn create_update_and_remove_an_attribute(target: &dyn Target) {
    let before = target.count().await;
    let first = created(target, "ada", &["eng"]).await;
    assert!(first.active);
    assert_eq!(first.groups, Some(groups(&["eng"])));
    assert_eq!(first.attributes.get("department"), Some(&Value::from("Engineering")));
    if target.connector().capabilities().owner {
        assert_eq!(first.owner, Some(account("ada").to_string()));
    }
    let again = created(target, "ada", &["eng"]).await;
    assert_eq!(again.external_id, first.external_id, "the second create makes no second account");
    assert_eq!(target.count().await, before + 1);

    let key = lookup("ada", Some(&first.external_id));
    let mut mover = desired("ada", &["eng"]);
    mover.attributes.insert("department".to_owned(), "Sales".into());
    mover.attributes.insert("familyName".to_owned(), "King".into());
    mover.attributes.insert("mobile".to_owned(), Value::Null);
    let moved = apply(target, &change(Op::Update, &key, &mover, &[])).await.unwrap().unwrap();
    assert_eq!(moved.attributes.get("department"), Some(&Value::from("Sales")));
    assert!(matches!(moved.attributes.get("mobile"), None | Some(Value::Null)));
    mover.attributes.insert("mobile".to_owned(), "+49 170 2".into());
    mover.attributes.insert("department".to_owned(), Value::Null);
    apply(target, &change(Op::Update, &key, &mover, &[])).await.unwrap();

    // An attribute that isn't spoken of stays.
    mover.attributes.remove("mobile");
    let kept = apply(target, &change(Op::Update, &key, &mover, &[])).await.unwrap().unwrap();
    assert_eq!(kept.attributes.get("mobile"), Some(&Value::from("+49 170 2")));

    // A new user name, found by what doesn't change.
    mover.attributes.insert("userName".to_owned(), "ada.king".into());
    let renamed = apply(target, &change(Op::Update, &key, &mover, &[])).await.unwrap().unwrap();
    assert_eq!(renamed.attributes.get("userName"), Some(&Value::from("ada.king")));
}

async fn create_adopts_what_is_nobodys_and_refuses_what_is_anothers(target: &dyn Target) {
    let key = target.seed("bob", None).await;
    let adopted = created(target, "bob", &[]).await;
    assert_eq!(adopted.external_id, key);
    if !target.connector().capabilities().owner {
        return;
    }
    assert_eq!(adopted.owner, Some(account("bob").to_string()), "adopted, so it is ours now");

    let key = target.seed("carl", Some(&account("somebody else"))).await;
    let before = target.raw(&key).await;
    let create = change(Op::Create, &lookup("carl", None), &desired("carl", &[]), &[]);
    assert_eq!(class_of(target, &create).await, ErrorClass::Uniqueness);
    // Neither read, changed nor deleted: there is none of ours.
    for (op, class) in [
        (Op::Update, ErrorClass::MissingOnUpdate),
        (Op::Disable, ErrorClass::AlreadyGone),
        (Op::Delete, ErrorClass::AlreadyGone),
    ] {
        let change = change(op, &create.lookup, &create.desired, &[]);
        assert_eq!(class_of(target, &change).await, class, "{op}");
    }
    for purpose in [Purpose::Provision, Purpose::Deprovision, Purpose::Deleted] {
        assert_eq!(target.connector().read(&create.lookup, purpose).await.unwrap(), None, "{purpose:?}");
    }
    assert_eq!(target.raw(&key).await, before);
}

async fn what_was_ours_and_is_marked_as_anothers_is_not_taken_for_gone(target: &dyn Target) {
    let connector = target.connector();
    if !connector.capabilities().owner {
        return;
    }
    let key = created(target, "mia", &["eng"]).await.external_id;
    target.mark(&key, &account("somebody else's, mia")).await;
    let before = target.raw(&key).await;
    let known = lookup("mia", Some(&key));
    assert_eq!(connector.read(&known, Purpose::Provision).await.unwrap(), None);
    for (op, class) in [
        (Op::Update, ErrorClass::MissingOnUpdate),
        (Op::Disable, ErrorClass::Uniqueness),
        (Op::Delete, ErrorClass::Uniqueness),
    ] {
        assert_eq!(class_of(target, &change(op, &known, &desired("mia", &[]), &[])).await, class, "{op}");
    }
    assert_eq!(target.raw(&key).await, before);
    let shown = connector.read(&known, Purpose::Deprovision).await.unwrap().unwrap();
    assert_eq!(shown.owner, Some(account("somebody else's, mia").to_string()));
    let differences = connector.differences(Op::Disable, &desired("mia", &[]), &groups(&[]), Some(&shown));
    assert_eq!(differences, ["active"], "it still lets somebody in");
    // Whoever ended its access by hand has done what was to be done.
    target.set_active(&key, false).await;
    apply(target, &change(Op::Disable, &known, &desired("mia", &[]), &[])).await.unwrap();
    assert_eq!(target.raw(&key).await, before);
}

async fn disable_changes_nothing_else(target: &dyn Target) {
    let observed = created(target, "dora", &["eng", "vpn"]).await;
    let before = target.raw(&observed.external_id).await.unwrap();
    let key = lookup("dora", Some(&observed.external_id));
    // A leaver's attributes as the rules see them by now: nothing of it may be written.
    let mut left = desired("dora", &[]);
    left.active = false;
    left.attributes.insert("department".to_owned(), Value::Null);
    left.attributes.insert("givenName".to_owned(), "Nobody".into());
    for time in ["first", "second"] {
        let disabled = apply(target, &change(Op::Disable, &key, &left, &[])).await.unwrap().unwrap();
        assert!(!disabled.active, "{time}");
        assert_eq!(target.raw(&observed.external_id).await.unwrap(), before, "{time}");
        assert_eq!(disabled.groups, None, "{time}: not asked for");
        for group in ["eng", "vpn"] {
            assert_eq!(target.memberships(&observed.external_id, group).await, 1, "{time}");
        }
    }
    let enable = change(Op::Enable, &key, &desired("dora", &["eng"]), &["vpn"]);
    let enabled = apply(target, &enable).await.unwrap().unwrap();
    assert!(enabled.active);
    assert_eq!(enabled.groups, Some(groups(&["eng"])));
    assert_eq!(target.raw(&observed.external_id).await.unwrap(), before);
}

async fn what_is_not_there_is_never_made(target: &dyn Target) {
    let before = target.count().await;
    let nobody = lookup("nobody", Some("424242"));
    for (op, class) in [
        (Op::Update, ErrorClass::MissingOnUpdate),
        (Op::Enable, ErrorClass::MissingOnUpdate),
        (Op::Disable, ErrorClass::AlreadyGone),
        (Op::Delete, ErrorClass::AlreadyGone),
    ] {
        assert_eq!(class_of(target, &change(op, &nobody, &desired("nobody", &["eng"]), &[])).await, class, "{op}");
    }
    assert_eq!(target.connector().read(&nobody, Purpose::Provision).await.unwrap(), None);
    assert_eq!(target.count().await, before);
}

/// Names of groups: granted, revoked, expected.
type Names = &'static [&'static str];

async fn groups_are_added_once_and_removed_only_where_managed(target: &dyn Target) {
    let key = created(target, "emil", &["eng"]).await.external_id;
    let lookup = lookup("emil", Some(&key));
    let steps: [(Names, Names, Universe, Names); 6] = [
        (&["eng"], &[], Universe::Additive, &["eng"]),
        (&["eng", "ops"], &[], Universe::Additive, &["eng", "ops"]),
        // No longer granted and not revoked: under additive it stays.
        (&["eng"], &[], Universe::Additive, &["eng", "ops"]),
        (&["eng"], &["ops"], Universe::Additive, &["eng"]),
        // `vpn` was joined by somebody else meanwhile, see below.
        (&[], &[], Universe::Authoritative(groups(&["eng", "ops"])), &["vpn"]),
        (&["ops"], &[], Universe::Authoritative(groups(&["eng", "ops", "vpn"])), &["ops"]),
    ];
    for (step, (granted, revoked, universe, expected)) in steps.into_iter().enumerate() {
        if step == 4 {
            target.join(&key, "vpn").await;
        }
        let mut wanted = desired("emil", granted);
        wanted.entitlements.universe = universe;
        for _ in 0..2 {
            let observed = apply(target, &change(Op::Update, &lookup, &wanted, revoked)).await.unwrap().unwrap();
            assert_eq!(observed.groups, Some(groups(expected)), "step {step}");
        }
        for group in ["eng", "ops", "vpn"] {
            assert_eq!(target.memberships(&key, group).await, usize::from(expected.contains(&group)), "step {step}");
        }
    }
}

async fn an_unknown_group_is_said_to_be_missing_or_is_a_name_only(target: &dyn Target) {
    let wanted = desired("emma", &["no such group"]);
    let create = change(Op::Create, &lookup("emma", None), &wanted, &[]);
    match target.connector().apply(&create).await {
        Ok(_) => {
            apply(target, &create).await.unwrap();
        }
        Err(error) => assert_eq!(error.class, ErrorClass::Dependency, "{error}"),
    }
}

async fn delete_removes_everything_once(target: &dyn Target) {
    let key = created(target, "fred", &["eng", "ops"]).await.external_id;
    let lookup = lookup("fred", Some(&key));
    let delete = change(Op::Delete, &lookup, &desired("fred", &[]), &[]);
    assert_eq!(apply(target, &delete).await.unwrap(), None);
    assert_eq!(target.raw(&key).await, None);
    assert_eq!(class_of(target, &delete).await, ErrorClass::AlreadyGone);
    // A rehire is a new account.
    created(target, "fred", &[]).await;
}

async fn every_lookup_finds_the_same_account(target: &dyn Target) {
    let observed = created(target, "gina", &["eng"]).await;
    let by = |external_id: Option<&str>, name: &str, match_on: Option<&str>| Lookup {
        account: account(name),
        external_id: external_id.map(str::to_owned),
        match_on: match_on.map(|value| ("userName".to_owned(), value.to_owned())),
    };
    let connector = target.connector();
    let key = observed.external_id.as_str();
    let mut lookups = vec![
        by(Some(key), "gina", None),
        by(Some("424242"), "gina", Some("gina")),
        by(None, "gina", Some("gina")),
        by(Some(key), "gina", Some("somebody.else")),
    ];
    if connector.capabilities().owner {
        lookups.push(by(None, "gina", None));
        lookups.push(by(None, "gina", Some("renamed")));
    }
    for lookup in lookups {
        assert_eq!(connector.read(&lookup, Purpose::Provision).await.unwrap().as_ref(), Some(&observed), "{lookup:?}");
    }
    assert_eq!(connector.read(&by(None, "unknown", Some("unknown")), Purpose::Provision).await.unwrap(), None);
}

async fn strange_texts_are_only_texts(target: &dyn Target) {
    let before = target.count().await;
    let texts = [
        "Robert'); DROP TABLE accounts;--",
        "' OR '1'='1",
        "\" or userName pr or userName eq \"",
        "a\\\"b\\",
        "100%_$1 ${env:HOME} :x ?1",
        "Zoë 李小龍 \u{1f600} e\u{301}",
        "tab\there",
    ];
    let texts: Vec<&str> = texts.into_iter().filter(|text| target.searchable(text)).collect();
    for (i, text) in texts.iter().copied().enumerate() {
        let mut wanted = desired(text, &["eng"]);
        wanted.attributes.insert("mail".to_owned(), format!("strange{i}@example.com").as_str().into());
        wanted.attributes.insert("givenName".to_owned(), text.into());
        let observed = apply(target, &change(Op::Create, &lookup(text, None), &wanted, &[])).await.unwrap().unwrap();
        assert_eq!(observed.attributes.get("givenName"), Some(&Value::from(text)));
        let by_match = Lookup { account: account("unknown"), ..lookup(text, None) };
        match target.connector().read(&by_match, Purpose::Provision).await.unwrap() {
            None if target.connector().capabilities().owner => {}
            found => assert_eq!(found, Some(observed)),
        }
    }
    assert_eq!(target.count().await, before + texts.len());
    let missing = Lookup { account: account("unknown"), ..lookup("\" or userName pr or \"\" eq \"", None) };
    match target.connector().read(&missing, Purpose::Provision).await {
        Ok(found) => assert_eq!(found, None),
        Err(error) => assert_eq!(error.class, ErrorClass::Invalid, "{error}"),
    }
}

async fn refused_values_are_invalid(target: &dyn Target) {
    let mut cases = vec![Value::List(vec!["a".into(), "b".into()])];
    if let Some(longest) = target.longest_department() {
        cases.push(Value::text("é".repeat(longest + 1)));
        let mut fits = desired("hans", &[]);
        fits.attributes.insert("department".to_owned(), Value::text("é".repeat(longest)));
        apply(target, &change(Op::Create, &lookup("hans", None), &fits, &[])).await.unwrap();
    }
    for (i, value) in cases.into_iter().enumerate() {
        let name = format!("ida{i}");
        let mut wanted = desired(&name, &["eng"]);
        wanted.attributes.insert("department".to_owned(), value);
        let create = change(Op::Create, &lookup(&name, None), &wanted, &[]);
        let error = target.connector().apply(&create).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid, "{error}");
        assert!(!error.message.contains("éé") && !error.message.contains(&name), "no values: {error}");
        assert_eq!(
            target.connector().read(&create.lookup, Purpose::Provision).await.unwrap(),
            None,
            "nothing was made by halves"
        );
    }
}

/// Whoever could not be hired for their user name can leave all the same.
async fn what_cannot_be_stored_is_not_there(target: &dyn Target) {
    let Some(name) = target.unstorable() else { return };
    let (lookup, wanted) = (lookup(&name, None), desired(&name, &[]));
    for op in [Op::Create, Op::Update, Op::Enable] {
        assert_eq!(class_of(target, &change(op, &lookup, &wanted, &[])).await, ErrorClass::Invalid, "{op}");
    }
    for op in [Op::Disable, Op::Delete] {
        assert_eq!(class_of(target, &change(op, &lookup, &wanted, &[])).await, ErrorClass::AlreadyGone, "{op}");
    }
    for purpose in [Purpose::Provision, Purpose::Deprovision, Purpose::Deleted] {
        assert_eq!(target.connector().read(&lookup, purpose).await.unwrap(), None, "{purpose:?}");
    }
}

async fn changes_behind_our_back_show_as_differences(target: &dyn Target) {
    let key = created(target, "jane", &["eng"]).await.external_id;
    let lookup = lookup("jane", Some(&key));
    let mut wanted = desired("jane", &["eng"]);
    wanted.entitlements.universe = Universe::Authoritative(groups(&["eng", "ops"]));
    let update = change(Op::Update, &lookup, &wanted, &[]);
    let differences = async |op: Op, revoked: &[&str]| {
        let observed = target.connector().read(&lookup, Purpose::Provision).await.unwrap();
        target.connector().differences(op, &wanted, &groups(revoked), observed.as_ref())
    };
    for name in ["userName", "givenName", "familyName", "mail", "mobile", "department"] {
        target.set(&key, name, "tampered@example.org").await;
        assert_eq!(differences(Op::Verify, &[]).await, [name]);
        apply(target, &update).await.unwrap();
    }
    target.set_active(&key, false).await;
    assert_eq!(differences(Op::Enable, &[]).await, ["active"]);
    apply(target, &update).await.unwrap();
    assert_eq!(differences(Op::Disable, &[]).await, ["active"], "enabled again after a disable");
    target.leave(&key, "eng").await;
    assert_eq!(differences(Op::Update, &[]).await, ["groups"]);
    apply(target, &update).await.unwrap();
    target.join(&key, "ops").await;
    assert_eq!(differences(Op::Update, &[]).await, ["groups"], "within the universe");
    apply(target, &update).await.unwrap();
    target.join(&key, "vpn").await;
    assert_eq!(differences(Op::Update, &[]).await, [""; 0], "outside of it");
    assert_eq!(differences(Op::Update, &["vpn"]).await, ["groups"], "but revoked");
    assert_eq!(differences(Op::Delete, &[]).await, ["account"]);
    let connector = target.connector();
    assert_eq!(connector.differences(Op::Update, &wanted, &groups(&[]), None), ["account"]);
    for gone in [Op::Delete, Op::Disable] {
        assert_eq!(connector.differences(gone, &wanted, &groups(&[]), None), [""; 0]);
    }
}

async fn list_shows_every_account_once(target: &dyn Target) {
    const MANY: usize = 250;
    for i in 0..MANY {
        target.seed(&format!("many{i}"), None).await;
    }
    let listed_groups = created(target, "kate", &["eng", "ops"]).await;
    let (mut cursor, mut pages, mut seen) = (None, 0, BTreeMap::new());
    loop {
        let page = target.connector().list(cursor.as_deref()).await.unwrap();
        pages += 1;
        assert!(pages < 50, "the listing ends");
        for observed in page.accounts {
            assert!(seen.insert(observed.external_id.clone(), observed).is_none(), "listed twice");
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages > 1);
    assert_eq!(seen.len(), target.count().await);
    assert_eq!(seen.get(&listed_groups.external_id), Some(&listed_groups), "a listed account is one that was read");
}

async fn faults_have_their_classes(target: &dyn Target) {
    let create = change(Op::Create, &lookup("luke", None), &desired("luke", &[]), &[]);
    for (fault, expected) in [
        (Fault::Credentials, &[ErrorClass::Credentials][..]),
        (Fault::Gone, &[ErrorClass::Unreachable]),
        (Fault::Hanging, &[ErrorClass::Unreachable, ErrorClass::UnknownOutcome]),
    ] {
        let Some(connector) = target.broken(fault).await else { continue };
        let since = Instant::now();
        let results = [
            connector.read(&create.lookup, Purpose::Provision).await.map(|_| ()),
            connector.apply(&create).await.map(|_| ()),
            connector.list(None).await.map(|_| ()),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert!(expected.contains(&error.class), "{error}");
            assert!(!error.message.contains("luke"), "no values: {error}");
        }
        assert!(since.elapsed() < SHORT * 4, "within the time-out, each");
    }
}
