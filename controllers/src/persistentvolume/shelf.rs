//! Volumes that somebody may have, and claims that have none -> the best volume for a claim, and the claims that a volume could be for, without a scan.
//!
//! Source: `pkg/controller/volume/persistentvolume/index.go`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use api::{
    Key,
    k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    steps,
};
use client::{Cache, Object};
use parking_lot::RwLock;
use podspec::claims::{self, AccessModes, Wanted, claim_of};

/// Claims that hear of one volume that can be had: the largest that fit, since others may want a smaller one.
const TOLD_MAX: usize = 16;
/// Claims that are looked at for these.
const LOOKS_MAX: usize = 256;

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Shelf {
    sides: Arc<RwLock<Sides>>,
}

#[derive(Default)]
struct Sides {
    /// Without a `claimRef`, by class and by access modes.
    free: HashMap<String, BTreeMap<Group, BTreeMap<Size, Arc<PersistentVolume>>>>,
    /// By the claim that their `claimRef` names.
    reserved: HashMap<Key, BTreeMap<String, Arc<PersistentVolume>>>,
    /// Claims that name no volume, by class.
    pending: HashMap<String, BTreeMap<(i64, Key), Arc<PersistentVolumeClaim>>>,
    choices: Choices,
}

/// The fewest modes first.
type Group = (u32, AccessModes);
/// The smallest first: bytes, and a name.
type Size = (i64, String);

/// Which claim is about to write itself into which volume: claims that are looked at together do not all choose the same.
#[derive(Default)]
struct Choices {
    of_claim: HashMap<Key, String>,
    of_volume: HashMap<String, Key>,
}

impl Shelf {
    pub fn of(volumes: &Cache<PersistentVolume>, claims: &Cache<PersistentVolumeClaim>) -> Self {
        let this = Self::default();
        let sides = this.sides.clone();
        volumes.on_change(move |old, new| {
            let sides = &mut *sides.write();
            old.into_iter().for_each(|old| sides.take_off(old));
            new.into_iter().for_each(|new| sides.put_on(new));
        });
        let sides = this.sides.clone();
        claims.on_change(move |old, new| {
            let sides = &mut *sides.write();
            old.into_iter().for_each(|old| sides.waits_no_more(old));
            new.filter(|new| is_pending(new)).into_iter().for_each(|new| sides.waits(new));
            if let Some(object) = new.or(old).filter(|_| new.is_none_or(|new| !is_pending(new))) {
                sides.choices.forget_claim(&object.object_meta().key());
            }
        });
        this
    }

    /// One that is reserved for the claim, or else the smallest that it may take, of the fewest access modes; none of those where it is to be bound by
    /// the scheduler (`is_delayed`). What it is given nobody else is, until it is written or no longer wanted. Upstream: `findBestMatchForClaim`.
    ///
    /// # Errors
    /// The claim cannot be read.
    pub fn best(&self, claim: &PersistentVolumeClaim, is_delayed: bool) -> Result<Option<Arc<PersistentVolume>>, String> {
        let (wanted, key) = (Wanted::of(claim)?, claim.object_meta().key());
        let sides = &mut *self.sides.write();
        let reserved = sides.reserved_for(&wanted, &key);
        let free = if is_delayed { None } else { sides.smallest(&wanted, &key) };
        let best = match (reserved, free) {
            (Some(reserved), Some(free)) if free.0 < reserved.0 => Some(free.1),
            (Some(reserved), _) => Some(reserved.1),
            (None, free) => free.map(|free| free.1),
        };
        sides
            .choices
            .choose(&key, best.as_ref().filter(|volume| claims::is_available(volume)).and_then(|volume| volume.metadata.name.as_deref()));
        Ok(best)
    }

    /// The names of the volumes that name this claim.
    pub fn reserved(&self, claim: &Key) -> Vec<String> {
        self.sides.read().reserved.get(claim).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Some of the claims that could have the volume, which can be had.
    pub fn takers(&self, volume: &PersistentVolume) -> Vec<Key> {
        let sides = self.sides.read();
        let Some(pending) = sides.pending.get(claims::class_of_volume(volume)) else { return Vec::new() };
        let up_to = (claims::capacity(volume), Key::new("\u{10ffff}", ""));
        let fitting = steps::counted(pending.range((Bound::Unbounded, Bound::Included(up_to))).rev().take(LOOKS_MAX));
        let takers = fitting.filter(|(_, claim)| Wanted::of(claim).is_ok_and(|wanted| wanted.takes(volume)));
        takers.map(|((_, key), _)| key.clone()).take(TOLD_MAX).collect()
    }

    /// Claims of a class that have no volume; with `is_default`, those without any class, too. Costs as many as there are.
    pub fn pending(&self, class: &str, is_default: bool) -> Vec<Key> {
        let sides = self.sides.read();
        let of_none = is_default.then(|| sides.pending.get("")).flatten();
        let all = sides.pending.get(class).into_iter().chain(of_none).flat_map(BTreeMap::keys);
        all.map(|(_, key)| key.clone()).collect()
    }
}

/// It has no volume, and does not say which it is to have.
pub fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    claims::volume_name(claim).is_empty() && claims::annotation(&claim.metadata, claims::BIND_COMPLETED).is_none()
}

