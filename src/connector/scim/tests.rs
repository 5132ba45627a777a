//! Awkward service providers, each played by a few lines over a real socket. What the well-behaved do is in `tests/contract`.

use super::*;
use crate::model::{Attributes, Entitlements, Universe};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method as Verb, Uri};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// A request as the target saw it: "PATCH /Users/1".
type Seen = Arc<Mutex<Vec<(String, Json)>>>;

struct Awkward {
    connector: ScimConnector,
    seen: Seen,
}

impl Awkward {
    /// `answer` takes the method with the path, the query unescaped, with If-Match as if it were in it, and the body.
    async fn playing(answer: impl Fn(&str, &str, &Json) -> Response + Send + Sync + Clone + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let seen = Seen::default();
        let log = seen.clone();
        let router = Router::new().fallback(async move |verb: Verb, uri: Uri, headers: HeaderMap, body: Bytes| {
            let body: Json = serde_json::from_slice(&body).unwrap_or(Json::Null);
            let what = format!("{verb} {}", uri.path());
            let mut query: String = Url::parse(&format!("http://x{uri}"))
                .unwrap()
                .query_pairs()
                .map(|(name, value)| format!("{name}={value};"))
                .collect();
            if let Some(version) = headers.get("if-match") {
                query.push_str(&format!("if-match={};", version.to_str().unwrap()));
            }
            log.lock().unwrap().push((what.clone(), body.clone()));
            answer(&what, &query, &body)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { connector: connector(&url), seen }
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(what, _)| what.clone()).collect()
    }

    fn body_of(&self, request: &str) -> Json {
        let seen = self.seen.lock().unwrap();
        seen.iter().find(|(what, _)| what == request).map_or(Json::Null, |(_, body)| body.clone())
    }

    async fn apply(&self, op: Op, groups: &[&str], revoked: &[&str]) -> Result<Applied, CallError> {
        self.connector.apply(&change(op, groups, revoked)).await
    }
}

fn connector(url: &str) -> ScimConnector {
    let rules = ScimRules {
        url: url.to_owned(),
        token: None,
        attributes: [("userName".to_owned(), "userName".to_owned())].into(),
        create_groups: false,
    };
    let limits = Limits { timeout: Duration::from_secs(2), concurrency: 2 };
    ScimConnector::open(&rules, limits, &|text| Ok(text.to_owned())).unwrap()
}

fn lookup() -> Lookup {
    Lookup {
        account: "a1".into(),
        external_id: Some("1".to_owned()),
        match_on: Some(("userName".to_owned(), "ada".to_owned())),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn change(op: Op, groups: &[&str], revoked: &[&str]) -> Change {
    let entitlements = Entitlements { groups: names(groups), universe: Universe::Additive };
    Change {
        op,
        lookup: lookup(),
        desired: Desired {
            active: !op.is_deprovision(),
            attributes: Attributes::from([("userName", "ada".into())]),
            entitlements,
        },
        revoked: names(revoked),
        observed: None,
        idempotency_key: "a1@1".to_owned(),
    }
}

fn ada() -> Json {
    json!({"id": "1", "externalId": "a1", "userName": "ada", "active": true})
}

fn group(name: &str, members: &[&str]) -> Json {
    let members: Vec<Json> = members.iter().map(|id| json!({"value": id})).collect();
    json!({"id": format!("g-{name}"), "displayName": name, "members": members})
}

fn ok(body: Json) -> Response {
    axum::Json(body).into_response()
}

fn list(resources: &[Json]) -> Response {
    ok(json!({"totalResults": resources.len(), "Resources": resources}))
}

fn status(code: u16) -> Response {
    axum::http::StatusCode::from_u16(code).unwrap().into_response()
}

#[tokio::test]
async fn a_target_without_patch_is_put_to_and_not_asked_twice() {
    let target = Awkward::playing(|what, _, _| match what {
        "GET /Users/1" => {
            ok(json!({"id": "1", "externalId": "a1", "userName": "ada", "active": "True", "title": "Dr", "meta": {}}))
        }
        "PATCH /Users/1" => status(501),
        "PUT /Users/1" => status(204),
        _ => status(500),
    })
    .await;
    for _ in 0..2 {
        target.apply(Op::Disable, &[], &[]).await.unwrap();
    }
    assert_eq!(target.requests(), ["GET /Users/1", "PATCH /Users/1", "PUT /Users/1", "GET /Users/1", "PUT /Users/1"]);
    let whole = json!({"id": "1", "externalId": "a1", "userName": "ada", "active": false, "title": "Dr"});
    assert_eq!(target.body_of("PUT /Users/1"), whole, "what the rules don't know stays");
}

#[tokio::test]
async fn a_membership_filter_that_finds_nothing_is_not_believed() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if query.contains("members.value") => list(&[]),
        "GET /Groups" => list(&[group("Eng", &["1", "2"]), group("ops", &["2"])]),
        "PATCH /Groups/g-Eng" => status(204),
        _ => status(500),
    })
    .await;
    for _ in 0..2 {
        let observed = target.connector.read(&lookup(), Purpose::Provision).await.unwrap().unwrap();
        assert_eq!(observed.groups, Some(names(&["Eng"])));
    }
    // The target's spelling of a name isn't the rules'.
    target.apply(Op::Update, &["eng"], &[]).await.unwrap();
    assert!(!target.requests().contains(&"PATCH /Groups/g-Eng".to_owned()), "there already");
    target.apply(Op::Update, &[], &["eng"]).await.unwrap();
    let operation = &target.body_of("PATCH /Groups/g-Eng")["Operations"][0];
    assert_eq!(*operation, json!({"op": "remove", "path": r#"members[value eq "1"]"#}));
}

#[tokio::test]
async fn a_membership_filter_that_tells_the_truth_is_used_from_then_on() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if query.contains(r#"members.value eq "1""#) => list(&[group("eng", &[])]),
        "GET /Groups" if query.contains("members.value") => list(&[]),
        "GET /Groups" => list(&[group("eng", &["1"]), group("ops", &[])]),
        _ => status(500),
    })
    .await;
    for _ in 0..3 {
        let observed = target.connector.read(&lookup(), Purpose::Provision).await.unwrap().unwrap();
        assert_eq!(observed.groups, Some(names(&["eng"])));
    }
    let asked = target.requests().iter().filter(|what| *what == "GET /Groups").count();
    assert_eq!(asked, 1 + 2 + 1 + 1, "listed, tried for a member and for nobody, then one question a read");
}

#[tokio::test]
async fn a_group_of_a_target_without_patch_is_put_with_one_member_more() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if query.contains("members.value") => status(400),
        "GET /Groups" => list(&[group("eng", &["2"])]),
        "GET /Groups/g-eng" => ok(group("eng", &["2"])),
        "PATCH /Groups/g-eng" => status(405),
        "PUT /Groups/g-eng" => ok(json!({})),
        _ => status(500),
    })
    .await;
    target.apply(Op::Update, &["eng"], &[]).await.unwrap();
    assert_eq!(target.body_of("PUT /Groups/g-eng"), group("eng", &["2", "1"]));
}

