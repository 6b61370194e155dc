//! A life: a database on a simulated disk and the model beside it, a step at a time.

use std::sync::Arc;

use icecore_storage::backup::{Backup, Place, Restore};
use icecore_storage::db::{Options, Progress};
use icecore_storage::disk::Disk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::disk::view::View;
use icecore_storage::metrics::block::meta::BlockMeta;
use icecore_storage::metrics::sample::stale_nan;
use icecore_storage::retention::hold::Hold;
use icecore_storage::retention::policy::Policies;
use icecore_storage::time::{DAY_MS, MINUTE_MS, TimeRange};
use icecore_storage::verify::{Depth, verify};
use icecore_storage::{Db, Error};

use super::check;
use super::model::{Model, labels};
use super::steps::{self, Life, RESOLUTIONS_MS, Sent, Step, selector};
use crate::oracle::{Row, Stored, batch, histogram};

/// Some midnight.
const START_MS: i64 = 20_000 * DAY_MS;

/// Many windows and days may be due at once.
const STEPS_MAX: usize = 1_000;

type Outcome = Result<(), String>;

pub(super) struct World {
    disk: SimDisk,
    db: Db,
    model: Model,
    /// The time that it is.
    time_ms: i64,
    /// What the wall clock says beyond it, and whether that was noticed.
    skew_ms: i64,
    in_doubt: bool,
    /// The last request: series, time, value of each row.
    last: Vec<(usize, i64, u8)>,
    /// What the model is if an operation that was cut off was done.
    pending: Option<Model>,
    snapshots: u64,
}

fn open(disk: &SimDisk, model: &Model, now_ms: i64) -> Result<Db, String> {
    let policies = with_hold(model);
    let options = Options { policies, seed: 7, ..Options::default() };
    Db::open(Arc::new(disk.clone()), options, now_ms).map_err(|e| format!("open: {e}"))
}

fn with_hold(model: &Model) -> Policies {
    let hold = |(matchers, range): &(Vec<_>, TimeRange)| Hold {
        id: "1".into(),
        reason: "a test".into(),
        owner: "nobody".into(),
        matchers: matchers.clone(),
        range: *range,
        until_ms: None,
    };
    model.policies.clone().with_holds(model.hold.iter().map(hold).collect())
}

fn row((series, timestamp, value): (usize, i64, u8)) -> Row {
    let labels = labels(series);
    match (series, value) {
        // One series of histograms, one of both kinds.
        (5, _) | (6, 12..) => Row::histogram(labels, timestamp, histogram(value.into())),
        _ => Row::float(labels, timestamp, float(value)),
    }
}

fn float(value: u8) -> f64 {
    match value {
        0 => 0.0,
        1 => -0.0,
        2 => f64::NAN,
        3 | 4 => stale_nan(),
        5 => f64::INFINITY,
        6 => 1e300,
        _ => f64::from(value) * 0.3 - 2.0,
    }
}

fn told(meta: &BlockMeta) -> String {
    let (window, range) = (meta.window, meta.range);
    format!(
        "    {} class {} tier {} policies {} window {}..={} range {}..={} samples {}",
        meta.id.0,
        meta.class,
        meta.tier_ms,
        meta.policy_generation,
        window.start_ms,
        window.end_ms,
        range.start_ms,
        range.end_ms,
        meta.samples
    )
}

impl World {
    pub(super) fn live(life: &Life) -> Outcome {
        let mut world = World::begin(life)?;
        for (number, step) in life.steps.iter().enumerate() {
            world.take(step).map_err(|e| {
                let blocks: Vec<String> = world.db.blocks().iter().map(told).collect();
                format!("{e}\nin step {number}, {step:?}, with blocks\n{}", blocks.join("\n"))
            })?;
        }
        world.end()
    }

    fn begin(life: &Life) -> Result<World, String> {
        let disk = SimDisk::new(life.seed);
        let model = Model::new(steps::policies(life.policies));
        Ok(World {
            db: open(&disk, &model, START_MS)?,
            disk,
            model,
            time_ms: START_MS,
            skew_ms: 0,
            in_doubt: false,
            last: Vec::new(),
            pending: None,
            snapshots: 0,
        })
    }

