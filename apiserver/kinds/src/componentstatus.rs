//! ComponentStatus: how controllers, scheduler and store are, looked at when somebody asks. Source: `pkg/registry/core/componentstatus`.
//!
//! Upstream asks the other programs of its own machine. Here they are loops of this process, and well for as long as none of them has ended.

use std::{borrow::Cow, sync::Arc};

use api::{GroupResource, Key, Status, task::Group, time::Timestamp};
use apiserver::{
    health::{self, Check},
    kind::{Column, Derived, Kind, Made, Name, Origins, Scope, Storage, Strategy, names},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::common::{self, Read, read, table};

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Status", "string", "Status of the component conditions"),
    table::column("Message", "string", "Message of the component conditions"),
    table::column("Error", "string", "Error of the component conditions"),
];

/// Something that the control plane is made of.
pub struct Component {
    name: &'static str,
    check: Check,
    /// Under what is told why it is not well.
    told_as: &'static str,
}

/// Those that upstream names: controllers and scheduler run in `group`, and `store` says how the store is.
pub fn components(group: &Group, store: Check) -> Vec<Component> {
    let of = |name, check, told_as| Component { name, check, told_as };
    vec![
        of("controller-manager", health::loops(group), "message"),
        of("scheduler", health::loops(group), "message"),
        of("etcd-0", store, "error"),
    ]
}

/// Beside the others of its group, in the order of their names.
pub fn join(kinds: &mut Vec<Arc<Kind>>, components: Vec<Component>) {
    let at = kinds.iter().position(|kind| kind.plural == "bindings").map_or(0, |at| at + 1);
    kinds.insert(at, Arc::new(kind(components)));
}

fn kind(components: Vec<Component>) -> Kind {
    Kind {
        short_names: names(&["cs"]),
        scope: Scope::Cluster,
        verbs: names(&["get", "list"]),
        storage: Storage::Nowhere,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("", "v1", "ComponentStatus", "componentstatuses", "io.k8s.api.core.v1", ComponentStatuses(components))
    }
}

struct ComponentStatuses(Vec<Component>);

impl Strategy for ComponentStatuses {
    fn derived(&self) -> Option<&dyn Derived> {
        Some(self)
    }

    fn deprecation(&self) -> Option<Name> {
        Some("v1 ComponentStatus is deprecated in v1.19+".into())
    }

    /// `printComponentStatus`
    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let condition = object.list("conditions").iter().rfind(|condition| condition.text("type") == "Healthy");
        let status = match condition.map(|condition| condition.text("status")) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        };
        vec![read::name(object).into(), status.into(), condition.text("message").into(), condition.text("error").into()]
    }
}

#[async_trait]
impl Derived for ComponentStatuses {
    fn origin(&self) -> Option<GroupResource> {
        None
    }

    async fn derive(&self, _: &Origins) -> Result<Vec<Made>, Status> {
        Ok(futures::future::join_all(self.0.iter().map(Component::look)).await)
    }

    /// Upstream names the singular.
    fn nothing(&self, _kind: &Kind, key: &Key) -> Status {
        Status::not_found(&GroupResource::new("", "componentstatus"), &key.name)
    }
}

impl Component {
    async fn look(&self) -> Made {
        let condition = match (self.check)().await {
            Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
            Err(why) => json!({"type": "Healthy", "status": "False", self.told_as: why}),
        };
        let object = json!({"metadata": {"name": self.name}, "conditions": [condition]});
        Made { key: Key::new("", self.name), json: object.to_string().into() }
    }
}
