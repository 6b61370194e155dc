//! The head: everything that is not in a block yet.
//!
//! Series have small dense ids that mean nothing outside the process. A write is *decided* first
//! ([`Head::decide`]: which rows are accepted, which series are new), then logged, then *applied*
//! ([`Head::apply`]); between the two nothing of it can be read. All samples of the head are in a
//! checkpoint or in the log. The head has no lock of its own: `Db` holds it in one.

pub(crate) mod age;
pub(crate) mod columns;
mod delete;
pub(crate) mod generations;
mod keys;
mod late;
mod packed;
pub(crate) mod read;
pub(crate) mod series;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::index::head::HeadIndex;
use crate::labels::{Labels, SeriesIdentity};
use crate::limits::Limits;
use crate::metrics::batch::{Batch, Exemplar, Metadata, Refusals};
use crate::metrics::companion::{self, CompanionIds};
use crate::metrics::head::age::{AcceptedAge, RowsByLifetime};
use crate::metrics::head::columns::TimestampColumns;
use crate::metrics::head::generations::Generations;
use crate::metrics::head::keys::Keys;
use crate::metrics::head::series::{MemSeries, Pushed, Value};
use crate::retention::classes::Classifier;
use crate::series_limits::{ActiveSeries, LimitReached, LimitStatus, Marks, SeriesLimit};
use crate::time::{MINUTE_MS, TimeRange, WINDOW_MS, window_start_ms};
use crate::wal::record::BatchRecord;

/// The newest exemplars are kept, this many over all series.
const EXEMPLARS_MAX: usize = 100_000;

/// Families whose metadata is kept.
const METADATA_FAMILIES_MAX: usize = 100_000;

/// Series are kept in pages, so that growing never copies or doubles them.
const PAGE_SERIES: usize = 1024;

/// Keys are a cache: a sender that writes a series' labels in ever new orders empties it.
const KEYS_A_SERIES_MAX: usize = 8;

/// A series that was refused, where an id is expected.
const REFUSED: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) index: HeadIndex,
    pages: Vec<Box<[MemSeries]>>,
    /// By id; for ids in use.
    places: Vec<Place>,
    free: Vec<u32>,
    by_key: Keys,
    by_identity: HashTable<u32>,
    companions: CompanionIds,
    active: ActiveSeries,
    /// What gives a new series its class.
    classifier: Arc<Classifier>,
    pub(crate) columns: TimestampColumns,
    exemplars: VecDeque<HeadExemplar>,
    next_exemplar: u64,
    metadata: BTreeMap<String, Vec<Metadata>>,
    /// Starts of the windows of which samples are here, and when the last of them was written.
    windows: BTreeMap<i64, i64>,
    /// Samples before this time are late.
    sealed_before: i64,
    pub(crate) newest: Option<i64>,
    pub(crate) oldest: Option<i64>,
    pub(crate) late_samples: u64,
    /// Which times were written when; also of what is in blocks.
    pub(crate) generations: Generations,
    pub(crate) samples_applied: u64,
    pub(crate) series_created: u64,
}

/// What is known of an id without touching the series.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    identity: SeriesIdentity,
    /// The last write that names the series; it may not be applied yet.
    last_sequence: u64,
    /// The segment of the log that knows its labels.
    segment: u64,
    /// The limits that count it.
    marks: Marks,
    /// Of its lifetimes.
    class: u32,
    in_use: bool,
}

#[derive(Debug)]
struct HeadExemplar {
    /// Ascending, never used twice: a seal says by it what it has written.
    number: u64,
    id: u32,
    exemplar: Exemplar,
}

/// A decided write: what the log is told.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) record: BatchRecord,
    pub(crate) refused: Refusals,
    pub(crate) new_series: u64,
    /// Of the new series, in the order of the batch: the log is told.
    new_labels: Vec<(u32, Labels)>,
    /// Rows of the record that are start timestamps.
    pub(crate) start_timestamps: u64,
}

