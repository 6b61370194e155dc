//! How large a database becomes: many futures, each put together of days of the past.
//!
//! A **stream** is what a class and tier took on each of the last complete days, and how many days it
//! keeps that. A future draws one of those days, for all streams alike, for every day to come
//! (bootstrap; Efron, "Bootstrap methods", 1979); what is stored now goes by its dates, and what comes
//! goes when its lifetime is over. Random numbers have a fixed seed, so the same data has the same
//! forecast.

use std::collections::BTreeMap;

/// Futures that are drawn.
pub(crate) const FUTURES: usize = 200;

/// Nothing is said of times further ahead.
const HORIZON_DAYS_MAX: u64 = 3650;
const HORIZON_DAYS_MIN: u64 = 365;

/// Of so many futures, this one is the median when they are sorted, and this many are worse than
/// p90.
const MEDIAN: usize = FUTURES / 2;
const WORSE: usize = FUTURES / 10;

/// What a class and tier takes a day, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Bytes of each day; all streams have the same days.
    pub(crate) daily: Vec<u64>,
    /// From the day of the data to its drop.
    pub(crate) kept_days: u64,
}

/// What a forecast starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present<'a> {
    pub(crate) bytes: u64,
    /// What of it goes, by days from now.
    pub(crate) drops: &'a [(u64, u64)],
}

/// Bytes on a day to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub days_from_now: u64,
    /// In half of the futures it is no more,
    pub p50: u64,
    /// in nine of ten.
    pub p90: u64,
}

/// In how many days something is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// In half of the futures it lasts at least so long; `None`: beyond the horizon.
    pub p50_days: Option<u64>,
    /// In nine of ten.
    pub p90_days: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) horizon_days: u64,
    pub(crate) sizes: Vec<Size>,
    /// One for each limit.
    pub(crate) full: Vec<Full>,
    /// What is kept once as much goes a day as comes.
    pub(crate) settles_at: u64,
}

/// `limits`: bytes that are too many.
pub(crate) fn outlook(streams: &[Stream], present: &Present<'_>, limits: &[u64]) -> Outlook {
    let streams = by_lifetime(streams);
    let longest = streams.keys().max().copied().unwrap_or(0);
    let horizon_days = longest.saturating_add(30).clamp(HORIZON_DAYS_MIN, HORIZON_DAYS_MAX);
    let days = streams.values().map(Vec::len).min().unwrap_or(0);
    let shown = shown_days(horizon_days);
    let mut sizes: Vec<Vec<u64>> = vec![Vec::with_capacity(FUTURES); shown.len()];
    let mut crossed: Vec<Vec<u64>> = vec![Vec::with_capacity(FUTURES); limits.len()];
    for future in 0..FUTURES {
        let path = path(&streams, days, present, horizon_days, future as u64);
        for (at, sizes) in shown.iter().zip(&mut sizes) {
            sizes.push(path[*at as usize]);
        }
        for (limit, crossed) in limits.iter().zip(&mut crossed) {
            let day = path.iter().position(|bytes| bytes > limit);
            crossed.push(day.map_or(u64::MAX, |day| day as u64));
        }
    }
    let sizes = shown.iter().zip(sizes).map(|(day, mut sizes)| {
        sizes.sort_unstable();
        Size { days_from_now: *day, p50: sizes[MEDIAN], p90: sizes[FUTURES - WORSE] }
    });
    let full = crossed.into_iter().map(|mut days| {
        days.sort_unstable();
        let day = |at: usize| Some(days[at]).filter(|day| *day < u64::MAX);
        Full { p50_days: day(MEDIAN), p90_days: day(WORSE) }
    });
    let settles_at = streams.iter().map(|(kept_days, daily)| {
        let all: u128 = daily.iter().map(|bytes| u128::from(*bytes)).sum();
        u64::try_from(all * u128::from(*kept_days) / daily.len().max(1) as u128).unwrap_or(u64::MAX)
    });
    let settles_at = settles_at.fold(0, u64::saturating_add);
    Outlook { horizon_days, sizes: sizes.collect(), full: full.collect(), settles_at }
}

/// Streams that are kept equally long are one.
fn by_lifetime(streams: &[Stream]) -> BTreeMap<u64, Vec<u64>> {
    let mut sums: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for stream in streams {
        let sum = sums.entry(stream.kept_days).or_insert_with(|| vec![0; stream.daily.len()]);
        sum.iter_mut().zip(&stream.daily).for_each(|(sum, bytes)| *sum += bytes);
    }
    sums
}

