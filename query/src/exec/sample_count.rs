//! Samples that a query has looked at, as Prometheus counts them for its statistics.
//!
//! A selector counts what it hands to each step, a function of a range the samples of its windows.
//! What has the same value at every step is looked at once and counted for all of them. The inside
//! of a subquery is not counted: the function around it counts the subquery's points.

use std::sync::atomic::{AtomicU64, Ordering};

/// For which steps of the query the samples count that a node looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Never,
    /// Those of a step for that step.
    EachStep,
    /// Those of the node's only step for so many steps.
    EveryStep(usize),
    /// All of them for the only step of the query.
    Together,
}

/// Workers share one.
#[derive(Debug, Default)]
pub(crate) struct SampleCount {
    total: AtomicU64,
    /// For each step of the query; empty unless somebody wants to know.
    of_steps: Vec<AtomicU64>,
}

impl SampleCount {
    /// `steps` is 0 if only the total matters.
    pub(crate) fn new(steps: usize) -> SampleCount {
        let of_steps = (0..steps).map(|_| AtomicU64::new(0)).collect();
        SampleCount { total: AtomicU64::new(0), of_steps }
    }

    /// Adds `samples`, of which those that `at_step` says are of a step.
    pub(crate) fn add(&self, counted: Counted, samples: u64, at_step: impl Fn(usize) -> u64) {
        let weight = match counted {
            Counted::Never => return,
            Counted::EachStep | Counted::Together => 1,
            Counted::EveryStep(steps) => steps as u64,
        };
        self.total.fetch_add(samples * weight, Ordering::Relaxed);
        for (step, count) in self.of_steps.iter().enumerate() {
            let samples = if counted == Counted::EachStep { at_step(step) } else { samples };
            count.fetch_add(samples, Ordering::Relaxed);
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub(crate) fn of_steps(&self) -> Vec<u64> {
        self.of_steps.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_once_counts_for_every_step() {
        let count = SampleCount::new(3);
        count.add(Counted::EachStep, 6, |step| step as u64 + 1);
        count.add(Counted::EveryStep(3), 10, |_| 10);
        count.add(Counted::Never, 1000, |_| 1000);
        assert_eq!((count.total(), count.of_steps()), (36, vec![11, 12, 13]));
    }

    #[test]
    fn without_steps_there_is_the_total() {
        let count = SampleCount::new(0);
        count.add(Counted::Together, 4, |_| unreachable!("nobody asked for steps"));
        assert_eq!((count.total(), count.of_steps()), (4, vec![]));
    }
}
