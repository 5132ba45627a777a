//! Expressions as small programs of our own: what an event's evaluation runs instead of CEL's interpreter.
//!
//! The interpreter resolves names by text, boxes every value and builds its errors whether or not anybody reads them, which
//! costs more than all the rest of an event. A program reads attributes from their slots, tables and patterns are resolved when
//! it is made, and values are borrowed until the result.
//!
//! The interpreter stays the reference. A program gives the value that it would give, or None: then the interpreter is asked.
//! So every error text is the interpreter's own, and what can't be lowered (`lower`) costs time and nothing else. None is no
//! error by itself; it may stand where a value decides anyway (`None || true` is true), as an error may in CEL.
//!
//! A list is as long as a source says. What looks at its elements takes `Steps` for them; when none are left nothing runs any
//! more, and whatever came out is not to be used.

mod item;
mod lower;
mod text;

#[cfg(test)]
mod tests;

pub use item::{Item, Table};
pub use lower::{Lowering, lower};

use super::merged::{Merged, Slot};
use super::steps::Steps;
use crate::model::Value;
use item::Look;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

/// A lowered expression.
#[derive(Debug)]
pub struct Program(Node);

#[derive(Debug)]
enum Node {
    Constant(Value),
    Attribute(Slot),
    Kind,
    /// The variable of a loop: 0 is the innermost one's.
    Variable(usize),
    Table(Arc<Table>),
    Not(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choice(Box<[Node; 3]>),
    Equal(Box<[Node; 2]>),
    Unequal(Box<[Node; 2]>),
    Compare(Comparison, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    /// `a + b + c` at once: texts and lists are put together without what lies between.
    Sum(Vec<Node>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    Negative(Box<Node>),
    List(Vec<Node>),
    Index(Box<[Node; 2]>),
    /// `container[?key].orValue(otherwise)`.
    IndexOr(Box<[Node; 3]>),
    Unary(Unary, Box<Node>),
    Binary(Binary, Box<[Node; 2]>),
    Ternary(Ternary, Box<[Node; 3]>),
    Matches(Box<Node>, Box<regex::Regex>),
    Loop(Box<Loop>),
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug)]
enum Arithmetic {
    Minus,
    Times,
    Divided,
    Remainder,
}

type Unary = for<'a> fn(Item<'a>) -> Option<Item<'a>>;
type Binary = for<'a> fn(Item<'a>, Item<'a>) -> Option<Item<'a>>;
type Ternary = for<'a> fn(Item<'a>, Item<'a>, Item<'a>) -> Option<Item<'a>>;

/// `list.map(x, …)` and its like.
#[derive(Debug)]
struct Loop {
    over: Node,
    what: Gathering,
}

#[derive(Debug)]
enum Gathering {
    Exists(Node),
    All(Node),
    ExistsOne(Node),
    /// Of those elements that pass the filter, if there is one.
    Map {
        filter: Option<Node>,
        element: Node,
    },
}

/// What a run can see.
#[derive(Clone, Copy)]
struct Scope<'a> {
    merged: &'a Merged<'a>,
    kind: &'a str,
    steps: &'a Steps,
}

/// The variables of the loops around, the innermost first.
#[derive(Clone, Copy)]
struct Variables<'l, 'a> {
    item: &'l Item<'a>,
    outer: Option<&'l Variables<'l, 'a>>,
}

impl Program {
    /// Its value; None: the interpreter is to say, where steps are left.
    pub fn value(&self, merged: &Merged<'_>, kind: &str, steps: &Steps) -> Option<Value> {
        self.0.run(Scope { merged, kind, steps }, None)?.into_value(steps)
    }

    /// True or false; None: the interpreter is to say, where steps are left.
    pub fn is_true(&self, merged: &Merged<'_>, kind: &str, steps: &Steps) -> Option<bool> {
        self.0.run(Scope { merged, kind, steps }, None)?.as_bool()
    }
}

type Inner<'l, 'a> = Option<&'l Variables<'l, 'a>>;

