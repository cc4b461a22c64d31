//! A write into a namespace -> refused, where the namespace is missing or going; some namespaces may not go at all.
//!
//! Source: `apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go`.

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde::Deserialize;

use super::{forbidden, is};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle;

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        let gr = GroupResource::new("", "namespaces");
        if is(review, "", "namespaces") {
            if review.ctx.operation == Operation::Delete && IMMORTAL.contains(&ctx.name) {
                return Err(Status::forbidden(&gr, ctx.name, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let looks = matches!(review.ctx.operation, Operation::Create | Operation::Update);
        // What a review would tell of a namespace is not everybody's business.
        if ctx.namespace.is_empty() || !looks || is(review, "authorization.k8s.io", "localsubjectaccessreviews") {
            return Ok(());
        }
        let key = Key::new("", ctx.namespace);
        let namespace = match ctx.engine.cached(&gr, &key) {
            Some(namespace) => namespace,
            None => ctx.engine.get(&gr, &key).await?,
        };
        // Only one that is being deleted can be terminating: the others need not be parsed.
        let terminating = namespace.is_deleting() && namespace.part::<Namespace>().is_ok_and(|namespace| namespace.is_terminating());
        if review.ctx.operation != Operation::Create || !terminating {
            return Ok(());
        }
        let name = ctx.namespace;
        let refused = forbidden(review, &format!("unable to create new content in namespace {name} because it is being terminated"));
        Err(refused.cause("NamespaceTerminating", &format!("namespace {name} is being terminated"), "metadata.namespace"))
    }
}

/// Of a namespace, its phase.
#[derive(Deserialize)]
struct Namespace {
    status: Option<NamespaceStatus>,
}

#[derive(Deserialize)]
struct NamespaceStatus {
    phase: Option<String>,
}

impl Namespace {
    fn is_terminating(&self) -> bool {
        self.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Terminating")
    }
}
