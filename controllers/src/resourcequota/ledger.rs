//! Objects that come, change and go -> what all of a namespace take, kept as sums: an event costs the same however many objects there are.
//!
//! Only namespaces with a quota have a book. What stands in it is put there by name, so that it may be told of an object twice.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use api::{quantity::Quantity, steps, time::Timestamp};
use parking_lot::Mutex;
use podspec::quota::{Evaluator, Measure, Scope, Standing, Usage};

/// Which objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Pods,
    Services,
    Claims,
}

/// What an object did to the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Nothing,
    /// Nothing is less than it was.
    Up,
    Down,
}

#[derive(Default)]
pub struct Ledger {
    books: Mutex<HashMap<String, Book>>,
    /// How many were opened.
    opened: AtomicU64,
}

/// How a book is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Filled,
    /// What is there is yet to be put in, by whoever finds it so. Its number.
    Empty(u64),
}

/// One namespace.
#[derive(Default)]
struct Book {
    number: u64,
    /// All that was there when it was opened has been put in.
    filled: bool,
    pods: Kept,
    services: Kept,
    claims: Kept,
}

/// Objects of one kind.
#[derive(Default)]
struct Kept {
    by_name: HashMap<Box<str>, Entry>,
    /// What is often equal is kept once.
    measures: HashSet<Arc<Measure>>,
    sums: HashMap<Standing, Sum>,
    /// Pods that are being deleted, by when they stop counting.
    expiring: BTreeSet<(Timestamp, Box<str>)>,
}

struct Entry {
    measure: Arc<Measure>,
    expires: Option<Timestamp>,
}

#[derive(Default)]
struct Sum {
    objects: usize,
    usage: Usage,
}

impl Of {
    pub const ALL: [Self; 3] = [Self::Pods, Self::Services, Self::Claims];

    pub fn evaluator(self) -> Evaluator {
        match self {
            Self::Pods => Evaluator::Pods,
            Self::Services => Evaluator::Services,
            Self::Claims => Evaluator::Claims,
        }
    }
}

impl Ledger {
    pub fn has(&self, namespace: &str) -> bool {
        self.books.lock().contains_key(namespace)
    }

    /// Opens the namespace's book while `is_wanted` says so.
    pub fn open(&self, namespace: &str, is_wanted: impl FnOnce() -> bool) -> Option<Opened> {
        let mut books = self.books.lock();
        if let Some(book) = books.get(namespace) {
            return Some(if book.filled { Opened::Filled } else { Opened::Empty(book.number) });
        }
        if !is_wanted() {
            return None;
        }
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        books.insert(namespace.to_owned(), Book { number, ..Book::default() });
        Some(Opened::Empty(number))
    }

    /// Closes it, unless `is_wanted`.
    pub fn close(&self, namespace: &str, is_wanted: impl FnOnce() -> bool) {
        let mut books = self.books.lock();
        if !is_wanted() {
            books.remove(namespace);
        }
    }

    /// Of this very book: another may have been opened meanwhile.
    pub fn is_filled(&self, namespace: &str, number: u64) {
        if let Some(book) = self.books.lock().get_mut(namespace).filter(|book| book.number == number) {
            book.filled = true;
        }
    }

    /// The object is so now (`read` is asked while nobody else writes here), or gone where there is none. Nothing where there is no book.
    pub fn note(&self, of: Of, namespace: &str, name: &str, read: impl FnOnce() -> Option<(Measure, Option<Timestamp>)>) -> Moved {
        let mut books = self.books.lock();
        let Some(book) = books.get_mut(namespace) else { return Moved::Nothing };
        match read() {
            Some((measure, expires)) => book.of(of).put(name, measure, expires),
            None => book.of(of).remove(name),
        }
    }

    /// What those of them take that are in all of the scopes, and when that may be less with nothing happening.
    pub fn used(&self, of: Of, namespace: &str, scopes: &[Scope], now: Timestamp) -> (Usage, Option<Timestamp>) {
        let mut books = self.books.lock();
        let Some(book) = books.get_mut(namespace) else { return (Usage::new(), None) };
        let kept = book.of(of);
        kept.expire(now);
        let mut sum = Usage::new();
        for (_, one) in steps::counted(kept.sums.iter()).filter(|(standing, _)| scopes.iter().all(|scope| scope.has(standing))) {
            add(&mut sum, &one.usage);
        }
        (sum, kept.expiring.first().map(|(at, _)| *at))
    }
}

