//! What the label index costs: bytes and nanoseconds a series, and microseconds a question.
//!
//! `cargo bench -p icecore-benches --bench index [series]` (1,000,000 if not said). The series are
//! those of a Kubernetes fleet: 60 services of many pods with churning names, about 105 series a
//! pod and 11 labels a series, in the order of their targets.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use icecore_benches::fleet::fleet;
use icecore_benches::process::thread_cpu;
use icecore_storage::index::head::HeadIndex;
use icecore_storage::index::sealed::{SealedIndex, SealedIndexBuilder};
use icecore_storage::labels::Labels;
use icecore_storage::matcher::{MatchOp, Matcher};

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let series = fleet(count);
    let pairs: usize = series.iter().map(|labels| labels.iter().count()).sum();
    let bytes: usize = series.iter().map(|labels| labels.as_bytes().len()).sum();
    let each = |total: usize| total as f64 / count as f64;
    println!("{count} series, {:.1} labels and {:.0} label bytes each", each(pairs), each(bytes));

    let resident = resident_bytes();
    let (took, head) = timed(|| head_of(&series));
    let grown = resident_bytes() - resident;
    println!(
        "head: add {:.0} ns/series; {:.0} B/series by its own count, {:.0} B/series resident; {} pairs",
        per_series(took, count),
        each(head.heap_bytes()),
        each(grown),
        head.pair_count(),
    );
    let (took, bytes) = timed(|| {
        let mut builder = SealedIndexBuilder::new();
        for id in 0..count as u32 {
            builder.add(head.pairs(id));
        }
        builder.finish()
    });
    println!(
        "sealed: build {:.0} ns/series from the head; {:.2} B/series",
        per_series(took, count),
        each(bytes.len()),
    );
    let bytes = Bytes::from(bytes);
    let open = || SealedIndex::open(bytes.clone()).expect("just made");
    println!("sealed: open {:.0} µs", least(|| drop(open())));
    let sealed = open();

    questions(&head, &sealed);
    let (took, ()) = timed(|| {
        let visit = |_, bytes: &[u8]| _ = black_box(bytes.len());
        sealed.label_bytes_of(&sealed.all(), visit).expect("undamaged");
    });
    println!("sealed: label bytes of all {:.0} ns/series", per_series(took, count));
    let mut head = head;
    let (took, ()) = timed(|| (0..count as u32 / 2).for_each(|id| head.remove(id * 2)));
    println!("head: remove {:.0} ns/series", per_series(took, count / 2));
}

fn questions(head: &HeadIndex, sealed: &SealedIndex) {
    let regex = |name, pattern| Matcher::new(name, MatchOp::Regex, pattern).expect("compiles");
    let not = |name, op, value| Matcher::new(name, op, value).expect("compiles");
    let metric = || Matcher::equal("__name__", "metric_300_total");
    let questions = [
        ("one metric", vec![metric()]),
        ("metric, namespace=", vec![metric(), Matcher::equal("namespace", "team-7")]),
        ("namespace=~ of literals", vec![metric(), regex("namespace", "team-1|team-2|team-3")]),
        ("namespace=~team-1.*", vec![metric(), regex("namespace", "team-1.*")]),
        ("pod=~svc-17-.*, a prefix", vec![regex("pod", "svc-17-.*")]),
        ("pod=~.*-zz.*", vec![regex("pod", ".*-zz.*")]),
        ("metric, pod=~.*-zz.*", vec![metric(), regex("pod", ".*-zz.*")]),
        ("metric, cluster!=", vec![metric(), not("cluster", MatchOp::NotEqual, "eu-1")]),
        ("metric, pod!~svc-1.*", vec![metric(), not("pod", MatchOp::NotRegex, "svc-1.*")]),
        ("le!=\"\"", vec![not("le", MatchOp::NotEqual, "")]),
        ("le=\"\"", vec![Matcher::equal("le", "")]),
    ];
    println!("\n{:28} {:>9} {:>10} {:>10}", "select (µs)", "series", "head", "sealed");
    for (name, matchers) in questions {
        let in_head = least(|| drop(black_box(head.select(&matchers))));
        let in_sealed = least(|| drop(black_box(sealed.select(&matchers))));
        let found = head.select(&matchers);
        assert_eq!(sealed.select(&matchers).expect("undamaged"), found);
        println!("{name:28} {:>9} {in_head:>10.1} {in_sealed:>10.1}", found.len());
    }

    let some = head.select(&[metric()]);
    println!("\nvalues and labels (µs)");
    for (name, of) in
        [("namespace", None), ("pod", None), ("namespace", Some(&some)), ("pod", Some(&some))]
    {
        let in_head = least(|| drop(black_box(head.label_values(name, of))));
        let in_sealed = least(|| drop(black_box(sealed.label_values(name, of))));
        let text = format!("values of {name}{}", if of.is_some() { ", one metric" } else { "" });
        let count = head.label_values(name, of).len();
        println!("{text:28} {count:>9} {in_head:>10.1} {in_sealed:>10.1}");
    }
    for limit in [40, 1440] {
        let ids = some.iter().take(limit).collect();
        let in_head = least(|| {
            for id in &ids {
                black_box(head.labels(id));
            }
        });
        let in_sealed =
            least(|| sealed.labels_of(&ids, |_, l| drop(black_box(l))).expect("undamaged"));
        println!("{:28} {:>9} {in_head:>10.1} {in_sealed:>10.1}", "labels, one metric", ids.len());
    }
    println!();
}

fn head_of(series: &[Labels]) -> HeadIndex {
    let mut index = HeadIndex::new();
    for (id, labels) in (0..).zip(series) {
        index.add(id, labels);
    }
    index
}

/// The time that work took on the processor, where that can be told; else on the clock.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let (clock, before) = (Instant::now(), thread_cpu());
    let result = work();
    let took = thread_cpu().zip(before).map(|(after, before)| after - before);
    (took.unwrap_or_else(|| clock.elapsed()), result)
}

fn per_series(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count as f64
}

/// Microseconds, the least of some runs: other work on the machine only adds.
fn least(mut work: impl FnMut()) -> f64 {
    let run = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..25).map(run).min().unwrap_or_default().as_secs_f64() * 1e6
}

/// What the process has in memory, in bytes; 0 where that cannot be told.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
