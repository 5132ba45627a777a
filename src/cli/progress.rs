//! A bar on the terminal while partitions are restored. Where stderr is no terminal the log says how far it is.

use crate::runtime::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Watches until cancelled, on the caller's thread; returns at once where there is no terminal.
pub fn watch(progress: &Arc<Progress>, cancel: &CancellationToken) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut bar: Option<ProgressBar> = None;
    while !cancel.is_cancelled() {
        let (total, left) = progress.now();
        match (&bar, total) {
            (None, 1..) => bar = Some(draw(total, ProgressDrawTarget::stderr())),
            (Some(shown), 1..) => show(shown, total, left),
            (Some(done), _) => {
                done.finish_and_clear();
                bar = None;
            }
            (None, _) => {}
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn draw(total: i64, target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("restoring {bar:30} {pos} of {len} records, {per_sec}, {eta} left")
        .expect("the template is valid");
    ProgressBar::with_draw_target(Some(total.unsigned_abs()), target).with_style(style)
}

/// A restore that begins while another goes on makes the whole longer.
fn show(bar: &ProgressBar, total: i64, left: i64) {
    bar.set_length(total.unsigned_abs());
    bar.set_position((total - left).max(0).unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_how_much_of_how_much_is_done() {
        let bar = draw(1_000, ProgressDrawTarget::hidden());
        show(&bar, 4_000, 1_000);
        assert_eq!((bar.position(), bar.length()), (3_000, Some(4_000)));
    }
}
