//! HorizontalPodAutoscalers beside the real API server. The test is who measures: it stands between the controller and the server, and answers for the
//! metrics APIs. It is also the node that runs the pods.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use api::{
    k8s::api::{
        apps::v1::Deployment,
        autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus},
        core::v1::{Event, Pod},
    },
    task::Group,
    time::{Timestamp, rfc3339},
};
use apiserver::{body::Response, serve::status_response};
use client::kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    client::Body,
};
use door::{Door, until};
use futures::future::BoxFuture;
use http::Request;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{GROUPS, account, start};

/// A metrics API that is not there.
const SILENT: i64 = -1;

struct House {
    door: Door,
    group: Group,
    /// What each pod uses, in thousandths; what there is outside.
    used: Arc<AtomicI64>,
    queue: Arc<AtomicI64>,
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

impl House {
    async fn new() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        let (used, queue) = (Arc::new(AtomicI64::new(SILENT)), Arc::new(AtomicI64::new(SILENT)));
        let house = Self { door, group, used, queue };
        let measured = house.measured();
        start(&house.door, &house.group, &|name| match name {
            "horizontal-pod-autoscaler" => measured.clone(),
            name => house.door.client(&account(name), &GROUPS),
        });
        house.group.spawn(Box::pin(play(house.door.admin())));
        house
    }

    /// The controller's own client, with metrics APIs behind the server.
    fn measured(&self) -> Client {
        let server = self.door.service(&account("horizontal-pod-autoscaler"), &GROUPS);
        let (admin, used, queue) = (self.door.admin(), self.used.clone(), self.queue.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (path, server, admin) = (request.uri().path().to_owned(), server.clone(), admin.clone());
            let (used, queue) = (used.load(Ordering::SeqCst), queue.load(Ordering::SeqCst));
            let answer: BoxFuture<'static, Result<Response, Infallible>> = match path.split('/').nth(2) {
                Some("metrics.k8s.io") if used != SILENT => Box::pin(async move { Ok(json_response(&of_pods(&admin, used).await)) }),
                Some("external.metrics.k8s.io") if queue != SILENT => {
                    let items = json!([{"metricName": "queue", "timestamp": null, "value": format!("{queue}m")}]);
                    Box::pin(std::future::ready(Ok(json_response(&json!({"items": items})))))
                }
                _ => Box::pin(server.oneshot(request)),
            };
            answer
        });
        Client::new(service, "default")
    }

    fn api<K>(&self) -> Api<K>
    where
        K: client::kube::Resource<DynamicType = (), Scope = api::k8s::NamespaceResourceScope>,
    {
        Api::namespaced(self.door.admin(), "default")
    }

    async fn autoscaler(&self, name: &str, spec: Value) {
        let all = self.api::<HorizontalPodAutoscaler>();
        all.create(&PostParams::default(), &of(json!({"metadata": {"name": name}, "spec": spec}))).await.unwrap();
    }

    async fn deployment(&self, name: &str) {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
        let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template});
        let deployment = of(json!({"metadata": {"name": name}, "spec": spec}));
        self.api::<Deployment>().create(&PostParams::default(), &deployment).await.unwrap();
    }

    async fn has_replicas(&self, name: &str, wanted: i32) {
        let all = self.api::<Deployment>();
        until(&format!("{name} has {wanted} replicas"), async || {
            (all.get(name).await.unwrap().spec.unwrap().replicas == Some(wanted)).then_some(())
        })
        .await;
    }

    /// Its status, once that holds.
    async fn status(&self, name: &str, what: &str, holds: impl Fn(&HorizontalPodAutoscalerStatus) -> bool) {
        let (all, mut last) = (self.api::<HorizontalPodAutoscaler>(), None);
        until(&format!("{name}: {what}"), async || {
            let status = all.get(name).await.unwrap().status.unwrap_or_default();
            if last.as_ref() != Some(&status) {
                println!("{name}: {}", serde_json::to_string(&status).unwrap());
                last = Some(status.clone());
            }
            holds(&status).then_some(())
        })
        .await;
    }

    async fn condition(&self, name: &str, kind: &str, wanted: &str) {
        let holds = |status: &HorizontalPodAutoscalerStatus| {
            status.conditions.iter().flatten().any(|c| c.type_ == kind && c.reason.as_deref() == Some(wanted))
        };
        self.status(name, wanted, holds).await;
    }

    async fn event(&self, reason: &str, message: &str) {
        let events = self.api::<Event>();
        until(message, async || {
            let all = events.list(&ListParams::default()).await.unwrap().items;
            let is_it = |e: &Event| e.reason.as_deref() == Some(reason) && e.message.as_deref() == Some(message);
            all.iter()
                .any(|e| is_it(e) && e.source.as_ref().and_then(|s| s.component.as_deref()) == Some("horizontal-pod-autoscaler"))
                .then_some(())
        })
        .await;
    }

    fn end(self) {
        assert_eq!(self.group.fault(), None);
        self.group.stop();
    }
}

fn json_response(body: &Value) -> Response {
    let mut response = status_response(&api::Status::unavailable(""));
    *response.status_mut() = http::StatusCode::OK;
    *response.body_mut() = body.to_string().into_bytes().into();
    response
}

