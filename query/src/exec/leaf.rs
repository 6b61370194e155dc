//! Leaves: from the samples of series to rows, or straight into an aggregation.
//!
//! - An **input** hands out series: those of a selection, or the rows of a subquery.
//! - A **morsel** is a run of series, as many as make a few thousand cells. Morsels are computed in
//!   parallel; their rows are taken over one after the other.
//!
//! A series is read, computed on and forgotten before the next, so that an aggregation holds its
//! groups and the rows of few morsels. It adds series in one order, whatever the storage they come
//! from and whatever other series were selected: so a value is a function of the samples in its
//! windows alone, to the last bit, and not of the machine or of the query's start and end.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use icecore_storage::labels::{Labels, METRIC_NAME};
use icecore_storage::metrics::histogram::ResetHint;
use icecore_storage::tiers::Forced;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::engine::QueryError;
use crate::exec::aggregate::{self, Grouping, Groups};
use crate::exec::budget::{Budget, Growing};
use crate::exec::coarse;
use crate::exec::outline::Outline;
use crate::exec::rows::{RowBuffer, Rows, SeriesMeta, for_each_bit, same_labelset};
use crate::exec::select::{self, Emit, Picks};
use crate::exec::series::Series;
use crate::exec::window::{WindowCall, WindowScratch};
use crate::exec::{Session, blocks, extended, label_edit, workers};
use crate::functions::FunctionId;
use crate::histogram::FloatHistogram;
use crate::parser::ast::{Aggregate, Span};
use crate::plan::{Grid, View};
use crate::source::{SelectedSeries, Source};

/// Cells and samples of a morsel, about: a fraction of a millisecond of work, and rows that stay in
/// the cache of a core.
const MORSEL_CELLS: usize = 32 << 10;
/// A morsel's series share what depends on timestamps alone.
const MORSEL_SERIES_MAX: usize = 128;
/// Samples are estimated as if one came so often.
const SAMPLE_EVERY_MS: u64 = 15_000;
/// What a thread needs for each step beside the rows that it makes: the row at hand, bounds of
/// windows, picks, and what is worked out once for equal timestamps.
const SCRATCH_STEP_BYTES: u64 = 72;
/// Below so many series a query stays on its own thread.
const PARALLEL_SERIES_MIN: usize = 256;

/// Series to compute on.
pub(crate) trait Input: Sync {
    fn len(&self) -> usize;

    /// The labels, and whether the name is marked to go.
    fn meta(&self, index: usize) -> (&Labels, bool);

    /// Where rollups are read for want of raw samples.
    fn forced(&self, _index: usize) -> Vec<Forced> {
        Vec::new()
    }

    /// With an outline, chunks of storage may have stand-ins.
    fn read(
        &self,
        index: usize,
        outline: Option<&Outline>,
        into: &mut Series,
    ) -> Result<(), QueryError>;
}

/// The series of a selection.
pub(crate) struct Stored<'a, S: Source> {
    pub(crate) source: &'a S,
    pub(crate) series: &'a SelectedSeries<S::Series>,
    /// Of histograms, only count and sum are needed.
    pub(crate) statistics_only: bool,
}

impl<S: Source> Input for Stored<'_, S> {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn meta(&self, index: usize) -> (&Labels, bool) {
        (&self.series[index].0, false)
    }

    fn forced(&self, index: usize) -> Vec<Forced> {
        self.source.forced(&self.series[index].1)
    }

    fn read(
        &self,
        index: usize,
        outline: Option<&Outline>,
        into: &mut Series,
    ) -> Result<(), QueryError> {
        let series = &self.series[index].1;
        into.left_out.clear();
        let read = match outline {
            Some(outline) => outline.read(self.source, series, into),
            None => self.source.read(series, &mut into.samples),
        };
        read.map_err(|error| QueryError::Internal(error.message))?;
        into.set_stored(self.statistics_only);
        Ok(())
    }
}

/// The rows of a subquery: their points are samples at the times of the inner grid.
pub(crate) struct Inner {
    pub(crate) rows: Rows,
    pub(crate) grid: Grid,
}

impl Input for Inner {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn meta(&self, index: usize) -> (&Labels, bool) {
        let meta = &self.rows.meta[index];
        (&meta.labels, meta.drop_name)
    }

