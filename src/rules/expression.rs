//! The one type around the CEL interpreter: all that the rest of Lockstep knows of expressions.
//!
//! Length, nesting and the number of operators are bounded before the text is parsed, and names are checked before anything
//! runs. An evaluation sees the identity's attributes (each declared one is defined, null when absent), `tables` and `kind`,
//! and can reach nothing else. An error at run time holds no value; a panic of the crate is such an error.

use super::function;
use super::shape::{self, Names, Shape};
use crate::model::{Attributes, Value};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, Kind};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Longer ones belong into a table or into several rules.
pub const MAX_BYTES: usize = 4096;
/// Brackets in brackets: the parser recurses some ten frames for each.
pub const MAX_NESTING: usize = 20;
/// Each may make the tree one deeper, and the interpreter recurses over the tree.
pub const MAX_OPERATORS: usize = 300;
/// `list.map(x, list.filter(...))`: each level multiplies the work by the list's length.
pub const MAX_LOOPS: usize = 2;

/// Lookups for expressions: `tables.<name>[key]`.
pub type Tables = BTreeMap<String, BTreeMap<String, Value>>;

/// What all expressions of a bundle share; made once, since the interpreter's environment is costly to build.
pub struct Language {
    env: Arc<Env>,
    tables: CelMap<'static>,
    table_names: BTreeSet<String>,
}

/// A compiled expression.
pub struct Expression {
    program: Program,
    language: Arc<Language>,
    text: String,
    depends_on: BTreeSet<String>,
    shape: Shape,
    fixed: bool,
}

/// Why an expression can't be compiled; `at` counts characters of the expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    pub message: String,
    pub help: Option<String>,
    pub at: usize,
    pub width: usize,
    /// The attribute that nobody declares, if that is what is wrong.
    pub undeclared: Option<String>,
}

/// Why an evaluation failed, without any value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationError(pub String);

impl Language {
    pub fn new(tables: &Tables) -> Arc<Self> {
        let map = tables.iter().map(|(name, entries)| {
            let entries = entries.iter().map(|(key, value)| (CelMapKey::from(key.clone()), to_cel_owned(value)));
            let table: HashMap<CelMapKey<'static>, Box<dyn Val>> = entries.collect();
            (CelMapKey::from(name.clone()), Box::new(CelMap::from(table)) as Box<dyn Val>)
        });
        Arc::new(Self {
            env: Arc::new(function::environment()),
            tables: CelMap::from(map.collect::<HashMap<_, _>>()),
            table_names: tables.keys().cloned().collect(),
        })
    }
}

