//! The simulated disk: files in memory that a power cut can tear, and operations that fail on
//! command. Everything it does follows from its seed and the operations asked of it.
//!
//! **Contents.** A file's live bytes are what reading gives. Of those, the ones up to the last
//! successful sync are durable. A failed sync makes the bytes it covered *doubtful*: reading still
//! gives them and a later sync succeeds, but they are as easily lost as before, as on Linux, where
//! the pages count as clean after the failure.
//!
//! **Names.** Creating, renaming and removing are changes in a list. `sync_dir` makes those durable
//! that touch its directory; a failed one leaves them doubtful. A rename is one change, atomic as
//! journals make it, even between directories.
//!
//! **[`SimDisk::power_cut`]** gives the disk as found afterwards: durable changes and bytes, any
//! subset of the other changes, and of the other bytes any part, sector by sector kept, zero or
//! garbage. It is harsher than real file systems, which keep more order than they promise.
//! **[`SimDisk::kill`]** ends only the process: all that is live is found again.
//!
//! **Operations** are numbered from 0 in the order asked, and logged. A test runs its workload
//! once to learn their number, and then once for each number, with [`SimDisk::crash_at`] or
//! [`SimDisk::fail_operation`] of it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Disk, ReadFile, WriteFile, indexes, names_of};
mod names;
mod state;

use names::{Change, Entry, Place};
use state::{Fault, FaultKind, NodeId, ROOT, Random, State};

/// Free bytes to report where no capacity is set.
const AMPLE_BYTES: u64 = 1 << 50;