impl Node {
    fn run<'a>(&'a self, scope: Scope<'a>, inner: Inner<'_, 'a>) -> Option<Item<'a>> {
        match self {
            Self::Constant(value) => Some(Item::Held(value)),
            Self::Attribute(slot) => Some(scope.merged.at(*slot).map_or(Item::null(), Item::Held)),
            Self::Kind => Some(Item::Text(Cow::Borrowed(scope.kind))),
            Self::Variable(up) => variable(scope, inner?, *up),
            Self::Table(table) => Some(Item::Table(table)),
            Self::Choice(nodes) => {
                let [condition, yes, no] = nodes.as_ref();
                if condition.run(scope, inner)?.as_bool()? { yes.run(scope, inner) } else { no.run(scope, inner) }
            }
            Self::Sum(nodes) => sum(nodes, scope, inner),
            Self::List(nodes) => {
                let items = nodes.iter().map(|node| node.run(scope, inner)).collect::<Option<Vec<_>>>()?;
                Some(Item::List(items))
            }
            Self::Unary(function, node) => function(node.argument(scope, inner)?),
            Self::Binary(function, nodes) => {
                let [first, second] = nodes.as_ref();
                function(first.argument(scope, inner)?, second.argument(scope, inner)?)
            }
            Self::Ternary(function, nodes) => {
                let [first, second, third] = nodes.as_ref();
                function(first.argument(scope, inner)?, second.argument(scope, inner)?, third.argument(scope, inner)?)
            }
            Self::Index(nodes) => {
                let [container, key] = nodes.as_ref();
                index(container.run(scope, inner)?, &key.run(scope, inner)?)
            }
            Self::IndexOr(nodes) => {
                let [container, key, otherwise] = nodes.as_ref();
                let otherwise = otherwise.run(scope, inner)?;
                index_or(container.run(scope, inner)?, &key.run(scope, inner)?, otherwise)
            }
            Self::Arithmetic(what, nodes) => {
                let [left, right] = nodes.as_ref();
                arithmetic(*what, &left.run(scope, inner)?, &right.run(scope, inner)?)
            }
            Self::Negative(node) => match node.run(scope, inner)?.look() {
                Look::Int(i) => i.checked_neg().map(Item::Int),
                Look::Float(x) => Some(Item::Float(-x)),
                _ => None,
            },
            Self::Loop(of) => of.run(scope, inner),
            _ => self.truth(scope, inner).map(Item::Bool),
        }
    }

    /// What a function looks at: outside of loops once, within one again for each element.
    fn argument<'a>(&'a self, scope: Scope<'a>, inner: Inner<'_, 'a>) -> Option<Item<'a>> {
        let item = self.run(scope, inner)?;
        if inner.is_some() {
            scope.steps.take(item.steps())?;
        }
        Some(item)
    }

    /// What gives true or false, whatever it is given.
    fn truth<'a>(&'a self, scope: Scope<'a>, inner: Inner<'_, 'a>) -> Option<bool> {
        let both = |nodes: &'a [Node; 2]| Some((nodes[0].run(scope, inner)?, nodes[1].run(scope, inner)?));
        match self {
            Self::Not(node) => node.run(scope, inner)?.as_bool().map(|b| !b),
            // One side that decides is enough, whatever the other would say.
            Self::And(nodes) => match nodes[0].condition(scope, inner) {
                Some(false) => Some(false),
                left => match nodes[1].condition(scope, inner)? {
                    false => Some(false),
                    true => left,
                },
            },
            Self::Or(nodes) => match nodes[0].condition(scope, inner) {
                Some(true) => Some(true),
                left => match nodes[1].condition(scope, inner)? {
                    true => Some(true),
                    false => left,
                },
            },
            Self::Equal(nodes) => {
                both(nodes).and_then(|(left, right)| item::equal(left.look(), right.look(), scope.steps))
            }
            Self::Unequal(nodes) => both(nodes)
                .and_then(|(left, right)| item::equal(left.look(), right.look(), scope.steps))
                .map(|equal| !equal),
            Self::Compare(comparison, nodes) => {
                let (left, right) = both(nodes)?;
                item::compare(left.look(), right.look()).map(|order| comparison.holds(order))
            }
            Self::In(nodes) => {
                both(nodes).and_then(|(item, list)| item::contains(list.look(), item.look(), scope.steps))
            }
            Self::Matches(node, pattern) => Some(pattern.is_match(node.argument(scope, inner)?.as_text()?)),
            _ => None,
        }
    }

    fn condition<'a>(&'a self, scope: Scope<'a>, inner: Inner<'_, 'a>) -> Option<bool> {
        self.run(scope, inner)?.as_bool()
    }
}

fn variable<'a>(scope: Scope<'a>, mut variables: &Variables<'_, 'a>, up: usize) -> Option<Item<'a>> {
    for _ in 0..up {
        variables = variables.outer?;
    }
    if let Item::List(items) = variables.item {
        scope.steps.take(items.len())?;
    }
    Some(variables.item.clone())
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// The first says what kind of sum it is; the interpreter reports what doesn't fit to it.
fn sum<'a>(nodes: &'a [Node], scope: Scope<'a>, inner: Inner<'_, 'a>) -> Option<Item<'a>> {
    /// Room for what follows in a user name, a display name, an address.
    const MORE: usize = 40;
    let (first, rest) = nodes.split_first()?;
    let first = first.argument(scope, inner)?;
    match first.look() {
        Look::Text(_) => {
            let mut text = match first.into_text()? {
                Cow::Owned(text) => text,
                Cow::Borrowed(start) => {
                    let mut text = String::with_capacity(start.len() + MORE);
                    text.push_str(start);
                    text
                }
            };
            for node in rest {
                text.push_str(node.argument(scope, inner)?.as_text()?);
            }
            Some(Item::Text(Cow::Owned(text)))
        }
        Look::List(_) => {
            let mut items = first.into_items()?;
            for node in rest {
                match node.argument(scope, inner)? {
                    Item::Held(Value::List(more)) => items.extend(more.iter().map(Item::Held)),
                    more => items.append(&mut more.into_items()?),
                }
            }
            Some(Item::List(items))
        }
        Look::Int(mut total) => {
            for node in rest {
                total = total.checked_add(node.run(scope, inner)?.as_int()?)?;
            }
            Some(Item::Int(total))
        }
        Look::Float(mut total) => {
            for node in rest {
                match node.run(scope, inner)?.look() {
                    Look::Float(x) => total += x,
                    _ => return None,
                }
            }
            Some(Item::Float(total))
        }
        _ => None,
    }
}

