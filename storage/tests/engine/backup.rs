//! Snapshot folders, backups, restores and scrubs: whole or not there, whatever happens meanwhile.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use icecore_storage::backup::{Backup, Copied, Place, Restore};
use icecore_storage::data_file::{LiveFile, live_files};
use icecore_storage::disk::sim::SimDisk;
use icecore_storage::disk::view::View;
use icecore_storage::disk::{Disk, ReadFile, WriteFile};
use icecore_storage::labels::Labels;
use icecore_storage::verify::{Depth, verify};
use icecore_storage::{Db, Error};

use crate::oracle::*;

const NAME: &str = "20261122T101010Z-5b1f0c1e7d3a9c42";

/// A database with blocks, merged ones among them, and samples in the head.
fn database(disk: &SimDisk) -> (Db, Oracle, i64) {
    let db = open(disk, time_of(0)).unwrap();
    let mut oracle = Oracle::default();
    for number in 0..40 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        oracle.push_all(&round(number));
        if number < 38 {
            maintain(&db, time_of(number)).unwrap();
        }
    }
    assert!(db.stats().blocks > 0, "there is something to link");
    (db, oracle, time_of(39))
}

fn folder(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(View::of_folder(Arc::new(disk.clone()), &Path::new("snapshots").join(NAME)))
}

fn place(disk: &Arc<dyn Disk>, name: &str) -> Place {
    Place::new(disk.clone(), name)
}

/// What a data directory holds; it must be one that is all right.
fn content(disk: Arc<dyn Disk>, now: i64, what: &str) -> Oracle {
    let db = open_on(disk, now).unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = db.recovery();
    assert_eq!((report.lost_records, &report.quarantined), (0, &vec![]), "{what}");
    assert!(!report.manifest_rebuilt, "{what}");
    db.verify().unwrap();
    Oracle::of(&db, i64::MIN)
}

#[test]
fn a_snapshot_folder_opens_and_holds_what_was_acknowledged_before_it() {
    let disk = SimDisk::new(5);
    let (db, oracle, now) = database(&disk);
    let path = db.link_snapshot(NAME, now).unwrap();
    assert_eq!(path, Path::new("snapshots").join(NAME));
    // What comes later is not in it, and takes nothing from it.
    let mut after = oracle.clone();
    for number in 40..70 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        after.push_all(&round(number));
        maintain(&db, time_of(number)).unwrap();
    }
    assert_eq!(content(folder(&disk), now, "snapshot"), oracle);
    assert_eq!(db.linked_snapshots().unwrap(), [NAME]);
    assert!(matches!(db.link_snapshot("../x", now), Err(Error::Refused { .. })));
    assert!(db.link_snapshot(NAME, now).is_err(), "a name is given once");
    assert!(db.remove_snapshot(NAME).unwrap());
    assert!(!db.remove_snapshot(NAME).unwrap());
    assert_eq!(names(&disk, "snapshots/"), Vec::<String>::new());
    let kept = oldest_kept(time_of(69));
    assert_eq!(Oracle::of(&db, kept), after.from(kept), "the database needs none of it");
}

/// A disk that runs something once, when a checkpoint has been written in part.
struct HookedDisk {
    disk: SimDisk,
    hook: Arc<Hook>,
}

#[derive(Default)]
struct Hook(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Debug for HookedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookedDisk")
    }
}

struct HookedFile(Box<dyn WriteFile>, u32, Arc<Hook>);

impl Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookedFile")
    }
}