#[tokio::test]
async fn a_missing_group_is_a_dependency_and_is_made_only_where_the_rules_say_so() {
    let mut target = Awkward::playing(|what, _, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" => list(&[]),
        "POST /Groups" => ok(group("eng", &[])),
        "PATCH /Groups/g-eng" => status(204),
        _ => status(500),
    })
    .await;
    let error = target.apply(Op::Update, &["eng"], &[]).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Dependency);
    assert!(error.message.contains("eng"), "{error}");
    target.connector.groups = Groups::new(true);
    target.apply(Op::Update, &["eng"], &[]).await.unwrap();
}

#[tokio::test]
async fn two_calls_that_need_the_same_new_group_make_it_once() {
    let made = Arc::new(AtomicBool::new(false));
    let mut target = Awkward::playing(move |what, _, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if made.load(Ordering::SeqCst) => list(&[group("eng", &[])]),
        "GET /Groups" => list(&[]),
        "POST /Groups" => {
            made.store(true, Ordering::SeqCst);
            ok(group("eng", &[]))
        }
        "PATCH /Groups/g-eng" => status(204),
        _ => status(500),
    })
    .await;
    target.connector.groups = Groups::new(true);
    let (one, two) = tokio::join!(target.apply(Op::Update, &["eng"], &[]), target.apply(Op::Update, &["eng"], &[]));
    one.unwrap();
    two.unwrap();
    let made = target.requests().iter().filter(|what| *what == "POST /Groups").count();
    assert_eq!(made, 1, "{:?}", target.requests());
}

