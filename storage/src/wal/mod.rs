//! The write-ahead log: what makes an acknowledgement true.
//!
//! A *record* is one request's accepted rows. It gets its *ticket* (sequence and segment) while
//! the caller holds the head's lock, so that the order of records is the order of decisions; it is
//! encoded without that lock, and [`Wal::commit`] returns once it is durable. Whoever waits first
//! writes and syncs for all who wait (group commit, no thread of its own).
//!
//! Each *segment* restates the labels of the series that its records use, so that losing one
//! segment orphans no other; a ticket's segment tells the caller which series to restate.
//!
//! Faults. If a write fails, the segment is abandoned, every request that waits in it is answered
//! "not now", and the next ticket starts a new segment. If a sync fails, nothing is known about
//! what the disk holds: the log is poisoned until the next start. Bytes are pictured in
//! docs/format.md, "Write-ahead log".

pub mod record;
pub mod replay;
pub mod segment;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::Disk;
use crate::error::{Error, Result, io_error};
use crate::wal::segment::SegmentWriter;

/// Folder of the segments, below the data directory.
pub const WAL_DIR: &str = "wal";

/// A segment is full at this size, unless restated labels make up more than a quarter of it.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A record's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Ascending without gaps, from 1.
    pub sequence: u64,
    /// Number of the segment that the record goes to.
    pub segment: u64,
}

/// Whether an acknowledgement waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Synced,
    Written,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    pub bytes: u64,
    pub segments: u64,
    pub records: u64,
    pub syncs: u64,
    pub written_bytes: u64,
    pub restated_bytes: u64,
}

#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    seed: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next_sequence: u64,
    /// Tickets are handed out for this segment.
    segment: u64,
    /// Encoded bytes and restated bytes submitted to `segment` so far.
    segment_bytes: u64,
    segment_restated_bytes: u64,
    /// Submitted records that are not written yet; `None` where a ticket was given back.
    queue: BTreeMap<u64, Option<Submitted>>,
    /// Every record below was written, given back or has failed.
    next_write: u64,
    /// Tickets in segments below this one can no longer be written.
    abandoned_below: u64,
    /// Records that were refused although they were submitted, until their owner has noticed.
    failed: BTreeMap<u64, String>,
    writer: Option<SegmentWriter>,
    /// The last record that was written without a failure.
    last_written: u64,
    /// The last record that the disk holds for sure.
    last_synced: u64,
    /// Somebody is writing without the lock.
    writing: bool,
    unsynced: bool,
    poisoned: Option<String>,
    /// Sealed segments, oldest first.
    sealed: Vec<SealedSegment>,
    stats: WalStats,
}

#[derive(Debug)]
struct Submitted {
    segment: u64,
    frame_type: u8,
    payload: Vec<u8>,
}

/// A segment that is no longer written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub number: u64,
    pub last_sequence: u64,
    pub bytes: u64,
}

