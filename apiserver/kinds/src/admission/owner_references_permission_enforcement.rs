//! A write of owner references -> refused to who may not delete the object, or hold up its owner's deletion. Source: `plugin/pkg/admission/gc`.

use api::Status;
use apiserver::{
    identity::{Admission, Attributes, Operation, Review},
    kind::Scope,
};
use async_trait::async_trait;
use serde_json::Value;

use super::{forbidden, is, writes};
use crate::common::{Read, read};

pub struct OwnerReferencesPermissionEnforcement;

#[async_trait]
impl Admission for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(object) = review.object.as_deref().filter(|_| writes(review)) else { return Ok(()) };
        // The strategy of a pod's status keeps them.
        let is_kept = is(review, "", "pods") && review.ctx.subresource == "status";
        let (new, old) = (owners(Some(object)), owners(review.old));
        if is_kept || new.len() == old.len() && new.iter().zip(old).all(|(new, old)| read::same(Some(new), Some(old))) {
            return Ok(());
        }
        if review.ctx.operation != Operation::Create {
            let asked = Attributes { verb: "delete", subresource: review.ctx.subresource, ..of_object(review) };
            allowed(review, &asked, "cannot set an ownerRef on a resource you can't delete").await?;
        }
        let blocking: Vec<&Value> = new.iter().filter(|owner| is_new_block(owner, old)).collect();
        let anything = Attributes { group: "*", version: "*", resource: "*", name: "*", namespace: "", ..finalizers(review) };
        if blocking.is_empty() || review.ctx.engine.verdict(&anything).await.is_allowed() {
            return Ok(());
        }
        for owner in blocking {
            may_hold_up(review, owner).await?;
        }
        Ok(())
    }
}

fn owners(object: Option<&Value>) -> &[Value] {
    object.at("metadata").list("ownerReferences")
}

/// `newBlockingOwnerDeletionRefs`
fn is_new_block(owner: &Value, old: &[Value]) -> bool {
    let blocks = |owner: &Value| owner.is_true("blockOwnerDeletion");
    blocks(owner) && !old.iter().rev().find(|was| was.text("uid") == owner.text("uid")).is_some_and(blocks)
}

/// Whoever holds up an owner must be allowed to put finalizers on it, whatever resource it is.
async fn may_hold_up(review: &Review<'_>, owner: &Value) -> Result<(), Status> {
    let (api_version, kind) = (owner.text("apiVersion"), owner.text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kinds = review.ctx.engine.kinds();
    let found: Vec<_> = kinds.iter().filter(|one| one.group == group && one.version == version && one.kind == kind).collect();
    if found.is_empty() {
        let place = format!("cannot find RESTMapping for APIVersion {api_version} Kind {kind}");
        let why =
            format!("cannot set blockOwnerDeletion in this case because {place}: no matches for kind {kind:?} in version {api_version:?}");
        return Err(forbidden(review, &why));
    }
    for one in found {
        let namespace = if one.scope == Scope::Namespaced { review.ctx.namespace } else { "" };
        let name = owner.text("name");
        let asked = Attributes { group: &one.group, version: &one.version, resource: &one.plural, namespace, name, ..finalizers(review) };
        allowed(review, &asked, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on")
            .await?;
    }
    Ok(())
}

fn of_object<'a>(review: &'a Review<'_>) -> Attributes<'a> {
    let (ctx, kind) = (review.ctx, review.ctx.kind);
    Attributes {
        user: ctx.user,
        resource_request: true,
        group: &kind.group,
        version: &kind.version,
        resource: &kind.plural,
        namespace: ctx.namespace,
        name: ctx.name,
        ..Attributes::default()
    }
}

fn finalizers<'a>(review: &'a Review<'_>) -> Attributes<'a> {
    Attributes { verb: "update", subresource: "finalizers", ..of_object(review) }
}

async fn allowed(review: &Review<'_>, asked: &Attributes<'_>, why: &str) -> Result<(), Status> {
    let verdict = review.ctx.engine.verdict(asked).await;
    if verdict.is_allowed() {
        return Ok(());
    }
    let error = if verdict.error.is_empty() { "<nil>" } else { &verdict.error };
    Err(forbidden(review, &format!("{why}: {}, {error}", verdict.reason())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_block_is_new_where_the_owner_or_the_block_is() {
        let owner = |uid: &str, blocks: Value| json!({"uid": uid, "blockOwnerDeletion": blocks});
        let old = [owner("1", json!(true)), owner("2", json!(false)), owner("3", Value::Null)];
        let is_new = |uid: &str, blocks: bool| is_new_block(&owner(uid, json!(blocks)), &old);
        assert_eq!([is_new("1", true), is_new("2", true), is_new("3", true), is_new("4", true)], [false, true, true, true]);
        assert!(!is_new("4", false));
    }
}
