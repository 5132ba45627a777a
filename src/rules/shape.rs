//! What can be said of an expression without running it: which attributes it reads, whether every name and function in it
//! exists, and what type it results in.
//!
//! The CEL crate has no type checker. This one is modest: `Shape::Any` where it isn't sure, so that it never refuses what
//! would work. With one exception: an attribute that alone is a condition has to be mapped as `bool`, and one that is less or
//! more than a number as `int`. Text in its place would fail for everybody, and nobody would ever leave.

use super::diagnostic::{PATTERN_HELP, known_names, pattern_problem};
use super::expression::{CompileError, MAX_DEPTH, MAX_LOOPS, operator_name};
use super::function::{Gives, MACROS, SIGNATURES};
use cel::Program;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use std::collections::{BTreeMap, BTreeSet};

/// The type of a value, as far as it is known before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    Any,
    Null,
    Bool,
    Int,
    Float,
    Text,
    /// What a source maps as `text`: text, or whatever other single value came in its place.
    Scalar,
    List,
    Map,
}

/// The attributes an expression may use, and their shape. Any of them may be null.
pub type Names = BTreeMap<String, Shape>;

/// The tables, and the shape of what they hold.
pub type TableShapes = BTreeMap<String, Shape>;

/// What the check found out.
#[derive(Debug)]
pub struct Checked {
    pub attributes: BTreeSet<String>,
    pub shape: Shape,
    /// It reads nothing: its value is the same for everybody.
    pub fixed: bool,
    /// Levels of the tree.
    pub depth: usize,
}

impl Shape {
    /// In the words of the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Int => "a number",
            Self::Float => "a decimal number",
            Self::Text | Self::Scalar => "text",
            Self::List => "a list",
            Self::Map => "a map",
        }
    }

    /// Of what is either the one or the other.
    pub fn or(self, other: Self) -> Self {
        let single = |shape| matches!(shape, Self::Int | Self::Float | Self::Text | Self::Scalar);
        match (self, other) {
            (one, other) if one == other => one,
            (Self::Int | Self::Float, Self::Int | Self::Float) => Self::Float,
            (one, other) if single(one) && single(other) => Self::Scalar,
            _ => Self::Any,
        }
    }

    /// Values of both may be of one type.
    fn fits(self, other: Self) -> bool {
        let unknown = |shape| matches!(shape, Self::Any | Self::Null);
        let single = |shape| matches!(shape, Self::Bool | Self::Int | Self::Float | Self::Text | Self::Scalar);
        match (self, other) {
            (one, other) if one == other || unknown(one) || unknown(other) => true,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => true,
            (Self::Scalar, other) | (other, Self::Scalar) => single(other),
            _ => false,
        }
    }

    /// A value of this shape is surely neither true nor false.
    pub fn is_no_condition(self) -> bool {
        !matches!(self, Self::Any | Self::Bool)
    }
}

pub fn check(program: &Program, text: &str, names: &Names, tables: &TableShapes) -> Result<Checked, Vec<CompileError>> {
    let mut checker = Checker {
        program,
        text,
        names,
        tables,
        bound: Vec::new(),
        attributes: BTreeSet::new(),
        fixed: true,
        level: 0,
        depth: 0,
        errors: Vec::new(),
    };
    let shape = checker.visit(program.expression());
    if checker.depth > MAX_DEPTH {
        let mut error = CompileError::whole(text, format!("the expression is more than {MAX_DEPTH} levels deep"));
        error.help = Some("put what varies into a table of entitlements.yaml, or write several rules".to_owned());
        checker.errors = vec![error];
    }
    match checker.errors.is_empty() {
        true => Ok(Checked { attributes: checker.attributes, shape, fixed: checker.fixed, depth: checker.depth }),
        false => Err(checker.errors),
    }
}

struct Checker<'a> {
    program: &'a Program,
    text: &'a str,
    names: &'a Names,
    tables: &'a TableShapes,
    /// Variables of the loops around.
    bound: Vec<String>,
    attributes: BTreeSet<String>,
    fixed: bool,
    level: usize,
    depth: usize,
    errors: Vec<CompileError>,
}

