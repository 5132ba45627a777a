//! A client of the HTTP api of a running `dev` or `serve`.

use super::{Common, Exit, Failure};
use crate::api::{Token, TokenError};
use anyhow::Context;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `dev` and `serve` listen if nothing else is said.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// The file under the data folder in which a running `dev` or `serve` says where it listens.
const URL_FILE: &str = "url";

/// Of one request: the api answers from memory, or appends one batch to the bus.
const REQUEST_TIME_OUT: Duration = Duration::from_secs(30);

/// Where the api is and how to get in.
#[derive(clap::Args, Clone, Debug)]
pub struct Server {
    /// Where `dev` or `serve` listens [default: as the one of --data says, else http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL", env = "LOCKSTEP_URL", hide_env = true, value_parser = http_url)]
    pub url: Option<String>,
    /// The file with the api's token [default: `token` in --data]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Ask the config's Kafka itself [default: only if no `serve` answers]
    #[arg(long, global = true, conflicts_with_all = ["url", "token_file"])]
    pub direct: bool,
}

pub struct Client {
    url: String,
    token: String,
    /// Where the token came from, for people.
    token_from: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

/// The api's answer to a request that it refuses.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    pub error: String,
    pub remedy: Option<String>,
    /// Which of a request's events it was, from 1.
    pub event: Option<usize>,
    #[serde(skip)]
    pub status: u16,
}

impl From<Refusal> for anyhow::Error {
    fn from(refusal: Refusal) -> Self {
        let failure = Failure::new(Exit::Failed, refusal.error);
        match refusal.remedy {
            Some(remedy) => failure.help(remedy).into(),
            None => failure.into(),
        }
    }
}

/// Says under the data folder where the api listens, so that other subcommands find it.
pub fn announce(data: &Path, url: &str) -> std::io::Result<()> {
    std::fs::write(data.join(URL_FILE), format!("{url}\n"))
}

impl Client {
    /// To the api of a running `dev` or `serve`, as the command line names it.
    pub fn of(common: &Common, server: &Server) -> anyhow::Result<Self> {
        let token_file = server.token_file.clone().unwrap_or_else(|| Token::path(&common.data));
        let token = Token::read(&token_file).map_err(|error| no_token(server, &token_file, error))?;
        let url = match &server.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => std::fs::read_to_string(common.data.join(URL_FILE))
                .map_or_else(|_| DEFAULT_URL.to_owned(), |text| text.trim().to_owned()),
        };
        Self::made(url, token, token_file.display().to_string())
    }

    /// To the api at a URL, with its token.
    pub fn to(url: String, token: String) -> anyhow::Result<Self> {
        Self::made(url, token, "this process".to_owned())
    }

    fn made(url: String, token: String, token_from: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIME_OUT)
            .connect_timeout(Duration::from_secs(5))
            .build()
            .context("making an HTTP client")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
        Ok(Self { url, token, token_from, http, runtime })
    }

    /// Whether anybody answers there at all.
    pub fn answers(&self) -> anyhow::Result<()> {
        let request = self.http.request(Method::GET, self.address("/healthz"));
        self.runtime.block_on(async { request.send().await }).map(|_| ()).map_err(|error| self.unreachable(error))
    }

    /// GET, with its answer as JSON.
    pub fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.send(self.http.request(Method::GET, self.address(path)).query(query))?.map_err(Into::into)
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.request(Method::POST, self.address(path)).json(body))?.map_err(Into::into)
    }

    /// POST of lines, each an event. A refusal is handed to the caller: it may concern a single line.
    pub fn post_lines(&self, path: &str, lines: Vec<u8>) -> anyhow::Result<Result<Value, Refusal>> {
        let request = self.http.request(Method::POST, self.address(path));
        self.send(request.header("content-type", "application/x-ndjson").body(lines))
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn send(&self, request: RequestBuilder) -> anyhow::Result<Result<Value, Refusal>> {
        let answer = self.runtime.block_on(async {
            let response = request.bearer_auth(&self.token).send().await?;
            Ok((response.status(), response.bytes().await?))
        });
        let (status, body) = answer.map_err(|error| self.unreachable(error))?;
        if status == StatusCode::UNAUTHORIZED {
            return Err(Failure::new(
                Exit::Failed,
                format!("the lockstep at {} doesn't take the token in {}", self.url, self.token_from),
            )
            .help("each data folder has a token of its own: name that lockstep's with --data, or the file with --token-file")
            .into());
        }
        if status.is_success() {
            let value = serde_json::from_slice(&body).with_context(|| self.not_ours(status))?;
            return Ok(Ok(value));
        }
        let mut refusal: Refusal = serde_json::from_slice(&body).with_context(|| self.not_ours(status))?;
        refusal.status = status.as_u16();
        Ok(Err(refusal))
    }

    fn not_ours(&self, status: StatusCode) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!("what answers at {} is no lockstep (HTTP {})", self.url, status.as_u16()),
        )
        .help("name where `lockstep dev` or `lockstep serve` listens with --url")
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let what = match error.is_timeout() {
            true => format!("the lockstep at {} didn't answer in time", self.url),
            false => format!("no lockstep answers at {}", self.url),
        };
        let failure = Failure::new(Exit::Unreachable, what)
            .help("start one with `lockstep dev`, or name where it listens with --url");
        // The layers between say "client error"; the last one says what happened.
        let error = anyhow::Error::new(error.without_url());
        anyhow::anyhow!("{}", error.root_cause()).context(failure)
    }
}

