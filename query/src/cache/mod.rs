//! The result cache: range queries that come again, a little later or a little to the side.
//!
//! - A **key** is a query as it is printed, its step, where its steps lie, its lookback, and how
//!   coarse the rollups may be that it reads.
//! - An **extent** is a key's result over neighbouring steps (`extent.rs`).
//! - A **generation** is the source's count of changes ([`Source::generation`]).
//!
//! The rule: an answer is what evaluating all of its steps at one moment after the query came would
//! have given, to the last bit. An extent carries a generation that was asked for before its samples
//! were selected; it holds for the steps that depend on no later change (`dependence.rs`), which is
//! asked before anything is computed, and once more after: then what is cached and what is fresh
//! are of one moment. Whatever does not fit, be it an error or an annotation that cannot be placed,
//! is evaluated whole.

mod dependence;
mod extent;
mod splice;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use icecore_storage::time::TimeRange;

use crate::annotations::Annotations;
use crate::engine::{
    Answer, AnswerMemory, Engine, Evaluated, QueryError, QueryOptions, QueryStats,
};
use crate::memory::Reservation;
use crate::parser::ast::Expr;
use crate::source::Source;
use crate::value::{MatrixSeries, Value};

use dependence::Dependence;
use extent::{Extent, Part, Steps};
use splice::{Piece, splice};

/// Extents of one key: time ranges that are looked at in turn.
const EXTENTS_MAX: usize = 4;

/// An extent may take this part of the cache.
const EXTENT_SHARE: usize = 4;

/// Results of range queries on one source and one engine.
#[derive(Debug)]
pub struct ResultCache {
    capacity: usize,
    entries: Mutex<Entries>,
    counts: Counts,
}

/// What a cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Queries by how much of them came from the cache: all, some, nothing.
    pub hits: u64,
    pub partial_hits: u64,
    pub misses: u64,
    /// Queries that cannot be put together from parts.
    pub uncacheable: u64,
    /// Queries that were evaluated whole after all.
    pub fallbacks: u64,
    /// Steps of answers that were not computed.
    pub steps_saved: u64,
    pub evictions: u64,
    pub entries: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    partial_hits: AtomicU64,
    misses: AtomicU64,
    uncacheable: AtomicU64,
    fallbacks: AtomicU64,
    steps_saved: AtomicU64,
    evictions: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    text: Arc<str>,
    steps: Steps,
    lookback_ms: i64,
    resolution_max_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Keys by when they were last used.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    extents: Vec<Arc<Extent>>,
    used: u64,
}

impl Entry {
    fn bytes(&self, key: &Key) -> usize {
        let extents: usize = self.extents.iter().map(|extent| extent.bytes).sum();
        size_of::<(Key, Entry)>() + key.text.len() + extents
    }
}

/// One query, while it is answered.
struct Request<'a, S> {
    engine: &'a Engine,
    source: &'a S,
    text: &'a str,
    expr: &'a Expr,
    options: &'a QueryOptions,
    steps: Steps,
    wanted: Range<i64>,
    dependence: Dependence,
}

/// Pieces that could not be put together.
enum Failed {
    /// The whole evaluation decides.
    Whole,
    Query(QueryError),
}

impl ResultCache {
    /// A cache of at most so many bytes; 0 keeps nothing.
    pub fn new(capacity: usize) -> ResultCache {
        ResultCache { capacity, entries: Mutex::default(), counts: Counts::default() }
    }