impl Head {
    /// Sorts out a batch: which series it names, creating new ones, and which rows are accepted.
    pub(crate) fn decide(&mut self, batch: &Batch, limits: &Limits, age: AcceptedAge) -> Decided {
        let mut decided = Decided {
            record: BatchRecord::default(),
            refused: Refusals::default(),
            new_series: 0,
            new_labels: Vec::new(),
            start_timestamps: 0,
        };
        let ids = self.resolve(batch, limits, age, &mut decided);
        decided.record.source_offset = batch.source_offset;
        self.decide_samples(batch, &ids, age, &mut decided);
        for row in &batch.histograms {
            let id = ids[row.series as usize];
            if id == REFUSED {
                continue;
            }
            if self.fits(id, age, row.timestamp) {
                decided.record.histograms.push((id, row.timestamp, row.histogram.clone()));
            } else {
                let describe = || self.describe_refused(id, age, row.timestamp);
                decided.refused.add(1, describe);
            }
        }
        for row in &batch.exemplars {
            let id = ids[row.series as usize];
            if id != REFUSED && self.fits(id, age, row.exemplar.timestamp) {
                decided.record.exemplars.push((id, row.exemplar.clone()));
            }
        }
        self.decide_start_timestamps(batch, &ids, age, &mut decided);
        let mut changed: HashSet<&str> = HashSet::new();
        for metadata in &batch.metadata {
            let known = self.metadata.get(&metadata.family);
            let is_known = known.is_some_and(|known| known.contains(metadata));
            // What was known before may come after something else in the batch.
            if !is_known || changed.contains(metadata.family.as_str()) {
                changed.insert(&metadata.family);
                decided.record.metadata.push(metadata.clone());
            }
        }
        decided
    }

    /// The ids of a batch's series: the whole batch is looked up before anything else is done, so
    /// that the misses of the table overlap (storage notes, §9).
    fn resolve(
        &mut self,
        batch: &Batch,
        limits: &Limits,
        age: AcceptedAge,
        decided: &mut Decided,
    ) -> Vec<u32> {
        let mut ids: Vec<u32> = Vec::with_capacity(batch.series.len());
        ids.extend(
            batch.series.iter().map(|series| self.by_key.get(series.key_hash).unwrap_or(REFUSED)),
        );
        let mut rows_by_lifetime = RowsByLifetime::default();
        for (i, id) in ids.iter_mut().enumerate() {
            if *id != REFUSED {
                continue;
            }
            let series = &batch.series[i];
            // The same key may have come earlier in the batch.
            if let Some(found) = self.by_key.get(series.key_hash) {
                *id = found;
                continue;
            }
            match (batch.key_form)(batch.key(series), limits) {
                Ok(labels) => {
                    let class = self.classifier.class_of(&labels);
                    let lifetime_ms = self.classifier.raw_lifetime_ms(class);
                    let rows = rows_by_lifetime.of(batch, i, age, lifetime_ms);
                    if rows.has_accepted {
                        match self.find_or_admit(&labels, class, age.now_ms) {
                            Ok((found, is_new)) => {
                                self.remember_key(series.key_hash, found);
                                *id = found;
                                if is_new {
                                    decided.new_series += 1;
                                    decided.new_labels.push((found, labels));
                                }
                            }
                            Err(reached) => {
                                let reason = self.active.refuse(reached, rows.rows.max(1));
                                let describe = || (labels.to_string(), reason);
                                decided.refused.add(rows.rows.max(1), describe);
                            }
                        }
                    // Nothing of it is accepted: the head does not hear of the series.
                    } else if let Some(refused) = rows.refused {
                        let describe = || (labels.to_string(), age.reason(lifetime_ms, refused));
                        decided.refused.add(rows.rows, describe);
                    }
                }
                Err(e) => {
                    let lifetime_ms = self.classifier.shortest_raw_ms();
                    let rows = rows_by_lifetime.of(batch, i, age, lifetime_ms);
                    let describe = || ((batch.key_text)(batch.key(series)), e.to_string());
                    decided.refused.add(rows.rows.max(1), describe);
                }
            }
        }
        self.index.settle();
        ids
    }

    fn remember_key(&mut self, hash: u128, id: u32) {
        if self.by_key.len() >= KEYS_A_SERIES_MAX * (self.series_count() + PAGE_SERIES) {
            self.by_key.retain(|_| false);
        }
        self.by_key.insert(hash, id);
    }

