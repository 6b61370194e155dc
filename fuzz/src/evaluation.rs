//! Any text as a query over a few series: it is answered or refused, and soon.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use icecore_query::engine::{Engine, EngineOptions, QueryError, QueryOptions};
use icecore_query::parser::{ParserOptions, parse};
use icecore_storage::labels::Labels;
use icecore_storage::metrics::histogram::{Counts, Histogram, ResetHint, Span};
use icecore_storage::metrics::sample::{Samples, stale_nan};

use crate::generate::choices::Choices;
use crate::generate::data::{self, Extent, Value};
use crate::generate::query::{self, Grammar};
use crate::memory::Memory;

/// Longer queries take longer, which says nothing.
const QUERY_BYTES_MAX: usize = 4 << 10;

/// The samples that one query may hold: what takes long needs many.
const SAMPLES_MAX: usize = 200_000;

/// Much longer than any query takes that keeps to its budget.
const TIME_MAX: Duration = Duration::from_secs(20);

const START_MS: i64 = 1_000_000 * 60_000;

const EXTENT: Extent =
    Extent { start_ms: START_MS, scrapes: 60, targets: 3, natives: true, young_counters: true };

/// The first byte says when to ask, the rest is the query.
pub fn evaluation(bytes: &[u8]) {
    let Some((when, text)) = bytes.split_first() else { return };
    if let Ok(text) = std::str::from_utf8(&text[..text.len().min(QUERY_BYTES_MAX)]) {
        evaluate(*when, text);
    }
}

/// The first byte says when to ask, the rest is the choices of a generator of queries.
pub fn generated_query(bytes: &[u8]) {
    let Some((when, choices)) = bytes.split_first() else { return };
    let choices = choices.iter().map(|byte| u32::from(*byte)).collect();
    let at = (START_MS / 1000, START_MS / 1000 + 900);
    let everything = Grammar {
        at: Some(at),
        extended_selectors: true,
        natives: true,
        gated: true,
        ..Grammar::COMMON
    };
    evaluate(*when, &query::vector(everything, &mut Choices::new(choices)));
}

fn evaluate(when: u8, text: &str) {
    let Ok(expr) = parse(text, ParserOptions::ALL) else { return };
    let engine = Engine::new(EngineOptions {
        max_samples: SAMPLES_MAX,
        delayed_name_removal: when & 1 == 1,
        use_start_timestamps: when & 2 == 2,
        ..EngineOptions::default()
    });
    let deadline = Some(Instant::now() + TIME_MAX);
    let options = QueryOptions { deadline, ..QueryOptions::default() };
    let time_ms = START_MS + i64::from(when >> 4) * 60_000 + 500;
    let answer = match when & 12 {
        0 => engine.instant(memory(), text, &expr, time_ms, &options),
        4 => engine.range(memory(), text, &expr, time_ms, time_ms + 600_000, 7_000, &options),
        8 => engine.range(memory(), text, &expr, START_MS, time_ms, 60_000, &options),
        _ => engine.range(memory(), text, &expr, -1_000, 1_000, 1, &options),
    };
    if let Err(error) = answer {
        let late = matches!(error, QueryError::Timeout(_));
        assert!(!late, "{text} takes longer than {TIME_MAX:?}");
    }
}

fn memory() -> &'static Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    MEMORY.get_or_init(|| {
        let all = data::series(EXTENT, &mut Choices::from_seed(1));
        let series = all.into_iter().map(|series| {
            let labels = Labels::from_pairs(series.labels).expect("names that differ");
            let mut samples = Samples::default();
            for (time, value) in series.samples {
                match value {
                    Value::Float(value) => samples.push(time, value),
                    Value::Stale => samples.push(time, stale_nan()),
                    Value::Native { sum, counts } => {
                        samples.push_histogram(time, native(sum, &counts));
                    }
                }
            }
            (labels, samples)
        });
        Memory { series: series.collect() }
    })
}

fn native(sum: f64, counts: &[u64]) -> Histogram {
    Histogram {
        schema: 0,
        zero_threshold: 0.0,
        sum,
        reset_hint: ResetHint::Unknown,
        positive_spans: vec![Span { offset: 0, length: counts.len() as u32 }],
        negative_spans: vec![],
        counts: Counts::Integer {
            count: counts.iter().sum(),
            zero_count: 0,
            positive: counts.to_vec(),
            negative: vec![],
        },
        custom_values: vec![],
    }
}
