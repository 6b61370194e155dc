//! Names of snapshots, as Prometheus gives them: the time in UTC and something random.

use std::hash::{BuildHasher, RandomState};

use crate::http::time::format_rfc3339;

/// `20261122T101010Z-5b1f0c1e7d3a9c42`.
pub(crate) fn at(now_ms: i64) -> String {
    let time: String = format_rfc3339(now_ms.div_euclid(1000) * 1000)
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .collect();
    format!("{time}-{:016x}", RandomState::new().hash_one(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_time_and_differ() {
        let name = at(1_795_342_210_999);
        assert_eq!((&name[..17], name.len()), ("20261122T101010Z-", 33));
        assert_ne!(name, at(1_795_342_210_999));
    }
}