impl Wal {
    /// A log that goes on after what replay found: `next_sequence` and a segment number that was
    /// never used. Writes nothing before the first record.
    pub fn new(
        disk: Arc<dyn Disk>,
        seed: u64,
        next_sequence: u64,
        next_segment: u64,
        sealed: Vec<SealedSegment>,
    ) -> Wal {
        let state = State {
            next_sequence,
            segment: next_segment,
            segment_bytes: 0,
            segment_restated_bytes: 0,
            queue: BTreeMap::new(),
            next_write: next_sequence,
            abandoned_below: 0,
            failed: BTreeMap::new(),
            writer: None,
            last_written: next_sequence - 1,
            last_synced: next_sequence - 1,
            writing: false,
            unsynced: false,
            poisoned: None,
            sealed,
            stats: WalStats::default(),
        };
        Wal { disk, seed, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The next place in the log. Every ticket must be committed or given back.
    pub fn reserve(&self) -> Result<Ticket> {
        let mut state = self.state.lock();
        state.check()?;
        // A quarter at most for restated labels, but only while there are labels to restate:
        // the segment grows until its samples outweigh them three to one.
        let full = SEGMENT_BYTES.max(4 * state.segment_restated_bytes);
        if state.segment_bytes >= full {
            state.start_segment();
        }
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        Ok(Ticket { sequence, segment: state.segment })
    }

    /// Gives a ticket back: there is nothing to write.
    pub fn give_back(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        state.queue.insert(ticket.sequence, None);
        state.skip_given_back();
        self.changed.notify_all();
    }

    /// Writes a record and waits until it is durable (or written). `restated_bytes` is how much
    /// of the payload restates labels that an earlier segment knew.
    pub fn commit(
        &self,
        ticket: Ticket,
        frame_type: u8,
        payload: Vec<u8>,
        restated_bytes: u64,
        durability: Durability,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let unusable = ticket.segment < state.abandoned_below || state.poisoned.is_some();
        if unusable {
            state.queue.insert(ticket.sequence, None);
            state.skip_given_back();
            self.changed.notify_all();
            state.check()?;
            return Err(unavailable("the log segment of this write was abandoned"));
        }
        if ticket.segment == state.segment {
            state.segment_bytes += payload.len() as u64;
            state.segment_restated_bytes += restated_bytes;
        }
        state.stats.restated_bytes += restated_bytes;
        let submitted = Submitted { segment: ticket.segment, frame_type, payload };
        state.queue.insert(ticket.sequence, Some(submitted));
        loop {
            if let Some(reason) = state.failed.remove(&ticket.sequence) {
                return Err(unavailable(reason));
            }
            if state.next_write > ticket.sequence {
                return Ok(());
            }
            if state.writing || !state.queue.contains_key(&state.next_write) {
                self.changed.wait(&mut state);
                continue;
            }
            state = self.write_queue(state, durability);
            self.changed.notify_all();
        }
    }

    /// Writes every record that is ready, up to the first of another segment, and syncs.
    fn write_queue<'a>(
        &'a self,
        mut state: parking_lot::MutexGuard<'a, State>,
        durability: Durability,
    ) -> parking_lot::MutexGuard<'a, State> {
        let ready = state.take_ready();
        let Some(segment) = ready.iter().find_map(|(_, record)| record.as_ref().map(|r| r.segment))
        else {
            state.next_write += ready.len() as u64;
            return state;
        };
        state.writing = true;
        let mut writer = state.writer.take();
        let (previous, synced) = (state.last_written, state.last_synced);
        let mut written = Written { synced, ..Written::default() };
        let outcome = parking_lot::MutexGuard::unlocked(&mut state, || {
            self.write_records(&mut writer, segment, previous, &ready, durability, &mut written)
        });
        state.writing = false;
        state.next_write += ready.len() as u64;
        state.sealed.append(&mut written.sealed);
        state.stats.syncs += written.syncs;
        match outcome {
            Ok(()) => {
                state.writer = writer;
                let last = ready.iter().rev().find(|(_, record)| record.is_some());
                state.last_written = last.map_or(previous, |(sequence, _)| *sequence);
                state.unsynced = durability == Durability::Written;
                state.last_synced =
                    if state.unsynced { written.synced } else { state.last_written };
                state.stats.records += ready.len() as u64;
                state.stats.written_bytes += written.bytes;
            }
            Err(failure) => state.fail(failure, writer, &ready),
        }
        state
    }

    /// What was done by the time of a failure is in `written` all the same.
    fn write_records(
        &self,
        writer: &mut Option<SegmentWriter>,
        segment: u64,
        previous: u64,
        records: &[(u64, Option<Submitted>)],
        durability: Durability,
        written: &mut Written,
    ) -> std::result::Result<(), Failure> {
        if writer.as_ref().is_none_or(|writer| writer.number() != segment) {
            if let Some(old) = writer.as_mut() {
                old.sync().map_err(Failure::Sync)?;
                written.syncs += 1;
                written.synced = previous;
                written.sealed.push(old.sealed());
            }
            *writer = None;
            let salt = xxhash_rust::xxh3::xxh3_64_with_seed(&segment.to_le_bytes(), self.seed);
            let new = SegmentWriter::create(self.disk.as_ref(), segment, salt, previous)
                .map_err(Failure::Write)?;
            *writer = Some(new);
        }
        let writer = writer.as_mut().expect("created above");
        for (sequence, record) in records {
            if let Some(record) = record {
                written.bytes += writer
                    .append(*sequence, written.synced, record.frame_type, &record.payload)
                    .map_err(Failure::Write)?;
            }
        }
        writer.flush().map_err(Failure::Write)?;
        if durability == Durability::Synced {
            writer.sync().map_err(Failure::Sync)?;
            written.syncs += 1;
        }
        Ok(())
    }

