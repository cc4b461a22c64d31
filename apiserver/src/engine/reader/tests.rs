//! Readers of one cache: what they are told, what they are not, and when they are cut.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Wake, Waker},
};

use api::{
    selector::{Fields, Labels},
    time::Timestamp,
};
use bytes::Bytes;
use serde_json::Value;
use store::Entry;

use super::*;
use crate::{
    engine::{cache::Write, event_history::BYTES_MAX, select::Selection},
    kind::{Conversion, Field, Finalizers, Kind, Lookup, Storage, Strategy, names},
};

struct NoStrategy;

impl Strategy for NoStrategy {
    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A cache, and the revision of its newest write.
struct Written(Arc<Cache>, Rev);

impl Written {
    fn new() -> Self {
        Self::with(Lookup::Scan)
    }

    fn with(lookup: Lookup) -> Self {
        let kind = Kind {
            group: "test.io".into(),
            version: "v1".into(),
            kind: "Thing".into(),
            plural: "things".into(),
            singular: "thing".into(),
            short_names: names(&[]),
            categories: names(&[]),
            scope: crate::kind::Scope::Namespaced,
            verbs: names(&["watch"]),
            storage: Storage::Kept { prefix: "things".into(), ttl_seconds: None },
            conversion: Conversion::None,
            read: None,
            subresources: Vec::new(),
            columns: Cow::Borrowed(&[]),
            fields: Cow::Owned(vec![Field {
                label: "spec.colour".into(),
                pointer: "/spec/colour".into(),
                default: "".into(),
                lookup,
                instead: None,
            }]),
            schema: crate::schema::Schema::Open,
            generation: false,
            finalizers: Finalizers::Any,
            strategy: Arc::new(NoStrategy),
        };
        Self(Arc::new(Cache::new(Arc::new(kind), "things")), 0)
    }

    fn reader(&self, namespace: &str, fields: &str) -> Reader {
        let selection = Selection::new(&self.0.kind, &self.0.kind, namespace, Labels::default(), Fields::parse(fields).unwrap()).unwrap();
        let mut reader = Reader::new(&self.0, selection.interest());
        reader.place_at_state(&selection, || 0);
        reader
    }

    fn colours(&self, colours: impl IntoIterator<Item = usize>) -> Vec<Reader> {
        colours.into_iter().map(|colour| self.reader("", &format!("spec.colour=c{colour}"))).collect()
    }

    /// One commit: each name gets this colour; an empty one deletes it.
    fn put(&mut self, names: &[(&str, &str)]) {
        self.put_padded(names, "");
    }

    fn put_padded(&mut self, names: &[(&str, &str)], pad: &str) {
        let mut write = |(tail, colour): &(&str, &str)| {
            self.1 += 1;
            let key: Arc<str> = format!("/registry/things/{tail}").into();
            let json = format!(r#"{{"metadata":{{"name":"x"}},"spec":{{"colour":"{colour}","pad":"{pad}"}}}}"#);
            let entry = (!colour.is_empty()).then(|| Entry { key: key.clone(), value: Bytes::from(json), rev: self.1 });
            Write { key, rev: self.1, entry }
        };
        let writes = names.iter().map(&mut write).collect();
        self.0.apply(writes);
    }

    /// Writes of colour `c` that a history cannot hold.
    fn overflow(&mut self, colour: &str) {
        let pad = "p".repeat(BYTES_MAX / 16);
        (0..17).for_each(|_| self.put_padded(&[("ns/big", colour)], &pad));
    }
}

impl Reader {
    fn revs(&mut self) -> Result<Vec<Rev>, Expired> {
        let mut revs = Vec::new();
        while let Poll::Ready(events) = self.poll_read(&mut Context::from_waker(Waker::noop())) {
            revs.extend(events?.iter().map(|event| event.rev));
        }
        Ok(revs)
    }

