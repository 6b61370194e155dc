//! Request parameters: the URL's query and a form body in one list.
//!
//! As Go's `Request.Form`: values of the body come before those of the URL, so that the body wins
//! where one value is wanted and both count where many are (`match[]`). vmalert posts with every
//! parameter in the URL, Grafana with all of them in the body. Unknown names are ignored: proxies
//! and Thanos send their own.

use std::num::IntErrorKind;
use std::time::Duration;

use icecore_query::go_format::quote;
use icecore_storage::time::TimeRange;

use crate::config::Config;
use crate::http::error::ApiError;
use crate::http::time::{MAX_TIME_MS, MIN_TIME_MS, parse_duration_ms, parse_time_ms};

#[derive(Clone, Debug, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// `body` is the form of a POST, empty where there is none.
    pub(crate) fn new(url_query: &str, body: &[u8]) -> Params {
        let body = form_urlencoded::parse(body);
        let url = form_urlencoded::parse(url_query.as_bytes());
        Params { pairs: body.chain(url).map(|(n, v)| (n.into_owned(), v.into_owned())).collect() }
    }

    /// The first value of that name; "" where it is missing, as Go's `FormValue`.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `query`, if it is not longer than `--query.max-length`.
    pub(crate) fn query(&self, config: &Config) -> Result<&str, ApiError> {
        let query = self.get("query");
        let (length, most) = (query.len(), config.query_bytes_max);
        if length > most {
            let error = format!("{length} bytes are more than --query.max-length={most}");
            return Err(ApiError::parameter("query", error));
        }
        Ok(query)
    }

    /// A time that must be there.
    pub(crate) fn time_ms(&self, name: &str) -> Result<i64, ApiError> {
        parse_time_ms(self.get(name)).map_err(|error| ApiError::parameter(name, error))
    }

    /// A time that need not.
    pub(crate) fn time_ms_or(&self, name: &str, default_ms: i64) -> Result<i64, ApiError> {
        match self.get(name) {
            "" => Ok(default_ms),
            text => parse_time_ms(text).map_err(|error| {
                ApiError::parameter(name, format!("invalid time value for '{name}': {error}"))
            }),
        }
    }

    /// `start` and `end`, by default all time.
    pub(crate) fn range(&self) -> Result<TimeRange, ApiError> {
        let start_ms = self.time_ms_or("start", MIN_TIME_MS)?;
        Ok(TimeRange::new(start_ms, self.time_ms_or("end", MAX_TIME_MS)?))
    }

    /// A duration that must be there.
    pub(crate) fn duration_ms(&self, name: &str) -> Result<i64, ApiError> {
        parse_duration_ms(self.get(name)).map_err(|error| ApiError::parameter(name, error))
    }

    /// `timeout`, where given.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        match self.get("timeout") {
            "" => Ok(None),
            _ => {
                let ms = self.duration_ms("timeout")?;
                Ok(Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
            }
        }
    }

    /// `lookback_delta`, where given.
    pub(crate) fn lookback_ms(&self) -> Result<Option<i64>, ApiError> {
        match self.get("lookback_delta") {
            "" => Ok(None),
            text => match parse_duration_ms(text) {
                // As in Prometheus, nothing means the server's own.
                Ok(ms) => Ok(Some(ms).filter(|ms| *ms > 0)),
                Err(error) => {
                    let text = format!("error parsing lookback delta duration: {error}");
                    Err(ApiError::bad_data(text))
                }
            },
        }
    }

    /// `max_source_resolution`, as Thanos has it: how coarse the rollups may be that are read. `None`
    /// if it is missing or `auto`.
    pub(crate) fn resolution_max_ms(&self) -> Result<Option<i64>, ApiError> {
        const NAME: &str = "max_source_resolution";
        match self.get(NAME) {
            "" | "auto" => Ok(None),
            text => match parse_duration_ms(text) {
                Ok(ms) if ms >= 0 => Ok(Some(ms)),
                Ok(_) => Err(ApiError::parameter(NAME, "it is negative")),
                Err(error) => Err(ApiError::parameter(NAME, error)),
            },
        }
    }

    /// A flag, as Go's `ParseBool` reads it; false where it is missing.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            text => Err(ApiError::parameter(name, format!("{text:?} is neither true nor false"))),
        }
    }

    /// `limit`, where given and not 0: both mean all.
    pub(crate) fn limit(&self) -> Result<Option<usize>, ApiError> {
        match self.get("limit") {
            "" => Ok(None),
            text => match text.parse::<i64>() {
                Ok(limit) if limit < 0 => {
                    Err(ApiError::parameter("limit", "limit must be non-negative"))
                }
                Ok(limit) => Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0)),
                Err(error) => Err(ApiError::parameter("limit", atoi_error(text, error.kind()))),
            },
        }
    }
}

/// As Go's `strconv.Atoi` complains.
fn atoi_error(text: &str, kind: &IntErrorKind) -> String {
    let why = match kind {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.Atoi: parsing {}: {why}", quote(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_wins_and_lists_are_united() {
        let params = Params::new("query=url&match[]=a&step=15", b"query=body&match%5B%5D=b+c");
        assert_eq!(params.get("query"), "body");
        assert_eq!(params.get("step"), "15");
        assert_eq!(params.get("absent"), "");
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["b c", "a"]);
    }

    #[test]
    fn how_coarse_rollups_may_be_is_a_duration_or_left_open() {
        let of = |text: &str| {
            Params::new(&format!("max_source_resolution={text}"), b"").resolution_max_ms()
        };
        for (text, ms) in [("0s", 0), ("5m", 300_000), ("1h", 3_600_000), ("90", 90_000)] {
            assert_eq!(of(text).unwrap(), Some(ms), "{text}");
        }
        assert_eq!((of("").unwrap(), of("auto").unwrap()), (None, None));
        for text in ["raw", "-5m", "-1", "5 m", "1h1h"] {
            let error = of(text).unwrap_err();
            assert!(error.message().contains("max_source_resolution"), "{text}");
        }
    }

    #[test]
    fn limits_are_not_negative_and_0_is_none() {
        let limit = |text: &str| Params::new(&format!("limit={text}"), b"").limit();
        assert_eq!(limit("").unwrap(), None);
        assert_eq!(limit("0").unwrap(), None);
        assert_eq!(limit("7").unwrap(), Some(7));
        let error = limit("-1").unwrap_err();
        assert_eq!(error.message(), r#"invalid parameter "limit": limit must be non-negative"#);
        for (text, why) in [
            ("NaN", r#"strconv.Atoi: parsing "NaN": invalid syntax"#),
            (
                "9999999999999999999",
                r#"strconv.Atoi: parsing "9999999999999999999": value out of range"#,
            ),
        ] {
            let message = format!("invalid parameter \"limit\": {why}");
            assert_eq!(limit(text).unwrap_err().message(), message);
        }
    }

    #[test]
    fn a_lookback_of_nothing_is_the_servers() {
        let lookback =
            |text: &str| Params::new(&format!("lookback_delta={text}"), b"").lookback_ms();
        assert_eq!(lookback("90s").unwrap(), Some(90_000));
        assert_eq!(lookback("0").unwrap(), None);
        assert_eq!(lookback("").unwrap(), None);
    }

    #[test]
    fn a_time_is_named_where_it_is_wrong() {
        let error = Params::new("time=x", b"").time_ms_or("time", 0).unwrap_err();
        assert_eq!(
            error.message(),
            r#"invalid parameter "time": invalid time value for 'time': cannot parse "x" to a valid timestamp"#
        );
    }
}
