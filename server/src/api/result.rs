//! The `data` of a query's answer, written in pieces: `{"resultType":…,"result":…}`.
//!
//! `resultType` comes first, since Grafana's decoder otherwise has to buffer the result. A piece is
//! a bounded number of points, so that one long series is not one long string either.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use icecore_query::engine::QueryStats;
use icecore_query::histogram::FloatHistogram;
use icecore_query::value::{MatrixSeries, Point, Value};

use crate::api::points::FloatPoints;
use crate::http::histogram_json::push_histogram;
use crate::http::json::{push_float, push_labels, push_string, push_timestamp};

/// Points in a piece: at most some 13 KiB, if they are floats.
const POINTS_PER_PIECE: usize = 256;

/// What `stats=true` asks for besides the engine's own counts.
#[derive(Clone, Copy, Debug)]
pub struct QueryTimes {
    pub queued: Duration,
    /// Waiting and evaluation.
    pub total: Duration,
}

/// The value of an answer, and where in it the next piece starts.
#[derive(Debug)]
pub struct ResultRows {
    value: Value,
    stats: Option<(QueryTimes, QueryStats)>,
    started: bool,
    /// Next element of a vector or matrix.
    element: usize,
    /// Next point of that element, floats before histograms.
    point: usize,
    float_points: FloatPoints,
}

impl ResultRows {
    /// `stats` are written behind the result if they are given.
    pub fn new(value: Value, stats: Option<(QueryTimes, QueryStats)>) -> ResultRows {
        let rows = if let Value::Matrix(rows) = &value { &rows[..] } else { &[] };
        let float_points = FloatPoints::new(rows);
        ResultRows { value, stats, started: false, element: 0, point: 0, float_points }
    }

    /// Appends the next piece; false after the last.
    pub fn push(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.started {
            self.started = true;
            return self.push_start(out);
        }
        let more = match &mut self.value {
            Value::Vector(_) => self.push_vector_sample(out),
            Value::Matrix(_) => self.push_matrix_points(out),
            Value::Scalar { .. } | Value::String { .. } => false,
        };
        if !more {
            out.push(b']');
            self.push_end(out);
        }
        more
    }