#[tokio::test]
async fn a_collection_that_is_not_there_does_not_mean_that_the_account_is_gone() {
    let target = Awkward::playing(|_, _, _| status(404)).await;
    for op in [Op::Delete, Op::Disable, Op::Update, Op::Create] {
        assert_eq!(target.apply(op, &[], &[]).await.unwrap_err().class, ErrorClass::ServerFault, "{op}");
    }
    assert_eq!(target.connector.read(&lookup(), Purpose::Provision).await.unwrap_err().class, ErrorClass::ServerFault);
}

#[tokio::test]
async fn a_target_that_ignores_filters_makes_no_second_account() {
    let target = Awkward::playing(|what, _, _| match what {
        "GET /Users" => ok(json!({"totalResults": 99, "Resources": [{"id": "7", "userName": "bob"}]})),
        _ => status(404),
    })
    .await;
    assert_eq!(target.apply(Op::Create, &[], &[]).await.unwrap_err().class, ErrorClass::Unsupported);
    assert!(!target.requests().contains(&"POST /Users".to_owned()));
}

#[tokio::test]
async fn a_target_that_forgets_the_external_id_is_matched_and_does_not_claim_to_know_owners() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users" if query.contains("externalId") => status(400),
        "GET /Users" => list(&[json!({"id": "1", "userName": "ADA", "active": true})]),
        "PATCH /Users/1" => status(204),
        _ => status(404),
    })
    .await;
    for _ in 0..2 {
        assert_eq!(target.apply(Op::Create, &[], &[]).await.unwrap().external_id.as_deref(), Some("1"));
    }
    assert!(!target.connector.capabilities().owner);
    assert_eq!(
        target.requests().iter().filter(|what| *what == "GET /Users").count(),
        3,
        "refused once, not asked again"
    );
}

#[tokio::test]
async fn an_account_that_is_made_without_an_answer_is_looked_up() {
    let made = Arc::new(AtomicBool::new(false));
    let target = Awkward::playing(move |what, _, _| match what {
        "GET /Users" if made.load(Ordering::Relaxed) => list(&[ada()]),
        "GET /Users" => list(&[]),
        "POST /Users" => {
            made.store(true, Ordering::Relaxed);
            status(201)
        }
        _ => status(404),
    })
    .await;
    assert_eq!(target.apply(Op::Create, &[], &[]).await.unwrap().external_id.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_throttled_call_says_for_how_long() {
    for (code, retry_after, class, seconds) in [
        (429, "7", ErrorClass::Throttled, Some(7)),
        (503, "Thu, 01 Jan 1970 00:00:00 GMT", ErrorClass::Throttled, Some(0)),
        (503, "whenever", ErrorClass::ServerFault, None),
    ] {
        let target = Awkward::playing(move |_, _, _| {
            let mut response = status(code);
            response.headers_mut().insert("retry-after", retry_after.parse().unwrap());
            response
        })
        .await;
        let error = target.connector.read(&lookup(), Purpose::Provision).await.unwrap_err();
        assert_eq!((error.class, error.retry_after), (class, seconds.map(Duration::from_secs)), "{code}");
    }
}

#[tokio::test]
async fn redirects_and_pages_that_are_not_scim_are_faults() {
    for answer in [
        || (axum::http::StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response(),
        || "<html>please log in</html>".into_response(),
    ] {
        let target = Awkward::playing(move |_, _, _| answer()).await;
        let error = target.connector.read(&lookup(), Purpose::Provision).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::ServerFault);
        assert!(error.message.contains("connector.scim.url"), "{error}");
    }
}

#[tokio::test]
async fn a_version_that_was_read_is_sent_and_may_be_stale() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users/1" => ok(json!({"id": "1", "userName": "ada", "active": true, "meta": {"version": "W/\"3\""}})),
        "PATCH /Users/1" if query.contains("if-match=W/\"3\";") => status(412),
        _ => status(500),
    })
    .await;
    assert_eq!(target.apply(Op::Disable, &[], &[]).await.unwrap_err().class, ErrorClass::VersionConflict);
}