    /// As [`Engine::range`]. All calls must be on one engine and one source.
    #[expect(clippy::too_many_arguments, reason = "those of `Engine::range`, and the engine")]
    pub fn range<S: Source>(
        &self,
        engine: &Engine,
        source: &S,
        text: &str,
        expr: &Expr,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        options: &QueryOptions,
    ) -> Result<Answer, QueryError> {
        let whole = || engine.range(source, text, expr, start_ms, end_ms, step_ms, options);
        if self.capacity == 0 || step_ms <= 0 || end_ms < start_ms {
            return whole();
        }
        let steps = Steps::new(start_ms, step_ms);
        let wanted = steps.at_or_before(start_ms)..steps.at_or_before(end_ms).saturating_add(1);
        let plan = engine.plan(expr, (start_ms, end_ms, step_ms), options)?;
        // Marks that are taken from names at the end are those of all steps together.
        let options_fit = !engine.options.delayed_name_removal
            && !engine.options.use_start_timestamps
            && !engine.counts_steps(options);
        let is_plain = options_fit && wanted.end - wanted.start > 1;
        let dependence = Dependence::of(&plan).filter(|_| is_plain);
        // Before anything is selected: what changes from now on is known to be newer.
        let (Some(dependence), Some(generation)) = (dependence, source.generation()) else {
            count(&self.counts.uncacheable, 1);
            return whole();
        };
        let lookback_ms = engine.lookback_ms(options);
        let text_of_key = expr.to_string().into();
        let resolution_max_ms = options.resolution_max_ms;
        let key = Key { text: text_of_key, steps, lookback_ms, resolution_max_ms };
        let request = Request { engine, source, text, expr, options, steps, wanted, dependence };
        let known = self.known(&key, text);
        match self.answer(&request, &key, &known, generation) {
            Ok(answer) => Ok(answer),
            Err(Failed::Query(error)) => Err(error),
            Err(Failed::Whole) => {
                count(&self.counts.fallbacks, 1);
                let generation = source.generation().unwrap_or(generation);
                match self.answer(&request, &key, &[], generation) {
                    Ok(answer) => Ok(answer),
                    Err(Failed::Query(error)) => Err(error),
                    Err(Failed::Whole) => whole(),
                }
            }
        }
    }

    pub fn stats(&self) -> CacheStats {
        let entries = self.entries();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { hits, partial_hits, misses, uncacheable, fallbacks, steps_saved, evictions } =
            &self.counts;
        CacheStats {
            hits: read(hits),
            partial_hits: read(partial_hits),
            misses: read(misses),
            uncacheable: read(uncacheable),
            fallbacks: read(fallbacks),
            steps_saved: read(steps_saved),
            evictions: read(evictions),
            entries: entries.by_key.len() as u64,
            bytes: entries.bytes as u64,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The extents of a key; where they have annotations, only those of the same text, since other
    /// texts have other positions.
    fn known(&self, key: &Key, text: &str) -> Vec<Arc<Extent>> {
        let mut entries = self.entries();
        let mut known = entries.touch(key).map_or(Vec::new(), |entry| entry.extents.clone());
        known.retain(|extent| extent.annotations.is_empty() || &*extent.text == text);
        known
    }

    fn answer<S: Source>(
        &self,
        request: &Request<'_, S>,
        key: &Key,
        known: &[Arc<Extent>],
        generation: u64,
    ) -> Result<Answer, Failed> {
        let wanted = &request.wanted;
        let valid: Vec<(usize, Range<i64>)> = known
            .iter()
            .enumerate()
            .flat_map(|(at, extent)| {
                let steps = intersection(&extent.steps, wanted);
                let parts = request.unchanged(steps, extent.generation);
                parts.into_iter().map(move |steps| (at, steps))
            })
            .collect();
        // Annotations of steps that are left out must turn up elsewhere, or they are not known to
        // be of the others.
        let is_cut = |at: usize| {
            let used = valid.iter().filter(|(of, _)| *of == at);
            let used: i64 = used.map(|(_, steps)| steps.end - steps.start).sum();
            used > 0 && used < known[at].steps.end - known[at].steps.start
        };
        let needs_proof =
            (0..known.len()).any(|at| !known[at].annotations.is_empty() && is_cut(at));
        let pieces = splice(wanted, &valid, needs_proof);
        let mut fresh = request.evaluate(&pieces)?;
        request.check(&pieces, known, generation)?;
        let (annotations, is_uniform) = annotations_of(&pieces, known, &fresh)?;
        let series = match &mut fresh[..] {
            [all] if pieces.len() == 1 => std::mem::take(&mut all.series),
            _ => joined(&pieces, known, &fresh, request.steps),
        };
        self.count(&pieces);
        let is_new = !fresh.is_empty();
        if is_new && fresh.iter().all(|one| !one.is_of_its_range) {
            let about = (generation, Arc::from(request.text), annotations.clone());
            self.keep(request, key, known, &series, about, is_uniform);
        }
        let (warnings, infos) = annotations.render(request.text);
        let stats = fresh.iter().fold(QueryStats::default(), |sum, one| QueryStats {
            total_queryable_samples: sum.total_queryable_samples
                + one.stats.total_queryable_samples,
            samples_per_step: Vec::new(),
            peak_samples: sum.peak_samples.max(one.stats.peak_samples),
            series_fetched: sum.series_fetched.max(one.stats.series_fetched),
        });
        let value = Value::Matrix(series);
        let reservation = request.engine.reserve(&value).map_err(Failed::Query)?;
        Ok(Answer { value, warnings, infos, stats, memory: AnswerMemory::new(reservation) })
    }

    fn count(&self, pieces: &[Piece]) {
        let length = |steps: &Range<i64>| (steps.end - steps.start) as u64;
        let saved: u64 = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Cached(_, steps) => length(steps),
                Piece::Fresh(_) => 0,
            })
            .sum();
        let all: u64 = pieces.iter().map(|piece| length(piece.steps())).sum();
        let kind = match saved {
            0 => &self.counts.misses,
            _ if saved == all => &self.counts.hits,
            _ => &self.counts.partial_hits,
        };
        count(kind, 1);
        count(&self.counts.steps_saved, saved);
    }

