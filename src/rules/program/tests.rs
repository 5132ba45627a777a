//! Programs against the interpreter: for any expression and any attributes both give the same value or the same error text.

use crate::model::{Attributes, Value};
use crate::rules::expression::{Expression, Language, Tables};
use crate::rules::merged::{Merged, Slots};
use crate::rules::shape::{Names, Shape};
use crate::rules::steps::Steps;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The attributes that expressions may use. `x` is the variable of every loop, too: there it is the loop's.
const ATTRIBUTES: [&str; 9] = ["given", "family", "department", "mail", "groups", "level", "ratio", "vip", "x"];

static LANGUAGE: LazyLock<Arc<Language>> = LazyLock::new(language);

fn language() -> Arc<Language> {
    let list = |items: &[&str]| Value::List(items.iter().map(|item| (*item).into()).collect());
    let departments =
        [("Sales", list(&["crm", "sales"])), ("HR", list(&[])), ("null", Value::Null), ("7", Value::Int(7))];
    let codes = [("Sales", "S".into()), ("Ärzte", Value::text("Ä"))];
    let table = |entries: &[(&str, Value)]| -> BTreeMap<String, Value> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let tables = [("department".to_owned(), table(&departments)), ("code".to_owned(), table(&codes))];
    Language::new(&Tables::from(tables), Slots::new(ATTRIBUTES))
}

fn compile(text: &str, language: &Arc<Language>) -> Option<Expression> {
    let names: Names = ATTRIBUTES.iter().map(|name| ((*name).to_owned(), Shape::Any)).collect();
    Expression::compile(text, language, &names).ok()
}

fn value() -> impl Strategy<Value = Value> {
    let nested = vec(scalar(), 0..3).prop_map(Value::List);
    prop_oneof![4 => scalar(), 2 => vec(prop_oneof![5 => scalar(), 1 => nested], 0..5).prop_map(Value::List)]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        2 => prop_oneof![-3i64..12, Just(i64::MAX), Just(i64::MIN)].prop_map(Value::Int),
        1 => select(vec![0.0, -0.0, 1.5, 2.0, 7.0, 1e300]).prop_map(Value::Float),
        6 => text(),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    let texts = ["", "Sales", "HR", "Ada", "ada.byron", "Ångström", "O'Brien", "  x ", "a,b,,c", "7", "ß", "李 x", "S"];
    select(texts.to_vec()).prop_map(Value::text)
}

/// Mostly of the type that their names promise.
fn attributes() -> impl Strategy<Value = Attributes> {
    let promised = |name| match name {
        "groups" => vec(text(), 0..4).prop_map(Value::List).boxed(),
        "level" => (-3i64..12).prop_map(Value::Int).boxed(),
        "ratio" => select(vec![0.0, 1.5, 2.0]).prop_map(Value::Float).boxed(),
        "vip" => any::<bool>().prop_map(Value::Bool).boxed(),
        _ => text().boxed(),
    };
    ATTRIBUTES.map(|name| proptest::option::weighted(0.9, prop_oneof![5 => promised(name), 1 => value()])).prop_map(
        |values| ATTRIBUTES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect(),
    )
}

/// The type an expression is meant to have: text, boolean, number, list, and anything.
type Meant = char;

