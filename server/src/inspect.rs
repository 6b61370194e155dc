//! `icecore inspect`: what manifest, blocks and log say, for people or as JSON.
//!
//! Takes no lock and changes nothing, so it works beside a running server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use icecore_storage::Error as StorageError;
use icecore_storage::backup::Place;
use icecore_storage::disk::Disk;
use icecore_storage::disk::os::OsDisk;
use icecore_storage::inspect::{self, BlockFacts, ManifestFacts, SegmentFacts};
use icecore_storage::metrics::block::meta::{BlockId, BlockMeta};
use icecore_storage::time::TimeRange;
use serde_json::{Value, json};

use crate::http::time::format_rfc3339;
use crate::size::human;
use crate::table::Table;

/// A merge may replace the files that a manifest names while they are looked at.
const TRIES: usize = 5;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    what: What,

    /// The data directory, or a backup.
    #[arg(
        long = "storage.path",
        value_name = "PATH",
        default_value = "./icecore-data",
        global = true
    )]
    storage_path: PathBuf,

    /// The form of what is printed.
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What the newest manifest names.
    Manifest,
    /// Sections, chunks and metrics of a block.
    Block {
        /// A block's id, in hexadecimal as in its file's name, or the path of a block file.
        #[arg(value_name = "BLOCK")]
        block: String,

        /// Metrics that are listed, those of most bytes first.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        top: usize,
    },
    /// Records of the log by segment.
    Wal {
        /// One segment alone, by its number in hexadecimal as in its file's name.
        #[arg(value_name = "SEGMENT")]
        segment: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
enum Format {
    Text,
    Json,
}

pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(args.storage_path.clone()));
    let place = Place::new(disk, args.storage_path.clone());
    let (text, json) = match &args.what {
        What::Manifest => {
            let facts = again(|| inspect::manifest(place.disk.as_ref()));
            let facts = facts.map_err(|e| place.named(e))?;
            (manifest_text(&facts)?, manifest_json(&facts))
        }
        What::Block { block, top } => {
            let facts = read_block(&place, block)?;
            (block_text(&facts, *top)?, block_json(&facts, *top))
        }
        What::Wal { segment } => {
            let facts = read_segments(&place, segment.as_deref())?;
            (wal_text(&facts)?, Value::Array(facts.iter().map(segment_json).collect()))
        }
    };
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Text => out.write_all(&text)?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?,
    }
    Ok(())
}

fn is_gone(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

fn again<T>(mut read: impl FnMut() -> Result<T, StorageError>) -> Result<T, StorageError> {
    for _ in 1..TRIES {
        match read() {
            Err(error) if is_gone(&error) => {}
            other => return other,
        }
    }
    read()
}

fn number(text: &str) -> Option<u64> {
    let digits = text.rsplit('-').next().unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

fn read_block(place: &Place, block: &str) -> anyhow::Result<BlockFacts> {
    let path = Path::new(block);
    if path.is_file() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let name = path.file_name().context("a file has a name")?;
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(folder.to_owned()));
        let place = Place::new(disk, folder);
        return inspect::block(&place.disk, Path::new(name)).map_err(|e| place.named(e).into());
    }
    let id = number(block).with_context(|| {
        format!("{block:?} is neither a file nor a block's id, such as 000000000000001f or 1f")
    })?;
    let path = inspect::block_path(BlockId(id));
    Ok(inspect::block(&place.disk, &path).map_err(|e| place.named(e))?)
}

fn read_segments(place: &Place, segment: Option<&str>) -> anyhow::Result<Vec<SegmentFacts>> {
    let disk = place.disk.as_ref();
    if let Some(text) = segment {
        let number =
            number(text).with_context(|| format!("{text:?} is no segment's number, such as 1f"))?;
        return Ok(vec![inspect::segment(disk, number).map_err(|e| place.named(e))?]);
    }
    let mut facts = Vec::new();
    for number in inspect::wal(disk).map_err(|e| place.named(e))? {
        match inspect::segment(disk, number) {
            // A checkpoint has cut it meanwhile.
            Err(error) if is_gone(&error) => {}
            other => facts.push(other.map_err(|e| place.named(e))?),
        }
    }
    Ok(facts)
}

fn range_text(range: TimeRange) -> String {
    if range.is_empty() {
        return "–".into();
    }
    format!("{} … {}", format_rfc3339(range.start_ms), format_rfc3339(range.end_ms))
}

fn range_json(range: TimeRange) -> Value {
    json!([range.start_ms, range.end_ms])
}

fn per_sample(bytes: u64, samples: u64) -> String {
    match samples {
        0 => "–".into(),
        _ => format!("{:.3}", bytes as f64 / samples as f64),
    }
}