impl Disk for HookedDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = self.disk.create(path)?;
        match path.starts_with("checkpoints") {
            true => Ok(Box::new(HookedFile(file, 0, self.hook.clone()))),
            false => Ok(file),
        }
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        // A file system without second names: everything is copied.
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.disk.lock(path)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl WriteFile for HookedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)?;
        self.1 += 1;
        // Magic, start, first series: others are still to come.
        if self.1 == 3
            && let Some(hook) = self.2.0.lock().unwrap().take()
        {
            hook();
        }
        Ok(())
    }
    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        self.0.preallocate(length)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_request_that_comes_while_a_snapshot_is_made_is_in_it_whole_or_not_at_all() {
    const SERIES: i64 = 2500;
    let disk = SimDisk::new(5);
    let hook = Arc::new(Hook::default());
    let hooked = HookedDisk { disk: disk.clone(), hook: hook.clone() };
    let now = time_of(0);
    let db = Arc::new(open_on(Arc::new(hooked), now).unwrap());
    let request = |timestamp: i64| -> Vec<Row> {
        let series = |i: i64| Labels::from_pairs([("__name__", format!("m{i}"))]).unwrap();
        (0..SERIES).map(|i| Row::float(series(i), timestamp, 1.0)).collect()
    };
    db.append(&batch(&request(now)), now).unwrap();
    let appended = Arc::new(OnceLock::new());
    let (meanwhile, done) = (request(now + 1), appended.clone());
    let late = Arc::downgrade(&db);
    *hook.0.lock().unwrap() = Some(Box::new(move || {
        let db = late.upgrade().unwrap();
        done.set(db.append(&batch(&meanwhile), now + 1).unwrap()).unwrap();
    }));
    db.link_snapshot(NAME, now + 1).unwrap();
    assert!(appended.get().is_some(), "the request came while the checkpoint was written");
    let found = content(folder(&disk), now + 1, "snapshot");
    let of = |timestamp: i64| found.rows.keys().filter(|(_, t)| *t == timestamp).count() as i64;
    assert_eq!(of(now), SERIES);
    assert!([0, SERIES].contains(&of(now + 1)), "{} of {SERIES}", of(now + 1));
}

#[test]
fn a_crash_at_any_operation_of_a_snapshot_leaves_the_database_whole() {
    let base = SimDisk::new(5);
    let (db, oracle, now) = database(&base);
    drop(db);
    let base = base.kill();
    drop(open(&base, now).unwrap());
    let run = |disk: &SimDisk| {
        let db = open(disk, now)?;
        let begun = disk.operations();
        db.link_snapshot(NAME, now)?;
        db.remove_snapshot(NAME)?;
        Ok::<u64, Error>(begun)
    };
    let whole = base.kill();
    let begun = run(&whole).unwrap();
    let mut complete = 0;
    for at in begun..whole.operations() {
        let disk = base.kill();
        disk.crash_at(at);
        assert!(run(&disk).is_err());
        let what = format!("crash at {at} ({:?})", disk.log().get(at as usize));
        for found in [disk.power_cut(at), disk.kill()] {
            let there = !names(&found, &format!("snapshots/{NAME}/")).is_empty();
            if there {
                complete += 1;
                assert_eq!(content(folder(&found), now, &what), oracle, "{what}");
            }
            assert_eq!(content(Arc::new(found.clone()), now, &what), oracle, "{what}");
            assert_eq!(names(&found, "snapshots/tmp-"), Vec::<String>::new(), "{what}");
        }
    }
    assert!(complete > 2, "some crashes come when the snapshot is complete: {complete}");
}

/// A data directory with a snapshot folder, at two times, and what the folders hold.
struct Source {
    disks: [Arc<dyn Disk>; 2],
    oracles: [Oracle; 2],
    now: i64,
}

fn source() -> Source {
    let disk = SimDisk::new(5);
    let (db, oracle, now) = database(&disk);
    db.link_snapshot(NAME, now).unwrap();
    let first = disk.kill();
    db.remove_snapshot(NAME).unwrap();
    let mut later = oracle.clone();
    for number in 40..46 {
        db.append(&batch(&round(number)), time_of(number)).unwrap();
        later.push_all(&round(number));
    }
    db.link_snapshot(NAME, time_of(45)).unwrap();
    Source { disks: [folder(&first), folder(&disk)], oracles: [oracle, later], now: time_of(45) }
}

fn backup(from: &Arc<dyn Disk>, to: &SimDisk) -> Result<Copied, Error> {
    let to: Arc<dyn Disk> = Arc::new(to.clone());
    Backup::prepare(place(from, "from"), place(&to, "to"))?.run(NAME, &mut |_| ())
}

fn is_untouched(disk: &SimDisk) -> bool {
    disk.log().iter().all(|operation| operation.name == "list")
}

