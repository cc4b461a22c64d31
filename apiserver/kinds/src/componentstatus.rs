//! ComponentStatus: how scheduler, controllers and store are. Deprecated upstream, and still in every `kubectl api-resources`.
//!
//! Nothing of it is kept. Scheduler and controllers run in the process that answers, whose loops end it with them: they are as its task group is.
//! Source: `pkg/registry/core/componentstatus/rest.go`, `serversToValidate` in `pkg/registry/core/rest/storage_core.go`.

use std::{borrow::Cow, time::Duration};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::Engine,
    kind::{Column, Derived, Kind, Made, Name, Origins, Scope, Storage, Strategy, names},
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::common::{Read, read, table};

/// The store is waited for no longer (upstream: 20 s).
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    Column::new("Status", "string", "Status of the component conditions"),
    Column::new("Message", "string", "Message of the component conditions"),
    Column::new("Error", "string", "Error of the component conditions"),
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        short_names: names(&["cs"]),
        verbs: names(&["get", "list"]),
        storage: Storage::Nowhere,
        columns: Cow::Borrowed(COLUMNS),
        ..crate::common::kind("", "v1", "ComponentStatus", "componentstatuses", "io.k8s.api.core.v1", Components)
    }
}

struct Components;

impl Strategy for Components {
    fn derived(&self) -> Option<&dyn Derived> {
        Some(self)
    }

    fn deprecation(&self) -> Option<Name> {
        Some("v1 ComponentStatus is deprecated in v1.19+".into())
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let healthy = object.list("conditions").iter().find(|condition| condition.text("type") == "Healthy");
        let status = match healthy.map(|condition| condition.text("status")) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        };
        vec![read::name(object).into(), status.into(), healthy.text("message").into(), healthy.text("error").into()]
    }
}

#[async_trait]
impl Derived for Components {
    fn origin(&self) -> Option<GroupResource> {
        None
    }

    async fn derive(&self, origins: &Origins) -> Result<Vec<Made>, Status> {
        let engine = &origins.engine;
        let loops = engine.group().fault().map_or(Ok(()), |fault| Err(fault.to_owned()));
        let found = [("controller-manager", loops.clone()), ("etcd-0", store(engine).await), ("scheduler", loops)];
        Ok(found.into_iter().map(|(name, health)| made(name, health)).collect())
    }

    fn nothing(&self, _kind: &Kind, key: &Key) -> Status {
        Status::not_found(&GroupResource::new("", "componentstatus"), &key.name)
    }
}

/// Whether the store answers, or why not.
async fn store(engine: &Engine) -> Result<(), String> {
    let answered = tokio::time::timeout(STORE_ANSWERS_WITHIN, engine.fresh()).await;
    answered.map_err(|_| "context deadline exceeded".to_owned())?.map_err(|status| status.message)
}

fn made(name: &str, health: Result<(), String>) -> Made {
    let condition = match health {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "error": why}),
    };
    let json = json!({"metadata": {"name": name}, "conditions": [condition]});
    Made { key: Key::new("", name), json: Bytes::from(json.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ill_says_why() {
        let cells = |health: Result<(), String>| {
            let made = made("scheduler", health);
            Components.cells(&serde_json::from_slice(&made.json).unwrap(), Timestamp::UNIX_EPOCH)
        };
        assert_eq!(cells(Ok(())), ["scheduler", "Healthy", "ok", ""].map(Value::from));
        assert_eq!(cells(Err("a loop ended".into())), ["scheduler", "Unhealthy", "", "a loop ended"].map(Value::from));
        assert_eq!(Components.cells(&json!({"metadata": {"name": "x"}}), Timestamp::UNIX_EPOCH)[1], "Unknown");
    }
}
