//! `anchored` and `smoothed`: what a selector looks at beyond its window.
//!
//! The samples around a window's edges count as well: `anchored` takes those of the lookback before
//! the window, `smoothed` also those of the lookback after it.

use crate::engine::QueryError;
use crate::functions::FunctionId;
use crate::parser::ast::RangeExtension;
use crate::plan::{Times, View};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension {
    pub(crate) kind: RangeExtension,
    /// The view, with the lookback before and, if smoothed, after it.
    pub(crate) reach: View,
}

impl Extension {
    /// Of a range selector.
    pub(crate) fn of_range(
        kind: Option<RangeExtension>,
        view: View,
        lookback_ms: i64,
    ) -> Option<Extension> {
        let View { times, window_ms } = view;
        let kind = kind?;
        let reach = match kind {
            RangeExtension::Anchored => {
                View { times, window_ms: window_ms.saturating_add(lookback_ms) }
            }
            RangeExtension::Smoothed => View {
                times: Times { first_ms: times.first_ms.saturating_add(lookback_ms), ..times },
                window_ms: window_ms.saturating_add(lookback_ms.saturating_mul(2)),
            },
        };
        Some(Extension { kind, reach })
    }

    /// Of an instant selector, whose view is the lookback; `anchored` changes nothing there.
    pub(super) fn of_instant(kind: Option<RangeExtension>, view: View) -> Option<Extension> {
        let smoothed = kind.filter(|kind| *kind == RangeExtension::Smoothed)?;
        let instant = View { window_ms: 0, ..view };
        Extension::of_range(Some(smoothed), instant, view.window_ms)
    }

    /// The same for some of the steps.
    pub(crate) fn part(self, start: usize, steps: usize) -> Extension {
        let times = self.reach.times.part(start, steps);
        Extension { reach: View { times, ..self.reach }, ..self }
    }

    /// Functions that make nothing of samples outside of their window are refused.
    pub(crate) fn check(self, id: FunctionId, name: &str) -> Result<(), QueryError> {
        use FunctionId::{Changes, Delta, Increase, Rate, Resets};
        let (word, allowed, names): (_, &[FunctionId], _) = match self.kind {
            RangeExtension::Anchored => (
                "anchored",
                &[Changes, Delta, Increase, Rate, Resets],
                "changes, delta, increase, rate, resets",
            ),
            RangeExtension::Smoothed => {
                ("smoothed", &[Delta, Increase, Rate], "delta, increase, rate")
            }
        };
        if allowed.contains(&id) {
            return Ok(());
        }
        let text = format!("{word} modifier can only be used with: {names} - not with {name}");
        Err(QueryError::Execution(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lookback_is_added_on_one_side_or_both() {
        let times = Times { first_ms: 1000, step_ms: 10, steps: 3 };
        let view = View { times, window_ms: 60 };
        let reach = |kind| Extension::of_range(Some(kind), view, 300).unwrap().reach;
        let anchored = reach(RangeExtension::Anchored);
        assert_eq!((anchored.times, anchored.window_ms), (times, 360));
        let smoothed = reach(RangeExtension::Smoothed);
        assert_eq!((smoothed.times.first_ms, smoothed.window_ms), (1300, 660));
        let instant = Extension::of_instant(Some(RangeExtension::Smoothed), view).unwrap().reach;
        assert_eq!((instant.times.first_ms, instant.window_ms), (1060, 120));
    }
}
