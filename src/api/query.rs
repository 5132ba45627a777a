//! `GET /v1/…`: the read model's answers. Lists come as `{"items": […], "next": cursor or null}`.

use super::model::Rows;
use super::view::AboutSomebody;
use super::{Api, Refusal};
use crate::model::{IdentityId, TargetName, TenantId, Timestamp};
use axum::Json;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Items of a page where the request doesn't say.
const DEFAULT_LIMIT: usize = 100;
/// Most items of a page: what a client holds in memory without noticing.
const MAX_LIMIT: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    tenant: Option<TenantId>,
    target: Option<TargetName>,
    /// What identities are searched for.
    q: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

type Answer = Result<Json<Value>, Refusal>;

/// What the query says of a tenant or a target that isn't there is a mistake, and no empty list.
impl FromRequestParts<Arc<Api>> for Filter {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let filter: Self = parameters(&parts.uri)?;
        filter.tenant.as_ref().map_or(Ok(()), |tenant| api.knows_tenant(tenant))?;
        filter.target.as_ref().map_or(Ok(()), |target| api.knows_target(target))?;
        Ok(filter)
    }
}

impl Filter {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// A cut list, from the place that `after` counts.
    fn page<T>(&self, all: Vec<T>) -> Result<Page<T>, Refusal> {
        let from = match &self.after {
            None => 0,
            Some(after) => after.parse::<usize>().map_err(|_| bad_cursor())?,
        };
        let end = from.saturating_add(self.limit());
        let total = all.len();
        let next = (end < total).then(|| end.to_string());
        let items: Vec<T> = all.into_iter().skip(from).take(self.limit()).collect();
        Ok(Page { items, next, total })
    }

    /// The same, with the names of those who are shown.
    fn named_page<T: AboutSomebody>(&self, rows: &Rows, all: Vec<T>) -> Result<Page<T>, Refusal> {
        let mut page = self.page(all)?;
        rows.name(&mut page.items);
        Ok(page)
    }
}

#[derive(Serialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
    total: usize,
}

/// Asks the rows on a thread of its own: a long list or a search must not hold up what else the process does.
async fn asked<T: Serialize + Send + 'static>(
    api: Arc<Api>,
    question: impl FnOnce(&Api, &Rows) -> Result<T, Refusal> + Send + 'static,
) -> Answer {
    let asked = tokio::task::spawn_blocking(move || question(&api, &api.model.read()));
    let answer = asked.await.map_err(|_| Refusal::unavailable("the question ended in a bug, see the log"))?;
    Ok(Json(json!(answer?)))
}

pub(super) async fn identities(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    let after = filter.after.as_deref().map(|text| hex::decode(text).map_err(|_| bad_cursor())).transpose()?;
    asked(api, move |_, rows| {
        let (tenant, search) = (filter.tenant.as_ref(), filter.q.as_deref());
        let (items, next) = rows.identities(tenant, search, after.as_deref(), filter.limit());
        Ok(json!({ "items": items, "next": next.map(hex::encode) }))
    })
    .await
}

pub(super) async fn identity(State(api): State<Arc<Api>>, Path(id): Path<String>, filter: Filter) -> Answer {
    asked(api, move |api, rows| {
        let id = IdentityId(id.into());
        let mut tenants = api.tenants.iter().filter(|tenant| is(filter.tenant.as_ref(), *tenant));
        tenants.find_map(|tenant| rows.identity(tenant, &id)).ok_or_else(|| {
            Refusal::not_found(
                format!("no identity has the id {:?}", id.as_str()),
                "search by name, mail or record id with `lockstep identities list --search TEXT` or GET \
                 /v1/identities?q=TEXT",
            )
        })
    })
    .await
}

pub(super) async fn dead_letters(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    asked(api, move |_, rows| {
        filter.named_page(rows, rows.dead_letter_lines(filter.tenant.as_ref(), filter.target.as_ref()))
    })
    .await
}

pub(super) async fn guard(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    asked(api, move |_, rows| {
        let mut all = rows.held(filter.tenant.as_ref());
        all.retain(|held| is(filter.target.as_ref(), &held.target));
        filter.named_page(rows, all)
    })
    .await
}

pub(super) async fn deprovisions(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    asked(api, move |_, rows| {
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        let mut all = rows.deprovisions(filter.tenant.as_ref(), now);
        all.retain(|open| is(filter.target.as_ref(), &open.target));
        let overdue = all.iter().filter(|open| open.overdue).count();
        let Page { items, next, total } = filter.named_page(rows, all)?;
        Ok(json!({ "items": items, "next": next, "total": total, "overdue": overdue }))
    })
    .await
}

pub(super) async fn quarantine(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    asked(api, move |_, rows| filter.page(rows.quarantined(filter.tenant.as_ref()))).await
}

pub(super) async fn quarantined(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    asked(api, move |_, rows| rows.quarantine_page(&id).ok_or_else(|| not_quarantined(&id))).await
}

pub(super) fn not_quarantined(id: &str) -> Refusal {
    Refusal::not_found(
        format!("no quarantined entity has the id {id:?}"),
        "see which there are with `lockstep quarantine list` or GET /v1/quarantine; one that takes events again is no \
         longer there",
    )
}

pub(super) async fn results(State(api): State<Arc<Api>>, filter: Filter) -> Answer {
    asked(api, move |_, rows| filter.named_page(rows, rows.recent_results(filter.tenant.as_ref()))).await
}

fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

/// The parameters behind a request's `?`.
pub(super) fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    let read = Query::try_from_uri(uri).map(|Query(read)| read);
    read.map_err(|error| {
        Refusal::bad_request(
            format!("the query can't be read: {}", error.body_text()),
            "`limit` is a number; a value's special characters are written as %XX",
        )
    })
}

pub(super) fn bad_cursor() -> Refusal {
    Refusal::bad_request("`after` is no cursor of this list", "hand back what the former page gave as `next`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_comes_in_pages_without_gap_or_overlap() {
        let all: Vec<u32> = (0..5).collect();
        let mut filter = Filter { limit: Some(2), ..Filter::default() };
        let mut seen = Vec::new();
        loop {
            let page = filter.page(all.clone()).unwrap();
            assert_eq!(page.total, 5);
            seen.extend(page.items);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, all);
        filter.after = Some("x".into());
        assert!(filter.page(all).is_err());
        assert_eq!(Filter { limit: Some(1 << 40), ..Filter::default() }.limit(), MAX_LIMIT);
        assert_eq!(Filter { limit: Some(0), ..Filter::default() }.limit(), 1);
    }
}
