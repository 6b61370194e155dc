//! Generations: whether what is stored of some time has changed since some moment.
//!
//! Every write, and every removal, is a **generation**: a number that grows. It is noted for each
//! minute that samples were written of; of minutes more than four hours before the newest it is
//! kept for their two-hour window. A cache of answers notes the generation *before* it reads; what
//! it has computed holds as long as no later one is noted for any time that it looked at.
//!
//! The head's lock guards it together with the samples, so that whoever sees a sample sees its
//! generation. Sealing and merging move samples and change none, so they leave no note.

use std::collections::BTreeMap;

use crate::time::{MINUTE_MS, TimeRange, WINDOW_MS, window_start_ms};

/// Minutes that are kept one by one. A power of two.
const MINUTES: usize = 256;

#[derive(Debug)]
pub(crate) struct Generations {
    current: u64,
    /// A ring: each minute has its place, which the next with the same takes over.
    minutes: Box<[Minute; MINUTES]>,
    /// By the start of the window.
    windows: BTreeMap<i64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    start_ms: i64,
    /// 0 for a place that was never used.
    generation: u64,
}

impl Default for Generations {
    fn default() -> Generations {
        let unused = Minute { start_ms: i64::MIN, generation: 0 };
        Generations { current: 1, minutes: Box::new([unused; MINUTES]), windows: BTreeMap::new() }
    }
}

impl Generations {
    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// A write or a removal begins.
    pub(crate) fn advance(&mut self) {
        self.current += 1;
    }

    /// Notes a sample; returns the start of its minute. One note serves the whole minute.
    pub(crate) fn note(&mut self, timestamp: i64) -> i64 {
        let number = timestamp.div_euclid(MINUTE_MS);
        let start_ms = number.saturating_mul(MINUTE_MS);
        let minute = &mut self.minutes[number as usize % MINUTES];
        if minute.start_ms == start_ms {
            minute.generation = self.current;
        } else if minute.start_ms < start_ms {
            let old = std::mem::replace(minute, Minute { start_ms, generation: self.current });
            if old.generation > 0 {
                self.note_window(old.start_ms, old.generation);
            }
        } else {
            self.note_window(start_ms, self.current);
        }
        start_ms
    }

    /// Notes that everything in `range`, a block's, may have changed.
    pub(crate) fn note_range(&mut self, range: TimeRange) {
        let mut window = window_start_ms(range.start_ms);
        while window <= range.end_ms {
            self.note_window(window, self.current);
            let Some(next) = window.checked_add(WINDOW_MS) else { break };
            window = next;
        }
    }

    fn note_window(&mut self, timestamp: i64, generation: u64) {
        let known = self.windows.entry(window_start_ms(timestamp)).or_default();
        *known = (*known).max(generation);
    }

    /// The parts of `range` of which something was written or removed after `generation`,
    /// ascending and apart; they may reach beyond the range.
    pub(crate) fn changes_since(&self, generation: u64, range: TimeRange) -> Vec<TimeRange> {
        if generation >= self.current {
            return Vec::new();
        }
        let window = |(start, noted): (&i64, &u64)| {
            (TimeRange::new(*start, start.saturating_add(WINDOW_MS - 1)), *noted)
        };
        let minute = |minute: &Minute| {
            let end_ms = minute.start_ms.saturating_add(MINUTE_MS - 1);
            (TimeRange::new(minute.start_ms, end_ms), minute.generation)
        };
        let first = window_start_ms(range.start_ms);
        let windows = self.windows.range(first..).take_while(|(start, _)| **start <= range.end_ms);
        let noted = windows.map(window).chain(self.minutes.iter().map(minute));
        let is_change =
            |(part, noted): &(TimeRange, u64)| *noted > generation && part.overlaps(range);
        let mut changes: Vec<TimeRange> = noted.filter(is_change).map(|(part, _)| part).collect();
        changes.sort_unstable_by_key(|part| part.start_ms);
        changes.dedup_by(|next, part| {
            let touches = next.start_ms <= part.end_ms.saturating_add(1);
            if touches {
                part.end_ms = part.end_ms.max(next.end_ms);
            }
            touches
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * MINUTE_MS;

    fn minutes(first: i64, last: i64) -> TimeRange {
        TimeRange::new(first * MINUTE_MS, (last + 1) * MINUTE_MS - 1)
    }

    #[test]
    fn changes_are_known_by_the_minute() {
        let mut noted = Generations::default();
        noted.advance();
        noted.note(5 * MINUTE_MS);
        let before = noted.current();
        assert_eq!(noted.changes_since(before, TimeRange::ALL), []);
        noted.advance();
        noted.note(6 * MINUTE_MS + 1);
        noted.note(7 * MINUTE_MS);
        noted.note(9 * MINUTE_MS - 1);
        noted.note(20 * MINUTE_MS);
        let changes = [minutes(6, 8), minutes(20, 20)];
        assert_eq!(noted.changes_since(before, TimeRange::ALL), changes);
        assert_eq!(noted.changes_since(before, minutes(8, 8)), [minutes(8, 8)]);
        assert_eq!(noted.changes_since(before, minutes(9, 19)), []);
        assert_eq!(noted.changes_since(before - 1, minutes(0, 5)), [minutes(5, 5)]);
    }

    #[test]
    fn old_changes_are_known_by_the_window() {
        let mut noted = Generations::default();
        noted.advance();
        noted.note(HOUR);
        let before = noted.current();
        noted.advance();
        // Takes the place of a minute six hours before.
        noted.note(HOUR + MINUTES as i64 * MINUTE_MS);
        let first_window = TimeRange::new(0, WINDOW_MS - 1);
        assert_eq!(noted.changes_since(before - 1, minutes(0, 9)), [first_window]);
        assert_eq!(noted.changes_since(before, minutes(0, 9)), []);
        // A sample that comes so late has no minute of its own any more.
        noted.note(HOUR);
        assert_eq!(noted.changes_since(before, minutes(0, 9)), [first_window]);
    }

    #[test]
    fn a_removed_block_has_changed_everywhere() {
        let mut noted = Generations::default();
        let before = noted.current();
        noted.advance();
        noted.note_range(TimeRange::new(-5, WINDOW_MS + 5));
        let all = TimeRange::new(-WINDOW_MS, 2 * WINDOW_MS - 1);
        assert_eq!(noted.changes_since(before, TimeRange::ALL), [all]);
    }

    #[test]
    fn every_write_is_found_by_whoever_looks_at_its_time() {
        let mut noted = Generations::default();
        let mut state = 1u64;
        let mut random = |below: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i64 % below
        };
        let mut writes = Vec::new();
        for now in 0..3000 {
            noted.advance();
            let timestamp = now * 20_000 - random(10) * random(10) * random(10) * MINUTE_MS;
            noted.note(timestamp);
            writes.push((noted.current(), timestamp));
            let since = noted.current() - random(50).min(now) as u64;
            let start_ms = timestamp - random(HOUR);
            let range = TimeRange::new(start_ms, start_ms + random(3 * HOUR));
            let changes = noted.changes_since(since, range);
            for (generation, timestamp) in writes.iter().rev().take(60) {
                let is_new = *generation > since && range.contains(*timestamp);
                let is_found = changes.iter().any(|part| part.contains(*timestamp));
                assert!(!is_new || is_found, "{timestamp} of {generation} since {since}");
            }
        }
    }
}
