//! A claim or an ingress without a class -> the default class: the newest of those that are marked so.
//!
//! Source: `plugin/pkg/admission/storage/storageclass/setdefault`, `plugin/pkg/admission/network/defaultingressclass`.

use std::{cmp::Reverse, sync::Arc};

use api::{GroupResource, Status};
use apiserver::{
    engine::{Engine, Object, View, Viewed},
    identity::{Admission, Operation, Review},
};
use async_trait::async_trait;
use podspec::claims::DEFAULT_CLASS;

use super::is;
use crate::{
    common::{
        Read,
        edit::{make_child, set},
        read,
    },
    ingress, ingressclass, persistentvolumeclaim, storageclass,
};

/// Of what kind the classes are, how one is marked, and whose they become.
pub struct DefaultClass {
    name: &'static str,
    classes: View<Class>,
    of: GroupResource,
    whose: (&'static str, &'static str),
    field: &'static str,
    /// The annotation that names a class as the field does.
    annotation: &'static str,
}

struct Class {
    name: String,
    created: String,
    is_default: bool,
}

impl DefaultClass {
    /// `DefaultStorageClass`
    pub fn of_storage() -> Self {
        Self {
            name: "DefaultStorageClass",
            classes: View::default(),
            of: storageclass::resource(),
            whose: ("", "persistentvolumeclaims"),
            field: "storageClassName",
            annotation: persistentvolumeclaim::CLASS_ANNOTATION,
        }
    }

    /// `DefaultIngressClass`
    pub fn of_ingress() -> Self {
        Self {
            name: "DefaultIngressClass",
            classes: View::default(),
            of: GroupResource::new("networking.k8s.io", "ingressclasses"),
            whose: ("networking.k8s.io", "ingresses"),
            field: "ingressClassName",
            annotation: ingress::CLASS_ANNOTATION,
        }
    }

    /// The newest of the default ones; of several as old, the first by name.
    fn default(&self, engine: &Engine) -> Result<Option<Arc<Class>>, Status> {
        let all = self.classes.of(engine, "");
        let all = all.map_err(|unseen| unseen.status(|| Status::internal("there are more classes than can be looked through")))?;
        let marked = all.iter().filter(|class| class.is_default);
        Ok(marked.min_by_key(|class| (Reverse(&class.created), &class.name)).cloned())
    }
}

#[async_trait]
impl Admission for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.classes.follow(engine, &self.of);
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let (group, plural) = self.whose;
        if review.ctx.operation != Operation::Create || !is(review, group, plural) || !review.ctx.subresource.is_empty() {
            return Ok(());
        }
        let Some(object) = review.object.as_deref_mut() else { return Ok(()) };
        let is_annotated = object.at("metadata").at("annotations").at(self.annotation).is_some();
        if is_annotated || object.at("spec").at(self.field).is_some() {
            return Ok(());
        }
        if let (Some(class), Some(spec)) = (self.default(review.ctx.engine)?, make_child(object, "spec")) {
            set(spec, self.field, class.name.as_str());
        }
        Ok(())
    }
}

impl Viewed for Class {
    fn read(object: &Object) -> Self {
        let class = object.value();
        let annotations = class.at("metadata").at("annotations");
        let marks = DEFAULT_CLASS.into_iter().chain([ingressclass::IS_DEFAULT]);
        let is_default = marks.into_iter().any(|mark| annotations.text(mark) == "true");
        let created = read::text_at(&class, "/metadata/creationTimestamp").to_owned();
        Self { name: object.key.name.clone(), created, is_default }
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.created.len()
    }
}
