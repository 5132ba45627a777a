//! The status page at `/`: one page, nothing loaded from elsewhere, over the api's queries.
//!
//! The page itself holds nothing about anyone and needs no token; its script asks the api with the token that a person
//! pastes once or opens it with (`/#token=…`, which stays in the browser). It builds everything as text nodes, never as
//! markup, and its Content-Security-Policy lets nothing run but its own script: a name in a source's data stays a name.

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Random bytes of a page's nonce (CSP level 3, section 7.1 asks for at least 128 bits).
const NONCE_BYTES: usize = 16;

/// The page's route, to be merged to the api's.
pub fn router() -> Router {
    Router::new().route("/", get(page))
}

async fn page() -> Response {
    let mut random = [0u8; NONCE_BYTES];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "no random bytes for the status page");
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let nonce = hex::encode(random);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers.map(|(name, value)| (name, value.to_owned())), Html(render(&nonce))).into_response()
}

fn render(nonce: &str) -> String {
    PAGE.replace("{{nonce}}", nonce)
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
        let html = render("abc");
        assert!(!html.contains("{{"), "a place was not filled");
        assert!(html.contains("<script nonce=\"abc\">") && html.contains("<style nonce=\"abc\">"));
        for outside in ["http://", "https://", "src=\"/", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn the_script_never_writes_markup() {
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!SCRIPT.contains(sink), "{sink}: build text nodes instead");
        }
        assert!(!SCRIPT.contains("</script"), "it would end the script element");
        let handlers = ["onclick=", "onload=", "style=\""];
        assert!(handlers.iter().all(|inline| !PAGE.contains(inline)), "the policy refuses inline handlers and styles");
    }
}
