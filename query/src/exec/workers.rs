//! Work on many series at once.
//!
//! A query computes on the thread that it came on, and borrows **idle threads** of the process's
//! pool, which has one for each core but the query's own. It never waits for one that is busy with
//! another query. So a query beside a heavy one always has a thread of its own, and the system
//! shares the cores out among them.
//!
//! Work comes in **waves** of pieces. While borrowed threads begin with a wave, the query's own
//! first folds the results of the wave before, in order; so a fold that must be in order costs no
//! parallelism, and at most two waves of results exist.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that queries have borrowed.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Pieces in a wave for each thread.
const PIECES_PER_THREAD: usize = 4;

/// A thread that is borrowed; given back when dropped.
#[derive(Debug)]
struct Loan;

impl Loan {
    fn borrow() -> Option<Loan> {
        let all = rayon::current_num_threads().saturating_sub(1);
        let more = |busy: usize| (busy < all).then_some(busy + 1);
        BUSY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Loan)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Threads that may work on one query.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// Computes the pieces `0..pieces` and folds their results in this order. The first error of `fold`
/// ends the work.
pub(crate) fn compute<T: Send, S: Default, E>(
    pieces: usize,
    piece: impl Fn(usize, &mut S) -> T + Sync,
    mut fold: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let wave = threads() * PIECES_PER_THREAD;
    let mut scratch = S::default();
    let mut before: Vec<T> = Vec::new();
    for start in (0..pieces).step_by(wave) {
        let end = pieces.min(start + wave);
        let next = AtomicUsize::new(start);
        let results: Vec<Mutex<Option<T>>> = (start..end).map(|_| Mutex::new(None)).collect();
        let work = |scratch: &mut S| {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= end {
                    break;
                }
                let result = piece(at, scratch);
                *lock(&results[at - start]) = Some(result);
            }
        };
        rayon::in_place_scope(|scope| {
            for _ in 1..(end - start) {
                let Some(loan) = Loan::borrow() else { break };
                let work = &work;
                scope.spawn(move |_| {
                    work(&mut S::default());
                    drop(loan);
                });
            }
            let folded = before.drain(..).try_for_each(&mut fold);
            if folded.is_err() {
                next.store(end, Ordering::Relaxed);
            }
            work(&mut scratch);
            folded
        })?;
        let done = results.into_iter().map(|result| {
            let result = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            result.expect("every piece of a wave is computed before the next")
        });
        before.extend(done);
    }
    before.into_iter().try_for_each(fold)
}

fn lock<T>(result: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    result.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_folded_in_order_whoever_computes_them() {
        for pieces in [0, 1, 7, 100] {
            let mut folded = Vec::new();
            let done: Result<(), ()> = compute(
                pieces,
                |at, count: &mut usize| {
                    *count += 1;
                    at
                },
                |at| {
                    folded.push(at);
                    Ok(())
                },
            );
            assert_eq!(done, Ok(()));
            assert_eq!(folded, (0..pieces).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_the_work_within_two_waves() {
        let computed = AtomicUsize::new(0);
        let piece = |at: usize, _: &mut ()| {
            computed.fetch_add(1, Ordering::Relaxed);
            at
        };
        let fold = |at: usize| if at == 3 { Err(at) } else { Ok(()) };
        assert_eq!(compute(10_000, piece, fold), Err(3));
        let wave = rayon::current_num_threads() * PIECES_PER_THREAD;
        assert!(computed.load(Ordering::Relaxed) <= 2 * wave);
    }

    #[test]
    fn threads_are_given_back_also_by_a_panic() {
        let panicking = || {
            compute(
                4,
                |at, _: &mut ()| assert!(at < 2, "a piece that panics"),
                |()| Ok::<_, ()>(()),
            )
        };
        assert!(std::panic::catch_unwind(panicking).is_err());
        let again: Result<(), ()> = compute(64, |_, _: &mut ()| (), |()| Ok(()));
        assert_eq!(again, Ok(()));
    }
}
