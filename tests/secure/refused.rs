//! What the brokers refuse: said at once, by what is wrong and what to mend, and without any secret.

use crate::house::{House, Login};
use std::time::{Duration, Instant};

/// A refusal is not waited for as a network is.
const AT_ONCE: Duration = Duration::from_secs(8);

#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn whoever_is_not_let_in_is_told_why_and_what_to_do() {
    let house = House::new(Login::Scram);
    let file = |name: &str| house.secured.file(name);
    let (sasl, mtls) = (house.secured.listener("sasl"), house.secured.listener("mtls"));
    let (oauth, plain) = (house.secured.listener("oauth"), house.secured.listener("plain"));
    let ca = file("ca.pem");
    let scram =
        |word: &str, user: &str| format!("sasl: {{ mechanism: {word}, user: {user}, password: '${{env:PASSWORD}}' }}");
    let tls = |ca: &str| format!("tls: {{ ca: {ca} }}");
    let own = |name: &str| {
        format!(
            "tls: {{ ca: {ca}, certificate: {}, key: {} }}",
            file(&format!("{name}.pem")),
            file(&format!("{name}.key"))
        )
    };
    let cases: Vec<(&str, &str, Vec<String>, &str, &str)> = vec![
        (
            "a wrong password",
            &sasl,
            vec![tls(&ca), scram("scram-sha-512", "admin")],
            "SCRAM-SHA-512",
            "user and password",
        ),
        (
            "an unknown user",
            &sasl,
            vec![tls(&ca), scram("scram-sha-512", "mallory")],
            "SCRAM-SHA-512",
            "user and password",
        ),
        (
            "a wrong password",
            &sasl,
            vec![tls(&ca), scram("plain", "eve")],
            "Invalid username or password",
            "user and password",
        ),
        ("another mechanism", &oauth, vec![tls(&ca), scram("scram-sha-512", "admin")], "mechanism", "mechanism"),
        ("another mechanism in the clear", &plain, vec![scram("plain", "eve")], "mechanism", "mechanism"),
        (
            "another authority",
            &sasl,
            vec![tls(&file("other-ca.pem")), scram("scram-sha-512", "admin")],
            "certificate",
            "tls.ca",
        ),
        ("the system's authorities", &mtls, vec!["tls: {}".into()], "certificate", "tls.ca"),
        ("no certificate", &mtls, vec![tls(&ca)], "bad certificate", "tls.certificate"),
        ("a stranger's certificate", &mtls, vec![own("stranger")], "alert", "tls.certificate"),
        ("no TLS", &mtls, vec![], "APIVERSION_QUERY", "tls: {}"),
        ("no TLS", &sasl, vec![scram("plain", "eve")], "APIVERSION_QUERY", "tls: {}"),
        ("TLS where there is none", &plain, vec![tls(&ca)], "PLAINTEXT broker listener", "no TLS"),
        ("no such file", &sasl, vec![tls("/nowhere/ca.pem"), scram("scram-sha-512", "admin")], "ca", "bus.kafka.tls"),
    ];
    let mut wrong = Vec::new();
    for (what, listener, lines, reason, remedy) in cases {
        let yaml = format!(
            "tenants: [acme]\nbus:\n  prefix: sec-{}.\n  kafka:\n    bootstrap: {listener}\n{}",
            house.id,
            lines.iter().map(|line| format!("    {line}\n")).collect::<String>()
        );
        house.write("lockstep.yaml", &yaml);
        let began = Instant::now();
        let said = house.run("nobody", &["topics", "plan"]);
        let took = began.elapsed();
        println!("{what} ({:.1} s, exit {}):\n{}", took.as_secs_f64(), said.code, said.err);
        // What may be a broker that is just going is waited for, and no refusal.
        let hint = remedy == "tls: {}";
        let fine = said.code == if hint { 4 } else { 1 } && said.err.contains(reason) && said.err.contains(remedy);
        let soon = took < AT_ONCE || hint;
        if !fine || !soon {
            wrong.push(format!("{what} at {listener}: {reason:?}, {remedy:?}, in {took:?}: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs a secured Kafka: tests/run secure"]
fn whoever_may_nothing_is_told_where_it_stands_what_to_grant() {
    let house = House::new(Login::Scram);
    let said = house.run("serve", &["topics", "plan"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("uthorization failed") && said.err.contains("lockstep topics acls"), "{said:?}");
    let said = house.run("serve", &["doctor"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("this principal may be none of"), "{said:?}");
}