/// As it was written, where it is one.
fn http_url(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text.to_owned()),
        Ok(_) => Err(format!("it doesn't begin with http:// or https://; one is {DEFAULT_URL}")),
        Err(error) => Err(format!("it is no URL ({error}); one is {DEFAULT_URL}")),
    }
}

fn no_token(server: &Server, path: &Path, error: TokenError) -> anyhow::Error {
    let (exit, what) = match &error {
        TokenError::File { reason, .. } if reason.kind() == std::io::ErrorKind::NotFound => {
            // Nobody was named, and whoever had run with this data folder would have made one.
            let exit =
                if server.url.is_none() && server.token_file.is_none() { Exit::Unreachable } else { Exit::Failed };
            (exit, format!("no token at {}", path.display()))
        }
        other => (Exit::Failed, other.to_string()),
    };
    Failure::new(exit, what)
        .help("`lockstep dev` and `lockstep serve` make one at their first start, in the folder of --data")
        .help("name another file with --token-file")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_http_is_said_to_be_none() {
        for good in [DEFAULT_URL, "https://lockstep.example.com/", "http://[::1]:7070"] {
            assert_eq!(http_url(good).as_deref(), Ok(good));
        }
        for bad in ["notaurl", "", "http://", "http://host:port", "/v1"] {
            assert!(http_url(bad).unwrap_err().starts_with("it is no URL"), "{bad}");
        }
        for bad in ["localhost:7070", "ftp://127.0.0.1"] {
            assert!(http_url(bad).unwrap_err().starts_with("it doesn't begin with http://"), "{bad}");
        }
    }

    #[test]
    fn without_a_token_nothing_runs_unless_somebody_was_named() {
        let data = tempfile::tempdir().unwrap();
        let common = Common { config: None, data: data.path().to_owned() };
        let exit = |url: Option<&str>, token_file: Option<&str>| {
            let server =
                Server { url: url.map(str::to_owned), token_file: token_file.map(PathBuf::from), direct: false };
            let error = Client::of(&common, &server).err().unwrap();
            error.downcast_ref::<Failure>().unwrap().exit()
        };
        assert_eq!(exit(None, None), Exit::Unreachable);
        assert_eq!(exit(Some(DEFAULT_URL), None), Exit::Failed);
        assert_eq!(exit(None, Some("/nonexistent/token")), Exit::Failed);
    }
}
