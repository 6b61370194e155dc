//! Limits on series: how many there may be, of a selector and in total.
//!
//! A series is **active** while it is in the head: from its first write until its samples are in a
//! block and no more have come. A limit bounds how many of its series are active, or how many
//! become so within an hour, or both. Only what would be new is refused: a series that is active is
//! not asked again, and replay asks nobody. Counts are kept up as series come and go; the series of
//! a limit are known by a bit in each series' [`Marks`].
//!
//! Active series are counted again at a start, from the head that recovery has restored; the hour
//! begins anew.

use std::fmt;

use crate::db::Db;
use crate::index::head::HeadIndex;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::metrics::companion;
use crate::time::MINUTE_MS;

/// Limits at once: each has a bit, and every new series is compared with each.
pub const LIMITS_MAX: usize = 64;

/// Which limits count a series: bit `n` for the `n`-th.
pub(crate) type Marks = u64;

/// A bound on the series that fulfil all matchers; without matchers, on all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesLimit {
    pub matchers: Vec<Matcher>,
    pub active_max: Option<u64>,
    /// Series that become active within 60 minutes.
    pub new_per_hour_max: Option<u64>,
}

impl SeriesLimit {
    fn selects(&self, labels: &Labels) -> bool {
        let value = |name| labels.get(name).unwrap_or("");
        self.matchers.iter().all(|matcher| matcher.matches(value(matcher.name())))
    }

    fn max(&self, kind: LimitKind) -> Option<u64> {
        match kind {
            LimitKind::Active => self.active_max,
            LimitKind::NewPerHour => self.new_per_hour_max,
        }
    }
}

/// The selector, or `total`.
impl fmt::Display for SeriesLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.matchers.is_empty() {
            return f.write_str("total");
        }
        for (i, matcher) in self.matchers.iter().enumerate() {
            write!(f, "{}{matcher}", if i == 0 { "{" } else { "," })?;
        }
        f.write_str("}")
    }
}

/// What of its series a limit bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    Active,
    NewPerHour,
}

impl LimitKind {
    pub const ALL: [LimitKind; 2] = [LimitKind::Active, LimitKind::NewPerHour];
}

/// Where a limit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    pub limit: SeriesLimit,
    pub active: u64,
    pub new_in_last_hour: u64,
    /// Rows of series that were refused since the start, by [`LimitKind`].
    pub refused_rows: [u64; 2],
}

impl LimitStatus {
    /// The bound and what is counted against it; `None` where there is no bound.
    pub fn of(&self, kind: LimitKind) -> Option<(u64, u64)> {
        let count = match kind {
            LimitKind::Active => self.active,
            LimitKind::NewPerHour => self.new_in_last_hour,
        };
        Some((self.limit.max(kind)?, count))
    }
}

impl Db {
    /// Makes these the limits, for series that come from now on. Those that there are stay, and
    /// count.
    ///
    /// # Panics
    ///
    /// If there are more than [`LIMITS_MAX`].
    pub fn set_series_limits(&self, limits: &[SeriesLimit]) {
        self.inner.head.write().set_series_limits(limits);
    }

    /// Where the limits stand.
    pub fn series_limits(&self, now_ms: i64) -> Vec<LimitStatus> {
        self.inner.head.read().series_limits(now_ms)
    }
}

/// The counts of all limits.
#[derive(Debug, Default)]
pub(crate) struct ActiveSeries {
    limits: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    limit: SeriesLimit,
    active: u64,
    recent: RecentSeries,
    refused_rows: [u64; 2],
}

/// The limit that has no room for a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitReached {
    number: usize,
    kind: LimitKind,
}

impl ActiveSeries {
    /// Counts a new series, if every limit has room for it.
    pub(crate) fn enter(&mut self, labels: &Labels, now_ms: i64) -> Result<Marks, LimitReached> {
        let mut marks = 0;
        for (number, counted) in self.limits.iter().enumerate() {
            if counted.limit.selects(labels) {
                counted.check(now_ms).map_err(|kind| LimitReached { number, kind })?;
                marks |= 1 << number;
            }
        }
        for counted in self.marked(marks) {
            counted.active += 1;
            counted.recent.add(now_ms);
        }
        Ok(marks)
    }

    /// A series is not active any more.
    pub(crate) fn leave(&mut self, marks: Marks) {
        self.marked(marks).for_each(|counted| counted.active -= 1);
    }

