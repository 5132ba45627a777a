//! From the checked expression to a program. None wherever a program might say anything else than the interpreter: the
//! expression is then left to it as a whole.

use super::item::{Item, Look};
use super::{Arithmetic, Binary, Comparison, Gathering, Loop, Node, Program, Table, Ternary, Unary, text};
use crate::model::Value;
use crate::rules::merged::Slots;
use crate::rules::shape::Names;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names by which functions with a dot in theirs are called: not to be taken for values.
const NAMESPACES: [&str; 2] = ["optional", "strings"];

/// What the names in an expression stand for.
#[derive(Debug)]
pub struct Lowering<'a> {
    pub slots: &'a Slots,
    /// The attributes that the expression may use.
    pub names: &'a Names,
    pub tables: &'a BTreeMap<String, Arc<Table>>,
}

/// The program of an expression that was checked; None: it is one for the interpreter.
pub fn lower(expression: &IdedExpr, lowering: &Lowering<'_>) -> Option<Program> {
    Lower { lowering, bound: Vec::new() }.node(expression).map(Program)
}

struct Lower<'a> {
    lowering: &'a Lowering<'a>,
    /// Variables of the loops around, the outermost first.
    bound: Vec<&'a str>,
}

impl<'a> Lower<'a> {
    fn node(&mut self, expression: &'a IdedExpr) -> Option<Node> {
        match &expression.expr {
            Expr::Literal(literal) => constant(literal).map(Node::Constant),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) if !select.test => {
                if matches!(&select.operand.expr, Expr::Ident(name) if name == "tables" && !self.is_bound(name)) {
                    return self.lowering.tables.get(&select.field).map(|table| Node::Table(Arc::clone(table)));
                }
                let operand = self.node(&select.operand)?;
                let of_table = matches!(operand, Node::Table(_));
                of_table.then(|| Node::Index(Box::new([operand, Node::Constant(Value::text(select.field.as_str()))])))
            }
            Expr::List(list) if list.optional_indices.is_empty() => {
                let nodes = list.elements.iter().map(|element| self.node(element)).collect::<Option<Vec<_>>>()?;
                Some(list_of(nodes))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(of) => self.comprehension(of),
            _ => None,
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.contains(&name)
    }

    fn name(&self, name: &str) -> Option<Node> {
        if let Some(up) = self.bound.iter().rev().position(|bound| *bound == name) {
            return Some(Node::Variable(up));
        }
        match name {
            _ if self.lowering.names.contains_key(name) => self.lowering.slots.of(name).map(Node::Attribute),
            "kind" => Some(Node::Kind),
            _ => None,
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Option<Node> {
        match (&call.target, call.args.as_slice()) {
            (None, args) => match self.operator(&call.func_name, args) {
                Some(node) => Some(node),
                None => self.function(&call.func_name, args),
            },
            (Some(target), args) => self.method(target, &call.func_name, args),
        }
    }

    fn two(&mut self, left: &'a IdedExpr, right: &'a IdedExpr) -> Option<Box<[Node; 2]>> {
        Some(Box::new([self.node(left)?, self.node(right)?]))
    }

    fn three(&mut self, [a, b, c]: [&'a IdedExpr; 3]) -> Option<Box<[Node; 3]>> {
        Some(Box::new([self.node(a)?, self.node(b)?, self.node(c)?]))
    }

    fn operator(&mut self, name: &str, args: &'a [IdedExpr]) -> Option<Node> {
        Some(match (name, args) {
            (operators::LOGICAL_NOT, [of]) => Node::Not(Box::new(self.node(of)?)),
            (operators::NEGATE, [of]) => Node::Negative(Box::new(self.node(of)?)),
            (operators::LOGICAL_AND, [left, right]) => Node::And(self.two(left, right)?),
            (operators::LOGICAL_OR, [left, right]) => Node::Or(self.two(left, right)?),
            (operators::EQUALS, [left, right]) => Node::Equal(self.two(left, right)?),
            (operators::NOT_EQUALS, [left, right]) => Node::Unequal(self.two(left, right)?),
            (operators::IN, [left, right]) => Node::In(self.two(left, right)?),
            (operators::INDEX, [container, key]) => Node::Index(self.two(container, key)?),
            (operators::CONDITIONAL, [condition, yes, no]) => Node::Choice(self.three([condition, yes, no])?),
            (operators::ADD, [left, right]) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                // From the left, as it is summed up: `a + (b + c)` stays as it is.
                let mut nodes = match left {
                    Node::Sum(nodes) => nodes,
                    left => vec![left],
                };
                nodes.push(right);
                Node::Sum(nodes)
            }
            (name, [left, right]) => {
                if let Some(comparison) = comparison(name) {
                    return Some(Node::Compare(comparison, self.two(left, right)?));
                }
                Node::Arithmetic(arithmetic(name)?, self.two(left, right)?)
            }
            _ => return None,
        })
    }

    fn function(&mut self, name: &str, args: &'a [IdedExpr]) -> Option<Node> {
        match args {
            [of] => Some(Node::Unary(unary(name)?, Box::new(self.node(of)?))),
            [of, pattern] if name == "matches" => self.matches(of, pattern),
            [first, second] => Some(Node::Binary(binary(name)?, self.two(first, second)?)),
            [first, second, third] => Some(Node::Ternary(ternary(name)?, self.three([first, second, third])?)),
            _ => None,
        }
    }

    fn method(&mut self, target: &'a IdedExpr, name: &str, args: &'a [IdedExpr]) -> Option<Node> {
        if matches!(root(target), Some(name) if NAMESPACES.contains(&name)) {
            return None;
        }
        match args {
            [] => Some(Node::Unary(unary_method(name)?, Box::new(self.node(target)?))),
            [pattern] if name == "matches" => self.matches(target, pattern),
            [otherwise] if name == "orValue" => match &target.expr {
                Expr::Call(call) if call.func_name == operators::OPT_INDEX && call.target.is_none() => {
                    let [container, key] = call.args.as_slice() else { return None };
                    Some(Node::IndexOr(self.three([container, key, otherwise])?))
                }
                _ => None,
            },
            [one] => Some(Node::Binary(binary_method(name)?, self.two(target, one)?)),
            [one, two] => Some(Node::Ternary(ternary_method(name)?, self.three([target, one, two])?)),
            _ => None,
        }
    }

    /// A pattern that is written out is compiled once.
    fn matches(&mut self, of: &'a IdedExpr, pattern: &IdedExpr) -> Option<Node> {
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else { return None };
        let pattern = regex::Regex::new(pattern.inner()).ok()?;
        Some(Node::Matches(Box::new(self.node(of)?), Box::new(pattern)))
    }

    /// The macros leave a comprehension behind, each of its own form; others can't be written.
    fn comprehension(&mut self, of: &'a ComprehensionExpr) -> Option<Node> {
        if of.iter_var2.is_some() || NAMESPACES.contains(&of.iter_var.as_str()) {
            return None;
        }
        let over = self.node(&of.iter_range)?;
        self.bound.push(&of.iter_var);
        let what = self.gathering(of);
        self.bound.pop();
        Some(Node::Loop(Box::new(Loop { over, what: what? })))
    }

    fn gathering(&mut self, of: &'a ComprehensionExpr) -> Option<Gathering> {
        let Expr::Call(step) = &of.loop_step.expr else { return None };
        let is_result = |of_: &IdedExpr| matches!(&of_.expr, Expr::Ident(name) if *name == of.accu_var);
        let appended = |of_: &'a IdedExpr| match &of_.expr {
            Expr::Call(call) if call.func_name == operators::ADD => match call.args.as_slice() {
                [result, list] if is_result(result) => match &list.expr {
                    Expr::List(list) if list.optional_indices.is_empty() => match list.elements.as_slice() {
                        [element] => Some(element),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        let empty_list = matches!(&of.accu_init.expr, Expr::List(list) if list.elements.is_empty());
        match (step.func_name.as_str(), step.args.as_slice(), &of.accu_init.expr) {
            (operators::LOGICAL_OR, [result, condition], Expr::Literal(LiteralValue::Boolean(start)))
                if is_result(result) && !*start.inner() && is_result(&of.result) =>
            {
                Some(Gathering::Exists(self.node(condition)?))
            }
            (operators::LOGICAL_AND, [result, condition], Expr::Literal(LiteralValue::Boolean(start)))
                if is_result(result) && *start.inner() && is_result(&of.result) =>
            {
                Some(Gathering::All(self.node(condition)?))
            }
            (operators::ADD, _, _) if empty_list && is_result(&of.result) => {
                Some(Gathering::Map { filter: None, element: self.node(appended(&of.loop_step)?)? })
            }
            (operators::CONDITIONAL, [filter, step, otherwise], _)
                if empty_list && is_result(otherwise) && is_result(&of.result) =>
            {
                let element = appended(step)?;
                Some(Gathering::Map { filter: Some(self.node(filter)?), element: self.node(element)? })
            }
            (operators::CONDITIONAL, [condition, _, otherwise], Expr::Literal(LiteralValue::Int(start)))
                if *start.inner() == 0 && is_result(otherwise) && is_exactly_one(&of.result, &of.accu_var) =>
            {
                Some(Gathering::ExistsOne(self.node(condition)?))
            }
            _ => None,
        }
    }
}

/// `@result == 1`, by which `exists_one` ends.
fn is_exactly_one(result: &IdedExpr, accumulator: &str) -> bool {
    let Expr::Call(call) = &result.expr else { return false };
    let is_one = |of: &IdedExpr| matches!(&of.expr, Expr::Literal(LiteralValue::Int(one)) if *one.inner() == 1);
    let is_result = |of: &IdedExpr| matches!(&of.expr, Expr::Ident(name) if name == accumulator);
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::EQUALS, [left, right]) => is_result(left) && is_one(right),
        _ => false,
    }
}

/// What a dotted name begins with.
fn root(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) => root(&select.operand),
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> Option<Value> {
    Some(match literal {
        LiteralValue::Boolean(b) => Value::Bool(*b.inner()),
        LiteralValue::Int(i) => Value::Int(*i.inner()),
        LiteralValue::Double(x) => Value::Float(*x.inner()),
        LiteralValue::String(text) => Value::text(text.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::UInt(_) | LiteralValue::Bytes(_) => return None,
    })
}

/// A list that is written out is held by the program, so that looking into it makes nothing.
fn list_of(nodes: Vec<Node>) -> Node {
    let all = nodes.iter().all(|node| matches!(node, Node::Constant(_)));
    if !all {
        return Node::List(nodes);
    }
    let values = nodes.into_iter().filter_map(|node| match node {
        Node::Constant(value) => Some(value),
        _ => None,
    });
    Node::Constant(Value::List(values.collect()))
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::LessOrEqual,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::SUBSTRACT => Arithmetic::Minus,
        operators::MULTIPLY => Arithmetic::Times,
        operators::DIVIDE => Arithmetic::Divided,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

/// Null stays null: an absent attribute stays absent.
fn on_text<'a>(item: Item<'a>, change: fn(Cow<'a, str>) -> Cow<'a, str>) -> Option<Item<'a>> {
    match item.is_null() {
        true => Some(item),
        false => item.into_text().map(change).map(Item::Text),
    }
}

fn unary(name: &str) -> Option<Unary> {
    Some(match name {
        "lower" => |item| on_text(item, text::lower),
        "upper" => |item| on_text(item, text::upper),
        "trim" => |item| on_text(item, text::trim),
        "ascii" => |item| on_text(item, text::ascii),
        "size" => size,
        "string" => string,
        _ => return None,
    })
}

fn unary_method(name: &str) -> Option<Unary> {
    Some(match name {
        "lowerAscii" => |item| item.into_text().map(text::lower_ascii).map(Item::Text),
        "upperAscii" => |item| item.into_text().map(text::upper_ascii).map(Item::Text),
        "trim" => |item| item.into_text().map(text::trim).map(Item::Text),
        "size" => size,
        "join" => |list| join_all(&list, "", false),
        _ => return None,
    })
}

fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        "default" => |item, otherwise| {
            let absent = item.is_null() || item.as_text().is_some_and(str::is_empty);
            Some(if absent { otherwise } else { item })
        },
        "join" => |list, separator| match list.is_null() {
            true => Some(list),
            false => join_all(&list, separator.as_text()?, true),
        },
        "split" => |item, separator| {
            if item.is_null() {
                return Some(item);
            }
            let separator = separator.as_text()?;
            let text = item.into_text()?;
            (!separator.is_empty()).then(|| Item::List(text::split(text, separator)))
        },
        _ => return None,
    })
}

fn binary_method(name: &str) -> Option<Binary> {
    Some(match name {
        "contains" => |item, part| Some(Item::Bool(item.as_text()?.contains(part.as_text()?))),
        "startsWith" => |item, part| Some(Item::Bool(item.as_text()?.starts_with(part.as_text()?))),
        "endsWith" => |item, part| Some(Item::Bool(item.as_text()?.ends_with(part.as_text()?))),
        "indexOf" => |item, part| Some(Item::Int(text::first_index(item.as_text()?, part.as_text()?))),
        "lastIndexOf" => |item, part| Some(Item::Int(text::last_index(item.as_text()?, part.as_text()?))),
        "join" => |list, separator| join_all(&list, separator.as_text()?, false),
        "split" => |item, separator| Some(Item::List(text::split(item.into_text()?, separator.as_text()?))),
        "charAt" => |item, at| {
            let (text, at) = (item.into_text()?, usize::try_from(at.as_int()?).ok()?);
            (at <= text::length(&text)).then(|| Item::Text(text::part(text, at, at + 1)))
        },
        "substring" => |item, from| {
            let (text, from) = (item.into_text()?, usize::try_from(from.as_int()?).ok()?);
            (from <= text::length(&text)).then(|| Item::Text(text::part(text, from, usize::MAX)))
        },
        _ => return None,
    })
}

fn ternary(name: &str) -> Option<Ternary> {
    Some(match name {
        "lookup" => |table, key, otherwise| match (table.look(), key.look()) {
            (_, Look::Null) => Some(otherwise),
            (Look::Table(_), Look::Bool(_) | Look::Int(_)) => Some(otherwise),
            (Look::Table(_), Look::Text(key)) => match &table {
                Item::Table(table) => Some(table.get(key).map_or(otherwise, Item::Held)),
                _ => None,
            },
            _ => None,
        },
        "substring" => |item, from, to| {
            if item.is_null() {
                return Some(item);
            }
            let place = |item: &Item<'_>| item.as_int().map(|at| usize::try_from(at).unwrap_or(0));
            let (from, to) = (place(&from)?, place(&to)?);
            Some(Item::Text(text::part(item.into_text()?, from, to)))
        },
        _ => return None,
    })
}

fn ternary_method(name: &str) -> Option<Ternary> {
    Some(match name {
        "replace" => {
            |item, from, to| Some(Item::Text(text::replace(item.into_text()?, from.as_text()?, to.as_text()?)))
        }
        "substring" => |item, from, to| {
            let place = |item: &Item<'_>| usize::try_from(item.as_int()?).ok();
            let (text, from, to) = (item.into_text()?, place(&from)?, place(&to)?);
            (from <= to && to <= text::length(&text)).then(|| Item::Text(text::part(text, from, to)))
        },
        _ => return None,
    })
}

fn size(item: Item<'_>) -> Option<Item<'_>> {
    let size = match item.look() {
        Look::Text(text) => text::length(text),
        Look::List(items) => items.len(),
        Look::Table(table) => table.len(),
        _ => return None,
    };
    i64::try_from(size).ok().map(Item::Int)
}

fn string(item: Item<'_>) -> Option<Item<'_>> {
    let text = match item.look() {
        Look::Text(_) => return Some(item),
        Look::Int(i) => i.to_string(),
        Look::Bool(b) => b.to_string(),
        _ => return None,
    };
    Some(Item::Text(Cow::Owned(text)))
}

/// The texts of a list in one, where null may be left out.
fn join_all<'a>(list: &Item<'a>, separator: &str, skip_null: bool) -> Option<Item<'a>> {
    let Look::List(items) = list.look() else { return None };
    let (mut joined, mut first) = (String::new(), true);
    for item in items.iter() {
        let part = match item {
            Look::Text(part) => part,
            Look::Null if skip_null => continue,
            _ => return None,
        };
        if !std::mem::take(&mut first) {
            joined.push_str(separator);
        }
        joined.push_str(part);
    }
    Some(Item::Text(Cow::Owned(joined)))
}