    fn read(
        &self,
        index: usize,
        _outline: Option<&Outline>,
        into: &mut Series,
    ) -> Result<(), QueryError> {
        into.clear();
        let values = self.rows.values(index);
        let mut histograms = self.rows.histograms[index].iter().peekable();
        let push_histogram = |(step, histogram): &(u32, Arc<FloatHistogram>), into: &mut Series| {
            let mut histogram = Arc::clone(histogram);
            // Between the steps of a subquery there may have been resets that nobody saw.
            if matches!(histogram.reset_hint, ResetHint::Reset | ResetHint::NotReset) {
                Arc::make_mut(&mut histogram).reset_hint = ResetHint::Unknown;
            }
            into.push_computed(self.grid.time_ms(*step as usize), histogram);
        };
        for_each_bit(self.rows.valid(index), |step| {
            while let Some(point) = histograms.next_if(|(at, _)| (*at as usize) < step) {
                push_histogram(point, into);
            }
            into.samples.push(self.grid.time_ms(step), values[step]);
        });
        histograms.for_each(|point| push_histogram(point, into));
        if into.samples.len() == self.rows.steps {
            // Rows without gaps have equal timestamps.
            into.samples.timestamps_token = 1;
        }
        Ok(())
    }
}

/// How a series becomes a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaf<'a> {
    Select {
        view: View,
        emit: Emit,
    },
    /// A smoothed instant selector, what it looks at, and where it stands.
    Smoothed {
        view: View,
        reach: View,
        span: Span,
    },
    Window(WindowCall<'a>),
}

impl Leaf<'_> {
    fn steps(&self) -> usize {
        match self {
            Leaf::Select { view, .. } | Leaf::Smoothed { view, .. } => view.times.steps,
            Leaf::Window(call) => call.view.times.steps,
        }
    }

    /// Series that make a morsel.
    fn morsel_series(&self) -> usize {
        let view = match self {
            Leaf::Select { view, .. } | Leaf::Smoothed { reach: view, .. } => view,
            Leaf::Window(call) => &call.view,
        };
        let range_ms = view.times.last_ms().abs_diff(view.times.first_ms);
        let range_ms = range_ms.saturating_add(view.window_ms.unsigned_abs());
        let samples = usize::try_from(range_ms / SAMPLE_EVERY_MS).unwrap_or(usize::MAX);
        let cells = self.steps().saturating_add(samples).max(1);
        (MORSEL_CELLS / cells).clamp(1, MORSEL_SERIES_MAX)
    }

    fn outline(&self) -> Option<Outline> {
        match self {
            Leaf::Window(call) => Outline::of(call),
            Leaf::Select { .. } | Leaf::Smoothed { .. } => None,
        }
    }

    fn drops_name(&self) -> bool {
        match self {
            Leaf::Select { emit, .. } => {
                matches!(emit, Emit::Timestamp | Emit::StartTimestamp)
            }
            Leaf::Smoothed { .. } => false,
            Leaf::Window(call) => !call.keeps_name(),
        }
    }

    /// `rate` and `increase` are meant for counters, and counters have telling names.
    fn expects_counter(&self) -> Option<Span> {
        match self {
            Leaf::Window(WindowCall {
                id: FunctionId::Rate | FunctionId::Increase, span, ..
            }) => Some(*span),
            _ => None,
        }
    }
}

/// Where rows go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sink<'a> {
    Rows,
    /// With the span of the aggregation's operand.
    Aggregate(&'a Aggregate, Span),
}

/// What one morsel, or all morsels so far, have made.
struct Output<'a> {
    /// With their whole labels as long as they wait for `groups`.
    rows: Rows,
    /// Of an aggregation, once its series come in their order.
    groups: Option<(Groups, Grouping)>,
    /// Labels of series that had a result, if two of them may turn out equal.
    labels: Vec<Labels>,
    session: Session<'a>,
    held: u64,
    /// Of `rows` and `groups`.
    memory: Growing<'a>,
}

#[derive(Default)]
struct Scratch {
    series: Series,
    picks: Picks,
    window: WindowScratch,
    row: RowBuffer,
    key: Vec<u8>,
    /// The last name that was found to be no counter's.
    no_counter: String,
}