impl Book {
    fn of(&mut self, of: Of) -> &mut Kept {
        match of {
            Of::Pods => &mut self.pods,
            Of::Services => &mut self.services,
            Of::Claims => &mut self.claims,
        }
    }
}

impl Kept {
    fn put(&mut self, name: &str, measure: Measure, expires: Option<Timestamp>) -> Moved {
        if let Some(known) = self.by_name.get(name)
            && known.expires == expires
            && *known.measure == measure
        {
            return Moved::Nothing;
        }
        let old = self.take(name);
        let measure = self.measures.get(&measure).cloned().unwrap_or_else(|| {
            let measure = Arc::new(measure);
            self.measures.insert(measure.clone());
            measure
        });
        let sum = self.sums.entry(measure.standing.clone()).or_default();
        sum.objects += 1;
        add(&mut sum.usage, &measure.usage);
        if let Some(at) = expires {
            self.expiring.insert((at, name.into()));
        }
        let moved = old.as_ref().map_or(Moved::Up, |old| moved(old, &measure));
        self.by_name.insert(name.into(), Entry { measure, expires });
        self.release(old);
        moved
    }

    fn remove(&mut self, name: &str) -> Moved {
        let old = self.take(name);
        let moved = if old.is_some() { Moved::Down } else { Moved::Nothing };
        self.release(old);
        moved
    }

    /// Out of the sums.
    fn take(&mut self, name: &str) -> Option<Arc<Measure>> {
        let (name, Entry { measure, expires }) = self.by_name.remove_entry(name)?;
        if let Some(sum) = self.sums.get_mut(&measure.standing) {
            sum.objects -= 1;
            for (resource, amount) in &measure.usage {
                if let Some(all) = sum.usage.get_mut(resource) {
                    *all = all.minus(*amount);
                }
            }
            // What is nothing is written as the next is that is something.
            sum.usage.retain(|_, amount| !amount.is_zero());
            if sum.objects == 0 {
                self.sums.remove(&measure.standing);
            }
        }
        if let Some(at) = expires {
            self.expiring.remove(&(at, name));
        }
        Some(measure)
    }

    /// Nothing is kept that no object has.
    fn release(&mut self, measure: Option<Arc<Measure>>) {
        // Ours, and that of the set.
        if let Some(measure) = measure.filter(|measure| Arc::strong_count(measure) <= 2) {
            self.measures.remove(&measure);
        }
    }

    /// Pods whose time is up are only counted.
    fn expire(&mut self, now: Timestamp) {
        while self.expiring.first().is_some_and(|(at, _)| *at < now) {
            steps::took(1);
            let Some((_, name)) = self.expiring.pop_first() else { return };
            let Some(entry) = self.by_name.get_mut(&name) else { continue };
            entry.expires = None;
            let usage = entry.measure.usage.iter().filter(|(resource, _)| *resource == "count/pods");
            let measure = Measure { standing: entry.measure.standing.clone(), usage: usage.map(|(k, v)| (k.clone(), *v)).collect() };
            self.put(&name, measure, None);
        }
    }
}

fn add(sum: &mut Usage, more: &Usage) {
    for (resource, amount) in more {
        match sum.get_mut(resource) {
            Some(all) => *all = all.plus(*amount),
            None => {
                sum.insert(resource.clone(), *amount);
            }
        }
    }
}