    fn decide_samples(
        &mut self,
        batch: &Batch,
        ids: &[u32],
        age: AcceptedAge,
        decided: &mut Decided,
    ) {
        let record = &mut decided.record;
        record.references.reserve(batch.values.len());
        let always_accepted = age.range(self.classifier.shortest_raw_ms());
        let all_fit = batch.timestamps.iter().all(|t| always_accepted.contains(*t));
        if all_fit && !ids.contains(&REFUSED) {
            for (i, id) in ids.iter().enumerate() {
                record.references.extend(rows_of(batch, i).map(|_| *id));
            }
            record.timestamps.extend_from_slice(&batch.timestamps);
            record.values.extend_from_slice(&batch.values);
            return;
        }
        for (i, &id) in ids.iter().enumerate() {
            if id == REFUSED {
                continue;
            }
            let mut refused = 0;
            let mut first_refused = 0;
            let accepted = age.range(self.raw_lifetime_ms(id));
            for row in rows_of(batch, i) {
                if accepted.contains(batch.timestamps[row]) {
                    record.references.push(id);
                    record.timestamps.push(batch.timestamps[row]);
                    record.values.push(batch.values[row]);
                } else {
                    refused += 1;
                    first_refused = batch.timestamps[row];
                }
            }
            if refused > 0 {
                let describe = || self.describe_refused(id, age, first_refused);
                decided.refused.add(refused, describe);
            }
        }
    }

    /// Start timestamps become samples of companions; those of refused samples are left out.
    fn decide_start_timestamps(
        &mut self,
        batch: &Batch,
        ids: &[u32],
        age: AcceptedAge,
        decided: &mut Decided,
    ) {
        for row in &batch.start_timestamps {
            let id = ids[row.series as usize];
            if id == REFUSED || !self.fits(id, age, row.timestamp) {
                continue;
            }
            let companion = self.companion(id);
            decided.record.references.push(companion);
            decided.record.timestamps.push(row.timestamp);
            decided.record.values.push(row.start_timestamp as f64);
            decided.start_timestamps += 1;
        }
    }

    /// The series of a series' start timestamps, which is made if there is none.
    fn companion(&mut self, id: u32) -> u32 {
        if let Some(companion) = self.companions.get(id) {
            return companion;
        }
        let labels = companion::labels_of_companion(&self.index.labels(id));
        let (companion, _) = self.find_or_create(&labels);
        self.companions.insert(id, companion);
        companion
    }

    /// Names the write of `sequence` on every series it touches, and adds to its record the labels
    /// that `segment` has not heard of.
    pub(crate) fn restate(&mut self, decided: &mut Decided, sequence: u64, segment: u64) {
        let mut definitions = Vec::new();
        // Rows mostly come in the order in which their series were made.
        let mut new_labels = std::mem::take(&mut decided.new_labels).into_iter().peekable();
        for id in decided.record.series() {
            let place = &mut self.places[id as usize];
            place.last_sequence = sequence;
            if place.segment != segment {
                place.segment = segment;
                let new = new_labels.next_if(|(new, _)| *new == id);
                definitions.push(new.unwrap_or_else(|| (id, self.index.labels(id))));
            }
        }
        decided.record.definitions = definitions;
    }

