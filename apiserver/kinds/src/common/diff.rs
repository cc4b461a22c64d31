//! Two values -> a unified diff of their JSON, three lines of context, as the message of a refused update shows it. Source: apimachinery
//! `pkg/util/diff`, and the matcher that it uses (Python's `difflib`): what counts is the longest block of lines that both have, not the fewest changes.

use std::collections::HashMap;

use serde_json::Value;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Above this many comparisons of lines what is still to be compared is shown as changed.
const PAIRS_MAX: usize = 1 << 20;

/// From so many lines on those that are more than a hundredth of them are not looked for.
const MANY: usize = 200;

/// So many lines from `old` and from `new` are the same.
#[derive(Clone, Copy)]
struct Block {
    old: usize,
    new: usize,
    lines: usize,
}

/// Lines `old` became lines `new`; or, where `same`, they are equal.
#[derive(Clone, Copy)]
struct Run {
    same: bool,
    old: (usize, usize),
    new: (usize, usize),
}

/// `@@ -a,b +c,d @@` hunks; empty where both are equal. Keys are sorted first.
pub fn unified(old: &Value, new: &Value) -> String {
    let sorted = |value: &Value| {
        let mut value = value.clone();
        value.sort_all_objects();
        value
    };
    in_order(&sorted(old), &sorted(new))
}

/// The same with keys in the order that they have.
pub fn in_order(old: &Value, new: &Value) -> String {
    let (old, new) = (pretty(old), pretty(new));
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut out = String::new();
    for hunk in hunks(&runs(&a, &b)) {
        write_hunk(&hunk, &a, &b, &mut out);
    }
    out
}

fn write_hunk(hunk: &[Run], a: &[&str], b: &[&str], out: &mut String) {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
    *out += &format!("@@ -{} +{} @@\n", range(first.old.0, last.old.1), range(first.new.0, last.new.1));
    let mut write = |mark: char, lines: &[&str], (from, to): (usize, usize)| {
        lines.iter().take(to).skip(from).for_each(|line| *out += &format!("{mark}{line}\n"));
    };
    for run in hunk {
        if run.same {
            write(' ', a, run.old);
        } else {
            write('-', a, run.old);
            write('+', b, run.new);
        }
    }
}

/// `formatRangeUnified`
fn range(from: usize, to: usize) -> String {
    match to - from {
        1 => format!("{}", from + 1),
        0 => format!("{from},0"),
        lines => format!("{},{lines}", from + 1),
    }
}

/// `GetGroupedOpCodes`: runs of equal lines are cut where they are longer than two contexts.
fn hunks(runs: &[Run]) -> Vec<Vec<Run>> {
    let (mut out, mut hunk) = (Vec::new(), Vec::new());
    for (at, run) in runs.iter().enumerate() {
        let lines = run.old.1 - run.old.0;
        let (ends, begins) = (at > 0, at + 1 < runs.len());
        if !run.same || (ends && begins && lines <= 2 * CONTEXT) {
            hunk.push(*run);
            continue;
        }
        let shown = lines.min(CONTEXT);
        if ends {
            hunk.push(Run { old: (run.old.0, run.old.0 + shown), new: (run.new.0, run.new.0 + shown), ..*run });
            out.push(std::mem::take(&mut hunk));
        }
        if begins {
            hunk.push(Run { old: (run.old.1 - shown, run.old.1), new: (run.new.1 - shown, run.new.1), ..*run });
        }
    }
    out.extend((!hunk.is_empty()).then_some(hunk));
    out
}

/// `GetOpCodes`
fn runs(a: &[&str], b: &[&str]) -> Vec<Run> {
    let (mut out, mut old, mut new) = (Vec::new(), 0, 0);
    for block in Matcher::of(a, b).blocks().into_iter().chain([Block { old: a.len(), new: b.len(), lines: 0 }]) {
        if old < block.old || new < block.new {
            out.push(Run { same: false, old: (old, block.old), new: (new, block.new) });
        }
        (old, new) = (block.old + block.lines, block.new + block.lines);
        if block.lines > 0 {
            out.push(Run { same: true, old: (block.old, old), new: (block.new, new) });
        }
    }
    out
}

/// `SequenceMatcher`, without junk but for what is there too often.
struct Matcher<'a> {
    a: &'a [&'a str],
    b: &'a [&'a str],
    /// Where each line of `b` stands.
    places: HashMap<&'a str, Vec<usize>>,
    left: usize,
}

