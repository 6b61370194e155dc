//! Killed in the middle of writing, again and again: every acknowledged sample is there exactly
//! once afterwards.
//!
//! Each writer posts one *sequence number* after the other, as the value of [`SERIES`] series at a
//! timestamp that follows from it, until its server is gone. After a restart, all numbers that were
//! acknowledged have to be there, in every series; the one that was under way may be, in all of its
//! series or in none. Half of the time that one is sent again, as Prometheus would.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::icecore::{Icecore, now_ms, write};
use crate::write_request::WriteRequest;

const CYCLES: usize = 10;
const WRITERS: usize = 3;
const SERIES: usize = 4;
const SEED: u64 = 0x1ce_c04e;

/// What a writer knows.
#[derive(Clone, Debug, Default)]
struct Written {
    acknowledged: BTreeSet<i64>,
    /// Sent, and not answered.
    uncertain: BTreeSet<i64>,
    next: i64,
}

#[test]
fn acknowledged_samples_are_there_exactly_once_after_kills() {
    let folder = TempDir::new().unwrap();
    let mut random = SEED;
    let base_ms = now_ms() - 20 * 60_000;
    let mut all = vec![Written::default(); WRITERS];
    for cycle in 0..CYCLES {
        let server = Icecore::start(folder.path());
        check(&server, base_ms, &all);
        let address = server.address;
        let writers: Vec<_> = all
            .drain(..)
            .enumerate()
            .map(|(writer, written)| {
                std::thread::spawn(move || {
                    write_until_it_is_gone(address, writer, base_ms, written)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(30 + next(&mut random) % 700));
        // Now and then it ends in peace, with a checkpoint, which the next crash builds upon.
        if cycle % 4 == 2 {
            server.terminate()
        } else {
            server.kill()
        }
        all.extend(writers.into_iter().map(|writer| writer.join().unwrap()));
        for written in &mut all {
            let again = next(&mut random).is_multiple_of(2);
            written.next = written.next.saturating_add(i64::from(!again));
        }
    }
    let server = Icecore::start(folder.path());
    check(&server, base_ms, &all);
    let acknowledged: usize = all.iter().map(|written| written.acknowledged.len()).sum();
    println!("{acknowledged} requests were acknowledged over {CYCLES} lives");
    assert!(acknowledged > 10 * CYCLES, "{acknowledged} requests are no test");
    server.terminate();
}

fn write_until_it_is_gone(
    address: SocketAddr,
    writer: usize,
    base_ms: i64,
    mut written: Written,
) -> Written {
    loop {
        let number = written.next;
        let body = request(writer, base_ms, number).snappy();
        match write(address, "snappy", &body) {
            Ok(answer) if answer.status == 204 => {
                written.acknowledged.insert(number);
                written.uncertain.remove(&number);
                written.next += 1;
            }
            // It is being stopped in peace; nothing of it was stored.
            Ok(answer) if answer.status == 503 => return written,
            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
            Err(_) => {
                written.uncertain.insert(number);
                return written;
            }
        }
    }
}

fn request(writer: usize, base_ms: i64, number: i64) -> WriteRequest {
    let writer = writer.to_string();
    (0..SERIES).fold(WriteRequest::default(), |request, series| {
        let series = series.to_string();
        let labels = [("__name__", "sequence"), ("series", &*series), ("writer", &*writer)];
        request.series(&labels, &[(base_ms + number, number as f64)])
    })
}

fn check(server: &Icecore, base_ms: i64, all: &[Written]) {
    for (writer, written) in all.iter().enumerate() {
        let query = format!("sequence{{writer=\"{writer}\"}}[1h]");
        let result = server.query(&query, now_ms());
        let series = result.as_array().unwrap();
        if written.acknowledged.is_empty() && series.is_empty() {
            continue;
        }
        assert_eq!(series.len(), SERIES, "series of writer {writer}");
        let numbers = numbers(&series[0], base_ms);
        for other in &series[1..] {
            assert_eq!(self::numbers(other, base_ms), numbers, "a request was stored in part");
        }
        let stored: BTreeSet<i64> = numbers.iter().copied().collect();
        assert_eq!(stored.len(), numbers.len(), "a sample of writer {writer} is there twice");
        let lost: Vec<&i64> = written.acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "writer {writer} lost {lost:?} of {}", written.next);
        let strange = |number: &&i64| {
            !written.acknowledged.contains(number) && !written.uncertain.contains(number)
        };
        let strange: Vec<&i64> = stored.iter().filter(strange).collect();
        assert!(strange.is_empty(), "nobody wrote {strange:?}, at most {}", written.next);
        let count = format!("sum(count_over_time(sequence{{writer=\"{writer}\"}}[1h]))");
        let count = server.query(&count, now_ms())[0]["value"][1].as_str().unwrap().to_owned();
        assert_eq!(count, (stored.len() * SERIES).to_string());
    }
}

/// The numbers of one series, in order of time, each at its own time.
fn numbers(series: &Value, base_ms: i64) -> Vec<i64> {
    let points = series["values"].as_array().unwrap().iter();
    points
        .map(|point| {
            let time_ms = (point[0].as_f64().unwrap() * 1000.0).round() as i64;
            let number: f64 = point[1].as_str().unwrap().parse().unwrap();
            assert_eq!(number as i64, time_ms - base_ms, "a value at another's time");
            number as i64
        })
        .collect()
}

/// SplitMix64: delays that are the same in every run.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
