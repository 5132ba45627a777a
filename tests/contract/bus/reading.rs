//! Readers, which are members of nothing: what the contract says of them.

use super::*;

pub fn a_reader_sees_only_what_is_committed_and_reaches_the_end(bed: &dyn Bed) {
    let bus = bed.bus();
    let (input, output) = (topic(bus, "in", 1), topic(bus, "out", 1));
    let member = member("dies", &[&input]);
    append_numbers(bus, &output, 0..3);
    bed.die_mid_commit(&member, &[record(&output, "k", "never")]);
    // The member's next session aborts what it left; what trails the log now is aborted records and transaction markers.
    let session = bus.join(&member).unwrap();
    assert_eq!(values(&read_all(bus, &output)), ["0", "1", "2"]);
    assert!(bus.ends(&output, 0).unwrap().end >= 3);

    // Nothing but aborted records at all.
    let nothing = topic(bus, "nothing", 1);
    let other = Membership { instance: "other".into(), ..member };
    if bed.die_mid_commit(&other, &[record(&nothing, "k", "never"), record(&nothing, "k", "ever")]) {
        drop(bus.join(&other).unwrap());
    }
    assert!(read_all(bus, &nothing).is_empty());
    drop(session);
}

pub fn a_reader_reaches_ends_that_move_again_and_again(bed: &dyn Bed) {
    let bus = bed.bus();
    let output = topic(bus, "out", 1);
    let mut reader = bus.reader().unwrap();
    reader.seek(&output, 0, 0).unwrap();
    assert_eq!(reader.position(&output, 0).unwrap(), 0);
    let (mut seen, mut ends) = (Vec::new(), Vec::new());
    for n in 0..5 {
        append_numbers(bus, &output, n..n + 1);
        let end = bus.ends(&output, 0).unwrap().end;
        let until = Instant::now() + PATIENCE;
        while reader.position(&output, 0).unwrap() < end {
            assert!(Instant::now() < until, "stuck at {} before {end}", reader.position(&output, 0).unwrap());
            seen.extend(values(&reader.poll(100, Duration::from_millis(200)).unwrap()));
        }
        ends.push(end);
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    assert!(ends.is_sorted() && ends[0] >= 1);
}

pub fn a_reader_moves_where_it_is_told(bed: &dyn Bed) {
    let bus = bed.bus();
    let output = topic(bus, "out", 1);
    append_numbers(bus, &output, 0..10);
    let all = read_all(bus, &output);
    let mut reader = bus.reader().unwrap();
    let end = bus.ends(&output, 0).unwrap().end;
    // Below the start, to the middle, back to the start, to the end.
    for (offset, first) in [(-5, Some(0)), (all[6].offset, Some(6)), (0, Some(0)), (all[9].offset + 1, None)] {
        reader.seek(&output, 0, offset).unwrap();
        let mut seen = Vec::new();
        let until = Instant::now() + PATIENCE;
        while reader.position(&output, 0).unwrap() < end {
            assert!(Instant::now() < until, "stuck after moving to {offset}");
            seen.extend(reader.poll(3, Duration::from_millis(200)).unwrap());
        }
        let expected = first.map_or(&all[10..], |n| &all[n..]);
        assert_eq!(values(&seen), values(expected), "after moving to {offset}");
    }
    assert!(reader.position(&output, 7).is_err(), "a partition that was never added has no position");
    let started = Instant::now();
    assert!(reader.poll(10, Duration::from_millis(100)).unwrap().is_empty());
    assert!(started.elapsed() < Duration::from_secs(2));
    // What it has left it gives no more, until it is told to read it again.
    reader.leave(&output, 0).unwrap();
    reader.leave(&output, 7).unwrap();
    append_numbers(bus, &output, 10..11);
    assert!(reader.poll(10, Duration::from_millis(500)).unwrap().is_empty());
    assert!(reader.position(&output, 0).is_err());
    reader.seek(&output, 0, end).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.is_empty() && Instant::now() < until {
        seen = reader.poll(10, Duration::from_millis(200)).unwrap();
    }
    assert_eq!(values(&seen), ["10"]);
}

pub fn a_reader_of_many_partitions_keeps_them_apart(bed: &dyn Bed) {
    let bus = bed.bus();
    let (left, right) = (topic(bus, "left", 3), topic(bus, "right", 3));
    append(bus, (0..3).map(|p| Outgoing { partition: Some(p), ..record(&left, "k", &format!("l{p}")) }).collect());
    append(bus, (0..2).map(|p| Outgoing { partition: Some(p), ..record(&right, "k", &format!("r{p}")) }).collect());
    let mut reader = bus.reader().unwrap();
    let mut ends = BTreeMap::new();
    for name in [&left, &right] {
        for p in 0..3 {
            reader.seek(name, p, 0).unwrap();
            ends.insert((name.clone(), p), bus.ends(name, p).unwrap().end);
        }
    }
    let mut seen = BTreeSet::new();
    let until = Instant::now() + PATIENCE;
    while ends.iter().any(|((t, p), end)| reader.position(t, *p).unwrap() < *end) {
        assert!(Instant::now() < until, "stuck");
        for r in reader.poll(2, Duration::from_millis(200)).unwrap() {
            assert!(seen.insert((r.topic.clone(), r.partition, text(&r))));
        }
    }
    let expected = [(&left, 0, "l0"), (&left, 1, "l1"), (&left, 2, "l2"), (&right, 0, "r0"), (&right, 1, "r1")];
    assert_eq!(seen, expected.map(|(t, p, v)| (t.clone(), p, v.to_owned())).into());
    assert_eq!(reader.position(&right, 2).unwrap(), 0, "an empty partition stays where it is");
}

pub fn the_newest_value_of_a_key_wins_and_a_tombstone_ends_it(bed: &dyn Bed) {
    let bus = bed.bus();
    let changelog = topic_with(bus, "state", 1, &[("cleanup.policy", "compact")]);
    let mut expected = BTreeMap::new();
    for round in 0..5 {
        let mut records = Vec::new();
        for key in 0..20 {
            let value = (key + round) % 7 != 0;
            records.push(Outgoing {
                value: value.then(|| format!("{key}:{round}").into()),
                ..record(&changelog, &key.to_string(), "")
            });
            if value {
                expected.insert(key.to_string(), format!("{key}:{round}"));
            } else {
                expected.remove(&key.to_string());
            }
        }
        append(bus, records);
    }
    let mut folded = BTreeMap::new();
    for r in read_all(bus, &changelog) {
        let key = String::from_utf8(r.key.unwrap()).unwrap();
        match r.value {
            Some(value) => folded.insert(key, String::from_utf8(value.into()).unwrap()),
            None => folded.remove(&key),
        };
    }
    assert_eq!(folded, expected);
}