fn group(volume: &PersistentVolume) -> Group {
    let modes = claims::modes_of_volume(volume);
    (modes.len(), modes)
}

fn size(volume: &PersistentVolume) -> Size {
    (claims::capacity(volume), volume.metadata.name.clone().unwrap_or_default())
}

impl Sides {
    fn put_on(&mut self, volume: &Arc<PersistentVolume>) {
        match claim_of(volume) {
            Some(claim) => {
                let (_, name) = size(volume);
                self.choices.forget_volume(&name);
                self.reserved.entry(claim).or_default().insert(name, volume.clone());
            }
            None => {
                let groups = self.free.entry(claims::class_of_volume(volume).to_owned()).or_default();
                groups.entry(group(volume)).or_default().insert(size(volume), volume.clone());
            }
        }
    }

    fn take_off(&mut self, volume: &Arc<PersistentVolume>) {
        let (bytes, name) = size(volume);
        if let Some(claim) = claim_of(volume) {
            if let Some(all) = self.reserved.get_mut(&claim) {
                all.remove(&name);
                if all.is_empty() {
                    self.reserved.remove(&claim);
                }
            }
            return;
        }
        let (class, group) = (claims::class_of_volume(volume), group(volume));
        let Some(groups) = self.free.get_mut(class) else { return };
        if let Some(all) = groups.get_mut(&group) {
            all.remove(&(bytes, name));
            if all.is_empty() {
                groups.remove(&group);
            }
        }
        if groups.is_empty() {
            self.free.remove(class);
        }
    }

    fn waits(&mut self, claim: &Arc<PersistentVolumeClaim>) {
        let place = (claims::requested(claim), claim.object_meta().key());
        self.pending.entry(claims::class_of_claim(claim).to_owned()).or_default().insert(place, claim.clone());
    }

    fn waits_no_more(&mut self, claim: &Arc<PersistentVolumeClaim>) {
        let class = claims::class_of_claim(claim);
        let Some(all) = self.pending.get_mut(class) else { return };
        all.remove(&(claims::requested(claim), claim.object_meta().key()));
        if all.is_empty() {
            self.pending.remove(class);
        }
    }

    fn reserved_for(&self, wanted: &Wanted<'_>, key: &Key) -> Option<(Group, Arc<PersistentVolume>)> {
        let all = steps::counted(self.reserved.get(key).into_iter().flat_map(BTreeMap::values));
        let fitting = all.filter(|volume| {
            claims::is_bound_to(volume, wanted.claim) && wanted.could_take(volume) && claims::modes_of_volume(volume).contains(wanted.modes)
        });
        fitting.map(|volume| (group(volume), volume)).min_by_key(|(group, _)| *group).map(|(group, volume)| (group, volume.clone()))
    }

    fn smallest(&self, wanted: &Wanted<'_>, key: &Key) -> Option<(Group, Arc<PersistentVolume>)> {
        let groups = self.free.get(wanted.class)?.iter().filter(|((_, modes), _)| modes.contains(wanted.modes));
        for (group, volumes) in groups {
            let large_enough = volumes.range((wanted.bytes, String::new())..);
            let is_mine = |name: &String| self.choices.of_volume.get(name).is_none_or(|chosen| chosen == key);
            let mut fitting = steps::counted(large_enough).filter(|((_, name), volume)| is_mine(name) && wanted.takes(volume));
            if let Some((_, volume)) = fitting.next() {
                return Some((*group, volume.clone()));
            }
        }
        None
    }
}

impl Choices {
    fn choose(&mut self, claim: &Key, volume: Option<&str>) {
        self.forget_claim(claim);
        if let Some(volume) = volume {
            self.of_claim.insert(claim.clone(), volume.to_owned());
            self.of_volume.insert(volume.to_owned(), claim.clone());
        }
    }

    fn forget_claim(&mut self, claim: &Key) {
        if let Some(volume) = self.of_claim.remove(claim) {
            self.of_volume.remove(&volume);
        }
    }