/// What expressions are made of: what it gives, the form, and what belongs into its places.
const FORMS: &[(Meant, &str, &str)] = &[
    ('t', "lower(@)", "t"),
    ('t', "upper(@)", "t"),
    ('t', "trim(@)", "t"),
    ('t', "ascii(@)", "t"),
    ('t', "string(@)", "n"),
    ('t', "string(@)", "b"),
    ('t', "string(@)", "t"),
    ('t', "(@).lowerAscii()", "t"),
    ('t', "(@).upperAscii()", "t"),
    ('t', "(@).trim()", "t"),
    ('t', "(@).reverse()", "t"),
    ('t', "(@).join()", "l"),
    ('t', "(@).join(@)", "lt"),
    ('t', "join(@, @)", "lt"),
    ('t', "(@).charAt(@)", "tn"),
    ('t', "(@).substring(@)", "tn"),
    ('t', "(@).substring(0, @)", "tn"),
    ('t', "(@).substring(@, @)", "tnn"),
    ('t', "(@).substring(0, (@).indexOf(@))", "ttt"),
    ('t', "substring(@, @, @)", "tnn"),
    ('t', "(@).replace(@, @)", "ttt"),
    ('t', "default(@, @)", "tt"),
    ('t', "(@) + (@)", "tt"),
    ('t', "@ + '.' + @", "tt"),
    ('t', "lookup(tables.code, @, @)", "tt"),
    ('t', "lookup(tables.code, @, @)", "nt"),
    ('t', "tables.code[?@].orValue(@)", "tt"),
    ('t', "tables.code[@]", "t"),
    ('t', "(@)[@]", "ln"),
    ('t', "(@)[?@].orValue(@)", "lnt"),
    ('t', "(@) ? (@) : (@)", "btt"),
    ('t', "optional.of(@).orValue('z')", "t"),
    ('b', "!(@)", "b"),
    ('b', "(@) && (@)", "bb"),
    ('b', "(@) || (@)", "bb"),
    ('b', "(@) && (@) || (@)", "bbb"),
    ('b', "(@) == (@)", "tt"),
    ('b', "(@) == (@)", "nn"),
    ('b', "(@) != (@)", "nn"),
    ('b', "(@) in [1, 1.5, 2.0]", "n"),
    ('b', "(@) == (@)", "ll"),
    ('b', "(@) == (@)", "aa"),
    ('b', "(@) != (@)", "aa"),
    ('b', "(@) == null", "a"),
    ('b', "(@) < (@)", "nn"),
    ('b', "(@) <= (@)", "tt"),
    ('b', "(@) > (@)", "bb"),
    ('b', "(@) >= (@)", "nn"),
    ('b', "(@) in (@)", "tl"),
    ('b', "(@) in (@)", "nl"),
    ('b', "(@) in ['Sales', 'HR']", "t"),
    ('b', "(@) in tables.code", "t"),
    ('b', "(@).contains(@)", "tt"),
    ('b', "(@).startsWith(@)", "tt"),
    ('b', "(@).endsWith(@)", "tt"),
    ('b', "(@).matches('^A[a-z]+$')", "t"),
    ('b', "matches(@, 'a|b')", "t"),
    ('b', "(@).matches(@)", "tt"),
    ('b', "(@).exists(x, @)", "lb"),
    ('b', "(@).exists(x, x == (@))", "lt"),
    ('b', "(@).exists(x, x.startsWith(@))", "lt"),
    ('b', "(@).all(x, @)", "lb"),
    ('b', "(@).all(x, x != (@))", "lt"),
    ('b', "(@).exists_one(x, @)", "lb"),
    ('b', "(@).exists_one(x, x == (@))", "lt"),
    ('b', "(@).exists(y, (@).exists(x, x == y || (@)))", "llb"),
    ('b', "type(@) == string", "a"),
    ('n', "size(@)", "t"),
    ('n', "size(@)", "l"),
    ('n', "(@).size()", "t"),
    ('n', "(@).indexOf(@)", "tt"),
    ('n', "(@).lastIndexOf(@)", "tt"),
    ('n', "-(@)", "n"),
    ('n', "(@) + (@)", "nn"),
    ('n', "(@) - (@)", "nn"),
    ('n', "(@) * (@)", "nn"),
    ('n', "(@) / (@)", "nn"),
    ('n', "(@) % (@)", "nn"),
    ('n', "int(@)", "n"),
    ('n', "double(@)", "n"),
    ('n', "(@) ? (@) : (@)", "bnn"),
    ('l', "[@]", "t"),
    ('l', "[@, @]", "tn"),
    ('l', "[@, @]", "aa"),
    ('l', "(@) + (@)", "ll"),
    ('l', "(@) + groups + (@)", "ll"),
    ('l', "split(@, @)", "tt"),
    ('l', "(@).split(@)", "tt"),
    ('l', "lookup(tables.department, @, @)", "tl"),
    ('l', "tables.department[@]", "t"),
    ('l', "tables.department[?@].orValue(@)", "tl"),
    ('l', "tables.department.Sales + (@)", "l"),
    ('l', "(@).map(x, @)", "lt"),
    ('l', "(@).map(x, x + (@))", "lt"),
    ('l', "(@).map(x, @, @)", "lbt"),
    ('l', "(@).map(x, (@).map(y, x + y + (@)))", "llt"),
    ('l', "(@).filter(x, @)", "lb"),
    ('l', "(@).filter(x, x.startsWith(@))", "lt"),
    ('l', "(@).filter(y, y != (@))", "lt"),
    ('l', "(@) ? (@) : (@)", "bll"),
    ('a', "default(@, @)", "aa"),
    ('a', "lookup(tables.department, @, @)", "aa"),
    ('a', "lookup(@, @, @)", "aaa"),
    ('a', "(@)[@]", "aa"),
    ('a', "(@) ? (@) : (@)", "baa"),
    ('a', "{'k': @}", "a"),
];

