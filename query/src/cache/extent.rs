//! Extents: results over neighbouring steps, packed, and put together from parts.
//!
//! Steps are counted from the epoch: step `k` of a query is at `phase + k * step`, so that queries
//! with equal phase and step share their steps. A packed series holds its floats side by side and,
//! where it has gaps, a bitmap of the steps that have one.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use icecore_storage::labels::Labels;

use crate::annotations::Annotations;
use crate::exec::{count_bits, for_each_bit, set_bit};
use crate::histogram::FloatHistogram;
use crate::value::MatrixSeries;

/// From step numbers to times and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Steps {
    pub(crate) phase_ms: i64,
    pub(crate) step_ms: i64,
}

impl Steps {
    pub(crate) fn new(time_ms: i64, step_ms: i64) -> Steps {
        Steps { phase_ms: time_ms.rem_euclid(step_ms), step_ms }
    }

    pub(crate) fn time_ms(self, step: i64) -> i64 {
        step.saturating_mul(self.step_ms).saturating_add(self.phase_ms)
    }

    /// The last step at or before a time.
    pub(crate) fn at_or_before(self, time_ms: i64) -> i64 {
        time_ms.saturating_sub(self.phase_ms).div_euclid(self.step_ms)
    }
}

/// The result of a query over some steps.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) steps: Range<i64>,
    /// No change of the samples after this one is in it.
    pub(crate) generation: u64,
    /// The text that `annotations` have their positions in.
    pub(crate) text: Arc<str>,
    /// Those of evaluating all of the steps.
    pub(crate) annotations: Annotations,
    /// By labels.
    series: Vec<Packed>,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Packed {
    labels: Labels,
    /// Floats of the steps that have one, in their order.
    floats: Box<[f64]>,
    /// One bit a step; `None` if all have a float.
    present: Option<Box<[u64]>>,
    /// By position among the steps.
    histograms: Box<[(u32, Arc<FloatHistogram>)]>,
}

/// A part of a result: some steps of an extent, or what was just computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    Cached(&'a Extent, (i64, i64)),
    Fresh(&'a [MatrixSeries]),
}

impl<'a> Part<'a> {
    fn labels(&self, index: usize) -> Option<&'a Labels> {
        match self {
            Part::Cached(extent, _) => extent.series.get(index).map(|series| &series.labels),
            Part::Fresh(series) => series.get(index).map(|series| &series.labels),
        }
    }

    /// Floats that were just computed; those that are packed already have found room once.
    fn fresh_floats(&self) -> usize {
        match self {
            Part::Cached(..) => 0,
            Part::Fresh(series) => series.iter().map(|series| series.floats.len()).sum(),
        }
    }

    /// Appends the points of one of its series.
    fn append(&self, index: usize, steps: Steps, into: &mut MatrixSeries) {
        match *self {
            Part::Fresh(series) => {
                into.floats.extend_from_slice(&series[index].floats);
                into.histograms.extend_from_slice(&series[index].histograms);
            }
            Part::Cached(extent, (first, end)) => {
                let position = |step: i64| (step - extent.steps.start) as usize;
                let wanted = position(first)..position(end);
                let time_ms = |at: usize| steps.time_ms(extent.steps.start + at as i64);
                let series = &extent.series[index];
                match &series.present {
                    None => {
                        let floats = series.floats[wanted.clone()].iter();
                        let points = wanted.clone().zip(floats);
                        into.floats.extend(points.map(|(at, value)| (time_ms(at), *value)));
                    }
                    Some(present) => {
                        let before = count_before(present, wanted.start);
                        let mut floats = series.floats[before..].iter();
                        for_each_in(present, wanted.clone(), |at| {
                            into.floats.extend(floats.next().map(|value| (time_ms(at), *value)));
                        });
                    }
                }
                let start =
                    series.histograms.partition_point(|(at, _)| (*at as usize) < wanted.start);
                let end = series.histograms.partition_point(|(at, _)| (*at as usize) < wanted.end);
                let points = series.histograms[start..end].iter();
                into.histograms.extend(
                    points.map(|(at, histogram)| (time_ms(*at as usize), Arc::clone(histogram))),
                );
            }
        }
    }
}