    fn push_start(&mut self, out: &mut Vec<u8>) -> bool {
        let (kind, more) = match &self.value {
            Value::Scalar { .. } => ("scalar", false),
            Value::String { .. } => ("string", false),
            Value::Vector(_) => ("vector", true),
            Value::Matrix(_) => ("matrix", true),
        };
        out.extend_from_slice(br#"{"resultType":""#);
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(br#"","result":["#);
        match &self.value {
            Value::Scalar { timestamp, value } => {
                push_timestamp(out, *timestamp);
                out.push(b',');
                push_float(out, *value);
            }
            Value::String { timestamp, value } => {
                push_timestamp(out, *timestamp);
                out.push(b',');
                push_string(out, &String::from_utf8_lossy(value));
            }
            Value::Vector(_) | Value::Matrix(_) => return more,
        }
        out.push(b']');
        self.push_end(out);
        more
    }

    fn push_vector_sample(&mut self, out: &mut Vec<u8>) -> bool {
        let Value::Vector(samples) = &self.value else { return false };
        let Some(sample) = samples.get(self.element) else { return false };
        out.extend_from_slice(if self.element == 0 { b"{" } else { b",{" });
        out.extend_from_slice(br#""metric":"#);
        push_labels(out, &sample.labels);
        match &sample.point {
            Point::Float(value) => {
                out.extend_from_slice(br#","value":"#);
                push_float_point(out, sample.timestamp, *value);
            }
            Point::Histogram(histogram) => {
                out.extend_from_slice(br#","histogram":"#);
                push_histogram_point(out, sample.timestamp, histogram);
            }
        }
        out.push(b'}');
        self.element += 1;
        true
    }

    fn push_matrix_points(&mut self, out: &mut Vec<u8>) -> bool {
        let Value::Matrix(all) = &mut self.value else { return false };
        let Some(series) = all.get_mut(self.element) else { return false };
        if self.point == 0 {
            out.extend_from_slice(if self.element == 0 { b"{" } else { b",{" });
            out.extend_from_slice(br#""metric":"#);
            push_labels(out, &series.labels);
        }
        if self.point < series.floats.len() {
            let end = series.floats.len().min(self.point + POINTS_PER_PIECE);
            self.float_points.push(out, &series.floats, self.point..end);
            self.point = end;
        } else {
            let before = series.floats.len();
            let row = self.point - before;
            let end = series.histograms.len().min(row + POINTS_PER_PIECE);
            push_histogram_points(out, &series.histograms, row..end);
            self.point = before + end;
        }
        if self.point == series.floats.len() + series.histograms.len() {
            out.push(b'}');
            // What the client has is not kept until it has the rest.
            *series = MatrixSeries::default();
            self.element += 1;
            self.point = 0;
        }
        true
    }

    fn push_end(&self, out: &mut Vec<u8>) {
        if let Some((times, stats)) = &self.stats {
            push_stats(out, times, stats);
        }
        out.push(b'}');
    }
}

/// Some of a row's histograms, with what comes before the first and behind the last.
fn push_histogram_points(
    out: &mut Vec<u8>,
    histograms: &[(i64, Arc<FloatHistogram>)],
    range: Range<usize>,
) {
    for (index, (timestamp, histogram)) in histograms[range.clone()].iter().enumerate() {
        let first = range.start + index == 0;
        out.extend_from_slice(if first { br#","histograms":["# } else { b"," });
        push_histogram_point(out, *timestamp, histogram);
    }
    if !range.is_empty() && range.end == histograms.len() {
        out.push(b']');
    }
}

fn push_float_point(out: &mut Vec<u8>, timestamp: i64, value: f64) {
    out.push(b'[');
    push_timestamp(out, timestamp);
    out.push(b',');
    push_float(out, value);
    out.push(b']');
}

fn push_histogram_point(out: &mut Vec<u8>, timestamp: i64, histogram: &FloatHistogram) {
    out.push(b'[');
    push_timestamp(out, timestamp);
    out.push(b',');
    push_histogram(out, histogram);
    out.push(b']');
}

/// Prometheus's names. Its phases that we do not have took no time.
fn push_stats(out: &mut Vec<u8>, times: &QueryTimes, stats: &QueryStats) {
    let (queued, total) = (times.queued.as_secs_f64(), times.total.as_secs_f64());
    let evaluation = total - queued;
    let text = format!(
        r#","stats":{{"timings":{{"evalTotalTime":{evaluation},"resultSortTime":0,"queryPreparationTime":0,"innerEvalTime":{evaluation},"execQueueTime":{queued},"execTotalTime":{total}}},"samples":{{"#,
    );
    out.extend_from_slice(text.as_bytes());
    if !stats.samples_per_step.is_empty() {
        out.extend_from_slice(br#""totalQueryableSamplesPerStep":"#);
        for (index, (timestamp, samples)) in stats.samples_per_step.iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            out.push(b'[');
            push_timestamp(out, *timestamp);
            out.extend_from_slice(format!(",{samples}]").as_bytes());
        }
        out.extend_from_slice(b"],");
    }
    let (total, peak) = (stats.total_queryable_samples, stats.peak_samples);
    let text = format!(r#""totalQueryableSamples":{total},"peakSamples":{peak}}}}}"#);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use icecore_query::histogram::Schema;
    use icecore_query::value::VectorSample;
    use icecore_storage::labels::Labels;

    use super::*;

    fn written(value: Value) -> String {
        let mut rows = ResultRows::new(value, None);
        let mut out = Vec::new();
        while rows.push(&mut out) {}
        String::from_utf8(out).unwrap()
    }

    fn labels() -> Labels {
        Labels::from_pairs([("__name__", "up"), ("job", "a\"b")]).unwrap()
    }

    fn histogram() -> Arc<FloatHistogram> {
        let empty = FloatHistogram::empty(Schema::Exponential(0));
        Arc::new(FloatHistogram { count: 2.0, sum: 1.5, ..empty })
    }

    #[test]
    fn every_type_has_its_shape() {
        let sample = |point| VectorSample { labels: labels(), timestamp: 1_435_781_451_781, point };
        for (value, expected) in [
            (
                Value::Scalar { timestamp: 4_000, value: 2.0 },
                r#"{"resultType":"scalar","result":[4,"2"]}"#,
            ),
            (
                Value::String { timestamp: 1, value: b"a\xff".to_vec() },
                "{\"resultType\":\"string\",\"result\":[0.001,\"a\u{fffd}\"]}",
            ),
            (Value::Vector(vec![]), r#"{"resultType":"vector","result":[]}"#),
            (Value::Matrix(vec![]), r#"{"resultType":"matrix","result":[]}"#),
            (
                Value::Vector(vec![
                    sample(Point::Float(f64::NAN)),
                    sample(Point::Histogram(histogram())),
                ]),
                concat!(
                    r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a\"b"},"value":[1435781451.781,"NaN"]},"#,
                    r#"{"metric":{"__name__":"up","job":"a\"b"},"histogram":[1435781451.781,{"count":"2","sum":"1.5"}]}]}"#
                ),
            ),
            (
                Value::Matrix(vec![
                    MatrixSeries {
                        labels: Labels::empty(),
                        floats: vec![(1_000, 0.5), (2_000, 1.0)],
                        histograms: vec![(3_000, histogram())],
                    },
                    MatrixSeries {
                        labels: labels(),
                        floats: vec![],
                        histograms: vec![(3_000, histogram())],
                    },
                ]),
                concat!(
                    r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1,"0.5"],[2,"1"]],"#,
                    r#""histograms":[[3,{"count":"2","sum":"1.5"}]]},{"metric":{"__name__":"up","job":"a\"b"},"#,
                    r#""histograms":[[3,{"count":"2","sum":"1.5"}]]}]}"#
                ),
            ),
        ] {
            assert_eq!(written(value), expected);
        }
    }

    #[test]
    fn a_long_series_comes_in_pieces_and_whole() {
        let floats: Vec<(i64, f64)> = (0..5000).map(|i| (i * 1000, i as f64)).collect();
        let series = MatrixSeries { labels: labels(), floats, histograms: vec![] };
        let json: serde_json::Value =
            serde_json::from_str(&written(Value::Matrix(vec![series.clone(), series]))).unwrap();
        for i in 0..2 {
            let values = json["result"][i]["values"].as_array().unwrap();
            assert_eq!(values.len(), 5000);
            assert_eq!(values[4999][1], "4999");
        }
    }

    #[test]
    fn stats_come_after_the_result() {
        let times =
            QueryTimes { queued: Duration::from_millis(500), total: Duration::from_millis(2_000) };
        let stats = QueryStats {
            total_queryable_samples: 7,
            samples_per_step: vec![(1500, 3), (2000, 4)],
            peak_samples: 3,
            series_fetched: 1,
        };
        let mut rows = ResultRows::new(Value::Vector(vec![]), Some((times, stats)));
        let mut out = Vec::new();
        while rows.push(&mut out) {}
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let samples = &json["stats"]["samples"];
        assert_eq!(samples["totalQueryableSamples"], 7);
        assert_eq!(samples["totalQueryableSamplesPerStep"][0], serde_json::json!([1.5, 3]));
        assert_eq!(json["stats"]["timings"]["evalTotalTime"], 1.5);
    }
}
