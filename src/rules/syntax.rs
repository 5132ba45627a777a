//! What isn't an expression at all: the parser's words made plain, and what to write instead.

use super::expression::CompileError;

pub fn errors(text: &str, errors: &[cel::ParseError]) -> Vec<CompileError> {
    errors
        .iter()
        .take(1) // what follows the first is mostly its echo
        .map(|error| {
            let line = usize::try_from(error.pos.0 - 1).unwrap_or(0);
            let column = usize::try_from(error.pos.1 - 1).unwrap_or(0);
            let before: usize = text.split_inclusive('\n').take(line).map(|l| l.chars().count()).sum();
            let reason = plain_error(error.msg.lines().next().unwrap_or_default());
            CompileError {
                help: Some(help(text, &reason)),
                message: format!("this is not an expression: {reason}"),
                at: (before + column).min(text.chars().count().saturating_sub(1)),
                width: 1,
                undeclared: None,
            }
        })
        .collect()
}

/// ANTLR lists every token that could follow, which is no help to anybody: what stands in the way is.
fn plain_error(message: &str) -> String {
    let in_the_way = message.split(" expecting ").next().unwrap_or(message);
    if in_the_way.contains("<EOF>") {
        return "it ends where something is still to come".to_owned();
    }
    match in_the_way.split_once('\'').and_then(|(_, rest)| rest.rsplit_once('\'')) {
        Some((token, _)) => format!("`{}` is not expected here", token.trim()),
        None => in_the_way.strip_prefix("Syntax error: ").unwrap_or(in_the_way).to_owned(),
    }
}

/// What to write instead, by what stands in the way.
fn help(text: &str, reason: &str) -> String {
    let token = reason.strip_prefix('`').and_then(|rest| rest.split('`').next()).unwrap_or_default();
    match token {
        "=" => "equality is `==`: department == 'Sales'".to_owned(),
        "&" | "and" | "AND" => "both have to be true: `a && b`".to_owned(),
        "|" | "or" | "OR" => "one of them has to be true: `a || b`".to_owned(),
        _ => match unclosed(text) {
            Some(quote @ ('\'' | '"')) => format!("close the quote: {quote}Sales{quote}"),
            Some(bracket) => format!("close the `{bracket}`"),
            None if token.is_empty() => "write what is to come, or remove what asks for it".to_owned(),
            None if text.split_whitespace().any(|word| word == "not") => "the opposite is `!a`".to_owned(),
            None => "text stands in quotes: department == 'Sales'".to_owned(),
        },
    }
}

/// The last bracket, or the quote, that is opened and never closed.
fn unclosed(text: &str) -> Option<char> {
    let (mut open, mut escaped) = (Vec::new(), false);
    for c in text.chars() {
        match (open.last().copied(), c) {
            (Some('\'' | '"'), _) if escaped => escaped = false,
            (Some('\'' | '"'), '\\') => escaped = true,
            (Some(quote @ ('\'' | '"')), c) if c == quote => drop(open.pop()),
            (Some('\'' | '"'), _) => {}
            (_, '(' | '[' | '{' | '\'' | '"') => open.push(c),
            (Some('('), ')') | (Some('['), ']') | (Some('{'), '}') => drop(open.pop()),
            _ => {}
        }
    }
    open.pop()
}

#[cfg(test)]
mod tests {
    use crate::rules::expression::{Expression, Language, Tables};
    use crate::rules::merged::Slots;
    use crate::rules::shape::Names;

    #[test]
    fn a_slip_says_what_to_write_instead() {
        let language = Language::new(&Tables::new(), Slots::new([]));
        let shown = [
            "department = 'Sales'",
            "vip & vip",
            "vip | vip",
            "vip and vip",
            "not vip",
            "department in ['Sales'",
            "lower(given",
            "department == 'Sales",
            "given ==",
            "given given",
        ]
        .map(|text| {
            let error = Expression::compile(text, &language, &Names::new()).unwrap_err().remove(0);
            format!("{text}: {} ({})", error.message, error.help.unwrap_or_default())
        });
        insta::assert_snapshot!(shown.join("\n"), @r"
        department = 'Sales': this is not an expression: `=` is not expected here (equality is `==`: department == 'Sales')
        vip & vip: this is not an expression: `&` is not expected here (both have to be true: `a && b`)
        vip | vip: this is not an expression: `|` is not expected here (one of them has to be true: `a || b`)
        vip and vip: this is not an expression: `and` is not expected here (both have to be true: `a && b`)
        not vip: this is not an expression: `vip` is not expected here (the opposite is `!a`)
        department in ['Sales': this is not an expression: it ends where something is still to come (close the `[`)
        lower(given: this is not an expression: it ends where something is still to come (close the `(`)
        department == 'Sales: this is not an expression: `'Sales` is not expected here (close the quote: 'Sales')
        given ==: this is not an expression: it ends where something is still to come (write what is to come, or remove what asks for it)
        given given: this is not an expression: `given` is not expected here (text stands in quotes: department == 'Sales')
        ");
    }
}
