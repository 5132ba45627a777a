//! On Kafka: workers of an SQLite target come and go under other names, and all of them see to the same accounts.

use crate::rig::Rig;
use serde_json::json;
use sqlx::{ConnectOptions, Row};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Fewer than the quickstart's Guard takes for a mishap.
const PEOPLE: std::ops::Range<u32> = 20_001..20_009;

fn say(rig: &Rig, sequence: u32, status: &str) {
    let event = |number: u32| {
        let worker = json!({
            "workerId": format!("W-{number}"), "employeeNumber": number.to_string(), "firstName": "Given", "lastName": "Family",
            "department": "Sales", "type": "employee", "status": status, "startDate": "2020-01-01",
        });
        let kind = if status == "active" { "hired" } else { "terminated" };
        let event =
            json!({ "id": format!("{number}-{sequence}"), "type": kind, "sequence": sequence, "worker": worker });
        (format!("W-{number}"), event.to_string().into_bytes())
    };
    rig.append(&format!("real-{}.hr.workers", rig.id), PEOPLE.map(event).collect());
}

/// Waits until the one database of the target has so many accounts, so many of them active.
fn until_accounts(rig: &mut Rig, all: i64, active: i64) {
    rig.until(&format!("{all} accounts, {active} active"), SOON, |rig| {
        let file = sqlx::sqlite::SqliteConnectOptions::new().filename(rig.data().join("directory.db")).read_only(true);
        let found = rig.runtime.block_on(async {
            let mut connection = file.connect().await?;
            let row = sqlx::query("select count(*), coalesce(sum(active), 0) from accounts");
            row.fetch_one(&mut connection).await.map(|row| (row.get::<i64, _>(0), row.get::<i64, _>(1)))
        });
        match found {
            Ok(found) if found == (all, active) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
#[ignore = "needs Kafka: tests/run real"]
fn workers_that_come_and_go_under_other_names_see_to_the_same_accounts() {
    let mut rig = Rig::quickstart();
    let worker = |name| ["worker", "--target", "directory", "--instance", name];
    rig.spawn_serving("processor", &["processor"]);
    rig.spawn_serving("one", &worker("one"));
    rig.wait_ready(&["processor", "one"]);
    let people = i64::try_from(PEOPLE.len()).unwrap();
    say(&rig, 1, "active");
    until_accounts(&mut rig, people, people);
    rig.stop("one");
    rig.spawn_serving("two", &worker("two"));
    rig.spawn_serving("three", &worker("three"));
    say(&rig, 2, "terminated");
    until_accounts(&mut rig, people, 0);
}