    /// Stores the result of `request`, with what the extents beside it still know.
    fn keep<S: Source>(
        &self,
        request: &Request<'_, S>,
        key: &Key,
        known: &[Arc<Extent>],
        series: &[MatrixSeries],
        about: (u64, Arc<str>, Annotations),
        is_uniform: bool,
    ) {
        let wanted = &request.wanted;
        let length = wanted.end - wanted.start;
        let (mut before, mut after) = (None, None);
        for extent in known.iter().filter(|_| is_uniform) {
            let Range { start, end } = extent.steps;
            if start < wanted.start && end >= wanted.start {
                before = request.part(extent, start.max(wanted.start - length)..wanted.start);
            }
            if end > wanted.end && start <= wanted.end {
                after = request.part(extent, wanted.end..end.min(wanted.end + length));
            }
        }
        let parts: Vec<Part<'_>> =
            before.into_iter().chain([Part::Fresh(series)]).chain(after).collect();
        let side = |part: Option<Part<'_>>| match part {
            Some(Part::Cached(_, steps)) => Some(steps),
            _ => None,
        };
        let start = side(before).map_or(wanted.start, |(start, _)| start);
        let end = side(after).map_or(wanted.end, |(_, end)| end);
        let bytes_max = self.capacity / EXTENT_SHARE;
        if let Some(extent) = Extent::new(&parts, start..end, request.steps, about, bytes_max) {
            let evicted = self.entries().insert(key, Arc::new(extent), self.capacity);
            count(&self.counts.evictions, evicted);
        }
    }
}

/// The matrix that the pieces make up.
fn joined(
    pieces: &[Piece],
    known: &[Arc<Extent>],
    fresh: &[Fresh],
    steps: Steps,
) -> Vec<MatrixSeries> {
    let mut computed = fresh.iter();
    let part = |piece: &Piece| match piece {
        Piece::Cached(at, steps) => Part::Cached(&known[*at], (steps.start, steps.end)),
        Piece::Fresh(_) => Part::Fresh(computed.next().map_or(&[], |one| &one.series)),
    };
    // Each in its turn, since what was computed comes in the order of its pieces.
    let parts: Vec<Part<'_>> = pieces.iter().map(part).collect();
    extent::matrix(&parts, steps)
}

