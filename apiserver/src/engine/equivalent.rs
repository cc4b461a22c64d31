//! The same objects under several names: a kind's other versions and groups, and objects in them. Sources: apimachinery
//! `pkg/runtime/mapper.go` (`EquivalentResourceMapper`), apiserver `pkg/admission/conversion.go`.

use std::sync::Arc;

use api::{Gvk, Status};
use serde_json::Value;

use super::{Engine, Object, form, registry::Served};
use crate::kind::Kind;

impl Engine {
    /// The kind of that name, where objects of it can be asked for. Goes through the table: for what happens seldom.
    pub fn kind_of(&self, gvk: &Gvk) -> Option<Arc<Kind>> {
        let registry = self.registry.load();
        let mut all = registry.kinds().filter(|kind| kind.is_served());
        all.find(|kind| kind.kind == gvk.kind && kind.group == gvk.group && kind.version == gvk.version).cloned()
    }

    /// Other kinds whose objects are those of `kind`, in table order. Goes through the table.
    pub fn equivalents(&self, kind: &Kind) -> Vec<Arc<Kind>> {
        let registry = self.registry.load();
        let Some(cache) = registry.find(&kind.group, &kind.version, &kind.plural).and_then(|served| served.cache.as_ref()) else {
            return Vec::new();
        };
        let is_other = |served: &&Served| served.kind.gvr() != kind.gvr() && served.kind.is_served();
        let same = registry.served().filter(|served| served.cache.as_ref().is_some_and(|other| Arc::ptr_eq(other, cache)));
        same.filter(is_other).map(|served| served.kind.clone()).collect()
    }

    /// An object of `from` as one of `to`, its equivalent.
    ///
    /// # Errors
    /// Those of a conversion that is asked for, and where one of both is not served any more.
    pub async fn convert(&self, from: &Kind, to: &Kind, object: Value) -> Result<Value, Status> {
        let registry = self.registry();
        let served = |kind: &Kind| registry.find(&kind.group, &kind.version, &kind.plural).cloned();
        let (Some(source), Some(target)) = (served(from), served(to)) else {
            return Err(Status::internal(format!("unable to convert to {}: unknown kind", to.gvk().kind)));
        };
        // By the form that is stored, which each of both can be made from and made into.
        let stored = source.stored_kind().clone();
        let object = if source.is_kept_as_another() { form::by(&source.kind.conversion, &stored, object).await? } else { object };
        if target.kind.gvr() == stored.gvr() {
            return Ok(object);
        }
        form::by(&target.kind.conversion, &target.kind, object).await
    }

    /// A cached object as `kind` shows it.
    ///
    /// # Errors
    /// Those of a conversion that is asked for, and where the kind is not served any more.
    pub async fn shown(&self, kind: &Kind, object: &Object) -> Result<Value, Status> {
        let registry = self.registry();
        let served = registry.find(&kind.group, &kind.version, &kind.plural).ok_or_else(Status::no_such_path)?;
        form::value(served, object).await
    }
}
