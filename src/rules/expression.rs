//! The one type around the CEL interpreter: all that the rest of Lockstep knows of expressions.
//!
//! Length, nesting and the number of operators are bounded before the text is parsed, and names are checked before anything
//! runs. An evaluation sees the identity's attributes (each declared one is defined, null when absent), `tables` and `kind`,
//! and can reach nothing else. An error at run time holds no value; a panic of the crate is such an error.
//!
//! Nearly every expression is lowered to a program of our own (`program`), which costs a tenth; the interpreter says what that
//! can't, and is the reference for it.

use super::function;
use super::merged::{Merged, SlotSet, Slots};
use super::program::{self, Item, Lowering, Table};
use super::shape::{self, Names, Shape, TableShapes};
use super::steps::Steps;
use super::syntax;
use crate::model::Value;
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
/// Each makes the parser's work and the tree larger.
pub const MAX_OPERATORS: usize = 300;
/// Levels of the tree, over which the interpreter recurses: `a + b + c` has three.
pub const MAX_DEPTH: usize = 64;
/// `list.map(x, list.filter(...))`: each level multiplies the work by the list's length.
pub const MAX_LOOPS: usize = 2;

/// Stack for the generated parser, which takes up to 150 KiB a bracket where it isn't optimised (measured).
const PARSER_STACK_BYTES: usize = 16 * 1024 * 1024;
/// Stack for the interpreter, which takes 45 KiB a level when optimised (measured, crate `cel` 0.15).
const STACK_BYTES_A_LEVEL: usize = 80 * 1024;

/// Lookups for expressions: `tables.<name>[key]`.
pub type Tables = BTreeMap<String, BTreeMap<String, Value>>;

/// What all expressions of a bundle share; made once, since the interpreter's environment is costly to build.
pub struct Language {
    env: Arc<Env>,
    /// As the interpreter wants them.
    cel_tables: CelMap<'static>,
    tables: BTreeMap<String, Arc<Table>>,
    table_shapes: TableShapes,
    slots: Arc<Slots>,
}

/// A compiled expression.
pub struct Expression {
    parsed: Program,
    /// What runs instead of the interpreter; None: it can't be lowered.
    program: Option<program::Program>,
    language: Arc<Language>,
    text: String,
    depends_on: BTreeSet<String>,
    /// The same as slots.
    reads: SlotSet,
    shape: Shape,
    fixed: bool,
    /// Bytes that the interpreter may need for it.
    stack: usize,
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
    /// `slots` are those of all kinds' attributes.
    pub fn new(tables: &Tables, slots: Arc<Slots>) -> Arc<Self> {
        let map = tables.iter().map(|(name, entries)| {
            let entries = entries.iter().map(|(key, value)| (CelMapKey::from(key.clone()), to_cel_owned(value)));
            let table: HashMap<CelMapKey<'static>, Box<dyn Val>> = entries.collect();
            (CelMapKey::from(name.clone()), Box::new(CelMap::from(table)) as Box<dyn Val>)
        });
        Arc::new(Self {
            env: Arc::new(function::environment()),
            cel_tables: CelMap::from(map.collect::<HashMap<_, _>>()),
            tables: tables
                .iter()
                .map(|(name, entries)| {
                    let entries = entries.iter().map(|(key, value)| (key.clone(), value.clone()));
                    (name.clone(), Arc::new(entries.collect()))
                })
                .collect(),
            table_shapes: tables.iter().map(|(name, entries)| (name.clone(), shape_of_all(entries.values()))).collect(),
            slots,
        })
    }

    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}

