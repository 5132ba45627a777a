//! The functions that expressions have, and which names and argument counts there are at all.
//!
//! Ours stand beside the standard ones of CEL and its strings extension (`replace`, `indexOf`, `lowerAscii`, …, as
//! methods). The text functions give null for null, so that an absent attribute stays absent.

use cel::common::types::{CelList, CelMap, CelString, DYN_TYPE, Kind};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError};

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// A function as it may be called.
#[derive(Debug)]
pub struct Signature {
    pub name: &'static str,
    /// Arguments, without the one before the dot.
    pub arguments: &'static [usize],
    /// `x.f()` rather than `f(x)`.
    pub method: bool,
    pub gives: Gives,
}

/// What a call results in, as far as the name alone tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    Bool,
    Int,
    Text,
    /// Text, or null for null.
    TextOrNull,
    List,
    /// A list, or null for null.
    ListOrNull,
    Any,
}

const fn global(name: &'static str, arguments: &'static [usize], gives: Gives) -> Signature {
    Signature { name, arguments, method: false, gives }
}

const fn method(name: &'static str, arguments: &'static [usize], gives: Gives) -> Signature {
    Signature { name, arguments, method: true, gives }
}

/// All that may be called. The crate has no checker of its own, so that a slip would show on the first event only.
pub const SIGNATURES: &[Signature] = &[
    global("lower", &[1], Gives::TextOrNull),
    global("upper", &[1], Gives::TextOrNull),
    global("trim", &[1], Gives::TextOrNull),
    global("ascii", &[1], Gives::TextOrNull),
    global("join", &[2], Gives::TextOrNull),
    global("split", &[2], Gives::ListOrNull),
    global("substring", &[3], Gives::TextOrNull),
    global("default", &[2], Gives::Any),
    global("lookup", &[3], Gives::Any),
    global("size", &[1], Gives::Int),
    global("matches", &[2], Gives::Bool),
    global("string", &[1], Gives::Text),
    global("int", &[1], Gives::Int),
    global("uint", &[1], Gives::Any),
    global("double", &[1], Gives::Any),
    global("bool", &[1], Gives::Bool),
    global("bytes", &[1], Gives::Any),
    global("type", &[1], Gives::Any),
    global("dyn", &[1], Gives::Any),
    method("size", &[0], Gives::Int),
    method("contains", &[1], Gives::Bool),
    method("startsWith", &[1], Gives::Bool),
    method("endsWith", &[1], Gives::Bool),
    method("matches", &[1], Gives::Bool),
    method("charAt", &[1], Gives::Text),
    method("indexOf", &[1, 2], Gives::Int),
    method("lastIndexOf", &[1, 2], Gives::Int),
    method("join", &[0, 1], Gives::Text),
    method("lowerAscii", &[0], Gives::Text),
    method("upperAscii", &[0], Gives::Text),
    method("trim", &[0], Gives::Text),
    method("replace", &[2, 3], Gives::Text),
    method("reverse", &[0], Gives::Text),
    method("split", &[1, 2], Gives::List),
    method("substring", &[1, 2], Gives::Text),
    method("hasValue", &[0], Gives::Bool),
    method("orValue", &[1], Gives::Any),
    method("or", &[1], Gives::Any),
    method("value", &[0], Gives::Any),
];

/// Macros are expanded by the parser when they are called rightly; named here, they are suggested.
pub const MACROS: &[&str] = &["has", "all", "exists", "exists_one", "map", "filter"];

/// The environment every expression is compiled for and runs in; made once per bundle.
pub fn environment() -> Env {
    let mut env = Env::stdlib();
    // Declared on an empty slate of names: none of these can be taken, or a test would say so.
    env.add_extension(cel::extensions::strings).expect("the strings extension is added once");
    let ours: &[(&str, usize, cel::common::functions::Function)] = &[
        ("lower", 1, lower),
        ("upper", 1, upper),
        ("trim", 1, trim),
        ("ascii", 1, ascii),
        ("join", 2, join),
        ("split", 2, split),
        ("substring", 3, substring),
        ("default", 2, default),
        ("lookup", 3, lookup),
    ];
    for (name, count, function) in ours {
        let types = (0..*count).map(|_| DYN_TYPE).collect();
        env.add_overload(name, &format!("lockstep_{name}"), types, *function)
            .expect("our functions have their own names");
    }
    env
}

fn lower<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    on_text("lower", args, |text| text.to_lowercase())
}

fn upper<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    on_text("upper", args, |text| text.to_uppercase())
}

fn trim<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    on_text("trim", args, |text| text.trim().to_owned())
}

