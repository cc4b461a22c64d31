//! The table of kinds: by URL, by group and resource, and by where they are kept.

use std::{collections::HashMap, sync::Arc};

use api::GroupResource;

use super::cache::Cache;
use crate::kind::{Kind, Storage};

/// One kind as served, with the cache of the kind it is kept as. `cache` is `None` for kinds that are kept nowhere.
#[derive(Clone)]
pub(crate) struct Served {
    pub kind: Arc<Kind>,
    pub cache: Option<Arc<Cache>>,
}

pub(crate) struct Registry {
    served: Vec<Served>,
    by_path: HashMap<(String, String, String), usize>,
    by_resource: HashMap<GroupResource, usize>,
    caches: Vec<Arc<Cache>>,
    /// Sorted by prefix.
    by_prefix: Vec<(String, usize)>,
}

impl Served {
    /// Whether objects are kept in another kind's form.
    pub fn converts(&self) -> bool {
        matches!(self.kind.storage, Storage::As { .. })
    }
}

impl Registry {
    pub fn new(kinds: Vec<Arc<Kind>>) -> Self {
        let (mut caches, mut kept) = (Vec::new(), HashMap::new());
        for kind in &kinds {
            if let Storage::Kept { prefix, .. } = &kind.storage {
                let cache = Arc::new(Cache::new(kind.clone(), prefix));
                kept.insert(path(&kind.group, &kind.version, &kind.plural), cache.clone());
                caches.push(cache);
            }
        }
        let cache = |kind: &Kind| match &kind.storage {
            Storage::Kept { .. } => kept.get(&path(&kind.group, &kind.version, &kind.plural)).cloned(),
            Storage::As { group, version, plural } => kept.get(&path(group, version, plural)).cloned(),
            Storage::Nowhere => None,
        };
        let served: Vec<Served> = kinds.iter().map(|kind| Served { kind: kind.clone(), cache: cache(kind) }).collect();
        let (mut by_path, mut by_resource) = (HashMap::new(), HashMap::new());
        for (at, kind) in kinds.iter().enumerate() {
            by_path.insert(path(&kind.group, &kind.version, &kind.plural), at);
            by_resource.entry(kind.group_resource()).or_insert(at);
        }
        let mut by_prefix: Vec<(String, usize)> = caches.iter().enumerate().map(|(at, cache)| (cache.prefix.clone(), at)).collect();
        by_prefix.sort();
        Self { served, by_path, by_resource, caches, by_prefix }
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.served.iter().map(|served| &served.kind)
    }

    pub fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        self.served.get(*self.by_path.get(&path(group, version, plural))?)
    }

    /// Whether anything is served under the group and version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.served.iter().any(|served| served.kind.group == group && served.kind.version == version)
    }

    /// The first in table order of those versions that serve the resource.
    pub fn resource(&self, gr: &GroupResource) -> Option<&Served> {
        self.served.get(*self.by_resource.get(gr)?)
    }

    /// The cache that a store key belongs to.
    pub fn cache_of(&self, key: &str) -> Option<usize> {
        let above = self.by_prefix.partition_point(|(prefix, _)| prefix.as_str() <= key);
        let (prefix, at) = self.by_prefix.get(above.checked_sub(1)?)?;
        key.starts_with(prefix.as_str()).then_some(*at)
    }
}

fn path(group: &str, version: &str, plural: &str) -> (String, String, String) {
    (group.to_owned(), version.to_owned(), plural.to_owned())
}