/// A disk in memory. Clones are handles on the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// `create_dir_all`, `list`, `create`, `open`, `rename`, `link`, `remove`, `remove_dir`,
    /// `sync_dir`, `lock`, `free_bytes`, `append`, `preallocate`, `sync` or `range`.
    pub name: &'static str,
    /// The file or folder; of a rename or a link, the new name.
    pub path: PathBuf,
}
impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::of(State::new(seed))
    }

    fn of(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Bytes that all files may take, contents or reservations. What does not fit fails with
    /// [`ErrorKind::StorageFull`], an append after the part that does.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Makes operation `number` fail, and only that one.
    pub fn fail_operation(&self, number: u64, kind: ErrorKind) {
        self.state.lock().failures.insert(number, kind);
    }

    /// Makes operation `number` the one during which the process dies: it and all after it fail.
    pub fn crash_at(&self, number: u64) {
        self.state.lock().crash_at = Some(number);
    }

    /// Whether the operation of [`Self::crash_at`] has come.
    pub fn has_crashed(&self) -> bool {
        let state = self.state.lock();
        state.crash_at.is_some_and(|number| (state.log.len() as u64) > number)
    }

    /// Operations begun so far: the number of the next one.
    pub fn operations(&self) -> u64 {
        self.state.lock().log.len() as u64
    }

    /// All operations begun so far; an operation's number is its index.
    pub fn log(&self) -> Vec<Operation> {
        self.state.lock().log.clone()
    }

    /// The disk as found after a power cut now. It has the same capacity, and no faults set.
    pub fn power_cut(&self, seed: u64) -> SimDisk {
        let mut state = self.state.lock().restarted();
        // A stream of its own: what was asked of the disk before leaves no trace in it.
        state.random = Random::new(seed);
        state.lose_power();
        SimDisk::of(state)
    }

    /// The disk as found after the process was killed now: as it looks, with what is pending
    /// still pending. It has the same capacity, and no faults set.
    pub fn kill(&self) -> SimDisk {
        SimDisk::of(self.state.lock().restarted())
    }

    /// Damages a byte of a file, on the disk and for whoever reads it from now on.
    pub fn corrupt(&self, path: &Path, offset: u64, xor_byte: u8) {
        let mut state = self.state.lock();
        let file = state.file_at(path);
        let index = usize::try_from(offset).expect("an offset inside the file");
        file.live[index] ^= xor_byte;
    }

    /// Cuts a file short, on the disk and for whoever reads it from now on.
    pub fn truncate(&self, path: &Path, length: u64) {
        let mut state = self.state.lock();
        let file = state.file_at(path);
        file.live.truncate(usize::try_from(length).expect("a length in memory"));
        file.synced = file.synced.min(file.live.len());
    }

    /// All files with their lengths, by path.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state.lock();
        let mut found = Vec::new();
        state.walk(ROOT, &mut PathBuf::new(), &mut found);
        found
    }

    /// The bytes of a file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.state.lock().file_at(path).live.clone()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimDisk")
            .field("files", &state.files.len())
            .field("operations", &state.log.len())
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("create_dir_all", path);
        let names = names_of(path)?;
        let mut folder = ROOT;
        for name in names.into_iter().take_while(|_| carried_out) {
            let place = Place { folder, name: name.to_owned() };
            folder = match state.live.get(&place) {
                Some(Entry::Folder(id)) => id,
                Some(Entry::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    let id = state.new_id();
                    state.change(Change::Link { place, entry: Entry::Folder(id) });
                    id
                }
            };
        }
        answer
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.begin("list", dir)?;
        let folder = state.folder(dir)?;
        Ok(state.live.0.get(&folder).into_iter().flatten().map(|(name, _)| name.clone()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("create", path);
        if carried_out {
            let place = state.place(path)?;
            if state.live.get(&place).is_some() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if state.capacity_bytes.is_some_and(|capacity| state.used_bytes() >= capacity) {
                return Err(ErrorKind::StorageFull.into());
            }
            let id = state.link_new_file(place);
            if answer.is_ok() {
                return Ok(Box::new(SimWriteFile(Handle::new(self, &mut state, id, path))));
            }
        }
        Err(answer.expect_err("a create that succeeds has returned"))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadFile>> {
        let mut state = self.state.lock();
        state.begin("open", path)?;
        match state.find(path)? {
            (_, Entry::Folder(_)) => Err(ErrorKind::IsADirectory.into()),
            (_, Entry::File(id)) => {
                let length = state.file(id).live.len() as u64;
                let handle = Handle::new(self, &mut state, id, path);
                Ok(Arc::new(SimReadFile { handle, length }))
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("rename", to);
        if carried_out {
            let (from, entry) = state.find(from)?;
            let to = state.place(to)?;
            match (entry, state.live.get(&to)) {
                (_, None) | (Entry::File(_), Some(Entry::File(_))) => {}
                (Entry::File(_), Some(Entry::Folder(_))) => {
                    return Err(ErrorKind::IsADirectory.into());
                }
                (Entry::Folder(_), Some(_)) => return Err(ErrorKind::AlreadyExists.into()),
            }
            state.change(Change::Move { from, to, entry });
        }
        answer
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("link", to);
        if carried_out {
            let (_, entry) = state.find(from)?;
            let place = state.place(to)?;
            if matches!(entry, Entry::Folder(_)) {
                return Err(ErrorKind::PermissionDenied.into());
            }
            if state.live.get(&place).is_some() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.change(Change::Link { place, entry });
        }
        answer
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("remove_dir", dir);
        if carried_out {
            let (place, entry) = state.find(dir)?;
            let Entry::Folder(id) = entry else {
                return Err(ErrorKind::NotADirectory.into());
            };
            if state.live.0.get(&id).is_some_and(|names| !names.is_empty()) {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            state.change(Change::Unlink { place, entry });
        }
        answer
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (carried_out, answer) = state.begin_atomic("remove", path);
        if carried_out {
            let (place, entry) = state.find(path)?;
            if matches!(entry, Entry::Folder(_)) {
                return Err(ErrorKind::IsADirectory.into());
            }
            state.change(Change::Unlink { place, entry });
        }
        answer
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let begun = state.begin("sync_dir", dir);
        let folder = state.folder(dir)?;
        let Err(fault) = begun else {
            state.sync_changes(folder);
            return Ok(());
        };
        match fault.kind {
            FaultKind::Failed => state.doubt_changes(folder),
            FaultKind::Crashing if state.random.coin() => state.sync_changes(folder),
            FaultKind::Crashing | FaultKind::Crashed => {}
        }
        Err(fault.error)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn fmt::Debug + Send + Sync>> {
        let mut state = self.state.lock();
        state.begin("lock", path)?;
        let place = state.place(path)?;
        let id = match state.live.get(&place) {
            Some(Entry::File(id)) => id,
            Some(Entry::Folder(_)) => return Err(ErrorKind::IsADirectory.into()),
            None => state.link_new_file(place),
        };
        if !state.locked.insert(id) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(Handle::new(self, &mut state, id, path))))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.begin("free_bytes", Path::new(""))?;
        let capacity = state.capacity_bytes;
        Ok(capacity.map_or(AMPLE_BYTES, |capacity| capacity.saturating_sub(state.used_bytes())))
    }
}

/// Keeps a file alive, and with it the disk.
struct Handle {
    state: Arc<Mutex<State>>,
    id: NodeId,
    /// As it was called when opened, for the log.
    path: PathBuf,
}

impl Handle {
    fn new(disk: &SimDisk, state: &mut State, id: NodeId, path: &Path) -> Handle {
        state.file(id).handles += 1;
        Handle { state: Arc::clone(&disk.state), id, path: path.to_owned() }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.state.lock().file(self.id).handles -= 1;
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.path).finish()
    }
}

#[derive(Debug)]
struct SimLock(Handle);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state.lock().locked.remove(&self.0.id);
    }
}