#[tokio::test]
async fn what_was_sent_and_not_answered_has_an_unknown_outcome() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Answers reads, takes the PATCH, and hangs up.
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8192];
            let length = socket.read(&mut request).await.unwrap();
            if request[..length].starts_with(b"GET") {
                let body = ada().to_string();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let error = connector(&url).apply(&change(Op::Disable, &[], &[])).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::UnknownOutcome, "{error}");
    assert!(error.message.contains("may or may not"), "{error}");
}

#[tokio::test]
async fn a_target_without_groups_says_nothing_of_them() {
    let target = Awkward::playing(|what, _, _| match what {
        "GET /Users/1" => ok(ada()),
        _ => status(404),
    })
    .await;
    let observed = target.connector.read(&lookup(), Purpose::Provision).await.unwrap().unwrap();
    assert_eq!(observed.groups, None);
    let granted = change(Op::Update, &["eng"], &[]);
    let differences = target.connector.differences(Op::Update, &granted.desired, &granted.revoked, Some(&observed));
    assert_eq!(differences, ["groups"]);
    assert_eq!(target.apply(Op::Update, &["eng"], &[]).await.unwrap_err().class, ErrorClass::Unsupported);
    target.apply(Op::Update, &[], &[]).await.unwrap();
}

#[tokio::test]
async fn groups_that_cannot_be_read_keep_nobody_in() {
    let active = Arc::new(AtomicBool::new(true));
    let target = Awkward::playing(move |what, _, _| match what {
        "GET /Users/1" => {
            let active = active.load(Ordering::SeqCst);
            ok(json!({"id": "1", "externalId": "a1", "userName": "ada", "active": active}))
        }
        "PATCH /Users/1" => {
            active.store(false, Ordering::SeqCst);
            status(204)
        }
        _ => status(403),
    })
    .await;
    let disable = change(Op::Disable, &[], &[]);
    for (active, differences) in [(true, &["active"][..]), (false, &[])] {
        let observed = target.connector.read(&lookup(), Purpose::Deprovision).await.unwrap().unwrap();
        assert_eq!(observed.active, active);
        let shown = target.connector.differences(Op::Disable, &disable.desired, &disable.revoked, Some(&observed));
        assert_eq!(shown, differences);
        target.apply(Op::Disable, &[], &[]).await.unwrap();
    }
    assert_eq!(
        target.connector.read(&lookup(), Purpose::Provision).await.unwrap_err().class,
        ErrorClass::Permission,
        "an account as a whole has its groups"
    );
}

#[tokio::test]
async fn groups_that_were_there_are_not_gone_for_one_answer() {
    let away = Arc::new(AtomicBool::new(false));
    let gateway = away.clone();
    let target = Awkward::playing(move |what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if gateway.load(Ordering::SeqCst) => status(405),
        "GET /Groups" if query.contains("members.value") => status(400),
        "GET /Groups" => list(&[group("eng", &["1"])]),
        "PATCH /Groups/g-eng" => status(204),
        _ => status(500),
    })
    .await;
    target.apply(Op::Update, &["eng"], &[]).await.unwrap();
    away.store(true, Ordering::SeqCst);
    for error in [
        target.apply(Op::Update, &[], &["eng"]).await.unwrap_err(),
        target.connector.read(&lookup(), Purpose::Provision).await.unwrap_err(),
    ] {
        assert_eq!(error.class, ErrorClass::ServerFault, "it is tried again: {error}");
    }
    away.store(false, Ordering::SeqCst);
    target.apply(Op::Update, &[], &["eng"]).await.unwrap();
    assert!(target.requests().contains(&"PATCH /Groups/g-eng".to_owned()));
}

