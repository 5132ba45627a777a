//! The processes of an installation, three processors and the workers of two targets, and what is done to them.

use crate::process::Process;
use crate::stage::{READY, Stage};
use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A process that was fenced has ended by then, even where it has fenced the one in its place first.
const FENCED_WITHIN: Duration = Duration::from_secs(90);
/// How often a process that is waited for is looked at, and how much of its log.
const LOOKED_AT: Duration = Duration::from_millis(500);
const LAST_LINES: usize = 8;
/// A process that is asked to stop ends its calls first.
const STOPPED_WITHIN: Duration = Duration::from_secs(40);

/// What a process ends by itself with, and what it says last. All are safe ends, after which whatever runs the processes starts
/// them again:
/// - a call never returns when a coordinator goes away (librdkafka#5511): the watchdog ends the process;
/// - a static member whose session has timed out joins anew, and is fenced by its own earlier request (librdkafka#3437);
/// - a process that is started while a broker is away gets no answer in time.
const OWN_ENDS: [(i32, &str, &str); 3] = [
    (70, "has not returned for", "ended by the watchdog"),
    (1, "fenced: another process runs as this member", "fenced without another of its name"),
    (4, "check `bus:` in lockstep.yaml", "not answered at its start"),
];

pub struct Fleet<'a> {
    stage: &'a Stage,
    pub processors: Vec<Member>,
    pub workers: Vec<Member>,
}

pub struct Member {
    /// Of its log as well.
    pub name: String,
    config: &'static str,
    data: String,
    args: Vec<String>,
    process: Process,
    replaced: usize,
    /// Why, each time that it ended by itself.
    own_ends: Vec<&'static str>,
}

impl<'a> Fleet<'a> {
    /// Three processors, two workers of the directory and one of the wiki. The first processor and the first worker come by
    /// the proxies, where there are any.
    pub fn start(stage: &'a Stage, far: bool) -> Self {
        let config = |first: bool| if first && far { "config-far" } else { "config" };
        let processors =
            (1..=3).map(|n| Member::start(stage, format!("processor-{n}"), config(n == 1), &["processor"], n));
        let mut fleet = Self { stage, processors: processors.collect(), workers: Vec::new() };
        let mut workers = Vec::new();
        for target in stage.targets.keys() {
            workers.extend((1..=if *target == "directory" { 2 } else { 1 }).map(|n| (*target, n)));
        }
        for (target, n) in workers {
            let (name, first) = (format!("worker-{target}-{n}"), fleet.workers.is_empty());
            fleet.workers.push(Member::start(stage, name, config(first), &["worker", "--target", target], n));
        }
        fleet.wait_until_ready();
        fleet
    }

    pub fn wait_until_ready(&mut self) {
        let stage = self.stage;
        for member in self.all() {
            member.wait_until_ready(stage);
        }
    }

    /// Starts again what has ended by itself, as whatever runs the processes would.
    pub fn supervise(&mut self) {
        let stage = self.stage;
        for member in self.all() {
            member.supervise(stage);
        }
    }

    /// How often processes ended by themselves, by why.
    pub fn own_ends(&self) -> BTreeMap<&'static str, usize> {
        let mut ends = BTreeMap::new();
        for why in self.processors.iter().chain(&self.workers).flat_map(|member| &member.own_ends) {
            *ends.entry(*why).or_default() += 1;
        }
        ends
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.processors.iter_mut().chain(&mut self.workers)
    }

    /// Each in turn, in good order: the next when the one before it is ready again. Gives how long each was away.
    pub fn roll_processors(&mut self) -> Vec<Duration> {
        let stage = self.stage;
        let roll = |member: &mut Member| {
            member.wait_until_ready(stage);
            member.process.signal("TERM");
            let ended = member.process.end(STOPPED_WITHIN);
            if !ended.success() {
                // Brokers are hung and cut off meanwhile: a call that never returns is ended by the watchdog even then.
                member.ended_by_itself(stage, ended);
            }
            member.process = member.again(stage);
            member.wait_until_ready(stage)
        };
        self.processors.iter_mut().map(roll).collect()
    }
}

