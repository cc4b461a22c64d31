//! Two values -> a unified diff of their JSON, three lines of context, as the message of a refused update shows it.

use serde_json::Value;

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// Above this many line pairs the changed middle is shown as a whole instead of being matched line by line.
const PAIRS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
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
    let lines = edits(&a, &b);
    let mut out = String::new();
    let (mut from, mut before) = (0, (0, 0));
    while let Some(first) = lines.iter().skip(from).position(|l| !matches!(l, Line::Same(_))) {
        let start = (from + first).saturating_sub(CONTEXT).max(from);
        let end = hunk_end(&lines, from + first);
        before = sum(before, count(&lines, from, start));
        before = sum(before, hunk(&lines, start, end, before, &mut out));
        from = end;
    }
    out
}

/// One past the last line of the hunk whose first change is at `change`: changes less than two contexts apart are one hunk.
fn hunk_end(lines: &[Line<'_>], change: usize) -> usize {
    let (mut last, mut at) = (change, change);
    while at < lines.len() && at <= last + 2 * CONTEXT {
        if !matches!(lines.get(at), Some(Line::Same(_))) {
            last = at;
        }
        at += 1;
    }
    (last + CONTEXT + 1).min(lines.len())
}

/// Lines of the old and of the new text.
type Counts = (usize, usize);

fn count(lines: &[Line<'_>], start: usize, end: usize) -> Counts {
    let range = lines.get(start..end).unwrap_or(&[]);
    let old = range.iter().filter(|l| !matches!(l, Line::New(_))).count();
    let new = range.iter().filter(|l| !matches!(l, Line::Old(_))).count();
    (old, new)
}

fn sum(a: Counts, b: Counts) -> Counts {
    (a.0 + b.0, a.1 + b.1)
}

/// Writes one hunk, with so many lines `before` it; returns how many it has.
fn hunk(lines: &[Line<'_>], start: usize, end: usize, before: Counts, out: &mut String) -> Counts {
    let shown = lines.get(start..end).unwrap_or(&[]);
    let ((old_at, new_at), (old, new)) = (before, count(lines, start, end));
    *out += &format!("@@ -{},{old} +{},{new} @@\n", old_at + 1, new_at + 1);
    for line in shown {
        let (mark, text) = match line {
            Line::Same(text) => (' ', text),
            Line::Old(text) => ('-', text),
            Line::New(text) => ('+', text),
        };
        *out += &format!("{mark}{text}\n");
    }
    (old, new)
}

/// Common lines at both ends, and the longest common subsequence between.
fn edits<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Line<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a.iter().skip(head).rev().zip(b.iter().skip(head).rev()).take_while(|(x, y)| x == y).count();
    let middle = |v: &[&'a str]| v.get(head..v.len() - tail).unwrap_or(&[]).to_vec();
    let mut lines: Vec<Line<'_>> = a.iter().take(head).map(|l| Line::Same(l)).collect();
    lines.extend(match_lines(&middle(a), &middle(b)));
    lines.extend(a.iter().skip(a.len() - tail).map(|l| Line::Same(l)));
    lines
}

fn match_lines<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Line<'a>> {
    if a.len() * b.len() > PAIRS_MAX {
        return a.iter().map(|l| Line::Old(l)).chain(b.iter().map(|l| Line::New(l))).collect();
    }
    let width = b.len() + 1;
    // lengths[i * width + j]: the longest common subsequence of a[i..] and b[j..].
    let mut lengths = vec![0usize; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            let (down, right) = (lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
            lengths[i * width + j] = if a[i] == b[j] { lengths[(i + 1) * width + j + 1] + 1 } else { down.max(right) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            lines.push(Line::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            lines.push(Line::Old(a[i]));
            i += 1;
        } else {
            lines.push(Line::New(b[j]));
            j += 1;
        }
    }
    lines.extend(a.iter().skip(i).map(|l| Line::Old(l)));
    lines.extend(b.iter().skip(j).map(|l| Line::New(l)));
    lines
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
    use serde_json::json;

    use super::unified;

    #[test]
    fn changes_stand_in_their_context() {
        let old = json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6});
        let mut new = old.clone();
        assert_eq!(unified(&old, &new), "");
        new["e"] = json!(7);
        let wanted = "@@ -3,6 +3,6 @@\n  \"b\": 2,\n  \"c\": 3,\n  \"d\": 4,\n- \"e\": 5,\n+ \"e\": 7,\n  \"f\": 6\n }\n";
        assert_eq!(unified(&old, &new), wanted);
    }

    #[test]
    fn far_changes_are_hunks_of_their_own() {
        let old: serde_json::Value = (0..40).collect();
        let mut new = old.clone();
        new[1] = json!(100);
        new[38] = json!(100);
        assert_eq!(unified(&old, &new).matches("@@ -").count(), 2);
    }
}