    fn marked(&mut self, marks: Marks) -> impl Iterator<Item = &mut Counted> {
        let is_marked = move |number: usize| marks & (1 << number) != 0;
        let limits = self.limits.iter_mut().enumerate();
        limits.filter(move |(number, _)| is_marked(*number)).map(|(_, counted)| counted)
    }

    /// Counts rows that were refused, and gives the reason in words.
    pub(crate) fn refuse(&mut self, reached: LimitReached, rows: u64) -> String {
        let counted = &mut self.limits[reached.number];
        counted.refused_rows[reached.kind as usize] += rows;
        let max = counted.limit.max(reached.kind).unwrap_or_default();
        let what = match reached.kind {
            LimitKind::Active => "active series",
            LimitKind::NewPerHour => "new series an hour",
        };
        match counted.limit.matchers.is_empty() {
            true => format!("the limit of {max} {what} in total is reached"),
            false => format!("the limit of {max} {what} of {} is reached", counted.limit),
        }
    }

    /// Takes new limits and counts the series of an index anew. `mark` is told of each limit's
    /// series. What was counted under a selector since the start goes on.
    pub(crate) fn replace(
        &mut self,
        limits: &[SeriesLimit],
        index: &HeadIndex,
        mut mark: impl FnMut(u32, Marks),
    ) {
        assert!(limits.len() <= LIMITS_MAX, "a limit has a bit of its own");
        let mut before = std::mem::take(&mut self.limits);
        for (number, limit) in limits.iter().enumerate() {
            let known = before.iter().position(|old| old.limit.matchers == limit.matchers);
            let known = known.map(|at| before.swap_remove(at));
            let (recent, refused_rows) =
                known.map(|old| (old.recent, old.refused_rows)).unwrap_or_default();
            let mut ids = index.select(&limit.matchers);
            if let Some(companions) = index.with_label(companion::LABEL) {
                ids -= companions;
            }
            ids.iter().for_each(|id| mark(id, 1 << number));
            let (limit, active) = (limit.clone(), ids.len());
            self.limits.push(Counted { limit, active, recent, refused_rows });
        }
    }

    pub(crate) fn status(&self, now_ms: i64) -> Vec<LimitStatus> {
        let status = |counted: &Counted| LimitStatus {
            limit: counted.limit.clone(),
            active: counted.active,
            new_in_last_hour: counted.recent.count(now_ms),
            refused_rows: counted.refused_rows,
        };
        self.limits.iter().map(status).collect()
    }
}

impl Counted {
    /// The bound that leaves no room for one more.
    fn check(&self, now_ms: i64) -> Result<(), LimitKind> {
        if self.limit.active_max.is_some_and(|max| self.active >= max) {
            return Err(LimitKind::Active);
        }
        if self.limit.new_per_hour_max.is_some_and(|max| self.recent.count(now_ms) >= max) {
            return Err(LimitKind::NewPerHour);
        }
        Ok(())
    }
}

const MINUTES: usize = 60;

/// What happened in each of the last 60 minutes of the clock, the present one included.
#[derive(Clone, Copy, Debug)]
struct RecentSeries {
    /// By the minute modulo [`MINUTES`].
    minutes: [u64; MINUTES],
    newest: i64,
    /// Of all minutes.
    sum: u64,
}

impl Default for RecentSeries {
    fn default() -> RecentSeries {
        RecentSeries { minutes: [0; MINUTES], newest: i64::MIN, sum: 0 }
    }
}

impl RecentSeries {
    fn add(&mut self, now_ms: i64) {
        // A clock that was set back goes on in the newest minute.
        let minute = now_ms.div_euclid(MINUTE_MS).max(self.newest);
        let passed = minute.saturating_sub(self.newest).min(MINUTES as i64);
        for ago in 0..passed {
            self.sum -= std::mem::take(&mut self.minutes[place(minute - ago)]);
        }
        self.newest = minute;
        self.minutes[place(minute)] += 1;
        self.sum += 1;
    }

    fn count(&self, now_ms: i64) -> u64 {
        let minute = now_ms.div_euclid(MINUTE_MS).max(self.newest);
        let passed = minute.saturating_sub(self.newest);
        if passed == 0 {
            return self.sum;
        }
        let oldest_left = minute.saturating_sub(MINUTES as i64 - 1);
        let left = oldest_left..=self.newest;
        left.map(|minute| self.minutes[place(minute)]).sum()
    }
}