/// Calls `visit` for each series of the parts, in order of labels, with its place in each part.
fn for_each_series<'a>(parts: &[Part<'a>], mut visit: impl FnMut(&'a Labels, &[Option<usize>])) {
    let mut next = vec![0; parts.len()];
    let mut places = vec![None; parts.len()];
    loop {
        let mut least: Option<&Labels> = None;
        places.fill(None);
        for (at, part) in parts.iter().enumerate() {
            let Some(labels) = part.labels(next[at]) else { continue };
            let order = match least {
                None => Ordering::Less,
                Some(least) if least.as_bytes() == labels.as_bytes() => Ordering::Equal,
                Some(least) => labels.cmp(least),
            };
            if order.is_lt() {
                least = Some(labels);
                places.fill(None);
            }
            if order.is_le() {
                places[at] = Some(next[at]);
            }
        }
        let Some(labels) = least else { break };
        for (next, place) in next.iter_mut().zip(&places) {
            *next += usize::from(place.is_some());
        }
        visit(labels, &places);
    }
}

fn join(parts: &[Part<'_>], steps: Steps, mut take: impl FnMut(MatrixSeries) -> MatrixSeries) {
    let mut series = MatrixSeries::default();
    for_each_series(parts, |labels, places| {
        series.labels = labels.clone();
        series.floats.clear();
        series.histograms.clear();
        for (part, place) in parts.iter().zip(places) {
            if let Some(index) = place {
                part.append(*index, steps, &mut series);
            }
        }
        if !series.floats.is_empty() || !series.histograms.is_empty() {
            series = take(std::mem::take(&mut series));
        }
    });
}

/// The parts, ascending and apart, as one matrix by labels.
pub(crate) fn matrix(parts: &[Part<'_>], steps: Steps) -> Vec<MatrixSeries> {
    let mut matrix = Vec::new();
    join(parts, steps, |series| {
        matrix.push(series);
        MatrixSeries::default()
    });
    matrix
}

impl Extent {
    /// Packs parts that make up `range` without a gap; `None` above `bytes_max`.
    pub(crate) fn new(
        parts: &[Part<'_>],
        range: Range<i64>,
        steps: Steps,
        (generation, text, annotations): (u64, Arc<str>, Annotations),
        bytes_max: usize,
    ) -> Option<Extent> {
        let count = usize::try_from(range.end - range.start).ok()?;
        let floats = parts.iter().map(Part::fresh_floats).sum::<usize>();
        if floats.saturating_mul(size_of::<f64>()) > bytes_max {
            return None;
        }
        let annotation_bytes = annotations.bytes();
        let mut extent = Extent {
            bytes: size_of::<Extent>() + text.len() + annotation_bytes,
            steps: range,
            generation,
            text,
            annotations,
            series: Vec::new(),
        };
        join(parts, steps, |series| {
            if extent.bytes <= bytes_max {
                let packed = Packed::new(&series, extent.steps.start, count, steps);
                extent.bytes += packed.bytes();
                extent.series.push(packed);
            }
            series
        });
        extent.series.shrink_to_fit();
        (extent.bytes <= bytes_max).then_some(extent)
    }
}

impl Packed {
    fn new(series: &MatrixSeries, first: i64, count: usize, steps: Steps) -> Packed {
        let position = |time_ms: i64| (steps.at_or_before(time_ms) - first) as usize;
        let present = (series.floats.len() < count).then(|| {
            let mut present = vec![0u64; count.div_ceil(64)];
            series.floats.iter().for_each(|(time_ms, _)| set_bit(&mut present, position(*time_ms)));
            present.into_boxed_slice()
        });
        let histograms = series.histograms.iter();
        let histograms = histograms.map(|(time_ms, one)| (position(*time_ms) as u32, one.clone()));
        Packed {
            labels: series.labels.clone(),
            floats: series.floats.iter().map(|(_, value)| *value).collect(),
            present,
            histograms: histograms.collect(),
        }
    }

    fn bytes(&self) -> usize {
        let of_histogram =
            |(_, one): &(u32, Arc<FloatHistogram>)| 16 * (1 + one.size_in_samples() as usize);
        size_of::<Packed>()
            + self.labels.as_bytes().len()
            + size_of_val(&self.floats[..])
            + self.present.as_ref().map_or(0, |present| size_of_val(&present[..]))
            + self.histograms.iter().map(of_histogram).sum::<usize>()
    }
}

/// How many bits before `end` are set.
fn count_before(bitmap: &[u64], end: usize) -> usize {
    let below = (1u64 << (end % 64)) - 1;
    let last = bitmap.get(end / 64).map_or(0, |word| (word & below).count_ones() as usize);
    count_bits(&bitmap[..end / 64]) as usize + last
}

/// Calls `f` with every bit of a range that is set, ascending.
fn for_each_in(bitmap: &[u64], range: Range<usize>, mut f: impl FnMut(usize)) {
    let words = range.start / 64..range.end.div_ceil(64);
    let first = words.start * 64;
    for_each_bit(&bitmap[words], |at| {
        if range.contains(&(first + at)) {
            f(first + at);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: Steps = Steps { phase_ms: 3, step_ms: 10 };

    fn series(name: &str, points: &[(i64, f64)]) -> MatrixSeries {
        let labels = Labels::from_pairs([("n", name)]).unwrap();
        let floats = points.iter().map(|(step, value)| (STEPS.time_ms(*step), *value)).collect();
        MatrixSeries { labels, floats, histograms: Vec::new() }
    }

    fn extent(parts: &[Part<'_>], range: Range<i64>) -> Extent {
        let about = (0, Arc::from(""), Annotations::default());
        Extent::new(parts, range, STEPS, about, usize::MAX).unwrap()
    }

    #[test]
    fn steps_are_counted_from_the_epoch() {
        let steps = Steps::new(-7, 10);
        assert_eq!(steps, STEPS);
        assert_eq!((steps.at_or_before(-7), steps.time_ms(-1)), (-1, -7));
        assert_eq!((steps.at_or_before(2), steps.at_or_before(3)), (-1, 0));
    }

    #[test]
    fn parts_come_out_as_they_went_in() {
        let full: Vec<(i64, f64)> = (-70..130).map(|step| (step, step as f64)).collect();
        let gaps: Vec<(i64, f64)> =
            full.iter().copied().filter(|(step, _)| step % 3 != 0).collect();
        let input = [series("a", &full), series("b", &gaps), series("c", &[(129, f64::NAN)])];
        let whole = extent(&[Part::Fresh(&input)], -70..130);
        for (first, end) in [(-70, 130), (-70, -69), (-1, 1), (0, 128), (64, 129), (5, 5)] {
            let cut = |points: &[(i64, f64)]| -> Vec<(i64, f64)> {
                points.iter().copied().filter(|(step, _)| (first..end).contains(step)).collect()
            };
            let mut expected = vec![series("a", &cut(&full)), series("b", &cut(&gaps))];
            expected.retain(|series| !series.floats.is_empty());
            let mut found = matrix(&[Part::Cached(&whole, (first, end))], STEPS);
            found.retain(|series| series.labels.get("n") != Some("c"));
            assert_eq!(found, expected, "{first}..{end}");
        }
    }

    #[test]
    fn series_of_several_parts_are_joined_by_labels() {
        let early = [series("a", &[(0, 1.0)]), series("c", &[(1, 2.0)])];
        let late = [series("b", &[(2, 3.0)]), series("c", &[(3, 4.0)])];
        let first = extent(&[Part::Fresh(&early)], 0..2);
        let both = [Part::Cached(&first, (0, 2)), Part::Fresh(&late)];
        let expected = [
            series("a", &[(0, 1.0)]),
            series("b", &[(2, 3.0)]),
            series("c", &[(1, 2.0), (3, 4.0)]),
        ];
        assert_eq!(matrix(&both, STEPS), expected);
        let packed = extent(&both, 0..4);
        assert_eq!(matrix(&[Part::Cached(&packed, (0, 4))], STEPS), expected);
        assert_eq!(matrix(&[Part::Cached(&packed, (1, 3))], STEPS).len(), 2);
    }

    #[test]
    fn what_is_too_large_is_not_packed() {
        let input = [series("a", &[(0, 1.0)])];
        let about = (0, Arc::from(""), Annotations::default());
        assert!(Extent::new(&[Part::Fresh(&input)], 0..1, STEPS, about, 100).is_none());
    }
}
