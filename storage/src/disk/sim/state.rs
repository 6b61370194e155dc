//! What is on the simulated disk, and what of it a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Operation;
use super::names::{Change, Durability, Entry, Folders, Place};
use crate::disk::names_of;

/// Bytes that survive a power cut together or not at all.
const SECTOR_BYTES: usize = 512;

pub(super) const ROOT: NodeId = 0;

pub(super) type NodeId = u64;

pub(super) struct State {
    pub(super) random: Random,
    pub(super) files: BTreeMap<NodeId, File>,
    /// What is seen.
    pub(super) live: Folders,
    /// What a power cut keeps, before `changes`.
    pub(super) durable: Folders,
    /// Made since, in order.
    pub(super) changes: Vec<(Change, Durability)>,
    pub(super) next_id: NodeId,
    pub(super) locked: BTreeSet<NodeId>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) failures: BTreeMap<u64, ErrorKind>,
    pub(super) crash_at: Option<u64>,
    pub(super) log: Vec<Operation>,
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) live: Vec<u8>,
    /// Bytes before this are durable, but for `doubtful`.
    pub(super) synced: usize,
    pub(super) doubtful: Vec<Range<usize>>,
    pub(super) reserved: u64,
    /// Open readers and writers: the file stays, whatever becomes of its name.
    pub(super) handles: u32,
}

/// Why an operation is not to be carried out as asked.
pub(super) struct Fault {
    pub(super) error: io::Error,
    pub(super) kind: FaultKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// This operation fails; the next ones do not.
    Failed,
    /// The process dies during this operation: it may have been carried out, or half.
    Crashing,
    /// The process has died before.
    Crashed,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            random: Random::new(seed),
            files: BTreeMap::new(),
            live: Folders::with_root(),
            durable: Folders::with_root(),
            changes: Vec::new(),
            next_id: ROOT + 1,
            locked: BTreeSet::new(),
            capacity_bytes: None,
            failures: BTreeMap::new(),
            crash_at: None,
            log: Vec::new(),
        }
    }

    /// Logs an operation and says whether it is to fail.
    pub(super) fn begin(&mut self, name: &'static str, path: &Path) -> Result<(), Fault> {
        let number = self.log.len() as u64;
        self.log.push(Operation { name, path: path.to_owned() });
        let crashed = |kind| Fault { error: io::Error::other("the simulated disk crashed"), kind };
        match self.crash_at {
            Some(crash_at) if number == crash_at => return Err(crashed(FaultKind::Crashing)),
            Some(crash_at) if number > crash_at => return Err(crashed(FaultKind::Crashed)),
            _ => {}
        }
        match self.failures.remove(&number) {
            Some(kind) => Err(Fault { error: io::Error::from(kind), kind: FaultKind::Failed }),
            None => Ok(()),
        }
    }

    /// Begins an operation that is carried out wholly or not at all, even when it crashes. `true`
    /// if it is to be carried out; then, if an error is given too, that is the answer.
    pub(super) fn begin_atomic(
        &mut self,
        name: &'static str,
        path: &Path,
    ) -> (bool, io::Result<()>) {
        match self.begin(name, path) {
            Ok(()) => (true, Ok(())),
            Err(fault) => {
                let carried_out = fault.kind == FaultKind::Crashing && self.random.coin();
                (carried_out, Err(fault.error))
            }
        }
    }

    pub(super) fn folder(&self, path: &Path) -> io::Result<NodeId> {
        names_of(path)?.into_iter().try_fold(ROOT, |folder, name| {
            match self.live.get(&Place { folder, name: name.to_owned() }) {
                Some(Entry::Folder(id)) => Ok(id),
                Some(Entry::File(_)) => Err(ErrorKind::NotADirectory.into()),
                None => Err(ErrorKind::NotFound.into()),
            }
        })
    }

    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        names_of(path)?;
        match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(parent), Some(name)) => {
                Ok(Place { folder: self.folder(parent)?, name: name.to_owned() })
            }
            _ => Err(ErrorKind::InvalidInput.into()),
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<(Place, Entry)> {
        let place = self.place(path)?;
        let entry = self.live.get(&place).ok_or(ErrorKind::NotFound)?;
        Ok((place, entry))
    }

    /// For tests, which know that the file is there.
    pub(super) fn file_at(&mut self, path: &Path) -> &mut File {
        match self.find(path) {
            Ok((_, Entry::File(id))) => self.file(id),
            _ => panic!("no file at {}", path.display()),
        }
    }

    pub(super) fn file(&mut self, id: NodeId) -> &mut File {
        self.files.get_mut(&id).expect("a file with a handle or a name is kept")
    }

    pub(super) fn new_id(&mut self) -> NodeId {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.changes.push((change, Durability::Pending));
    }

    pub(super) fn link_new_file(&mut self, place: Place) -> NodeId {
        let id = self.new_id();
        self.files.insert(id, File::default());
        self.change(Change::Link { place, entry: Entry::File(id) });
        id
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.live.entries().filter_map(|entry| match entry {
            Entry::File(id) => Some(id),
            Entry::Folder(_) => None,
        });
        // A file of two names takes room once.
        let files: BTreeSet<NodeId> = files.collect();
        files.iter().map(|id| self.files[id].footprint()).sum()
    }

    /// Bytes that a file may still grow by, with what is reserved for it.
    pub(super) fn room_of(&self, id: NodeId) -> u64 {
        let Some(capacity) = self.capacity_bytes else { return u64::MAX };
        let file = &self.files[&id];
        let reserved = file.footprint() - file.live.len() as u64;
        capacity.saturating_sub(self.used_bytes()).saturating_add(reserved)
    }

    /// Makes the changes in a folder durable, and forgets those that nothing depends on.
    pub(super) fn sync_changes(&mut self, folder: NodeId) {
        for (change, durability) in &mut self.changes {
            if *durability == Durability::Pending && change.touches(folder) {
                *durability = Durability::Durable;
            }
        }
        // A change may only be carried out for good once those before it are.
        let settled = self.changes.iter().take_while(|(_, d)| *d == Durability::Durable).count();
        for (change, _) in self.changes.drain(..settled) {
            self.durable.apply(&change);
        }
        self.forget_lost_files();
    }

    /// Makes nobody know what became of the changes in a folder: a sync of it failed.
    pub(super) fn doubt_changes(&mut self, folder: NodeId) {
        for (change, durability) in &mut self.changes {
            if *durability == Durability::Pending && change.touches(folder) {
                *durability = Durability::Doubtful;
            }
        }
    }

    /// Drops files that no name, no change and no handle leads to.
    fn forget_lost_files(&mut self) {
        let changes = self.changes.iter().map(|(change, _)| change.entry());
        let named: BTreeSet<NodeId> = self
            .live
            .entries()
            .chain(self.durable.entries())
            .chain(changes)
            .filter_map(|entry| match entry {
                Entry::File(id) => Some(id),
                Entry::Folder(_) => None,
            })
            .collect();
        self.files.retain(|id, file| file.handles > 0 || named.contains(id));
    }

    /// The state for a new process: no handles, no locks, no faults, an empty log.
    pub(super) fn restarted(&self) -> State {
        let mut state = State {
            random: self.random.clone(),
            files: self.files.clone(),
            live: self.live.clone(),
            durable: self.durable.clone(),
            changes: self.changes.clone(),
            next_id: self.next_id,
            locked: BTreeSet::new(),
            capacity_bytes: self.capacity_bytes,
            failures: BTreeMap::new(),
            crash_at: None,
            log: Vec::new(),
        };
        for file in state.files.values_mut() {
            file.handles = 0;
        }
        state.forget_lost_files();
        state
    }

    pub(super) fn lose_power(&mut self) {
        // Some cuts keep everything pending and some nothing; most of them some of it.
        let keep_in_16 = self.random.pick(&[0, 4, 8, 12, 16]);
        for (change, durability) in std::mem::take(&mut self.changes) {
            if durability == Durability::Durable || self.random.below(16) < keep_in_16 {
                self.durable.apply(&change);
            }
        }
        for file in self.files.values_mut() {
            file.lose_power(&mut self.random);
        }
        // Folders that nothing leads to any more are as good as gone: they cannot be named.
        self.live = self.durable.clone();
        self.forget_lost_files();
    }

    pub(super) fn walk(&self, folder: NodeId, path: &mut PathBuf, found: &mut Vec<(PathBuf, u64)>) {
        for (name, entry) in self.live.0.get(&folder).into_iter().flatten() {
            path.push(name);
            match entry {
                Entry::File(id) => found.push((path.clone(), self.files[id].live.len() as u64)),
                Entry::Folder(id) => self.walk(*id, path, found),
            }
            path.pop();
        }
    }
}

