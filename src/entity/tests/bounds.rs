//! A step emits a bounded number of effects, whatever it is about; the rest follows in steps of its own.

use super::*;

fn many_targets(count: usize) -> Bundle {
    let mut files = vec![
        SourceFile {
            path: "sources/hr.yaml".to_owned(),
            text: "source: hr\ntopic: hr\ntenant: acme\nformat: json\nevent: { id: id }\nrecord: { id: id }\nattributes: { number: number, name: name, department: department, status: status }\n".to_owned(),
        },
        SourceFile {
            path: "identity.yaml".to_owned(),
            text: "kinds:\n  person:\n    anchor: hr\n    attributes: { number: [hr.number], name: [hr.name], department: [hr.department], status: [hr.status] }\n    lifecycle: { active: \"status == 'active'\" }\nguard: { limit: 100000, window: 1h }\n".to_owned(),
        },
    ];
    files.extend((0..count).map(|n| SourceFile {
        path: format!("targets/t{n:03}.yaml"),
        text: target(&format!("t{n:03}"), "", "name: name", "leaver: { action: disable, delete_after: 30d }"),
    }));
    Bundle::compile(&files).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// `step` itself refuses more than `MAX_EFFECTS`.
#[test]
fn a_person_with_accounts_everywhere_is_decided_in_several_steps() {
    const TARGETS: usize = 400;
    let mut town = Town::with(many_targets(TARGETS));
    town.hire("1", "Engineering");
    assert_eq!(town.commanded().len(), TARGETS);
    assert!(town.continued > 0, "so much doesn't fit into one step");

    let before = town.continued;
    town.fire("1");
    let commanded = town.commanded();
    assert_eq!(commanded.len(), TARGETS);
    assert!(commanded.iter().all(|command| command.starts_with("disable")), "{commanded:?}");
    assert!(town.continued > before);
    let opened = town.decisions.iter().filter(|(_, kind)| matches!(kind, DecisionKind::DeprovisionOpened { .. }));
    assert_eq!(opened.count(), TARGETS, "each clock starts once");

    let before = town.continued;
    town.fire("1");
    assert_eq!((town.commanded().len(), town.continued), (0, before), "what is decided is not decided again");
}

#[test]
fn a_release_lets_go_of_everything_that_it_names_however_much_else_is_held() {
    const PEOPLE: usize = 230;
    let mut town = Town::with(bundle(0, false));
    for number in 0..PEOPLE {
        town.hire(&number.to_string(), "Engineering");
    }
    town.commanded();
    for number in 0..PEOPLE {
        town.fire(&number.to_string());
    }
    assert_eq!(town.commanded(), [""; 0], "all are held, at both targets");
    let guard = Address::guard("acme".into());
    town.operate(guard.clone(), Action::GuardRelease { target: Some("wiki".into()), account: None });
    let commanded = town.commanded();
    assert_eq!(commanded.len(), PEOPLE);
    assert!(commanded.iter().all(|command| command.starts_with("disable wiki")), "{commanded:?}");
    assert!(town.continued >= 2 * PEOPLE / 100, "a hundred at a step");
    town.operate(guard, Action::GuardReject { target: None, account: None });
    assert_eq!(town.commanded(), [""; 0]);
    assert_eq!(town.alerts.last(), Some(&(AlertKind::GuardHolding, AlertState::Resolved)));
}

#[test]
fn a_release_lets_nothing_go_that_is_held_while_it_is_carried_out() {
    const PEOPLE: usize = 120;
    let mut town = Town::with(bundle(0, false));
    let mut numbers: Vec<String> = (0..PEOPLE).map(|number| number.to_string()).collect();
    numbers.iter().for_each(|number| town.hire(number, "Engineering"));
    // Whose row the Guard comes to last.
    numbers.sort_by_key(|number| town.account(number, "wiki").account);
    let last = numbers.pop().unwrap();
    numbers.iter().for_each(|number| town.fire(number));
    town.commanded();
    town.fired_between = Some(last.clone());
    town.operate(Address::guard("acme".into()), Action::GuardRelease { target: Some("wiki".into()), account: None });
    assert_eq!((town.commanded().len(), town.fired_between.take()), (PEOPLE - 1, None));
    assert_eq!(town.account(&last, "wiki").state, AccountState::Present);
    // All of it in one millisecond, and so is what comes next.
    town.operate(Address::guard("acme".into()), Action::GuardRelease { target: Some("wiki".into()), account: None });
    assert_eq!(town.commanded().len(), 1);
}