/// The annotations of a query from those of its pieces, and whether every part of the extents that
/// were used, and what lies beside it in them, has none besides.
fn annotations_of(
    pieces: &[Piece],
    known: &[Arc<Extent>],
    fresh: &[Fresh],
) -> Result<(Annotations, bool), Failed> {
    let used = |at: usize| -> i64 {
        let steps = pieces.iter().map(|piece| match piece {
            Piece::Cached(of, steps) if *of == at => steps.end - steps.start,
            _ => 0,
        });
        steps.sum()
    };
    let is_all_used = |at: usize| used(at) == known[at].steps.end - known[at].steps.start;
    let mut sure = Annotations::default();
    fresh.iter().for_each(|one| sure.merge(one.annotations.clone()));
    let whole = (0..known.len()).filter(|at| is_all_used(*at));
    whole.for_each(|at| sure.merge(known[at].annotations.clone()));
    let is_covered = |at: usize| {
        let annotations = &known[at].annotations;
        annotations.is_empty() || sure.contains(annotations)
    };
    let cut = |at: &usize| used(*at) > 0 && !is_all_used(*at);
    if !(0..known.len()).filter(cut).all(is_covered) {
        return Err(Failed::Whole);
    }
    let is_uniform = (0..known.len()).all(is_covered);
    Ok((sure, is_uniform))
}

/// What was computed for some steps.
struct Fresh {
    series: Vec<MatrixSeries>,
    annotations: Annotations,
    is_of_its_range: bool,
    stats: QueryStats,
    _memory: Reservation,
}

impl<S: Source> Request<'_, S> {
    fn instants(&self, steps: &Range<i64>) -> TimeRange {
        let last = steps.end.saturating_sub(1);
        TimeRange::new(self.steps.time_ms(steps.start), self.steps.time_ms(last))
    }

    /// Those of `steps` that depend on no change after `generation`.
    fn unchanged(&self, steps: Range<i64>, generation: u64) -> Vec<Range<i64>> {
        if steps.is_empty() {
            return Vec::new();
        }
        let changes = |range: TimeRange| self.source.changes_since(generation, range);
        let mut changed = self.dependence.changed_instants(self.instants(&steps), changes);
        changed.sort_unstable_by_key(|range| range.start_ms);
        let mut unchanged = Vec::new();
        let mut next = steps.start;
        for range in changed {
            let first = self.steps.at_or_before(range.start_ms.saturating_sub(1)).saturating_add(1);
            if first > next {
                unchanged.push(next..first.min(steps.end));
            }
            next = next.max(self.steps.at_or_before(range.end_ms).saturating_add(1));
        }
        if next < steps.end {
            unchanged.push(next..steps.end);
        }
        unchanged
    }

    /// Some steps of an extent, if none of them has changed.
    fn part<'e>(&self, extent: &'e Extent, steps: Range<i64>) -> Option<Part<'e>> {
        let is_whole = self.unchanged(steps.clone(), extent.generation) == [steps.clone()];
        is_whole.then_some(Part::Cached(extent, (steps.start, steps.end)))
    }

    /// Evaluates what is fresh, the oldest first.
    fn evaluate(&self, pieces: &[Piece]) -> Result<Vec<Fresh>, Failed> {
        let is_spliced = pieces.len() > 1;
        let mut fresh = Vec::new();
        for piece in pieces {
            let Piece::Fresh(steps) = piece else { continue };
            let TimeRange { start_ms, end_ms } = self.instants(steps);
            let times = (start_ms, end_ms, self.steps.step_ms);
            let evaluated = self
                .engine
                .plan(self.expr, times, self.options)
                .and_then(|plan| self.engine.run(self.source, &plan, self.options));
            let evaluated = evaluated.map_err(|error| match error {
                QueryError::Timeout(_) | QueryError::Canceled(_) => Failed::Query(error),
                // Of two errors the one of the earlier node is reported, whatever its step.
                _ if is_spliced => Failed::Whole,
                _ => Failed::Query(error),
            })?;
            let Evaluated { value, annotations, is_of_its_range, stats, reservation } = evaluated;
            let Value::Matrix(series) = value else { return Err(Failed::Whole) };
            if is_of_its_range && is_spliced {
                return Err(Failed::Whole);
            }
            fresh.push(Fresh { series, annotations, is_of_its_range, stats, _memory: reservation });
        }
        Ok(fresh)
    }

    /// That all pieces are of the moment of the last that was computed: nothing of the others has
    /// changed up to now.
    fn check(
        &self,
        pieces: &[Piece],
        known: &[Arc<Extent>],
        generation: u64,
    ) -> Result<(), Failed> {
        let last = pieces.iter().rposition(|piece| matches!(piece, Piece::Fresh(_)));
        for (at, piece) in pieces.iter().enumerate() {
            let since = match piece {
                _ if last.is_none() || last == Some(at) => continue,
                Piece::Cached(of, _) => known[*of].generation,
                Piece::Fresh(_) => generation,
            };
            if self.unchanged(piece.steps().clone(), since) != [piece.steps().clone()] {
                return Err(Failed::Whole);
            }
        }
        Ok(())
    }
}

