//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`.
//!
//! A native histogram is a value, and answers for itself; a classic one is made of several series
//! (`buckets.rs`). What is both at a step is neither, and a warning says so.

use std::collections::{BTreeMap, HashMap};

use crate::annotations::ForcedMonotonicity;
use crate::engine::QueryError;
use crate::exec::buckets::{Bucket, Classic, bucket_fraction, bucket_quantile, classics, collect};
use crate::exec::budget::CELLS_PER_HISTOGRAM;
use crate::exec::rows::{HistogramPoints, RowBuffer, Rows, SeriesMeta};
use crate::exec::{Scalar, Session, label_edit};
use crate::go_format::float_with_point;
use crate::histogram::{self, FloatHistogram, NanEffect};
use crate::parser::ast::Span;
use crate::plan::Grid;

/// What is computed from the buckets of a step.
#[derive(Clone, Debug)]
pub(crate) enum Question<'a> {
    /// Several quantiles, which a label tells apart, or one. With each of them where it stands.
    Quantiles(Vec<(Scalar, Span)>, Option<&'a str>),
    Fraction(Scalar, Scalar),
}

/// Evaluates the question for every histogram; annotations point to the vector at `span`. The names
/// are the caller's to drop.
pub(crate) fn evaluate(
    question: &Question<'_>,
    rows: &Rows,
    grid: Grid,
    span: Span,
    session: &mut Session<'_>,
) -> Result<Rows, QueryError> {
    if let Question::Quantiles(quantiles, _) = question {
        for (quantile, place) in quantiles {
            for value in distinct(quantile, rows.steps) {
                if !(0.0..=1.0).contains(&value) {
                    session.annotations.invalid_quantile(value, *place);
                }
            }
        }
    }
    let (mut classics, ordinals) = classics(rows, span, session);
    let natives = natives(rows, &mut classics, &ordinals, span, session);
    let mut output = Rows::new(rows.steps);
    let budget = session.budget;
    let mut answers = Answers { rows, grid, span, output: &mut output, session };
    match question {
        Question::Quantiles(quantiles, label) => {
            for (quantile, _) in quantiles {
                answers.quantiles(quantile, *label, &natives, &classics)?;
            }
        }
        Question::Fraction(lower, upper) => answers.fractions(lower, upper, &natives, &classics)?,
    }
    match question {
        Question::Quantiles(_, Some(_)) => output.unify(budget),
        _ => Ok(output),
    }
}

/// A row of native histograms, but for the steps at which it is a classic one too.
struct Native {
    meta: SeriesMeta,
    points: HistogramPoints,
}

/// The native histograms. At steps at which there is a classic one of the same labels there is
/// neither.
fn natives(
    rows: &Rows,
    classics: &mut [Classic],
    ordinals: &HashMap<Vec<u8>, usize>,
    span: Span,
    session: &mut Session<'_>,
) -> Vec<Native> {
    let mut natives = Vec::new();
    for (row, points) in rows.histograms.iter().enumerate() {
        if points.is_empty() {
            continue;
        }
        let meta = rows.meta[row].clone();
        let mut points = points.clone();
        if let Some(&ordinal) = ordinals.get(meta.labels.as_bytes()) {
            let classic = &mut classics[ordinal];
            points.retain(|(step, _)| {
                let is_both = classic.is_present(rows, *step as usize);
                if is_both {
                    session.annotations.mixed_classic_and_native(meta.labels.metric_name(), span);
                    classic.left_out.insert(*step);
                }
                !is_both
            });
        }
        natives.push(Native { meta, points });
    }
    natives
}

/// Collects the answers to a question.
struct Answers<'a, 'q> {
    rows: &'a Rows,
    grid: Grid,
    span: Span,
    output: &'a mut Rows,
    session: &'a mut Session<'q>,
}

