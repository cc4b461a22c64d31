//! The table of kinds: by URL, by group and resource, and by where they are kept. It does not change: who adds or removes a kind makes another
//! one of it, and readers go on with the one they have.

use std::{collections::HashMap, sync::Arc};

use api::{GroupResource, Gvr};

use super::cache::Cache;
use crate::{
    kind::{Conversion, Kind, Name, Storage},
    schema::Schema,
};

/// One kind as served, with the cache of the kind it is kept as. `cache` is `None` for kinds that are kept nowhere.
#[derive(Clone)]
pub(crate) struct Served {
    pub kind: Arc<Kind>,
    pub cache: Option<Arc<Cache>>,
}

#[derive(Default)]
pub(crate) struct Registry {
    served: Vec<Served>,
    by_path: ByPath,
    by_resource: HashMap<GroupResource, usize>,
    /// Sorted by prefix, no prefix twice. Some may still be being filled: nothing is served from them yet.
    caches: Vec<Arc<Cache>>,
}

/// Plural -> those of that name, which are few: looking one up makes no key of three words.
#[derive(Default)]
struct ByPath(HashMap<Name, Vec<(Name, Name, usize)>>);

impl ByPath {
    fn of(kinds: &[Arc<Kind>]) -> Self {
        let mut all: HashMap<Name, Vec<_>> = HashMap::new();
        for (at, kind) in kinds.iter().enumerate() {
            all.entry(kind.plural.clone()).or_default().push((kind.group.clone(), kind.version.clone(), at));
        }
        Self(all)
    }

    fn find(&self, group: &str, version: &str, plural: &str) -> Option<usize> {
        self.0.get(plural)?.iter().find(|(of, in_version, _)| of == group && in_version == version).map(|(_, _, at)| *at)
    }
}

impl Served {
    /// What its objects are stored as: itself, where they are stored nowhere.
    pub fn stored_kind(&self) -> &Arc<Kind> {
        self.cache.as_ref().map_or(&self.kind, |cache| if self.is_kept_as_another() { &cache.kind } else { &self.kind })
    }

    /// Whether objects are kept in another kind's form.
    pub fn is_kept_as_another(&self) -> bool {
        matches!(self.kind.storage, Storage::As { .. })
    }

    /// Whether some of them may be shown otherwise than they are stored.
    pub fn converts(&self) -> bool {
        self.kind.read.is_some() || !matches!(self.kind.conversion, Conversion::None)
    }
}

impl Registry {
    /// Of kinds whose caches are filled together, at start.
    pub fn new(kinds: Vec<Arc<Kind>>) -> Self {
        let caches = kinds.iter().filter_map(Cache::of).map(Arc::new).collect();
        Self::of(kinds, caches)
    }

    /// `caches` has one for each kind that is kept, and may have more.
    fn of(kinds: Vec<Arc<Kind>>, mut caches: Vec<Arc<Cache>>) -> Self {
        caches.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        let (by_path, mut by_resource) = (ByPath::of(&kinds), HashMap::new());
        for (at, kind) in kinds.iter().enumerate() {
            by_resource.entry(kind.group_resource()).or_insert(at);
        }
        let cache_at = |prefix: &str| caches.iter().find(|cache| cache.is_at(prefix)).cloned();
        let cache = |kind: &Kind| match &kind.storage {
            Storage::Kept { prefix, .. } => cache_at(prefix),
            Storage::As { group, version, plural } => match &kinds.get(by_path.find(group, version, plural)?)?.storage {
                Storage::Kept { prefix, .. } => cache_at(prefix),
                Storage::As { .. } | Storage::Nowhere => None,
            },
            Storage::Nowhere => None,
        };
        let served: Vec<Served> = kinds.iter().map(|kind| Served { kind: kind.clone(), cache: cache(kind) }).collect();
        Self { served, by_path, by_resource, caches }
    }

    /// The same kinds, and caches that are yet to be filled: what the store tells of their keys reaches them from now on.
    pub fn with_caches(&self, more: &[Arc<Cache>]) -> Self {
        Self::of(self.kinds().cloned().collect(), self.caches.iter().chain(more).cloned().collect())
    }

    /// With `more`, each in the place of the one of its group, version and resource where there is one, and without `less`. `fresh` are caches that
    /// take the place of those of their prefix; those that no kind is kept in any more are gone.
    pub fn changed(&self, more: &[Arc<Kind>], less: &[Gvr], fresh: &[Arc<Cache>]) -> Self {
        let mut kinds: Vec<Arc<Kind>> = self.kinds().filter(|kind| !less.contains(&kind.gvr())).cloned().collect();
        for new in more {
            match kinds.iter_mut().find(|kind| kind.gvr() == new.gvr()) {
                Some(kind) => *kind = new.clone(),
                None => kinds.push(new.clone()),
            }
        }
        let is_used =
            |cache: &&Arc<Cache>| kinds.iter().any(|kind| matches!(&kind.storage, Storage::Kept { prefix, .. } if cache.is_at(prefix)));
        let is_stale = |cache: &&Arc<Cache>| fresh.iter().any(|new| new.prefix == cache.prefix);
        let caches = self.caches.iter().filter(|cache| !is_stale(cache)).chain(fresh).filter(is_used).cloned().collect();
        Self::of(kinds, caches)
    }

    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.iter()
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.served.iter().map(|served| &served.kind)
    }

    pub fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        self.served.get(self.by_path.find(group, version, plural)?)
    }

    /// Whether anything is served under the group and version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.served.iter().any(|served| served.kind.group == group && served.kind.version == version && served.kind.is_served())
    }

    /// Whether the group has kinds of the binary's own.
    pub fn has_built_in(&self, group: &str) -> bool {
        self.served.iter().any(|served| served.kind.group == group && matches!(served.kind.schema, Schema::BuiltIn { .. }))
    }

    /// The first in table order of those versions that serve the resource.
    pub fn resource(&self, gr: &GroupResource) -> Option<&Served> {
        self.served.get(*self.by_resource.get(gr)?)
    }

    /// The cache that a store key belongs to.
    pub fn cache_of(&self, key: &str) -> Option<&Arc<Cache>> {
        let above = self.caches.partition_point(|cache| cache.prefix.as_str() <= key);
        self.caches.get(above.checked_sub(1)?).filter(|cache| key.starts_with(&cache.prefix))
    }
}