#[derive(Debug)]
struct SimWriteFile(Handle);

impl WriteFile for SimWriteFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let begun = state.begin("append", &self.0.path);
        let room = usize::try_from(state.room_of(self.0.id)).unwrap_or(usize::MAX);
        let (length, answer) = match begun {
            Ok(()) if bytes.len() <= room => (bytes.len(), Ok(())),
            Ok(()) => (room, Err(ErrorKind::StorageFull.into())),
            Err(Fault { error, kind: FaultKind::Crashed }) => (0, Err(error)),
            Err(Fault { error, .. }) => {
                let part = state.random.below(bytes.len() as u64 + 1) as usize;
                (part.min(room), Err(error))
            }
        };
        state.file(self.0.id).live.extend_from_slice(&bytes[..length]);
        answer
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.0.state.lock();
        state.begin("preallocate", &self.0.path)?;
        let room = state.room_of(self.0.id);
        let file = state.file(self.0.id);
        if length.saturating_sub(file.live.len() as u64) > room {
            return Err(ErrorKind::StorageFull.into());
        }
        file.reserved = file.reserved.max(length);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.state.lock();
        let begun = state.begin("sync", &self.0.path);
        let survives = begun.is_ok() || state.random.coin();
        let file = state.file(self.0.id);
        let unsynced = file.synced..file.live.len();
        match begun {
            Ok(()) => {
                file.synced = file.live.len();
                Ok(())
            }
            Err(fault) => {
                match fault.kind {
                    FaultKind::Failed => {
                        file.doubtful.push(unsynced);
                        file.synced = file.live.len();
                    }
                    FaultKind::Crashing if survives => file.synced = file.live.len(),
                    FaultKind::Crashing | FaultKind::Crashed => {}
                }
                Err(fault.error)
            }
        }
    }
}

#[derive(Debug)]
struct SimReadFile {
    handle: Handle,
    length: u64,
}

impl ReadFile for SimReadFile {
    fn length(&self) -> u64 {
        self.length
    }

    /// What was cut off since opening reads as zeros.
    fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut state = self.handle.state.lock();
        state.begin("range", &self.handle.path)?;
        let wanted = indexes(&range, self.length)?;
        let live = &state.file(self.handle.id).live;
        let there = wanted.start.min(live.len())..wanted.end.min(live.len());
        let mut bytes = live[there].to_vec();
        bytes.resize(wanted.len(), 0);
        Ok(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::contract;
    use std::collections::BTreeSet;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    /// What could be found after a power cut, over many seeds.
    fn outcomes<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
        (0..200).map(|seed| look(&disk.power_cut(seed))).collect()
    }

