//! One resource's objects in memory, its recent changes, and who is told of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    iter,
    ops::{Bound, Range},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::{Key, steps};
use parking_lot::{Mutex, RwLock};
use store::{Entry, Rev};

use super::{
    event_history::{BYTES_MAX, Batch, Event, EventHistory, Expired},
    object::Object,
    select::{Interest, Selection, Source},
    wake::{Pushed, Topic, Wakes},
};
use crate::kind::{Kind, Lookup, Scope, Storage};

/// A change as subscribers see it, after it is durable and in the cache.
pub struct Change {
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

pub(crate) type Listener = Arc<dyn Fn(&Change) + Send + Sync>;

/// One write as the store tells it: what stands under the key now.
#[derive(Clone)]
pub(crate) struct Write {
    pub key: Arc<str>,
    pub rev: Rev,
    pub entry: Option<Entry>,
}

pub(crate) struct Cache {
    pub kind: Arc<Kind>,
    /// `/registry/<prefix>/`
    pub prefix: String,
    state: RwLock<State>,
    wakes: Wakes,
    /// Held while changes are told, so that a new listener sees each exactly once.
    followers: Mutex<Followers>,
    /// The one in whose place this one came: requests that had found it still read from it.
    predecessor: Mutex<Weak<Cache>>,
    /// The last whole snapshot, for as long as somebody reads it: lists at one time share it.
    whole: Mutex<Whole>,
    /// Readers that there are now.
    readers: AtomicUsize,
}

/// Who is told of changes, besides watchers.
#[derive(Default)]
struct Followers {
    listeners: Vec<Listener>,
    /// While the cache is being filled: what was written since.
    held: Option<Vec<Write>>,
    /// The cache that comes in the place of this one, and is told all that this one is.
    successor: Option<Arc<Cache>>,
}

/// Why a cache ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Another one comes in its place.
    Replaced,
    /// Its kind is served no more: for listeners all of it is gone.
    Withdrawn,
}

#[derive(Default)]
struct Whole {
    rev: Rev,
    namespace: Box<str>,
    objects: Weak<Vec<Arc<Object>>>,
}

struct State {
    /// By the store's key without the prefix.
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    history: EventHistory,
    rev: Rev,
    /// Of all objects, as they are stored.
    bytes: usize,
    /// By field that is looked up so: the keys that have each value.
    indexes: Vec<(usize, Index)>,
    /// Nothing comes any more: who reads must begin anew elsewhere.
    is_closed: bool,
}

type Index = HashMap<Box<str>, BTreeSet<Arc<str>>>;

/// So many objects are compared with a selection while the state is locked: those that find nothing soon go on without.
const LOCKED_LOOKS_MAX: usize = 4096;

/// Objects at one revision, in key order.
pub(crate) struct Snapshot {
    pub objects: Arc<Vec<Arc<Object>>>,
    pub rev: Rev,
    /// The history's end at that moment.
    pub cursor: u64,
    /// How many come after the last: all there are, but for a selection only whether there are any.
    pub more: usize,
    /// Whether these are what was asked for; else what it is among, from the first on.
    pub is_selected: bool,
}

impl Cache {
    /// `None` for kinds that are kept nowhere, or as another.
    pub fn of(kind: &Arc<Kind>) -> Option<Self> {
        match &kind.storage {
            Storage::Kept { prefix, .. } => Some(Self::new(kind.clone(), prefix)),
            Storage::As { .. } | Storage::Nowhere => None,
        }
    }

    /// As [`Cache::of`]; what it is told it keeps until [`Cache::fill`].
    pub fn filling(kind: &Arc<Kind>) -> Option<Self> {
        let cache = Self::of(kind)?;
        cache.followers.lock().held = Some(Vec::new());
        Some(cache)
    }

    pub fn new(kind: Arc<Kind>, prefix: &str) -> Self {
        let indexed = kind.fields.iter().enumerate().filter(|(_, field)| field.lookup == Lookup::Index);
        let indexes = indexed.map(|(at, _)| (at, Index::default())).collect();
        let state = State { objects: BTreeMap::new(), history: EventHistory::new(BYTES_MAX), rev: 0, bytes: 0, indexes, is_closed: false };
        Self {
            kind,
            prefix: format!("/registry/{prefix}/"),
            state: RwLock::new(state),
            wakes: Wakes::new(),
            followers: Mutex::default(),
            predecessor: Mutex::default(),
            whole: Mutex::default(),
            readers: AtomicUsize::default(),
        }
    }