impl File {
    fn footprint(&self) -> u64 {
        self.reserved.max(self.live.len() as u64)
    }

    /// Leaves what a power cut leaves.
    fn lose_power(&mut self, random: &mut Random) {
        for range in std::mem::take(&mut self.doubtful) {
            let end = range.end.min(self.live.len());
            tear(&mut self.live, range.start..end, random);
        }
        let unsynced = self.live.len() - self.synced;
        let kept = match random.below(4) {
            0 => 0,
            1 => unsynced,
            _ => random.below(unsynced as u64 + 1) as usize,
        };
        self.live.truncate(self.synced + kept);
        tear(&mut self.live, self.synced..self.synced + kept, random);
        self.synced = self.live.len();
        self.reserved = 0;
    }
}

/// Leaves each sector's part of a range as it is, or zero, or garbage. Bytes outside stay: a
/// sector that is written again keeps what was durable in it.
fn tear(bytes: &mut [u8], range: Range<usize>, random: &mut Random) {
    if random.coin() {
        return;
    }
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min((start / SECTOR_BYTES + 1) * SECTOR_BYTES);
        match random.below(6) {
            0 => bytes[start..end].fill(0),
            1 => bytes[start..end].fill_with(|| random.next() as u8),
            _ => {}
        }
        start = end;
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        fault.error
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0; near enough to uniform.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(super) fn pick(&mut self, choices: &[u64]) -> u64 {
        choices[self.below(choices.len() as u64) as usize]
    }
}