    /// Syncs what was written under [`Durability::Written`]. Tickets are handed out meanwhile;
    /// records wait.
    pub fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        while state.writing {
            self.changed.wait(&mut state);
        }
        state.check()?;
        if !state.unsynced {
            return Ok(());
        }
        state.writing = true;
        let mut writer = state.writer.take();
        let outcome = parking_lot::MutexGuard::unlocked(&mut state, || {
            writer.as_mut().map_or(Ok(()), SegmentWriter::sync)
        });
        state.writing = false;
        state.stats.syncs += 1;
        let synced = match outcome {
            Ok(()) => {
                state.writer = writer;
                state.unsynced = false;
                state.last_synced = state.last_written;
                state.skip_given_back();
                Ok(())
            }
            Err(e) => {
                state.fail(Failure::Sync(e), writer, &[]);
                Err(unavailable("the log could not be synced"))
            }
        };
        self.changed.notify_all();
        synced
    }

    /// Removes the segments all of whose records have a sequence of at most `covered`.
    pub fn cut(&self, covered: u64) -> Result<()> {
        let mut state = self.state.lock();
        let (dead, alive): (Vec<_>, Vec<_>) =
            state.sealed.drain(..).partition(|segment| segment.last_sequence <= covered);
        state.sealed = alive;
        drop(state);
        for (i, segment) in dead.iter().enumerate() {
            let path = segment::path(segment.number);
            let removed = self.disk.remove(&path);
            if let Err(e) = removed
                && e.kind() != io::ErrorKind::NotFound
            {
                self.state.lock().sealed.extend_from_slice(&dead[i..]);
                return Err(io_error("remove", &path, e));
            }
        }
        if !dead.is_empty() {
            let dir = PathBuf::from(WAL_DIR);
            self.disk.sync_dir(&dir).map_err(|e| io_error("sync folder", &dir, e))?;
        }
        Ok(())
    }

    /// Numbers of the segments that may hold records beyond `covered` at this moment, ascending.
    pub fn beyond(&self, covered: u64) -> Vec<u64> {
        let mut state = self.state.lock();
        while state.writing {
            self.changed.wait(&mut state);
        }
        let current = state.writer.as_ref().map(SegmentWriter::sealed);
        let segments = state.sealed.iter().cloned().chain(current);
        segments.filter(|one| one.last_sequence > covered).map(|one| one.number).collect()
    }

    /// Ends the current segment, so that [`Wal::cut`] can remove it once it is covered.
    pub fn rotate(&self) {
        let mut state = self.state.lock();
        if state.segment_bytes > 0 {
            state.start_segment();
        }
    }

    /// Closes the segment that is being written, if nobody is writing.
    pub fn seal_current(&self) -> Result<()> {
        self.sync()?;
        let mut state = self.state.lock();
        while state.writing {
            self.changed.wait(&mut state);
        }
        if let Some(writer) = state.writer.take() {
            state.sealed.push(writer.sealed());
        }
        state.start_segment();
        Ok(())
    }

    /// Why the log takes no more writes before a restart.
    pub fn poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }

    pub fn stats(&self) -> WalStats {
        let state = self.state.lock();
        let current = state.writer.as_ref().map_or(0, SegmentWriter::length);
        WalStats {
            bytes: state.sealed.iter().map(|segment| segment.bytes).sum::<u64>() + current,
            segments: state.sealed.len() as u64 + u64::from(state.writer.is_some()),
            ..state.stats
        }
    }
}

#[derive(Debug, Default)]
struct Written {
    bytes: u64,
    syncs: u64,
    sealed: Vec<SealedSegment>,
    /// The last record that the disk holds for sure, without those being written.
    synced: u64,
}

enum Failure {
    Write(io::Error),
    Sync(io::Error),
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(reason) => Err(unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    fn start_segment(&mut self) {
        self.segment += 1;
        self.segment_bytes = 0;
        self.segment_restated_bytes = 0;
    }

    fn skip_given_back(&mut self) {
        while !self.writing && matches!(self.queue.get(&self.next_write), Some(None)) {
            self.queue.remove(&self.next_write);
            self.next_write += 1;
        }
    }

    /// Takes the records from `next_write` on without a gap, all of one segment.
    fn take_ready(&mut self) -> Vec<(u64, Option<Submitted>)> {
        let mut ready: Vec<(u64, Option<Submitted>)> = Vec::new();
        let mut segment = None;
        while let Some(entry) = self.queue.first_entry() {
            let next = self.next_write + ready.len() as u64;
            let other = entry
                .get()
                .as_ref()
                .is_some_and(|r| *segment.get_or_insert(r.segment) != r.segment);
            if *entry.key() != next || other {
                break;
            }
            let (sequence, record) = entry.remove_entry();
            ready.push((sequence, record));
        }
        ready
    }

    /// Records what a failed write means for all who wait.
    fn fail(
        &mut self,
        failure: Failure,
        writer: Option<SegmentWriter>,
        ready: &[(u64, Option<Submitted>)],
    ) {
        let reason = match &failure {
            Failure::Write(e) if e.kind() == io::ErrorKind::StorageFull => {
                "the disk is full".to_owned()
            }
            Failure::Write(e) => format!("the log could not be written: {e}"),
            Failure::Sync(e) => {
                self.poison(e);
                "the log could not be synced".to_owned()
            }
        };
        // The records before the failure may be in the file; nothing is written behind them.
        self.sealed.extend(writer.map(|writer| writer.sealed()));
        self.start_segment();
        self.abandoned_below = self.segment;
        for (sequence, record) in ready {
            if record.is_some() {
                self.failed.insert(*sequence, reason.clone());
            }
        }
        // Later records of abandoned segments may use labels that were stated in a lost record.
        for (sequence, record) in &mut self.queue {
            if let Some(submitted) = record
                && submitted.segment < self.abandoned_below
            {
                *record = None;
                self.failed.insert(*sequence, reason.clone());
            }
        }
        self.skip_given_back();
    }

    fn poison(&mut self, e: &io::Error) {
        let reason = format!("the log could not be synced ({e}); writes resume after a restart");
        tracing::error!(error = %e, "fdatasync of the log failed: no more writes before a restart");
        self.poisoned.get_or_insert(reason);
    }
}

fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable { reason: reason.into(), retry_after_seconds: 5 }
}
