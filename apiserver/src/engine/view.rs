//! The objects of one resource -> each read once per revision into what somebody wants of it: what is looked at with every request is parsed with none.
//!
//! As much of a namespace is kept as may be looked at with one request. Who stores more than that closes what depends on it, for that namespace alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use api::{GroupResource, Status};
use parking_lot::RwLock;

use super::{Change, Engine, Object};

/// Most that is kept of one resource in one namespace, as [`Viewed::bytes`] counts.
pub const VIEW_BYTES_MAX: usize = 4 << 20;
/// What an object counts besides.
const OBJECT_BYTES: usize = 128;

/// What somebody wants of an object.
pub trait Viewed: Send + Sync + Sized + 'static {
    fn read(object: &Object) -> Self;
    /// Of texts and entries, together: what looking at it costs goes by this.
    fn bytes(&self) -> usize;
}

/// What is kept, by namespace (the cluster's under the empty one).
pub struct View<T> {
    places: Arc<RwLock<HashMap<Box<str>, Place<T>>>>,
    /// What is followed.
    of: OnceLock<GroupResource>,
}

/// There is more in the namespace than is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooMuch;

/// Why what there is cannot be looked at.
#[derive(Clone, Debug)]
pub enum Unseen {
    /// There is more in the namespace than [`VIEW_BYTES_MAX`].
    TooMuch,
    /// Some of the resource cannot be decrypted: nobody knows what it says, nor where it applies.
    Locked(Status),
}

impl Unseen {
    /// The refusal of what depends on it; `too_much` is in the words of who asks.
    pub fn status(self, too_much: impl FnOnce() -> Status) -> Status {
        match self {
            Self::TooMuch => too_much(),
            Self::Locked(status) => status,
        }
    }
}

/// One namespace.
struct Place<T> {
    kept: BTreeMap<Box<str>, (Arc<T>, usize)>,
    bytes: usize,
    /// What had no room, and how much it needs.
    left_out: BTreeMap<Box<str>, (Arc<Object>, usize)>,
    /// What is kept, in the order of names: made when it is first asked for.
    all: OnceLock<Arc<[Arc<T>]>>,
}

impl<T> Default for View<T> {
    fn default() -> Self {
        Self { places: Arc::default(), of: OnceLock::new() }
    }
}

impl<T> Default for Place<T> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), bytes: 0, left_out: BTreeMap::new(), all: OnceLock::new() }
    }
}

impl<T: Viewed> View<T> {
    /// Begins to follow the resource: before anything is served.
    pub fn follow(&self, engine: &Arc<Engine>, gr: &GroupResource) {
        self.of.get_or_init(|| gr.clone());
        let places = self.places.clone();
        engine.on_change(gr, Arc::new(move |change| changed(&places, change)));
    }

    /// All of one namespace, in the order of names; as new as what this process has acknowledged.
    ///
    /// # Errors
    /// [`Unseen`]: never less than there is.
    pub fn of(&self, engine: &Engine, namespace: &str) -> Result<Arc<[Arc<T>]>, Unseen> {
        // First: what is locked after this was seen before.
        self.of.get().map_or(Ok(()), |gr| engine.whole(gr)).map_err(Unseen::Locked)?;
        self.kept(namespace).map_err(|TooMuch| Unseen::TooMuch)
    }

    fn kept(&self, namespace: &str) -> Result<Arc<[Arc<T>]>, TooMuch> {
        let places = self.places.read();
        let Some(place) = places.get(namespace) else { return Ok(Arc::default()) };
        if !place.left_out.is_empty() {
            return Err(TooMuch);
        }
        Ok(place.all.get_or_init(|| place.kept.values().map(|(read, _)| read.clone()).collect()).clone())
    }
}

fn changed<T: Viewed>(places: &RwLock<HashMap<Box<str>, Place<T>>>, change: &Change) {
    let Some(any) = change.new.as_ref().or(change.old.as_ref()) else { return };
    let read = change.new.as_ref().map(|object| (object, T::read(object)));
    let (namespace, name) = (any.key.namespace.as_str(), any.key.name.as_str());
    let mut places = places.write();
    let place = places.entry(namespace.into()).or_default();
    place.remove(name);
    if let Some((object, read)) = read {
        place.put(object, read);
    }
    place.take_in();
    if place.kept.is_empty() && place.left_out.is_empty() {
        places.remove(namespace);
    }
}

