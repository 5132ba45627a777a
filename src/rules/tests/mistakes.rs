//! Each kind of mistake: where it is shown, and what is said.

use super::{edited, quickstart};
use crate::rules::{Bundle, Diagnostic, SourceFile};

const HR: &str = "sources/hr.yaml";
const IDP: &str = "sources/idp.yaml";
const IDENTITY: &str = "identity.yaml";
const GRANTS: &str = "entitlements.yaml";
const DIRECTORY: &str = "targets/directory.yaml";
const WIKI: &str = "targets/wiki.yaml";

fn short(problem: &Diagnostic) -> String {
    let place = match problem.line {
        0 => problem.file.clone(),
        _ => format!("{}:{}:{}+{}", problem.file, problem.line, problem.column, problem.width),
    };
    let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{place} {}{help}", problem.message)
}

#[test]
fn each_mistake_is_shown_where_it_is_and_with_its_remedy() {
    let cases: &[(&str, &str, &str)] = &[
        // sources
        (HR, "topic: hr.workers", "topics: []"),
        (HR, "topic: hr.workers", "topic: idp.users"),
        (HR, "tenant: acme", "tenant: { topic: 'hr\\.(?P<t>.*)' }"),
        (HR, "format: json", "format: jsn"),
        (HR, "terminated: upsert", "terminated: updat"),
        (HR, "  id: id\n", ""),
        (HR, "route_by: employeeNumber", "route_by: employeNumber"),
        (HR, "id: worker.workerId", "id: worker..workerId"),
        (HR, "title: worker.title", "title: [worker.title]"),
        (HR, "type: date }", "type: day }"),
        (HR, "required: true", "required: yes"),
        (HR, "format: json", "formt: json"),
        (HR, "source: hr", "source: h r"),
        (IDP, "source: idp", "source: hr"),
        // identity
        (IDENTITY, "anchor: hr", "anchor: hrr"),
        (IDENTITY, "givenName: [hr.givenName]", "givenName: [hr.givename]"),
        (IDENTITY, "givenName: [hr.givenName]", "givenName: [givenName]"),
        (IDENTITY, "givenName: [hr.givenName]", "given-name: [hr.givenName]"),
        (IDENTITY, "mobile: [idp.mobile]", "mobile: [ldap.mobile]"),
        (IDENTITY, "correlate: [employeeNumber]", "correlate: [startDate]"),
        (IDENTITY, "      title: [hr.title]\n", ""),
        (IDENTITY, "active: status != 'terminated'", "active: stats != 'terminated'"),
        (IDENTITY, "active: status != 'terminated'", "active: \"status != 'terminated' &&\""),
        (IDENTITY, "active: status != 'terminated'", "active: status"),
        (IDENTITY, "active: status != 'terminated'", "active: startDate"),
        (IDENTITY, "active: status != 'terminated'", "active: 1 > 2"),
        (IDENTITY, "start: startDate", "start: status"),
        (IDENTITY, "start: startDate", "start: startdate"),
        (IDENTITY, "default: Europe/Berlin", "default: Europe/Berln"),
        (IDENTITY, "last_day: included", "last_day: yes"),
        (IDENTITY, "window: 1h", "window: 1 hour"),
        (IDENTITY, "limit: 10", "limit: -1"),
        (IDENTITY, "window: 1h }", "window: 1h, targets: { direktory: { limit: 1 } } }"),
        (IDENTITY, "at: 2026-03-02T09:00:00Z", "at: 2026-03-02"),
        (IDENTITY, "    at: 2026-03-02T09:00:00Z\n", ""),
        (IDENTITY, "status: active, startDate: 2026-04-01 }", "status: active, startDate: 2026-13-01 }"),
        (IDENTITY, "status: active, startDate: 2026-04-01 }", "status: active, strtDate: 2026-04-01 }"),
        (IDENTITY, "directory: none", "directry: none"),
        (IDENTITY, "phase: future", "phase: soon"),
        // entitlements
        (GRANTS, "department in ['Engineering'", "departments in ['Engineering'"),
        (GRANTS, "{ directory: [all-staff] }", "{ directroy: [all-staff] }"),
        (GRANTS, "[readers, writers]", "[readers, admins]"),
        (GRANTS, "tables.department, department, []", "tables.departmnt, department, []"),
        (GRANTS, "lookup(tables.department, department, [])", "lookup(tables.department, department)"),
        (GRANTS, "lookup(tables.department, department, [])", "upper(department) + 'x'"),
        (GRANTS, "title.startsWith('Head of')", "title.startWith('Head of')"),
        (GRANTS, "title.startsWith('Head of')", "matches(title, '(Head')"),
        (GRANTS, "name: contractors", "name: employees"),
        (GRANTS, "when: workerType == 'employee'", "when: false"),
        (GRANTS, "Engineering: [engineering, source-code]", "Engineering: { a: b }"),
        (GRANTS, "{ groups: [all-staff, contractors] }", "{ groups: [all-staff], attributes: { usrName: x } }"),
        // targets
        (DIRECTORY, "match: userName", "match: username"),
        (DIRECTORY, "        mobile: mobile\n", ""),
        (DIRECTORY, "action: disable, delete_after: 30d", "action: delete, delete_after: 30d"),
        (DIRECTORY, "action: disable, delete_after: 30d", "action: delete, maintain: true"),
        (DIRECTORY, "delete_after: 30d", "delete_after: 30"),
        (DIRECTORY, "      active: { column: active, true: 1, false: 0 }\n", ""),
        (DIRECTORY, "    groups: { table: memberships, account: account_id, group: group_name }\n", ""),
        (DIRECTORY, "table: accounts", "table: accounts; drop"),
        (DIRECTORY, "url: sqlite:${data}/directory.db", "url: mysql://x"),
        (DIRECTORY, "url: sqlite:${data}/directory.db", "url: postgres://app:hunter2@db/x"),
        (DIRECTORY, "groups: { mode: additive }", "groups: { mode: authoritative }"),
        (DIRECTORY, "target: directory", "target: directory\nkinds: [persn]"),
        (DIRECTORY, "givenName: givenName", "givenName: '{\"a\": givenName}'"),
        (DIRECTORY, "title: title\n    manager", "title: \"title + \\\"x\\\" + titel\"\n    manager"),
        (DIRECTORY, "displayName: default(", "displayName: lower("),
        (WIKI, "deprovision: 5m", "deprovision: 5min"),
        (WIKI, "connector:", "conector:"),
    ];
    insta::assert_snapshot!(shown(cases), @r#"
    sources/hr.yaml:2:1+1 `topic` is missing (add `topic: hr.workers`)
    sources/idp.yaml:3:8+9 the topic `idp.users` is read by the source `hr` already (a topic belongs to one source)
    sources/hr.yaml:4:18+15 the pattern has no group named `tenant` (name the part that is the tenant: `hr\.(?P<tenant>[a-z]+)\.workers`)
    sources/hr.yaml:5:9+3 `jsn` is not a word that is known here (did you mean `json`?)
    sources/hr.yaml:9:56+5 `updat` is not a word that is known here (words known here: `ignore`, `remove`, `upsert`)
    sources/hr.yaml:7:3+1 `id` is missing (add `id: id`, the path to what is the same when an event comes twice)
    sources/hr.yaml:14:11+13 `route_by` names `employeNumber`, which this source does not map (did you mean `employeeNumber`?)
    sources/hr.yaml:13:7+16 this is not a path (write the names from the outside in, with dots: `worker.startDate`)
    sources/hr.yaml:21:10+1 text belongs here, not a list (write one, without the brackets or the `- `)
    sources/hr.yaml:26:46+3 `day` is not a word that is known here (words known here: `bool`, `date`, `int`, `list`, `text`)
    sources/hr.yaml:16:60+3 true or false belongs here, not text (write `true` or `false`, without quotes)
    sources/hr.yaml:5:1+5 the key `formt` is not known here (did you mean `format`?)
    sources/hr.yaml:2:9+3 `h r` can't be a name (use letters, digits, `-` and `_`, at most 64, and not `lockstep`)
    sources/idp.yaml:2:9+2 a source named `hr` is declared in sources/hr.yaml already (give each its own name)
    identity.yaml:4:13+3 no source is named `hrr` (did you mean `hr`?)
    identity.yaml:8:19+11 the source `hr` maps no attribute `givename` (did you mean `givenName`?)
    identity.yaml:8:19+9 `givenName` names no source's attribute (write source and attribute: `[hr.givenName]`)
    identity.yaml:8:7+10 `given-name` can't be the name of an attribute (use letters, digits and `_`, a letter first, and no word of the expression language)
    identity.yaml:20:16+11 no source is named `ldap` (sources known here: `hr`, `idp`)
    identity.yaml:5:17+9 nothing links records of `idp` to those of `hr` (name an attribute that both map, for example `correlate: [employeeNumber]`)
    entitlements.yaml:24:11+5 no attribute is named `title` (the source `hr` maps it: add `title: [hr.title]` to the kind's attributes)
      and entitlements.yaml:24:28+5 no attribute is named `title` (the source `hr` maps it: add `title: [hr.title]` to the kind's attributes)
      and targets/directory.yaml:34:12+5 no attribute is named `title` (the source `hr` maps it: add `title: [hr.title]` to the kind's attributes)
    identity.yaml:23:15+5 no attribute is named `stats` (did you mean `status`?)
    identity.yaml:23:40+1 this is not an expression: it ends where something is still to come (write what is to come, or remove what asks for it)
    identity.yaml:23:15+6 a condition is true or false; this one gives text (write `status == '…'`, or, if it is true or false, map it in sources/hr.yaml as `status: { path: worker.status, type: bool }`)
    identity.yaml:23:15+9 a condition is true or false; this one gives text (write `startDate != null`)
    identity.yaml:23:15+5 this never applies: it is false for everybody (remove the rule, or let the condition look at an attribute)
    identity.yaml:24:14+6 `status` comes from hr.status, which is no date (write `status: { path: worker.status, type: date }` in sources/hr.yaml)
    identity.yaml:24:14+9 no attribute is named `startdate` (did you mean `startDate`?)
    identity.yaml:27:50+12 no time zone is named `Europe/Berln` (did you mean `Europe/Berlin`?)
    identity.yaml:26:17+3 `yes` is not a word that is known here (words known here: `excluded`, `included`)
    identity.yaml:31:29+6 this is not a duration (write a whole number and a unit: `500ms`, `10s`, `15m`, `4h`, `30d`)
    identity.yaml:31:17+2 a number from 0 to 1000000 belongs here
    identity.yaml:31:44+9 no target is named `direktory` (did you mean `directory`?)
    identity.yaml:35:9+10 this is not an instant (write it as in RFC 3339: `2026-03-02T09:00:00Z`)
    identity.yaml:34:5+1 the answer depends on the time: `at` is missing (add `at: 2026-03-02T09:00:00Z`)
    identity.yaml:37:100+10 `startDate` is a date (YYYY-MM-DD) or an instant as in RFC 3339
    identity.yaml:37:89+8 the source `hr` maps no attribute `strtDate` (did you mean `startDate`?)
    identity.yaml:38:42+8 no target is named `directry` (did you mean `directory`?)
    identity.yaml:38:22+4 `soon` is not a word that is known here (words known here: `active`, `ended`, `future`)
    entitlements.yaml:30:11+11 no attribute is named `departments` (did you mean `department`?)
    entitlements.yaml:14:11+9 no target is named `directroy` (did you mean `directory`?)
    entitlements.yaml:31:27+6 the group `admins` is not in the universe of `wiki` (add it to `groups.universe` in targets/wiki.yaml)
    entitlements.yaml:16:37+9 no table is named `departmnt` (did you mean `department`?)
    entitlements.yaml:16:23+6 `lookup` takes 3 argument(s), not 2
    entitlements.yaml:16:22+25 a list of groups belongs here, not text (write `["group"]` for one group)
    entitlements.yaml:24:34+9 no function is named `startWith` (did you mean `startsWith`?)
    entitlements.yaml:24:43+7 this is not a pattern: unclosed group (close what is opened; a character that means itself stands in brackets: `[(]`, `[*]`)
    entitlements.yaml:20:11+9 a grant named `employees` stands above already (give each its own name)
    entitlements.yaml:18:11+5 this never applies: it is false for everybody (remove the rule, or let the condition look at an attribute)
    entitlements.yaml:4:18+1 a value or a list of values belongs here, not a map (write a value, `x`, or several, `[x, y]`)
    entitlements.yaml:59:57+7 accounts of `directory` have no attribute `usrName` (did you mean `userName`?)
    targets/directory.yaml:24:10+8 `match` names `username`, which is no attribute of the account (did you mean `userName`?)
    targets/directory.yaml:31:5+6 the connector doesn't know where to write `mobile` (add `mobile: …` under `sql.accounts.columns`)
    targets/directory.yaml:38:27+12 with `action: delete` nothing is left to delete later (write `action: disable` to delete some time after the disable, or remove `delete_after`)
    targets/directory.yaml:38:27+8 with `action: delete` nothing is left to maintain (write `action: disable` to keep leavers' accounts current, or remove `maintain`)
    targets/directory.yaml:38:42+2 this is not a duration (write a whole number and a unit: `500ms`, `10s`, `15m`, `4h`, `30d`)
    targets/directory.yaml:37:11+6 leavers are to be disabled here, but the table has no column for it (add `active: { column: active, true: true, false: false }` under `accounts`, or write `leaver: { action: delete }`)
    entitlements.yaml:14:11+9 accounts of the target `directory` have no groups (add `groups: { table: …, account: …, group: … }` in targets/directory.yaml)
    targets/directory.yaml:7:14+14 `accounts; drop` can't be the name of a table or column (use letters, digits and `_`; a table may have its schema before it: `hr.accounts`)
    targets/directory.yaml:5:10+9 this connector can't use that url (begin it with `sqlite:`, `postgres:`, `postgresql:`)
    targets/directory.yaml:5:10+27 a password must not stand in a rule file (write `${env:NAME}` or `${file:PATH}`)
    targets/directory.yaml:37:9+1 `universe` is missing (with `mode: authoritative`, `universe: [g1, g2]` names the groups that are Lockstep's alone)
    targets/directory.yaml:3:9+5 no kind is named `persn` (did you mean `person`?)
    targets/directory.yaml:29:16+18 an attribute can't hold a map
    targets/directory.yaml:34:29+5 no attribute is named `titel` (did you mean `title`?)
    targets/directory.yaml:28:18+5 `lower` takes 1 argument(s), not 2
    targets/wiki.yaml:22:26+4 this is not a duration (write a whole number and a unit: `500ms`, `10s`, `15m`, `4h`, `30d`)
    targets/wiki.yaml:2:1+1 `connector` is missing (add `connector: { sql: { ... } }`)
      and targets/wiki.yaml:3:1+8 the key `conector` is not known here (did you mean `connector`?)
    "#);
}

fn shown(cases: &[(&str, &str, &str)]) -> String {
    let shown = cases.iter().map(|(path, from, to)| match Bundle::compile(&edited(path, from, to)) {
        Ok(_) => format!("{path}: `{to}` is fine"),
        Err(problems) => problems.iter().map(short).collect::<Vec<_>>().join("\n  and "),
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_rule_that_fails_for_everybody_is_refused() {
    let (active, when) = ("active: status != 'terminated'", "when: workerType == 'employee'");
    let groups = "lookup(tables.department, department, [])";
    insta::assert_snapshot!(shown(&[
        (IDENTITY, active, "active: status"),
        (IDENTITY, active, "active: \"status + 'x'\""),
        (IDENTITY, active, "active: lower(status)"),
        (IDENTITY, active, "active: default(status, 'active')"),
        (IDENTITY, active, "active: groups"),
        (IDENTITY, active, "active: '!status'"),
        (IDENTITY, active, "active: status != 'terminated' && title"),
        (IDENTITY, active, "active: endDate > 5"),
        (IDENTITY, active, "active: groups < 'x'"),
        (IDENTITY, active, "active: size(groups) + 'x' == 'y'"),
        (IDENTITY, "urgent: terminationReason == 'security'", "urgent: terminationReason"),
        (WIKI, "when: department in ['Engineering', 'Product', 'Design', 'Support']", "when: department"),
        (GRANTS, when, "when: \"workerType == 'a' ? department : title\""),
        (GRANTS, when, "when: \"tables.department[department] == 'x'\""),
        (GRANTS, when, "when: department.name == 'x'"),
        (GRANTS, when, "when: department > 5"),
        (GRANTS, when, "when: 2.5 <= department"),
        (GRANTS, when, "when: \"'Eng' in department\""),
        (GRANTS, groups, "department"),
        (GRANTS, groups, "default(department, title)"),
        (GRANTS, "    People: [people]\n", "    People: people\n"),
        (
            GRANTS,
            "    People: [people]\n\ngrants:\n",
            "    People: [people]\n  n: { a: b }\ngrants:\n  - name: n\n    to: { directory: \"lookup(tables.n, title, 'c')\" }\n",
        ),
        (DIRECTORY, "deprovision: 15m", "deprovision: 0s"),
        (DIRECTORY, "provision: 4h", "provision: 0m"),
    ]), @r#"
    identity.yaml:23:15+6 a condition is true or false; this one gives text (write `status == '…'`, or, if it is true or false, map it in sources/hr.yaml as `status: { path: worker.status, type: bool }`)
    identity.yaml:23:15+14 a condition is true or false; this one gives text (compare with something: `department == 'Sales'`, `size(groups) > 0`, `mail != null`)
    identity.yaml:23:15+13 a condition is true or false; this one gives text (compare with something: `department == 'Sales'`, `size(groups) > 0`, `mail != null`)
    identity.yaml:23:15+25 a condition is true or false; this one gives text (compare with something: `department == 'Sales'`, `size(groups) > 0`, `mail != null`)
    identity.yaml:23:15+6 a condition is true or false; this one gives a list (write `size(groups) > 0`, or `'vpn' in groups`)
    identity.yaml:23:17+6 true or false belongs here, not text (compare with something: `x == 'text'`, `x > 0`, `x != null`)
    identity.yaml:23:41+5 true or false belongs here, not text (compare with something: `x == 'text'`, `x > 0`, `x != null`)
    identity.yaml:23:23+1 `>` can't be used on text and a number (use values of the same type: `string(x)` gives text, `int(x)` a number)
    identity.yaml:23:22+1 `<` can't be used on a list and text (use values of the same type: `string(x)` gives text, `int(x)` a number)
    identity.yaml:23:28+1 `+` can't be used on a number and text (use values of the same type: `string(x)` gives text, `int(x)` a number)
      and identity.yaml:23:34+2 a number is never equal to text (compare values of the same type: `x == 'text'`, `x == 1`, `x == true`)
    identity.yaml:28:15+17 a condition is true or false; this one gives text (write `terminationReason == '…'`, or, if it is true or false, map it in sources/hr.yaml as `terminationReason: { path: worker.terminationReason, type: bool }`)
    targets/wiki.yaml:14:9+10 a condition is true or false; this one gives text (write `department == '…'`, or, if it is true or false, map it in sources/hr.yaml as `department: { path: worker.department, type: bool }`)
    entitlements.yaml:18:11+40 a condition is true or false; this one gives text (compare with something: `department == 'Sales'`, `size(groups) > 0`, `mail != null`)
    entitlements.yaml:18:42+2 a list is never equal to text (compare values of the same type: `x == 'text'`, `x == 1`, `x == true`)
    entitlements.yaml:18:11+10 `.name` asks for a field of text, which has none (write the attribute's name alone: paths stand where the source maps it)
    entitlements.yaml:18:22+1 `>` can't be used on text and a number (map the attribute with `type: int`, or write `double(x) > 1.0`)
    entitlements.yaml:18:15+2 `<=` can't be used on a decimal number and text (map the attribute with `type: int`, or write `double(x) > 1.0`)
    entitlements.yaml:18:18+2 `in` looks into a list, not into text (map it with `type: list`, or write `x.contains('text')`)
    entitlements.yaml:16:22+12 a list of groups belongs here, not text (write `["group"]` for one group)
    entitlements.yaml:16:22+28 a list of groups belongs here, not text (write `["group"]` for one group)
    entitlements.yaml:10:13+6 the other entries of this table are lists, this one is not (put it in brackets: `[x]`)
    entitlements.yaml:14:22+30 a list of groups belongs here, not text (write `["group"]` for one group)
    targets/directory.yaml:39:28+11 a deadline needs some time (write `deprovision: 15m`)
    targets/directory.yaml:39:13+9 a deadline needs some time (write `provision: 15m`)
    "#);
}

#[test]
fn a_rule_that_may_hold_for_somebody_is_taken() {
    let (active, when) = ("active: status != 'terminated'", "when: workerType == 'employee'");
    for (path, from, to) in [
        // Text is any single value, as it came.
        (IDENTITY, active, "active: default(status, true)"),
        (IDENTITY, active, "active: status == true"),
        (IDENTITY, active, "active: \"status == 'x' ? true : status\""),
        (GRANTS, when, "when: double(department) > 5.0"),
        (GRANTS, when, "when: department > 'E'"),
        (GRANTS, when, "when: default(department, 0) > 5"),
        (GRANTS, when, "when: department + title == 'x'"),
        // It fails for those who have none, and for nobody else.
        (GRANTS, when, "when: department.startsWith('E')"),
        (GRANTS, when, "when: tables.department[department].exists(group, group == 'crm')"),
        (GRANTS, when, "when: groups[0] == 'vpn'"),
        (GRANTS, when, "when: startDate > '2026-01-01'"),
        (GRANTS, "    People: [people]\n", "    People: [people]\n    Nobody:\n"),
        (GRANTS, "lookup(tables.department, department, [])", "default(groups, [department])"),
        (GRANTS, "lookup(tables.department, department, [])", "split(department, ',')"),
    ] {
        if let Err(problems) = Bundle::compile(&edited(path, from, to)) {
            panic!("{to}: {}", crate::rules::diagnostic::render(&problems));
        }
    }
    let mut files = edited(HR, "status: worker.status", "status: { path: worker.status, type: bool }");
    for file in &mut files {
        // The tests of the files have records where it is text.
        file.text = file.text.replace("status != 'terminated'", "status").replace("status: active, ", "");
        file.text = file.text.replace(", status: active", "").replace("status: terminated, ", "");
    }
    assert!(Bundle::compile(&files).is_ok());
}

#[test]
fn a_mistake_is_shown_once_and_with_what_to_write_instead() {
    insta::assert_snapshot!(shown(&[
        (WIKI, "target: wiki", "taget: wiki"),
        (WIKI, "target: wiki", ""),
        (HR, "source: hr", "sorce: hr"),
        (HR, "topic: hr.workers", "topics: hr.workers"),
        (GRANTS, "grants:\n  - name: everybody\n    to: { directory: [all-staff] }\n", "grants:\n  name: everybody\nx:\n"),
        (IDENTITY, "limit: 10", "limit: '10'"),
        (WIKI, "login: lower(ascii(givenName)).replace(' ', '') + employeeNumber", "login: [givenName]"),
    ]), @r#"
    targets/wiki.yaml:2:1+1 `target` is missing (add `target: wiki`)
      and targets/wiki.yaml:2:1+5 the key `taget` is not known here (did you mean `target`?)
    targets/wiki.yaml:3:1+1 `target` is missing (add `target: wiki`)
    sources/hr.yaml:2:1+1 `source` is missing (add `source: hr`)
      and sources/hr.yaml:2:1+5 the key `sorce` is not known here (did you mean `source`?)
    sources/hr.yaml:3:9+10 a list belongs here, not text (put it in brackets: `[hr.workers]`)
    entitlements.yaml:13:3+1 a list belongs here, not a map (write each item after `- `, on a line of its own)
      and entitlements.yaml:14:1+1 the key `x` is not known here (keys known here: `grants`, `tables`, `tests`)
    identity.yaml:31:17+4 a whole number belongs here, not text (write it without quotes: `10`)
    targets/wiki.yaml:15:10+5 `match` names `login`, which is no attribute of the account (account attributes known here: `email`, `name`)
      and targets/wiki.yaml:17:12+1 an expression belongs here, not a list (put the whole expression in quotes: `"['a', 'b']"`)
    "#);
    let mut files = quickstart();
    files.iter_mut().find(|file| file.path == WIKI).unwrap().text = String::new();
    let problems = Bundle::compile(&files).unwrap_err();
    insta::assert_snapshot!(problems.iter().map(short).collect::<Vec<_>>().join("\n"), @r"
    targets/wiki.yaml `account` is missing (add `account: { match: userName, attributes: { userName: employeeNumber } }`)
    targets/wiki.yaml `connector` is missing (add `connector: { sql: { ... } }`)
    targets/wiki.yaml `target` is missing (add `target: wiki`)
    ");
}

#[test]
fn files_that_are_missing_or_have_no_place_are_named() {
    let mut files = quickstart();
    files.retain(|file| file.path != IDENTITY);
    files.push(SourceFile::new("identiy.yaml", ""));
    files.push(SourceFile::new("sources/more/x.yaml", ""));
    let problems = Bundle::compile(&files).unwrap_err();
    insta::assert_snapshot!(problems.iter().map(short).collect::<Vec<_>>().join("\n"), @r#"
    identity.yaml the file is missing (write it: `kinds: { person: { anchor: hr, attributes: { givenName: [hr.givenName] } } }`)
    identiy.yaml this file has no place here (did you mean `identity.yaml`?)
    sources/more/x.yaml this file has no place here (the folder holds lockstep.yaml, identity.yaml, entitlements.yaml, sources/*.yaml and targets/*.yaml)
    "#);
}

#[test]
fn an_expression_is_underlined_where_it_is_wrong_however_yaml_wraps_it() {
    for (written, expected) in [
        ("status != 'x' && nope", "23:32+4"),
        ("\"status != 'x' && nope\"", "23:33+4"),
        ("'status != ''x'' && nope'", "23:35+4"),
        ("\"status != \\\"x\\\" && nope\"", "23:35+4"),
        ("\"status != 'é' && nope\"", "23:33+4"),
        ("|\n        status != 'x' &&\n        nope\n", "25:9+4"),
        (">\n        status != 'x' &&\n        nope\n", "25:9+4"),
        ("status != 'x' &&\n        nope\n", "24:9+4"),
    ] {
        let files = edited(IDENTITY, "status != 'terminated'", written);
        let problems = Bundle::compile(&files).unwrap_err();
        let place = format!("{}:{}+{}", problems[0].line, problems[0].column, problems[0].width);
        assert_eq!((place.as_str(), problems.len()), (expected, 1), "{written}\n{}", problems[0]);
        let line = problems[0].source_line.clone().unwrap();
        let shown: String = line.chars().skip(problems[0].column - 1).take(problems[0].width).collect();
        assert_eq!(shown, "nope");
    }
}

#[test]
fn a_password_in_a_rule_file_is_refused_and_not_shown() {
    let files = edited(DIRECTORY, "url: sqlite:${data}/directory.db", "url: postgres://app:hunter2@db/x");
    let problems = Bundle::compile(&files).unwrap_err();
    insta::assert_snapshot!(problems[0].to_string(), @r#"
    error: a password must not stand in a rule file
     --> targets/directory.yaml:5:10
      |
    5 |     url: ***
      |          ^^^
      |
      = help: write `${env:NAME}` or `${file:PATH}`
    "#);
    assert!(!format!("{problems:?}").contains("hunter2"));
}

#[test]
fn mistakes_of_several_files_come_at_once() {
    let mut files = edited(DIRECTORY, "match: userName", "match: username");
    let wiki = files.iter_mut().find(|file| file.path == WIKI).unwrap();
    wiki.text = wiki.text.replace("match: login", "match: logn").replace("action: delete", "action: forget");
    let problems = Bundle::compile(&files).unwrap_err();
    insta::assert_snapshot!(problems.iter().map(short).collect::<Vec<_>>().join("\n"), @r#"
    targets/directory.yaml:24:10+8 `match` names `username`, which is no attribute of the account (did you mean `userName`?)
    targets/wiki.yaml:15:10+4 `match` names `logn`, which is no attribute of the account (did you mean `login`?)
    targets/wiki.yaml:21:19+6 `forget` is not a word that is known here (words known here: `delete`, `disable`)
    "#);
}
