//! Plays event files to the source topics, each file once a data folder.
//!
//! How far a file was played is kept in the data folder, in a marker of that file: the number of its lines and their SHA-256.
//! A file that has grown is played from there; one whose lines are others by now is another file, and is played whole.

use crate::bus::{BusError, Outgoing};
use crate::cli::loops::Parts;
use crate::cli::{Exit, Failure, out};
use crate::codec::source::record_key;
use crate::model::SourceName;
use crate::rules::Bundle;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Events appended at once: one transaction each.
const CHUNK: usize = 500;
/// Up to that many events are played one by one, this far apart.
const FOLLOWED_BY_EYE: usize = 200;
const PACE: Duration = Duration::from_millis(25);

/// Events of one source.
pub struct EventFile {
    pub source: SourceName,
    pub path: PathBuf,
}

/// The event files that there are: of the folder that was named, else of the config's own.
pub fn find(bundle: &Bundle, named: Option<&Path>, config: &Path) -> anyhow::Result<Vec<EventFile>> {
    let own = config.join("events");
    let dir = named.unwrap_or(&own);
    if named.is_none() && !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let entries = std::fs::read_dir(dir)
        .with_context(|| Failure::new(Exit::Failed, format!("can't read the events in {}", dir.display())))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"))
        else {
            continue;
        };
        let source = SourceName::from(name);
        if bundle.source(&source).is_none() {
            let known: Vec<&str> = bundle.sources().iter().map(|source| source.name.as_str()).collect();
            return Err(Failure::new(Exit::Config, format!("{}: there is no source `{name}`", path.display()))
                .help(format!("name the file after one of: {}", known.join(", ")))
                .into());
        }
        files.push(EventFile { source, path });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Appends what has not been played before, a line an event: each file in its own order, and between files by the events' `time`.
/// A few events are played at a pace that can be followed by eye. An event that is played twice, after a crash in
/// between, has the same id and changes nothing. One that its topic refuses (too large) is passed over, and named by its line:
/// gives how many.
pub fn play(parts: &Parts, files: &[EventFile]) -> anyhow::Result<usize> {
    let mut decks = files.iter().map(|file| Deck::open(parts, file)).collect::<anyhow::Result<Vec<_>>>()?;
    let all: usize = decks.iter().map(|deck| deck.lines.len() - deck.next).sum();
    let (chunk, pause) = if all <= FOLLOWED_BY_EYE { (1, PACE) } else { (CHUNK, Duration::ZERO) };
    while !parts.cancel.is_cancelled() {
        let earliest = decks.iter_mut().filter(|deck| deck.next < deck.lines.len()).min_by_key(|deck| deck.time());
        let Some(deck) = earliest else { break };
        deck.deal(parts, chunk)?;
        std::thread::sleep(pause);
    }
    for deck in &decks {
        let (played, path) = (deck.next - deck.before - deck.refused, deck.path.display());
        let refused = match deck.refused {
            0 => String::new(),
            refused => format!(", {refused} refused"),
        };
        let before = match deck.before {
            0 => String::new(),
            before => format!("; {before} were played before"),
        };
        out::line(format!("played {played} events of {} from {path}{refused}{before}", deck.source))?;
    }
    Ok(decks.iter().map(|deck| deck.refused).sum())
}

/// The events of a file, a line each by its number, byte for byte: what is no JSON, or no text at all, is for intake to say.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (1..).zip(bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)).filter(|(_, line)| !line.is_empty())
}

/// The lines of one file, and how far they have been played.
struct Deck {
    source: SourceName,
    path: PathBuf,
    lines: Vec<(usize, Vec<u8>)>,
    next: usize,
    /// Played by former runs.
    before: usize,
    /// By their topic, in this run.
    refused: usize,
    /// Of the lines before `next`.
    digest: Sha256,
    marker: PathBuf,
}

impl Deck {
    fn open(parts: &Parts, file: &EventFile) -> anyhow::Result<Self> {
        let reading = || format!("reading {}", file.path.display());
        let bytes = std::fs::read(&file.path).with_context(reading)?;
        let place = Sha256::digest(file.path.canonicalize().with_context(reading)?.as_os_str().as_bytes());
        let mut deck = Self {
            source: file.source.clone(),
            path: file.path.clone(),
            lines: lines(&bytes).map(|(number, line)| (number, line.to_vec())).collect(),
            next: 0,
            before: 0,
            refused: 0,
            digest: Sha256::new(),
            marker: parts.data.join(format!("played-{}-{}", file.source, hex::encode(&place[..8]))),
        };
        if let Ok(marker) = std::fs::read_to_string(&deck.marker) {
            let (count, digest) = marker.trim().split_once(' ').unwrap_or_default();
            deck.skip(count.parse().unwrap_or(0), digest);
        }
        Ok(deck)
    }

    /// Goes past that many lines, unless they were others when they were played.
    fn skip(&mut self, count: usize, digest: &str) {
        let Some(played) = self.lines.get(..count) else { return };
        let mut skipped = Sha256::new();
        played.iter().for_each(|(_, line)| add(&mut skipped, line));
        if digest == hex(&skipped) {
            (self.next, self.before, self.digest) = (count, count, skipped);
        }
    }

    /// The next event's own time, as text: RFC 3339 in one zone sorts by time.
    fn time(&self) -> String {
        let event: Option<serde_json::Value> = serde_json::from_slice(&self.lines[self.next].1).ok();
        event.and_then(|event| Some(event.get("time")?.as_str()?.to_owned())).unwrap_or_default()
    }

    fn deal(&mut self, parts: &Parts, count: usize) -> anyhow::Result<()> {
        let until = self.lines.len().min(self.next + count);
        self.play(parts, self.next..until).with_context(|| format!("playing {}", self.path.display()))?;
        self.lines[self.next..until].iter().for_each(|(_, line)| add(&mut self.digest, line));
        self.next = until;
        let marker = format!("{until} {}\n", hex(&self.digest));
        std::fs::write(&self.marker, marker).with_context(|| format!("writing {}", self.marker.display()))
    }

    /// All of them at once; where one is too large nothing was appended, and each is by itself.
    fn play(&mut self, parts: &Parts, mut dealt: Range<usize>) -> Result<(), BusError> {
        match self.append(parts, &self.lines[dealt.clone()]) {
            Err(error @ BusError::TooLarge { .. }) if dealt.len() == 1 => {
                eprintln!("{}:{}: refused: {error}", self.path.display(), self.lines[dealt.start].0);
                self.refused += 1;
                Ok(())
            }
            Err(BusError::TooLarge { .. }) => dealt.try_for_each(|line| self.play(parts, line..line + 1)),
            appended => appended,
        }
    }

    fn append(&self, parts: &Parts, lines: &[(usize, Vec<u8>)]) -> Result<(), BusError> {
        let rules = parts.bundle.source(&self.source).expect("found by the bundle's sources");
        let topic = rules.topics.first().expect("a source has a topic");
        let records = lines.iter().map(|(_, line)| Outgoing {
            topic: topic.clone(),
            partition: None,
            key: record_key(rules, line).map(String::into_bytes),
            value: Some(line.clone().into()),
            headers: Vec::new(),
        });
        parts.bus.append(records.collect())
    }
}

fn add(digest: &mut Sha256, line: &[u8]) {
    digest.update(line);
    digest.update(b"\n");
}

fn hex(digest: &Sha256) -> String {
    hex::encode(digest.clone().finalize())
}