    /// Makes a durable write readable. `id_of` turns the record's references into ids; rows for
    /// which it does not are left out, and their number returned.
    pub(crate) fn apply(
        &mut self,
        record: &BatchRecord,
        now_ms: i64,
        id_of: impl Fn(u32) -> Option<u32>,
    ) -> u64 {
        let mut last_minute: Option<i64> = None;
        let mut last_window: Option<i64> = None;
        let mut unknown = 0;
        self.generations.advance();
        let sealed_before = self.sealed_before;
        let mut newest = self.newest.unwrap_or(i64::MIN);
        let mut oldest = self.oldest.unwrap_or(i64::MAX);
        let rows = record.references.iter().zip(&record.timestamps).zip(&record.values);
        for ((reference, &timestamp), &value) in rows {
            let Some(id) = id_of(*reference) else {
                unknown += 1;
                continue;
            };
            let series = &mut self.pages[id as usize / PAGE_SERIES][id as usize % PAGE_SERIES];
            let pushed =
                series.push(timestamp, Value::Float(value), sealed_before, &mut self.columns);
            self.late_samples += u64::from(pushed == Pushed::Late);
            let is_in =
                |start: i64, length: i64| (timestamp.wrapping_sub(start) as u64) < length as u64;
            if !last_minute.is_some_and(|minute| is_in(minute, MINUTE_MS)) {
                last_minute = Some(self.generations.note(timestamp));
                if !last_window.is_some_and(|window| is_in(window, WINDOW_MS)) {
                    let window = window_start_ms(timestamp);
                    self.windows.insert(window, now_ms);
                    last_window = Some(window);
                }
            }
            newest = newest.max(timestamp);
            oldest = oldest.min(timestamp);
        }
        for (reference, timestamp, histogram) in &record.histograms {
            let Some(id) = id_of(*reference) else {
                unknown += 1;
                continue;
            };
            let series = &mut self.pages[id as usize / PAGE_SERIES][id as usize % PAGE_SERIES];
            let value = Value::Histogram(histogram);
            let pushed = series.push(*timestamp, value, sealed_before, &mut self.columns);
            self.late_samples += u64::from(pushed == Pushed::Late);
            self.windows.insert(window_start_ms(*timestamp), now_ms);
            self.generations.note(*timestamp);
            newest = newest.max(*timestamp);
            oldest = oldest.min(*timestamp);
        }
        if newest >= oldest {
            (self.newest, self.oldest) = (Some(newest), Some(oldest));
        }
        self.samples_applied += (record.values.len() + record.histograms.len()) as u64;
        for (reference, exemplar) in &record.exemplars {
            let Some(id) = id_of(*reference) else { continue };
            self.push_exemplar(id, exemplar.clone());
        }
        record.metadata.iter().for_each(|metadata| self.push_metadata(metadata));
        unknown
    }

    pub(crate) fn push_exemplar(&mut self, id: u32, exemplar: Exemplar) {
        let mut recent = self.exemplars.iter().rev().take(64);
        if recent.any(|known| known.id == id && known.exemplar == exemplar) {
            return;
        }
        if self.exemplars.len() >= EXEMPLARS_MAX {
            self.exemplars.pop_front();
        }
        let number = self.next_exemplar;
        self.next_exemplar += 1;
        self.exemplars.push_back(HeadExemplar { number, id, exemplar });
    }

    pub(crate) fn push_metadata(&mut self, metadata: &Metadata) {
        let full = self.metadata.len() >= METADATA_FAMILIES_MAX;
        if full && !self.metadata.contains_key(&metadata.family) {
            return;
        }
        let known = self.metadata.entry(metadata.family.clone()).or_default();
        // The latest word counts; senders of another kind or unit keep theirs beside it.
        known.retain(|other| (other.kind, &other.unit) != (metadata.kind, &metadata.unit));
        known.insert(0, metadata.clone());
        known.truncate(8);
    }

    /// The series with these labels, which is made if there is none: no limit is asked.
    pub(crate) fn find_or_create(&mut self, labels: &Labels) -> (u32, bool) {
        let identity = labels.identity();
        if let Some(id) = self.find(labels, identity) {
            return (id, false);
        }
        let class = self.classifier.class_of(labels);
        let id = self.create(labels, identity, class, 0);
        self.index.settle();
        (id, true)
    }

    /// As [`Self::find_or_create`], unless a limit has no room for one more. The index is to be
    /// settled after this.
    fn find_or_admit(
        &mut self,
        labels: &Labels,
        class: u32,
        now_ms: i64,
    ) -> Result<(u32, bool), LimitReached> {
        let identity = labels.identity();
        if let Some(id) = self.find(labels, identity) {
            return Ok((id, false));
        }
        let marks = self.active.enter(labels, now_ms)?;
        Ok((self.create(labels, identity, class, marks), true))
    }

    fn find(&self, labels: &Labels, identity: SeriesIdentity) -> Option<u32> {
        let is_same = |id: &u32| {
            self.places[*id as usize].identity == identity
                && self.index.has_label_bytes(*id, labels.as_bytes())
        };
        self.by_identity.find(identity as u64, is_same).copied()
    }

