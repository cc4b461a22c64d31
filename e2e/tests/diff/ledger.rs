//! Verdicts of the comparer and the ledger -> what is not as it should be.
//!
//! A line of the ledger is `count class pattern  reason`: of the cases that the pattern names (an id, or `group/*`) at most so many are of that class.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Of one case of the corpus.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    pub id: String,
    pub class: String,
    #[serde(default)]
    pub diffs: Vec<(String, String, String)>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    count: usize,
    class: String,
    pattern: String,
    reason: String,
}

/// One JSON object a line.
pub fn verdicts(text: &str) -> Vec<Verdict> {
    text.lines().map(|line| serde_json::from_str(line).expect("the comparer writes verdicts")).collect()
}

impl Ledger {
    /// Lines that begin with `#`, and empty ones, say nothing. Panics where a line has no reason.
    pub fn read(text: &str) -> Self {
        let told = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { lines: told.map(|line| Line::read(line).unwrap_or_else(|| panic!("no line of the ledger: {line}"))).collect() }
    }

    /// What is wrong: differences that no line has, more of them than a line has, lines without any.
    pub fn judge(&self, verdicts: &[Verdict]) -> Vec<String> {
        let mut found = vec![Vec::new(); self.lines.len()];
        let mut wrong = Vec::new();
        for verdict in verdicts.iter().filter(|verdict| verdict.class != "equal") {
            match self.lines.iter().position(|line| line.is_of(verdict)) {
                Some(at) => found[at].push(verdict),
                None => wrong.push(told(verdict)),
            }
        }
        for (line, found) in self.lines.iter().zip(&found) {
            if found.is_empty() {
                wrong.push(format!("nothing is left of: {} {}", line.class, line.pattern));
            } else if found.len() > line.count {
                let more = format!("{} instead of {}: {} {}", found.len(), line.count, line.class, line.pattern);
                wrong.push(found.iter().fold(more, |text, verdict| format!("{text}\n    {}", told(verdict))));
            }
        }
        wrong
    }

    /// The ledger of these verdicts, with the reasons that it has.
    pub fn renewed(&self, verdicts: &[Verdict]) -> String {
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for verdict in verdicts.iter().filter(|verdict| verdict.class != "equal") {
            *counts.entry((verdict.group(), verdict.class.clone())).or_default() += 1;
        }
        let mut out = HEAD.to_owned();
        for ((pattern, class), count) in counts {
            let known = self.lines.iter().find(|line| line.pattern == pattern && line.class == class);
            let reason = known.map_or_else(|| usual(&class), |line| &line.reason);
            out.push_str(&format!("{count} {class} {pattern}  {reason}\n"));
        }
        out
    }
}

const HEAD: &str = "# Where skiff answers otherwise than a stock server: `count class pattern  reason`. See ledger.rs; SKIFF_DIFF=update writes it anew.\n";

fn usual(class: &str) -> &'static str {
    match class {
        "fields" => "managedFields",
        "blocked" => "what comes before is refused",
        _ => "yet to be mended",
    }
}

fn told(verdict: &Verdict) -> String {
    let first = verdict.diffs.first().map(|(at, stock, ours)| format!(": {at}: {stock} | {ours}")).unwrap_or_default();
    format!("{} {}{first}", verdict.class, verdict.id)
}

impl Verdict {
    fn group(&self) -> String {
        format!("{}/*", self.id.split('/').next().unwrap_or_default())
    }
}

impl Line {
    fn read(line: &str) -> Option<Self> {
        let (head, reason) = line.split_once("  ")?;
        let mut words = head.split(' ');
        let (count, class, pattern) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.to_owned());
        let reason = reason.trim().to_owned();
        (!reason.is_empty() && words.next().is_none()).then_some(Self { count, class, pattern, reason })
    }

    fn is_of(&self, verdict: &Verdict) -> bool {
        let is_named = match self.pattern.strip_suffix('*') {
            Some(start) => verdict.id.starts_with(start),
            None => verdict.id == self.pattern,
        };
        is_named && self.class == verdict.class
    }
}

#[test]
fn the_ledger_only_shrinks() {
    let of = |id: &str, class: &str| Verdict { id: id.into(), class: class.into(), diffs: Vec::new() };
    let ledger = Ledger::read("# told\n1 body a/*  because\n2 code b/x  because\n");
    assert_eq!(ledger.judge(&[of("a/1", "body"), of("b/x", "code"), of("c/1", "equal")]), Vec::<String>::new());
    assert_eq!(ledger.judge(&[of("a/1", "body")]), ["nothing is left of: code b/x"]);
    let wrong = ledger.judge(&[of("a/1", "body"), of("a/2", "body"), of("b/x", "code"), of("b/x", "body")]);
    assert_eq!(wrong[0], "body b/x");
    assert!(wrong[1].starts_with("2 instead of 1: body a/*"), "{wrong:?}");
    let renewed = ledger.renewed(&[of("a/1", "body"), of("d/1", "fields"), of("d/2", "fields")]);
    assert_eq!(renewed.lines().skip(1).collect::<Vec<_>>(), ["1 body a/*  because", "2 fields d/*  managedFields"]);
    assert!(Ledger::read(&renewed).judge(&[of("a/1", "body"), of("d/1", "fields")]).is_empty());
}
