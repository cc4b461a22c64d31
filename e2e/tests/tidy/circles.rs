//! Sources -> circles of files: what must be read together, since each needs the others. A parent and its children are no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;

use crate::source::{Source, sources};

static USED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\buse\s+([^;]+);").unwrap());
static INLINE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap());

/// A module's place in its crate.
type Place = Vec<String>;
type Graph = BTreeMap<Place, BTreeSet<Place>>;

pub fn offences() -> Vec<String> {
    circles(&sources()).into_iter().map(|circle| format!("a circle, {circle}")).collect()
}

fn circles(sources: &[Source]) -> BTreeSet<String> {
    let mut crates: BTreeMap<&str, BTreeMap<Place, &Source>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test && !source.path.starts_with("xtask/")) {
        let Some(at) = source.path.find("src/") else { continue };
        let (dir, file) = source.path.split_at(at + "src/".len());
        let mut place: Place = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(place.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            place.pop();
        }
        crates.entry(dir).or_default().insert(place, source);
    }
    let of_crate = |(dir, modules): (&&str, &BTreeMap<Place, &Source>)| -> Vec<String> {
        let graph: Graph = modules.iter().map(|(place, source)| (place.clone(), needed(place, source, modules))).collect();
        let reached: BTreeMap<&Place, BTreeSet<&Place>> = graph.keys().map(|place| (place, reach(place, &graph))).collect();
        let together = |place: &Place| -> Vec<String> {
            let circle = reached[place].iter().filter(|other| reached[*other].contains(place));
            circle.map(|other| other.join("::")).collect()
        };
        let circles = graph.keys().map(together).filter(|circle| circle.len() > 1);
        circles.map(|circle| format!("{dir}: {}", circle.join(" "))).collect()
    };
    crates.iter().flat_map(of_crate).collect()
}

/// The modules of the crate that a module names; not those above and below it.
fn needed(place: &Place, source: &Source, modules: &BTreeMap<Place, &Source>) -> BTreeSet<Place> {
    let code: String = source.code().map(|(_, line)| format!("{line}\n")).collect();
    let mut names: Vec<String> = INLINE.find_iter(&code).map(|found| found.as_str().to_owned()).collect();
    for tree in USED.captures_iter(&code) {
        expand("", &tree[1], &mut names);
    }
    let absolute = |name: &String| -> Option<Place> {
        let mut words: Vec<&str> = name.split("::").map(str::trim).collect();
        let mut from = place.clone();
        match words[0] {
            "crate" => (from, _) = (Place::new(), words.remove(0)),
            "self" => drop(words.remove(0)),
            _ => {
                while words.first() == Some(&"super") {
                    (_, _) = (from.pop(), words.remove(0));
                }
            }
        }
        let whole: Place = from.into_iter().chain(words.into_iter().map(str::to_owned)).collect();
        (1..=whole.len()).rev().map(|n| whole[..n].to_vec()).find(|part| modules.contains_key(part))
    };
    names.iter().filter_map(absolute).filter(|other| !other.starts_with(place) && !place.starts_with(other)).collect()
}

/// `a::{b, c::{d, e}}` -> `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, names: &mut Vec<String>) {
    let (mut depth, mut begin) = (0, 0);
    let mut parts = Vec::new();
    for (at, letter) in tree.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[begin..]);
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => expand(&format!("{prefix}{head}"), rest.rsplit_once('}').map_or(rest, |(inner, _)| inner), names),
            None => names.push(format!("{prefix}{}", part.split(" as ").next().unwrap())),
        }
    }
}

fn reach<'g>(from: &Place, graph: &'g Graph) -> BTreeSet<&'g Place> {
    let (mut reached, mut next) = (BTreeSet::new(), graph[from].iter().collect::<Vec<_>>());
    while let Some(place) = next.pop() {
        if reached.insert(place) {
            next.extend(&graph[place]);
        }
    }
    reached
}

#[test]
fn files_that_need_each_other_are_a_circle() {
    let of = |path: &str, text: &str| Source { path: path.into(), text: text.into(), is_test: false };
    let sources = [
        of("x/src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
        of("x/src/a.rs", "mod one;\nuse crate::{b::B, c::{C, D as E}};\n"),
        of("x/src/a/one.rs", "use super::{A, super::c};\n"),
        of("x/src/b.rs", "fn f() { crate::a::g(); }\n// use crate::c::C;\n"),
        of("x/src/c.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n"),
    ];
    assert_eq!(circles(&sources).into_iter().collect::<Vec<_>>(), ["x/src/: a b"]);
}
