//! ResourceSlices, as they change -> which of them are a node's own. Source: `authorizeResourceSlice`, `AddResourceSlice`.

use std::{collections::HashMap, sync::Arc};

use api::GroupResource;
use apiserver::{
    engine::{Change, Engine},
    identity::{Attributes, Decision},
};
use parking_lot::RwLock;

use super::{no, unrelated, yes};
use crate::common::Read;

/// The node of each slice that has one, by the slice's name.
#[derive(Default)]
pub(super) struct Slices(HashMap<Box<str>, Box<str>>);

impl Slices {
    pub fn follow(this: &Arc<RwLock<Self>>, engine: &Arc<Engine>) {
        let slices = this.clone();
        // The node of a slice never changes.
        let on = move |change: &Change| match (&change.new, &change.old) {
            (Some(new), Some(old)) if new.uid() == old.uid() => {}
            (Some(new), _) => slices.write().put(&new.key.name, new.value().at("spec").text("nodeName")),
            (None, Some(old)) => drop(slices.write().0.remove(old.key.name.as_str())),
            (None, None) => {}
        };
        engine.on_change(&GroupResource::new("resource.k8s.io", "resourceslices"), Arc::new(on));
    }

    pub fn put(&mut self, slice: &str, node: &str) {
        if node.is_empty() {
            self.0.remove(slice);
        } else {
            self.0.insert(slice.into(), node.into());
        }
    }

    /// What is made, and each that a collection loses, NodeRestriction looks at.
    pub fn decide(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match a.verb {
            _ if !a.subresource.is_empty() => no("cannot authorize ResourceSlice subresources"),
            "create" => yes(),
            "get" | "update" | "patch" | "delete" if a.name.is_empty() => no("No Object name found"),
            "get" | "update" | "patch" | "delete" if self.0.get(a.name).is_some_and(|of| **of == *node) => yes(),
            "get" | "update" | "patch" | "delete" => unrelated(node),
            "watch" | "list" | "deletecollection" => match a.fields.and_then(|fields| fields.exact("spec.nodeName")) {
                Some(of) if of == node => yes(),
                _ => no("can only list/watch/deletecollection resourceslices with nodeName field selector"),
            },
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::selector::Fields;

    use super::*;

    #[test]
    fn a_node_has_its_own_slices_alone() {
        let mut slices = Slices::default();
        slices.put("mine", "n1");
        slices.put("theirs", "n2");
        slices.put("all", "");
        let own = Fields::parse("spec.nodeName=n1").unwrap();
        let other = Fields::parse("spec.nodeName!=n1").unwrap();
        let may = |verb, name, fields| slices.decide("n1", &Attributes { verb, name, fields, ..Attributes::default() }) == yes();
        for verb in ["get", "update", "patch", "delete"] {
            assert_eq!(
                [may(verb, "mine", None), may(verb, "theirs", None), may(verb, "all", None), may(verb, "", None)],
                [true, false, false, false]
            );
        }
        for verb in ["list", "watch", "deletecollection"] {
            assert_eq!([may(verb, "", Some(&own)), may(verb, "", Some(&other)), may(verb, "", None)], [true, false, false]);
        }
        assert!(may("create", "", None) && !may("escalate", "mine", None));
    }
}
