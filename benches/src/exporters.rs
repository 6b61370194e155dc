//! Real metrics for the benchmarks: a recording of exporters, read in place.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::Context;

/// A series of real exporters, scraped every second.
#[derive(Clone, Debug)]
pub struct ExporterSeries {
    /// The labels, as JSON.
    pub metric: String,
    pub values: Vec<f64>,
}

/// All series of the recording beside the repository, read in place.
///
/// Values are parsed from their text by the standard library, which is exact to the bit.
pub fn exporter_series() -> anyhow::Result<Vec<ExporterSeries>> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/exporters-1s.jsonl.zst");
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let lines = BufReader::new(zstd::Decoder::new(file)?).lines();
    lines.map(|line| series_of_line(&line?)).collect()
}

fn series_of_line(line: &str) -> anyhow::Result<ExporterSeries> {
    let (metric, rest) = line.split_once(",\"values\":[").context("no values in a line")?;
    let (values, _) = rest.split_once(']').context("values do not end")?;
    let values = values.split(',').filter(|value| !value.is_empty()).map(str::parse);
    Ok(ExporterSeries { metric: metric.to_owned(), values: values.collect::<Result<_, _>>()? })
}