/// Checks a backup and restores it.
fn restore(from: &SimDisk, into: &SimDisk) -> Result<(), Error> {
    let from: Arc<dyn Disk> = Arc::new(from.clone());
    let into: Arc<dyn Disk> = Arc::new(into.clone());
    let restore = Restore::prepare(place(&from, "from"))?;
    let into = place(&into, "into");
    Restore::refuse_used(&into)?;
    let verified = restore.check(Depth::Checksums, &mut |_| ())?;
    match verified.into_damage().next() {
        Some(damage) => Err(damage),
        None => restore.run(&into, &mut |_| ()),
    }
}

#[test]
fn a_backup_restores_to_what_it_was_taken_of_and_the_next_one_copies_what_is_new() {
    let source = source();
    let to = SimDisk::new(6);
    let first = backup(&source.disks[0], &to).unwrap();
    assert_eq!((first.copied_files, first.copied_bytes), (first.files, first.bytes));
    let into = SimDisk::new(7);
    restore(&to, &into).unwrap();
    assert_eq!(content(Arc::new(into.clone()), source.now, "restored"), source.oracles[0]);
    assert!(matches!(restore(&to, &into), Err(Error::Refused { .. })), "it is in use");
    assert!(matches!(open(&to, source.now), Err(Error::Refused { .. })), "a backup stays one");

    let blocks = names(&to, "blocks/").len() as u64;
    let second = backup(&source.disks[1], &to).unwrap();
    assert_eq!(second.copied_files, second.files - blocks, "blocks are there already");
    assert_eq!(second.removed_files, first.files - blocks);
    let into = SimDisk::new(7);
    restore(&to, &into).unwrap();
    assert_eq!(content(Arc::new(into), source.now, "restored"), source.oracles[1]);
}

#[test]
fn a_damaged_copy_is_made_again_and_another_history_is_refused() {
    let source = source();
    let to = SimDisk::new(6);
    backup(&source.disks[0], &to).unwrap();
    let block = names(&to, "blocks/").remove(0);
    to.corrupt(Path::new(&block), 100, 1);
    let again = backup(&source.disks[1], &to).unwrap();
    let other = source.disks[1].list(Path::new("blocks")).unwrap().len() as u64;
    assert_eq!(again.copied_files, again.files - other + 1);
    let into = SimDisk::new(7);
    restore(&to, &into).unwrap();
    assert_eq!(content(Arc::new(into), source.now, "restored"), source.oracles[1]);

    // The same numbers, other samples.
    let stranger = SimDisk::new(8);
    let db = open(&stranger, time_of(0)).unwrap();
    for number in 0..40 {
        let mut rows = round(number);
        rows.iter_mut().for_each(|row| row.value += 0.5);
        db.append(&batch(&rows), time_of(number)).unwrap();
        maintain(&db, time_of(number)).unwrap();
    }
    db.link_snapshot(NAME, time_of(39)).unwrap();
    let refused = backup(&folder(&stranger), &to).unwrap_err();
    assert!(refused.to_string().contains("of another database"), "its manifests are older");
    for number in 0..20 {
        db.remove_snapshot(NAME).unwrap();
        db.link_snapshot(NAME, time_of(40 + number)).unwrap();
    }
    let refused = backup(&folder(&stranger), &to).unwrap_err();
    assert!(refused.to_string().contains("of another database"), "{refused}");
    let into = SimDisk::new(7);
    restore(&to, &into).unwrap();
}

