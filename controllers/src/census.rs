//! What the garbage collector watches anyway -> who counts objects hears which collection changed where: nothing is watched twice, and nothing is kept.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use parking_lot::RwLock;

use crate::catalog::{Collection, Served};

/// What became of the objects of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// One came into this namespace (empty: into none).
    Came(&'a str),
    /// One is gone from it.
    Went(&'a str),
    /// It was listed: any may have come or gone. Or it is served of late.
    Listed,
}

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Census {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What quotas can count, by [`name`].
    counted: RwLock<HashMap<String, Arc<Collection>>>,
    hears: OnceLock<Hears>,
}

type Hears = Box<dyn Fn(&Collection, Change<'_>) + Send + Sync>;

/// As quotas name the number of its objects (`ObjectCountQuotaResourceNameFor`): `count/deployments.apps`.
pub fn name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

impl Census {
    /// The one who listens; runs on the collector's tasks, and must not block.
    pub fn listen(&self, hears: impl Fn(&Collection, Change<'_>) + Send + Sync + 'static) {
        let _ = self.shared.hears.set(Box::new(hears));
    }

    pub fn tell(&self, collection: &Collection, change: Change<'_>) {
        if let Some(hears) = self.shared.hears.get() {
            hears(collection, change);
        }
    }

    /// The server serves these, and these alone (`GetQuotableResources`). Of a group that does not answer, what was known of it stays.
    pub fn serve(&self, served: &[Served]) {
        let can =
            |c: &Collection| c.namespaced && c.plural != "events" && ["create", "list", "watch", "delete"].iter().all(|verb| c.can(verb));
        let now = served.iter().filter(|s| s.preferred && can(&s.collection));
        let now: HashMap<String, Arc<Collection>> =
            now.map(|s| (name(&s.collection.group, &s.collection.plural), Arc::new(s.collection.clone()))).collect();
        let fresh: Vec<Arc<Collection>> = {
            let mut counted = self.shared.counted.write();
            let fresh = now.iter().filter(|(name, _)| !counted.contains_key(*name)).map(|(_, collection)| collection.clone()).collect();
            *counted = now;
            fresh
        };
        fresh.iter().for_each(|collection| self.tell(collection, Change::Listed));
    }

    /// What this name counts.
    pub fn collection(&self, name: &str) -> Option<Arc<Collection>> {
        self.shared.counted.read().get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn served(plural: &str, namespaced: bool) -> Served {
        let verbs = ["create", "delete", "list", "watch"].map(str::to_owned).into();
        let collection =
            Collection { group: "g".into(), version: "v1".into(), plural: plural.into(), namespaced, verbs, ..Collection::default() };
        Served { collection, preferred: true, stale: false }
    }

    #[test]
    fn what_is_served_of_late_is_told() {
        let (census, told) = (Census::default(), Arc::<Mutex<Vec<String>>>::default());
        let heard = told.clone();
        census.listen(move |collection, change| heard.lock().push(format!("{} {change:?}", collection.plural)));
        census.serve(&[served("a", true), served("clusters", false), served("events", true)]);
        census.serve(&[served("a", true), served("b", true)]);
        assert_eq!(*told.lock(), ["a Listed", "b Listed"]);
        assert!(census.collection("count/b.g").is_some() && census.collection("count/clusters.g").is_none());
        census.serve(&[served("b", true)]);
        assert!(census.collection("count/a.g").is_none());
    }
}