/// What holds for all series of a run.
struct Run<'a, I> {
    input: &'a I,
    leaf: Leaf<'a>,
    outline: Option<Outline>,
    sink: Sink<'a>,
    /// The input's series in the order in which they are computed.
    order: Vec<u32>,
    /// Names are taken away at once and series may become equal by it.
    check_labels: bool,
}

/// Computes all series of an input.
pub(crate) fn run<I: Input>(
    input: &I,
    leaf: Leaf<'_>,
    sink: Sink<'_>,
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    // The rows of `timestamp()` are merged where they become equal, those of a window never.
    let drops = matches!(leaf, Leaf::Window(_)) && leaf.drops_name() && !session.delayed;
    session.is_of_its_range |= drops && has_typed_series(input);
    let order = match sink {
        Sink::Aggregate(aggregate, _) if aggregate::depends_on_order(aggregate.op) => {
            order_of_addition(input, session.budget)?
        }
        _ => (0..input.len() as u32).collect(),
    };
    // Rows in the making, bounds and picks; and the rows of all series, as if none were empty.
    let steps = leaf.steps() as u64;
    let mut scratch = session.budget.growing();
    scratch.to(steps * SCRATCH_STEP_BYTES * workers::threads() as u64)?;
    if matches!(sink, Sink::Rows) {
        session.budget.expect_bytes((input.len() as u64).saturating_mul(steps * 8) / 2)?;
    }
    let outline = leaf.outline();
    let run = Run { input, leaf, outline, sink, order, check_labels: drops && !same_names(input) };
    let mut total = run.total(session.fork());
    if input.len() < PARALLEL_SERIES_MIN {
        run.morsel(0..input.len(), &mut Scratch::default(), &mut total)?;
    } else {
        let series = leaf.morsel_series();
        let forked: &Session<'_> = session;
        let morsel = |index: usize, scratch: &mut Scratch| {
            let start = index * series;
            let mut output = run.output(forked.fork());
            output.rows.reserve(series);
            run.morsel(start..input.len().min(start + series), scratch, &mut output)?;
            Ok::<_, QueryError>(output)
        };
        let mut key = Vec::new();
        workers::compute(input.len().div_ceil(series), morsel, |output| {
            run.merge(&mut total, output?, &mut key)
        })?;
    }
    run.finish(total, session)
}

fn same_names<I: Input>(input: &I) -> bool {
    let of = |index: usize| label_edit::metadata(input.meta(index).0);
    (1..input.len()).all(|index| of(index).eq(of(0)))
}

/// Whether there are series with a type or a unit among their labels.
fn has_typed_series<I: Input>(input: &I) -> bool {
    let is_typed = |index: usize| {
        label_edit::metadata(input.meta(index).0).any(|(name, _)| name != METRIC_NAME.as_bytes())
    };
    (0..input.len()).any(is_typed)
}

/// An order of the series that their labels decide, and that keeps those of one target together,
/// since they have equal timestamps: by the hash of the target's labels, then by that of all labels.
fn order_of_addition<I: Input>(input: &I, budget: &Budget) -> Result<Vec<u32>, QueryError> {
    let labels = |index: u32| input.meta(index as usize).0;
    // Runs of series of one target, with its hash: neighbours often are of one.
    let mut runs: Vec<(u64, Range<u32>)> = Vec::new();
    let mut pace = budget.pace();
    for index in 0..input.len() as u32 {
        pace.step(16)?;
        let target = hash_of_target(labels(index));
        match runs.last_mut() {
            Some((last, run)) if *last == target => run.end = index + 1,
            _ => runs.push((target, index..index + 1)),
        }
    }
    // Whole numbers are sorted at some ten million a second.
    runs.sort_unstable_by_key(|(target, _)| *target);
    let mut keys: Vec<(u64, u32)> = Vec::with_capacity(input.len());
    for runs in runs.chunk_by(|(a, _), (b, _)| a == b) {
        let of_target = keys.len();
        let indices = runs.iter().flat_map(|(_, run)| run.clone());
        keys.extend(indices.map(|index| (xxh3_64(labels(index).as_bytes()), index)));
        let keys = &mut keys[of_target..];
        keys.sort_unstable_by_key(|(hash, _)| *hash);
        for equal in keys.chunk_by_mut(|(a, _), (b, _)| a == b) {
            equal.sort_unstable_by_key(|(_, index)| labels(*index).as_bytes());
        }
    }
    Ok(keys.into_iter().map(|(_, index)| index).collect())
}