const LEAVES: &[(Meant, &[&str])] = &[
    (
        't',
        &[
            "given",
            "family",
            "department",
            "mail",
            "x",
            "'Sales'",
            "''",
            "'a'",
            "'.'",
            "','",
            "'Ärzte'",
            "'Ada'",
            "kind",
        ],
    ),
    ('b', &["vip", "true", "false"]),
    ('n', &["level", "ratio", "0", "1", "7", "-2", "1.5", "2.0"]),
    ('l', &["groups", "['Sales', 'HR']", "['a', null, 1]", "[]"]),
    ('a', &["null", "tables.department", "tables.code", "1u", "b'x'", "x"]),
];

/// Expressions as people might write them, and, as what belongs into a place isn't always there, many that nobody would.
fn expression() -> impl Strategy<Value = String> {
    const LEVELS: usize = 4;
    const KINDS: [Meant; 5] = ['t', 'b', 'n', 'l', 'a'];
    let leaves = |meant: Meant| {
        let of = LEAVES.iter().find(|(own, _)| *own == meant).expect("every type has leaves").1;
        select(of).prop_map(str::to_owned).boxed()
    };
    let any =
        |of: &BTreeMap<Meant, BoxedStrategy<String>>| proptest::strategy::Union::new(of.values().cloned()).boxed();
    let mut level: BTreeMap<Meant, BoxedStrategy<String>> = KINDS.map(|meant| (meant, leaves(meant))).into();
    for _ in 1..LEVELS {
        let below = level.clone();
        let place = |meant: Meant| match meant {
            'a' => any(&below),
            meant => prop_oneof![12 => below[&meant].clone(), 1 => any(&below)].boxed(),
        };
        let form = |(_, form, places): &(Meant, &'static str, &str)| {
            let form = *form;
            let places: Vec<_> = places.chars().map(place).collect();
            places
                .prop_map(move |inner| inner.iter().fold(form.to_owned(), |form, inner| form.replacen('@', inner, 1)))
                .boxed()
        };
        for (meant, grown) in &mut level {
            let forms = FORMS.iter().filter(|(gives, ..)| gives == meant).map(form);
            *grown = prop_oneof![1 => leaves(*meant), 4 => proptest::strategy::Union::new(forms)].boxed();
        }
    }
    any(&level)
}

/// Equal to the bit: NaN is like NaN, and 0.0 is not like -0.0.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(x) => format!("float {:x}", x.to_bits()),
        Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => format!("{} {}", other.type_name(), other.to_json()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_program_gives_what_the_interpreter_gives(text in expression(), attributes in vec(attributes(), 3)) {
        let language = &LANGUAGE;
        let Some(expression) = compile(&text, language) else { return Ok(()) };
        for attributes in &attributes {
            let merged = Merged::of(language.slots(), attributes);
            let (ours, theirs) = (expression.evaluate(&merged, "person"), expression.interpret(&merged, "person"));
            prop_assert_eq!(ours.map(|value| shown(&value)), theirs.map(|value| shown(&value)), "{}", text);
            let (ours, theirs) = (expression.is_true(&merged, "person"), expression.interpret_condition(&merged, "person"));
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}

/// A generator that makes nothing but errors would show nothing: of what it makes many compile, most of those are lowered, and
/// of their answers many are values.
#[test]
fn the_expressions_that_are_compared_are_worth_it() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compiled, mut lowered, mut values) = (0, 0, 0);
    let language = &LANGUAGE;
    for _ in 0..1000 {
        let made = (expression(), attributes()).new_tree(&mut runner).expect("a value").current();
        let Some(expression) = compile(&made.0, language) else { continue };
        compiled += 1;
        if let Some(program) = &expression.program() {
            lowered += 1;
            values += usize::from(
                program.value(&Merged::of(language.slots(), &made.1), "person", &Steps::default()).is_some(),
            );
        }
    }
    assert!(compiled > 700 && lowered > 500 && values > 300, "{compiled} compile, {lowered} lowered, {values} values");
}

