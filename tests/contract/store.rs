//! The contract of `lockstep::store`, for the store on disk and the one in memory; and what only a disk can show.

use crate::killed;
use lockstep::model::Timestamp;
use lockstep::store::disk::DiskStores;
use lockstep::store::memory::MemoryStores;
use lockstep::store::{DueTimer, Store, StoreError, Stores, Write};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};
use std::path::Path;
use std::time::{Duration, Instant};

const MEMORY_MIB: u32 = 16;
const ORIGIN: &str = "a log";

struct Bed {
    stores: Box<dyn Stores>,
    /// Removed with the bed.
    _data: Option<tempfile::TempDir>,
}

fn on_disk() -> Bed {
    let data = tempfile::tempdir().unwrap();
    Bed { stores: Box::new(disk(data.path())), _data: Some(data) }
}

fn in_memory() -> Bed {
    Bed { stores: Box::new(MemoryStores::new()), _data: None }
}

fn disk(data: &Path) -> DiskStores {
    DiskStores::open(data, MEMORY_MIB, ORIGIN).unwrap()
}

macro_rules! store_suite {
    ($module:ident, $open:path, $($test:ident),+ $(,)?) => {
        mod $module {
            $(#[test] fn $test() { super::$test(&*$open().stores); })+
        }
    };
    ($module:ident, $open:path) => {
        store_suite!($module, $open,
            rows_come_back_until_they_are_deleted,
            a_scan_gives_the_rows_of_a_prefix_in_order,
            a_prefix_ends_where_its_rows_end,
            names_and_partitions_do_not_meet,
            timers_are_due_in_order_of_time,
            a_timer_moves_and_goes_with_its_row,
            the_last_write_of_a_key_counts,
            a_timer_before_all_others_is_found_whenever_it_is_set,
            the_position_goes_with_the_rows,
            what_is_loaded_counts_as_if_it_were_applied_in_order,
            a_cleared_store_is_as_new_and_leaves_the_others_alone,
            what_was_applied_is_there_when_it_is_opened_again,
        );
    };
}
store_suite!(disk, super::on_disk);
store_suite!(memory, super::in_memory);

fn put(key: &[u8], value: &str) -> Write {
    Write { key: key.to_vec(), value: Some(value.to_owned().into()), timer: None }
}

fn delete(key: &[u8]) -> Write {
    Write { key: key.to_vec(), value: None, timer: None }
}

fn timer(key: &[u8], due: i64) -> Write {
    Write { key: key.to_vec(), value: Some("".into()), timer: Some(Timestamp(due)) }
}

fn timers(store: &dyn Store, now: i64, limit: usize) -> Vec<(i64, Vec<u8>)> {
    let due = store.due(Timestamp(now), limit).unwrap();
    due.into_iter().map(|DueTimer { due, key }| (due.0, key)).collect()
}

fn keys(store: &dyn Store, prefix: &[u8], from: &[u8], limit: usize) -> Vec<Vec<u8>> {
    store.scan(prefix, from, limit).unwrap().into_iter().map(|(key, _)| key).collect()
}

// --- every store -----------------------------------------------------------------------------------------------------

fn rows_come_back_until_they_are_deleted(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    assert_eq!(store.get(b"a").unwrap(), None);
    let all: Vec<u8> = (0..=255).collect();
    store.apply(&[put(b"a", "1"), put(b"", "empty key"), put(b"b", ""), put(&all, "binary")], 1).unwrap();
    for (key, value) in [(&b"a"[..], "1"), (b"", "empty key"), (b"b", ""), (&all, "binary")] {
        assert_eq!(store.get(key).unwrap(), Some(value.into()), "{key:?}");
    }
    store.apply(&[put(b"a", "2"), delete(b"b"), delete(b"never there")], 2).unwrap();
    assert_eq!(store.get(b"a").unwrap(), Some("2".into()));
    assert_eq!(store.get(b"b").unwrap(), None);
    assert_eq!(keys(&*store, b"", b"", 10), [b"".to_vec(), all, b"a".to_vec()]);
}

fn a_scan_gives_the_rows_of_a_prefix_in_order(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    let rows: Vec<Write> = ["b/2", "a", "b/1", "b", "c", "b/10", "b/3"].iter().map(|k| put(k.as_bytes(), k)).collect();
    store.apply(&rows, 1).unwrap();
    let scan = |prefix: &str, from: &str, limit| {
        let rows = store.scan(prefix.as_bytes(), from.as_bytes(), limit).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        rows.into_iter().map(|(k, v)| (text(k), text(v))).inspect(|(k, v)| assert_eq!(k, v)).map(|(k, _)| k).collect()
    };
    for (prefix, from, limit, expected) in [
        ("b/", "", 10, &["b/1", "b/10", "b/2", "b/3"][..]),
        ("b/", "b/10", 10, &["b/10", "b/2", "b/3"]),
        ("b/", "b/11", 2, &["b/2", "b/3"]),
        ("b/", "a", 1, &["b/1"]),
        ("b/", "c", 10, &[]),
        ("b/", "b/1", 0, &[]),
        ("", "", 10, &["a", "b", "b/1", "b/10", "b/2", "b/3", "c"]),
        ("", "b/3", 10, &["b/3", "c"]),
        ("d", "", 10, &[]),
    ] {
        let found: Vec<String> = scan(prefix, from, limit);
        assert_eq!(found, expected, "prefix {prefix:?} from {from:?}, {limit} at most");
    }
}

fn a_prefix_ends_where_its_rows_end(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    let all: [&[u8]; 7] = [b"a", b"a\xfe", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    store.apply(&all.map(|key| put(key, "v")), 1).unwrap();
    // Rows of the next partition are no rows of this one.
    stores.open("state", 1).unwrap().apply(&[put(b"", "v"), put(b"\xff\xff\xff", "v")], 1).unwrap();
    for (prefix, expected) in [
        (&b"a"[..], &[&b"a"[..], b"a\xfe", b"a\xff", b"a\xff\xff"][..]),
        (b"a\xff", &[b"a\xff", b"a\xff\xff"]),
        (b"\xff", &[b"\xff", b"\xff\xff\x01"]),
        (b"\xff\xff", &[b"\xff\xff\x01"]),
        (b"\xff\xff\xff", &[]),
    ] {
        assert_eq!(keys(&*store, prefix, b"", 10), expected, "prefix {prefix:?}");
    }
    assert_eq!(keys(&*store, b"", b"b\x00", 10), [&b"\xff"[..], b"\xff\xff\x01"]);
}

fn names_and_partitions_do_not_meet(stores: &dyn Stores) {
    let ids = [("state", 0), ("state", 1), ("state", 256), ("lanes.directory", 0), ("lanes.directory2", 0), ("s", 1)];
    for (name, partition) in ids {
        let mut store = stores.open(name, partition).unwrap();
        assert_eq!((store.get(b"k").unwrap(), store.position().unwrap()), (None, None), "{name}-{partition}");
        store.apply(&[put(b"k", &format!("{name}-{partition}")), timer(b"t", 5)], i64::from(partition)).unwrap();
    }
    for (name, partition) in ids {
        let store = stores.open(name, partition).unwrap();
        assert_eq!(store.get(b"k").unwrap(), Some(format!("{name}-{partition}").into()));
        assert_eq!(keys(&*store, b"", b"", 10).len(), 2, "{name}-{partition}");
        assert_eq!(timers(&*store, 10, 10).len(), 1, "{name}-{partition}");
        assert_eq!(store.position().unwrap(), Some(i64::from(partition)));
    }
}

fn timers_are_due_in_order_of_time(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    assert_eq!(store.next_due().unwrap(), None);
    assert!(timers(&*store, i64::MAX, 10).is_empty());
    store
        .apply(&[timer(b"c", 300), timer(b"b", 200), timer(b"a", 200), timer(b"z", -100), put(b"row", "v")], 1)
        .unwrap();
    assert_eq!(store.next_due().unwrap(), Some(Timestamp(-100)));
    assert!(timers(&*store, -101, 10).is_empty());
    let all = [(-100, b"z".to_vec()), (200, b"a".to_vec()), (200, b"b".to_vec()), (300, b"c".to_vec())];
    assert_eq!(timers(&*store, 200, 10), all[..3]);
    assert_eq!(timers(&*store, i64::MAX, 10), all);
    assert_eq!(timers(&*store, i64::MAX, 2), all[..2]);
    assert!(timers(&*store, i64::MAX, 0).is_empty());
    assert_eq!(store.next_due().unwrap(), Some(Timestamp(-100)), "asking changes nothing");
}

fn a_timer_moves_and_goes_with_its_row(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    store.apply(&[timer(b"moved", 100), timer(b"gone", 100), timer(b"same", 100)], 1).unwrap();
    store.apply(&[timer(b"moved", 900), delete(b"gone"), timer(b"same", 100)], 2).unwrap();
    assert_eq!(timers(&*store, i64::MAX, 10), [(100, b"same".to_vec()), (900, b"moved".to_vec())]);
    store.apply(&[timer(b"moved", 50), delete(b"same")], 3).unwrap();
    assert_eq!(timers(&*store, i64::MAX, 10), [(50, b"moved".to_vec())]);
    store.apply(&[Write { timer: Some(Timestamp(10)), ..delete(b"moved") }], 4).unwrap();
    assert_eq!(store.next_due().unwrap(), None, "a deleted row has no timer, whatever the write says");
    // A key that was once a timer is a row like any other.
    store.apply(&[put(b"gone", "row")], 5).unwrap();
    assert_eq!((timers(&*store, i64::MAX, 10), store.get(b"gone").unwrap()), (vec![], Some("row".into())));
}

fn the_last_write_of_a_key_counts(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    let writes =
        [put(b"a", "1"), delete(b"a"), put(b"a", "2"), put(b"b", "1"), delete(b"b"), timer(b"t", 5), timer(b"t", 7)];
    store.apply(&writes, 1).unwrap();
    assert_eq!((store.get(b"a").unwrap(), store.get(b"b").unwrap()), (Some("2".into()), None));
    assert_eq!(timers(&*store, 10, 10), [(7, b"t".to_vec())]);
    store.apply(&[delete(b"t"), timer(b"t", 9), timer(b"u", 1), delete(b"u")], 2).unwrap();
    assert_eq!(timers(&*store, 10, 10), [(9, b"t".to_vec())]);
}

fn a_timer_before_all_others_is_found_whenever_it_is_set(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    for (step, due) in [(0, 500), (1, 400), (2, 600), (3, 50), (4, 450)] {
        store.apply(&[timer(&[step], due)], 1).unwrap();
        let _ = timers(&*store, 450, 10);
    }
    assert_eq!(timers(&*store, 450, 10).iter().map(|(due, _)| *due).collect::<Vec<_>>(), [50, 400, 450]);
    store.apply(&[delete(&[3]), delete(&[1]), delete(&[4])], 2).unwrap();
    assert_eq!(store.next_due().unwrap(), Some(Timestamp(500)));
    // Another handle of it, after this one.
    drop(store);
    let mut store = stores.open("state", 0).unwrap();
    store.apply(&[timer(b"early", 1)], 3).unwrap();
    assert_eq!(store.next_due().unwrap(), Some(Timestamp(1)));
}

fn the_position_goes_with_the_rows(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    assert_eq!((store.position().unwrap(), store.written_at().unwrap()), (None, None));
    store.apply(&[put(b"a", "1")], 17).unwrap();
    assert_eq!(store.position().unwrap(), Some(17));
    store.apply(&[], 18).unwrap();
    assert_eq!(store.position().unwrap(), Some(18));
    store.touch(Timestamp(1234)).unwrap();
    store.apply(&[], 19).unwrap();
    assert_eq!((store.position().unwrap(), store.written_at().unwrap()), (Some(19), Some(Timestamp(1234))));
}

fn a_cleared_store_is_as_new_and_leaves_the_others_alone(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    let mut other = stores.open("state", 1).unwrap();
    let rows: Vec<Write> = (0..10_000_u32).map(|n| put(&n.to_be_bytes(), "v")).collect();
    store.apply(&rows, 1).unwrap();
    store.apply(&[timer(b"t", 5)], 2).unwrap();
    store.touch(Timestamp(9)).unwrap();
    other.apply(&[put(b"k", "v"), timer(b"t", 6)], 3).unwrap();
    store.clear().unwrap();
    assert_eq!((store.position().unwrap(), store.written_at().unwrap()), (None, None));
    assert_eq!((keys(&*store, b"", b"", 10), store.next_due().unwrap()), (vec![], None));
    assert_eq!((other.position().unwrap(), other.next_due().unwrap()), (Some(3), Some(Timestamp(6))));
    assert_eq!(keys(&*other, b"", b"", 10).len(), 2);
    store.apply(&[timer(b"t", 7)], 4).unwrap();
    assert_eq!(timers(&*store, 10, 10), [(7, b"t".to_vec())]);
}

fn what_was_applied_is_there_when_it_is_opened_again(stores: &dyn Stores) {
    let mut store = stores.open("state", 3).unwrap();
    store.apply(&[put(b"a", "1"), timer(b"t", 5)], 8).unwrap();
    store.touch(Timestamp(77)).unwrap();
    drop(store);
    let store = stores.open("state", 3).unwrap();
    assert_eq!(store.get(b"a").unwrap(), Some("1".into()));
    assert_eq!(timers(&*store, 10, 10), [(5, b"t".to_vec())]);
    assert_eq!((store.position().unwrap(), store.written_at().unwrap()), (Some(8), Some(Timestamp(77))));
}

pub fn what_is_loaded_counts_as_if_it_were_applied_in_order(stores: &dyn Stores) {
    let mut store = stores.open("state", 0).unwrap();
    let mut other = stores.open("state", 1).unwrap();
    other.apply(&[put(b"b", "of the other")], 1).unwrap();
    let due = |key: &[u8], at| Write { timer: Some(Timestamp(at)), ..put(key, "due") };
    let gone = |key: &[u8]| Write { key: key.to_vec(), value: None, timer: None };
    // Not in the order of keys, each key in several roles, over several loads.
    store
        .load(vec![put(b"c", "1"), put(b"a", "1"), put(b"c", "2"), gone(b"a"), due(b"t", 50), put(b"b", "1")])
        .unwrap();
    assert_eq!(store.position().unwrap(), None, "a load says nothing of the position");
    store.load(vec![gone(b"c"), put(b"a", "3"), due(b"t", 30), due(b"u", 10), gone(b"never")]).unwrap();
    store.load(vec![put(b"b", "4"), gone(b"u")]).unwrap();
    store.load(Vec::new()).unwrap();
    store.apply(&[], 9).unwrap();
    let rows = |store: &dyn Store| store.scan(&[], &[], 10).unwrap();
    let text = |rows: Vec<(Vec<u8>, Vec<u8>)>| {
        let line = |(key, value)| format!("{}={}", String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap());
        rows.into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(text(rows(store.as_ref())), ["a=3", "b=4", "t=due"]);
    let timers = store.due(Timestamp(100), 10).unwrap();
    assert_eq!(timers, [DueTimer { due: Timestamp(30), key: b"t".to_vec() }]);
    // And what is applied afterwards is newer.
    store.apply(&[put(b"b", "5"), gone(b"a")], 10).unwrap();
    assert_eq!(text(rows(store.as_ref())), ["b=5", "t=due"]);
    assert_eq!(text(rows(other.as_ref())), ["b=of the other"]);
}

// --- on disk ---------------------------------------------------------------------------------------------------------

#[test]
fn a_disk_holds_what_was_applied_over_a_restart() {
    let data = tempfile::tempdir().unwrap();
    for round in 0..3_i64 {
        let stores = disk(data.path());
        let mut store = stores.open("state", 0).unwrap();
        assert_eq!(store.position().unwrap(), (round > 0).then_some(round));
        assert_eq!(timers(&*store, 100, 10).len(), usize::try_from(round).unwrap());
        store.apply(&[put(b"row", &round.to_string()), timer(&round.to_be_bytes(), round)], round + 1).unwrap();
    }
    assert_eq!(disk(data.path()).open("state", 0).unwrap().get(b"row").unwrap(), Some("2".into()));
}

#[test]
fn a_loop_that_hung_while_its_partition_went_to_another_can_write_no_more() {
    let data = tempfile::tempdir().unwrap();
    let stores = disk(data.path());
    let mut first = stores.open("state", 0).unwrap();
    let mut elsewhere = stores.open("state", 1).unwrap();
    first.apply(&[put(b"row", "1")], 1).unwrap();
    assert!(first.is_owner());
    let mut second = stores.open("state", 0).unwrap();
    second.apply(&[put(b"row", "2")], 2).unwrap();
    assert!(!first.is_owner() && second.is_owner() && elsewhere.is_owner());
    for refused in [first.apply(&[put(b"row", "late")], 1), first.touch(Timestamp(5)), first.clear()] {
        assert!(matches!(refused, Err(StoreError::Failed { .. })), "{refused:?}");
    }
    assert_eq!((second.get(b"row").unwrap(), second.position().unwrap()), (Some("2".into()), Some(2)));
    elsewhere.apply(&[put(b"row", "other")], 1).unwrap();
}

#[test]
fn a_disk_in_use_is_refused_by_the_name_of_its_user() {
    let data = tempfile::tempdir().unwrap();
    let stores = disk(data.path());
    match DiskStores::open(data.path(), MEMORY_MIB, ORIGIN) {
        Err(error @ StoreError::InUse { .. }) => {
            assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    // A store that is still open keeps the folder, too.
    let store = stores.open("state", 0).unwrap();
    drop(stores);
    assert!(DiskStores::open(data.path(), MEMORY_MIB, ORIGIN).is_err());
    drop(store);
    disk(data.path());
}

/// One step of a store's life.
#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Write>),
    Due(i64, usize),
    NextDue,
    Clear,
    OpenAgain,
}

fn any_step() -> impl Strategy<Value = Step> {
    let value = proptest::option::weighted(0.7, Just("v".into()));
    // A key is a timer's for good or never.
    let write = (0..6_u8, value, 0..20_i64).prop_map(|(key, value, due)| Write {
        key: vec![key],
        timer: (key < 3 && value.is_some()).then_some(Timestamp(due)),
        value,
    });
    prop_oneof![
        10 => proptest::collection::vec(write, 0..4).prop_map(Step::Apply),
        5 => (0..20_i64, 0..4_usize).prop_map(|(now, limit)| Step::Due(now, limit)),
        5 => Just(Step::NextDue),
        1 => Just(Step::Clear),
        1 => Just(Step::OpenAgain),
    ]
}

#[test]
fn a_disk_says_what_memory_says_whatever_is_done_to_both() {
    let data = tempfile::tempdir().unwrap();
    let (disk, memory) = (disk(data.path()), MemoryStores::new());
    let partitions = std::sync::atomic::AtomicU32::new(0);
    let runs = proptest::collection::vec(any_step(), 1..40);
    proptest!(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }, |(steps in runs)| {
        let partition = partitions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut stores = [&disk as &dyn Stores, &memory].map(|stores| stores.open("state", partition).unwrap());
        for (step, position) in steps.iter().zip(1..) {
            let said = [0, 1].map(|n| match step {
                Step::Apply(writes) => format!("{:?}", stores[n].apply(writes, position)),
                Step::Due(now, limit) => format!("{:?}", stores[n].due(Timestamp(*now), *limit)),
                Step::NextDue => format!("{:?}", stores[n].next_due()),
                Step::Clear => format!("{:?}", stores[n].clear()),
                Step::OpenAgain => {
                    stores[n] = [&disk as &dyn Stores, &memory][n].open("state", partition).unwrap();
                    String::new()
                }
            });
            prop_assert_eq!(&said[0], &said[1], "{:?}", step);
        }
        prop_assert_eq!(stores[0].scan(b"", b"", 100).unwrap(), stores[1].scan(b"", b"", 100).unwrap());
        prop_assert_eq!(stores[0].due(Timestamp(99), 100).unwrap(), stores[1].due(Timestamp(99), 100).unwrap());
    });
}

/// Something that happens to the files of a disk.
type Damage = fn(&Path);

#[test]
fn a_damaged_disk_is_set_aside_and_begun_anew() {
    let damages: [(&str, Damage); 3] = [
        ("its version is not one", |folder| std::fs::write(folder.join("version"), b"not a version").unwrap()),
        ("one of its tables is cut", |folder| cut(&folder.join("keyspaces/1/tables"))),
        ("its list of tables is cut", |folder| cut(&folder.join("keyspaces/1"))),
    ];
    for (what, damage) in damages {
        let data = tempfile::tempdir().unwrap();
        let stores = disk(data.path());
        let mut store = stores.open("state", 0).unwrap();
        for n in 0..400_u32 {
            store.apply(&[put(&n.to_be_bytes(), &"x".repeat(10_000))], 5).unwrap();
        }
        wait_for_a_table(data.path());
        drop((store, stores));
        damage(&data.path().join("state"));
        let stores = disk(data.path());
        let mut store = stores.open("state", 0).unwrap();
        assert_eq!((store.position().unwrap(), keys(&*store, b"", b"", 10)), (None, vec![]), "{what}");
        assert!(data.path().join("state.damaged").exists(), "{what}: the damaged one is kept to be looked at");
        store.apply(&[put(b"a", "1")], 6).unwrap();
        drop((store, stores));
        assert_eq!(disk(data.path()).open("state", 0).unwrap().position().unwrap(), Some(6), "{what}");
    }
}

#[test]
fn a_disk_that_lost_the_end_of_its_journal_holds_an_earlier_state_or_none() {
    for at in [200, 30_000, 200_000, 399_000] {
        for size in [300, 10_000] {
            let data = tempfile::tempdir().unwrap();
            let stores = disk(data.path());
            let mut store = stores.open("state", 0).unwrap();
            for n in 0..300_u32 {
                let row = put(&n.to_be_bytes(), &"x".repeat(size));
                store.apply(&[row, timer(&[b"t", &n.to_be_bytes()[..]].concat(), 5)], i64::from(n) + 1).unwrap();
            }
            drop((store, stores));
            overwrite(&data.path().join("state/0.jnl"), at, &[0; 9000]);
            let stores = disk(data.path());
            let store = stores.open("state", 0).unwrap();
            let position = usize::try_from(store.position().unwrap().unwrap_or(0)).unwrap();
            assert_eq!(keys(&*store, b"\0", b"", 1000).len(), position, "{size} bytes, damaged at {at}");
            assert_eq!(timers(&*store, 5, 1000).len(), position, "{size} bytes, damaged at {at}");
        }
    }
}

#[test]
fn damage_that_shows_while_it_runs_is_remembered_for_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let stores = disk(data.path());
    let mut store = stores.open("state", 0).unwrap();
    for n in 0..400_u32 {
        store.apply(&[put(&n.to_be_bytes(), &format!("{n}").repeat(5000))], 5).unwrap();
    }
    wait_for_a_table(data.path());
    drop((store, stores));
    for table in std::fs::read_dir(data.path().join("state/keyspaces/1/tables")).unwrap() {
        overwrite(&table.unwrap().path(), 100, &[0x5a; 5000]);
    }
    let stores = disk(data.path());
    let store = stores.open("state", 0).unwrap();
    assert_eq!(store.position().unwrap(), Some(5), "what is damaged has not been read yet");
    let read = (0..400_u32).map(|n| store.get(&n.to_be_bytes())).find(Result::is_err);
    assert!(matches!(read, Some(Err(StoreError::Damaged { .. }))), "{read:?}");
    drop((store, stores));
    assert_eq!(disk(data.path()).open("state", 0).unwrap().position().unwrap(), None);
}

#[test]
fn a_store_of_another_log_is_not_taken_for_this_one_s() {
    let data = tempfile::tempdir().unwrap();
    let open = |origin: &str| DiskStores::open(data.path(), MEMORY_MIB, origin).unwrap().open("state", 0).unwrap();
    open("a").apply(&[put(b"row", "of a")], 5).unwrap();
    assert_eq!(open("a").position().unwrap(), Some(5));
    assert_eq!(open("b").position().unwrap(), None);
    assert_eq!(open("b").get(b"row").unwrap(), None);
    open("b").apply(&[put(b"row", "of b")], 7).unwrap();
    assert_eq!(open("a").position().unwrap(), None, "what it was before is gone");
    // As a release wrote it that did not say of which log.
    open("a").apply(&[], 5).unwrap();
    std::fs::remove_file(data.path().join("state.origin")).unwrap();
    assert_eq!(open("a").position().unwrap(), None);
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let mut file = std::fs::File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).unwrap();
}

/// Memory is written to a table by a thread of the store's own, when it comes to it.
fn wait_for_a_table(data: &Path) {
    let tables = data.join("state/keyspaces/1/tables");
    let until = Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(&tables).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < until, "no table in {}", tables.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Cuts the files of a folder to half of what they were.
fn cut(folder: &Path) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let count = files
        .map(|path| std::fs::File::options().write(true).open(path).unwrap())
        .map(|file| file.set_len(file.metadata().unwrap().len() / 2).unwrap())
        .count();
    assert!(count > 0, "there was nothing to cut in {}", folder.display());
}

#[test]
fn a_key_that_is_too_long_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let mut store = disk(data.path()).open("state", 0).unwrap();
    assert!(matches!(store.apply(&[put(&[7; 65_536], "v")], 1), Err(StoreError::Failed { .. })));
    store.apply(&[put(&[7; 65_000], "v"), timer(&[8; 65_000], 1)], 1).unwrap();
}