impl Expression {
    /// Compiles `text`; `names` are the attributes it may use.
    pub fn compile(text: &str, language: &Arc<Language>, names: &Names) -> Result<Self, Vec<CompileError>> {
        within_bounds(text).map_err(|error| vec![error])?;
        // The generated parser has asserts of its own: one that fails is an error of this expression, not of the process.
        let parsed = catch_unwind(AssertUnwindSafe(|| language.env.compile(text)))
            .map_err(|_| vec![CompileError::whole(text, "the expression can't be parsed")])?;
        let program = parsed.map_err(|errors| syntax_errors(text, &errors.errors))?;
        let checked = shape::check(&program, text, names, &language.table_names)?;
        Ok(Self {
            program,
            language: Arc::clone(language),
            text: text.to_owned(),
            depends_on: checked.attributes,
            shape: checked.shape,
            fixed: checked.fixed,
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The attributes it reads: while none of them changes, neither does its result.
    pub fn depends_on(&self) -> &BTreeSet<String> {
        &self.depends_on
    }

    /// What it results in, as far as can be told without running it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its value, if it is the same for everybody.
    pub fn constant(&self) -> Option<Value> {
        self.fixed.then(|| self.evaluate(&Attributes::default(), "").ok()).flatten()
    }

    pub fn evaluate(&self, attributes: &Attributes, kind: &str) -> Result<Value, EvaluationError> {
        self.run(attributes, kind, |value| from_cel(value))
    }

    /// For conditions: anything but true or false is an error.
    pub fn is_true(&self, attributes: &Attributes, kind: &str) -> Result<bool, EvaluationError> {
        self.run(attributes, kind, |value| match value.downcast_ref::<CelBool>() {
            Some(bool) => Ok(*bool.inner()),
            None => Err(EvaluationError(format!("it gives {}, not true or false", type_name(value)))),
        })
    }

    fn run<T>(
        &self,
        attributes: &Attributes,
        kind: &str,
        take: impl FnOnce(&dyn Val) -> Result<T, EvaluationError>,
    ) -> Result<T, EvaluationError> {
        let scope = Scope { attributes, kind, expression: self };
        catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&self.language.env));
            context.set_variable_resolver(&scope);
            match cel::Value::resolve_val(self.program.expression(), &context) {
                Ok(value) => take(value.as_ref()),
                Err(error) => Err(self.explain(&error, attributes)),
            }
        }))
        .unwrap_or_else(|_| Err(EvaluationError("the expression interpreter panicked".to_owned())))
    }

    /// The interpreter's errors may quote values; these name types and attributes only.
    fn explain(&self, error: &ExecutionError, attributes: &Attributes) -> EvaluationError {
        let reason = match error {
            ExecutionError::NoSuchOverload(overload) => {
                let types: Vec<_> = overload.argument_types().iter().map(|name| plain_type(name)).collect();
                format!("{} can't be used on {}", operator_name(overload.function()), types.join(" and "))
            }
            ExecutionError::UnsupportedBinaryOperator(name, left, right) => format!(
                "`{}` can't be used on {} and {}",
                match *name {
                    "add" => "+",
                    "sub" => "-",
                    "mul" => "*",
                    "div" => "/",
                    "rem" => "%",
                    other => other,
                },
                plain_type(&left.type_of().to_string()),
                plain_type(&right.type_of().to_string()),
            ),
            ExecutionError::NoSuchKey(_) => {
                "a table has no entry under the key asked for (`lookup(table, key, otherwise)` has a way out)"
                    .to_owned()
            }
            ExecutionError::IndexOutOfBounds(_) => "a list has no such element".to_owned(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
            ExecutionError::Overflow(..) => "a number grows too large".to_owned(),
            ExecutionError::UnexpectedType { want, .. } => format!("a value is not {}", plain_type(want)),
            ExecutionError::ValuesNotComparable(..) => "values of different types are compared".to_owned(),
            ExecutionError::UndeclaredReference(name) => format!("`{name}` is not defined"),
            ExecutionError::FunctionError { function, .. } => {
                format!("the function `{function}` refuses its arguments")
            }
            _ => "it can't be evaluated".to_owned(),
        };
        let absent: Vec<_> = self
            .depends_on
            .iter()
            .filter(|name| matches!(attributes.get(*name), None | Some(Value::Null)))
            .map(|name| format!("`{name}`"))
            .collect();
        EvaluationError(match absent.is_empty() {
            true => reason,
            false => format!("{reason}; absent here: {}", absent.join(", ")),
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Language").field("tables", &self.table_names).finish_non_exhaustive()
    }
}

impl CompileError {
    pub fn whole(text: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, at: 0, width: text.chars().count(), undeclared: None }
    }
}

/// Runs before the parser, on the text alone.
fn within_bounds(text: &str) -> Result<(), CompileError> {
    if text.trim().is_empty() {
        return Err(CompileError::whole(text, "the expression is empty"));
    }
    if text.len() > MAX_BYTES {
        let message = format!("the expression has {} bytes, more than the {MAX_BYTES} that are allowed", text.len());
        return Err(CompileError::whole(text, message));
    }
    let (mut depth, mut operators, mut quote, mut escaped) = (0usize, 0usize, None, false);
    for (at, c) in text.chars().enumerate() {
        if let Some(open) = quote {
            // Raw strings have no escapes: taking their backslash for one only counts a little less of the text.
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == open => quote = None,
                _ => {}
            }
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' | '&' | '|' | '?' | '.' | ',' => operators += 1,
            _ => {}
        }
        if depth > MAX_NESTING || operators > MAX_OPERATORS {
            let message = if depth > MAX_NESTING {
                format!("brackets are nested more than {MAX_NESTING} deep")
            } else {
                format!("the expression has more than {MAX_OPERATORS} operators")
            };
            let help = Some("put what varies into a table of entitlements.yaml, or write several rules".to_owned());
            return Err(CompileError { message, help, at, width: 1, undeclared: None });
        }
    }
    Ok(())
}

