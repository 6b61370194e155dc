//! How far an import has come, on stderr: one line that is rewritten on a terminal, and else a
//! line every few seconds.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use icecore_storage::time::TimeRange;

use crate::http::time::format_rfc3339;

/// A terminal is redrawn so often at most, and a file gets a line.
const REDRAW: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(5);

const BAR_CELLS: usize = 30;

#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    started: Instant,
    drawn: Option<Instant>,
    windows: usize,
    /// The window at work, from 1.
    at: usize,
    range: TimeRange,
    /// Samples read in this run, those of windows that are not done included.
    samples: u64,
    /// Windows of earlier runs.
    skipped: u64,
}

impl Progress {
    pub(super) fn start(windows: usize) -> Progress {
        Progress {
            is_terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            drawn: None,
            windows,
            at: 0,
            range: TimeRange::default(),
            samples: 0,
            skipped: 0,
        }
    }

    pub(super) fn window(&mut self, range: TimeRange, skipped: u64) {
        self.at += 1;
        self.skipped = skipped;
        self.range = range;
        self.draw_if_due();
    }

    pub(super) fn read(&mut self, samples: usize) {
        self.samples += samples as u64;
        // A look at the clock for each of many tiny series is still far below what they cost.
        self.draw_if_due();
    }

    pub(super) fn end(&mut self) {
        if self.drawn.is_some() {
            self.draw();
        }
        if self.is_terminal {
            write_stderr("\n");
        }
    }

    fn draw_if_due(&mut self) {
        let every = if self.is_terminal { REDRAW } else { LINE };
        if self.drawn.unwrap_or(self.started).elapsed() >= every {
            self.draw();
            self.drawn = Some(Instant::now());
        }
    }

    fn draw(&self) {
        let text = self.text(self.started.elapsed());
        match self.is_terminal {
            // Back to the margin, and blank to the end of the line.
            true => write_stderr(&format!("\r{text}\x1b[K")),
            false => write_stderr(&format!("{text}\n")),
        }
    }

    fn text(&self, elapsed: Duration) -> String {
        let filled = BAR_CELLS * self.at / self.windows.max(1);
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR_CELLS - filled));
        let per_second = self.samples as f64 / elapsed.as_secs_f64().max(0.001);
        let mut text = format!(
            "[{bar}] window {} of {} ({}), {} samples read, {per_second:.0}/s",
            self.at,
            self.windows,
            name_of(self.range),
            self.samples,
        );
        if self.skipped > 0 {
            text.push_str(&format!(", {} windows done before", self.skipped));
        }
        text
    }
}

fn write_stderr(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A window in words: the day, or the hour at which it starts.
pub(super) fn name_of(range: TimeRange) -> String {
    let start = format_rfc3339(range.start_ms);
    let length = if range.end_ms - range.start_ms < super::DAY_MS - 1 { 16 } else { 10 };
    start.get(..length).unwrap_or(&start).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let progress = Progress {
            is_terminal: false,
            started: Instant::now(),
            drawn: None,
            windows: 4,
            at: 2,
            range: TimeRange::new(0, super::super::DAY_MS - 1),
            samples: 3000,
            skipped: 1,
        };
        let text = progress.text(Duration::from_secs(2));
        let bar = format!("[{}{}]", "#".repeat(15), ".".repeat(15));
        let line = "window 2 of 4 (1970-01-01), 3000 samples read, 1500/s, 1 windows done before";
        assert_eq!(text, format!("{bar} {line}"));
    }
}
