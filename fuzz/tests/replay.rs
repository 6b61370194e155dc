//! Every target over its seeds, over their beginnings, and over each of them with a byte changed.

use std::path::Path;
use std::time::{Duration, Instant};

use icecore_fuzz::TARGETS;

/// Changes of one seed; those of long ones are spread over it.
const CHANGES_MAX: usize = 2_000;

/// The same for the target that opens a database each time.
const SLOW_CHANGES_MAX: usize = 40;

fn run_of(target: &str) -> fn(&[u8]) {
    TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1
}

fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = folder.read_dir().expect("a folder of seeds");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn replay(target: &str) {
    let run = run_of(target);
    let changes_max = if target == "damaged_directory" { SLOW_CHANGES_MAX } else { CHANGES_MAX };
    for seed in seeds_of(target) {
        run(&seed);
        let stride = (2 * seed.len()).div_ceil(changes_max).max(1);
        for at in (0..seed.len()).step_by(stride) {
            run(&seed[..at]);
            let mut changed = seed.clone();
            changed[at] ^= 1 << (at % 8);
            run(&changed);
        }
    }
}

/// A fuzzer for who has no nightly toolchain: seeds cut, spliced and changed at random for as many
/// seconds a target as `ICECORE_FUZZ_SECONDS` says (1). What fails is written where it says.
#[test]
fn mutations() {
    let seconds = std::env::var("ICECORE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let only = std::env::var("ICECORE_FUZZ_TARGET").ok();
    for (target, run) in TARGETS {
        if only.as_ref().is_some_and(|only| only != target) {
            continue;
        }
        let seeds = seeds_of(target);
        let mut random = 0x1cec_04e5_u64;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % bound.max(1)
        };
        let (start, mut runs) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_secs(seconds.unwrap_or(1)) {
            let mut bytes = seeds[below(seeds.len())].clone();
            for _ in 0..1 + below(6) {
                mutate(&mut bytes, &seeds, &mut below);
            }
            let failed = std::panic::catch_unwind(|| run(&bytes)).is_err();
            if failed {
                let path = std::env::temp_dir().join(format!("icecore-fuzz-{target}"));
                std::fs::write(&path, &bytes).expect("the temporary directory takes a file");
                panic!("{target} fails on {}", path.display());
            }
            runs += 1;
        }
        println!("{target}: {runs} runs");
    }
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], below: &mut impl FnMut(usize) -> usize) {
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'(', b'{', b'['];
    let at = below(bytes.len() + 1);
    match below(7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, below(256) as u8),
        2 => bytes.insert(at, EDGES[below(EDGES.len())]),
        3 if at < bytes.len() => bytes[at] ^= 1 << below(8),
        4 if at < bytes.len() => bytes[at] = EDGES[below(EDGES.len())],
        5 if at < bytes.len() => {
            let end = (at + 1 + below(16)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            let to = below(bytes.len());
            bytes.splice(to..to, copy);
        }
        _ => {
            let other = &seeds[below(seeds.len())];
            let from = below(other.len() + 1);
            let end = (from + below(64)).min(other.len());
            bytes.splice(at..at, other[from..end].iter().copied());
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn none_is_left_out() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets! {
    remote_write decimal timestamps xor_chunk histograms wal_record backup_list sealed_index damaged_directory
    promql evaluation generated_query regex regex_dialects
}