/// Where types meet: the generator comes by here, too, but not each time.
#[test]
fn corners_are_as_the_interpreter_has_them() {
    let attributes = Attributes::from([("level", Value::Int(2)), ("ratio", Value::Float(2.0)), ("given", "ß".into())]);
    let merged = Merged::of(LANGUAGE.slots(), &attributes);
    for text in [
        "level == ratio",
        "ratio == level",
        "level != ratio",
        "[level] == [ratio]",
        "level in [2.0]",
        "ratio in [1, 2]",
        "level <= ratio && ratio >= level",
        "level + ratio",
        "lookup(tables.code, ratio, 'none')",
        "lookup(tables.code, level, 'none')",
        "lookup(tables.code, [level], 'none')",
        "lookup(given, null, 'none')",
        "lookup(given, 'a', 'none')",
        "[1, 2, 3][ratio]",
        "[1, 2, 3][?ratio].orValue(0)",
        "[1][?-1].orValue(0)",
        "given[?0].orValue('none')",
        "null[?'a'].orValue('none')",
        "0.0 / 0.0 == 0.0 / 0.0",
        "0.0 / 0.0 < 1.0",
        "-ratio",
        "-(-9223372036854775807 - 1)",
        "(-9223372036854775807 - 1) / -1",
        "9223372036854775807 + 1",
        "level % 0",
        "upper(given)",
        "given.upperAscii()",
        "''.indexOf('')",
        "given.lastIndexOf('')",
        "given.charAt(1)",
        "given.charAt(2)",
        "given.substring(1)",
        "given.substring(1, 0)",
        "substring(given, -5, 1)",
        "substring(given, 1, 0)",
        "given.replace('', '-')",
        "given.split('')",
        "split(given, '')",
        "[null, given].join('-')",
        "join([null, given], '-')",
        "[].join()",
        "mail || true",
        "mail && false",
        "true || mail",
        "mail || false",
        "[mail, 1].exists(x, x == 1)",
        "[given, 1].exists(x, x == 1 || x.startsWith('q'))",
        "[1, given].all(x, x.startsWith('q'))",
        "[given, 1].all(x, x.startsWith('q'))",
        "[given, 1].exists_one(x, x.startsWith('q'))",
        "[1, 2].map(level, level + 1)",
        "[[1, 2], [3]].map(x, x.map(x, x + 1))",
        "mail in tables.code",
        "[] in tables.code",
        "tables.code == tables.code",
        "tables.code + []",
        "[] + tables.code",
        "size(tables.code)",
        "tables.code.map(x, 1)",
        "tables",
        "has(tables.code)",
        "has(tables.code.Moon)",
        "string(ratio)",
        "string(null)",
    ] {
        let expression = compile(text, &LANGUAGE).unwrap_or_else(|| panic!("{text} compiles"));
        let (ours, theirs) = (expression.evaluate(&merged, "person"), expression.interpret(&merged, "person"));
        assert_eq!(ours.map(|value| shown(&value)), theirs.map(|value| shown(&value)), "{text}");
    }
}