#[tokio::test]
async fn a_target_that_had_no_groups_is_asked_again_after_a_minute() {
    let deployed = Arc::new(AtomicBool::new(false));
    let now = deployed.clone();
    let target = Awkward::playing(move |what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if !now.load(Ordering::SeqCst) => status(404),
        "GET /Groups" if query.contains("members.value") => status(400),
        "GET /Groups" => list(&[group("eng", &["1"])]),
        _ => status(500),
    })
    .await;
    let groups = async || target.connector.read(&lookup(), Purpose::Provision).await.unwrap().unwrap().groups;
    assert_eq!(groups().await, None);
    deployed.store(true, Ordering::SeqCst);
    assert_eq!(groups().await, None, "not asked yet");
    *target.connector.groups.absent() = Instant::now().checked_sub(Duration::from_secs(60));
    assert_eq!(groups().await, Some(names(&["eng"])));
}

#[tokio::test]
async fn who_can_not_be_asked_for_is_gone_only_where_our_mark_would_have_shown() {
    for (keeps_owner, leaver) in [(true, ErrorClass::AlreadyGone), (false, ErrorClass::Invalid)] {
        let target = Awkward::playing(|what, query, _| match what {
            "GET /Users" if query.contains("userName") => status(400),
            "GET /Users" => list(&[]),
            _ => status(404),
        })
        .await;
        target.connector.keeps_owner.store(keeps_owner, Ordering::Relaxed);
        for (op, class) in [(Op::Create, ErrorClass::Invalid), (Op::Disable, leaver), (Op::Delete, leaver)] {
            assert_eq!(target.apply(op, &[], &[]).await.unwrap_err().class, class, "{op}, keeps: {keeps_owner}");
        }
    }
}

#[tokio::test]
async fn a_group_that_can_not_be_joined_keeps_nobody_in_another() {
    let target = Awkward::playing(|what, query, _| match what {
        "GET /Users/1" => ok(ada()),
        "GET /Groups" if query.contains("members.value") => status(400),
        "GET /Groups" if query.contains("displayName eq") => list(&[]),
        "GET /Groups" => list(&[group("eng", &["1"]), group("ops", &["1"])]),
        "PATCH /Groups/g-eng" => status(403),
        "PATCH /Groups/g-ops" => status(204),
        _ => status(500),
    })
    .await;
    for (revoked, class) in [(&["ops"][..], ErrorClass::Dependency), (&["eng", "ops"], ErrorClass::Permission)] {
        target.seen.lock().unwrap().clear();
        assert_eq!(target.apply(Op::Update, &["vpn"], revoked).await.unwrap_err().class, class);
        assert!(target.requests().contains(&"PATCH /Groups/g-ops".to_owned()), "{:?}", target.requests());
    }
}

#[tokio::test]
async fn two_changes_of_a_group_that_is_put_whole_both_hold() {
    let members = Arc::new(Mutex::new(vec!["1".to_owned(), "2".to_owned()]));
    let kept = members.clone();
    let target = Awkward::playing(move |what, query, body| {
        let mut kept = kept.lock().unwrap();
        let whole = || group("eng", &kept.iter().map(String::as_str).collect::<Vec<_>>());
        match what {
            "GET /Users/1" | "GET /Users/2" => {
                let id = what.trim_start_matches("GET /Users/");
                ok(json!({"id": id, "externalId": "a1", "userName": "ada", "active": true}))
            }
            "GET /Groups" if query.contains("members.value") => status(400),
            "GET /Groups" => list(&[whole()]),
            "GET /Groups/g-eng" => ok(whole()),
            "PATCH /Groups/g-eng" => status(405),
            "PUT /Groups/g-eng" => {
                let members = body["members"].as_array().unwrap();
                *kept = members.iter().map(|one| one["value"].as_str().unwrap().to_owned()).collect();
                status(204)
            }
            _ => status(500),
        }
    })
    .await;
    let leave = |id: &str| {
        let mut change = change(Op::Update, &[], &["eng"]);
        change.lookup.external_id = Some(id.to_owned());
        change
    };
    let (one, two) = (leave("1"), leave("2"));
    let (one, two) = tokio::join!(target.connector.apply(&one), target.connector.apply(&two));
    one.unwrap();
    two.unwrap();
    assert!(members.lock().unwrap().is_empty(), "{:?}", target.requests());
}