    /// Sleeps; the counter says how often it was woken.
    fn sleep(&mut self) -> Arc<Counter> {
        let counter = Arc::new(Counter::default());
        let waker = Waker::from(counter.clone());
        assert!(self.poll_read(&mut Context::from_waker(&waker)).is_pending());
        counter
    }
}

impl Counter {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn events_of_others_wake_nobody() {
    let mut things = Written::new();
    let mut readers = things.colours(0..1000);
    let mut everything = things.reader("", "");
    let (wakes, all): (Vec<_>, _) = (readers.iter_mut().map(Reader::sleep).collect(), everything.sleep());
    for i in 0..200 {
        things.put(&[(&format!("ns/{i}"), "other"), (&format!("ns/again{i}"), "other")]);
    }
    things.overflow("other");
    assert_eq!(wakes.iter().map(|wakes| wakes.get()).sum::<usize>(), 0);
    assert_eq!((all.get(), everything.revs().is_err()), (1, true), "who watches all is woken, and was too slow");
    things.put(&[("ns/mine", "c7"), ("ns/theirs", "other")]);
    assert_eq!((wakes[7].get(), wakes.iter().map(|wakes| wakes.get()).sum::<usize>()), (1, 1));
    assert_eq!(readers[7].revs(), Ok(vec![things.1 - 1]));
    assert_eq!(readers[8].revs(), Ok(vec![]), "the history has turned over and nothing of it was theirs");
}

#[test]
fn what_enters_leaves_or_moves_concerns_both_values() {
    let mut things = Written::new();
    let mut readers = things.colours(0..3);
    let mut named = [things.reader("ns", ""), things.reader("other", ""), things.reader("ns", "metadata.name=b")];
    things.put(&[("ns/a", "c0")]);
    things.put(&[("ns/a", "c1"), ("ns/b", "c1"), ("ns/a", "c1")]);
    things.put(&[("ns/a", "c2"), ("other/a", "c9"), ("ns/a", "c9")]);
    things.put(&[("ns/b", "")]);
    let seen: Vec<_> = readers.iter_mut().map(|reader| reader.revs().unwrap()).collect();
    assert_eq!(seen, [vec![1, 2], vec![2, 3, 4, 5, 8], vec![5, 7]]);
    let seen: Vec<_> = named.iter_mut().map(|reader| reader.revs().unwrap()).collect();
    assert_eq!(seen, [vec![1, 2, 3, 4, 5, 7, 8], vec![6], vec![3, 8]]);
}

#[test]
fn one_commit_wakes_once() {
    let mut things = Written::new();
    let mut reader = things.colours([0]).remove(0);
    let wakes = reader.sleep();
    let names: Vec<_> = (0..9).map(|i| format!("ns/{i}")).collect();
    things.put(&names.iter().map(|name| (name.as_str(), "c0")).collect::<Vec<_>>());
    assert_eq!(wakes.get(), 1);
    assert_eq!(reader.revs().unwrap().len(), 9);
    reader.sleep();
}

#[test]
fn a_reader_that_resumes_sees_each_event_once() {
    let mut things = Written::new();
    (0..5).for_each(|_| things.put(&[("ns/a", "c0"), ("ns/b", "other")]));
    let mut late = Reader::new(
        &things.0,
        Selection::new(&things.0.kind, &things.0.kind, "", Labels::default(), Fields::one("spec.colour", "c0")).unwrap().interest(),
    );
    // Comes between the reader and its place: it is in the backlog, and marked.
    things.put(&[("ns/a", "c0"), ("ns/c", "c0"), ("ns/d", "c0")]);
    late.place_after(6).unwrap();
    things.put(&[("ns/c", "c1")]);
    assert_eq!(late.revs(), Ok(vec![7, 8, 9, 10, 11, 12, 13, 14]), "the backlog is told whole");
    things.put(&[("ns/x", "other"), ("ns/a", "c1")]);
    assert_eq!(late.revs(), Ok(vec![16]));
}

#[test]
fn who_is_too_slow_for_its_own_events_is_cut() {
    let mut things = Written::new();
    let mut readers = things.colours([0, 1]);
    things.put(&[("ns/a", "c0"), ("ns/b", "c1")]);
    assert_eq!(readers[1].revs(), Ok(vec![2]));
    things.overflow("other");
    let mut late = Reader::new(&things.0, None);
    assert!(late.place_after(1).is_err(), "too old to resume from");
    assert!(readers[0].revs().is_err(), "it had not read what the history has lost");
    assert_eq!(readers[1].revs(), Ok(vec![]));
    things.overflow("c1");
    assert!(readers[1].revs().is_err());
}

#[test]
fn a_reload_cuts_all() {
    let mut things = Written::new();
    let mut readers = things.colours([0]);
    readers.push(things.reader("", ""));
    let wakes: Vec<_> = readers.iter_mut().map(Reader::sleep).collect();
    things.0.reload(&[], 9);
    things.1 = 9;
    assert!(wakes.iter().all(|wakes| wakes.get() == 1));
    assert!(readers.iter_mut().all(|reader| reader.revs().is_err()));
    let mut fresh = things.colours([0]).remove(0);
    things.put(&[("ns/a", "c0")]);
    assert_eq!(fresh.revs(), Ok(vec![10]));
}

#[test]
fn the_state_of_a_selection_is_what_a_scan_finds() {
    let (mut scanned, mut indexed) = (Written::new(), Written::with(Lookup::Index));
    let selected = |written: &Written, namespace: &str, fields: &str| -> Vec<String> {
        let selection =
            Selection::new(&written.0.kind, &written.0.kind, namespace, Labels::default(), Fields::parse(fields).unwrap()).unwrap();
        let listed = written.0.select(&selection, 0, || 0).objects;
        let mut reader = Reader::new(&written.0, selection.interest());
        let state = reader.place_at_state(&selection, || 0).objects;
        let names = |objects: &[Arc<crate::engine::Object>]| -> Vec<String> {
            objects.iter().filter(|object| selection.matches(object)).map(|object| Cache::tail(&object.key)).collect()
        };
        assert_eq!(names(&listed), names(&state));
        names(&listed)
    };
    let steps: [&[(&str, &str)]; 4] = [
        &[("a/x", "red"), ("a/y", "blue"), ("b/x", "red"), ("b/y", "")],
        &[("a/x", "blue"), ("b/z", "red")],
        &[("b/x", ""), ("a/y", "blue")],
        &[("a/x", ""), ("a/y", ""), ("b/z", "")],
    ];
    for writes in steps {
        scanned.put(writes);
        indexed.put(writes);
        for fields in [
            "spec.colour=red",
            "spec.colour=blue",
            "spec.colour=",
            "spec.colour!=red",
            "spec.colour=red,metadata.name=x",
            "metadata.name=x",
        ] {
            for namespace in ["", "a", "b"] {
                assert_eq!(selected(&scanned, namespace, fields), selected(&indexed, namespace, fields), "{fields} in {namespace:?}");
            }
        }
    }
    assert!(indexed.0.is_index_empty(), "nothing is left behind");
}

#[test]
fn one_event_costs_the_same_however_many_objects_there_are() {
    let mut written = Written::with(Lookup::Index);
    let (mut count, mut costs): (usize, std::collections::BTreeMap<&str, Vec<u64>>) = Default::default();
    for size in [1_000, 10_000, 100_000] {
        while count < size {
            let name = format!("ns{}/{count}", count % 3);
            written.put(&[(&name, &format!("c{}", count / 20))]);
            count += 1;
        }
        let (red, all) = (written.reader("", "spec.colour=c1"), written.reader("", ""));
        let mut cost = |what, happens: &mut dyn FnMut()| costs.entry(what).or_default().push(api::steps::of(happens).1);
        cost("a change", &mut || written.put(&[("ns0/0", "c0")]));
        cost("a deletion", &mut || written.put(&[("ns0/0", "")]));
        cost("a creation", &mut || written.put(&[("ns0/0", "c0")]));
        cost("a watch of one value", &mut || drop(written.reader("", "spec.colour=c7")));
        cost("a watch of one object", &mut || drop(written.reader("ns1", "metadata.name=1")));
        let selection =
            Selection::new(&written.0.kind, &written.0.kind, "", Labels::default(), Fields::parse("spec.colour=c9").unwrap()).unwrap();
        cost("a list of one value", &mut || drop(written.0.select(&selection, 500, || 0)));
        drop((red, all));
    }
    costs.iter().for_each(|(what, costs)| api::steps::must_not_grow(what, costs));
}