fn manifest_text(facts: &ManifestFacts) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    writeln!(out, "{}, generation {}", facts.path.display(), facts.generation)?;
    match facts.checkpoint {
        Some((number, covered)) => {
            writeln!(out, "checkpoint-{number:016x} covers the log up to record {covered}")?;
        }
        None => writeln!(out, "no checkpoint")?,
    }
    writeln!(out, "next number {:016x}", facts.next_number)?;
    if !facts.retired.is_empty() {
        let retired: Vec<String> = facts.retired.iter().map(|n| format!("{n:016x}")).collect();
        writeln!(out, "retired: {}", retired.join(", "))?;
    }
    for gap in &facts.gaps {
        writeln!(out, "gap: {}", range_text(*gap))?;
    }
    let header =
        ["block", "level", "tier", "class", "series", "samples", "size", "B/sample", "range"];
    let mut table = Table::new(&header, &[1, 2, 3, 4, 5, 6, 7]);
    for block in &facts.blocks {
        table.row([
            block.id.to_string(),
            block.level.to_string(),
            if block.tier_ms == 0 { "raw".into() } else { format!("{} ms", block.tier_ms) },
            block.class.to_string(),
            block.series.to_string(),
            block.samples.to_string(),
            human(block.bytes),
            per_sample(block.bytes, block.samples),
            range_text(block.range),
        ]);
    }
    write!(out, "\n{table}")?;
    let sum = |of: fn(&BlockMeta) -> u64| facts.blocks.iter().map(of).sum::<u64>();
    let (bytes, samples) = (sum(|block| block.bytes), sum(|block| block.samples));
    let (count, size) = (facts.blocks.len(), human(bytes));
    let each = per_sample(bytes, samples);
    writeln!(out, "\n{count} blocks, {size}, {samples} samples, {each} bytes a sample")?;
    Ok(out)
}

fn meta_json(block: &BlockMeta) -> Value {
    json!({
        "id": block.id.to_string(),
        "level": block.level,
        "class": block.class,
        "tier_ms": block.tier_ms,
        "policy_generation": block.policy_generation,
        "window_ms": range_json(block.window),
        "range_ms": range_json(block.range),
        "series": block.series,
        "chunks": block.chunks,
        "samples": block.samples,
        "bytes": block.bytes,
        "sequence": block.sequence,
        "sources": block.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "external_labels": block.external_labels.to_string(),
    })
}

fn manifest_json(facts: &ManifestFacts) -> Value {
    let checkpoint = facts.checkpoint.map(|(number, covered)| {
        json!({"number": format!("{number:016x}"), "covered_sequence": covered})
    });
    json!({
        "path": facts.path.display().to_string(),
        "generation": facts.generation,
        "next_number": format!("{:016x}", facts.next_number),
        "checkpoint": checkpoint,
        "blocks": facts.blocks.iter().map(meta_json).collect::<Vec<_>>(),
        "retired": facts.retired.iter().map(|n| format!("{n:016x}")).collect::<Vec<_>>(),
        "gaps_ms": facts.gaps.iter().map(|gap| range_json(*gap)).collect::<Vec<_>>(),
    })
}

fn block_text(facts: &BlockFacts, top: usize) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let meta = &facts.meta;
    writeln!(out, "block {}, level {}, {}", meta.id, meta.level, human(meta.bytes))?;
    writeln!(out, "window   {}", range_text(meta.window))?;
    writeln!(out, "samples  {}", range_text(meta.range))?;
    let sources: Vec<String> = meta.sources.iter().map(ToString::to_string).collect();
    if !sources.is_empty() {
        writeln!(out, "merged from {}", sources.join(", "))?;
    }
    writeln!(
        out,
        "{} series, {} chunks, {} samples, {} pages, {} timestamp columns, {} bytes a sample",
        meta.series,
        meta.chunks,
        meta.samples,
        facts.pages,
        facts.columns,
        per_sample(meta.bytes, meta.samples),
    )?;
    let header = ["section", "offset", "size", "B/sample", "crc32", ""];
    let mut table = Table::new(&header, &[1, 2, 3]);
    for section in &facts.sections {
        table.row([
            section.name.into(),
            section.offset.to_string(),
            human(section.bytes),
            per_sample(section.bytes, meta.samples),
            format!("{:08x}", section.crc),
            if section.is_intact { String::new() } else { "DAMAGED".into() },
        ]);
    }
    write!(out, "\n{table}")?;
    let chunks = &facts.chunks;
    let mut table = Table::new(&["chunks", "count", "size"], &[1, 2]);
    for (form, (count, bytes)) in &chunks.float_forms {
        table.row([format!("floats: {form}"), count.to_string(), human(*bytes)]);
    }
    let size = human(chunks.histogram_value_bytes);
    table.row(["histograms".into(), chunks.histograms.to_string(), size]);
    let missing = chunks.with_missing_slots.to_string();
    table.row(["with slots missing".into(), missing, String::new()]);
    write!(out, "\n{table}")?;
    let header = ["metric", "series", "samples", "size", "B/sample"];
    let mut table = Table::new(&header, &[1, 2, 3, 4]);
    for metric in facts.metrics.iter().take(top) {
        table.row([
            metric.name.clone(),
            metric.series.to_string(),
            metric.samples.to_string(),
            human(metric.bytes),
            per_sample(metric.bytes, metric.samples),
        ]);
    }
    write!(out, "\n{table}")?;
    if facts.metrics.len() > top {
        writeln!(out, "and {} metrics more; --top shows them", facts.metrics.len() - top)?;
    }
    Ok(out)
}

