//! The report as JSON: what `/api/v1/status/retention` answers with. Times are RFC 3339, days are
//! dates of UTC, sizes are bytes.

use icecore_storage::retention::capacity::{
    Capacity, DAYS_MIN, DayRow, Drop, Forecast, Full, Growth, Limit, Top, Why,
};
use icecore_storage::retention::plan::EVICTION_ORDER;
use icecore_storage::retention::policy::{Tier, resolution};
use icecore_storage::retention::report::{Report, Row};
use icecore_storage::time::DAY_MS;
use serde::{Deserialize, Serialize};

use crate::duration;
use crate::http::time::format_rfc3339;

/// How raw bytes are counted.
const RAW_BYTES: &str = "16 bytes a sample, a timestamp and a float, as they were sent; a native \
    histogram 8 for its timestamp and 8 for each of its numbers; of a rollup, the samples that it was \
    made of";

/// A [`Report`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub time: String,
    /// The newest sample; null if there is none.
    pub newest: Option<String>,
    /// Of all live files: blocks, checkpoint and log.
    pub total_bytes: u64,
    pub files: FilesJson,
    /// What can still be written, as far as the disk knows.
    pub disk_free_bytes: Option<u64>,
    pub disk_budget_bytes: Option<u64>,
    /// Bytes of blocks once what goes now is gone, and what has to be split is split.
    pub kept_bytes: u64,
    pub rows: Vec<RowJson>,
    /// Of blocks.
    pub bytes: u64,
    /// What has outlived its retention, or would have.
    #[serde(rename = "expiredBytes")]
    pub expired_bytes: u64,
    /// What goes before its time to keep to the disk budget, or would.
    #[serde(rename = "evictedBytes")]
    pub evicted_bytes: u64,
    /// Bytes of blocks that a legal hold keeps; they are not among what expired.
    #[serde(rename = "onHoldBytes")]
    pub on_hold_bytes: u64,
    /// Bytes of blocks that wait to be split or looked at after a change of policies.
    #[serde(rename = "pendingBytes")]
    pub pending_bytes: u64,
    /// What expired is so much at once that it waits for a confirmation.
    pub held: bool,
    pub days: Vec<DayJson>,
    pub drops: Vec<DropJson>,
    /// Null where too few days are complete to tell it.
    pub growth: Option<GrowthJson>,
    pub forecast: Option<ForecastJson>,
    pub top: TopJson,
    /// What goes first when the disk budget is used up.
    pub eviction_order: String,
    pub raw_bytes_are: String,
    /// What a reader should know.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilesJson {
    pub block_bytes: u64,
    pub checkpoint_bytes: u64,
    pub log_bytes: u64,
    /// Manifests, files in the making or in quarantine; not in the total.
    pub other_bytes: u64,
}

/// Blocks of a class and tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowJson {
    #[serde(rename = "data_type")]
    pub data_type: String,
    /// The class by its tiers; "pending" while it is not known.
    pub class: String,
    pub tier: String,
    pub lifetime: String,
    pub blocks: u64,
    pub bytes: u64,
    /// Of which are estimates of what the parts of blocks of several classes will take.
    pub estimated_bytes: u64,
    pub oldest: String,
    pub newest: String,
    pub next_drop: Option<String>,
    pub expired_blocks: u64,
    pub expired_bytes: u64,
}

/// What is stored of a class and tier of a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DayJson {
    pub data_type: String,
    pub class: String,
    /// Selectors of the policies that give the class; "" for everything else.
    pub policies: Vec<String>,
    pub tier: String,
    pub day: String,
    pub series: u64,
    /// If not, there are at least so many.
    pub series_exact: bool,
    pub rows: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Raw bytes for a stored one; null where nothing is stored.
    pub ratio: Option<f64>,
    /// Numbers of blocks that are to be split, or do not say what they hold by day.
    pub estimated: bool,
    pub oldest: String,
    pub newest: String,
    /// When the last of it goes; null where that cannot be told.
    pub drop_at: Option<String>,
    pub why: String,
    /// 1 goes first when the disk budget is used up; null never.
    pub eviction_rank: Option<u32>,
}

