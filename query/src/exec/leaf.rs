//! Leaves: from the samples of series to rows, or straight into an aggregation.
//!
//! - An **input** hands out series: those of a selection, or the rows of a subquery.
//! - A **morsel** is a fixed run of neighbouring series. Morsels are computed in parallel and merged
//!   in order, so that a result is a function of the data and not of the machine.
//!
//! A series is read, computed on and forgotten before the next, so that an aggregation holds its
//! groups and nothing else.

use std::collections::HashSet;
use std::sync::Arc;

use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Histogram, ResetHint};
use icecore_storage::metrics::sample::Samples;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::engine::QueryError;
use crate::exec::aggregate::{Grouping, Groups};
use crate::exec::rows::{
    HistogramPoints, RowBuffer, Rows, SeriesMeta, for_each_bit, same_labelset,
};
use crate::exec::select::{self, Emit, Picks};
use crate::exec::window::{self, WindowCall, WindowScratch};
use crate::exec::{Session, extended, histograms_unsupported, label_edit};
use crate::functions::FunctionId;
use crate::parser::ast::{Aggregate, AggregateOp, Span};
use crate::plan::{Grid, View};
use crate::source::{SelectedSeries, Source};

/// Series of a morsel.
const MORSEL_SERIES: usize = 128;
/// Below so many series a query stays on its own thread.
const PARALLEL_SERIES_MIN: usize = 256;
/// Morsels in flight for each thread; bounds the groups that wait to be merged.
const MORSELS_PER_THREAD: usize = 4;

/// Series to compute on.
pub(crate) trait Input: Sync {
    fn len(&self) -> usize;

    /// The labels, and whether the name is marked to go.
    fn meta(&self, index: usize) -> (&Labels, bool);

    fn read(&self, index: usize, into: &mut Samples) -> Result<(), QueryError>;
}

/// The series of a selection.
pub(crate) struct Stored<'a, S: Source> {
    pub(crate) source: &'a S,
    pub(crate) series: &'a SelectedSeries<S::Series>,
}

