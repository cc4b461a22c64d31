//! What stands in a ConfigMap -> what this server would have there: one that it looks after for as long as it runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{engine::Engine, identity::User};
use serde_json::{Value, json};
use tokio::{sync::Notify, time};

use super::{Read, edit, settled};

const RETRY: Duration = Duration::from_secs(10);

pub type Data = BTreeMap<String, String>;

/// Makes the ConfigMap (namespace, name) where it is missing, and changes it whenever somebody has changed what `combined` makes of it.
pub async fn keep(
    engine: Arc<Engine>,
    user: User,
    (namespace, name): (&'static str, &'static str),
    combined: impl Fn(&Data, Timestamp) -> Data + Sync,
) {
    let (key, changed) = (Key::new(namespace, name), Arc::new(Notify::new()));
    let (kept, heard) = (key.clone(), changed.clone());
    engine.on_change(
        &config_maps(),
        Arc::new(move |change| {
            if change.new.as_ref().or(change.old.as_ref()).is_some_and(|object| object.key == kept) {
                heard.notify_one();
            }
        }),
    );
    loop {
        match bring_about(&engine, &user, &key, &combined).await {
            Ok(()) => changed.notified().await,
            Err(status) => {
                tracing::warn!(name, error = status.message, "a ConfigMap of the server's own is not brought up to date; trying again");
                let _ = time::timeout(RETRY, changed.notified()).await;
            }
        }
    }
}

fn config_maps() -> GroupResource {
    GroupResource::new("", "configmaps")
}

fn data_of(object: &Value) -> Data {
    object.entries("data").map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

async fn bring_about(
    engine: &Arc<Engine>,
    user: &User,
    key: &Key,
    combined: &(impl Fn(&Data, Timestamp) -> Data + Sync),
) -> Result<(), Status> {
    let (gr, now) = (config_maps(), Timestamp::now());
    let Some(found) = engine.cached(&gr, key) else {
        let metadata = json!({"namespace": key.namespace, "name": key.name});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": combined(&Data::new(), now)});
        return settled(engine.create(&gr, &key.namespace, object, user).await.map(drop));
    };
    let found = data_of(&found.value());
    if combined(&found, now) == found {
        return Ok(());
    }
    let change = |object: &mut Value| {
        edit::set(object, "data", json!(combined(&data_of(object), now)));
        Ok(())
    };
    settled(engine.update(&gr, key, "", user, &change).await.map(drop))
}
