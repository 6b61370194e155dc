//! The series of a Kubernetes fleet: 60 services of many pods with names that are never used again,
//! 105 series a pod and some 11 labels a series.

use icecore_storage::labels::Labels;

pub const SERIES_A_POD: usize = 105;

pub const SERVICES: usize = 60;

/// So many series of pods, pod by pod, sorted within.
pub fn fleet(count: usize) -> Vec<Labels> {
    let mut series: Vec<Labels> = Vec::with_capacity(count);
    let pods = count.div_ceil(SERIES_A_POD);
    for pod in 0.. {
        series.extend(pod_series(pod * SERVICES / pods, pod));
        if series.len() >= count {
            series.truncate(count);
            break;
        }
    }
    series
}

/// The series of a pod of a service, sorted.
pub fn pod_series(service: usize, pod: usize) -> Vec<Labels> {
    let mut series: Vec<Labels> =
        (0..SERIES_A_POD).map(|metric| series_of(service, pod, metric)).collect();
    series.sort_unstable();
    series
}

fn series_of(service: usize, pod: usize, metric: usize) -> Labels {
    let scrambled = (pod as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters = |bits: u64| -> String {
        (0..5).map(|i| char::from(b'a' + (bits >> (i * 5) & 0x1f).min(25) as u8)).collect()
    };
    let address = format!("10.{}.{}.{}:8080", pod >> 16 & 255, pod >> 8 & 255, pod & 255);
    let replica_set = scrambled.wrapping_mul(service as u64 + 1) >> 24;
    let mut pairs = vec![
        ("job", format!("svc-{service}")),
        ("instance", address),
        ("cluster", ["eu-1", "us-1", "ap-1"][pod % 3].to_owned()),
        ("env", "production".to_owned()),
        ("namespace", format!("team-{}", service * 10 / 3)),
        ("node", format!("ip-10-0-{}-{}.internal", scrambled >> 40 & 3, scrambled >> 48 & 255)),
        ("pod", format!("svc-{service}-{replica_set:010x}-{}", letters(scrambled >> 8))),
        ("container", format!("app-{}", service % 7)),
    ];
    // A fifth of a service's series are one histogram's buckets, some have a method and a code.
    let family = match metric {
        0..24 => {
            pairs.push(("le", format!("{}", 0.005 * f64::from(1 << (metric % 12)))));
            pairs.push(("method", ["GET", "POST"][metric / 12].to_owned()));
            0
        }
        24..44 => {
            pairs.push(("code", format!("{}", 200 + metric % 5 * 100)));
            pairs.push(("method", ["GET", "POST", "PUT", "DELETE"][(metric - 24) / 5].to_owned()));
            1
        }
        _ => metric,
    };
    pairs.push(("__name__", format!("metric_{}_total", (service * 11 + family * 5) % 700)));
    Labels::from_pairs(pairs).expect("distinct names")
}
