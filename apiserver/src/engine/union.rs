//! Authorizers in their order -> one verdict, and one list of what they allow. Source: apiserver `pkg/authorization/union/union.go`.

use std::{collections::HashSet, sync::Arc};

use super::identity::{Attributes, Authorizer, Decision, Rules, User, Verdict};

type Authorizers = [Arc<dyn Authorizer>];

/// The first that allows or denies has the word; what those before it said is forgotten.
pub async fn verdict(authorizers: &Authorizers, attributes: &Attributes<'_>) -> Verdict {
    let mut undecided = Undecided::default();
    for one in authorizers {
        let verdict = match one.ask(attributes) {
            None => one.at_once(attributes),
            Some(asked) => asked.await,
        };
        if let Some(decided) = undecided.or(verdict) {
            return decided;
        }
    }
    undecided.verdict()
}

/// As [`verdict`], for who cannot wait: where somebody outside is asked, a thread waits.
pub fn verdict_at_once(authorizers: &Authorizers, attributes: &Attributes<'_>) -> Verdict {
    let mut undecided = Undecided::default();
    let decided = authorizers.iter().find_map(|one| undecided.or(one.at_once(attributes)));
    decided.unwrap_or_else(|| undecided.verdict())
}

/// What all of them let `user` do in `namespace`.
pub fn rules(authorizers: &Authorizers, user: &User, namespace: &str) -> Rules {
    let (mut all, mut errors) = (Rules::default(), Vec::new());
    for one in authorizers {
        let rules = one.rules(user, namespace);
        all.resource.extend(rules.resource);
        all.non_resource.extend(rules.non_resource);
        all.incomplete |= rules.incomplete;
        errors.extend(Some(rules.error).filter(|error| !error.is_empty()));
    }
    Rules { error: aggregated(errors), ..all }
}

/// Errors as `utilerrors.NewAggregate` prints them: each once.
pub fn aggregated(errors: Vec<String>) -> String {
    let mut seen = HashSet::new();
    let mut unique: Vec<String> = errors.into_iter().filter(|error| seen.insert(error.clone())).collect();
    match unique.len() {
        0 => String::new(),
        1 => unique.remove(0),
        _ => format!("[{}]", unique.join(", ")),
    }
}

/// What those said that have no opinion.
#[derive(Default)]
struct Undecided {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Undecided {
    /// The verdict, if it is one.
    fn or(&mut self, verdict: Verdict) -> Option<Verdict> {
        let Verdict { decision: Decision::NoOpinion(reason), error } = verdict else { return Some(verdict) };
        self.reasons.extend(Some(reason).filter(|reason| !reason.is_empty()));
        self.errors.extend(Some(error).filter(|error| !error.is_empty()));
        None
    }

    fn verdict(self) -> Verdict {
        Verdict { decision: Decision::NoOpinion(self.reasons.join("\n")), error: aggregated(self.errors) }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;

    /// Says one thing, at once or when it is waited for.
    struct Says(Verdict, bool);

    impl Authorizer for Says {
        fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
            self.at_once(attributes).decision
        }

        fn at_once(&self, _: &Attributes<'_>) -> Verdict {
            self.0.clone()
        }

        fn ask<'a>(&'a self, _: &'a Attributes<'a>) -> Option<BoxFuture<'a, Verdict>> {
            self.1.then(|| Box::pin(async { self.0.clone() }) as BoxFuture<'a, Verdict>)
        }

        fn rules(&self, _: &User, _: &str) -> Rules {
            Rules { error: self.0.error.clone(), incomplete: self.1, ..Rules::default() }
        }
    }

    fn said(decision: Decision, error: &str) -> Verdict {
        Verdict { decision, error: error.into() }
    }

    #[tokio::test]
    async fn one_verdict_is_made_of_all_whoever_asks() {
        let none = |reason: &str, error: &str| said(Decision::NoOpinion(reason.into()), error);
        let (yes, no) = (said(Decision::Allow("a".into()), ""), said(Decision::Deny("d".into()), "odd"));
        let cases = [
            (vec![], none("", "")),
            (vec![none("", ""), none("r", "")], none("r", "")),
            (vec![none("r", "e"), none("s", "f"), none("", "e")], none("r\ns", "[e, f]")),
            (vec![none("r", "e"), none("", "e")], none("r", "e")),
            (vec![none("r", "e"), yes.clone(), no.clone()], yes),
            (vec![none("r", "e"), no.clone()], no),
        ];
        for (verdicts, wanted) in cases {
            for waits in [false, true] {
                let all: Vec<Arc<dyn Authorizer>> =
                    verdicts.iter().map(|verdict| Arc::new(Says(verdict.clone(), waits)) as Arc<dyn Authorizer>).collect();
                let asked = Attributes::default();
                assert_eq!(verdict(&all, &asked).await, wanted, "{verdicts:?}");
                assert_eq!(verdict_at_once(&all, &asked), wanted, "{verdicts:?}");
            }
        }
        let all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Says(none("", "e"), false)), Arc::new(Says(none("", "f"), true))];
        assert_eq!(rules(&all, &User::default(), ""), Rules { incomplete: true, error: "[e, f]".into(), ..Rules::default() });
    }
}
