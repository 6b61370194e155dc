//! What a `load` command brings: series and their samples, with start timestamps where given.

use crate::classic::converted;
use crate::series::{Series, StartTimestamps, Value, parse_series};
use crate::stores::{self, Sample};

#[derive(Debug)]
pub(crate) struct Load {
    /// Each series once, samples ascending in time.
    pub(crate) series: Vec<stores::Series>,
}

impl Load {
    /// With `converts`, classic histograms become native ones as well.
    pub(crate) fn parse(step_ms: i64, converts: bool, lines: &[&str]) -> Result<Load, String> {
        let mut load = Load { series: Vec::new() };
        let mut default = Vec::new();
        let mut pending: Option<StartTimestamps> = None;
        for line in lines {
            if let Some(start) = StartTimestamps::parse(line) {
                let start = start?;
                match (&pending, &start.labels) {
                    (Some(_), _) => return Err("@st line has no following sample line".into()),
                    (None, None) => default = start.offsets_ms,
                    (None, Some(_)) => pending = Some(start),
                }
                continue;
            }
            let series = parse_series(line)?;
            let offsets = match pending.take() {
                None => default.iter().cycle().take(series.values.len()).copied().collect(),
                Some(start) if start.labels.as_ref() != Some(&series.labels) => {
                    return Err(format!("@st line of another series: {line}"));
                }
                Some(start) if start.offsets_ms.len() != series.values.len() => {
                    return Err(format!("@st line of another length: {line}"));
                }
                Some(start) => start.offsets_ms,
            };
            load.set(series, step_ms, &offsets);
        }
        match pending {
            Some(_) => return Err("@st line has no following sample line".into()),
            None if converts => load.series.extend(converted(&load.series)?),
            None => {}
        }
        Ok(load)
    }

    /// Adds a series; one that was there is replaced.
    fn set(&mut self, series: Series, step_ms: i64, offsets_ms: &[Option<i64>]) {
        let Series { labels, values } = series;
        let of = |(index, value): (usize, Option<Value>)| {
            let timestamp = index as i64 * step_ms;
            let offset = offsets_ms.get(index).copied().flatten();
            let start_timestamp = offset.map_or(0, |offset| timestamp + offset);
            let value = match value? {
                Value::Float(value) => stores::Value::Float(value),
                Value::Histogram { histogram, .. } => stores::Value::Histogram(histogram),
            };
            Some(Sample { timestamp, start_timestamp, value })
        };
        let samples = values.into_iter().enumerate().filter_map(of).collect();
        match self.series.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, known)) => *known = samples,
            None => self.series.push((labels, samples)),
        }
    }
}

#[test]
fn start_timestamps_belong_to_the_next_line_or_to_all() {
    let starts = |lines: &[&str]| -> Vec<i64> {
        let load = Load::parse(60_000, false, lines).unwrap();
        load.series[0].1.iter().map(|sample| sample.start_timestamp).collect()
    };
    assert_eq!(starts(&["m@st -1m _ -1s", "m 1 2 3"]), [-60_000, 0, 119_000]);
    assert_eq!(starts(&["@st -1s", "m 1 _ 3"]), [-1000, 119_000]);
    assert!(Load::parse(1, false, &["m@st -1m", "n 1"]).is_err());
    assert!(Load::parse(1, false, &["m@st -1m", "m 1 2"]).is_err());
    assert!(Load::parse(1, false, &["m@st -1m"]).is_err());
}
