//! Plays event files to the source topics, each file once a data folder.

use crate::bus::Outgoing;
use crate::cli::loops::Parts;
use crate::cli::{Exit, Failure, out};
use crate::codec::source::record_key;
use crate::model::SourceName;
use crate::rules::Bundle;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Events appended at once: one transaction each.
const CHUNK: usize = 500;

/// Events of one source.
pub struct EventFile {
    source: SourceName,
    path: PathBuf,
}

/// The event files that there are: of the folder that was named, else of the config's own.
pub fn find(bundle: &Bundle, named: Option<&Path>, config: &Path) -> anyhow::Result<Vec<EventFile>> {
    let dir = named.map_or_else(|| config.join("events"), Path::to_owned);
    if named.is_none() && !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let entries = std::fs::read_dir(&dir)
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

/// Appends what has not been played before, a line an event. How far a file was played is kept in the data folder; an event that
/// is played twice after a crash in between has the same id and changes nothing.
pub fn play(parts: &Parts, files: &[EventFile]) -> anyhow::Result<()> {
    for file in files {
        let rules = parts.bundle.source(&file.source).expect("found by the bundle's sources");
        let text = std::fs::read_to_string(&file.path).with_context(|| format!("reading {}", file.path.display()))?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let marker = parts.data.join(format!("played-{}", file.source));
        let played = std::fs::read_to_string(&marker).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        let Some(topic) = rules.topics.first() else { continue };
        for (number, chunk) in lines.get(played..).unwrap_or_default().chunks(CHUNK).enumerate() {
            let records = chunk.iter().map(|line| Outgoing {
                topic: topic.clone(),
                partition: None,
                key: record_key(rules, line.as_bytes()).map(String::into_bytes),
                value: Some(line.as_bytes().to_vec()),
                headers: Vec::new(),
            });
            parts.bus.append(records.collect()).with_context(|| format!("playing {}", file.path.display()))?;
            let so_far = (played + number * CHUNK + chunk.len()).to_string();
            std::fs::write(&marker, so_far).with_context(|| format!("writing {}", marker.display()))?;
        }
        let (all, old) = (lines.len(), played.min(lines.len()));
        out::line(match old {
            0 => format!("played {all} events of {} from {}", file.source, file.path.display()),
            old => format!(
                "played {} events of {} from {}; {old} were played before",
                all - old,
                file.source,
                file.path.display()
            ),
        })?;
    }
    Ok(())
}
