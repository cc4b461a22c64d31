//! What was looked at before something is started -> that it is fine, or what is wrong and what mends it, for whoever waits at a terminal.
//!
//! As kubeadm's checks (`cmd/kubeadm/app/preflight/checks.go`), whose `Checker`s return errors and warnings.

use std::fmt;

/// Whether it works all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Blocks,
    Warns,
}

/// One thing that is wrong, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub weight: Weight,
    /// Empty where what was looked at is simply not there.
    pub what: String,
    /// A command, or a deed.
    pub mend: String,
}

/// One thing that was looked at. Its `Display` is one line, and two more where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub problem: Option<Problem>,
}

impl Finding {
    pub fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), problem: None }
    }

    /// Something that stands in the way.
    pub fn wrong(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), problem: Some(Problem { weight: Weight::Blocks, what: why.into(), mend: mend.into() }) }
    }

    /// Something that should be heard of, and stands in nobody's way.
    pub fn warned(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), problem: Some(Problem { weight: Weight::Warns, what: why.into(), mend: mend.into() }) }
    }

    /// Something that is needed and may not be there.
    pub fn needed(what: &str, is_there: bool, mend: &str) -> Self {
        if is_there { Self::fine(what) } else { Self::wrong(what, "", mend) }
    }

    /// Whether it stands in the way.
    pub fn blocks(&self) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.weight == Weight::Blocks)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match &self.problem {
            None => '\u{2713}',
            Some(Problem { weight: Weight::Blocks, .. }) => '\u{2717}',
            Some(Problem { weight: Weight::Warns, .. }) => '!',
        };
        write!(f, " {sign} {}", self.what)?;
        let Some(problem) = &self.problem else { return Ok(()) };
        if !problem.what.is_empty() {
            write!(f, "\n     {}", problem.what)?;
        }
        write!(f, "\n     mend with: {}", problem.mend)
    }
}

/// Those that stand in the way, each on a line with what mends it on the next; empty where none does.
pub fn in_the_way(found: &[Finding]) -> String {
    let problems = found.iter().filter(|finding| finding.blocks()).filter_map(|finding| Some((&finding.what, finding.problem.as_ref()?)));
    let lines = problems.map(|(what, problem)| match problem.what.as_str() {
        "" => format!("\n  {what}: mend with: {}", problem.mend),
        why => format!("\n  {what}: {why}\n     mend with: {}", problem.mend),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_with_what_mends_it() {
        let found = [
            Finding::fine("a"),
            Finding::needed("b", false, "install b"),
            Finding::wrong("c", "it is taken", "stop it"),
            Finding::warned("d", "they differ", "set one"),
            Finding::needed("e", true, "install e"),
        ];
        let lines: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert_eq!(
            lines.join("\n"),
            " \u{2713} a\n \u{2717} b\n     mend with: install b\n \u{2717} c\n     it is taken\n     mend with: stop it\n ! d\n     they differ\n     mend with: set one\n \u{2713} e"
        );
        assert_eq!(in_the_way(&found), "\n  b: mend with: install b\n  c: it is taken\n     mend with: stop it");
        assert_eq!(in_the_way(&[Finding::fine("a")]), "");
    }
}