    /// How many watch it now.
    pub fn watches(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    pub fn reader_comes(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub fn reader_goes(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether it is that of `/registry/<prefix>/`.
    pub fn is_at(&self, prefix: &str) -> bool {
        self.prefix.strip_prefix("/registry/").and_then(|rest| rest.strip_suffix('/')) == Some(prefix)
    }

    /// Whether objects of `kind` can be kept here as they are: all that the cache makes of its kind is the same.
    pub fn suits(&self, kind: &Kind) -> bool {
        let own = &self.kind;
        own.storage == kind.storage && own.gvk() == kind.gvk() && own.scope == kind.scope && own.fields == kind.fields
    }

    /// The key within the cache.
    pub fn tail(key: &Key) -> String {
        if key.namespace.is_empty() { key.name.clone() } else { format!("{}/{}", key.namespace, key.name) }
    }

    pub fn store_key(&self, key: &Key) -> String {
        format!("{}{}", self.prefix, Self::tail(key))
    }

    fn key(&self, tail: &str) -> Option<Key> {
        match (self.kind.scope, tail.split_once('/')) {
            (Scope::Namespaced, Some((namespace, name))) if !name.contains('/') => Some(Key::new(namespace, name)),
            (Scope::Cluster, None) => Some(Key::new("", tail)),
            _ => None,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.state.read().objects.get(Self::tail(key).as_str()).cloned()
    }

    /// The object as of `entry`, whose value is plain: the cached one where the cache is just there, else made from the entry.
    pub fn object(&self, entry: &Entry) -> Option<Arc<Object>> {
        let tail = entry.key.strip_prefix(&self.prefix)?;
        self.cached(entry).or_else(|| self.parse(tail, entry))
    }

    /// The object as of `entry` where the cache is just there.
    pub fn cached(&self, entry: &Entry) -> Option<Arc<Object>> {
        let tail = entry.key.strip_prefix(&self.prefix)?;
        self.state.read().objects.get(tail).filter(|object| object.rev == entry.rev).cloned()
    }

    /// What is cached of what the store has under `key`, as of whichever revision.
    pub fn known(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key.strip_prefix(&self.prefix)?).cloned()
    }

    fn parse(&self, tail: &str, entry: &Entry) -> Option<Arc<Object>> {
        let parsed = Object::from_stored(&self.kind, self.key(tail)?, &entry.value, entry.rev);
        match parsed {
            Ok(object) => Some(Arc::new(object)),
            Err(error) => {
                tracing::error!(key = &*entry.key, rev = entry.rev, %error, "stored object cannot be read and is left out");
                None
            }
        }
    }

    /// How many objects there are, and their bytes as they are stored.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.objects.len(), state.bytes)
    }

    /// All of one namespace, or of all; `applied` reads how far the store has been followed.
    pub fn snapshot(&self, namespace: &str, applied: impl Fn() -> Rev) -> Snapshot {
        let state = self.state.read();
        let objects = self.shared(&state, namespace);
        Snapshot { objects, rev: state.rev.max(applied()), cursor: state.history.end(), more: 0, is_selected: true }
    }

    /// At least what `selection` takes, and no more than all of its namespace.
    pub fn state(&self, selection: &Selection, applied: impl Fn() -> Rev) -> Snapshot {
        let state = self.state.read();
        let objects = match (selection.single(), selection.indexed()) {
            (Some(key), _) => Arc::new(state.objects.get(Self::tail(&key).as_str()).cloned().into_iter().collect()),
            (None, _) => self.among(&state, selection),
        };
        Snapshot { objects, rev: state.rev.max(applied()), cursor: state.history.end(), more: 0, is_selected: false }
    }

    #[cfg(test)]
    pub fn is_index_empty(&self) -> bool {
        self.state.read().indexes.iter().all(|(_, index)| index.is_empty())
    }

    /// What `selection` takes, at most `limit` (0 is no limit), or what it is among.
    pub fn select(&self, selection: &Selection, limit: usize, applied: impl Fn() -> Rev) -> Snapshot {
        let state = self.state.read();
        let rev = state.rev.max(applied());
        if selection.is_all() && limit == 0 {
            let objects = self.shared(&state, &selection.namespace);
            return Snapshot { objects, rev, cursor: state.history.end(), more: 0, is_selected: true };
        }
        self.selected(&state, rev, selection, None, limit)
    }

    fn selected(&self, state: &State, rev: Rev, selection: &Selection, after: Option<&str>, limit: usize) -> Snapshot {
        let cursor = state.history.end();
        match state.select(selection, after, limit) {
            Some((objects, more)) => Snapshot { objects: Arc::new(objects), rev, cursor, more, is_selected: true },
            None => Snapshot { objects: self.among(state, selection), rev, cursor, more: 0, is_selected: false },
        }
    }

    /// All that `selection` may take; none of it is looked at.
    fn among(&self, state: &State, selection: &Selection) -> Arc<Vec<Arc<Object>>> {
        match selection.indexed() {
            Some(_) => Arc::new(state.candidates(selection, None).cloned().collect()),
            None => self.shared(state, &selection.namespace),
        }
    }

    /// As [`Cache::select`], strictly after `after`, but only if nothing has changed since `rev`.
    pub fn unchanged_since(&self, rev: Rev, selection: &Selection, after: &str, limit: usize) -> Option<Snapshot> {
        let state = self.state.read();
        if state.rev > rev {
            return None;
        }
        Some(self.selected(&state, rev, selection, Some(after), limit))
    }

    /// How many are told of what is written in `namespace`, watchers of single objects apart.
    pub fn watchers(&self, namespace: &str) -> usize {
        self.wakes.count(namespace)
    }

    fn shared(&self, state: &State, namespace: &str) -> Arc<Vec<Arc<Object>>> {
        let mut whole = self.whole.lock();
        if (whole.rev, &*whole.namespace) == (state.rev, namespace)
            && let Some(objects) = whole.objects.upgrade()
        {
            return objects;
        }
        let objects = Arc::new(state.range(namespace, None).map(|(_, object)| object.clone()).collect());
        *whole = Whole { rev: state.rev, namespace: namespace.into(), objects: Arc::downgrade(&objects) };
        objects
    }

    pub fn topic(&self, interest: Interest<'_>) -> Arc<Topic> {
        self.wakes.topic(interest)
    }

    /// The cursors of the events above `rev`.
    pub fn cursors_after(&self, rev: Rev) -> Result<Range<u64>, Expired> {
        self.state.read().history()?.after(rev)
    }

    pub fn read(&self, cursors: Range<u64>) -> Result<Batch, Expired> {
        self.state.read().history()?.read(cursors)
    }

    pub fn pick(&self, cursors: impl Iterator<Item = u64>) -> Result<Batch, Expired> {
        self.state.read().history()?.pick(cursors)
    }

    pub fn expired(&self) -> Expired {
        self.state.read().history.expired()
    }

    pub fn listen(&self, listener: Listener) {
        let mut followers = self.followers.lock();
        let objects: Vec<Arc<Object>> = self.state.read().objects.values().cloned().collect();
        for object in objects {
            listener(&Change { old: None, new: Some(object) });
        }
        followers.listeners.push(listener);
    }

    /// From now on `successor` is told what this cache is.
    pub fn pass_on_to(&self, successor: Option<&Arc<Cache>>) {
        self.followers.lock().successor = successor.cloned();
    }

    /// Comes in the place of `predecessor`, which is told what this one is for as long as somebody has it.
    pub fn succeed(&self, predecessor: &Arc<Cache>) {
        *self.predecessor.lock() = Arc::downgrade(predecessor);
    }

    /// Those in whose place this one came and that somebody still has, the last one first.
    fn predecessors(&self) -> impl Iterator<Item = Arc<Cache>> {
        let before = |cache: &Cache| cache.predecessor.lock().upgrade();
        iter::successors(before(self), move |cache| before(cache))
    }

    /// Ends it: watchers must begin anew, and listeners are told nothing any more.
    pub fn close(&self, why: Close) {
        let mut followers = self.followers.lock();
        let listeners = std::mem::take(&mut followers.listeners);
        if why == Close::Withdrawn && !listeners.is_empty() {
            for object in self.state.read().objects.values() {
                let gone = Change { old: Some(object.clone()), new: None };
                listeners.iter().for_each(|listener| listener(&gone));
            }
        }
        drop(followers);
        {
            let mut state = self.state.write();
            let rev = state.rev;
            state.is_closed = true;
            state.history.reset(rev);
        }
        self.wakes.reset();
    }

    /// Takes in writes that belong to this cache, in order. What it has already seen is left out.
    pub fn apply(&self, writes: Vec<Write>) {
        let mut followers = self.followers.lock();
        if let Some(held) = &mut followers.held {
            held.extend(writes);
            return;
        }
        if let Some(successor) = &followers.successor {
            successor.apply(writes.clone());
        }
        for predecessor in self.predecessors() {
            predecessor.take_in(&Followers::default(), writes.clone());
        }
        self.take_in(&followers, writes);
    }

    fn take_in(&self, followers: &Followers, writes: Vec<Write>) {
        let parsed: Vec<_> = writes.into_iter().filter_map(|write| self.parsed(write)).collect();
        let mut events = Vec::with_capacity(parsed.len());
        let held = {
            let mut state = self.state.write();
            let seen = state.rev;
            for (tail, rev, new) in parsed.into_iter().filter(|(_, rev, _)| *rev > seen) {
                events.extend(state.put(&self.kind, tail, rev, new));
            }
            state.history.held()
        };
        tell(&followers.listeners, &events);
        self.wakes.wake(&self.kind, &Pushed { events: &events, held });
    }

    /// What the store had at `rev`, and then what was written since.
    pub fn fill(&self, entries: &[Entry], rev: Rev) {
        // Long work, and who commits may wait for the lock.
        let read = self.read_all(entries);
        let mut followers = self.followers.lock();
        let since = followers.held.take().unwrap_or_default();
        // All may have been read anew meanwhile.
        if self.state.read().rev < rev {
            self.replace(&followers, read, rev);
        }
        self.take_in(&followers, since);
    }

    fn parsed(&self, write: Write) -> Option<(Arc<str>, Rev, Option<Arc<Object>>)> {
        let tail = write.key.strip_prefix(&self.prefix)?;
        let new = write.entry.as_ref().and_then(|entry| self.parse(tail, entry));
        Some((tail.into(), write.rev, new))
    }

    /// Replaces all by what the store has at `rev`. Listeners hear the difference; watchers must begin anew.
    pub fn reload(&self, entries: &[Entry], rev: Rev) {
        let mut followers = self.followers.lock();
        if let Some(held) = &mut followers.held {
            held.clear();
        }
        if let Some(successor) = &followers.successor {
            successor.reload(entries, rev);
        }
        for predecessor in self.predecessors() {
            predecessor.replace(&Followers::default(), predecessor.read_all(entries), rev);
        }
        self.replace(&followers, self.read_all(entries), rev);
    }

    /// Each entry of the cache with its object.
    fn read_all<'e>(&self, entries: &'e [Entry]) -> Vec<(&'e Entry, Arc<Object>)> {
        entries.iter().filter_map(|entry| self.object(entry).map(|object| (entry, object))).collect()
    }

    fn replace(&self, followers: &Followers, fresh: Vec<(&Entry, Arc<Object>)>, rev: Rev) {
        let mut events = Vec::new();
        {
            let mut state = self.state.write();
            for tail in state.lost(&self.prefix, &fresh) {
                events.extend(state.put(&self.kind, tail, rev, None));
            }
            for (entry, object) in fresh {
                let Some(tail) = entry.key.strip_prefix(&self.prefix) else { continue };
                if state.objects.get(tail).is_none_or(|old| old.rev != object.rev) {
                    events.extend(state.put(&self.kind, tail.into(), entry.rev, Some(object)));
                }
            }
            state.history.reset(rev);
            state.rev = rev;
        }
        tell(&followers.listeners, &events);
        self.wakes.reset();
    }
}

impl State {
    fn history(&self) -> Result<&EventHistory, Expired> {
        if self.is_closed { Err(self.history.expired()) } else { Ok(&self.history) }
    }

