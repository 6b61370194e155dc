//! The wall clock: the one file that reads it.
//!
//! Everything else takes `now_ms` as an argument, so that a test can say what time it is. Times are
//! milliseconds since the Unix epoch, as everywhere.

use std::time::{SystemTime, UNIX_EPOCH};

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
