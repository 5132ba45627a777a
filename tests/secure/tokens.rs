//! OAUTHBEARER against a broker that trusts a real Keycloak, for longer than several tokens last.

use crate::house::{House, Login, event};
use crate::keycloak;
use std::time::{Duration, Instant};

/// Of each token; Keycloak gives them to the second.
const LIFE_S: u32 = 30;
/// More than two lives, so that every connection has signed in anew: the broker ends one whose token is over.
const LONG: Duration = Duration::from_secs(75);

#[test]
#[ignore = "needs a secured Kafka and Keycloak: tests/run secure"]
fn processes_go_on_over_the_ends_of_their_tokens() {
    let client = format!("lockstep-{}", uuid::Uuid::new_v4().simple());
    keycloak::make_client(&client, LIFE_S);
    let mut house = House::new(Login::Token { client });
    house.authorizer.allow(&house.listed());
    house.done("any", &["topics", "apply"]);
    house.done("any", &["doctor"]);
    house.spawn("processor", &["processor"]);
    house.spawn("worker:directory", &["worker", "--target", "directory"]);
    let began = Instant::now();
    let mut number = 32_000;
    while began.elapsed() < LONG {
        number += 1;
        let published = house.run_with("any", &["publish", "hr", "--direct"], &event(number, 1, "hired"));
        assert_eq!(published.code, 0, "{published:?}");
        house.account_becomes(number, true);
    }
    println!("{} events over {:.0} s", number - 32_000, began.elapsed().as_secs_f64());
    for process in ["processor", "worker:directory"] {
        let log = house.log(process);
        for word in ["rewound", "begins anew", "no new token", "ssl handshake", "authentication"] {
            let found = log.lines().find(|line| line.to_lowercase().contains(word));
            assert!(found.is_none(), "{process}: {found:?}");
        }
        house.stop(process);
    }
}

#[test]
#[ignore = "needs a secured Kafka and Keycloak: tests/run secure"]
fn a_client_that_gets_no_token_is_told_why() {
    let house = House::new(Login::Token { client: "nobody-knows-it".into() });
    let said = house.run("any", &["topics", "plan"]);
    assert_eq!(said.code, 1, "{said:?}");
    for words in ["refused the client nobody-knows-it", "status 401", "invalid_client", "client_secret"] {
        assert!(said.err.contains(words), "{words}: {said:?}");
    }
}