    fn names(disk: &SimDisk) -> Vec<String> {
        disk.files().into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn keeps_the_contract() {
        contract::check(&SimDisk::new(1));
    }

    #[test]
    fn the_same_seed_finds_the_same_disk() {
        let disk = SimDisk::new(1);
        for name in ["a", "b", "c"] {
            disk.create(path(name)).unwrap().append(&[7; 3000]).unwrap();
        }
        let look = |seed| {
            let found = disk.power_cut(seed);
            found.files().into_iter().map(|(p, _)| (found.content(&p), p)).collect::<Vec<_>>()
        };
        assert_eq!(look(5), look(5));
        assert!((0..20).any(|seed| look(seed) != look(5)));
    }

    #[test]
    fn synced_bytes_survive_and_others_may() {
        let disk = SimDisk::new(1);
        let mut file = disk.create(path("f")).unwrap();
        disk.sync_dir(path("")).unwrap();
        file.append(&[1; 700]).unwrap();
        file.sync().unwrap();
        file.append(&[2; 2000]).unwrap();
        let found = outcomes(&disk, |disk| disk.content(path("f")));
        assert!(found.iter().all(|content| content[..700] == [1; 700]));
        assert!(found.contains(&[&[1; 700][..], &[2; 2000]].concat()));
        assert!(found.contains(&vec![1; 700]));
        let odd = |byte: u8| found.iter().any(|content| content[700..].contains(&byte));
        assert!(odd(0) && odd(99), "torn sectors are zero or garbage");
        assert_eq!(disk.kill().content(path("f")).len(), 2700);
    }

    #[test]
    fn a_sync_after_a_failed_one_proves_nothing() {
        let disk = SimDisk::new(1);
        let mut file = disk.create(path("f")).unwrap();
        disk.sync_dir(path("")).unwrap();
        file.append(&[1; 1024]).unwrap();
        disk.fail_operation(disk.operations(), ErrorKind::Other);
        assert!(file.sync().is_err());
        file.append(&[2; 1024]).unwrap();
        file.sync().unwrap();
        let found = outcomes(&disk, |disk| disk.content(path("f")));
        assert!(found.iter().all(|content| content[1024..] == [2; 1024]));
        assert!(found.iter().any(|content| content[..1024] != [1; 1024]));
    }

    #[test]
    fn names_survive_once_their_folder_is_synced() {
        let disk = SimDisk::new(1);
        disk.create_dir_all(path("d")).unwrap();
        disk.create(path("d/old")).unwrap();
        assert_eq!(outcomes(&disk, names).len(), 2);
        disk.sync_dir(path("d")).unwrap();
        assert!(outcomes(&disk, names).contains(&vec![]), "the folder's own name is not synced");
        disk.sync_dir(path("")).unwrap();
        assert_eq!(outcomes(&disk, names), BTreeSet::from([vec!["d/old".to_owned()]]));

        disk.rename(path("d/old"), path("new")).unwrap();
        let either = [vec!["d/old".to_owned()], vec!["new".to_owned()]];
        assert_eq!(outcomes(&disk, names), BTreeSet::from(either));
        disk.remove(path("new")).unwrap();
        assert_eq!(outcomes(&disk, names).len(), 3);
        disk.sync_dir(path("")).unwrap();
        assert_eq!(outcomes(&disk, names), BTreeSet::from([vec![]]));
    }

    #[test]
    fn a_failed_folder_sync_leaves_doubt() {
        let disk = SimDisk::new(1);
        disk.create(path("f")).unwrap();
        disk.fail_operation(disk.operations(), ErrorKind::Other);
        assert!(disk.sync_dir(path("")).is_err());
        disk.sync_dir(path("")).unwrap();
        assert_eq!(outcomes(&disk, names).len(), 2);
    }

    #[test]
    fn a_full_disk_refuses_and_recovers() {
        let disk = SimDisk::new(1);
        disk.set_capacity(Some(1000));
        let mut file = disk.create(path("f")).unwrap();
        file.preallocate(600).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 400);
        assert_eq!(file.preallocate(1001).unwrap_err().kind(), ErrorKind::StorageFull);
        let mut other = disk.create(path("g")).unwrap();
        assert_eq!(other.append(&[1; 500]).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(disk.content(path("g")).len(), 400, "what fits is written");
        assert_eq!(disk.create(path("h")).unwrap_err().kind(), ErrorKind::StorageFull);
        file.append(&[1; 600]).unwrap();
        assert_eq!(file.append(&[1]).unwrap_err().kind(), ErrorKind::StorageFull);
        disk.remove(path("g")).unwrap();
        file.append(&[1]).unwrap();
        disk.set_capacity(None);
        file.append(&[1; 5000]).unwrap();
    }

    #[test]
    fn operations_fail_once_or_for_good() {
        let disk = SimDisk::new(1);
        disk.fail_operation(1, ErrorKind::PermissionDenied);
        disk.crash_at(3);
        let mut file = disk.create(path("f")).unwrap();
        assert_eq!(file.append(b"ab").unwrap_err().kind(), ErrorKind::PermissionDenied);
        file.append(b"ab").unwrap();
        assert!(!disk.has_crashed());
        assert!(file.append(b"ab").is_err() && disk.has_crashed());
        assert!(file.sync().is_err() && disk.open(path("f")).is_err());
        let names: Vec<&str> = disk.log().iter().map(|operation| operation.name).collect();
        assert_eq!(names, ["create", "append", "append", "append", "sync", "open"]);
        assert!(disk.kill().open(path("f")).is_ok());
    }

    #[test]
    fn damage_is_seen_by_readers_but_not_in_ranges_they_have() {
        let disk = SimDisk::new(1);
        disk.create(path("f")).unwrap().append(&[1; 10]).unwrap();
        let file = disk.open(path("f")).unwrap();
        let had = file.range(0..10).unwrap();
        disk.corrupt(path("f"), 3, 0x80);
        disk.truncate(path("f"), 8);
        assert_eq!(&file.range(0..10).unwrap()[..], [1, 1, 1, 0x81, 1, 1, 1, 1, 0, 0]);
        assert_eq!(&had[..], [1; 10]);
        assert_eq!(disk.files(), [(PathBuf::from("f"), 8)]);
    }
}