    fn range(&self, namespace: &str, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Arc<Object>)> {
        let (start, end) = match namespace {
            "" => (String::new(), Bound::Unbounded),
            // '0' is the byte after '/'.
            ns => (format!("{ns}/"), Bound::Excluded(format!("{ns}0"))),
        };
        let start = match after {
            Some(after) if after >= start.as_str() => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(start),
        };
        let bounds = (start.as_ref().map(String::as_str), end.as_ref().map(String::as_str));
        steps::counted(self.objects.range::<str, _>(bounds))
    }

    /// What is here and not among `entries`.
    fn lost(&self, prefix: &str, entries: &[(&Entry, Arc<Object>)]) -> Vec<Arc<str>> {
        if self.objects.is_empty() {
            return Vec::new();
        }
        let known: HashSet<&str> = entries.iter().filter_map(|(entry, _)| entry.key.strip_prefix(prefix)).collect();
        self.objects.keys().filter(|tail| !known.contains(&***tail)).cloned().collect()
    }

    /// The first `limit` (0 is no limit) that `selection` takes, and how many come after. `None`: not to be found soon.
    fn select(&self, selection: &Selection, after: Option<&str>, limit: usize) -> Option<(Vec<Arc<Object>>, usize)> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut candidates = self.candidates(selection, after);
        if selection.is_all() {
            let objects = candidates.by_ref().take(limit).cloned().collect();
            return Some((objects, candidates.count()));
        }
        let (mut objects, mut left) = (Vec::new(), LOCKED_LOOKS_MAX);
        for object in candidates {
            left = left.checked_sub(1)?;
            if !selection.matches(object) {
                continue;
            }
            if objects.len() == limit {
                return Some((objects, 1));
            }
            objects.push(object.clone());
        }
        Some((objects, 0))
    }