/// How many keys the child writes in turn.
const KEYS: i64 = 50;

/// Write n: row n % KEYS, a copy of it, and a timer, all holding n; position n + 1. Now and then it clears the store.
fn write_until_killed(data: &Path) {
    let stores = disk(data);
    let mut store = stores.open("state", 0).unwrap();
    let first = store.position().unwrap().unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(60);
    for n in (first..).take_while(|_| Instant::now() < until) {
        let key = (n % KEYS).to_be_bytes();
        let row = |prefix: &[u8]| put(&[prefix, &key].concat(), &n.to_string());
        store.apply(&[row(b"row"), row(b"copy"), timer(&[b"timer", &key[..]].concat(), n)], n + 1).unwrap();
        killed::acknowledge(n + 1);
    }
}

#[test]
fn after_kill_9_rows_timers_and_position_agree() {
    if let Some(folder) = killed::child_folder() {
        return write_until_killed(&folder);
    }
    let data = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..6_u64 {
        let this = "store::after_kill_9_rows_timers_and_position_agree";
        let acknowledged = killed::run_and_kill(this, data.path(), Duration::from_millis(round * round * 20));
        let stores = disk(data.path());
        let store = stores.open("state", 0).unwrap();
        let position = store.position().unwrap().unwrap();
        assert!(position >= acknowledged, "{position} is less than the {acknowledged} it acknowledged");
        assert!(acknowledged > before, "the process after the kill did not go on");
        before = position;

        let newest: Vec<i64> = ((position - KEYS).max(0)..position).collect();
        for n in &newest {
            let key = (n % KEYS).to_be_bytes();
            for prefix in [&b"row"[..], b"copy"] {
                let value = store.get(&[prefix, &key].concat()).unwrap();
                assert_eq!(value, Some(n.to_string().into()), "round {round}, position {position}");
            }
        }
        let due: Vec<i64> = timers(&*store, i64::MAX, 1000).into_iter().map(|(due, _)| due).collect();
        assert_eq!(due, newest, "round {round}");
    }
}

/// Clears a store of many rows, over and over.
fn clear_until_killed(data: &Path) {
    let stores = disk(data);
    let mut store = stores.open("state", 0).unwrap();
    let rows: Vec<Write> = (0..20_000_u32).map(|n| put(&n.to_be_bytes(), "v")).collect();
    let until = Instant::now() + Duration::from_secs(60);
    for round in (0..).take_while(|_| Instant::now() < until) {
        store.apply(&rows, 1).unwrap();
        killed::acknowledge(round);
        store.clear().unwrap();
    }
}

#[test]
fn a_store_killed_while_it_is_cleared_is_whole_or_empty() {
    if let Some(folder) = killed::child_folder() {
        return clear_until_killed(&folder);
    }
    let data = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let this = "store::a_store_killed_while_it_is_cleared_is_whole_or_empty";
        killed::run_and_kill(this, data.path(), Duration::from_millis(37 * round));
        let stores = disk(data.path());
        let mut store = stores.open("state", 0).unwrap();
        let expected = if store.position().unwrap().is_some() { 20_000 } else { 0 };
        assert_eq!(keys(&*store, b"", b"", 30_000).len(), expected, "round {round}");
        store.clear().unwrap();
    }
}
