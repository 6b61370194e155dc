//! Civil time in UTC, as PromQL's date functions see it.
//!
//! Seconds since the epoch may be any `i64`: Go's arithmetic wraps into a year far in the future
//! for what a float cannot say, and [`Civil::at`] follows it.

use crate::functions::FunctionId;

/// A moment's calendar fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    second_of_day: i64,
}

const SECONDS_PER_DAY: u64 = 86_400;
const DAYS_PER_400_YEARS: i64 = 146_097;
/// Seconds from the first day of the year -292277022399, from which Go counts, to 1970.
const EPOCH_IN_GO: u64 = 9_223_372_028_715_321_600;
/// 400-year cycles from the year -292277022399 to the year 1.
const GO_CYCLES: i64 = 730_692_556;

impl Civil {
    pub(crate) fn at(unix_seconds: i64) -> Civil {
        let absolute = (unix_seconds as u64).wrapping_add(EPOCH_IN_GO);
        let days = (absolute / SECONDS_PER_DAY) as i64;
        let cycles = days / DAYS_PER_400_YEARS;
        let day_of_cycle = days % DAYS_PER_400_YEARS;
        // Years of a cycle that starts with a year ≡ 1 (mod 400): 100-year and 4-year cycles end
        // with the leap day, so the last of each may be a day longer.
        let centuries = (day_of_cycle / 36_524).min(3);
        let day_of_century = day_of_cycle - centuries * 36_524;
        let quads = day_of_century / 1_461;
        let day_of_quad = day_of_century - quads * 1_461;
        let years = (day_of_quad / 365).min(3);
        let day_of_year = day_of_quad - years * 365;
        let year = 1 + (cycles - GO_CYCLES) * 400 + centuries * 100 + quads * 4 + years;
        let (month, day) = month_and_day(day_of_year, is_leap(year));
        Civil {
            year,
            month,
            day,
            day_of_year: day_of_year + 1,
            weekday: (days + 1) % 7,
            second_of_day: (absolute % SECONDS_PER_DAY) as i64,
        }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_days(month: i64, leap: bool) -> i64 {
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn month_and_day(day_of_year: i64, leap: bool) -> (i64, i64) {
    let mut rest = day_of_year;
    for month in 1..12 {
        let days = month_days(month, leap);
        if rest < days {
            return (month, rest + 1);
        }
        rest -= days;
    }
    (12, rest + 1)
}

/// The field that a date function names; `None` if the function is none.
pub(crate) fn date_field(id: FunctionId) -> Option<fn(Civil) -> i64> {
    Some(match id {
        FunctionId::Year => |time: Civil| time.year,
        FunctionId::Month => |time: Civil| time.month,
        FunctionId::DayOfMonth => |time: Civil| time.day,
        FunctionId::DayOfYear => |time: Civil| time.day_of_year,
        FunctionId::DayOfWeek => |time: Civil| time.weekday,
        FunctionId::DaysInMonth => |time: Civil| month_days(time.month, is_leap(time.year)),
        FunctionId::Hour => |time: Civil| time.second_of_day / 3600,
        FunctionId::Minute => |time: Civil| time.second_of_day / 60 % 60,
        _ => return None,
    })
}

/// `2006-01-02T15:04:05Z`.
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    let time = Civil::at(unix_seconds);
    let second = time.second_of_day;
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year,
        time.month,
        time.day,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_136_239_445), "2006-01-02T22:04:05Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(1_483_191_420), "2016-12-31T13:37:00Z");
        assert_eq!(Civil::at(0).weekday, 4);
        assert_eq!(Civil::at(1_483_191_420).day_of_year, 366);
    }

    #[test]
    fn months_have_their_days() {
        let days = date_field(FunctionId::DaysInMonth).unwrap();
        assert_eq!(days(Civil::at(1_454_284_800)), 29);
        assert_eq!(days(Civil::at(1_485_907_200)), 28);
    }

    #[test]
    fn what_no_float_can_say_wraps_as_in_go() {
        assert!(Civil::at(i64::MIN).year > 292_277_020_000);
    }
}
