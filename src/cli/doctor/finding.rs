//! What a check found: for people a line with what to do below it, for machines an object.

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Ok,
    Warn,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    /// What of several was looked at; empty where there is one.
    pub(super) subject: String,
    pub(super) state: State,
    pub(super) what: String,
    /// What to do about it.
    pub(super) help: Option<String>,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

impl Finding {
    fn new(check: &'static str, subject: impl Into<String>, state: State, what: String, help: Option<String>) -> Self {
        Self { check, subject: subject.into(), state, what, help }
    }

    pub(super) fn ok(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(check, subject, State::Ok, what.into(), None)
    }

    pub(super) fn warn(
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, State::Warn, what.into(), Some(help.into()))
    }

    pub(super) fn bad(
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        help: impl Into<Option<String>>,
    ) -> Self {
        Self::new(check, subject, State::Bad, what.into(), help.into())
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "check": self.check,
            "subject": self.subject,
            "state": self.state.as_str(),
            "what": self.what,
            "help": self.help,
        })
    }
}

/// State, check and what was found; what to do on lines of its own. The last line counts.
pub(super) fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let indent = " ".repeat("warn  ".len() + width + 2);
    let mut text = String::new();
    for finding in findings {
        let subject = if finding.subject.is_empty() { String::new() } else { format!("{}: ", finding.subject) };
        let what = finding.what.replace('\n', &format!("\n{indent}"));
        text.push_str(&format!("{:<6}{:<width$}  {subject}{what}\n", finding.state.as_str(), finding.check));
        if let Some(help) = &finding.help {
            text.push_str(&format!("{indent}help: {}\n", help.replace('\n', &format!("\n{indent}      "))));
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (ok, warn, bad) = (count(State::Ok), count(State::Warn), count(State::Bad));
    text.push_str(&format!("{ok} ok, {warn} to look at, {bad} bad\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_as_what_is_well_what_is_not_and_what_to_do() {
        let findings = [
            Finding::ok("config", "", "conf: 2 sources, 1 target, 1 tenant, rules 0123456789ab"),
            Finding::warn("data", "", "the folder is open to other users (mode 755)", "`chmod 700 data`"),
            Finding::bad(
                "topics",
                "lockstep.state",
                "cleanup.policy is delete\nstate is deleted by age",
                "set it\nthen look again".to_owned(),
            ),
            Finding::bad("target", "wiki", "credentials: password refused", None),
        ];
        insta::assert_snapshot!(render(&findings), @r"
        ok    config  conf: 2 sources, 1 target, 1 tenant, rules 0123456789ab
        warn  data    the folder is open to other users (mode 755)
                      help: `chmod 700 data`
        bad   topics  lockstep.state: cleanup.policy is delete
                      state is deleted by age
                      help: set it
                            then look again
        bad   target  wiki: credentials: password refused
        1 ok, 1 to look at, 2 bad
        ");
        assert_eq!(findings[3].as_json()["state"], "bad");
    }
}
