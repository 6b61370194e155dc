//! Time: milliseconds since the Unix epoch as `i64`, and ranges of it.
//!
//! Plain `i64` fields and arguments that hold such a time end in `_ms` or are called `timestamp`.
//! [`TimeRange`] includes both ends: PromQL's left-open windows `(start, end]` are
//! `TimeRange::new(start + 1, end)`, and nothing here has to represent `i64::MAX + 1`.

/// The clock grid on which chunks and blocks are cut: two hours of UTC.
pub const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;

pub const MINUTE_MS: i64 = 60 * 1000;

/// A day of UTC, which has no leap seconds here.
pub const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

/// Milliseconds from `start_ms` to `end_ms`, both included. Empty when `start_ms > end_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    pub start_ms: i64,
    pub end_ms: i64,
}

impl TimeRange {
    pub const ALL: TimeRange = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };

    pub fn new(start_ms: i64, end_ms: i64) -> TimeRange {
        TimeRange { start_ms, end_ms }
    }

    pub fn is_empty(self) -> bool {
        self.start_ms > self.end_ms
    }

    pub fn contains(self, timestamp: i64) -> bool {
        self.start_ms <= timestamp && timestamp <= self.end_ms
    }

    pub fn overlaps(self, other: TimeRange) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }

    /// The smallest range that includes both.
    pub fn union(self, other: TimeRange) -> TimeRange {
        TimeRange::new(self.start_ms.min(other.start_ms), self.end_ms.max(other.end_ms))
    }

    pub fn intersection(self, other: TimeRange) -> TimeRange {
        TimeRange::new(self.start_ms.max(other.start_ms), self.end_ms.min(other.end_ms))
    }
}

/// The window on the two-hour grid that `timestamp` falls into, by its start.
pub fn window_start_ms(timestamp: i64) -> i64 {
    timestamp.div_euclid(WINDOW_MS).saturating_mul(WINDOW_MS)
}

/// The windows of the two-hour grid that `range` touches, by their starts.
pub(crate) fn windows_of(range: TimeRange) -> impl Iterator<Item = i64> {
    let (first, last) = (window_start_ms(range.start_ms), window_start_ms(range.end_ms));
    (first..=last).step_by(WINDOW_MS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_start_on_even_utc_hours_also_before_the_epoch() {
        assert_eq!(window_start_ms(0), 0);
        assert_eq!(window_start_ms(WINDOW_MS - 1), 0);
        assert_eq!(window_start_ms(WINDOW_MS), WINDOW_MS);
        assert_eq!(window_start_ms(-1), -WINDOW_MS);
    }
}