    fn forget_volume(&mut self, volume: &str) {
        if let Some(claim) = self.of_volume.remove(volume) {
            self.of_claim.remove(&claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, gigabytes: u32, modes: &[&str], more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"accessModes": modes, "capacity": {"storage": format!("{gigabytes}Gi")}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}})).unwrap())
    }

    fn claim(name: &str, gigabytes: u32, modes: &[&str]) -> Arc<PersistentVolumeClaim> {
        let spec = json!({"accessModes": modes, "resources": {"requests": {"storage": format!("{gigabytes}Gi")}}});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec})).unwrap())
    }

    fn best(shelf: &Shelf, claim: &PersistentVolumeClaim) -> Option<String> {
        shelf.best(claim, false).unwrap().and_then(|volume| volume.metadata.name.clone())
    }

    fn with(volumes: &[Arc<PersistentVolume>]) -> Shelf {
        let shelf = Shelf::default();
        volumes.iter().for_each(|volume| shelf.sides.write().put_on(volume));
        shelf
    }

    const RWO: &[&str] = &["ReadWriteOnce"];
    const BOTH: &[&str] = &["ReadWriteOnce", "ReadOnlyMany"];

    #[test]
    fn the_smallest_of_the_fewest_modes_is_the_best() {
        let volumes = [
            volume("both-1", 1, BOTH, json!({})),
            volume("one-10", 10, RWO, json!({})),
            volume("one-5", 5, RWO, json!({})),
            volume("one-8", 8, RWO, json!({"storageClassName": "s"})),
        ];
        let shelf = with(&volumes);
        assert_eq!(best(&shelf, &claim("a", 1, RWO)).as_deref(), Some("one-5"));
        assert_eq!(best(&shelf, &claim("a", 6, RWO)).as_deref(), Some("one-10"));
        assert_eq!(best(&shelf, &claim("a", 1, &["ReadOnlyMany"])).as_deref(), Some("both-1"));
        assert_eq!(best(&shelf, &claim("a", 11, RWO)), None);
        assert_eq!(best(&shelf, &claim("a", 1, &["ReadWriteMany"])), None);
        assert!(shelf.best(&claim("a", 1, RWO), true).unwrap().is_none(), "the scheduler binds it");
        volumes.iter().for_each(|volume| shelf.sides.write().take_off(volume));
        assert!(shelf.sides.read().free.is_empty());
    }

    #[test]
    fn what_is_reserved_for_a_claim_is_its() {
        let reserved = volume("mine", 20, RWO, json!({"claimRef": {"namespace": "n", "name": "a"}}));
        let shelf = with(&[reserved, volume("free", 1, RWO, json!({}))]);
        assert_eq!(best(&shelf, &claim("a", 1, RWO)).as_deref(), Some("mine"));
        assert_eq!(best(&shelf, &claim("b", 1, RWO)).as_deref(), Some("free"));
        assert_eq!(shelf.best(&claim("a", 1, RWO), true).unwrap().unwrap().metadata.name.as_deref(), Some("mine"));
        assert_eq!(shelf.reserved(&Key::new("n", "a")), ["mine"]);
    }

    #[test]
    fn claims_that_are_looked_at_together_choose_different_volumes() {
        let volumes = [volume("v1", 1, RWO, json!({})), volume("v2", 2, RWO, json!({}))];
        let shelf = with(&volumes);
        let (a, b, c) = (claim("a", 1, RWO), claim("b", 1, RWO), claim("c", 1, RWO));
        assert_eq!([best(&shelf, &a), best(&shelf, &b), best(&shelf, &c)], [Some("v1".into()), Some("v2".into()), None]);
        assert_eq!(best(&shelf, &a).as_deref(), Some("v1"), "its own choice is not in its way");
        // It went: another may have it.
        shelf.sides.write().choices.forget_claim(&Key::new("n", "a"));
        assert_eq!(best(&shelf, &c).as_deref(), Some("v1"));
        assert_eq!(shelf.sides.read().choices.of_volume.len(), 2);
    }

    #[test]
    fn the_largest_claims_that_fit_hear_of_a_volume() {
        let shelf = Shelf::default();
        let all: Vec<_> = (1..=40).map(|size| claim(&format!("c{size}"), size, RWO)).collect();
        all.iter().for_each(|claim| shelf.sides.write().waits(claim));
        let told = shelf.takers(&volume("v", 30, RWO, json!({})));
        assert_eq!((told.len(), &*told[0].name, &*told[15].name), (TOLD_MAX, "c30", "c15"));
        assert!(shelf.takers(&volume("v", 30, &["ReadWriteMany"], json!({}))).is_empty());
        all.iter().for_each(|claim| shelf.sides.write().waits_no_more(claim));
        assert!(shelf.sides.read().pending.is_empty());
    }
}