#[test]
fn what_rules_are_made_of_never_needs_the_interpreter() {
    let language = &LANGUAGE;
    let attributes = Attributes::from([
        ("given", "Ada Maria".into()),
        ("family", Value::text("Ångström-Weiß")),
        ("department", "Sales".into()),
        ("groups", Value::List(vec!["vpn".into(), "wiki-editors".into()])),
        ("level", Value::Int(7)),
        ("vip", true.into()),
    ]);
    let merged = Merged::of(language.slots(), &attributes);
    for text in [
        "given",
        "given + ' ' + family",
        "lower(ascii(default(mail, given) + '.' + family)).replace(' ', '-').replace(\"'\", '') + substring(family, 1, 4)",
        "lookup(tables.department, department, []) + lookup(tables.department, given, []) + groups",
        "tables.department[department] + groups.filter(g, g.startsWith('wiki-'))",
        "tables.department[?given].orValue([])",
        "department in ['Engineering', 'Sales'] && level >= 7 || vip == true",
        "groups.exists(g, g == 'vpn') ? 'on' : 'off'",
        "groups.map(g, upper(g))",
        "mail != null && mail.matches('^[a-z]+@example[.]com$')",
        "given.matches('^A')",
        "given.charAt(0).lowerAscii() + family.lowerAscii()",
        "given.substring(0, given.indexOf(' '))",
        "default(mail, '')",
        "join(groups, ',')",
        "kind == 'person'",
        "string(level) + '!'",
        "department != 'HR' && !(department == null)",
    ] {
        let expression = compile(text, language).expect(text);
        let program = expression.program().expect(text);
        let value = program.value(&merged, "person", &Steps::default()).expect(text);
        assert_eq!(shown(&value), shown(&expression.interpret(&merged, "person").expect(text)), "{text}");
    }
}

/// Lists are as long as an event says: what multiplies one by itself ends in an error, by way of the program or of the
/// interpreter, and never in an answer.
#[test]
fn work_that_long_lists_multiply_ends_in_an_error() {
    let with = |elements: usize| {
        let groups = (0..elements).map(|n| Value::text(format!("g{n}"))).collect();
        let note = "x".repeat(100_000);
        Attributes::from([("groups", Value::List(groups)), ("given", Value::text(note)), ("level", Value::Int(1))])
    };
    let (few, many) = (with(100), with(10_000));
    for text in [
        "groups.filter(g, g in groups)",
        "groups.exists(g, !(g in groups))",
        "groups.all(g, g in groups) || true",
        "true || groups.all(g, g in groups) ? groups.exists_one(g, g in groups) : false",
        "groups.map(a, groups.map(b, a + b))",
        "groups.map(a, groups)",
        "groups.map(a, groups + [a])",
        "groups.map(a, join(groups, ','))",
        "groups.filter(a, groups == groups)",
        "[groups + []].map(a, groups.filter(b, b in a))",
        "groups.map(a, given + a)",
        "groups.exists(a, lower(given) == a)",
        "groups.filter(a, given.contains(a))",
        "groups.filter(a, given.matches('y$'))",
        // A member of a list that is no member of any type is asked of the interpreter, which then is not asked either.
        "groups.exists(a, groups.exists(b, b + level == a))",
        // Left to the interpreter from the start.
        "groups.filter(a, a in groups && 1u < 2u)",
        "groups.exists(a, !(a in groups)) || 1u > 2u",
    ] {
        let expression = compile(text, &LANGUAGE).unwrap_or_else(|| panic!("{text} compiles"));
        let on = |attributes: &Attributes| expression.evaluate(&Merged::of(LANGUAGE.slots(), attributes), "person");
        let error = on(&many).expect_err(text).to_string();
        assert_eq!(error, "it looks at more than 1000000 elements of lists: the lists are too long for it", "{text}");
        if let Err(error) = on(&few) {
            assert!(!error.to_string().contains("too long"), "{text}: {error}");
        }
    }
    for text in [
        "groups.filter(g, g.startsWith('g9'))",
        "groups.filter(g, g in ['g1', 'g2']) + groups",
        "'g1' in groups && 'none' in groups || size(groups) > 3",
        "groups.map(g, upper(g)).exists(g, g == 'G9999')",
        "['g1', 'g2', 'g3'].all(g, g in groups)",
    ] {
        let expression = compile(text, &LANGUAGE).unwrap_or_else(|| panic!("{text} compiles"));
        assert!(expression.evaluate(&Merged::of(LANGUAGE.slots(), &many), "person").is_ok(), "{text}");
    }
}