fn syntax_errors(text: &str, errors: &[cel::ParseError]) -> Vec<CompileError> {
    errors
        .iter()
        .take(1) // what follows the first is mostly its echo
        .map(|error| {
            let line = usize::try_from(error.pos.0 - 1).unwrap_or(0);
            let column = usize::try_from(error.pos.1 - 1).unwrap_or(0);
            let before: usize = text.split_inclusive('\n').take(line).map(|l| l.chars().count()).sum();
            let message = error.msg.lines().next().unwrap_or_default();
            let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
            // ANTLR lists every token that could follow: no help to anybody.
            let message = message.split(" expecting {").next().unwrap_or(message);
            CompileError {
                message: format!("this is not an expression: {message}"),
                help: Some("text stands in quotes: department == 'Sales'".to_owned()),
                at: (before + column).min(text.chars().count().saturating_sub(1)),
                width: 1,
                undeclared: None,
            }
        })
        .collect()
}

/// What an expression can see.
struct Scope<'a> {
    attributes: &'a Attributes,
    kind: &'a str,
    expression: &'a Expression,
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(value) = self.attributes.get(name) {
            return Some(to_cel(value));
        }
        match name {
            "tables" => Some(CowVal::Borrowed(&self.expression.language.tables)),
            "kind" => Some(CowVal::owned(CelString::from(self.kind))),
            // Names were checked at compile time: what is asked for and depended on is a declared attribute.
            _ if self.expression.depends_on.contains(name) => Some(CowVal::owned(CelNull)),
            _ => None,
        }
    }
}

fn to_cel<'b>(value: &'b Value) -> CowVal<'b, 'b> {
    match value {
        Value::Null => CowVal::owned(CelNull),
        Value::Bool(b) => CowVal::owned(CelBool::from(*b)),
        Value::Int(i) => CowVal::owned(CelInt::from(*i)),
        Value::Float(x) => CowVal::owned(CelDouble::from(*x)),
        Value::Text(text) => CowVal::owned(CelString::from(text.as_str())),
        Value::List(items) => {
            let items: Vec<Box<dyn Val + 'b>> = items.iter().map(|item| to_cel(item).into_owned()).collect();
            CowVal::owned(CelList::from(items))
        }
    }
}

fn to_cel_owned(value: &Value) -> Box<dyn Val> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Int(i) => Box::new(CelInt::from(*i)),
        Value::Float(x) => Box::new(CelDouble::from(*x)),
        Value::Text(text) => Box::new(CelString::from(text.clone())),
        Value::List(items) => Box::new(CelList::from(items.iter().map(to_cel_owned).collect::<Vec<_>>())),
    }
}

fn from_cel(value: &dyn Val) -> Result<Value, EvaluationError> {
    let kind = value.get_type().kind();
    let converted = match kind {
        Kind::NullType => Some(Value::Null),
        Kind::Boolean => value.downcast_ref::<CelBool>().map(|b| Value::Bool(*b.inner())),
        Kind::Int => value.downcast_ref::<CelInt>().map(|i| Value::Int(*i.inner())),
        Kind::UInt => value.downcast_ref::<CelUInt>().and_then(|u| i64::try_from(*u.inner()).ok()).map(Value::Int),
        Kind::Double => value.downcast_ref::<CelDouble>().map(|x| Value::Float(*x.inner())),
        Kind::String => value.downcast_ref::<CelString>().map(|text| Value::text(text.inner())),
        Kind::List => match value.as_iterable() {
            Some(iterable) => {
                let (mut items, mut iterator) = (Vec::new(), iterable.iter());
                while let Some(item) = iterator.next() {
                    items.push(from_cel(item)?);
                }
                Some(Value::List(items))
            }
            None => None,
        },
        _ => None,
    };
    converted.ok_or_else(|| EvaluationError(format!("it gives {}, which no attribute can hold", type_name(value))))
}

fn type_name(value: &dyn Val) -> &'static str {
    plain_type(value.get_type().name())
}

/// CEL's names of types in the words of the files.
fn plain_type(name: &str) -> &'static str {
    match name {
        "null" | "null_type" => "nothing (null)",
        "bool" => "true or false",
        "int" | "uint" => "a number",
        "double" | "float" => "a decimal number",
        "string" => "text",
        "list" => "a list",
        "map" => "a map",
        "optional_type" => "an optional (end it with `.orValue(...)`)",
        _ => "a value of another type",
    }
}

fn operator_name(function: &str) -> String {
    match function.trim_matches(|c| c == '_' || c == '@') {
        "[_]" | "[" => "an index `[…]`".to_owned(),
        "?_:" => "a condition `… ? … : …`".to_owned(),
        name => format!("`{name}`"),
    }
}