impl Expression {
    /// Compiles `text`; `names` are the attributes it may use.
    pub fn compile(text: &str, language: &Arc<Language>, names: &Names) -> Result<Self, Vec<CompileError>> {
        within_bounds(text).map_err(|error| vec![error])?;
        // On a stack of its own: how deep the parser goes is the text's doing, how much the thread has left is not. And the
        // parser has asserts: one that fails is an error of this expression, not of the process.
        stacker::grow(PARSER_STACK_BYTES, || {
            let parsed = catch_unwind(AssertUnwindSafe(|| language.env.compile(text)))
                .map_err(|_| vec![CompileError::whole(text, "the expression can't be parsed")])?;
            let parsed = parsed.map_err(|errors| syntax::errors(text, &errors.errors))?;
            let checked = shape::check(&parsed, text, names, &language.table_shapes)?;
            let lowering = Lowering { slots: &language.slots, names, tables: &language.tables };
            Ok(Self {
                program: program::lower(parsed.expression(), &lowering),
                parsed,
                language: Arc::clone(language),
                text: text.to_owned(),
                reads: checked.attributes.iter().filter_map(|name| language.slots.of(name)).collect(),
                depends_on: checked.attributes,
                shape: checked.shape,
                fixed: checked.fixed,
                stack: (checked.depth + 2) * STACK_BYTES_A_LEVEL,
            })
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The attributes it reads: while none of them changes, neither does its result.
    pub fn depends_on(&self) -> &BTreeSet<String> {
        &self.depends_on
    }

    /// The slots of what it reads.
    pub fn reads(&self) -> SlotSet {
        self.reads
    }

    /// What gives its values; None: the interpreter does.
    #[cfg(test)]
    pub(super) fn program(&self) -> Option<&program::Program> {
        self.program.as_ref()
    }

    /// What it results in, as far as can be told without running it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its value, if it is the same for everybody.
    pub fn constant(&self) -> Option<Value> {
        self.fixed.then(|| self.evaluate(&Merged::nothing(&self.language.slots), "").ok()).flatten()
    }

    pub fn evaluate(&self, merged: &Merged<'_>, kind: &str) -> Result<Value, EvaluationError> {
        let steps = Steps::default();
        let value = self.program.as_ref().and_then(|program| program.value(merged, kind, &steps));
        match steps.suffice(value)? {
            Some(value) => Ok(value),
            None => self.interpret(merged, kind),
        }
    }

    /// For conditions: anything but true or false is an error.
    pub fn is_true(&self, merged: &Merged<'_>, kind: &str) -> Result<bool, EvaluationError> {
        let steps = Steps::default();
        let truth = self.program.as_ref().and_then(|program| program.is_true(merged, kind, &steps));
        match steps.suffice(truth)? {
            Some(bool) => Ok(bool),
            None => self.interpret_condition(merged, kind),
        }
    }

    /// As `evaluate`, by the crate's interpreter alone: what a program is held to.
    pub fn interpret(&self, merged: &Merged<'_>, kind: &str) -> Result<Value, EvaluationError> {
        self.run(merged, kind, |value| from_cel(value))
    }

    /// As `is_true`, by the crate's interpreter alone.
    pub fn interpret_condition(&self, merged: &Merged<'_>, kind: &str) -> Result<bool, EvaluationError> {
        self.run(merged, kind, |value| match value.downcast_ref::<CelBool>() {
            Some(bool) => Ok(*bool.inner()),
            None => Err(EvaluationError(format!("it gives {}, not true or false", type_name(value)))),
        })
    }

    fn run<T>(
        &self,
        merged: &Merged<'_>,
        kind: &str,
        take: impl FnOnce(&dyn Val) -> Result<T, EvaluationError>,
    ) -> Result<T, EvaluationError> {
        let scope = Scope { merged, kind, expression: self, steps: Steps::default() };
        let run = || {
            let mut context = Context::with_env(Arc::clone(&self.language.env));
            context.set_variable_resolver(&scope);
            match cel::Value::resolve_val(self.parsed.expression(), &context) {
                Ok(value) => take(value.as_ref()),
                Err(error) => Err(self.explain(&error, merged)),
            }
        };
        // Costs nothing where the thread has enough left, as it nearly always has.
        let found = stacker::maybe_grow(self.stack, self.stack, || catch_unwind(AssertUnwindSafe(run)))
            .unwrap_or_else(|_| Err(EvaluationError("the expression interpreter panicked".to_owned())));
        scope.steps.suffice(found)?
    }

    /// The interpreter's errors may quote values; these name types and attributes only.
    fn explain(&self, error: &ExecutionError, merged: &Merged<'_>) -> EvaluationError {
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
        let absent: Vec<_> =
            self.depends_on.iter().filter(|name| merged.get(name).is_none()).map(|name| format!("`{name}`")).collect();
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
        f.debug_struct("Language").field("tables", &self.table_shapes.keys()).finish_non_exhaustive()
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

/// What an expression can see.
struct Scope<'a> {
    merged: &'a Merged<'a>,
    kind: &'a str,
    expression: &'a Expression,
    /// Taken for what is copied into the interpreter each time it asks: that's where long lists in loops cost most.
    steps: Steps,
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(value) = self.merged.get(name) {
            self.steps.take(Item::Held(value).steps())?;
            return Some(to_cel(value));
        }
        match name {
            "tables" => Some(CowVal::Borrowed(&self.expression.language.cel_tables)),
            "kind" => Some(CowVal::owned(CelString::from(self.kind))),
            // Names were checked at compile time: what is asked for and depended on is a declared attribute.
            _ if self.expression.depends_on.contains(name) => Some(CowVal::owned(CelNull)),
            _ => None,
        }
    }
}

fn shape_of_all<'a>(values: impl Iterator<Item = &'a Value>) -> Shape {
    let shape = |value: &Value| match value {
        Value::Null => Shape::Null,
        Value::Bool(_) => Shape::Bool,
        Value::Int(_) => Shape::Int,
        Value::Float(_) => Shape::Float,
        Value::Text(_) => Shape::Text,
        Value::List(_) => Shape::List,
    };
    values.map(shape).reduce(Shape::or).unwrap_or(Shape::Any)
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
        Value::Text(text) => Box::new(CelString::from(text.to_string())),
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

pub(super) fn operator_name(function: &str) -> String {
    match function.trim_matches(|c| c == '_' || c == '@') {
        "[_]" | "[" => "an index `[…]`".to_owned(),
        "?_:" => "a condition `… ? … : …`".to_owned(),
        name => format!("`{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attributes;

    fn language() -> Arc<Language> {
        let departments = BTreeMap::from([("Sales".to_owned(), Value::List(vec!["crm".into(), "sales".into()]))]);
        let slots = Slots::new(names().keys().map(String::as_str));
        Language::new(&Tables::from([("department".to_owned(), departments)]), slots)
    }

    fn names() -> Names {
        let any = ["given", "family", "department", "mail"].map(|name| (name.to_owned(), Shape::Any));
        let known = [("groups", Shape::List), ("level", Shape::Int), ("start", Shape::Text), ("vip", Shape::Bool)];
        any.into_iter().chain(known.map(|(name, shape)| (name.to_owned(), shape))).collect()
    }

    fn compile(text: &str) -> Expression {
        Expression::compile(text, &language(), &names()).unwrap_or_else(|errors| panic!("{text}: {errors:?}"))
    }

    fn merged(attributes: &Attributes) -> Merged<'_> {
        Merged::of(language().slots(), attributes)
    }

    fn evaluate(expression: &Expression, attributes: &Attributes) -> Result<Value, EvaluationError> {
        expression.evaluate(&merged(attributes), "person")
    }

    fn ada() -> Attributes {
        Attributes::from([
            ("given", "Ada".into()),
            ("family", Value::text("Ångström-Weiß")),
            ("department", "Sales".into()),
            ("groups", Value::List(vec!["vpn".into(), Value::Null, "lunch".into()])),
            ("level", Value::Int(7)),
        ])
    }

    #[test]
    fn expressions_give_what_they_say() {
        let list = |items: &[&str]| Value::List(items.iter().map(|item| (*item).into()).collect());
        for (text, expected) in [
            ("lower(given + '.' + family)", Value::text("ada.ångström-weiß")),
            ("ascii(family)", "Angstrom-Weiss".into()),
            ("ascii('Łukasz Ćwikła 李')", "Lukasz Cwikla Li".into()),
            ("upper(given)", "ADA".into()),
            ("trim('  x ')", "x".into()),
            // null in, null out
            ("lower(mail)", Value::Null),
            ("ascii(mail)", Value::Null),
            ("join(mail, ',')", Value::Null),
            ("substring(mail, 0, 1)", Value::Null),
            ("mail", Value::Null),
            ("mail == null", true.into()),
            ("default(mail, given)", "Ada".into()),
            ("default('', given)", "Ada".into()),
            ("default(given, 'x')", "Ada".into()),
            ("join(groups, '+')", "vpn+lunch".into()),
            ("split('a,b', ',')", list(&["a", "b"])),
            ("substring('häuser', 1, 3)", "äu".into()),
            ("substring('ab', 1, 99)", "b".into()),
            ("substring('ab', 5, 9)", "".into()),
            ("'vpn' in groups", true.into()),
            ("size(groups) > 2 && level >= 7", true.into()),
            ("groups.filter(g, g != null).map(g, upper(g))", list(&["VPN", "LUNCH"])),
            ("groups.exists(g, g == 'lunch')", true.into()),
            ("department in ['Sales', 'HR'] ? 'a' : 'b'", "a".into()),
            ("tables.department[department]", list(&["crm", "sales"])),
            ("tables.department['Sales'] + ['x']", list(&["crm", "sales", "x"])),
            ("lookup(tables.department, 'Moon', ['none'])", list(&["none"])),
            ("lookup(tables.department, mail, [])", list(&[])),
            ("tables.department[?'Moon'].orValue([])", list(&[])),
            ("'Moon' in tables.department", false.into()),
            ("given.startsWith('A') && given.endsWith('a') && given.contains('d')", true.into()),
            ("given.matches('^A[a-z]+$')", true.into()),
            ("given.replace('A', 'E').lowerAscii()", "eda".into()),
            ("string(level) + '!'", "7!".into()),
            ("int('12') + 1", Value::Int(13)),
            ("level * 1.5 > 10.0 || true", true.into()),
            ("kind", "person".into()),
            ("mail != null && mail.startsWith('x')", false.into()),
            ("3.5", Value::Float(3.5)),
        ] {
            match evaluate(&compile(text), &ada()) {
                Ok(found) => assert!(found == expected, "{text}: {}", found.to_json()),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn errors_name_types_and_absent_attributes_but_no_values() {
        for (text, expected) in [
            ("given + mail", "`+` can't be used on text and nothing (null); absent here: `mail`"),
            ("given + level", "`+` can't be used on text and a number"),
            ("lower(level)", "`lower` can't be used on a number"),
            ("tables.department[given]", "a table has no entry under the key asked for"),
            ("groups[9]", "a list has no such element"),
            ("level / 0", "division by zero"),
            ("int(given)", "the function `int` refuses its arguments"),
            ("given.matches(family + '(')", "the function `matches` refuses its arguments"),
            ("{'a': given}", "it gives a map, which no attribute can hold"),
            ("tables.department[?given]", "it gives an optional"),
            ("9223372036854775807 + level", "a number grows too large"),
            ("given < level", "`<` can't be used on text and a number"),
        ] {
            let error = evaluate(&compile(text), &ada()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(!error.contains("Ada") && !error.contains("Weiß"), "{text}: {error}");
        }
        let error = compile("given").is_true(&merged(&ada()), "person").unwrap_err();
        assert_eq!(error.to_string(), "it gives text, not true or false");
    }

    #[test]
    fn slips_are_found_before_anything_runs() {
        for (text, expected) in [
            ("given = 'x'", "this is not an expression: `=` is not expected here at 6"),
            ("'é' + given given", "this is not an expression: `given` is not expected here at 12"),
            ("(given", "this is not an expression: it ends where something is still to come at 5"),
            ("'abc", "this is not an expression: `'abc` is not expected here at 0"),
            ("gvien + 'x'", "no attribute is named `gvien` at 0"),
            ("'é' + familly", "no attribute is named `familly` at 6"),
            ("lowr(given)", "no function is named `lowr` at 0"),
            ("given.lower()", "`lower` is written before its arguments at 6"),
            ("startsWith(given, 'a')", "`startsWith` is written after its text at 0"),
            ("has(given)", "this is not an expression: invalid argument to has() macro at 4"),
            ("groups.map(given)", "`map` is called with the wrong arguments at 7"),
            ("level == '7'", "a number is never equal to text at 6"),
            ("vip && level", "true or false belongs here, not a number at 7"),
            ("level ? 1 : 2", "true or false belongs here, not a number at 0"),
            ("start.year", "`.year` asks for a field of text, which has none at 0"),
            ("Person{name: given}", "there are no objects like `Person` here at 6"),
            ("tables.departments", "no table is named `departments` at 7"),
            ("groups.map(a, groups.map(b, groups.map(c, c)))", "loops in loops may be 2 deep at most at 35"),
            ("  ", "the expression is empty at 0"),
        ] {
            let errors = Expression::compile(text, &language(), &names()).unwrap_err();
            assert_eq!(format!("{} at {}", errors[0].message, errors[0].at), expected, "{text}");
        }
    }

    #[test]
    fn size_and_depth_are_bounded_before_parsing() {
        let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        let long = |n: usize| vec!["given"; n].join(" + ");
        let either = |n: usize| vec!["given == 'x'"; n].join(" || ");
        assert!(Expression::compile(&nested(MAX_NESTING), &language(), &names()).is_ok());
        assert!(Expression::compile(&long(MAX_DEPTH), &language(), &names()).is_ok());
        assert!(compile(&either(70)).is_true(&merged(&ada()), "person").is_ok());
        assert!(evaluate(&compile(&long(MAX_DEPTH)), &ada()).is_ok());
        for text in [
            nested(MAX_NESTING + 1),
            "[".repeat(5000),
            long(MAX_DEPTH + 1),
            either(MAX_OPERATORS),
            "!".repeat(MAX_OPERATORS + 1) + "vip",
            format!("'{}'", "x".repeat(MAX_BYTES)),
        ] {
            assert!(Expression::compile(&text, &language(), &names()).is_err(), "{}", &text[..20]);
        }
        // Brackets and operators within text don't count.
        assert!(Expression::compile(&format!("'{}'", "([{+".repeat(400)), &language(), &names()).is_ok());
    }

    #[test]
    fn it_knows_what_it_reads_and_what_it_gives() {
        let expression = compile("department == 'x' ? lower(given) : groups.map(family, family + kind)[0]");
        let reads: Vec<_> = expression.depends_on().iter().map(String::as_str).collect();
        // `family` is the loop's own here.
        assert_eq!(reads, ["department", "given", "groups"]);
        for (text, shape, constant) in [
            ("1 > 2", Shape::Bool, Some(Value::Bool(false))),
            ("vip || 1 > 2", Shape::Bool, None),
            ("kind == 'x'", Shape::Bool, None),
            ("'a' + 'b'", Shape::Text, Some("ab".into())),
            ("given", Shape::Any, None),
            ("start", Shape::Text, None),
            ("groups.exists(g, g == 'a')", Shape::Bool, None),
            ("groups.map(g, g)", Shape::List, None),
            ("groups.filter(g, true)", Shape::List, None),
            ("{'a': 1}", Shape::Map, None),
            ("vip ? 'a' : 'b'", Shape::Text, None),
            ("size(groups)", Shape::Int, None),
        ] {
            let expression = compile(text);
            assert_eq!(expression.shape(), shape, "{text}");
            assert!(expression.constant() == constant, "{text}");
        }
    }

    #[test]
    fn every_function_that_is_listed_is_there() {
        let values = ["null", "'a'", "1", "true", "['a']", "{'a': 1}", "optional.of('a')"];
        for signature in function::SIGNATURES {
            for count in signature.arguments {
                // Called with anything it may refuse, but it is never undeclared.
                let found = values.iter().any(|value| {
                    let args = |n: usize| vec![if signature.name == "join" { "'a'" } else { *value }; n].join(", ");
                    let text = match signature.method {
                        true => format!("{value}.{}({})", signature.name, args(*count)),
                        false => format!("{}({value}{})", signature.name, ", 'a'".repeat(*count - 1)),
                    };
                    match Expression::compile(&text, &language(), &names()).map(|e| evaluate(&e, &ada())) {
                        Ok(Err(error)) => {
                            assert!(!error.0.contains("is not defined"), "{text}: {error}");
                            false
                        }
                        Ok(Ok(_)) => true,
                        Err(_) => false,
                    }
                });
                let special =
                    ["bytes", "type", "indexOf", "lastIndexOf", "charAt", "replace", "split", "substring", "or"];
                assert!(found || special.contains(&signature.name), "{} with {count}", signature.name);
            }
        }
    }

    #[test]
    fn debug_shows_the_rule_and_no_data() {
        assert_eq!(format!("{:?}", compile("given + 'x'")), r#"Expression("given + 'x'")"#);
    }
}
