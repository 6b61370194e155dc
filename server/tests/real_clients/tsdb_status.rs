//! `/api/v1/status/tsdb` beside Debian's Prometheus, which has the same series in its head.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::icecore::now_ms;
use crate::pair::{Pair, is_installed};
use crate::write_request::WriteRequest;

/// Icecore stores metrics of its own: `{__name__=~"metric_.*"}`.
const NOT_OWN: &str = "match[]=%7B__name__%3D~%22metric_.*%22%7D";

/// Not `memoryInBytesByLabelName`: Debian's Prometheus takes each value once, later ones once a series.
const LISTS: [&str; 3] =
    ["seriesCountByMetricName", "labelValueCountByLabelName", "seriesCountByLabelValuePair"];

fn series() -> Vec<Vec<(&'static str, String)>> {
    let mut series = Vec::new();
    for metric in 0..14usize {
        for pod in 0..metric * metric + 1 {
            series.push(vec![
                ("__name__", format!("metric_{metric}")),
                ("job", ["api", "node"][usize::from(metric % 5 == 0)].to_owned()),
                ("pod", format!("pod-{}", pod % 97)),
                ("zone", format!("zone-{}", pod / 7 % 5)),
                ("code", format!("{}", 100 * (pod / 97 + 1))),
            ]);
        }
    }
    series
}

fn entries(data: &Value, list: &str) -> Vec<(String, u64)> {
    let entry =
        |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["value"].as_u64().unwrap());
    data[list].as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn the_greatest_are_those_of_prometheus() {
    if !is_installed() {
        return;
    }
    let pair = Pair::start();
    let now = now_ms();
    let all = series();
    for part in all.chunks(300) {
        let add = |request: WriteRequest, labels: &Vec<(&str, String)>| {
            request.series(labels, &[(now, 1.0)])
        };
        pair.write(&part.iter().fold(WriteRequest::default(), add));
    }
    let ask = |limit| pair.get(&format!("/api/v1/status/tsdb?limit={limit}&{NOT_OWN}"));
    let [theirs, ours] = ask(10).map(|answer| answer.data());
    let complete = ask(10_000)[1].data();
    assert_eq!(ours["totalSeries"], theirs["headStats"]["numSeries"]);
    assert_eq!(ours["totalLabelValuePairs"], theirs["headStats"]["numLabelPairs"]);
    for list in LISTS {
        let (theirs, ours) = (entries(&theirs, list), entries(&ours, list));
        let counts = |entries: &[(String, u64)]| -> Vec<u64> {
            entries.iter().map(|(_, count)| *count).collect()
        };
        assert_eq!(counts(&ours), counts(&theirs), "{list}: {ours:?} against {theirs:?}");
        // Of equals each may name others.
        let known: BTreeMap<String, u64> = entries(&complete, list).into_iter().collect();
        for (name, count) in theirs {
            assert_eq!(known.get(&name), Some(&count), "{list}: {name}");
        }
    }
    assert_eq!(theirs["headStats"]["minTime"], now);
    pair.end();
}