impl<T: Viewed> Place<T> {
    fn remove(&mut self, name: &str) {
        self.all.take();
        self.left_out.remove(name);
        self.bytes -= self.kept.remove(name).map_or(0, |(_, bytes)| bytes);
    }

    fn put(&mut self, object: &Arc<Object>, read: T) {
        let name = object.key.name.as_str().into();
        let bytes = read.bytes().saturating_add(OBJECT_BYTES);
        if self.has_room(bytes) {
            self.bytes += bytes;
            self.kept.insert(name, (Arc::new(read), bytes));
        } else {
            self.left_out.insert(name, (object.clone(), bytes));
        }
    }

    /// Room has come: what was left out is read again, once for each time that it was.
    fn take_in(&mut self) {
        while let Some((_, (object, _))) = self.left_out.first_key_value().filter(|(_, (_, bytes))| self.has_room(*bytes)) {
            let object = object.clone();
            self.left_out.pop_first();
            self.put(&object, T::read(&object));
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= VIEW_BYTES_MAX - self.bytes
    }
}

#[cfg(test)]
mod tests {
    use api::Key;
    use bytes::Bytes;

    use super::*;

    struct Length(usize);

    impl Viewed for Length {
        fn read(object: &Object) -> Self {
            api::steps::took(1);
            Self(object.stored().len())
        }

        fn bytes(&self) -> usize {
            self.0
        }
    }

    fn object(name: &str, length: usize) -> Option<Arc<Object>> {
        Some(Arc::new(Object::loose(Key::new("a", name), Bytes::from(vec![b' '; length]))))
    }

    fn lengths(view: &View<Length>) -> Result<Vec<usize>, TooMuch> {
        view.kept("a").map(|all| all.iter().map(|length| length.0).collect())
    }

    #[test]
    fn each_state_is_read_once_and_none_when_asked() {
        let view = View::<Length>::default();
        let change = |old, new| changed(&view.places, &Change { old, new });
        let ((), steps) = api::steps::of(|| (0..100).for_each(|i| change(None, object(&format!("{i:03}"), i))));
        assert_eq!(steps, 100);
        let (all, steps) = api::steps::of(|| lengths(&view));
        assert_eq!((all, steps), (Ok((0..100).collect()), 0));
        change(object("000", 0), object("000", 7));
        (1..100).for_each(|i| change(object(&format!("{i:03}"), i), None));
        assert_eq!(lengths(&view), Ok(vec![7]));
        change(object("000", 7), None);
        assert!(view.places.read().is_empty(), "nothing is kept of what is gone");
    }

    #[test]
    fn what_is_kept_is_bounded_and_comes_back_where_there_is_room() {
        let view = View::<Length>::default();
        let change = |old, new| changed(&view.places, &Change { old, new });
        let half = VIEW_BYTES_MAX / 2;
        for name in ["x", "y", "z"] {
            change(None, object(name, half - OBJECT_BYTES));
        }
        assert_eq!(lengths(&view), Err(TooMuch));
        assert!(view.kept("b").is_ok(), "others are not told");
        assert_eq!(view.places.read()["a"].bytes, VIEW_BYTES_MAX);
        change(object("x", half - OBJECT_BYTES), object("x", 0));
        assert_eq!(lengths(&view), Err(TooMuch));
        change(object("y", half - OBJECT_BYTES), None);
        assert_eq!(lengths(&view), Ok(vec![0, half - OBJECT_BYTES]));
        change(None, object("w", usize::from(u16::MAX)));
        change(None, object("v", VIEW_BYTES_MAX));
        assert_eq!(lengths(&view), Err(TooMuch));
        change(object("v", VIEW_BYTES_MAX), None);
        assert_eq!(lengths(&view).map(|all| all.len()), Ok(3));
    }
}
