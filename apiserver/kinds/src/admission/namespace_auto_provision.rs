//! A write into a namespace that is not there -> the namespace is made. Source: `plugin/pkg/admission/namespace/autoprovision`.

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::json;

use super::{forbidden, is};
use crate::auth::system_user;

pub struct NamespaceAutoProvision;

#[async_trait]
impl Admission for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        if ctx.operation != Operation::Create || ctx.dry_run || ctx.namespace.is_empty() || is(review, "", "namespaces") {
            return Ok(());
        }
        let namespaces = GroupResource::new("", "namespaces");
        if ctx.engine.cached(&namespaces, &Key::new("", ctx.namespace)).is_some() {
            return Ok(());
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ctx.namespace}});
        match Box::pin(ctx.engine.create(&namespaces, "", namespace, &system_user())).await {
            Err(status) if status.reason != "AlreadyExists" => Err(forbidden(review, &status.message)),
            _ => Ok(()),
        }
    }
}
