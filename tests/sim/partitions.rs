//! Entities across partitions: the same input gives the same end, whether two entities are neighbours or not.

use crate::auditor::{self, Entities};
use crate::random::Random;
use crate::story;
use crate::world::{Layout, World};

/// Seeds of this comparison: each is run five times. In the 4th a user and a badge wait for one person by different keys, and
/// which is heard first is for the partitions of these to say.
const SEEDS: [u64; 6] = [1, 2, 3, 5, 6, 7];
const EVENTS: usize = 60;

fn end(seed: u64, inbox_partitions: u32, through_inbox: bool) -> Entities {
    let mut random = Random::new(seed);
    let mut story = story::write(&mut random, EVENTS);
    // What the Guard holds depends on who comes first, to the millisecond.
    story.choices.limit = 100_000;
    let layout = Layout { inbox_partitions, command_partitions: 2, processors: 1, workers: 1, through_inbox };
    let mut world = World::with(seed, story, layout, random);
    world.faults.calm(true);
    world.tell_serially().unwrap_or_else(|fault| panic!("seed {seed}, {inbox_partitions} partitions: {fault}"));
    world.tidy_up().unwrap();
    world.watch().unwrap();
    auditor::in_the_end(&world, true)
        .unwrap_or_else(|fault| panic!("seed {seed}, {inbox_partitions} partitions: {fault}"));
    auditor::entities(&world)
}

#[test]
fn the_same_input_gives_the_same_end_with_any_number_of_partitions_and_with_every_message_through_the_inbox() {
    for seed in SEEDS {
        let one = end(seed, 1, false);
        for (partitions, through_inbox) in [(7, false), (64, false), (1, true), (7, true)] {
            let other = end(seed, partitions, through_inbox);
            if let Some(difference) = one.difference(&other) {
                panic!(
                    "seed {seed}: with {partitions} partitions, all through the inbox {through_inbox}: {difference}"
                );
            }
        }
    }
}