impl Answers<'_, '_> {
    /// The metric as annotations name it: not once its name has been dropped.
    fn metric<'m>(&self, meta: &'m SeriesMeta) -> &'m str {
        if self.session.delayed { meta.labels.metric_name() } else { "" }
    }

    fn quantiles(
        &mut self,
        quantile: &Scalar,
        label: Option<&str>,
        natives: &[Native],
        classics: &[Classic],
    ) -> Result<(), QueryError> {
        for native in natives {
            let values = self.of_native(native, |answers, step, histogram| {
                let (value, effect) = histogram::quantile(histogram, quantile.at(step));
                let (metric, span) = (answers.metric(&native.meta), answers.span);
                let annotations = &mut answers.session.annotations;
                match effect {
                    None => {}
                    Some(NanEffect::IsNan) => annotations.quantile_is_nan(metric, span),
                    Some(NanEffect::Skewed) => annotations.quantile_is_skewed(metric, span),
                }
                value
            })?;
            self.push(&native.meta, label.map(|label| (label, quantile)), values);
        }
        for classic in classics {
            let values = self.of_classic(classic, |answers, step, buckets| {
                let (value, forced) = bucket_quantile(quantile.at(step), buckets);
                if let Some(forced) = forced {
                    let time_ms = answers.grid.time_ms(step);
                    let metric = answers.metric(&classic.meta);
                    let forced =
                        ForcedMonotonicity { start_ms: time_ms, end_ms: time_ms, ..forced };
                    let annotations = &mut answers.session.annotations;
                    annotations.forced_monotonicity(metric, forced, answers.span);
                }
                value
            })?;
            self.push(&classic.meta, label.map(|label| (label, quantile)), values);
        }
        Ok(())
    }

    fn fractions(
        &mut self,
        lower: &Scalar,
        upper: &Scalar,
        natives: &[Native],
        classics: &[Classic],
    ) -> Result<(), QueryError> {
        for native in natives {
            let values = self.of_native(native, |answers, step, histogram| {
                let (value, has_nans) =
                    histogram::fraction(histogram, lower.at(step), upper.at(step));
                if has_nans {
                    let (metric, span) = (answers.metric(&native.meta), answers.span);
                    answers.session.annotations.fraction_without_nans(metric, span);
                }
                value
            })?;
            self.push(&native.meta, None, values);
        }
        for classic in classics {
            let values = self.of_classic(classic, |_, step, buckets| {
                bucket_fraction(lower.at(step), upper.at(step), buckets)
            })?;
            self.push(&classic.meta, None, values);
        }
        Ok(())
    }

    /// The values of a row of native histograms, by step.
    fn of_native(
        &mut self,
        native: &Native,
        mut value: impl FnMut(&mut Self, usize, &FloatHistogram) -> f64,
    ) -> Result<Vec<(usize, f64)>, QueryError> {
        let mut pace = self.session.budget.pace();
        let mut values = Vec::with_capacity(native.points.len());
        for (step, histogram) in &native.points {
            pace.step(CELLS_PER_HISTOGRAM)?;
            let step = *step as usize;
            values.push((step, value(self, step, histogram)));
        }
        Ok(values)
    }

    /// The values of a classic histogram, by step.
    fn of_classic(
        &mut self,
        classic: &Classic,
        mut value: impl FnMut(&mut Self, usize, &mut [Bucket]) -> f64,
    ) -> Result<Vec<(usize, f64)>, QueryError> {
        self.session.budget.check()?;
        let mut pace = self.session.budget.pace();
        let mut buckets = Vec::new();
        let mut values = Vec::new();
        for step in 0..self.rows.steps {
            pace.step(classic.buckets.len())?;
            collect(classic, self.rows, step, &mut buckets);
            if !buckets.is_empty() && !classic.left_out.contains(&(step as u32)) {
                values.push((step, value(self, step, &mut buckets)));
            }
        }
        Ok(values)
    }

    /// Appends a row, or one for each value that the label gets.
    fn push(
        &mut self,
        meta: &SeriesMeta,
        label: Option<(&str, &Scalar)>,
        values: Vec<(usize, f64)>,
    ) {
        let mut row = RowBuffer::default();
        let Some((name, quantile)) = label else {
            row.reset(self.rows.steps);
            values.into_iter().for_each(|(step, value)| row.set(step, value));
            if !row.is_empty() {
                self.output.push(meta.clone(), &mut row);
            }
            return;
        };
        let mut by_text: BTreeMap<String, Vec<(usize, f64)>> = BTreeMap::new();
        for (step, value) in values {
            by_text.entry(float_with_point(quantile.at(step))).or_default().push((step, value));
        }
        for (text, values) in by_text {
            let labels = label_edit::with(&meta.labels, name, &text);
            self.push(&SeriesMeta { labels, ..*meta }, None, values);
        }
    }
}

fn distinct(scalar: &Scalar, steps: usize) -> Vec<f64> {
    match scalar {
        Scalar::Constant(value) => vec![*value],
        Scalar::Steps(_) => (0..steps).map(|step| scalar.at(step)).collect(),
    }
}
