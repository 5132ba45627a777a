//! What `dev` makes of event files, good and bad, and what it says of them.

use crate::shop::{Shop, eventually, hr};
use serde_json::json;

#[test]
fn control_characters_and_endless_names_of_a_source_reach_no_terminal() {
    let shop = Shop::new();
    shop.edit("targets/directory.yaml", "match: userName", "match: displayName");
    let dev = shop.start();
    let name = format!("\u{1b}[31mred\nnew {}", "x".repeat(200));
    shop.hr(&[hr("hired", 20001, 1, json!({ "lastName": name }))]);
    dev.until_account("20001", "directory", "active", "verified", &[]);
    let line =
        eventually("it is on the board", || dev.board("joiner").into_iter().find(|line| line.contains("directory")));
    let list = shop.lockstep(&["identities", "list"]);
    let printed = dev.stop();
    for text in [&printed, &list] {
        assert!(!text.contains('\u{1b}') && !text.lines().any(|line| line.starts_with("new ")), "{text:?}");
        assert!(!text.contains(&"x".repeat(60)) && text.contains('…'), "{text}");
    }
    assert!(line.contains("\u{fffd}[31mred\u{fffd}new xxx") && line.ends_with(" ms"), "{line:?}");
}
