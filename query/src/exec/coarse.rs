//! Where raw samples are gone and a query does not fit the rollups that are left.
//!
//! A window of less than two buckets is widened to two, and what grows with its length is scaled
//! back to what was asked; an instant selector looks back two buckets. The answer says so.

use crate::exec::Session;
use crate::exec::outline::Outline;
use crate::exec::rows::{RowBuffer, for_each_bit};
use crate::exec::window::WindowCall;
use crate::functions::{self, FunctionId};
use crate::parser::ast::Span;
use crate::plan::View;

/// A view that sees a sample wherever there are buckets one after the other.
pub(crate) fn look_back(view: View, resolution_ms: i64) -> View {
    View { window_ms: view.window_ms.max(resolution_ms.saturating_mul(2)), ..view }
}

/// The call over windows of two buckets at least.
pub(crate) fn widen<'a>(
    call: &WindowCall<'a>,
    resolution_ms: i64,
    session: &mut Session<'_>,
) -> WindowCall<'a> {
    if resolution_ms == 0 {
        return *call;
    }
    if call.extension.is_some() || !Outline::is_right_on_rollups(call.id) {
        note_last_samples(functions::name(call.id), resolution_ms, call.span, session);
    }
    let view = look_back(call.view, resolution_ms);
    if view.window_ms > call.view.window_ms {
        session.annotations.window_widened(call.view.window_ms, view.window_ms, call.span);
    }
    WindowCall { view, ..*call }
}

/// Scales results on wider windows back to those that were asked for.
pub(crate) fn narrow(call: &WindowCall<'_>, wide: &WindowCall<'_>, row: &mut RowBuffer) {
    use FunctionId::{CountOverTime, Delta, Increase, SumOverTime};
    let is_widened = wide.view.window_ms > call.view.window_ms;
    if !is_widened || !matches!(call.id, CountOverTime | Delta | Increase | SumOverTime) {
        return;
    }
    let share = call.view.window_ms as f64 / wide.view.window_ms as f64;
    let RowBuffer { values, valid, .. } = row;
    for_each_bit(valid, |step| values[step] *= share);
}

/// Says that a function which needs all samples had the last ones of buckets.
pub(crate) fn note_last_samples(
    function: &str,
    resolution_ms: i64,
    span: Span,
    session: &mut Session<'_>,
) {
    if resolution_ms > 0 {
        session.annotations.last_samples_only(function, resolution_ms, span);
    }
}
