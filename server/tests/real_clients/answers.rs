//! Whether two answers of the query API are the same.
//!
//! The same are: the type of the result, its series, their timestamps, and their values to a
//! relative [`RELATIVE_TOLERANCE`] or an absolute [`NOISE`], NaN being NaN. Order counts where the query asks for one.

use std::collections::BTreeMap;

use serde_json::Value;

const RELATIVE_TOLERANCE: f64 = 1e-9;

/// What is left where all digits cancel out, as of a deviation of equal rates, depends on their order.
const NOISE: f64 = 1e-15;

/// Why the answers (`data` of each) differ.
pub(crate) fn compare(query: &str, left: &Value, right: &Value) -> Result<(), String> {
    let result_type = &left["resultType"];
    if *result_type != right["resultType"] {
        return Err(format!("{result_type} against {}", right["resultType"]));
    }
    if result_type != "vector" && result_type != "matrix" {
        return same_point(&left["result"], &right["result"]);
    }
    let (lefts, rights) = (by_labels(left), by_labels(right));
    for (labels, series) in &lefts {
        let Some(other) = rights.get(labels) else {
            return Err(format!("{labels} is only on the left: {series}"));
        };
        same_series(series, other).map_err(|difference| format!("{labels}: {difference}"))?;
    }
    if let Some((labels, series)) = rights.iter().find(|(labels, _)| !lefts.contains_key(*labels)) {
        return Err(format!("{labels} is only on the right: {series}"));
    }
    let is_ordered = ["sort", "topk", "bottomk"].iter().any(|word| query.starts_with(word));
    if is_ordered && result_type == "vector" { same_order(left, right) } else { Ok(()) }
}

/// Why the errors (whole answers) differ. Of several series that cannot be, each may name others.
pub(crate) fn compare_errors(left: &Value, right: &Value) -> Result<(), String> {
    let text = |answer: &Value| {
        let text = answer["error"].as_str().unwrap_or("").to_owned();
        match (text.find('{'), text.rfind('}')) {
            (Some(start), Some(end)) => text[..start].to_owned() + &text[end..],
            _ => text,
        }
    };
    let differs = |field: &&&str| left[**field] != right[**field];
    match ["status", "errorType"].iter().find(differs) {
        Some(field) => Err(format!("{field} differs")),
        None if text(left) != text(right) => Err("the error differs".into()),
        None => Ok(()),
    }
}

pub(crate) fn is_empty(data: &Value) -> bool {
    data["result"].as_array().is_some_and(Vec::is_empty)
}

fn by_labels(data: &Value) -> BTreeMap<String, &Value> {
    let series = data["result"].as_array().unwrap();
    let map: BTreeMap<String, &Value> =
        series.iter().map(|series| (series["metric"].to_string(), series)).collect();
    assert_eq!(map.len(), series.len(), "a series is there twice: {data}");
    map
}

fn same_series(left: &Value, right: &Value) -> Result<(), String> {
    let points = |series: &Value| match series.get("values") {
        Some(values) => values.as_array().unwrap().clone(),
        None => vec![series["value"].clone()],
    };
    let (lefts, rights) = (points(left), points(right));
    if lefts.len() != rights.len() {
        return Err(format!("{} points against {}", lefts.len(), rights.len()));
    }
    lefts.iter().zip(&rights).try_for_each(|(left, right)| same_point(left, right))
}

/// Points are `[seconds, "value"]`.
fn same_point(left: &Value, right: &Value) -> Result<(), String> {
    if milliseconds(left) == milliseconds(right) && same_value(value(left), value(right)) {
        Ok(())
    } else {
        Err(format!("{left} against {right}"))
    }
}

/// Series of equal values may stand in any order among themselves.
fn same_order(left: &Value, right: &Value) -> Result<(), String> {
    let values = |data: &Value| -> Vec<f64> {
        data["result"].as_array().unwrap().iter().map(|series| value(&series["value"])).collect()
    };
    let (lefts, rights) = (values(left), values(right));
    let same = lefts.iter().zip(&rights).all(|(left, right)| same_value(*left, *right));
    if same { Ok(()) } else { Err(format!("in order {lefts:?} against {rights:?}")) }
}

fn milliseconds(point: &Value) -> i64 {
    (point[0].as_f64().unwrap() * 1000.0).round() as i64
}

fn value(point: &Value) -> f64 {
    point[1].as_str().unwrap().parse().unwrap()
}

fn same_value(left: f64, right: f64) -> bool {
    let bound = (RELATIVE_TOLERANCE * left.abs().max(right.abs())).max(NOISE);
    let is_close = bound.is_finite() && (left - right).abs() <= bound;
    left == right || (left.is_nan() && right.is_nan()) || is_close
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vector(series: &[(&str, &str)]) -> Value {
        let result: Vec<Value> = series
            .iter()
            .map(|(name, value)| json!({"metric": {"a": name}, "value": [1.5, value]}))
            .collect();
        json!({"resultType": "vector", "result": result})
    }

    #[test]
    fn differences_are_noticed() {
        let left = vector(&[("x", "1"), ("y", "NaN"), ("z", "+Inf")]);
        let same = vector(&[("y", "NaN"), ("z", "+Inf"), ("x", "1.0000000001")]);
        assert_eq!(compare("up", &left, &same), Ok(()));
        for other in [
            vector(&[("x", "1.00000001"), ("y", "NaN"), ("z", "+Inf")]),
            vector(&[("x", "1"), ("y", "0"), ("z", "+Inf")]),
            vector(&[("x", "1"), ("y", "NaN"), ("z", "-Inf")]),
            vector(&[("x", "1"), ("y", "NaN")]),
            vector(&[("x", "1"), ("y", "NaN"), ("z", "+Inf"), ("w", "1")]),
            json!({"resultType": "scalar", "result": [1.5, "1"]}),
        ] {
            assert!(compare("up", &left, &other).is_err(), "{other}");
        }
        let (up, down) = (vector(&[("x", "1"), ("y", "2")]), vector(&[("y", "2"), ("x", "1")]));
        assert!(compare("sum", &up, &down).is_ok() && compare("sort(x)", &up, &down).is_err());
        let scalar = |at: f64| json!({"resultType": "scalar", "result": [at, "1"]});
        assert!(compare("1", &scalar(1.0), &scalar(1.001)).is_err());
    }
}
