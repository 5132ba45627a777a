//! The help of every subcommand.

use crate::command::Here;

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = listed.lines().take_while(|line| line.starts_with("  "));
    // A name stands two spaces in; lines further in go on with a description.
    let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn check(path: &[String]) {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("--help");
    let help = Here::new().run(&args);
    let name = if path.is_empty() { "lockstep".to_owned() } else { path.join("-") };
    insta::assert_snapshot!(format!("help-{name}"), help);
    for subcommand in subcommands(&help) {
        check(&[path, &[subcommand]].concat());
    }
}

#[test]
fn every_subcommand_says_what_it_does() {
    check(&[]);
}