fn hash_of_target(labels: &Labels) -> u64 {
    let mut target = 0;
    for (name, value) in labels.byte_pairs() {
        match name {
            b"instance" => target = xxh3_64_with_seed(value, target),
            // Names ascend.
            b"job" => return xxh3_64_with_seed(value, target),
            _ => {}
        }
    }
    target
}

impl<'a, I: Input> Run<'a, I> {
    /// For the rows of a morsel.
    fn output<'s>(&self, session: Session<'s>) -> Output<'s> {
        let rows = Rows::new(self.leaf.steps());
        let memory = session.budget.growing();
        Output { rows, groups: None, labels: Vec::new(), session, held: 0, memory }
    }

    /// For the result.
    fn total<'s>(&self, session: Session<'s>) -> Output<'s> {
        let name_dropped = self.leaf.drops_name() && !session.delayed;
        let mut total = self.output(session);
        if let Sink::Aggregate(aggregate, span) = self.sink {
            let groups = Groups::new(aggregate.op, self.leaf.steps(), span);
            total.groups = Some((groups, Grouping::new(aggregate, name_dropped)));
        }
        total
    }

    fn morsel(
        &self,
        series: Range<usize>,
        scratch: &mut Scratch,
        output: &mut Output<'_>,
    ) -> Result<(), QueryError> {
        // Every morsel notes for itself, since another's notes may be lost with an error.
        scratch.no_counter.clear();
        for &index in &self.order[series] {
            output.session.budget.check()?;
            self.series(index as usize, scratch, output)?;
        }
        Ok(())
    }

    fn series(
        &self,
        index: usize,
        scratch: &mut Scratch,
        output: &mut Output<'_>,
    ) -> Result<(), QueryError> {
        let (labels, marked) = self.input.meta(index);
        let Scratch { series, picks, window, row, key, no_counter } = scratch;
        self.input.read(index, self.outline.as_ref(), series)?;
        let session = &mut output.session;
        let forced = self.input.forced(index);
        // Which tiers are left depends on all of the range.
        session.is_of_its_range |= series.has_histograms() || !forced.is_empty();
        let metric = match &self.leaf {
            Leaf::Select { .. } => "",
            Leaf::Smoothed { .. } | Leaf::Window(_) => labels.metric_name(),
        };
        match &self.leaf {
            Leaf::Select { view, emit } => {
                let looked_at = select_runs(*view, *emit, &forced, series, picks, row);
                session.sample_count.add(session.counted, looked_at, |step| row.cost_at(step));
            }
            Leaf::Smoothed { view, reach, span } => {
                let live = &mut window.live;
                let coarsest = forced.iter().map(|one| one.resolution_ms).max();
                coarse::note_last_samples("smoothed", coarsest.unwrap_or(0), *span, session);
                extended::smooth(*view, *reach, *span, metric, series, live, row, session)?;
            }
            Leaf::Window(call) => {
                if forced.is_empty() {
                    blocks::evaluate(call, metric, series, window, row, session)?;
                } else {
                    evaluate_runs(call, &forced, metric, series, window, row, session)?;
                }
            }
        }
        if row.is_empty() {
            return Ok(());
        }
        let cost = row.cost();
        session.budget.hold(cost)?;
        output.held += cost;
        if let Some(span) = self.leaf.expects_counter().filter(|_| row.has_floats()) {
            note_counter(labels, metric, no_counter, span, session);
        }
        let drops = self.leaf.drops_name();
        let drop_name = marked || drops && session.delayed;
        if self.check_labels {
            output.labels.push(label_edit::without_name(labels));
        }
        let meta = SeriesMeta { labels: labels.clone(), drop_name };
        if let Some((groups, grouping)) = &mut output.groups {
            let points = (&row.values[..], &row.valid[..], &row.histograms);
            groups.add_series(grouping, &meta, key, points, &mut session.annotations);
            return output.memory.to(groups.bytes());
        }
        output.memory.by(row.bytes() + labels.as_bytes().len() as u64)?;
        // An aggregation sees to the names itself.
        let goes = matches!(self.sink, Sink::Rows) && drops && !session.delayed;
        let labels = if goes { label_edit::without_name(labels) } else { meta.labels };
        output.rows.push(SeriesMeta { labels, drop_name }, row);
        Ok(())
    }

    /// Takes over what the next morsel has made.
    fn merge<'s>(
        &self,
        total: &mut Output<'s>,
        morsel: Output<'s>,
        key: &mut Vec<u8>,
    ) -> Result<(), QueryError> {
        total.session.annotations.merge(morsel.session.annotations);
        total.session.is_of_its_range |= morsel.session.is_of_its_range;
        total.labels.extend(morsel.labels);
        total.held += morsel.held;
        let Some((groups, grouping)) = &mut total.groups else {
            total.memory.take_over(morsel.memory);
            total.rows.append(morsel.rows);
            return Ok(());
        };
        let rows = &morsel.rows;
        for (row, meta) in rows.meta.iter().enumerate() {
            let points = (rows.values(row), rows.valid(row), &rows.histograms[row]);
            groups.add_series(grouping, meta, key, points, &mut total.session.annotations);
        }
        total.memory.to(groups.bytes())
    }

    fn finish(&self, total: Output<'_>, session: &mut Session<'_>) -> Result<Rows, QueryError> {
        session.annotations.merge(total.session.annotations);
        session.is_of_its_range |= total.session.is_of_its_range;
        session.budget.release(total.held);
        if self.check_labels {
            let mut known = HashSet::with_capacity(total.labels.len());
            let mut pace = session.budget.pace();
            let mut labels = total.labels.iter();
            if !labels.all(|labels| !pace.goes_on(16) || known.insert(labels.as_bytes())) {
                return Err(same_labelset());
            }
        }
        Ok(match total.groups {
            Some((groups, _)) => groups.finish(&mut session.annotations, session.budget),
            None => total.rows,
        })
    }
}

