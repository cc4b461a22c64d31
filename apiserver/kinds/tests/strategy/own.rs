//! Objects that the server makes of itself: levels, flow schemas, and an APIService of each group version.

use std::sync::Arc;

use api::{GroupResource, Key, Status};
use apiserver::identity::{Admission, Auth, Review};
use async_trait::async_trait;
use kinds::{
    apiservice::register,
    auth::{self, system_user},
    flow::keep,
};
use serde_json::json;

use crate::room::Room;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";

async fn room() -> Room {
    Room::new(kinds::table(&kinds::Config::default()), Auth::default()).await
}

#[tokio::test]
async fn levels_and_schemas_are_there_and_come_back() {
    let room = room().await;
    keep::ensure(&room.engine, &system_user()).await.unwrap();
    let schemas = GroupResource::new("flowcontrol.apiserver.k8s.io", "flowschemas");
    let levels = GroupResource::new("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations");
    let count = || (room.engine.cached_list(&levels, None).len(), room.engine.cached_list(&schemas, None).len());
    assert_eq!(count(), (8, 11));
    let before: Vec<u64> = room.engine.cached_list(&schemas, None).iter().map(|object| object.rev).collect();
    keep::ensure(&room.engine, &system_user()).await.unwrap();
    let after: Vec<u64> = room.engine.cached_list(&schemas, None).iter().map(|object| object.rev).collect();
    assert_eq!(before, after, "nothing is written twice");
    Room::ok(room.send("DELETE", &format!("{SCHEMAS}/exempt"), json!(null)).await);
    Room::ok(room.patch(&format!("{SCHEMAS}/probes"), json!({"spec": {"matchingPrecedence": 7}})).await);
    let own = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}, "spec": {"matchingPrecedence": 8}});
    Room::ok(room.patch(&format!("{SCHEMAS}/service-accounts"), own).await);
    keep::ensure(&room.engine, &system_user()).await.unwrap();
    let precedence = |name: &str| room.engine.cached(&schemas, &Key::new("", name)).unwrap().value()["spec"]["matchingPrecedence"].clone();
    assert_eq!((precedence("exempt"), precedence("probes"), precedence("service-accounts")), (json!(1), json!(2), json!(8)));
}

#[tokio::test]
async fn each_group_version_has_an_api_service() {
    let room = room().await;
    register::register(&room.engine, &system_user()).await.unwrap();
    let services = GroupResource::new("apiregistration.k8s.io", "apiservices");
    let of = |name: &str| room.engine.cached(&services, &Key::new("", name)).map(|object| object.value());
    let core = of("v1.").unwrap();
    assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    assert_eq!(core["status"]["conditions"][0]["reason"], "Local");
    assert!(of("v1.apps").is_some() && of("v1.apiregistration.k8s.io").is_none());
    let stale = json!({"metadata": {"name": "v1.gone.example", "labels": {"kube-aggregator.kubernetes.io/automanaged": "true"}},
        "spec": {"group": "gone.example", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100}});
    let mut theirs = stale.clone();
    theirs["metadata"] = json!({"name": "v1.theirs.example"});
    theirs["spec"]["group"] = json!("theirs.example");
    for object in [stale, theirs] {
        Room::ok(room.post("/apis/apiregistration.k8s.io/v1/apiservices", object).await);
    }
    register::register(&room.engine, &system_user()).await.unwrap();
    assert!(of("v1.gone.example").is_none() && of("v1.theirs.example").is_some());
}

/// Says no to what a client does, as a webhook does that nobody answers for, and to the server's own objects of these names.
struct Refuses(&'static [&'static str]);

#[async_trait]
impl Admission for Refuses {
    fn name(&self) -> &'static str {
        "Refuses"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let is_let_in = review.ctx.is_own() && !self.0.contains(&review.ctx.name);
        if is_let_in { Ok(()) } else { Err(Status::internal("no endpoints available for service")) }
    }
}

#[tokio::test]
async fn the_server_starts_whoever_refuses_what_clients_and_its_keepers_write() {
    let refuses = Refuses(&["probes", "exempt", "v1.", "v1.apps"]);
    let auth = Auth { admission: vec![Arc::new(refuses)], ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    auth::bootstrap(&room.engine).await.unwrap();
    let names = |group: &str, resource: &str| -> Vec<String> {
        room.engine.cached_list(&GroupResource::new(group, resource), None).iter().map(|object| object.key.name.clone()).collect()
    };
    assert!(names("", "namespaces").contains(&"kube-system".to_owned()));
    assert!(names("rbac.authorization.k8s.io", "clusterroles").contains(&"cluster-admin".to_owned()));
    let (services, schemas) = (names("apiregistration.k8s.io", "apiservices"), names("flowcontrol.apiserver.k8s.io", "flowschemas"));
    assert!(services.contains(&"v1.batch".to_owned()) && !services.contains(&"v1.apps".to_owned()), "{services:?}");
    assert!(schemas.contains(&"catch-all".to_owned()) && !schemas.contains(&"probes".to_owned()), "{schemas:?}");
    // A client's are shown.
    let (code, told) = room.post("/api/v1/namespaces", json!({"metadata": {"name": "theirs"}})).await;
    assert_eq!(code, 500, "{told}");
}
