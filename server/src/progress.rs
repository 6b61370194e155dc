//! Progress of a command on stderr: a bar that is rewritten on a terminal, a line now and then
//! elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::size::human;

const BAR_CHARS: usize = 30;

/// How often a bar is drawn, and how often a line is written where there is no terminal.
const DRAW_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The line on stderr that says how far something has come.
#[derive(Debug)]
pub(crate) struct StatusLine {
    is_terminal: bool,
    started: Instant,
    shown: Instant,
    /// The cursor stands behind text without a line end.
    is_open: bool,
}

impl StatusLine {
    pub(crate) fn new() -> StatusLine {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        StatusLine { is_terminal, started: now, shown: now, is_open: false }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows the text, unless another was shown a moment ago.
    pub(crate) fn show_if_due(&mut self, text: impl FnOnce(Duration) -> String) {
        let every = if self.is_terminal { DRAW_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            let text = text(self.elapsed());
            match self.is_terminal {
                // Back to the margin, and blank to the end of the line.
                true => say(&format!("\r{text}\x1b[K")),
                false => say(&format!("{text}\n")),
            }
            self.is_open = self.is_terminal;
        }
    }

    /// Writes the last line in place of what was shown.
    pub(crate) fn finish(mut self, text: &str) {
        let start = if self.is_terminal { "\r\x1b[K" } else { "" };
        say(&format!("{start}{text}\n"));
        self.is_open = false;
    }
}

/// A command that fails leaves the bar as it stands; what is written next has its own line.
impl Drop for StatusLine {
    fn drop(&mut self) {
        if self.is_open {
            say("\n");
        }
    }
}

/// That nobody reads it is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `share` of what there is to do, from 0 to 1.
pub(crate) fn bar(share: f64) -> String {
    let full = (share * BAR_CHARS as f64) as usize;
    (0..BAR_CHARS).map(|at| if at < full { '█' } else { '░' }).collect()
}

/// Something that takes a while, measured in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total_bytes: u64,
    done_bytes: u64,
    status: StatusLine,
}

impl Progress {
    /// `total_bytes` may be an estimate; 0 if nothing is known.
    pub(crate) fn new(label: impl Into<String>, total_bytes: u64) -> Progress {
        Progress { label: label.into(), total_bytes, done_bytes: 0, status: StatusLine::new() }
    }

    /// So many bytes more are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_add(bytes);
        let (label, done, total) = (&self.label, self.done_bytes, self.total_bytes);
        self.status.show_if_due(|elapsed| line(label, done, total, elapsed));
    }

    /// All is done: the last line says what it was and how long it took.
    pub(crate) fn finish(self) {
        let (bytes, elapsed) = (human(self.done_bytes), self.status.elapsed().as_secs_f64());
        self.status.finish(&format!("{}: {bytes} in {elapsed:.1} s", self.label));
    }
}

fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = human((done as f64 / seconds) as u64);
    if total == 0 {
        return format!("{label}: {}, {rate}/s", human(done));
    }
    let share = (done as f64 / total as f64).min(1.0);
    let bar = bar(share);
    let left = seconds / share.max(1e-9) - seconds;
    let left = match left < 100_000.0 {
        true => format!("{:.0} s left", left),
        false => "…".to_owned(),
    };
    let percent = share * 100.0;
    let (done, total) = (human(done), human(total));
    format!("{label} {bar} {percent:3.0} %  {done} of {total}, {rate}/s, {left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_is_done_and_left() {
        let text = line("copying", 1 << 20, 4 << 20, Duration::from_secs(1));
        let bar = format!("{}{}", "█".repeat(7), "░".repeat(23));
        let rest = "25 %  1.0 MiB of 4.0 MiB, 1.0 MiB/s, 3 s left";
        assert_eq!(text, format!("copying {bar}  {rest}"));
    }

    #[test]
    fn an_unknown_or_exceeded_total_is_no_trouble() {
        assert_eq!(line("x", 2048, 0, Duration::from_secs(2)), "x: 2.0 KiB, 1.0 KiB/s");
        assert!(line("x", 9, 3, Duration::ZERO).contains("100 %"));
        assert!(line("x", 0, 3, Duration::ZERO).contains("0 %"));
    }
}
