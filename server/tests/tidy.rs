//! The rules of the workspace that a compiler does not know, checked over its files.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

const CRATES: [&str; 6] = ["storage", "query", "ingest", "server", "benches", "fuzz"];

/// What a crate may not depend on: those above it, and what belongs to the server alone.
const BANNED: [(&str, &[&str]); 3] = [
    (
        "storage",
        &[
            "icecore-query",
            "icecore-ingest",
            "icecore-server",
            "tokio",
            "axum",
            "hyper",
            "serde",
            "clap",
        ],
    ),
    ("query", &["icecore-ingest", "icecore-server", "tokio", "axum", "hyper", "clap"]),
    ("ingest", &["icecore-query", "icecore-server", "tokio", "axum", "hyper", "clap"]),
];

/// Files in which `unsafe` may be, each for what no safe code can do.
const UNSAFE: [&str; 4] = [
    // Maps files.
    "storage/src/disk/os.rs",
    // Catches the signal of a mapped page that cannot be read.
    "storage/src/disk/sigbus.rs",
    // Compiled a second time for wider vectors, once the processor is known to have them.
    "query/src/exec/wide.rs",
    "storage/src/encoding/bits.rs",
];

/// The clock is read here and nowhere else.
const CLOCK: &str = "server/src/clock.rs";

/// Folders that the documentation names and a database has.
const DATA: [&str; 2] = ["quarantine/", "trash/"];

/// Files of the workspace's crates, by their path from its root.
fn files() -> Vec<String> {
    let root = workspace();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                files.push(name);
            }
        }
    }
    assert!(files.len() > 40, "the workspace was found");
    files
}

/// Rust files with their text.
fn sources() -> Vec<(String, String)> {
    let read = |name: String| {
        let text = fs::read_to_string(workspace().join(&name)).unwrap();
        (name, text)
    };
    files().into_iter().filter(|name| name.ends_with(".rs")).map(read).collect()
}

/// Names in the dependency sections of a manifest, those of its tests left out.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut in_section = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_section = line.ends_with("dependencies]") && !line.contains("dev-dependencies");
        } else if in_section && line.contains('=') {
            names.push(line.split(['=', '.', ' ']).next().unwrap());
        }
    }
    names
}

#[test]
fn crates_depend_in_one_direction() {
    for (name, banned) in BANNED {
        let manifest = fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap();
        for dependency in dependencies(&manifest) {
            assert!(!banned.contains(&dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_manifest_reader_sees_dependencies() {
    let manifest = "[dependencies]\ntokio.workspace = true\na = \"1\"\n[dev-dependencies]\nb = \"1\"\n[target.'cfg(unix)'.dependencies]\nlibc = { version = \"0.2\" }\n";
    assert_eq!(dependencies(manifest), ["tokio", "a", "libc"]);
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        // One line each, by which a fuzzer calls a function of the library.
        if path.starts_with("fuzz/fuzz_targets/") {
            continue;
        }
        let says = text.starts_with("//! ") || text.trim().is_empty();
        assert!(says, "{path} does not begin with `//!`");
    }
}

/// Whether there is a file or, with `/` at its end, a folder of that name, in whatever folder.
fn exists(files: &[String], name: &str) -> bool {
    let inner = format!("/{name}");
    files.iter().any(|file| match name.ends_with('/') {
        true => file.starts_with(name) || file.contains(&inner),
        false => file == name || file.ends_with(&inner),
    })
}

#[test]
fn the_architecture_names_files_that_exist() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let files = files();
    // What stands between backquotes, which no line leaves open.
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path = |name: &&str| name.ends_with(".rs") || name.ends_with('/');
    let names: Vec<&str> = quoted.filter(is_path).collect();
    assert!(names.len() > 100, "names were found: {}", names.len());
    for name in names {
        // One name for several files.
        if name.contains('*') || DATA.contains(&name) {
            continue;
        }
        assert!(exists(&files, name), "ARCHITECTURE.md names {name}, which is nowhere");
    }
    assert!(exists(&files, "storage/src/wal/") && exists(&files, "server/tests/tidy.rs"));
    assert!(!exists(&files, "go_format.rs") && !exists(&files, "al/") && !exists(&files, "idy.rs"));
}

#[test]
fn unsafe_stands_in_few_files() {
    let word = concat!("unsafe", " ");
    let marks =
        [format!("{word}{{"), format!("{word}fn"), format!("{word}impl"), format!("{word}extern")];
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found = code.filter(|line| marks.iter().any(|mark| line.contains(mark))).count();
        assert!(found == 0 || UNSAFE.contains(&path.as_str()), "{path} must do without `unsafe`");
    }
}

#[test]
fn storage_query_and_ingest_have_no_clock_and_no_threads() {
    let banned =
        [concat!("SystemTime", "::now"), concat!("thread", "::spawn"), concat!("std::", "net")];
    for (path, text) in sources() {
        let below = ["storage/src", "query/src", "ingest/src"].iter().any(|c| path.starts_with(c));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in banned {
            assert!(!(below && code.contains(word)), "{path} must not use {word}");
        }
        if path.starts_with("server/src") && path != CLOCK {
            assert!(!code.contains(banned[0]), "{path}: only {CLOCK} reads the clock");
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("dbg", "!(")];
    for (path, text) in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{path} contains {mark}");
        }
    }
}

/// Files that are read by people are held to the same: no path of the machine they were made on.
#[test]
fn no_file_names_a_machine() {
    let root = workspace();
    let machine = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let mut texts = sources();
    for name in ["README.md", "ARCHITECTURE.md", "Cargo.toml"] {
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            texts.push((name.into(), text));
        }
    }
    if let Ok(docs) = fs::read_dir(root.join("docs")) {
        for entry in docs {
            let path = entry.unwrap().path();
            texts.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    for (path, text) in texts {
        for part in machine {
            assert!(!text.contains(part), "{path} contains {part}");
        }
    }
}