/// Diacritics removed, other letters in their nearest ASCII ones; what has none is left out.
fn ascii<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    on_text("ascii", args, |text| deunicode::deunicode_with_tofu(text, "").trim().to_owned())
}

fn on_text<'b, 'v>(name: &str, mut args: Args<'b, 'v>, change: impl Fn(&str) -> String) -> Outcome<'b, 'v> {
    let Some(arg) = args.pop() else { return Err(ExecutionError::invalid_argument_count(1, 0)) };
    if is_null(&arg) {
        return Ok(arg);
    }
    let text = text_of(&arg).ok_or_else(|| no_overload(name, &[&arg]))?;
    Ok(CowVal::owned(CelString::from(change(text))))
}

/// `join(list, separator)`: what is null in the list is left out.
fn join<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    let [list, separator] = args.as_slice() else { return Err(ExecutionError::invalid_argument_count(2, args.len())) };
    if is_null(list) {
        return Ok(list.clone());
    }
    let wrong = || no_overload("join", &[list, separator]);
    let separator = text_of(separator).ok_or_else(wrong)?;
    let items = list.downcast_ref::<CelList>().ok_or_else(wrong)?;
    let mut parts = Vec::with_capacity(items.inner().len());
    for item in items.inner() {
        match item.downcast_ref::<CelString>() {
            Some(text) => parts.push(text.inner()),
            None if item.get_type().kind() == Kind::NullType => {}
            None => return Err(wrong()),
        }
    }
    Ok(CowVal::owned(CelString::from(parts.join(separator))))
}

/// `split(text, separator)`.
fn split<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    let [text, separator] = args.as_slice() else { return Err(ExecutionError::invalid_argument_count(2, args.len())) };
    if is_null(text) {
        return Ok(text.clone());
    }
    match (text_of(text), text_of(separator)) {
        (Some(text), Some(separator)) if !separator.is_empty() => {
            let parts: Vec<Box<dyn Val + 'v>> = text
                .split(separator)
                .map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val + 'v>)
                .collect();
            Ok(CowVal::owned(CelList::from(parts)))
        }
        _ => Err(no_overload("split", &[text, separator])),
    }
}

/// `substring(text, from, to)` in characters, from 0, `to` not included; what reaches past the end ends there.
fn substring<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    let [text, from, to] = args.as_slice() else { return Err(ExecutionError::invalid_argument_count(3, args.len())) };
    if is_null(text) {
        return Ok(text.clone());
    }
    let position = |arg: &CowVal<'_, '_>| {
        let int = arg.downcast_ref::<cel::common::types::CelInt>()?;
        Some(usize::try_from(*int.inner()).unwrap_or(0))
    };
    match (text_of(text), position(from), position(to)) {
        (Some(text), Some(from), Some(to)) => {
            let part: String = text.chars().skip(from).take(to.saturating_sub(from)).collect();
            Ok(CowVal::owned(CelString::from(part)))
        }
        _ => Err(no_overload("substring", &[text, from, to])),
    }
}

/// `default(x, y)`: y where x is null or empty text.
fn default<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    let count = args.len();
    let mut args = args.into_iter();
    let (Some(value), Some(otherwise)) = (args.next(), args.next()) else {
        return Err(ExecutionError::invalid_argument_count(2, count));
    };
    let absent = is_null(&value) || text_of(&value).is_some_and(str::is_empty);
    Ok(if absent { otherwise } else { value })
}

/// `lookup(table, key, otherwise)`: the table's entry, or `otherwise` where there is none.
fn lookup<'b, 'v>(args: Args<'b, 'v>) -> Outcome<'b, 'v> {
    let [table, key, otherwise] = args.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(3, args.len()));
    };
    if is_null(key) {
        return Ok(otherwise.clone());
    }
    let map = table.downcast_ref::<CelMap>().ok_or_else(|| no_overload("lookup", &[table, key]))?;
    let key: cel::common::types::CelMapKey = key.clone().try_into()?;
    Ok(map.inner().get(&key).map_or_else(|| otherwise.clone(), |found| CowVal::Owned(found.clone_as_boxed())))
}

fn is_null(value: &CowVal<'_, '_>) -> bool {
    value.get_type().kind() == Kind::NullType
}

fn text_of<'a>(value: &'a CowVal<'_, '_>) -> Option<&'a str> {
    value.downcast_ref::<CelString>().map(CelString::inner)
}

/// Names the types of the arguments, never their values.
fn no_overload(name: &str, args: &[&CowVal<'_, '_>]) -> ExecutionError {
    let types = args.iter().map(|arg| arg.get_type().name().to_owned()).collect();
    ExecutionError::no_such_overload(name, types)
}
