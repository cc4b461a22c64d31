//! A write into a namespace that is not there -> refused. Source: `plugin/pkg/admission/namespace/exists`.

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;

use super::is;

pub struct NamespaceExists;

#[async_trait]
impl Admission for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        if ctx.operation == Operation::Connect || ctx.namespace.is_empty() || is(review, "", "namespaces") {
            return Ok(());
        }
        let (namespaces, key) = (GroupResource::new("", "namespaces"), Key::new("", ctx.namespace));
        if ctx.engine.cached(&namespaces, &key).is_some() { Ok(()) } else { ctx.engine.get(&namespaces, &key).await.map(drop) }
    }
}