fn place(minute: i64) -> usize {
    minute.rem_euclid(MINUTES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metric: &str, job: &str) -> Labels {
        Labels::from_pairs([("__name__", metric), ("job", job)]).unwrap()
    }

    fn limit(job: &str, active: Option<u64>, new: Option<u64>) -> SeriesLimit {
        let matchers = match job {
            "" => vec![],
            job => vec![Matcher::equal("job", job)],
        };
        SeriesLimit { matchers, active_max: active, new_per_hour_max: new }
    }

    fn active(limits: &[SeriesLimit]) -> ActiveSeries {
        let mut active = ActiveSeries::default();
        active.replace(limits, &HeadIndex::new(), |_, _| {});
        active
    }

    #[test]
    fn a_series_needs_room_in_every_limit_that_selects_it() {
        let mut active = active(&[limit("a", Some(1), None), limit("", Some(2), None)]);
        assert_eq!(active.enter(&series("m", "a"), 0), Ok(0b11));
        let reached = active.enter(&series("n", "a"), 0).unwrap_err();
        assert_eq!(
            active.refuse(reached, 7),
            "the limit of 1 active series of {job=\"a\"} is reached"
        );
        assert_eq!(active.enter(&series("m", "b"), 0), Ok(0b10), "nothing was counted of it");
        let reached = active.enter(&series("n", "b"), 0).unwrap_err();
        assert_eq!(active.refuse(reached, 1), "the limit of 2 active series in total is reached");
        active.leave(0b11);
        assert_eq!(active.enter(&series("n", "a"), 0), Ok(0b11));
        let status = active.status(0);
        assert_eq!((status[0].active, status[1].active), (1, 2));
        assert_eq!((status[0].refused_rows, status[1].refused_rows), ([7, 0], [1, 0]));
    }

    #[test]
    fn an_hour_passes_by_the_minute() {
        let mut active = active(&[limit("", None, Some(3))]);
        for (minute, name) in [(0, "a"), (0, "b"), (30, "c")] {
            assert_eq!(active.enter(&series(name, "j"), minute * MINUTE_MS), Ok(1), "{name}");
        }
        let at = |minute: i64| minute * MINUTE_MS;
        let reached = active.enter(&series("d", "j"), at(59)).unwrap_err();
        let text = active.refuse(reached, 1);
        assert_eq!(text, "the limit of 3 new series an hour in total is reached");
        assert_eq!(active.status(at(59))[0].new_in_last_hour, 3);
        assert_eq!(active.status(at(60))[0].new_in_last_hour, 1);
        assert_eq!(active.enter(&series("d", "j"), at(60)), Ok(1));
        // The clock goes back: what it says counts in the newest minute.
        assert_eq!(active.enter(&series("e", "j"), at(10)), Ok(1));
        assert!(active.enter(&series("f", "j"), at(0)).is_err());
        assert_eq!(active.status(at(89))[0].new_in_last_hour, 3);
        assert_eq!(active.status(at(90))[0].new_in_last_hour, 2);
        assert_eq!(active.enter(&series("g", "j"), i64::MAX), Ok(1));
        assert_eq!(active.status(i64::MAX)[0].new_in_last_hour, 1);
    }

    #[test]
    fn new_limits_count_what_is_there() {
        let mut index = HeadIndex::new();
        for (id, job) in [(0, "a"), (1, "b"), (2, "a")] {
            index.add(id, &series("m", job));
        }
        let mut hidden = series("m", "a").to_builder();
        hidden.set(companion::LABEL, "ms");
        index.add(3, &hidden.build().unwrap());
        let mut active = active(&[limit("a", None, Some(5))]);
        assert_eq!(active.enter(&series("m", "a"), 0), Ok(1));
        let mut marks = [0; 4];
        let limits = [limit("", Some(9), None), limit("a", Some(2), None)];
        active.replace(&limits, &index, |id, mark| marks[id as usize] |= mark);
        assert_eq!(marks, [0b11, 0b01, 0b11, 0]);
        let status = active.status(0);
        assert_eq!((status[0].active, status[1].active), (3, 2));
        assert_eq!(status[1].new_in_last_hour, 1, "the hour goes on");
        assert_eq!(status[1].of(LimitKind::Active), Some((2, 2)));
        assert_eq!(status[1].of(LimitKind::NewPerHour), None);
    }
}