impl Checker<'_> {
    fn visit(&mut self, expr: &IdedExpr) -> Shape {
        self.level += 1;
        self.depth = self.depth.max(self.level);
        let shape = self.shape_of(expr);
        self.level -= 1;
        shape
    }

    fn shape_of(&mut self, expr: &IdedExpr) -> Shape {
        match &expr.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Shape::Bool,
                LiteralValue::Int(_) | LiteralValue::UInt(_) => Shape::Int,
                LiteralValue::Double(_) => Shape::Float,
                LiteralValue::String(_) => Shape::Text,
                LiteralValue::Null => Shape::Null,
                LiteralValue::Bytes(_) => Shape::Any,
            },
            Expr::Ident(name) => self.name(name, expr.id),
            Expr::Select(select) => {
                self.table(&select.operand.expr, &select.field, select.operand.id);
                let operand = self.visit(&select.operand);
                if matches!(
                    operand,
                    Shape::Bool | Shape::Int | Shape::Float | Shape::Text | Shape::Scalar | Shape::List
                ) {
                    self.error(
                        select.operand.id,
                        format!("`.{}` asks for a field of {}, which has none", select.field, operand.name()),
                        Some("write the attribute's name alone: paths stand where the source maps it".to_owned()),
                    );
                }
                if select.test { Shape::Bool } else { self.entry_of(&select.operand) }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element);
                }
                Shape::List
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    self.entry(&entry.expr);
                }
                Shape::Map
            }
            Expr::Struct(of) => {
                self.error(expr.id, format!("there are no objects like `{}` here", of.type_name), None);
                Shape::Any
            }
            Expr::Comprehension(of) => {
                self.visit(&of.iter_range);
                self.visit(&of.accu_init);
                let outer = self.bound.len();
                self.bound.extend([of.iter_var.clone(), of.accu_var.clone()]);
                self.bound.extend(of.iter_var2.clone());
                let loops = self.bound.iter().filter(|name| name.as_str() == of.accu_var).count();
                if loops > MAX_LOOPS {
                    self.error(expr.id, format!("loops in loops may be {MAX_LOOPS} deep at most"), None);
                }
                self.visit(&of.loop_cond);
                let step = self.visit(&of.loop_step);
                let result = self.visit(&of.result);
                self.bound.truncate(outer);
                // The result is the accumulator, whose shape is that of its first value.
                match (result, self.literal_shape(&of.accu_init)) {
                    (Shape::Any, Shape::Any) => step,
                    (Shape::Any, shape) => shape,
                    (shape, _) => shape,
                }
            }
            Expr::Call(call) => self.call(call, expr.id),
            Expr::Unspecified => Shape::Any,
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
            EntryExpr::StructField(field) => {
                self.visit(&field.value);
            }
        }
    }

    fn literal_shape(&self, expr: &IdedExpr) -> Shape {
        match &expr.expr {
            Expr::List(_) => Shape::List,
            Expr::Literal(LiteralValue::Boolean(_)) => Shape::Bool,
            _ => Shape::Any,
        }
    }

    fn name(&mut self, name: &str, id: u64) -> Shape {
        const TYPES: &[&str] =
            &["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];
        if self.bound.iter().any(|bound| bound == name) || name.starts_with('@') {
            return Shape::Any;
        }
        if let Some(shape) = self.names.get(name) {
            self.attributes.insert(name.to_owned());
            self.fixed = false;
            return *shape;
        }
        match name {
            "kind" => {
                self.fixed = false;
                Shape::Text
            }
            "tables" => Shape::Map,
            _ if TYPES.contains(&name) => Shape::Any,
            _ => {
                let known = self.names.keys().map(String::as_str).chain(["tables", "kind"]);
                let help = known_names(name, "attributes", known);
                self.error(id, format!("no attribute is named `{name}`"), Some(help));
                if let Some(error) = self.errors.last_mut() {
                    error.undeclared = Some(name.to_owned());
                }
                Shape::Any
            }
        }
    }

    /// `tables.x`: there has to be a table x.
    fn table(&mut self, operand: &Expr, field: &str, id: u64) {
        let of_tables = matches!(operand, Expr::Ident(name) if name == "tables") && !self.names.contains_key("tables");
        if of_tables && !self.tables.contains_key(field) {
            let help = known_names(field, "tables", self.tables.keys().map(String::as_str));
            self.error(id, format!("no table is named `{field}`"), Some(help));
            // Shown is the operand; meant is the field after its dot, where it stands right there.
            let text: Vec<char> = self.text.chars().collect();
            if let Some(error) = self.errors.last_mut() {
                let start = error.at + "tables.".len();
                let width = field.chars().count();
                if text.get(start..start + width).is_some_and(|chars| chars.iter().copied().eq(field.chars())) {
                    (error.at, error.width) = (start, width);
                }
            }
        }
    }

    /// What a table holds, where `of` is one.
    fn entry_of(&self, of: &IdedExpr) -> Shape {
        match &of.expr {
            Expr::Select(select) if matches!(&select.operand.expr, Expr::Ident(name) if name == "tables") => {
                self.tables.get(&select.field).copied().unwrap_or(Shape::Any)
            }
            _ => Shape::Any,
        }
    }

    fn call(&mut self, call: &CallExpr, id: u64) -> Shape {
        let namespace = call.target.as_ref().is_some_and(
            |target| matches!(&target.expr, Expr::Ident(name) if ["optional", "strings"].contains(&name.as_str())),
        );
        let target = match &call.target {
            Some(target) if !namespace => Some(self.visit(target)),
            _ => None,
        };
        let args: Vec<Shape> = call.args.iter().map(|arg| self.visit(arg)).collect();
        if namespace {
            return Shape::Any;
        }
        match operator(&call.func_name, &args) {
            Some(shape) => {
                self.operands(call, &args, id);
                match call.args.as_slice() {
                    [container, _] if call.func_name == operators::INDEX => self.entry_of(container),
                    _ => shape,
                }
            }
            None => {
                let given = self.function(call, target.is_some(), id);
                match (call.func_name.as_str(), call.args.as_slice(), args.as_slice()) {
                    ("default", _, [value, otherwise]) => value.or(*otherwise),
                    ("lookup", [table, ..], [_, _, otherwise]) => self.entry_of(table).or(*otherwise),
                    _ => given,
                }
            }
        }
    }

    /// `a == 'x'`, `a < 1` and `a && b` where the types can't fit.
    fn operands(&mut self, call: &CallExpr, args: &[Shape], id: u64) {
        match (call.func_name.as_str(), args) {
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) if !left.fits(*right) => {
                self.error(
                    id,
                    format!("{} is never equal to {}", left.name(), right.name()),
                    Some("compare values of the same type: `x == 'text'`, `x == 1`, `x == true`".to_owned()),
                );
            }
            (operators::IN, [_, list])
                if matches!(list, Shape::Bool | Shape::Int | Shape::Float | Shape::Text | Shape::Scalar) =>
            {
                self.error(
                    id,
                    format!("`in` looks into a list, not into {}", list.name()),
                    Some("map it with `type: list`, or write `x.contains('text')`".to_owned()),
                );
            }
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                [left, right],
            ) if self.is_text_beside_a_number(call, *left, *right) => {
                self.error(
                    id,
                    format!("{} can't be used on {} and {}", operator_name(&call.func_name), left.name(), right.name()),
                    Some("map the attribute with `type: int`, or write `double(x) > 1.0`".to_owned()),
                );
            }
            (
                operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::ADD
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO,
                [left, right],
            ) if !left.fits(*right) => {
                let name = operator_name(&call.func_name);
                self.error(
                    id,
                    format!("{name} can't be used on {} and {}", left.name(), right.name()),
                    Some("use values of the same type: `string(x)` gives text, `int(x)` a number".to_owned()),
                );
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT | operators::CONDITIONAL, _) => {
                let conditions = if call.func_name == operators::CONDITIONAL { 1 } else { args.len() };
                for (shape, arg) in args.iter().zip(&call.args).take(conditions) {
                    if shape.is_no_condition() {
                        self.error(
                            arg.id,
                            format!("true or false belongs here, not {}", shape.name()),
                            Some("compare with something: `x == 'text'`, `x > 0`, `x != null`".to_owned()),
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// An attribute that is mapped as `text`, alone on one side of a comparison with a number.
    fn is_text_beside_a_number(&self, call: &CallExpr, left: Shape, right: Shape) -> bool {
        let number = |shape| matches!(shape, Shape::Int | Shape::Float);
        let text = |shape, arg: &IdedExpr| shape == Shape::Scalar && matches!(arg.expr, Expr::Ident(_));
        match call.args.as_slice() {
            [a, b] => text(left, a) && number(right) || number(left) && text(right, b),
            _ => false,
        }
    }

    fn function(&mut self, call: &CallExpr, method: bool, id: u64) -> Shape {
        let name = call.func_name.as_str();
        let named: Vec<_> = SIGNATURES.iter().filter(|signature| signature.name == name).collect();
        let Some(right) = named.iter().find(|signature| signature.method == method) else {
            let (message, help) = match named.first() {
                Some(other) if other.method => (
                    format!("`{name}` is written after its text"),
                    format!("write `x.{name}(…)` instead of `{name}(x, …)`"),
                ),
                Some(_) => (
                    format!("`{name}` is written before its arguments"),
                    format!("write `{name}(x, …)` instead of `x.{name}(…)`"),
                ),
                None if MACROS.contains(&name) => (
                    format!("`{name}` is called with the wrong arguments"),
                    "write `has(x.y)`, `list.exists(x, x == 'a')`, `list.map(x, x + 'a')`, `list.filter(x, x != 'a')`"
                        .to_owned(),
                ),
                None => {
                    let names = SIGNATURES.iter().map(|signature| signature.name).chain(MACROS.iter().copied());
                    (format!("no function is named `{name}`"), known_names(name, "functions", names))
                }
            };
            self.error(id, message, Some(help));
            return Shape::Any;
        };
        if !right.arguments.contains(&call.args.len()) {
            let wanted: Vec<_> = right.arguments.iter().map(usize::to_string).collect();
            self.error(
                id,
                format!("`{name}` takes {} argument(s), not {}", wanted.join(" or "), call.args.len()),
                None,
            );
        }
        if name == "matches" {
            self.pattern(call);
        }
        match right.gives {
            Gives::Bool => Shape::Bool,
            Gives::Int => Shape::Int,
            // As any attribute, it may be null.
            Gives::Text | Gives::TextOrNull => Shape::Text,
            Gives::List | Gives::ListOrNull => Shape::List,
            Gives::Any => Shape::Any,
        }
    }

    /// A pattern that is written out has to be one.
    fn pattern(&mut self, call: &CallExpr) {
        let Some(arg) = call.args.last() else { return };
        if let Expr::Literal(LiteralValue::String(pattern)) = &arg.expr
            && let Err(error) = regex::Regex::new(pattern.inner())
        {
            self.error(arg.id, pattern_problem(&error), Some(PATTERN_HELP.to_owned()));
        }
    }

    /// A call is known by its bracket; people look for its name.
    fn name_before_bracket(&self, at: usize) -> Option<(usize, usize)> {
        let chars: Vec<char> = self.text.chars().take(at + 1).collect();
        let (bracket, before) = chars.split_last()?;
        let width = before.iter().rev().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').count();
        (*bracket == '(' && width > 0).then_some((at - width, width))
    }

    fn error(&mut self, id: u64, message: String, help: Option<String>) {
        let length = self.text.chars().count();
        let (at, width) = match self.program.source_info().offset_for(id) {
            // The lexer counts bytes, the last one included.
            Some((start, stop)) => {
                let chars = |end: usize| self.text.char_indices().take_while(|(at, _)| *at < end).count();
                let (start, end) = (chars(start as usize), chars(stop as usize + 1));
                (start, end.saturating_sub(start))
            }
            None => (0, length),
        };
        let (at, width) = self.name_before_bracket(at).unwrap_or((at, width));
        let at = at.min(length.saturating_sub(1));
        let width = width.clamp(1, (length - at).max(1));
        let error = CompileError { message, help, at, width, undeclared: None };
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}

/// What an operator results in; None: it is a function.
fn operator(name: &str, args: &[Shape]) -> Option<Shape> {
    Some(match name {
        operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::IN
        | operators::NOT_STRICTLY_FALSE => Shape::Bool,
        operators::CONDITIONAL => match args {
            [_, yes, no] => yes.or(*no),
            _ => Shape::Any,
        },
        // Both sides have the same type, or it fails.
        operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
            let mut known = args.iter().copied().filter(|shape| *shape != Shape::Any);
            let first = known.clone().next();
            // The other side says which of them it is.
            known.find(|shape| *shape != Shape::Scalar).or(first).unwrap_or(Shape::Any)
        }
        operators::NEGATE => args.first().copied().unwrap_or(Shape::Any),
        operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => Shape::Any,
        _ => return None,
    })
}
