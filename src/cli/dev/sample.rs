//! An event of somebody new, made from one that is played: what tells people apart gets another number, the rest stays.

use super::play::{self, EventFile};
use crate::rules::{Bundle, EventPath, SourceRules};
use serde_json::Value;

/// Six digits, so that it looks like a number of the quickstart's and yet was never used there.
const FIRST_NUMBER: u64 = 100_000;
const NUMBERS: u64 = 900_000;

/// None where the file's first event is no JSON or lacks what tells people apart. `seed` makes the number, so that the sample
/// of another run is of another person.
pub fn somebody_new(bundle: &Bundle, rules: &SourceRules, played: &EventFile, seed: u64) -> Option<String> {
    let bytes = std::fs::read(&played.path).ok()?;
    let mut event: Value = serde_json::from_slice(play::lines(&bytes).next()?.1).ok()?;
    let number = FIRST_NUMBER + seed % NUMBERS;
    let correlated = bundle.kind_of(&rules.name).into_iter().flat_map(|kind| &kind.correlate).chain(&rules.route_by);
    let mut paths: Vec<&EventPath> = correlated.filter_map(|name| Some(&rules.attributes.get(name)?.path)).collect();
    paths.extend([&rules.event.id, &rules.record.id]);
    paths.sort_by_key(|path| path.parts());
    paths.dedup();
    for path in paths {
        let place = path.parts().iter().try_fold(&mut event, |here, part| here.get_mut(part))?;
        *place = renumbered(place, number)?;
    }
    Some(format!("{event}\n"))
}

/// With this number in place of its last one; `ada@example.com` becomes `ada100001@example.com`.
fn renumbered(value: &Value, number: u64) -> Option<Value> {
    match value {
        Value::Number(_) => Some(number.into()),
        Value::String(text) => {
            let end = text.rfind(|c: char| c.is_ascii_digit()).map(|at| at + 1);
            let (head, tail) = match (end, text.find('@')) {
                (Some(end), _) => (text[..end].trim_end_matches(|c: char| c.is_ascii_digit()), &text[end..]),
                (None, Some(at)) => text.split_at(at),
                (None, None) => (text.as_str(), ""),
            };
            Some(format!("{head}{number}{tail}").into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_tells_people_apart_gets_a_number_of_its_own() {
        for (before, after) in [
            (json!("hr-0001"), json!("hr-100007")),
            (json!("10001"), json!("100007")),
            (json!(17), json!(100_007)),
            (json!("ada@example.com"), json!("ada100007@example.com")),
            (json!("ada"), json!("ada100007")),
            (json!("w-7-x"), json!("w-100007-x")),
        ] {
            assert_eq!(renumbered(&before, 100_007), Some(after), "{before}");
        }
        assert_eq!(renumbered(&json!(null), 1), None);
    }
}
