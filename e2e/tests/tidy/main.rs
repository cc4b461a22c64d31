//! The house rules, as tests over the sources: what cargo and clippy do not check.
//!
//! Clippy holds the rest: functions over 70 lines, `tokio::spawn`, sleeps (see `clippy.toml`).

mod arrows;
mod bounds;
mod circles;
mod licences;
mod source;
mod tables;

use std::path::Path;

use source::{Source, root, sources, tracked};

const FILE_LINES_MAX: usize = 600;
const DOCUMENTS: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "COMPAT.md",
    "LICENSE",
    "docs/flow.md",
    "docs/hollow.md",
    "docs/security.md",
    "docs/tour.md",
    "docs/decisions/README.md",
];

/// Panics with all offences, one a line.
fn none(offences: &[String]) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

/// `path:line` of every line outside comments and tests that `offends`.
fn lines(sources: &[Source], offends: impl Fn(&str) -> bool) -> Vec<String> {
    let of = |s: &Source| {
        let found = s.code().filter(|(_, line)| offends(line)).map(|(n, line)| format!("{}:{n}: {}", s.path, line.trim()));
        found.collect::<Vec<_>>()
    };
    sources.iter().flat_map(of).collect()
}

/// Tests, and crates that are tests, may panic.
fn product() -> Vec<Source> {
    sources().into_iter().filter(|s| !s.is_test && !s.path.starts_with("e2e/") && !s.path.starts_with("xtask/")).collect()
}

#[test]
fn every_file_says_what_becomes_what() {
    let silent = sources().into_iter().filter(|s| !s.is_test && !s.text.starts_with("//! "));
    none(&silent.map(|s| format!("{}: must begin with `//! ...`", s.path)).collect::<Vec<_>>());
}

#[test]
fn every_licence_is_agreed_to() {
    none(&licences::offences());
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().filter(|s| !s.is_test).map(|s| (s.lines(), s.path)).filter(|(n, _)| *n >= FILE_LINES_MAX);
    none(&long.map(|(n, path)| format!("{path}: {n} lines without tests, {FILE_LINES_MAX} are too many")).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unwrapped() {
    none(&lines(&product(), |l| l.contains(".unwrap()") || l.contains(".unwrap_err()") || l.contains(".expect(\"\")")));
}

#[test]
fn nothing_is_left_to_do() {
    // Spelled in halves, so that this file does not find itself.
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!("), concat!("FIX", "ME"), concat!("XX", "X")];
    none(&lines(&sources(), |l| marks.iter().any(|m| l.contains(m))));
}

#[test]
fn tasks_belong_to_groups() {
    let tasks: Vec<Source> = product().into_iter().filter(|s| s.path != "proto/api/src/task.rs").collect();
    none(&lines(&tasks, |l| l.contains("tokio::spawn(") || l.contains("tokio::task::spawn(")));
}

#[test]
fn the_engine_names_no_kind() {
    let engine: Vec<Source> = product().into_iter().filter(|s| s.path.starts_with("apiserver/src/")).collect();
    // Upstream's words about a file, repeated as they are.
    const QUOTED: [&str; 2] = ["such as 'secrets' and '*.'", "secrets must be base64 encoded"];
    none(&lines(&engine, |l| {
        let own = QUOTED.iter().fold(l.to_owned(), |line, quoted| line.replace(quoted, ""));
        source::words(&own).any(tables::names_a_kind)
    }));
}

#[test]
fn documents_are_there() {
    let missing = DOCUMENTS.iter().filter(|d| std::fs::metadata(root().join(d)).map_or(0, |m| m.len()) < 200);
    none(&missing.map(|d| format!("{d}: missing or empty")).collect::<Vec<_>>());
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    // Spelled in halves, so that this file does not find itself.
    let paths = [
        concat!("/work", "/main"),
        concat!("/work", "/shared"),
        concat!("/work", "/."),
        concat!("/root", "/.cargo"),
        concat!("/root", "/.rustup"),
    ];
    let text = |path: &String| std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let mut found = Vec::new();
    for path in tracked().iter().filter(|p| Path::new(p).extension().is_none_or(|e| e != "lock")) {
        let hits = paths.iter().filter(|p| text(path).contains(*p));
        found.extend(hits.map(|p| format!("{path}: names {p}")));
    }
    none(&found);
}

#[test]
fn arrows_point_down() {
    none(&arrows::offences());
}

#[test]
fn no_file_needs_what_needs_it() {
    none(&circles::offences());
}

#[test]
fn every_dependency_is_used() {
    none(&arrows::unused());
}

#[test]
fn tables_are_whole() {
    none(&tables::offences());
}

#[test]
fn every_limit_is_told() {
    none(&bounds::offences(&product()));
}
