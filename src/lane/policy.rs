//! What follows from each class of error: one line each, in one table.

use crate::model::ErrorClass;

/// The consequences of a class of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub class: ErrorClass,
    /// Tried again by itself; otherwise a dead letter at once.
    pub retried: bool,
    /// Counts towards the attempts after which a command becomes a dead letter.
    pub spends_attempt: bool,
    /// Says something about the target as a whole: calls to it stop for a while.
    pub opens_breaker: bool,
    /// The call may have taken effect: read before the next one.
    pub unknown_outcome: bool,
    /// For the operator.
    pub advice: &'static str,
}

const fn rule(
    class: ErrorClass,
    [retried, spends_attempt, opens_breaker, unknown_outcome]: [bool; 4],
    advice: &'static str,
) -> Rule {
    Rule { class, retried, spends_attempt, opens_breaker, unknown_outcome, advice }
}

const Y: bool = true;
const N: bool = false;

/// In the order of `ErrorClass::ALL`. Columns: retried, spends an attempt, opens the breaker, outcome unknown.
pub const RULES: [Rule; 17] = [
    rule(
        ErrorClass::Throttled,
        [Y, N, N, N],
        "the target asks for fewer calls; lower the target's concurrency if it lasts",
    ),
    rule(
        ErrorClass::Credentials,
        [Y, N, Y, N],
        "the target refuses the credentials: renew them, the lanes go on by themselves",
    ),
    rule(
        ErrorClass::Permission,
        [N, Y, N, N],
        "the credentials may not do this: grant the right at the target, then redrive",
    ),
    rule(
        ErrorClass::Uniqueness,
        [N, Y, N, N],
        "another account holds the name: change the rule or free the name, then redrive",
    ),
    rule(ErrorClass::AlreadyThere, [Y, Y, N, Y], "it is there already: read and compared again"),
    rule(ErrorClass::AlreadyGone, [Y, Y, N, Y], "it is gone already: read and compared again"),
    rule(ErrorClass::MissingOnUpdate, [Y, Y, N, N], "the account was deleted at the target: it is made anew"),
    rule(
        ErrorClass::Invalid,
        [N, Y, N, N],
        "the target refuses the content: mend the rule or the source, then redrive",
    ),
    rule(ErrorClass::Unsupported, [N, Y, N, N], "the target can't do this: change the target's rules, then redrive"),
    rule(ErrorClass::VersionConflict, [Y, Y, N, N], "somebody else changed it meanwhile: tried again"),
    rule(ErrorClass::ServerFault, [Y, Y, Y, Y], "the target has a fault of its own: tried again with growing delays"),
    rule(ErrorClass::Unreachable, [Y, N, Y, N], "the target can't be reached: tried again until it can"),
    rule(ErrorClass::UnknownOutcome, [Y, Y, N, Y], "no answer in time: read first, then tried again"),
    rule(ErrorClass::Partial, [Y, Y, N, Y], "a part of it was done: read and tried again"),
    rule(
        ErrorClass::FalseSuccess,
        [Y, Y, N, N],
        "the target says yes and does nothing: check its log and its replication",
    ),
    rule(ErrorClass::Capacity, [N, Y, N, N], "no licence or space left at the target: make room, then redrive"),
    rule(ErrorClass::Dependency, [Y, Y, N, N], "a group it needs is not there: make the group, or wait until it is"),
];

pub fn of(class: ErrorClass) -> Rule {
    RULES[ErrorClass::ALL.iter().position(|other| *other == class).expect("the table has a line for every class")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_line_in_order() {
        for (class, rule) in ErrorClass::ALL.into_iter().zip(RULES) {
            assert_eq!(class, rule.class);
            assert_eq!(of(class), rule);
        }
    }

    #[test]
    fn what_spends_no_attempt_is_retried_for_ever_so_it_must_be_retried() {
        for rule in RULES {
            assert!(rule.retried || rule.spends_attempt, "{}", rule.class);
        }
    }
}
