//! When pods are to be brought on again -> the next one that is due. Each pod has one time at most.

use std::collections::{BTreeSet, HashMap};

use api::time::Timestamp;

#[derive(Default)]
pub struct Timers {
    due: BTreeSet<(Timestamp, String)>,
    at: HashMap<String, Timestamp>,
}

impl Timers {
    /// Takes the place of the pod's earlier time; `None` takes it away.
    pub fn set(&mut self, uid: &str, at: Option<Timestamp>) {
        let old = match at {
            Some(at) => self.at.insert(uid.to_owned(), at),
            None => self.at.remove(uid),
        };
        if let Some(old) = old {
            self.due.remove(&(old, uid.to_owned()));
        }
        if let Some(at) = at {
            self.due.insert((at, uid.to_owned()));
        }
    }

    pub fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out one whose time has come.
    pub fn pop(&mut self, now: Timestamp) -> Option<String> {
        self.next().filter(|at| *at <= now)?;
        let (_, uid) = self.due.pop_first()?;
        self.at.remove(&uid);
        Some(uid)
    }
}

#[cfg(test)]
impl Timers {
    pub fn of(&self, uid: &str) -> Option<Timestamp> {
        self.at.get(uid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut timers = Timers::default();
        timers.set("a", Some(at(5)));
        timers.set("b", Some(at(3)));
        timers.set("a", Some(at(2)));
        assert_eq!((timers.next(), timers.pop(at(1))), (Some(at(2)), None));
        assert_eq!(timers.pop(at(9)).as_deref(), Some("a"));
        timers.set("b", None);
        assert_eq!((timers.next(), timers.pop(at(9))), (None, None));
    }
}