#[test]
fn a_crash_at_any_operation_of_a_backup_leaves_the_old_one_or_the_new_one() {
    let source = source();
    let base = SimDisk::new(6);
    backup(&source.disks[0], &base).unwrap();
    for (old, base) in [(None, SimDisk::new(6)), (Some(&source.oracles[0]), base)] {
        let whole = base.kill();
        backup(&source.disks[1], &whole).unwrap();
        let mut found = [0, 0];
        for at in 0..whole.operations() {
            let disk = base.kill();
            disk.crash_at(at);
            let _ = backup(&source.disks[1], &disk);
            let cut = disk.power_cut(at);
            let what = format!("crash at {at} ({:?})", disk.log().get(at as usize));
            let into = SimDisk::new(7);
            match restore(&cut, &into) {
                Ok(()) => {
                    let content = content(Arc::new(into), source.now, &what);
                    let is_new = content == source.oracles[1];
                    assert!(is_new || Some(&content) == old, "{what}");
                    found[usize::from(is_new)] += 1;
                }
                Err(e) => {
                    assert!(old.is_none(), "{what}: {e}");
                    assert!(is_untouched(&into), "{what}: nothing was changed");
                    found[0] += 1;
                }
            }
            // It can be repeated.
            backup(&source.disks[1], &cut).unwrap_or_else(|e| panic!("{what}: {e}"));
            let into = SimDisk::new(7);
            restore(&cut, &into).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        assert!(found[0] > 5 && found[1] > 0, "{found:?}");
    }
}

/// Without blocks nothing tells two databases of equal age apart: the same names, other content.
#[test]
fn a_crash_while_files_are_replaced_leaves_no_mixture() {
    let source = |value: f64| -> (Arc<dyn Disk>, Oracle) {
        let disk = SimDisk::new(5);
        let db = open(&disk, time_of(0)).unwrap();
        let mut oracle = Oracle::default();
        for number in 0..4 {
            let rows = [Row::float(labels(1), time_of(number), value + number as f64)];
            db.append(&batch(&rows), time_of(number)).unwrap();
            oracle.push_all(&rows);
        }
        db.link_snapshot(NAME, time_of(4)).unwrap();
        (folder(&disk), oracle)
    };
    let ((old, old_content), (new, new_content)) = (source(1.0), source(1000.0));
    let base = SimDisk::new(6);
    backup(&old, &base).unwrap();
    let whole = base.kill();
    let copied = backup(&new, &whole).unwrap();
    assert_eq!(copied.removed_files, 0, "all names are the same");
    let mut found = [0; 3];
    for at in 0..whole.operations() {
        let disk = base.kill();
        disk.crash_at(at);
        let _ = backup(&new, &disk);
        let cut = disk.power_cut(at);
        let what = format!("crash at {at} ({:?})", disk.log().get(at as usize));
        let into = SimDisk::new(7);
        match restore(&cut, &into) {
            Ok(()) => {
                let content = content(Arc::new(into), time_of(4), &what);
                assert!(content == old_content || content == new_content, "{what}");
                found[usize::from(content == new_content)] += 1;
            }
            Err(e) => {
                assert!(e.to_string().contains("was not finished"), "{what}: {e}");
                found[2] += 1;
            }
        }
        backup(&new, &cut).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    assert!(found.iter().all(|count| *count > 0), "{found:?}");
}

#[test]
fn a_crash_at_any_operation_of_a_restore_leaves_a_database_or_none() {
    let source = source();
    let to = SimDisk::new(6);
    backup(&source.disks[0], &to).unwrap();
    let whole = SimDisk::new(7);
    restore(&to, &whole).unwrap();
    let mut restored = 0;
    for at in 0..whole.operations() {
        let disk = SimDisk::new(7);
        disk.crash_at(at);
        let _ = restore(&to, &disk);
        let cut = disk.power_cut(at);
        let what = format!("crash at {at} ({:?})", disk.log().get(at as usize));
        let is_empty = cut.files().is_empty();
        match open(&cut, source.now) {
            Err(Error::Refused { .. }) => {}
            Ok(db) if is_empty => assert_eq!(db.stats().blocks, 0, "{what}"),
            Ok(db) => {
                assert_eq!(Oracle::of(&db, i64::MIN), source.oracles[0], "{what}");
                restored += 1;
            }
            Err(e) => panic!("{what}: {e}"),
        }
    }
    assert!(restored > 0);
}

/// A data directory whose process was killed: it has a log.
fn killed() -> SimDisk {
    let disk = SimDisk::new(2);
    drop(database(&disk));
    let disk = disk.kill();
    assert!(!names(&disk, "wal/").is_empty() && !names(&disk, "checkpoints/").is_empty());
    disk
}

/// Every byte of every file of a backup.
#[test]
fn damage_anywhere_in_a_backup_is_refused_before_anything_is_changed() {
    let to = SimDisk::new(6);
    let from: Arc<dyn Disk> = Arc::new(killed());
    backup(&from, &to).unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for (path, length) in to.files() {
        if path.ends_with("backup.lock") {
            continue;
        }
        kinds.insert(path.parent().unwrap().to_owned());
        let mut damages: Vec<SimDisk> = Vec::new();
        for offset in (0..length).step_by(1 + length as usize / 40) {
            let damaged = to.kill();
            damaged.corrupt(&path, offset, 1 << (offset % 8));
            damages.push(damaged);
        }
        let (cut, gone) = (to.kill(), to.kill());
        cut.truncate(&path, length - 1);
        gone.remove(&path).unwrap();
        damages.extend([cut, gone]);
        for damaged in damages {
            let into = SimDisk::new(7);
            let refused = restore(&damaged, &into).unwrap_err();
            assert!(refused.to_string().contains(&*path.to_string_lossy()), "{refused}");
            assert!(is_untouched(&into), "nothing was changed: {refused}");
        }
    }
    assert!(kinds.len() == 4, "{kinds:?}");
}

/// A backup that somebody put together: every digest is right.
#[test]
fn a_backup_whose_digests_are_right_and_whose_content_is_not_is_refused() {
    let data = killed();
    for LiveFile { file, bytes: length } in live_files(&data).unwrap() {
        let path = file.path();
        // The end of the log may be a write that was cut off.
        let end = if path.starts_with("wal") { length / 4 } else { length - 1 };
        for offset in [0, length / 3, end] {
            let damaged = data.kill();
            damaged.corrupt(&path, offset, 0x20);
            let from: Arc<dyn Disk> = Arc::new(damaged);
            let to = SimDisk::new(6);
            let outcome = backup(&from, &to);
            let refused = outcome.expect_err(&format!("{} byte {offset}", path.display()));
            assert!(refused.to_string().contains("from"), "{refused}");
            assert!(names(&to, "backup.list").is_empty());
        }
    }
}

#[test]
fn verifying_names_every_damaged_file_and_where() {
    let disk = killed();
    let whole: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut seen = 0;
    let verified = verify(&whole, Depth::Decoded, &mut |bytes| seen += bytes).unwrap();
    assert!(verified.is_whole());
    assert!(verified.log_records > 0);
    assert_eq!(seen, verified.files.iter().map(|file| file.bytes).sum::<u64>());
    for checked in verified.files {
        let path = checked.file.path();
        // The last records of the log may be a write that was cut off.
        let end = if path.starts_with("wal") { checked.bytes / 3 } else { checked.bytes };
        let start = if path.starts_with("wal") { 70 } else { 0 };
        for offset in (start..end).step_by(1 + checked.bytes as usize / 60) {
            let damaged = disk.kill();
            damaged.corrupt(&path, offset, 1 << (offset % 8));
            let what = format!("{} byte {offset}", path.display());
            let damaged: Arc<dyn Disk> = Arc::new(damaged);
            let verified = verify(&damaged, Depth::Decoded, &mut |_| ()).unwrap();
            let damage: Vec<Error> = verified.into_damage().collect();
            let named = |e: &Error| matches!(e, Error::Corrupt { path: p, .. } if *p == path);
            assert!(damage.iter().any(named), "{what}: {damage:?}");
        }
    }
}

#[test]
fn a_scrub_finds_damage_and_the_rest_is_served() {
    let disk = SimDisk::new(2);
    let (db, oracle, now) = database(&disk);
    let scrub = |db: &Db| {
        let mut bytes = 0;
        for meta in db.blocks() {
            let Some(mut scrub) = db.scrub(meta.id).unwrap() else { continue };
            let outcome = loop {
                match scrub.step(100) {
                    Ok(Some(read)) => bytes += read,
                    other => break other,
                }
            };
            drop(scrub);
            if let Err(damage) = outcome {
                db.quarantine(meta.id, damage).unwrap();
            }
        }
        bytes
    };
    assert!(scrub(&db) > 0);
    assert_eq!(db.stats().quarantined_files, 0);
    let (path, length) = disk.files().into_iter().find(|(p, _)| p.starts_with("blocks")).unwrap();
    disk.corrupt(&path, length / 2, 4);
    scrub(&db);
    assert_eq!(db.stats().quarantined_files, 1);
    assert_eq!(names(&disk, "quarantine/").len(), 1);
    let found = Oracle::of(&db, i64::MIN);
    assert!(!found.rows.is_empty() && found.rows.len() < oracle.rows.len());
    let intact = db.blocks()[0].id;
    let wrong = Error::Corrupt { path: PathBuf::new(), offset: 0, what: "no".into() };
    assert!(db.quarantine(intact, wrong).is_err(), "what is intact stays");
    db.maintain(now).unwrap();
}