fn intersection(a: &Range<i64>, b: &Range<i64>) -> Range<i64> {
    a.start.max(b.start)..a.end.min(b.end)
}

impl Entries {
    /// The entry of a key, which is used now.
    fn touch(&mut self, key: &Key) -> Option<&mut Entry> {
        let entry = self.by_key.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.by_use.insert(self.uses, key);
        }
        entry.used = self.uses;
        Some(entry)
    }

    /// Stores an extent in place of those it overlaps; how many entries had to go for it.
    fn insert(&mut self, key: &Key, extent: Arc<Extent>, capacity: usize) -> u64 {
        match self.touch(key) {
            None => {
                self.uses += 1;
                self.by_use.insert(self.uses, key.clone());
                let entry = Entry { extents: vec![extent], used: self.uses };
                self.bytes += entry.bytes(key);
                self.by_key.insert(key.clone(), entry);
            }
            Some(entry) => {
                let before = entry.bytes(key);
                let is_apart =
                    |other: &Arc<Extent>| intersection(&other.steps, &extent.steps).is_empty();
                entry.extents.retain(is_apart);
                if entry.extents.len() >= EXTENTS_MAX {
                    entry.extents.remove(0);
                }
                entry.extents.push(extent);
                let after = entry.bytes(key);
                self.bytes = self.bytes - before + after;
            }
        }
        let mut evicted = 0;
        while self.bytes > capacity
            && let Some((_, key)) = self.by_use.pop_first()
        {
            if let Some(entry) = self.by_key.remove(&key) {
                self.bytes -= entry.bytes(&key);
                evicted += 1;
            }
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key { text: text.into(), steps: Steps::new(0, 10), lookback_ms: 0, resolution_max_ms: None }
    }

    fn extent(steps: Range<i64>, bytes: usize) -> Arc<Extent> {
        let about = (1, Arc::from(""), Annotations::default());
        let mut extent =
            Extent::new(&[], steps, Steps::new(0, 10), about, usize::MAX).expect("it has no bound");
        extent.bytes = bytes;
        Arc::new(extent)
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut entries = Entries::default();
        let capacity = 4000;
        for text in ["a", "b", "c"] {
            assert_eq!(entries.insert(&key(text), extent(0..1, 1000), capacity), 0);
        }
        assert!(entries.touch(&key("a")).is_some());
        assert_eq!(entries.insert(&key("d"), extent(0..1, 1000), capacity), 1);
        assert!(entries.touch(&key("b")).is_none() && entries.touch(&key("a")).is_some());
        assert_eq!(entries.by_key.len(), entries.by_use.len());
        assert_eq!(entries.insert(&key("e"), extent(0..1, capacity + 1), capacity), 4);
        assert_eq!((entries.by_key.len(), entries.bytes), (0, 0));
    }

    #[test]
    fn extents_of_a_key_are_apart_and_few() {
        let mut entries = Entries::default();
        let steps = |entries: &mut Entries| -> Vec<Range<i64>> {
            let entry = entries.touch(&key("a")).unwrap();
            entry.extents.iter().map(|extent| extent.steps.clone()).collect()
        };
        for range in [0..10, 20..30, 5..15, 40..50] {
            entries.insert(&key("a"), extent(range, 100), usize::MAX);
        }
        assert_eq!(steps(&mut entries), [20..30, 5..15, 40..50]);
        for start in 10..20 {
            entries.insert(&key("a"), extent(start * 10..start * 10 + 5, 100), usize::MAX);
        }
        assert_eq!(steps(&mut entries).len(), EXTENTS_MAX);
        let expected = entries.by_key[&key("a")].bytes(&key("a"));
        assert_eq!(entries.bytes, expected);
    }
}
