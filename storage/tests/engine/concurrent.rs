//! Many threads at once: writers, readers, upkeep. A request is seen whole or not at all, what was
//! acknowledged is seen at once, and a power cut in the middle changes neither.
//!
//! Which thread comes first is the machine's choice; what each does follows from its number.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icecore_storage::Db;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::disk::{Disk, ReadFile, WriteFile};
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};
use icecore_storage::metrics::sample::Samples;
use icecore_storage::snapshot::Selector;
use icecore_storage::time::{TimeRange, WINDOW_MS};

use crate::oracle::*;

const WRITERS: usize = 4;
/// Series that every request of a writer writes to.
const MEMBERS: usize = 8;
const RUN: Duration = Duration::from_millis(2500);

/// A disk whose syncs take a while, so that writers meet in a group commit.
#[derive(Debug)]
pub(crate) struct SlowDisk(pub(crate) SimDisk);

#[derive(Debug)]
struct SlowFile(Box<dyn WriteFile>);

impl Disk for SlowDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(SlowFile(self.0.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        self.0.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.0.lock(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

impl WriteFile for SlowFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }
    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        self.0.preallocate(length)
    }
    fn sync(&mut self) -> io::Result<()> {
        std::thread::sleep(Duration::from_micros(300));
        self.0.sync()
    }
}

fn member(writer: usize, member: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", "request"),
        ("member", &member.to_string()),
        ("writer", &writer.to_string()),
    ])
    .unwrap()
}

/// Request `number` of a writer: the same two samples for each of its series, one of them in a
/// window that is being sealed or is sealed already.
fn request(writer: usize, number: i64, timestamp: i64) -> Vec<Row> {
    let late = timestamp - WINDOW_MS - 500;
    (0..MEMBERS)
        .flat_map(|i| {
            let labels = member(writer, i);
            let late = Row::float(labels.clone(), late, -number as f64);
            [Row::float(labels, timestamp, number as f64), late]
        })
        .collect()
}

/// What one moment of the database has for a writer, by time; panics if its series differ.
fn seen(db: &Db, writer: usize, kept: impl Fn() -> i64) -> BTreeMap<i64, f64> {
    let matcher = Matcher::new("writer", MatchOp::Equal, writer.to_string()).unwrap();
    let selector = Selector { matchers: vec![matcher], range: TimeRange::ALL, aligned_ms: 0 };
    let snapshot = db.snapshot();
    let selected = snapshot.select(&[selector]).unwrap();
    let oldest = kept();
    let mut samples = Samples::default();
    let mut all: Vec<BTreeMap<i64, f64>> = Vec::new();
    for series in &selected[0] {
        snapshot.read(series, &mut samples).unwrap();
        assert!(samples.timestamps.is_sorted_by(|a, b| a < b), "samples ascend");
        let rows = samples.timestamps.iter().copied().zip(samples.values.iter().copied());
        all.push(rows.filter(|(timestamp, _)| *timestamp >= oldest).collect());
    }
    assert!(all.is_empty() || all.len() == MEMBERS, "{} of {MEMBERS} series", all.len());
    for other in &all[all.len().min(1)..] {
        let differs = |(t, v): &(&i64, &f64)| all[0].get(*t) != Some(*v);
        let extra = other.iter().find(differs);
        assert!(*other == all[0], "writer {writer}: a request is seen in part: {extra:?}");
    }
    all.into_iter().next().unwrap_or_default()
}

struct Run {
    db: Db,
    now: AtomicI64,
    stop: AtomicBool,
    /// (number, timestamp) of each acknowledged request.
    acknowledged: Vec<Mutex<Vec<(i64, i64)>>>,
}

