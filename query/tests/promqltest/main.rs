//! Runs scripts in the language of Prometheus's promqltest against the engine.
//!
//! All `*.test` files of two folders are run: `query/tests/scripts`, which is ours, and the one
//! that `PROMQLTEST_DIR` names, which is data outside of this repository; without the variable it
//! is looked for beside the checkout. Each script is run on a fixture in memory and on databases
//! on a simulated disk, with the samples in the head and in blocks. Settings are those of
//! Prometheus's harness: delayed name removal, start timestamps, all gated parts of the grammar,
//! 10,000 samples.

mod classic;
mod compare;
mod expect;
mod histogram;
mod load;
mod pinned;
mod run;
mod script;
mod series;
#[path = "../stores/mod.rs"]
mod stores;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use run::{Report, run};
use script::Script;
use stores::database::{BlockStore, HeadStore};
use stores::fixture::Fixture;

type Runner = fn(&Script) -> Report;

const STORES: [(&str, Runner); 3] =
    [("fixture", run::<Fixture>), ("head", run::<HeadStore>), ("blocks", run::<BlockStore>)];

fn scripts_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder that can be listed");
    let paths = entries.map(|entry| entry.expect("a folder that can be listed").path());
    let mut scripts: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "test")).collect();
    scripts.sort();
    scripts
}

/// The scripts of both folders.
#[expect(clippy::print_stdout, reason = "it says what was not run")]
fn scripts() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts = scripts_of(&own);
    assert!(!scripts.is_empty(), "{} has scripts", own.display());
    // A test runs in the folder of its crate; what is named is meant from the workspace.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("PROMQLTEST_DIR").map(|named| workspace.join(named));
    let beside = workspace.join("../shared/promql/promqltest");
    let folder = named.clone().unwrap_or(beside);
    if folder.is_dir() {
        let found = scripts_of(&folder);
        assert!(!found.is_empty(), "{} has scripts", folder.display());
        scripts.extend(found);
    } else {
        println!("SKIPPED: no scripts in {}; PROMQLTEST_DIR says where", folder.display());
        assert!(named.is_none(), "PROMQLTEST_DIR names no folder: {}", folder.display());
        assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure");
    }
    scripts
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[test]
fn scripts_pass() {
    let scripts: Vec<(String, Script)> = scripts()
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("a script that can be read");
            let script = Script::parse(&text);
            (name_of(path), script.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect();
    let failures = run_all(&scripts);
    assert!(failures.is_empty(), "{} evaluations failed:\n{}", failures.len(), failures.join("\n"));
}

/// Runs all scripts on all stores, on as many threads as there are cores; the failures in order.
#[expect(clippy::print_stdout, reason = "it says what was run")]
fn run_all(scripts: &[(String, Script)]) -> Vec<String> {
    // The longest come first, so that no core is left alone with one at the end.
    let mut tasks: Vec<(usize, usize)> =
        (0..STORES.len()).flat_map(|store| (0..scripts.len()).map(move |at| (at, store))).collect();
    tasks.sort_by_key(|(at, _)| scripts[*at].1.commands.len());
    let count = tasks.len();
    let tasks = Mutex::new(tasks);
    let reports = Mutex::new(Vec::with_capacity(count));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = tasks.lock().expect("no task panics with the lock").pop();
                    let Some((at, store)) = next else { break };
                    let started = Instant::now();
                    let report = STORES[store].1(&scripts[at].1);
                    let took = started.elapsed();
                    let mut reports = reports.lock().expect("no task panics with the lock");
                    reports.push((at, store, report, took));
                }
            });
        }
    });
    let mut reports = reports.into_inner().expect("the threads have ended");
    reports.sort_by_key(|(at, store, ..)| (*at, *store));
    assert_eq!(reports.len(), count, "every task has its report");
    let mut failures = Vec::new();
    let mut passed = [0; STORES.len()];
    for (at, store, report, took) in reports {
        let (name, store_name) = (&scripts[at].0, STORES[store].0);
        let Report { evaluations, queries, failures: failed } = report;
        let right = evaluations - failed.len();
        passed[store] += right;
        println!("{name} ({store_name}): {right} of {evaluations}, {queries} queries, {took:.0?}");
        failures.extend(failed.iter().map(|failed| format!("{name} ({store_name}):{failed}")));
    }
    for ((name, _), passed) in STORES.iter().zip(passed) {
        println!("{name}: {passed} evaluations pass");
    }
    failures
}