/// What goes on a day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DropJson {
    pub day: String,
    pub data_type: String,
    pub class: String,
    pub tier: String,
    pub blocks: u64,
    pub bytes: u64,
    pub why: String,
}

/// Complete days of the past.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GrowthJson {
    pub first_day: String,
    pub last_day: String,
    pub days: u64,
    /// Stored bytes a day.
    pub mean_bytes: u64,
    pub p50_bytes: u64,
    pub p90_bytes: u64,
    /// Raw samples a day, in the mean.
    pub mean_rows: u64,
    pub mean_raw_bytes: u64,
    /// The last week against the one before; null before there are two.
    pub change_a_week_percent: Option<f64>,
}

/// What growth leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ForecastJson {
    /// How it was worked out.
    pub method: String,
    pub horizon_days: u64,
    /// What all files take once as much goes a day as comes.
    pub settles_at_bytes: u64,
    /// Until the disk budget begins to evict.
    pub budget: Option<LimitJson>,
    /// Until nothing can be written.
    pub disk: Option<LimitJson>,
    pub sizes: Vec<SizeJson>,
}

/// In how many days something is full; null for not within the horizon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LimitJson {
    pub limit_bytes: u64,
    pub used_bytes: u64,
    pub days_p50: Option<u64>,
    pub days_p90: Option<u64>,
    pub date_p50: Option<String>,
    pub date_p90: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SizeJson {
    pub date: String,
    pub p50_bytes: u64,
    pub p90_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TopJson {
    pub metrics: Vec<MetricJson>,
    pub other_metrics_bytes: u64,
    pub labels: Vec<LabelJson>,
    /// A label has at most so many bytes more than are listed, or in all if it is not.
    pub labels_error_bytes: u64,
    /// Timestamps, indexes and what else belongs to all series of a file.
    pub shared_bytes: u64,
    /// Of blocks that do not say which metrics they hold.
    pub unknown_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MetricJson {
    pub name: String,
    /// The most that one block has.
    pub series: u64,
    pub stored_bytes: u64,
}

/// A series counts for each of its labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LabelJson {
    pub name: String,
    pub value: String,
    pub stored_bytes: u64,
}

/// `2026-11-22`.
pub(crate) fn date(ms: i64) -> String {
    format_rfc3339(ms).split('T').next().unwrap_or_default().to_owned()
}

fn class_name(tiers: &[Tier]) -> String {
    match tiers {
        [] => "pending".to_owned(),
        tiers => tiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn reason(why: &Why, tier: Tier) -> String {
    match why {
        Why::Lifetime => format!("lifetime of {tier} ends"),
        Why::DiskBudget => "goes before its time, to keep to disk_budget".to_owned(),
        Why::ClassPending => {
            format!("class not known since the policies changed: at the latest after {tier}")
        }
        Why::AwaitsRollup => "over, and waits to be rolled up".to_owned(),
        Why::AwaitsConfirmation => "over, and waits for a confirmation, as it is much".to_owned(),
        Why::OnHold(ids) => format!("on legal hold {}", ids.join(", ")),
    }
}

impl From<&Report> for Document {
    fn from(report: &Report) -> Document {
        let capacity = &report.capacity;
        Document {
            time: format_rfc3339(capacity.now_ms),
            newest: capacity.newest_ms.map(format_rfc3339),
            total_bytes: capacity.files.total(),
            files: FilesJson {
                block_bytes: capacity.files.blocks,
                checkpoint_bytes: capacity.files.checkpoint,
                log_bytes: capacity.files.log,
                other_bytes: capacity.files.other,
            },
            disk_free_bytes: capacity.free_bytes,
            disk_budget_bytes: capacity.disk_budget,
            kept_bytes: report.kept_bytes,
            rows: report.rows.iter().map(RowJson::from).collect(),
            bytes: report.rows.iter().map(|row| row.bytes).sum(),
            expired_bytes: report.expired_bytes(),
            evicted_bytes: report.evicted_bytes,
            on_hold_bytes: report.on_hold_bytes,
            pending_bytes: report.pending_bytes,
            held: report.is_held,
            days: capacity.days.iter().map(DayJson::from).collect(),
            drops: capacity.drops.iter().map(DropJson::from).collect(),
            growth: capacity.growth.as_ref().map(GrowthJson::from),
            forecast: capacity.forecast.as_ref().map(|one| forecast(one, capacity)),
            top: TopJson::from(&capacity.top),
            eviction_order: EVICTION_ORDER.to_owned(),
            raw_bytes_are: RAW_BYTES.to_owned(),
            notes: notes(report),
        }
    }
}

/// What would otherwise be misread.
fn notes(report: &Report) -> Vec<String> {
    let capacity = &report.capacity;
    let mut notes = Vec::new();
    if capacity.newest_ms.is_none() {
        notes.push("nothing is stored yet".to_owned());
    } else if capacity.growth.is_none() {
        notes.push(format!(
            "growth is not known: of {} complete days nothing can be told, {DAYS_MIN} are needed (the \
             first day of all and today do not count)",
            capacity.complete_days
        ));
    }
    if let Some(newest_ms) = capacity.newest_ms.filter(|newest_ms| *newest_ms > capacity.now_ms) {
        notes.push(format!(
            "the clock says {} and is behind the newest sample, of {}: days and dates may be wrong",
            format_rfc3339(capacity.now_ms),
            format_rfc3339(newest_ms)
        ));
    }
    if report.is_held {
        notes.push(
            "what has outlived its retention is so much at once that it waits for \
             POST /api/v1/admin/retention/confirm; forecasts count it as staying"
                .to_owned(),
        );
    }
    if report.pending_bytes > 0 {
        notes.push(format!(
            "{} bytes have a class by older policies and are looked at in the background",
            report.pending_bytes
        ));
    }
    let missing = missing_tiers(report);
    if !missing.is_empty() {
        notes.push(format!(
            "nothing is stored yet of {}, so no forecast counts it",
            missing.join(" and of ")
        ));
    }
    if capacity.days.iter().any(|row| row.is_estimated) {
        notes.push(
            "some days are estimates: of blocks that are to be split, or of an earlier version"
                .to_owned(),
        );
    }
    if capacity.top.unknown_bytes > 0 {
        let bytes = capacity.top.unknown_bytes;
        notes.push(format!("{bytes} bytes of blocks of an earlier version are of metrics unknown"));
    }
    notes
}

/// Tiers that a class has and of which nothing is there.
fn missing_tiers(report: &Report) -> Vec<String> {
    let has = |class: &[Tier], tier: &Tier| {
        let mut rows = report.rows.iter();
        rows.any(|row| row.class == class && row.tier.resolution_ms == tier.resolution_ms)
    };
    let mut missing = Vec::new();
    for row in &report.rows {
        for tier in row.class.iter().filter(|tier| !has(&row.class, tier)) {
            let name = format!("tier {tier}");
            if !missing.contains(&name) {
                missing.push(name);
            }
        }
    }
    missing
}

impl From<&Row> for RowJson {
    fn from(row: &Row) -> RowJson {
        RowJson {
            data_type: row.data_type.name().to_owned(),
            class: class_name(&row.class),
            tier: resolution(row.tier.resolution_ms),
            lifetime: duration::format_ms(row.tier.lifetime_ms),
            blocks: row.blocks,
            bytes: row.bytes,
            estimated_bytes: row.estimated_bytes,
            oldest: format_rfc3339(row.range.start_ms),
            newest: format_rfc3339(row.range.end_ms),
            next_drop: row.next_drop_ms.map(format_rfc3339),
            expired_blocks: row.expired_blocks,
            expired_bytes: row.expired_bytes,
        }
    }
}

impl From<&DayRow> for DayJson {
    fn from(row: &DayRow) -> DayJson {
        let ratio = row.raw_bytes as f64 / row.bytes as f64;
        DayJson {
            data_type: row.data_type.name().to_owned(),
            class: class_name(&row.class),
            policies: row.policies.iter().map(|text| braced(text)).collect(),
            tier: resolution(row.tier.resolution_ms),
            day: date(row.day_ms),
            series: row.series,
            series_exact: row.series_is_exact,
            rows: row.rows,
            raw_bytes: row.raw_bytes,
            stored_bytes: row.bytes,
            ratio: (row.bytes > 0).then(|| (ratio * 100.0).round() / 100.0),
            estimated: row.is_estimated,
            oldest: format_rfc3339(row.range.start_ms),
            newest: format_rfc3339(row.range.end_ms),
            drop_at: row.drop_ms.map(format_rfc3339),
            why: reason(&row.why, row.tier),
            eviction_rank: row.eviction_rank,
        }
    }
}

fn braced(matchers: &str) -> String {
    match matchers {
        "" => String::new(),
        text => format!("{{{text}}}"),
    }
}

impl From<&Drop> for DropJson {
    fn from(drop: &Drop) -> DropJson {
        DropJson {
            day: date(drop.day_ms),
            data_type: drop.data_type.name().to_owned(),
            class: class_name(&drop.class),
            tier: resolution(drop.tier.resolution_ms),
            blocks: drop.blocks,
            bytes: drop.bytes,
            why: reason(&drop.why, drop.tier),
        }
    }
}

impl From<&Growth> for GrowthJson {
    fn from(growth: &Growth) -> GrowthJson {
        let percent = |change: f64| (change * 1000.0).round() / 10.0;
        GrowthJson {
            first_day: date(growth.first_day_ms),
            last_day: date(growth.last_day_ms),
            days: growth.days,
            mean_bytes: growth.mean,
            p50_bytes: growth.p50,
            p90_bytes: growth.p90,
            mean_rows: growth.rows,
            mean_raw_bytes: growth.raw_bytes,
            change_a_week_percent: growth.change_a_week.map(percent),
        }
    }
}

fn forecast(forecast: &Forecast, capacity: &Capacity) -> ForecastJson {
    let day_ms = |days: u64| {
        let ahead = i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
        capacity.now_ms.saturating_add(ahead)
    };
    let limit = |limit: &Limit| {
        let Full { p50_days, p90_days } = limit.full;
        LimitJson {
            limit_bytes: limit.bytes,
            used_bytes: limit.used,
            days_p50: p50_days,
            days_p90: p90_days,
            date_p50: p50_days.map(|days| date(day_ms(days))),
            date_p90: p90_days.map(|days| date(day_ms(days))),
        }
    };
    let days = capacity.growth.as_ref().map_or(0, |growth| growth.days);
    let sizes = forecast.sizes.iter().map(|size| SizeJson {
        date: date(day_ms(size.days_from_now)),
        p50_bytes: size.p50,
        p90_bytes: size.p90,
    });
    ForecastJson {
        method: format!(
            "{} futures, each day of which is one of the last {days} complete days, drawn at random with \
             a fixed seed; what is stored goes by its dates. p50: half of the futures are no worse; \
             p90: nine of ten",
            forecast.futures
        ),
        horizon_days: forecast.horizon_days,
        settles_at_bytes: forecast.settles_at,
        budget: forecast.budget.as_ref().map(limit),
        disk: forecast.disk.as_ref().map(limit),
        sizes: sizes.collect(),
    }
}

impl From<&Top> for TopJson {
    fn from(top: &Top) -> TopJson {
        let metrics = top.metrics.iter().map(|metric| MetricJson {
            name: metric.name.clone(),
            series: metric.series,
            stored_bytes: metric.bytes,
        });
        let labels = top.labels.iter().map(|pair| LabelJson {
            name: pair.name.clone(),
            value: pair.value.clone(),
            stored_bytes: pair.bytes,
        });
        TopJson {
            metrics: metrics.collect(),
            other_metrics_bytes: top.other_metrics_bytes,
            labels: labels.collect(),
            labels_error_bytes: top.labels_error_bytes,
            shared_bytes: top.shared_bytes,
            unknown_bytes: top.unknown_bytes,
        }
    }
}
