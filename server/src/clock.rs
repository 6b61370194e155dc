//! The wall clock: the one file that reads it.
//!
//! Everything else takes `now_ms` as an argument, so that a test can say what time it is. Times are
//! milliseconds since the Unix epoch, as everywhere.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How far the wall clock may stray from the monotonic one before it is doubted.
const STRAY_MAX_MS: i64 = 10 * 60 * 1000;

/// Milliseconds since the Unix epoch, negative before it.
#[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now();
    let ms = |duration: std::time::Duration| i64::try_from(duration.as_millis());
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since).unwrap_or(i64::MAX),
        Err(before) => ms(before.duration()).map_or(i64::MIN, |ms| -ms),
    }
}

/// Compares the wall clock with the monotonic one.
///
/// A wall clock that jumps by more than ten minutes is doubted until it is back where the
/// monotonic clock says it should be. A jump that was meant needs a restart, which is when an
/// operator confirms the clock.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    started: Instant,
    started_ms: i64,
}

impl ClockWatch {
    pub(crate) fn start(now_ms: i64) -> ClockWatch {
        ClockWatch { started: Instant::now(), started_ms: now_ms }
    }

    pub(crate) fn is_in_doubt(&self, now_ms: i64) -> bool {
        let elapsed_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let expected_ms = self.started_ms.saturating_add(elapsed_ms);
        now_ms.saturating_sub(expected_ms).saturating_abs() > STRAY_MAX_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_wall_clock_is_doubted_until_it_is_taken_back() {
        let watch = ClockWatch::start(1_000_000_000);
        assert!(!watch.is_in_doubt(1_000_000_500));
        assert!(watch.is_in_doubt(1_000_000_000 + 3_600_000));
        assert!(watch.is_in_doubt(1_000_000_000 - 3_600_000));
        assert!(!watch.is_in_doubt(1_000_000_000));
    }
}