fn moved(old: &Measure, new: &Measure) -> Moved {
    if old == new {
        return Moved::Nothing;
    }
    let nothing = Quantity::from_units(0);
    let is_less = |(resource, was): (&String, &Quantity)| new.usage.get(resource).unwrap_or(&nothing) < was;
    if old.standing != new.standing || old.usage.iter().any(is_less) { Moved::Down } else { Moved::Up }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pod(cpu: &str, deadline: Option<i64>) -> Measure {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        Evaluator::Pods.measure(&json!({"spec": {"containers": [container], "activeDeadlineSeconds": deadline}}))
    }

    fn used(ledger: &Ledger, scopes: &[Scope]) -> String {
        let (used, _) = ledger.used(Of::Pods, "a", scopes, NOW);
        let of = |name: &str| used.get(name).map_or("-".to_owned(), ToString::to_string);
        format!("{} {} {}", of("pods"), of("count/pods"), of("requests.cpu"))
    }

    fn terminating() -> Vec<Scope> {
        Scope::all(Some(&json!({"scopes": ["Terminating"]})))
    }

    #[test]
    fn sums_follow_what_comes_changes_and_goes() {
        let ledger = Ledger::default();
        let put = |name: &str, measure: Measure| ledger.note(Of::Pods, "a", name, || Some((measure, None)));
        assert_eq!(put("early", pod("1", None)), Moved::Nothing, "nobody counts there");
        assert_eq!(ledger.open("a", || true), Some(Opened::Empty(0)));
        assert_eq!(put("x", pod("100m", None)), Moved::Up);
        assert_eq!(put("x", pod("100m", None)), Moved::Nothing, "told twice");
        assert_eq!(put("y", pod("1", Some(5))), Moved::Up);
        assert_eq!((used(&ledger, &[]).as_str(), used(&ledger, &terminating()).as_str()), ("2 2 1100m", "1 1 1"));
        assert_eq!(put("x", pod("200m", None)), Moved::Up);
        assert_eq!(put("x", pod("50m", None)), Moved::Down);
        assert_eq!(put("x", pod("50m", Some(5))), Moved::Down, "it counts elsewhere");
        assert_eq!((used(&ledger, &[]).as_str(), used(&ledger, &terminating()).as_str()), ("2 2 1050m", "2 2 1050m"));
        assert_eq!(ledger.note(Of::Pods, "a", "y", || None), Moved::Down);
        assert_eq!(ledger.note(Of::Pods, "a", "y", || None), Moved::Nothing);
        assert_eq!(used(&ledger, &[]), "1 1 50m");
        assert_eq!(ledger.note(Of::Pods, "a", "x", || None), Moved::Down);
        assert_eq!(used(&ledger, &[]), "- - -");
        let books = ledger.books.lock();
        let kept = &books["a"].pods;
        assert!(kept.measures.is_empty() && kept.sums.is_empty() && kept.by_name.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_pod_that_hangs_is_only_counted_once_its_time_is_up() {
        let ledger = Ledger::default();
        ledger.open("a", || true);
        let at = |seconds: i64| Timestamp::new(seconds, 0).unwrap();
        ledger.note(Of::Pods, "a", "x", || Some((pod("1", None), Some(at(30)))));
        let look = |now: i64| {
            let (used, next) = ledger.used(Of::Pods, "a", &[], at(now));
            (used.len(), next)
        };
        assert_eq!(look(30), (4, Some(at(30))));
        assert_eq!(look(31), (1, None));
        assert_eq!(used(&ledger, &[]), "- 1 -");
        assert_eq!(ledger.note(Of::Pods, "a", "x", || None), Moved::Down);
        assert!(ledger.books.lock()["a"].pods.measures.is_empty());
    }

    #[test]
    fn a_book_is_there_for_as_long_as_somebody_wants_it() {
        let ledger = Ledger::default();
        assert_eq!(ledger.open("a", || false), None);
        let Some(Opened::Empty(first)) = ledger.open("a", || true) else { panic!() };
        ledger.close("a", || false);
        let Some(Opened::Empty(second)) = ledger.open("a", || true) else { panic!() };
        // Who fills the one before has nothing to say of this.
        ledger.is_filled("a", first);
        assert_eq!(ledger.open("a", || false), Some(Opened::Empty(second)));
        ledger.is_filled("a", second);
        assert_eq!(ledger.open("a", || false), Some(Opened::Filled));
        ledger.close("a", || true);
        assert!(ledger.has("a"));
        ledger.close("a", || false);
        assert!(!ledger.has("a"));
    }

    /// However they come and go, the sums are those of what is there.
    #[test]
    fn sums_are_never_wrong() {
        let ledger = Ledger::default();
        ledger.open("a", || true);
        let mut there: HashMap<u64, u64> = HashMap::new();
        let mut seed = 7_u64;
        for _ in 0..2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (name, milli) = (seed >> 33 & 15, seed >> 40 & 7);
            if milli == 0 {
                there.remove(&name);
                ledger.note(Of::Pods, "a", &name.to_string(), || None);
            } else {
                there.insert(name, milli);
                let deadline = (milli > 3).then_some(1);
                ledger.note(Of::Pods, "a", &name.to_string(), || Some((pod(&format!("{milli}m"), deadline), None)));
            }
            for scopes in [vec![], terminating()] {
                let those: Vec<u64> = there.values().copied().filter(|milli| scopes.is_empty() || *milli > 3).collect();
                let (used, _) = ledger.used(Of::Pods, "a", &scopes, NOW);
                let of = |name: &str| used.get(name).map_or(0, |amount| amount.milli());
                let sum = i64::try_from(those.iter().sum::<u64>()).unwrap();
                assert_eq!((of("pods"), of("cpu")), (i64::try_from(those.len()).unwrap() * 1000, sum));
            }
        }
    }
}