fn block_json(facts: &BlockFacts, top: usize) -> Value {
    let sections = facts.sections.iter().map(|section| {
        json!({
            "name": section.name,
            "offset": section.offset,
            "bytes": section.bytes,
            "crc32": format!("{:08x}", section.crc),
            "intact": section.is_intact,
        })
    });
    let metrics = facts.metrics.iter().take(top).map(|metric| {
        json!({
            "name": metric.name,
            "series": metric.series,
            "samples": metric.samples,
            "bytes": metric.bytes,
        })
    });
    let forms = facts.chunks.float_forms.iter().map(|(form, (count, bytes))| {
        ((*form).to_owned(), json!({"chunks": count, "bytes": bytes}))
    });
    json!({
        "meta": meta_json(&facts.meta),
        "sections": sections.collect::<Vec<_>>(),
        "pages": facts.pages,
        "timestamp_columns": facts.columns,
        "chunks": {
            "floats": facts.chunks.floats,
            "histograms": facts.chunks.histograms,
            "with_missing_slots": facts.chunks.with_missing_slots,
            "float_value_bytes": facts.chunks.float_value_bytes,
            "histogram_value_bytes": facts.chunks.histogram_value_bytes,
            "float_forms": Value::Object(forms.collect()),
        },
        "metric_count": facts.metrics.len(),
        "top_metrics": metrics.collect::<Vec<_>>(),
    })
}

fn wal_text(segments: &[SegmentFacts]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let header = [
        "segment",
        "records",
        "first",
        "last",
        "samples",
        "histograms",
        "exemplars",
        "metadata",
        "size",
        "restated",
        "damaged",
    ];
    let mut table = Table::new(&header, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for facts in segments {
        let payload = facts.definition_bytes + facts.row_bytes;
        let restated = match payload {
            0 => "–".into(),
            _ => format!("{:.1} %", 100.0 * facts.definition_bytes as f64 / payload as f64),
        };
        table.row([
            format!("{:016x}", facts.number),
            facts.records.to_string(),
            facts.first_sequence.to_string(),
            facts.last_sequence.to_string(),
            facts.samples.to_string(),
            facts.histograms.to_string(),
            facts.exemplars.to_string(),
            facts.metadata.to_string(),
            human(facts.bytes),
            restated,
            facts.damaged.len().to_string(),
        ]);
    }
    write!(out, "{table}")?;
    for facts in segments {
        if !facts.header_is_intact {
            writeln!(out, "segment-{:016x}: its header is damaged", facts.number)?;
        }
        for (offset, length) in &facts.damaged {
            let number = facts.number;
            writeln!(out, "segment-{number:016x}: {length} bytes at {offset} are no record")?;
        }
    }
    let sum = |of: fn(&SegmentFacts) -> u64| segments.iter().map(of).sum::<u64>();
    let (records, samples) = (sum(|s| s.records), sum(|s| s.samples + s.histograms));
    let bytes = sum(|segment| segment.bytes);
    let each = per_sample(bytes, samples);
    let (count, size) = (segments.len(), human(bytes));
    writeln!(
        out,
        "\n{count} segments, {size}, {records} records, {samples} samples, {each} bytes a sample"
    )?;
    Ok(out)
}

fn segment_json(facts: &SegmentFacts) -> Value {
    let damaged = facts.damaged.iter();
    let damaged = damaged.map(|(offset, length)| json!({"offset": offset, "length": length}));
    json!({
        "number": format!("{:016x}", facts.number),
        "bytes": facts.bytes,
        "header_intact": facts.header_is_intact,
        "previous_sequence": facts.previous_sequence,
        "first_sequence": facts.first_sequence,
        "last_sequence": facts.last_sequence,
        "records": {"batch": facts.records - facts.undecodable, "undecodable": facts.undecodable},
        "samples": facts.samples,
        "histograms": facts.histograms,
        "exemplars": facts.exemplars,
        "metadata": facts.metadata,
        "definitions": facts.definitions,
        "definition_bytes": facts.definition_bytes,
        "row_bytes": facts.row_bytes,
        "damaged": damaged.collect::<Vec<_>>(),
    })
}