impl<S: Source> Input for Stored<'_, S> {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn meta(&self, index: usize) -> (&Labels, bool) {
        (&self.series[index].0, false)
    }

    fn read(&self, index: usize, into: &mut Samples) -> Result<(), QueryError> {
        let read = self.source.read(&self.series[index].1, into);
        read.map_err(|error| QueryError::Internal(error.message))
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

    fn read(&self, index: usize, into: &mut Samples) -> Result<(), QueryError> {
        into.clear();
        let values = self.rows.values(index);
        let mut histograms = self.rows.histograms[index].iter().peekable();
        let push_histogram = |(step, histogram): &(u32, Arc<Histogram>), into: &mut Samples| {
            let mut histogram = Histogram::clone(histogram);
            // Between the steps of a subquery there may have been resets that nobody saw.
            if histogram.reset_hint != ResetHint::Gauge {
                histogram.reset_hint = ResetHint::Unknown;
            }
            into.push_histogram(self.grid.time_ms(*step as usize), histogram);
        };
        for_each_bit(self.rows.valid(index), |step| {
            while let Some(point) = histograms.next_if(|(at, _)| (*at as usize) < step) {
                push_histogram(point, into);
            }
            into.push(self.grid.time_ms(step), values[step]);
        });
        histograms.for_each(|point| push_histogram(point, into));
        if into.len() == self.rows.steps {
            // Rows without gaps have equal timestamps.
            into.timestamps_token = 1;
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

    fn drops_name(&self) -> bool {
        match self {
            Leaf::Select { emit, .. } => *emit != Emit::Value,
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
    rows: Rows,
    groups: Option<(Groups, Grouping)>,
    /// Labels of series that had a result, if two of them may turn out equal.
    labels: Vec<Labels>,
    session: Session<'a>,
    held: u64,
    cells: u64,
}

#[derive(Default)]
struct Scratch {
    samples: Samples,
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
    sink: Sink<'a>,
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
    let run = Run { input, leaf, sink, check_labels: drops && !same_names(input) };
    let morsels = input.len().div_ceil(MORSEL_SERIES);
    let mut total = run.output(session.fork());
    if input.len() < PARALLEL_SERIES_MIN {
        let mut scratch = Scratch::default();
        for morsel in 0..morsels {
            let output = run.morsel(morsel, &mut scratch, session.fork())?;
            total.merge(output);
        }
    } else {
        let wave = rayon::current_num_threads() * MORSELS_PER_THREAD;
        for start in (0..morsels).step_by(wave) {
            let forked: &Session<'_> = session;
            let outputs: Vec<Result<Output<'_>, QueryError>> = (start..morsels.min(start + wave))
                .into_par_iter()
                .map_init(Scratch::default, |scratch, morsel| {
                    run.morsel(morsel, scratch, forked.fork())
                })
                .collect();
            for output in outputs {
                total.merge(output?);
            }
        }
    }
    run.finish(total, session)
}

fn same_names<I: Input>(input: &I) -> bool {
    let of = |index: usize| label_edit::metadata(input.meta(index).0);
    (1..input.len()).all(|index| of(index).eq(of(0)))
}

impl<'a, I: Input> Run<'a, I> {
    fn output<'s>(&self, session: Session<'s>) -> Output<'s> {
        let steps = self.leaf.steps();
        let groups = match self.sink {
            Sink::Rows => None,
            Sink::Aggregate(aggregate, _) => {
                let name_dropped = self.leaf.drops_name() && !session.delayed;
                let grouping = Grouping::new(aggregate, name_dropped);
                Some((Groups::new(aggregate.op, steps), grouping))
            }
        };
        Output { rows: Rows::new(steps), groups, labels: Vec::new(), session, held: 0, cells: 0 }
    }

    fn morsel<'s>(
        &self,
        morsel: usize,
        scratch: &mut Scratch,
        session: Session<'s>,
    ) -> Result<Output<'s>, QueryError> {
        let mut output = self.output(session);
        // Every morsel notes for itself, since another's notes may be lost with an error.
        scratch.no_counter.clear();
        let start = morsel * MORSEL_SERIES;
        for index in start..self.input.len().min(start + MORSEL_SERIES) {
            output.session.budget.check()?;
            self.series(index, scratch, &mut output)?;
        }
        Ok(output)
    }

    fn series(
        &self,
        index: usize,
        scratch: &mut Scratch,
        output: &mut Output<'_>,
    ) -> Result<(), QueryError> {
        let (labels, marked) = self.input.meta(index);
        let Scratch { samples, picks, window, row, key, no_counter } = scratch;
        self.input.read(index, samples)?;
        let session = &mut output.session;
        match &self.leaf {
            Leaf::Select { view, emit } => {
                let looked_at = select::select(*view, *emit, samples, picks, row);
                session.budget.looked_at(looked_at);
            }
            Leaf::Smoothed { view, reach, span } => {
                let (metric, scratch) = (labels.metric_name(), &mut window.extended);
                extended::smooth(*view, *reach, *span, metric, samples, scratch, row, session)?;
            }
            Leaf::Window(call) => {
                let metric = labels.metric_name();
                window::evaluate(call, metric, samples, window, row, session)?;
            }
        }
        if row.is_empty() {
            return Ok(());
        }
        let points = row.points();
        session.budget.hold(points)?;
        output.held += points;
        if let Some(span) = self.leaf.expects_counter()
            && row.valid.iter().any(|word| *word != 0)
        {
            note_counter(labels, no_counter, span, session);
        }
        let drops = self.leaf.drops_name();
        let drop_name = marked || drops && session.delayed;
        if self.check_labels {
            output.labels.push(label_edit::without_name(labels));
        }
        match (&mut output.groups, self.sink) {
            (Some((groups, grouping)), Sink::Aggregate(aggregate, span)) => {
                note_histograms(aggregate.op, &row.histograms, span, session)?;
                let meta = SeriesMeta { labels: labels.clone(), drop_name };
                grouping.write_key(&meta, key);
                let group = groups.group(key);
                groups.ordinals.drop_name[group] |= drop_name;
                groups.add(group, &row.values, &row.valid, &row.histograms);
            }
            _ => {
                let cells = row.values.len() as u64;
                session.budget.hold_cells(cells)?;
                output.cells += cells;
                let labels = if drops && !session.delayed {
                    label_edit::without_name(labels)
                } else {
                    labels.clone()
                };
                output.rows.push(SeriesMeta { labels, drop_name }, row);
            }
        }
        Ok(())
    }

    fn finish(&self, total: Output<'_>, session: &mut Session<'_>) -> Result<Rows, QueryError> {
        session.annotations.merge(total.session.annotations);
        session.budget.release(total.held);
        session.budget.release_cells(total.cells);
        if self.check_labels {
            let mut known = HashSet::with_capacity(total.labels.len());
            if !total.labels.iter().all(|labels| known.insert(labels.as_bytes())) {
                return Err(same_labelset());
            }
        }
        Ok(match total.groups {
            Some((groups, _)) => groups.finish(),
            None => total.rows,
        })
    }
}

impl Output<'_> {
    fn merge(&mut self, later: Output<'_>) {
        self.session.annotations.merge(later.session.annotations);
        self.labels.extend(later.labels);
        self.held += later.held;
        self.cells += later.cells;
        match (&mut self.groups, later.groups) {
            (Some((groups, _)), Some((later, _))) => groups.merge(later),
            _ => self.rows.append(later.rows),
        }
    }
}

fn note_counter(labels: &Labels, last: &mut String, span: Span, session: &mut Session<'_>) {
    let name = labels.metric_name();
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

/// Histograms in an aggregation: counted by count and group, not yet summed, ignored by the rest.
pub(crate) fn note_histograms(
    op: AggregateOp,
    histograms: &HistogramPoints,
    span: Span,
    session: &mut Session<'_>,
) -> Result<(), QueryError> {
    if histograms.is_empty() {
        return Ok(());
    }
    match op {
        AggregateOp::Count | AggregateOp::Group => Ok(()),
        AggregateOp::Sum | AggregateOp::Avg => {
            Err(histograms_unsupported(session, op.text(), span))
        }
        _ => {
            session.annotations.ignored_in_aggregation(op.text(), span);
            Ok(())
        }
    }
}
