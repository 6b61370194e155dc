//! Which steps of a query are taken from the cache and which are computed: a pure function.

use std::ops::Range;

/// Steps from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Steps of the extent of this number.
    Cached(usize, Range<i64>),
    Fresh(Range<i64>),
}

impl Piece {
    pub(crate) fn steps(&self) -> &Range<i64> {
        match self {
            Piece::Cached(_, steps) | Piece::Fresh(steps) => steps,
        }
    }
}

/// A query is evaluated in at most so many pieces: each of them selects series anew.
const FRESH_MAX: usize = 3;

/// Steps that are evaluated at least. A grid of a single step is not a range query's: `sort` would
/// sort.
const FRESH_STEPS_MIN: i64 = 2;

/// Cuts `wanted` into pieces, ascending and without gaps. `valid` are steps of extents that still
/// hold, apart from each other. With `some_fresh` the newest steps are computed in any case.
pub(crate) fn splice(
    wanted: &Range<i64>,
    valid: &[(usize, Range<i64>)],
    some_fresh: bool,
) -> Vec<Piece> {
    let mut valid: Vec<(usize, Range<i64>)> = valid.to_vec();
    valid.retain(|(_, steps)| !steps.is_empty());
    valid.sort_by_key(|(_, steps)| steps.start);
    loop {
        let mut pieces = gaps_filled(wanted, &valid);
        if some_fresh && !matches!(pieces.last(), Some(Piece::Fresh(_))) {
            cut_back(&mut pieces, wanted.end - FRESH_STEPS_MIN);
            pieces.push(Piece::Fresh(wanted.end - FRESH_STEPS_MIN..wanted.end));
        }
        let fresh = pieces.iter().filter(|piece| matches!(piece, Piece::Fresh(_))).count();
        if fresh <= FRESH_MAX {
            return widened(wanted, pieces);
        }
        let length = |(_, (_, steps)): &(usize, &(usize, Range<i64>))| steps.end - steps.start;
        let shortest = valid.iter().enumerate().min_by_key(length).map(|(at, _)| at);
        match shortest {
            Some(at) => drop(valid.remove(at)),
            None => return pieces,
        }
    }
}

fn gaps_filled(wanted: &Range<i64>, valid: &[(usize, Range<i64>)]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut next = wanted.start;
    for (extent, steps) in valid {
        if steps.start > next {
            pieces.push(Piece::Fresh(next..steps.start));
        }
        pieces.push(Piece::Cached(*extent, steps.clone()));
        next = steps.end;
    }
    if next < wanted.end {
        pieces.push(Piece::Fresh(next..wanted.end));
    }
    pieces
}

/// Ends the pieces at `end`.
fn cut_back(pieces: &mut Vec<Piece>, end: i64) {
    pieces.retain(|piece| piece.steps().start < end);
    if let Some(Piece::Cached(_, steps) | Piece::Fresh(steps)) = pieces.last_mut() {
        steps.end = steps.end.min(end);
    }
}