impl Member {
    fn start(stage: &Stage, name: String, config: &'static str, what: &[&str], n: usize) -> Self {
        let instance = n.to_string();
        let args: Vec<String> = [what, &["--instance", &instance, "--listen", "127.0.0.1:0"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let data = format!("data-{name}");
        let process = begin(stage, &name, config, &data, &args);
        Self { name, config, data, args, process, replaced: 0, own_ends: Vec::new() }
    }

    fn again(&self, stage: &Stage) -> Process {
        begin(stage, &self.name, self.config, &self.data, &self.args)
    }

    /// Gives how long after its start it was seen to be ready.
    pub fn wait_until_ready(&mut self, stage: &Stage) -> Duration {
        let until = Instant::now() + READY;
        loop {
            self.supervise(stage);
            if let Some(ready) = self.process.ready(LOOKED_AT) {
                return ready;
            }
            assert!(Instant::now() < until, "{} is not ready after {READY:?}\n{}", self.name, stage.logs());
        }
    }

    fn supervise(&mut self, stage: &Stage) {
        let Some(status) = self.process.ended() else { return };
        self.ended_by_itself(stage, status);
        self.process = self.again(stage);
    }

    /// As it may, and says why.
    fn ended_by_itself(&mut self, stage: &Stage, status: ExitStatus) {
        let said = stage.log(&self.name);
        let last: Vec<&str> = said.lines().rev().take(LAST_LINES).collect();
        let known = OWN_ENDS
            .iter()
            .find(|(code, line, _)| status.code() == Some(*code) && last.iter().any(|said| said.contains(line)));
        let Some((_, _, why)) = known else { panic!("{} ended by itself: {status}\n{}", self.name, stage.logs()) };
        println!("          {} {why}: started again", self.name);
        self.own_ends.push(why);
    }

    /// Killed, and started again after `down`.
    pub fn kill(&mut self, stage: &Stage, down: Duration) {
        self.supervise(stage);
        self.process.kill();
        std::thread::sleep(down);
        self.process = self.again(stage);
    }

    /// Stopped in its tracks for so long.
    pub fn hang(&mut self, stage: &Stage, how_long: Duration) {
        self.supervise(stage);
        self.process.signal("STOP");
        std::thread::sleep(how_long);
        self.process.signal("CONT");
    }

    /// Stopped in its tracks; after so long another is started under its name, on a disk of its own. Woken when that is ready
    /// it finds that it is fenced, and ends.
    pub fn hang_and_replace(&mut self, stage: &Stage, after: Duration) {
        self.supervise(stage);
        self.process.signal("STOP");
        std::thread::sleep(after);
        self.replaced += 1;
        self.data = format!("data-{}-{}", self.name, self.replaced);
        let former = self.name.clone();
        self.name.push('+');
        let another = self.again(stage);
        let mut zombie = std::mem::replace(&mut self.process, another);
        self.wait_until_ready(stage);
        zombie.signal("CONT");
        // Its session has timed out: it may join anew before it hears that its place is taken, and take it back. Then it is the other
        // one that is fenced and ends; started again, that one fences it.
        let until = Instant::now() + FENCED_WITHIN;
        let ended = loop {
            if let Some(status) = zombie.ended() {
                break status;
            }
            self.supervise(stage);
            assert!(Instant::now() < until, "{former} was replaced while it hung, and goes on\n{}", stage.logs());
            std::thread::sleep(LOOKED_AT);
        };
        assert!(!ended.success(), "{former} was replaced while it hung, and ended well: {ended}");
        let said = stage.log(&former);
        assert!(said.contains("fenced: another process runs as this member"), "{former}: {ended}\n{}", stage.logs());
    }
}

fn begin(stage: &Stage, name: &str, config: &str, data: &str, args: &[String]) -> Process {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stage.start(name, config, data, &args)
}
