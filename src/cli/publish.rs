//! `lockstep publish SOURCE < events.jsonl`: source events, one a line, to a running lockstep.
//!
//! A line goes as it is: what can't be decoded ends in `source-dead-letters`, where nothing is lost. Only what the api
//! refuses (too large) stays behind, and is named by its line.

use super::client::Server;
use super::reach::{Needs, Reach};
use super::{Common, Exit, out};
use anyhow::Context;
use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

/// Lines of one request: enough to make its round trip cheap, few enough to show progress.
const BATCH_LINES: usize = 500;
/// Bytes of one request, below what the api takes.
const BATCH_BYTES: usize = 1 << 20;
/// HTTP's status where there is no such source.
const NOT_FOUND: u16 = 404;
/// Most refused lines that are printed one by one.
const SHOWN: usize = 20;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The source, as named in sources/*.yaml
    source: String,
    #[command(flatten)]
    server: Server,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    published: usize,
    /// Not JSON: published all the same, and bound for `source-dead-letters`.
    suspect: usize,
    /// Line and reason.
    refused: Vec<(usize, String)>,
}

/// A line of the input with its number, from 1.
struct Line {
    number: usize,
    bytes: Vec<u8>,
}

pub fn run(common: &Common, args: Args) -> anyhow::Result<ExitCode> {
    let reach = Reach::new(common, &args.server, Needs::Bus)?;
    let path = format!("/v1/events/{}", segment(&args.source));
    let show_progress = std::io::stderr().is_terminal() && !std::io::stdin().is_terminal();
    let counts = publish(std::io::stdin().lock(), show_progress, |lines| reach.post_lines(&path, lines))?;
    if counts == Counts::default() {
        // Nothing was sent that could have been refused: a source that isn't there has to be said all the same.
        match reach.post_lines(&path, Vec::new())? {
            Err(refusal) if refusal.status == NOT_FOUND => return Err(refusal.into()),
            Ok(_) | Err(_) => {}
        }
    }
    report(&args, &counts)
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

type Sent = anyhow::Result<Result<serde_json::Value, super::client::Refusal>>;

fn publish(input: impl BufRead, show_progress: bool, mut send: impl FnMut(Vec<u8>) -> Sent) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let mut batch = VecDeque::new();
    let mut bytes = 0;
    for (index, line) in input.split(b'\n').enumerate() {
        let line = line.with_context(|| format!("reading line {}", index + 1))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if serde_json::from_slice::<&serde_json::value::RawValue>(&line).is_err() {
            counts.suspect += 1;
            eprintln!("line {}: not JSON; published as it is, it will end in source-dead-letters", index + 1);
        }
        bytes += line.len();
        batch.push_back(Line { number: index + 1, bytes: line });
        if batch.len() >= BATCH_LINES || bytes >= BATCH_BYTES {
            send_batch(std::mem::take(&mut batch), &mut counts, &mut send)?;
            bytes = 0;
            if show_progress {
                eprint!("\r{} published", counts.published);
            }
        }
    }
    send_batch(batch, &mut counts, &mut send)?;
    if show_progress {
        eprintln!("\r{} published", counts.published);
    }
    Ok(counts)
}

/// Sends a batch; a line that is refused is left out and the others are sent again: the api takes all or nothing.
fn send_batch(
    mut batch: VecDeque<Line>,
    counts: &mut Counts,
    send: &mut impl FnMut(Vec<u8>) -> Sent,
) -> anyhow::Result<()> {
    while !batch.is_empty() {
        let body = batch.iter().map(|line| line.bytes.as_slice()).collect::<Vec<_>>().join(&b'\n');
        match send(body)? {
            Ok(_) => {
                counts.published += batch.len();
                return Ok(());
            }
            Err(refusal) => match refusal.event.and_then(|n| batch.remove(n.checked_sub(1)?)) {
                Some(line) => counts.refused.push((line.number, refusal.error)),
                None if batch.len() == 1 && refusal.status == 413 => {
                    counts.refused.extend(batch.drain(..).map(|line| (line.number, refusal.error.clone())));
                }
                None => {
                    // How far it came, so that nobody has to guess what to send again.
                    if counts.published > 0 {
                        eprintln!("{} events were published before this:", counts.published);
                    }
                    return Err(refusal.into());
                }
            },
        }
    }
    Ok(())
}

fn report(args: &Args, counts: &Counts) -> anyhow::Result<ExitCode> {
    if args.json {
        let refused: Vec<_> =
            counts.refused.iter().map(|(line, reason)| serde_json::json!({ "line": line, "reason": reason })).collect();
        out::json(&serde_json::json!({
            "source": args.source, "published": counts.published, "not_json": counts.suspect, "refused": refused,
        }))?;
    } else {
        for (line, reason) in counts.refused.iter().take(SHOWN) {
            eprintln!("line {line}: refused: {reason}");
        }
        if counts.refused.len() > SHOWN {
            eprintln!("and {} more lines were refused", counts.refused.len() - SHOWN);
        }
        let refused = match counts.refused.len() {
            0 => String::new(),
            n => format!(", {n} refused"),
        };
        out::line(format!("{} events published to {}{refused}", counts.published, args.source))?;
    }
    Ok(if counts.refused.is_empty() { Exit::Done } else { Exit::Partly }.into())
}

#[cfg(test)]
mod tests {
    use super::super::client::Refusal;
    use super::*;

    fn refuse(event: Option<usize>, status: u16) -> Sent {
        Ok(Err(Refusal { error: "too large".into(), remedy: None, event, status }))
    }

    #[test]
    fn lines_go_in_order_and_a_refused_one_is_named_by_its_number() {
        let input = "{\"n\":1}\n\n{\"n\":\"big\"}\nnot json\n{\"n\":4}";
        let mut sent = Vec::new();
        let counts = publish(input.as_bytes(), false, |body| {
            let text = String::from_utf8(body).unwrap();
            if let Some(at) = text.lines().position(|l| l.contains("big")) {
                return refuse(Some(at + 1), 413);
            }
            sent.push(text);
            Ok(Ok(serde_json::json!({})))
        })
        .unwrap();
        assert_eq!(counts, Counts { published: 3, suspect: 1, refused: vec![(3, "too large".into())] });
        assert_eq!(sent, ["{\"n\":1}\nnot json\n{\"n\":4}"]);
    }

    #[test]
    fn long_input_goes_in_batches_and_what_concerns_all_of_it_ends_it() {
        let input = "{}\n".repeat(BATCH_LINES * 2 + 1);
        let mut sizes = Vec::new();
        let counts = publish(input.as_bytes(), false, |body| {
            sizes.push(body.split(|b| *b == b'\n').count());
            Ok(Ok(serde_json::json!({})))
        })
        .unwrap();
        assert_eq!((counts.published, sizes), (1001, vec![500, 500, 1]));
        assert!(publish("{}\n{}".as_bytes(), false, |_| refuse(None, 404)).is_err());
    }

    #[test]
    fn a_source_name_is_one_segment_of_a_path() {
        assert_eq!(segment("hr-1"), "hr-1");
        assert_eq!(segment("a/../b?c"), "a%2F..%2Fb%3Fc");
    }
}