/// Gives fresh pieces their least length at the cost of the cached ones before or after.
fn widened(wanted: &Range<i64>, pieces: Vec<Piece>) -> Vec<Piece> {
    let is_short = |piece: &Piece| {
        let steps = piece.steps();
        matches!(piece, Piece::Fresh(_)) && steps.end - steps.start < FRESH_STEPS_MIN
    };
    let mut whole: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let steps = piece.steps().clone();
        match (whole.last_mut(), piece) {
            // What a short piece took from its successor.
            (Some(Piece::Fresh(before)), Piece::Cached(extent, _)) if before.end > steps.start => {
                let rest = before.end.min(steps.end)..steps.end;
                if !rest.is_empty() {
                    whole.push(Piece::Cached(extent, rest));
                }
            }
            (Some(Piece::Fresh(before)), Piece::Fresh(_)) => {
                before.end = before.end.max(steps.end);
            }
            (_, piece) if is_short(&piece) => {
                let start = steps.end - FRESH_STEPS_MIN;
                if start >= wanted.start {
                    cut_back(&mut whole, start);
                    match whole.last_mut() {
                        Some(Piece::Fresh(before)) => before.end = steps.end,
                        _ => whole.push(Piece::Fresh(start..steps.end)),
                    }
                } else {
                    let end = wanted.end.min(steps.start + FRESH_STEPS_MIN);
                    whole.push(Piece::Fresh(steps.start..end));
                }
            }
            (_, piece) => whole.push(piece),
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Piece::{Cached, Fresh};

    fn check(wanted: Range<i64>, valid: &[(usize, Range<i64>)], fresh: bool, expected: &[Piece]) {
        assert_eq!(splice(&wanted, valid, fresh), expected, "{wanted:?} of {valid:?}");
    }

    #[test]
    fn what_is_missing_is_computed() {
        check(0..10, &[], false, &[Fresh(0..10)]);
        check(0..10, &[(0, 0..10)], false, &[Cached(0, 0..10)]);
        check(0..10, &[(0, 0..7)], false, &[Cached(0, 0..7), Fresh(7..10)]);
        check(0..10, &[(0, 4..10)], false, &[Fresh(0..4), Cached(0, 4..10)]);
        check(
            0..10,
            &[(1, 5..8), (0, 0..3)],
            false,
            &[Cached(0, 0..3), Fresh(3..5), Cached(1, 5..8), Fresh(8..10)],
        );
    }

    #[test]
    fn a_single_step_takes_a_neighbour_with_it() {
        check(0..10, &[(0, 0..9)], false, &[Cached(0, 0..8), Fresh(8..10)]);
        check(0..10, &[(0, 1..10)], false, &[Fresh(0..2), Cached(0, 2..10)]);
        check(0..2, &[(0, 0..1)], false, &[Fresh(0..2)]);
        check(0..1, &[], false, &[Fresh(0..1)]);
    }

    #[test]
    fn something_fresh_can_be_had_of_what_is_all_there() {
        check(0..10, &[(0, 0..10)], true, &[Cached(0, 0..8), Fresh(8..10)]);
        check(0..10, &[(0, 0..7)], true, &[Cached(0, 0..7), Fresh(7..10)]);
    }

    #[test]
    fn short_islands_are_given_up() {
        let islands = [(0, 0..20), (0, 22..24), (0, 26..28), (0, 30..50), (0, 52..60)];
        let expected = [
            Cached(0, 0..20),
            Fresh(20..26),
            Cached(0, 26..28),
            Fresh(28..30),
            Cached(0, 30..50),
            Fresh(50..52),
            Cached(0, 52..60),
        ];
        check(0..60, &islands, false, &expected);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_query_once(
            length in 1..40i64,
            cuts in prop::collection::vec(any::<bool>(), 40),
            some_fresh in any::<bool>(),
        ) {
            let wanted = 100..100 + length;
            let mut valid: Vec<(usize, Range<i64>)> = Vec::new();
            for (at, is_valid) in cuts.iter().enumerate().take(length as usize) {
                let step = 100 + at as i64;
                match valid.last_mut() {
                    Some((_, last)) if *is_valid && last.end == step => last.end += 1,
                    _ if *is_valid => valid.push((at % 3, step..step + 1)),
                    _ => {}
                }
            }
            let some_fresh = some_fresh && length >= FRESH_STEPS_MIN;
            let pieces = splice(&wanted, &valid, some_fresh);
            let mut next = wanted.start;
            for piece in &pieces {
                prop_assert_eq!(piece.steps().start, next, "{:?}", pieces);
                prop_assert!(!piece.steps().is_empty());
                next = piece.steps().end;
                match piece {
                    Piece::Fresh(steps) => {
                        prop_assert!(steps.end - steps.start >= FRESH_STEPS_MIN.min(length));
                    }
                    Piece::Cached(extent, steps) => {
                        let holds = valid.iter().any(|(of, valid)| {
                            of == extent && valid.start <= steps.start && steps.end <= valid.end
                        });
                        prop_assert!(holds, "{:?} of {:?}", pieces, valid);
                    }
                }
            }
            prop_assert_eq!(next, wanted.end);
            let fresh = pieces.iter().filter(|piece| matches!(piece, Piece::Fresh(_))).count();
            prop_assert!(fresh <= FRESH_MAX && (fresh > 0 || !some_fresh));
        }
    }
}
