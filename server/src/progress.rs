//! Progress of a command: a bar on a terminal, a line now and then elsewhere, always on stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::size::human;

const BAR_CHARS: usize = 30;

/// How often a bar is drawn, and how often a line is written where there is no terminal.
const DRAW_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Something that takes a while, measured in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    label: String,
    total_bytes: u64,
    done_bytes: u64,
    started: Instant,
    shown: Instant,
    is_terminal: bool,
    is_finished: bool,
}

impl Progress {
    /// `total_bytes` may be an estimate; 0 if nothing is known.
    pub(crate) fn new(label: impl Into<String>, total_bytes: u64) -> Progress {
        let now = Instant::now();
        Progress {
            label: label.into(),
            total_bytes,
            done_bytes: 0,
            started: now,
            shown: now,
            is_terminal: std::io::stderr().is_terminal(),
            is_finished: false,
        }
    }

    /// So many bytes more are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_add(bytes);
        let every = if self.is_terminal { DRAW_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            self.show();
        }
    }

    /// All is done: the last line says what it was and how long it took.
    pub(crate) fn finish(mut self) {
        self.is_finished = true;
        let (bytes, elapsed) = (human(self.done_bytes), self.started.elapsed().as_secs_f64());
        let start = if self.is_terminal { "\r\x1b[K" } else { "" };
        say(&format!("{start}{}: {bytes} in {elapsed:.1} s\n", self.label));
    }

    fn show(&self) {
        let line = line(&self.label, self.done_bytes, self.total_bytes, self.started.elapsed());
        match self.is_terminal {
            true => say(&format!("\r{line}\x1b[K")),
            false => say(&format!("{line}\n")),
        }
    }
}

/// A command that fails leaves the bar as it stands; what is written next has its own line.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal && !self.is_finished {
            say("\n");
        }
    }
}

/// That nobody reads it is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = human((done as f64 / seconds) as u64);
    if total == 0 {
        return format!("{label}: {}, {rate}/s", human(done));
    }
    let share = (done as f64 / total as f64).min(1.0);
    let full = (share * BAR_CHARS as f64) as usize;
    let bar: String = (0..BAR_CHARS).map(|at| if at < full { '█' } else { '░' }).collect();
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