    fn create(
        &mut self,
        labels: &Labels,
        identity: SeriesIdentity,
        class: u32,
        marks: Marks,
    ) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            let id = u32::try_from(self.places.len()).expect("fewer than 2^32 series");
            if self.places.len() == self.pages.len() * PAGE_SERIES {
                self.pages.push((0..PAGE_SERIES).map(|_| MemSeries::default()).collect());
            }
            self.places.push(Place::default());
            id
        });
        self.places[id as usize] =
            Place { identity, last_sequence: 0, segment: u64::MAX, marks, class, in_use: true };
        let places = &self.places;
        let hash = |id: &u32| places[*id as usize].identity as u64;
        self.by_identity.insert_unique(identity as u64, id, hash);
        self.index.add_unsettled(id, labels);
        self.series_created += 1;
        id
    }

    /// Counts the series for these limits, and new ones against them.
    pub(crate) fn set_series_limits(&mut self, limits: &[SeriesLimit]) {
        let places = &mut self.places;
        places.iter_mut().for_each(|place| place.marks = 0);
        self.active.replace(limits, &self.index, |id, mark| places[id as usize].marks |= mark);
    }

    pub(crate) fn series_limits(&self, now_ms: i64) -> Vec<LimitStatus> {
        self.active.status(now_ms)
    }

    /// Forgets series that hold nothing and that no write up to now is about to use: those whose
    /// last write has a sequence of at most `applied`. Returns how many went.
    pub(crate) fn drop_idle(&mut self, applied: u64) -> u64 {
        let held: BTreeSet<u32> = self.exemplars.iter().map(|known| known.id).collect();
        let idle: Vec<u32> = self
            .ids()
            .filter(|id| {
                let place = &self.places[*id as usize];
                place.last_sequence <= applied && self.series(*id).is_empty() && !held.contains(id)
            })
            .collect();
        if idle.is_empty() {
            return 0;
        }
        for &id in &idle {
            let identity = self.places[id as usize].identity;
            if let Ok(entry) = self.by_identity.find_entry(identity as u64, |other| *other == id) {
                entry.remove();
            }
            self.index.remove(id);
            self.active.leave(self.places[id as usize].marks);
            *self.series_mut(id) = MemSeries::default();
            self.places[id as usize].in_use = false;
            self.free.push(id);
        }
        let places = &self.places;
        self.by_key.retain(|id| places[id as usize].in_use);
        self.companions.retain(|id| places[id as usize].in_use);
        idle.len() as u64
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let in_use = self.places.iter().enumerate().filter(|(_, place)| place.in_use);
        in_use.map(|(id, _)| id as u32)
    }

    pub(crate) fn identity(&self, id: u32) -> SeriesIdentity {
        self.places[id as usize].identity
    }

    pub(crate) fn series(&self, id: u32) -> &MemSeries {
        &self.pages[id as usize / PAGE_SERIES][id as usize % PAGE_SERIES]
    }

    pub(crate) fn series_mut(&mut self, id: u32) -> &mut MemSeries {
        &mut self.pages[id as usize / PAGE_SERIES][id as usize % PAGE_SERIES]
    }

    pub(crate) fn series_and_columns(
        &mut self,
        id: u32,
    ) -> (&mut MemSeries, &mut TimestampColumns) {
        let series = &mut self.pages[id as usize / PAGE_SERIES][id as usize % PAGE_SERIES];
        (series, &mut self.columns)
    }

    pub(crate) fn is_in_use(&self, id: u32) -> bool {
        self.places.get(id as usize).is_some_and(|place| place.in_use)
    }

    pub(crate) fn series_count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Starts of the windows that hold samples, ascending, with the time of the last write there.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.windows.iter().map(|(start, last_write_ms)| (*start, *last_write_ms))
    }

    /// From now on, samples before `time` are late.
    pub(crate) fn set_sealed_before(&mut self, time: i64) {
        self.sealed_before = self.sealed_before.max(time);
    }

    pub(crate) fn sealed_before(&self) -> i64 {
        self.sealed_before
    }

    /// Takes note that a window's samples went to a block, and the exemplars of these numbers,
    /// ascending. Late ones may have come since.
    pub(crate) fn end_seal(&mut self, window: TimeRange, late_sealed: u64, exemplars: &[u64]) {
        self.windows.remove(&window.start_ms);
        self.late_samples = self.late_samples.saturating_sub(late_sealed);
        self.oldest = self.windows.first_key_value().map(|(start, _)| *start).or(self.newest);
        if self.windows.is_empty() {
            self.oldest = None;
        }
        self.exemplars.retain(|known| exemplars.binary_search(&known.number).is_err());
    }

    pub(crate) fn exemplars(&self) -> impl Iterator<Item = (u32, &Exemplar)> {
        self.exemplars.iter().map(|known| (known.id, &known.exemplar))
    }

    /// Exemplars of a window with the numbers by which [`Head::end_seal`] knows them.
    pub(crate) fn exemplars_of(
        &self,
        window: TimeRange,
    ) -> impl Iterator<Item = (u64, u32, &Exemplar)> {
        let inside = self.exemplars.iter();
        let inside = inside.filter(move |known| window.contains(known.exemplar.timestamp));
        inside.map(|known| (known.number, known.id, &known.exemplar))
    }

    /// Puts a series from a checkpoint in place.
    pub(crate) fn restore_series(&mut self, id: u32, series: MemSeries) {
        for window in series.windows() {
            self.windows.insert(window, i64::MIN);
            self.oldest = Some(self.oldest.map_or(window, |oldest| oldest.min(window)));
        }
        if series.newest() > i64::MIN {
            self.newest = Some(self.newest.map_or(series.newest(), |n| n.max(series.newest())));
        }
        self.late_samples += series.late_count();
        *self.series_mut(id) = series;
    }

    /// Windows whose late samples came while the window was being sealed.
    pub(crate) fn note_late_windows(&mut self) {
        if self.late_samples == 0 {
            return;
        }
        let ids: Vec<u32> = self.ids().filter(|id| self.series(*id).has_late()).collect();
        for id in ids {
            for window in self.series(id).windows() {
                self.windows.entry(window).or_insert(i64::MIN);
            }
        }
    }

    /// Mini-chunks and tails that are not empty.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.ids().map(|id| self.series(id).chunk_count()).sum()
    }

    /// Counts late samples anew.
    pub(crate) fn recount_late(&mut self) {
        self.late_samples = self.ids().map(|id| self.series(id).late_count()).sum();
    }

    pub(crate) fn metadata(&self) -> &BTreeMap<String, Vec<Metadata>> {
        &self.metadata
    }

    /// A series and why a sample of it is not accepted.
    fn describe_refused(&self, id: u32, age: AcceptedAge, timestamp: i64) -> (String, String) {
        let reason = age.reason(self.raw_lifetime_ms(id), timestamp);
        (self.index.labels(id).to_string(), reason)
    }

    fn fits(&self, id: u32, age: AcceptedAge, timestamp: i64) -> bool {
        // What every class accepts needs no look at the series.
        age.range(self.classifier.shortest_raw_ms()).contains(timestamp)
            || age.range(self.raw_lifetime_ms(id)).contains(timestamp)
    }

    fn raw_lifetime_ms(&self, id: u32) -> i64 {
        self.classifier.raw_lifetime_ms(self.class(id))
    }

    /// The class of a series.
    pub(crate) fn class(&self, id: u32) -> u32 {
        self.places[id as usize].class
    }

    pub(crate) fn classifier(&self) -> &Arc<Classifier> {
        &self.classifier
    }

    /// From now on new series have their class by this; [`Head::classify`] those that there are.
    pub(crate) fn set_classifier(&mut self, classifier: Arc<Classifier>) {
        self.classifier = classifier;
    }

    /// Decides the classes of series anew.
    pub(crate) fn classify(&mut self, ids: &[u32]) {
        for &id in ids {
            let class = match self.classifier.only_class() {
                Some(only) => only,
                None if self.is_in_use(id) => self.classifier.class_of(&self.index.labels(id)),
                None => continue,
            };
            self.places[id as usize].class = class;
        }
    }

    /// Approximate, in bytes.
    pub(crate) fn bytes_held(&self) -> usize {
        let series: usize = self.pages.iter().flatten().map(MemSeries::bytes_held).sum();
        series
            + self.columns.bytes_held()
            + self.places.capacity() * size_of::<Place>()
            + self.by_key.bytes_held()
            + self.by_identity.capacity() * 6
            + self.index.heap_bytes()
    }
}

impl Head {
    /// An empty head in which every sample may be in order.
    pub(crate) fn new() -> Head {
        Head { sealed_before: i64::MIN, ..Head::default() }
    }
}

/// The sample rows of a batch's series.
fn rows_of(batch: &Batch, series: usize) -> std::ops::Range<usize> {
    let start = batch.series[series].samples_start as usize;
    let end = batch.series.get(series + 1).map_or(batch.values.len(), |s| s.samples_start as usize);
    start..end
}