/// Bytes at the end of each day of a future, from today on.
fn path(
    streams: &BTreeMap<u64, Vec<u64>>,
    days: usize,
    present: &Present<'_>,
    horizon_days: u64,
    future: u64,
) -> Vec<u64> {
    let mut drawn = Vec::with_capacity(horizon_days as usize);
    let mut bytes = i128::from(present.bytes);
    let mut drops = present.drops.iter().peekable();
    let mut path = Vec::with_capacity(horizon_days as usize + 1);
    for day in 0..=horizon_days {
        while let Some((_, dropped)) = drops.next_if(|(at, _)| *at <= day) {
            bytes -= i128::from(*dropped);
        }
        if day > 0 && days > 0 {
            drawn.push((random(future, day) % days as u64) as usize);
            for (kept_days, daily) in streams {
                bytes += i128::from(daily[drawn[drawn.len() - 1]]);
                if let Some(gone) = day.checked_sub(kept_days + 1) {
                    bytes -= i128::from(daily[drawn[gone as usize]]);
                }
            }
        }
        path.push(u64::try_from(bytes.max(0)).unwrap_or(u64::MAX));
    }
    path
}

/// Days that are shown: each of the first month, then each week, from a year on every fourth.
fn shown_days(horizon_days: u64) -> Vec<u64> {
    let is_shown = |day: &u64| match day {
        0..=30 => true,
        31..=365 => day.is_multiple_of(7),
        _ => day.is_multiple_of(28),
    };
    (0..=horizon_days).filter(is_shown).collect()
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn random(future: u64, day: u64) -> u64 {
    let mut z = (future << 32 | day).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(daily: &[u64], kept_days: u64) -> Stream {
        Stream { daily: daily.to_vec(), kept_days }
    }

    #[test]
    fn what_comes_alike_every_day_fills_a_limit_on_a_day_that_can_be_told() {
        let present = Present { bytes: 1000, drops: &[] };
        let outlook = outlook(&[stream(&[10, 10, 10], 400)], &present, &[1000, 1099, 1100, 9000]);
        let full = |day| Full { p50_days: day, p90_days: day };
        assert_eq!(outlook.full, [full(Some(1)), full(Some(10)), full(Some(11)), full(None)]);
        assert_eq!((outlook.horizon_days, outlook.settles_at), (430, 4000));
        assert_eq!(outlook.sizes[30], Size { days_from_now: 30, p50: 1300, p90: 1300 });
        // It grows for as long as it is kept, and no longer.
        assert_eq!(outlook.sizes.last().unwrap().p90, 5000);
    }

    #[test]
    fn what_is_there_goes_by_its_dates() {
        let present = Present { bytes: 1000, drops: &[(0, 100), (3, 500), (3, 100)] };
        let outlook = outlook(&[stream(&[10], 2)], &present, &[1000]);
        let sizes: Vec<u64> = outlook.sizes.iter().take(6).map(|size| size.p50).collect();
        assert_eq!(sizes, [900, 910, 920, 320, 320, 320]);
        assert_eq!(outlook.full, [Full { p50_days: None, p90_days: None }]);
    }

    #[test]
    fn days_that_differ_make_futures_that_differ_and_p90_is_the_worse() {
        let daily: Vec<u64> = (0..28).map(|day| if day % 7 == 0 { 500 } else { 10 }).collect();
        let streams = [stream(&daily, 90), stream(&vec![1; 28], 1000)];
        let present = Present { bytes: 0, drops: &[] };
        let one = outlook(&streams, &present, &[2000]);
        let (p50, p90) = (one.full[0].p50_days.unwrap(), one.full[0].p90_days.unwrap());
        assert!((15..30).contains(&p50) && p90 < p50, "{p50} {p90}");
        assert!(one.sizes.iter().skip(1).all(|size| size.p50 <= size.p90));
        assert_eq!(one, outlook(&streams, &present, &[2000]), "the same data, the same forecast");
        assert_eq!(one.settles_at, 90 * 80 + 1000);
    }

    #[test]
    fn without_streams_nothing_grows() {
        let outlook = outlook(&[], &Present { bytes: 7, drops: &[] }, &[7]);
        assert_eq!(outlook.sizes[9].p90, 7);
        assert_eq!((outlook.settles_at, outlook.full[0].p50_days), (0, None));
    }
}