impl<'a> Matcher<'a> {
    fn of(a: &'a [&'a str], b: &'a [&'a str]) -> Self {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        b.iter().enumerate().for_each(|(at, line)| places.entry(*line).or_default().push(at));
        if b.len() >= MANY {
            places.retain(|_, at| at.len() <= b.len() / 100 + 1);
        }
        Self { a, b, places, left: PAIRS_MAX }
    }

    /// `GetMatchingBlocks`: in order, none adjacent to another.
    fn blocks(mut self) -> Vec<Block> {
        let mut found = Vec::new();
        let mut due = vec![((0, self.a.len()), (0, self.b.len()))];
        while let Some((old, new)) = due.pop() {
            let block = self.longest(old, new);
            if block.lines == 0 {
                continue;
            }
            found.push(block);
            due.push(((old.0, block.old), (new.0, block.new)));
            due.push(((block.old + block.lines, old.1), (block.new + block.lines, new.1)));
        }
        found.sort_by_key(|block| block.old);
        let mut out: Vec<Block> = Vec::new();
        for block in found {
            match out.last_mut() {
                Some(last) if (last.old + last.lines, last.new + last.lines) == (block.old, block.new) => last.lines += block.lines,
                _ => out.push(block),
            }
        }
        out
    }

    /// `findLongestMatch`: the longest block, the first of those in `a`, and of those the first in `b`.
    fn longest(&mut self, old: (usize, usize), new: (usize, usize)) -> Block {
        let mut best = Block { old: old.0, new: new.0, lines: 0 };
        // How many lines are the same up to this one of `b` and the one of `a` before.
        let mut before: HashMap<usize, usize> = HashMap::new();
        for at in old.0..old.1 {
            if self.left == 0 {
                break;
            }
            let mut now = HashMap::new();
            let there = self.places.get(self.a[at]).map(Vec::as_slice).unwrap_or_default();
            let from = there.partition_point(|place| *place < new.0);
            for place in there.iter().skip(from).copied().take_while(|place| *place < new.1) {
                let lines = place.checked_sub(1).and_then(|place| before.get(&place)).unwrap_or(&0) + 1;
                now.insert(place, lines);
                if lines > best.lines {
                    best = Block { old: at + 1 - lines, new: place + 1 - lines, lines };
                }
            }
            self.left = self.left.saturating_sub(now.len() + 1);
            before = now;
        }
        while best.old > old.0 && best.new > new.0 && self.a[best.old - 1] == self.b[best.new - 1] {
            best = Block { old: best.old - 1, new: best.new - 1, lines: best.lines + 1 };
        }
        let end = |block: &Block| (block.old + block.lines, block.new + block.lines);
        while end(&best).0 < old.1 && end(&best).1 < new.1 && self.a[end(&best).0] == self.b[end(&best).1] {
            best.lines += 1;
        }
        best
    }
}

fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(&value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::{in_order, unified};

    #[test]
    fn changes_stand_in_their_context() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6});
        let mut new = old.clone();
        assert_eq!(unified(&old, &new), "");
        new["e"] = json!(7);
        let wanted = "@@ -3,6 +3,6 @@\n  \"b\": 2,\n  \"c\": 3,\n  \"d\": 4,\n- \"e\": 5,\n+ \"e\": 7,\n  \"f\": 6\n }\n";
        assert_eq!(unified(&old, &new), wanted);
        assert_eq!(unified(&json!(1), &json!(2)), "@@ -1 +1 @@\n-1\n+2\n");
    }

    #[test]
    fn far_changes_are_hunks_of_their_own() {
        let old: Value = (0..40).collect();
        let change = |first: usize, second: usize| {
            let mut new = old.clone();
            new[first] = json!(100);
            new[second] = json!(100);
            unified(&old, &new).matches("@@ -").count()
        };
        assert_eq!(change(1, 38), 2);
        // Six lines between them are two contexts, seven are more.
        assert_eq!((change(10, 17), change(10, 18)), (1, 2));
    }

    #[test]
    fn the_first_of_the_longest_blocks_is_kept() {
        // Both "}," and "B" could stay; upstream keeps what comes first in the old one.
        let old = json!({"A": {"x": 1}, "B": null, "C": null});
        let new = json!({"A": null, "B": null, "C": {"x": 2}});
        let wanted = "@@ -1,7 +1,7 @@\n {\n- \"A\": {\n-  \"x\": 1\n- },\n+ \"A\": null,\n  \"B\": null,\n- \"C\": null\n+ \"C\": {\n+  \"x\": 2\n+ }\n }\n";
        assert_eq!(in_order(&old, &new), wanted);
        let new = json!({"A": null, "B": null, "C": {"x": 2}, "D": 0});
        assert!(in_order(&old, &new).contains("\n  },\n"), "{}", in_order(&old, &new));
    }

    #[test]
    fn the_worst_of_texts_take_a_bounded_time() {
        let old: Value = (0..200_000).map(|n| json!(n % 1500)).collect();
        let new: Value = (0..200_000).map(|n| json!((n * 7) % 1500)).collect();
        let began = Instant::now();
        assert!(!in_order(&old, &new).is_empty());
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
