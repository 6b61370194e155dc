//! Lives: hundreds of random operations each, on the simulated disk, beside a model.
//!
//! A **life** is a list of [`steps`] from a seed: requests in and out of order, deletes, upkeep by
//! steps or whole, new policies, holds, power cuts, kills, restarts, wrong clocks, backups and
//! restores. The [`model`] says what must be found and what may be; the [`check`]s in between read
//! by selectors and ranges, list names, and compare buckets of rollups with those of its own
//! samples. Every life ends with every byte verified.
//!
//! `ICECORE_LIVES_SEED` and `ICECORE_LIVES_OPERATIONS` run others and more, `ICECORE_LIVES_FIRST` begins
//! with a later one:
//!
//! ```text
//! ICECORE_LIVES_SEED=7 ICECORE_LIVES_OPERATIONS=2000000 cargo test -p icecore-storage --test engine lives
//! ```
//!
//! A life that fails is shortened to the steps that it takes, and these are printed.

mod check;
mod model;
mod steps;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use steps::{Life, Step};
use world::World;

/// Of one life.
const OPERATIONS: usize = 800;

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")),
        Err(_) => default,
    }
}

fn outcome(life: &Life) -> Result<(), String> {
    let caught = catch_unwind(AssertUnwindSafe(|| World::live(life)));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default())
    })
}

/// Leaves out steps, ever fewer at a time, as long as it still fails.
fn shortened(mut life: Life) -> Life {
    let mut piece = life.steps.len() / 2;
    while piece > 0 {
        let mut start = 0;
        while start < life.steps.len() {
            let mut without = life.clone();
            let end = (start + piece).min(without.steps.len());
            without.steps.drain(start..end);
            match outcome(&without) {
                Err(_) => life = without,
                Ok(()) => start += piece,
            }
        }
        piece /= 2;
    }
    life
}

#[test]
fn a_database_lives_through_whatever_happens() {
    let (first, wanted) =
        (variable("ICECORE_LIVES_SEED", 1), variable("ICECORE_LIVES_OPERATIONS", 100_000));
    let mut operations = 0;
    let mut lives = variable("ICECORE_LIVES_FIRST", 0);
    while operations < wanted {
        let life = Life::new(first.wrapping_mul(1_000_003).wrapping_add(lives), OPERATIONS);
        if let Err(error) = outcome(&life) {
            let short = shortened(life.clone());
            let again = outcome(&short).err().unwrap_or_default();
            let steps: Vec<String> =
                short.steps.iter().map(|step| format!("    {step:?}")).collect();
            panic!(
                "life {lives} of seed {first}: {error}\nshortened, with policies {}: {again}\n{}",
                short.policies,
                steps.join("\n")
            );
        }
        operations += life.steps.iter().filter(|step| Step::is_operation(step)).count() as u64;
        lives += 1;
    }
    eprintln!("{operations} operations in {lives} lives");
    assert!(operations >= wanted, "{operations} of {wanted}");
}