    fn end(self) -> Outcome {
        self.disk.crash_at(u64::MAX);
        self.db.verify().map_err(|e| format!("verify: {e}"))?;
        self.db.close(self.now_ms()).map_err(|e| format!("close: {e}"))?;
        drop(self.db);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.kill());
        let verified = verify(&disk, Depth::Decoded, &mut |_| ()).map_err(|e| e.to_string())?;
        match verified.into_damage().next() {
            Some(damage) => Err(format!("verify: {damage}")),
            None => Ok(()),
        }
    }

    fn now_ms(&self) -> i64 {
        self.time_ms + self.skew_ms
    }

    /// From one age to another.
    fn range(&self, start_age_ms: i64, end_age_ms: i64) -> TimeRange {
        let at = |age_ms: i64| self.time_ms.saturating_sub(age_ms);
        TimeRange::new(at(start_age_ms), at(end_age_ms))
    }

    fn take(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Append(sent) => {
                let at = |one: &Sent| (one.series, self.time_ms - one.age_ms, one.value);
                let rows = sent.iter().map(at).collect();
                self.append(rows)?;
            }
            Step::Repeat => self.append(self.last.clone())?,
            Step::Wait(ms) => self.time_ms += ms,
            Step::Delete(what, start, end) => self.delete(*what, self.range(*start, *end))?,
            Step::Free => self.db.free_deleted(),
            Step::Maintain => {
                self.model.age(self.now_ms(), self.in_doubt);
                let mut steps = 0;
                while self
                    .survived(self.db.maintain(self.now_ms()))?
                    .is_some_and(|d| d != Progress::Idle)
                {
                    steps += 1;
                    if steps > STEPS_MAX {
                        return Err("upkeep does not come to an end".into());
                    }
                }
            }
            Step::MaintainSome(steps) => {
                self.model.age(self.now_ms(), self.in_doubt);
                for _ in 0..*steps {
                    let done = self.db.maintain(self.now_ms());
                    self.survived(done)?;
                }
            }
            Step::PowerCut(seed) => return self.reopen(self.disk.power_cut(*seed)),
            Step::Kill => return self.reopen(self.disk.kill()),
            Step::Close => {
                let closed = self.db.close(self.now_ms());
                self.survived(closed)?;
                return self.reopen(self.disk.power_cut(0));
            }
            Step::CrashSoon(after) => self.disk.crash_at(self.disk.operations() + after),
            Step::Policies(which) => {
                let mut with = self.model.clone();
                with.set_policies(steps::policies(*which));
                self.set_policies(with)?;
            }
            Step::Hold(hold) => {
                let mut with = self.model.clone();
                with.hold = hold.map(|(what, a, b)| (selector(what), self.range(a, b)));
                self.set_policies(with)?;
            }
            Step::Jump(by_ms, is_noticed) => {
                self.skew_ms = *by_ms;
                self.in_doubt = *is_noticed && *by_ms != 0;
                self.db.doubt_clock(self.in_doubt);
            }
            Step::Confirm => drop(self.db.confirm_retention(self.now_ms())),
            Step::Restore => self.restore()?,
            Step::Check(..) | Step::CheckNames(_) | Step::CheckBuckets(..) | Step::CheckAll => {
                if !self.disk.has_crashed() {
                    return self.check(step);
                }
            }
        }
        if self.disk.has_crashed() {
            let seed = self.disk.operations();
            return self.reopen(self.disk.power_cut(seed));
        }
        Ok(())
    }

    fn check(&self, step: &Step) -> Outcome {
        let (db, model) = (&self.db, &self.model);
        match step {
            Step::Check(what, start, end) => {
                let matchers = selector(*what);
                check::samples(db, model, &matchers, self.range(*start, *end))
            }
            Step::CheckBuckets(what, which) => {
                let range = self.range(50 * DAY_MS, 0);
                check::buckets(db, model, &selector(*what), range, RESOLUTIONS_MS[*which])
            }
            Step::CheckNames(what) => check::names(db, model, &selector(*what)),
            _ => self.check_all(model),
        }
    }

    fn check_all(&self, model: &Model) -> Outcome {
        check::samples(&self.db, model, &[], TimeRange::ALL)?;
        check::names(&self.db, model, &[])?;
        let range = self.range(70 * DAY_MS, 0);
        RESOLUTIONS_MS
            .iter()
            .try_for_each(|resolution| check::buckets(&self.db, model, &[], range, *resolution))
    }

    /// Only a disk that has stopped is an excuse.
    fn survived<T>(&self, done: Result<T, Error>) -> Result<Option<T>, String> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(_) if self.disk.has_crashed() => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    fn append(&mut self, rows: Vec<(usize, i64, u8)>) -> Outcome {
        let now_ms = self.now_ms();
        let accepts = |(series, timestamp, _): &&(usize, i64, u8)| {
            self.model.accepted(*series, now_ms).contains(*timestamp)
        };
        let accepted: Vec<(usize, i64, u8)> = rows.iter().filter(accepts).copied().collect();
        let request: Vec<Row> = rows.iter().copied().map(row).collect();
        let appended = self.db.append(&batch(&request), now_ms);
        if let Err(Error::Unavailable { .. }) = appended
            && self.may_wait(&rows)
        {
            return Ok(());
        }
        self.last = rows;
        match self.survived(appended)? {
            Some(appended) if appended.samples + appended.histograms != accepted.len() as u64 => {
                Err(format!("{accepted:?} are of an age that is kept: {appended:?}"))
            }
            done => {
                self.follow(done.is_some(), |model| {
                    for &(series, timestamp, value) in &accepted {
                        let row = row((series, timestamp, value));
                        let stored = Stored::of(row.value, row.histogram.as_ref());
                        model.push(series, timestamp, stored);
                    }
                });
                Ok(())
            }
        }
    }

    /// Changes the model, or what it may turn out to be.
    fn follow(&mut self, is_done: bool, change: impl FnOnce(&mut Model)) {
        if is_done {
            return change(&mut self.model);
        }
        let mut with = self.model.clone();
        change(&mut with);
        self.pending = Some(with);
    }

    /// Whether "not now" is an answer: the clock is, or may be, wrong, and it matters.
    fn may_wait(&self, rows: &[(usize, i64, u8)]) -> bool {
        let now_ms = self.now_ms();
        let is_behind = self.model.newest_ms > now_ms + 10 * MINUTE_MS;
        let accepted =
            TimeRange::new(now_ms - self.model.shortest_raw_ms(), now_ms + 10 * MINUTE_MS);
        (self.in_doubt || is_behind) && rows.iter().any(|(_, time, _)| !accepted.contains(*time))
    }

    fn delete(&mut self, what: u8, range: TimeRange) -> Outcome {
        let matchers = selector(what);
        let deleted = self.db.delete(std::slice::from_ref(&matchers), range, self.now_ms());
        let is_done = self.survived(deleted)?.is_some();
        self.follow(is_done, |model| model.delete(&matchers, range));
        Ok(())
    }

    fn set_policies(&mut self, with: Model) -> Outcome {
        let set = self.db.set_policies(&with_hold(&with));
        // Whether it was done or not, the next start has them.
        self.model = with;
        self.survived(set).map(drop)
    }

    fn reopen(&mut self, disk: SimDisk) -> Outcome {
        self.db = open(&disk, &self.model, self.now_ms())?;
        self.disk = disk;
        self.db.doubt_clock(self.in_doubt);
        let report = self.db.recovery();
        if report.lost_records > 0 || !report.quarantined.is_empty() || report.manifest_rebuilt {
            return Err(format!("{report:?}"));
        }
        let without = self.check_all(&self.model);
        match (without, self.pending.take()) {
            (Err(without), Some(with)) => {
                self.check_all(&with).map_err(|e| format!("{e}; without: {without}"))?;
                self.model = with;
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    fn restore(&mut self) -> Outcome {
        // One that a crash has cut off may be there.
        self.snapshots += 1;
        let name = format!("20261122T101010Z-{:016x}", self.snapshots);
        if let Err(e) = self.db.link_snapshot(&name, self.now_ms()) {
            return self.survived::<()>(Err(e)).map(drop);
        }
        let place = |disk: Arc<dyn Disk>| Place::new(disk, "there");
        let folder = std::path::Path::new("snapshots").join(&name);
        let from =
            || -> Arc<dyn Disk> { Arc::new(View::of_folder(Arc::new(self.disk.kill()), &folder)) };
        let (backup, into) = (SimDisk::new(1), SimDisk::new(2));
        let copied = || -> Result<(), Error> {
            let to = place(Arc::new(backup.clone()));
            Backup::prepare(place(from()), to)?.run(&name, &mut |_| ())?;
            let restore = Restore::prepare(place(Arc::new(backup.clone())))?;
            let damage = restore.check(Depth::Checksums, &mut |_| ())?.into_damage().next();
            damage.map_or(Ok(()), Err)?;
            restore.run(&place(Arc::new(into.clone())), &mut |_| ())
        };
        match self.disk.has_crashed() {
            true => Ok(()),
            false => {
                copied().map_err(|e| format!("restore: {e}"))?;
                self.reopen(into)
            }
        }
    }
}