fn arithmetic<'a>(what: Arithmetic, left: &Item<'a>, right: &Item<'a>) -> Option<Item<'a>> {
    match (left.look(), right.look()) {
        (Look::Int(a), Look::Int(b)) => match what {
            Arithmetic::Minus => a.checked_sub(b),
            Arithmetic::Times => a.checked_mul(b),
            Arithmetic::Divided => a.checked_div(b),
            Arithmetic::Remainder => a.checked_rem(b),
        }
        .map(Item::Int),
        (Look::Float(a), Look::Float(b)) => match what {
            Arithmetic::Minus => Some(a - b),
            Arithmetic::Times => Some(a * b),
            Arithmetic::Divided => Some(a / b),
            Arithmetic::Remainder => None,
        }
        .map(Item::Float),
        _ => None,
    }
}

fn index<'a>(container: Item<'a>, key: &Item<'a>) -> Option<Item<'a>> {
    match container {
        Item::Table(table) => table.get(key.as_text()?).map(Item::Held),
        Item::Held(Value::List(items)) => items.get(usize::try_from(key.as_int()?).ok()?).map(Item::Held),
        Item::List(mut items) => {
            let at = usize::try_from(key.as_int()?).ok()?;
            (at < items.len()).then(|| items.swap_remove(at))
        }
        _ => None,
    }
}

/// What can't be found, for whatever reason, is `otherwise`.
fn index_or<'a>(container: Item<'a>, key: &Item<'a>, otherwise: Item<'a>) -> Option<Item<'a>> {
    // A decimal number may stand for a place.
    match key.look() {
        Look::Float(_) => None,
        _ => Some(index(container, key).unwrap_or(otherwise)),
    }
}

impl Loop {
    fn run<'a>(&'a self, scope: Scope<'a>, outer: Inner<'_, 'a>) -> Option<Item<'a>> {
        let over = self.over.run(scope, outer)?;
        match over {
            Item::Held(Value::List(items)) => self.what.run(scope, outer, items.iter().map(Item::Held)),
            Item::List(items) => self.what.run(scope, outer, items.into_iter()),
            _ => None,
        }
    }
}

impl Gathering {
    fn run<'a>(
        &'a self,
        scope: Scope<'a>,
        outer: Inner<'_, 'a>,
        items: impl ExactSizeIterator<Item = Item<'a>>,
    ) -> Option<Item<'a>> {
        match self {
            Self::Exists(condition) => any(condition, true, scope, outer, items).map(Item::Bool),
            Self::All(condition) => any(condition, false, scope, outer, items).map(|found| Item::Bool(!found)),
            Self::ExistsOne(condition) => {
                let mut found = 0usize;
                for item in items {
                    scope.steps.take(1)?;
                    let variables = Variables { item: &item, outer };
                    found += usize::from(condition.condition(scope, Some(&variables))?);
                }
                Some(Item::Bool(found == 1))
            }
            Self::Map { filter, element } => {
                let mut found = Vec::with_capacity(items.len());
                for item in items {
                    scope.steps.take(1)?;
                    let variables = Variables { item: &item, outer };
                    if let Some(filter) = filter
                        && !filter.condition(scope, Some(&variables))?
                    {
                        continue;
                    }
                    match element {
                        Node::Variable(0) => found.push(item),
                        element => found.push(element.run(scope, Some(&variables))?),
                    }
                }
                Some(Item::List(found))
            }
        }
    }
}

/// Whether the condition is `wanted` for some element: one that decides is enough, whatever the others would say.
fn any<'a>(
    condition: &'a Node,
    wanted: bool,
    scope: Scope<'a>,
    outer: Inner<'_, 'a>,
    items: impl Iterator<Item = Item<'a>>,
) -> Option<bool> {
    let mut all_known = true;
    for item in items {
        scope.steps.take(1)?;
        let variables = Variables { item: &item, outer };
        match condition.condition(scope, Some(&variables)) {
            Some(found) if found == wanted => return Some(true),
            Some(_) => {}
            None => all_known = false,
        }
    }
    all_known.then_some(false)
}