async fn of_pods(admin: &Client, used: i64) -> Value {
    let pods = Api::<Pod>::namespaced(admin.clone(), "default").list(&ListParams::default()).await.unwrap();
    let one = |pod: &Pod| {
        let containers = json!([{"name": "c", "usage": {"cpu": format!("{used}m")}}]);
        json!({"metadata": {"name": pod.name_any()}, "timestamp": rfc3339(Timestamp::now()), "window": "1s", "containers": containers})
    };
    json!({"items": pods.items.iter().map(one).collect::<Vec<_>>()})
}

/// Pods run, and have done so for long; those that are to go are gone.
async fn play(admin: Client) {
    let pods = Api::<Pod>::namespaced(admin, "default");
    loop {
        for pod in pods.list(&ListParams::default()).await.unwrap().items {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                let _ = pods.delete(&name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await;
            } else if pod.status.and_then(|status| status.start_time).is_none() {
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"});
                let status = json!({"status": {"phase": "Running", "startTime": "2020-01-01T00:00:00Z", "conditions": [ready]}});
                let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn target(kind: &str, name: &str) -> Value {
    let version = if kind == "Deployment" { "apps/v1" } else { "shop.example/v1" };
    json!({"apiVersion": version, "kind": kind, "name": name})
}

#[tokio::test]
async fn a_workload_grows_and_shrinks_with_what_it_uses() {
    let house = House::new().await;
    house.deployment("web").await;
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let spec =
        json!({"scaleTargetRef": target("Deployment", "web"), "minReplicas": 1, "maxReplicas": 4, "metrics": [cpu], "behavior": behavior});
    house.autoscaler("web", spec.clone()).await;
    // Nobody measures yet: what is built in has heard of no node.
    house.condition("web", "ScalingActive", "FailedGetResourceMetric").await;
    house.used.store(100, Ordering::SeqCst);
    house.has_replicas("web", 4).await;
    house.event("SuccessfulRescale", "New size: 2; reason: cpu resource utilization (percentage of request) above target").await;
    house.condition("web", "ScalingLimited", "TooManyReplicas").await;
    house
        .status("web", "it says what it sees", |status| {
            let current =
                status.current_metrics.iter().flatten().filter_map(|metric| metric.resource.as_ref()).map(|resource| &resource.current);
            status.current_replicas == Some(4)
                && status.desired_replicas == 4
                && status.last_scale_time.is_some()
                && current.clone().all(|current| current.average_utilization == Some(100))
                && current.filter_map(|current| current.average_value.as_ref()).all(|value| value.0 == "100m")
        })
        .await;
    house.used.store(1, Ordering::SeqCst);
    house.has_replicas("web", 1).await;
    house.event("SuccessfulRescale", "New size: 1; reason: All metrics below target").await;
    house.autoscaler("other", spec).await;
    house.condition("other", "ScalingActive", "AmbiguousSelector").await;
    house.condition("web", "ScalingActive", "AmbiguousSelector").await;
    house.api::<HorizontalPodAutoscaler>().delete("other", &DeleteParams::default()).await.unwrap();
    house.condition("web", "ScalingActive", "ValidMetricFound").await;
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    house.api::<Deployment>().patch("web", &PatchParams::default(), &none).await.unwrap();
    house.condition("web", "ScalingActive", "ScalingDisabled").await;
    house.end();
}

#[tokio::test]
async fn a_custom_resource_is_scaled_by_what_is_outside() {
    let house = House::new().await;
    let (group, version, kind) = ("shop.example", "v1", "Cart");
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let scale =
        json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "carts.shop.example"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "carts", "kind": kind},
            "versions": [{"name": version, "served": true, "storage": true, "schema": schema, "subresources": {"status": {}, "scale": scale}}]}});
    let crd = |plural: &str, group: &str, version: &str, kind: &str| ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: format!("{group}/{version}"),
        kind: kind.into(),
        plural: plural.into(),
    };
    let definitions = crd("customresourcedefinitions", "apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions = Api::<DynamicObject>::all_with(house.door.admin(), &definitions);
    definitions.create(&PostParams::default(), &of(definition)).await.unwrap();
    let queue =
        json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    house.autoscaler("cart", json!({"scaleTargetRef": target(kind, "web"), "maxReplicas": 8, "metrics": [queue]})).await;
    house.condition("cart", "AbleToScale", "FailedGetScale").await;
    let carts = Api::<DynamicObject>::namespaced_with(house.door.admin(), "default", &crd("carts", group, version, kind));
    let cart: DynamicObject =
        of(json!({"apiVersion": "shop.example/v1", "kind": kind, "metadata": {"name": "web"}, "spec": {"replicas": 2, "more": "kept"}}));
    until("the kind is served", async || carts.create(&PostParams::default(), &cart).await.ok()).await;
    house.condition("cart", "ScalingActive", "InvalidSelector").await;
    let status = Patch::Merge(json!({"status": {"replicas": 2, "selector": "app=cart"}}));
    carts.patch_status("web", &PatchParams::default(), &status).await.unwrap();
    house.condition("cart", "ScalingActive", "FailedGetExternalMetric").await;
    house.queue.store(35_000, Ordering::SeqCst);
    until("there are four", async || {
        (carts.get("web").await.unwrap().data["spec"] == json!({"replicas": 4, "more": "kept"})).then_some(())
    })
    .await;
    house.event("SuccessfulRescale", "New size: 4; reason: external metric queue(nil) above target").await;
    house.condition("cart", "ScalingActive", "ValidMetricFound").await;
    house.end();
}