/// [`select::select`], looking further back where there are rollups alone.
fn select_runs(
    view: View,
    emit: Emit,
    forced: &[Forced],
    series: &mut Series,
    picks: &mut Picks,
    row: &mut RowBuffer,
) -> u64 {
    if forced.is_empty() {
        return select::select(view, emit, series, picks, row);
    }
    row.reset(view.times.steps);
    let (mut part, mut looked_at) = (RowBuffer::default(), 0);
    for run in coarse::runs(view, forced) {
        looked_at += select::select(run.look_back(view), emit, series, picks, &mut part);
        row.put(run.start, &mut part);
    }
    looked_at
}

/// [`blocks::evaluate`], where some steps have rollups alone.
fn evaluate_runs(
    call: &WindowCall<'_>,
    forced: &[Forced],
    metric: &str,
    series: &mut Series,
    scratch: &mut WindowScratch,
    row: &mut RowBuffer,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    let mut part = RowBuffer::default();
    row.reset(call.view.times.steps);
    for run in coarse::runs(call.view, forced) {
        let parameters = blocks::parameters(call, run.start, run.steps);
        let of_run = blocks::part(call, run.start, run.steps, &parameters);
        let wide = run.widen(of_run, session);
        blocks::evaluate(&wide, metric, series, scratch, &mut part, session)?;
        run.put(call, &wide, &mut part, row);
    }
    Ok(())
}

fn note_counter(
    labels: &Labels,
    name: &str,
    last: &mut String,
    span: Span,
    session: &mut Session<'_>,
) {
    if session.type_and_unit_labels {
        let label = labels.get("__type__").unwrap_or("");
        if !name.is_empty() && !matches!(label, "counter" | "histogram") {
            session.annotations.possible_non_counter_type(name, label, span);
        }
        return;
    }
    let suffixes = ["_total", "_sum", "_count", "_bucket"];
    if name.is_empty() || name == last || suffixes.iter().any(|suffix| name.ends_with(suffix)) {
        return;
    }
    name.clone_into(last);
    session.annotations.possible_non_counter(name, span);
}
