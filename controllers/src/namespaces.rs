//! What controllers ask of a namespace.

use api::k8s::api::core::v1::Namespace;

/// Not being deleted: things may still be made in it.
pub fn is_active(namespace: &Namespace) -> bool {
    let terminating = namespace.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating");
    namespace.metadata.deletion_timestamp.is_none() && !terminating
}
