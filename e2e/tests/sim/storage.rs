//! Claims and volumes, made and deleted at random -> never a volume with two claims, a claim with two volumes, or a volume that goes while it is had.

use rand::Rng;
use serde_json::{Value, json};

use crate::{invariants::State, user::User};

const NAMES: u64 = 4;

impl User {
    /// One thing about volumes, at random.
    pub async fn storage(&mut self, namespace: &str) {
        let (name, size) = (format!("s{}", self.random.random_range(0..NAMES)), format!("{}Gi", self.random.random_range(1..4)));
        let policy = if self.random.random_ratio(1, 2) { "Retain" } else { "Delete" };
        let claims = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        match self.random.random_range(0..8) {
            0..3 => {
                let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "persistentVolumeReclaimPolicy": policy,
                    "hostPath": {"path": "/tmp/x"}});
                self.make(
                    "/api/v1/persistentvolumes",
                    &format!("/registry/persistentvolumes/{name}"),
                    json!({"metadata": {"name": name}, "spec": spec}),
                )
                .await;
            }
            3..6 => {
                let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "storageClassName": ""});
                let key = format!("/registry/persistentvolumeclaims/{namespace}/{name}");
                self.make(&claims, &key, json!({"metadata": {"name": name}, "spec": spec})).await;
            }
            6 => self.delete(&format!("{claims}/{name}"), &format!("/registry/persistentvolumeclaims/{namespace}/{name}")).await,
            _ => self.delete(&format!("/api/v1/persistentvolumes/{name}"), &format!("/registry/persistentvolumes/{name}")).await,
        }
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A claim was written: what it has stays its own, and no other claim has it.
pub fn claim(state: &State, old: Option<&Value>, new: &Value) -> Vec<String> {
    let (uid, volume) = (text(new, "/metadata/uid"), text(new, "/spec/volumeName"));
    let mut broken = Vec::new();
    let had = old.filter(|old| text(old, "/metadata/uid") == uid).map_or("", |old| text(old, "/spec/volumeName"));
    if !had.is_empty() && had != volume {
        broken.push(format!("bound to {had}, then to {volume:?}"));
    }
    if !volume.is_empty() && text(new, "/status/phase") == "Bound" {
        let others = state.of("persistentvolumeclaims", "").filter(|claim| text(claim, "/metadata/uid") != uid);
        let twice = others.filter(|claim| text(claim, "/spec/volumeName") == volume && text(claim, "/status/phase") == "Bound").count();
        if twice > 0 {
            broken.push(format!("{volume} has two claims"));
        }
    }
    broken
}

/// A volume is gone: nobody has it.
pub fn volume_gone(state: &State, old: &Value) -> Vec<String> {
    let (name, uid) = (text(old, "/metadata/name"), text(old, "/spec/claimRef/uid"));
    let has = |claim: &&Value| {
        text(claim, "/spec/volumeName") == name && text(claim, "/metadata/uid") == uid && text(claim, "/status/phase") == "Bound"
    };
    state.of("persistentvolumeclaims", "").filter(has).map(|claim| format!("gone while {} has it", text(claim, "/metadata/name"))).collect()
}