    /// All that `selection` may take, in key order.
    fn candidates<'a>(&'a self, selection: &'a Selection, after: Option<&'a str>) -> Box<dyn Iterator<Item = &'a Arc<Object>> + 'a> {
        let Some((field, value)) = selection.indexed() else {
            return Box::new(self.range(&selection.namespace, after).map(|(_, object)| object));
        };
        let index = self.indexes.iter().find(|(at, _)| *at == field).and_then(|(_, index)| index.get(value));
        let tails = steps::counted(index.into_iter().flatten()).filter(move |tail| after.is_none_or(|after| ***tail > *after));
        Box::new(tails.filter_map(|tail| self.objects.get(tail)))
    }

    fn put(&mut self, kind: &Kind, tail: Arc<str>, rev: Rev, new: Option<Arc<Object>>) -> Option<Arc<Event>> {
        let key = (!self.indexes.is_empty()).then(|| tail.clone());
        let old = match &new {
            Some(object) => self.objects.insert(tail, object.clone()),
            None => self.objects.remove(&tail),
        };
        self.rev = self.rev.max(rev);
        let size = |object: &Option<Arc<Object>>| object.as_ref().map_or(0, |object| object.stored().len());
        self.bytes = (self.bytes + size(&new)).saturating_sub(size(&old));
        if old.is_none() && new.is_none() {
            return None;
        }
        if let Some(key) = key {
            self.index(kind, &key, old.as_deref(), new.as_deref());
        }
        let event = Arc::new(Event::new(rev, old, new));
        self.history.push(event.clone());
        Some(event)
    }
}

impl State {
    /// Most changes leave the fields of indexes as they are.
    fn index(&mut self, kind: &Kind, key: &Arc<str>, old: Option<&Object>, new: Option<&Object>) {
        for (at, index) in &mut self.indexes {
            let default = kind.fields.get(*at).map_or("", |field| &*field.default);
            let value = |object| Some(Source::Field(*at).value(kind, object)).filter(|value| !value.is_empty() && *value != default);
            let (old, new) = (old.and_then(value), new.and_then(value));
            if old == new {
                continue;
            }
            if let Some(old) = old
                && let Some(keys) = index.get_mut(old)
            {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(old);
                }
            }
            if let Some(new) = new {
                index.entry(new.into()).or_default().insert(key.clone());
            }
        }
    }
}

fn tell(listeners: &[Listener], events: &[Arc<Event>]) {
    if listeners.is_empty() {
        return;
    }
    for event in events {
        let change = Change { old: event.old.clone(), new: event.new.clone() };
        listeners.iter().for_each(|listener| listener(&change));
    }
}
