//! Instructions, counted by callgrind: the same on a busy machine as on a quiet one.
//!
//! A benchmark runs itself once more below valgrind, told by environment variables what to do there,
//! and has the calls of one of its functions counted, which must not be inlined.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs this program again with `variables` and returns the instructions of each call of
/// `function`, a path as `bench::function`, in their order. callgrind's files, `out` and `out.1`,
/// `out.2`, …, stay for a closer look.
pub fn count_calls(function: &str, out: &Path, variables: &[(&str, &OsStr)]) -> Result<Vec<f64>> {
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--quiet"])
        .arg(format!("--toggle-collect={function}"))
        .arg(format!("--dump-after={function}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .envs(variables.iter().copied())
        .status()
        .context("running valgrind")?;
    ensure!(status.success(), "valgrind: {status}");
    let mut dumps: BTreeMap<usize, PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(out.parent().context("a file is in a folder")?)? {
        let path = entry?.path();
        let number = path.extension().and_then(|number| number.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| path.with_extension("") == out) {
            dumps.insert(number, path);
        }
    }
    dumps.values().map(|path| total(path)).collect()
}

fn total(path: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(path)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.with_context(|| format!("{} has no total", path.display()))?.trim().parse()?)
}