impl Run {
    fn new(db: Db) -> Run {
        let acknowledged = (0..WRITERS).map(|_| Mutex::default()).collect();
        Run { db, now: AtomicI64::new(time_of(0)), stop: AtomicBool::new(false), acknowledged }
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn write(&self, writer: usize) {
        let mut last = 0;
        for number in 1.. {
            let timestamp = self.now().max(last + 1000);
            last = timestamp;
            // Never further ahead than is accepted.
            while timestamp > self.now() + 5 * 60_000 && !self.is_stopped() {
                std::thread::yield_now();
            }
            if self.is_stopped() {
                return;
            }
            let rows = request(writer, number, timestamp);
            let appended = self.db.append(&batch(&rows), self.now()).unwrap();
            assert_eq!(appended.samples, rows.len() as u64);
            self.acknowledged[writer].lock().unwrap().push((number, timestamp));
        }
    }

    fn read(&self) {
        let mut reads = 0;
        while !self.is_stopped() || reads == 0 {
            for writer in 0..WRITERS {
                let expected: Vec<(i64, i64)> = {
                    let acknowledged = self.acknowledged[writer].lock().unwrap();
                    acknowledged.iter().rev().take(300).copied().collect()
                };
                let found = seen(&self.db, writer, || oldest_kept(self.now()));
                let oldest = oldest_kept(self.now());
                for (number, timestamp) in expected {
                    let late = (timestamp - WINDOW_MS - 500, -number);
                    for (timestamp, number) in [(timestamp, number), late] {
                        if timestamp >= oldest {
                            let there = found.get(&timestamp);
                            assert_eq!(there, Some(&(number as f64)), "acknowledged, not seen");
                        }
                    }
                }
            }
            reads += 1;
        }
    }

    fn upkeep(&self) {
        while !self.is_stopped() {
            self.now.fetch_add(60_000, Ordering::SeqCst);
            maintain(&self.db, self.now()).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

fn check_run(disk: Arc<dyn Disk>, restart: impl FnOnce() -> Arc<dyn Disk>) {
    let run = Run::new(open_on(disk, time_of(0)).unwrap());
    let run = &run;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        threads.extend((0..WRITERS).map(|writer| scope.spawn(move || run.write(writer))));
        threads.extend((0..2).map(|_| scope.spawn(|| run.read())));
        threads.push(scope.spawn(|| run.upkeep()));
        let begun = std::time::Instant::now();
        while begun.elapsed() < RUN && !threads.iter().any(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        run.stop.store(true, Ordering::SeqCst);
    });
    let stats = run.db.stats();
    assert!(stats.blocks > 0 && stats.checkpoints > 1, "upkeep had something to do: {stats:?}");
    let now = run.now();
    let before: Vec<_> = (0..WRITERS).map(|w| seen(&run.db, w, || oldest_kept(now))).collect();
    for (writer, found) in before.iter().enumerate() {
        let acknowledged = run.acknowledged[writer].lock().unwrap();
        let kept = acknowledged.iter().filter(|(_, t)| *t >= oldest_kept(now)).count();
        assert!(found.len() >= kept && kept > 0, "{} of {kept}", found.len());
    }
    let disk = restart();
    let db = open_on(disk, now).unwrap();
    assert_eq!(db.recovery().lost_records, 0);
    for (writer, before) in before.iter().enumerate() {
        assert!(*before == seen(&db, writer, || oldest_kept(now)), "writer {writer}, restarted");
    }
    db.verify().unwrap();
}

#[test]
fn requests_are_seen_whole_and_at_once_on_a_simulated_disk() {
    let disk = SimDisk::new(8);
    let cut = disk.clone();
    check_run(Arc::new(SlowDisk(disk)), move || Arc::new(cut.power_cut(8)));
}

#[test]
fn requests_are_seen_whole_and_at_once_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().to_owned(), copy.path().to_owned());
    // The database is still open: its lock stays behind, as does everything it would do later.
    let restart = move || {
        copy_folder(&from, &to);
        Arc::new(OsDisk::new(to)) as Arc<dyn Disk>
    };
    check_run(Arc::new(OsDisk::new(folder.path().to_owned())), restart);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Series come and go with every few requests and are shared by the writers, so that one request
/// rests on what another of the same group commit has defined.
#[test]
fn a_power_cut_under_concurrent_writes_splits_no_request_and_loses_none() {
    let now = time_of(0);
    let mut groups = 0;
    // Requests of several sectors, so that a cut may keep a later one and tear an earlier one.
    const ROWS: usize = 60;
    for seed in 0..100u64 {
        let disk = SimDisk::new(seed);
        disk.crash_at(40 + seed);
        let slow: Arc<dyn Disk> = Arc::new(SlowDisk(disk.clone()));
        let db = open_on(slow, now).unwrap();
        let acknowledged = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (db, acknowledged) = (&db, &acknowledged);
                scope.spawn(move || {
                    for number in 0..1000 {
                        let id = (number * WRITERS + writer) as f64;
                        let rows: Vec<Row> = (0..ROWS)
                            .map(|i| {
                                let name = format!("s_{}_{i}", number / 3);
                                let labels = Labels::from_pairs([("__name__", name)]).unwrap();
                                Row::float(labels, now + writer as i64 * 1000 + number as i64, id)
                            })
                            .collect();
                        if db.append(&batch(&rows), now).is_err() {
                            return;
                        }
                        acknowledged.lock().unwrap().push(id as u64);
                    }
                });
            }
        });
        let stats = db.stats();
        groups += u64::from(stats.wal_syncs < stats.wal_records);
        drop(db);
        for cut in 0..4 {
            let db = open(&disk.power_cut(4 * seed + cut), now).unwrap();
            let what = format!("seed {seed}, {:?}", db.recovery());
            assert_eq!(db.recovery().lost_records, 0, "{what}");
            assert_eq!(names(&disk, "quarantine/"), Vec::<String>::new(), "{what}");
            let mut rows_of: BTreeMap<u64, usize> = BTreeMap::new();
            for stored in Oracle::of(&db, i64::MIN).rows.values() {
                let Stored::Float(bits) = stored else { panic!("{what}: {stored:?}") };
                *rows_of.entry(f64::from_bits(*bits) as u64).or_default() += 1;
            }
            for (id, rows) in &rows_of {
                assert_eq!(*rows, ROWS, "{what}: request {id} is there in part");
            }
            for id in acknowledged.lock().unwrap().iter() {
                assert!(
                    rows_of.contains_key(id),
                    "{what}: request {id} was acknowledged and is lost"
                );
            }
        }
    }
    assert!(groups > 0, "writers met in a group commit");
}
