//! A pod as sent -> the same with upstream's defaults. Source: `pkg/apis/core/v1/defaults.go` and `zz_generated.defaults.go`.

use podspec::Side;
use serde_json::{Map, Value, json};

use crate::{
    common::{
        Read,
        edit::{child, default_number, default_text, default_to, each, make_child, remove, set},
        resources::{canonical_field, canonical_list},
    },
    persistentvolumeclaim,
};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// `SetObjectDefaults_Pod`.
pub fn pod(pod: &mut Value) {
    if let Some(spec) = make_child(pod, "spec") {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(requests_from_limits);
        }
        pod_level_huge_pages(spec);
        pod_level_requests(spec);
        default_to(spec, "enableServiceLinks", true);
        if spec.is_true("hostNetwork") {
            for list in ["containers", "initContainers"] {
                each(spec, list).for_each(host_ports);
            }
        }
        pod_spec(spec);
    }
    if let Some(status) = child(pod, "status") {
        status_resources(status);
    }
}

/// What the node gives its containers comes in whole thousandths, too.
fn status_resources(status: &mut Value) {
    resources(status);
    canonical_list(status, "allocatedResources");
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for container in each(status, list) {
            resources(container);
            canonical_list(container, "allocatedResources");
        }
    }
}

fn resources(of: &mut Value) {
    if let Some(resources) = child(of, "resources") {
        canonical_list(resources, "limits");
        canonical_list(resources, "requests");
    }
}

/// The defaults of a pod spec wherever it stands, in a pod or in a template.
pub fn pod_spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    service_account_alias(spec);
    each(spec, "volumes").for_each(volume);
    for list in CONTAINER_LISTS {
        each(spec, list).for_each(container);
    }
    canonical_list(spec, "overhead");
    resources(spec);
}

/// `serviceAccount` is the old name of `serviceAccountName`: both are kept equal, the new one wins.
pub fn service_account_alias(spec: &mut Value) {
    let name = [spec.text("serviceAccountName"), spec.text("serviceAccount")].into_iter().find(|n| !n.is_empty()).map(str::to_owned);
    if let Some(name) = name {
        set(spec, "serviceAccountName", name.as_str());
        set(spec, "serviceAccount", name);
    }
}

fn container(container: &mut Value) {
    let policy = if tag_is_latest(container.text("image")) { "Always" } else { "IfNotPresent" };
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    each(container, "ports").for_each(|port| default_text(port, "protocol", "TCP"));
    each(container, "env").filter_map(|e| child(e, "valueFrom")).for_each(value_source);
    if let Some(resources) = make_child(container, "resources") {
        canonical_list(resources, "limits");
        canonical_list(resources, "requests");
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = child(container, name) {
            probe(found);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            child(lifecycle, hook).and_then(|h| child(h, "httpGet")).into_iter().for_each(http_get);
        }
    }
}

fn probe(probe: &mut Value) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    child(probe, "httpGet").into_iter().for_each(http_get);
    child(probe, "grpc").into_iter().for_each(|grpc| default_to(grpc, "service", ""));
}

fn http_get(action: &mut Value) {
    default_text(action, "path", "/");
    default_text(action, "scheme", "HTTP");
}

fn value_source(source: &mut Value) {
    child(source, "fieldRef").into_iter().for_each(field_ref);
    child(source, "resourceFieldRef").into_iter().for_each(resource_field_ref);
    child(source, "fileKeyRef").into_iter().for_each(|r| default_to(r, "optional", false));
}

fn field_ref(reference: &mut Value) {
    default_text(reference, "apiVersion", "v1");
}

fn resource_field_ref(reference: &mut Value) {
    default_to(reference, "divisor", "0");
    canonical_field(reference, "divisor");
}

fn volume(volume: &mut Value) {
    let has_source = volume.as_object().is_some_and(|v| v.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        child(volume, name).into_iter().for_each(|source| default_to(source, "defaultMode", 0o644));
    }
    child(volume, "emptyDir").into_iter().for_each(|source| canonical_field(source, "sizeLimit"));
    child(volume, "hostPath").into_iter().for_each(|source| default_to(source, "type", ""));
    child(volume, "downwardAPI").into_iter().for_each(downward_items);
    child(volume, "projected").into_iter().flat_map(|p| each(p, "sources")).for_each(projection);
    child(volume, "image").into_iter().for_each(image_volume);
    child(volume, "ephemeral")
        .and_then(|e| child(e, "volumeClaimTemplate"))
        .and_then(|t| child(t, "spec"))
        .into_iter()
        .for_each(persistentvolumeclaim::default_spec);
    remote_volume(volume);
}

fn projection(source: &mut Value) {
    child(source, "downwardAPI").into_iter().for_each(downward_items);
    child(source, "serviceAccountToken").into_iter().for_each(|token| default_to(token, "expirationSeconds", 3600));
}

fn downward_items(source: &mut Value) {
    for item in each(source, "items") {
        child(item, "fieldRef").into_iter().for_each(field_ref);
        child(item, "resourceFieldRef").into_iter().for_each(resource_field_ref);
    }
}

fn image_volume(image: &mut Value) {
    let policy = if tag_is_latest(image.text("reference")) { "Always" } else { "IfNotPresent" };
    default_text(image, "pullPolicy", policy);
}

/// Volume types that no kubelet of ours mounts: their defaults all the same, so that the object reads as upstream's.
pub fn remote_volume(volume: &mut Value) {
    let texts: [(&str, &[(&str, &str)]); 3] = [
        ("iscsi", &[("iscsiInterface", "default")]),
        ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
    ];
    for (name, fields) in texts {
        let Some(source) = child(volume, name) else { continue };
        fields.iter().for_each(|(field, value)| default_text(source, field, value));
    }
    if let Some(disk) = child(volume, "azureDisk") {
        for (field, value) in
            [("cachingMode", json!("ReadWrite")), ("fsType", json!("ext4")), ("readOnly", json!(false)), ("kind", json!("Shared"))]
        {
            default_to(disk, field, value);
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(limits) = resources.object("limits").cloned() else { return };
    fill(resources, "requests", &limits);
}

/// `defaultHugePagePodLimits`: a pod that says something of itself is limited to its containers' huge pages, where it does not ask for any.
fn pod_level_huge_pages(spec: &mut Value) {
    let own = spec.at("resources");
    if ["requests", "limits"].iter().all(|list| own.object(list).is_none_or(Map::is_empty)) {
        return;
    }
    let asked = own.at("requests");
    let sums = aggregated(spec, Side::Limits, |name| name.starts_with("hugepages-") && asked.at(name).is_none());
    if let Some(resources) = child(spec, "resources").filter(|_| !sums.is_empty()) {
        fill(resources, "limits", &sums);
    }
}

/// `defaultPodRequests` for pods with limits of their own: a resource's request is the sum over the containers, else the pod's limit.
fn pod_level_requests(spec: &mut Value) {
    let Some(mut limits) = spec.at("resources").and_then(|r| r.object("limits")).filter(|l| !l.is_empty()).cloned() else { return };
    limits.retain(|name, _| podspec::is_supported_at_pod_level(name));
    // Huge pages cannot be asked for without a limit of the same size.
    let sums = aggregated(spec, Side::Requests, |name| matches!(name, "cpu" | "memory"));
    if let Some(resources) = child(spec, "resources") {
        fill(resources, "requests", &sums);
        fill(resources, "requests", &limits);
    }
}

/// What the containers state together, of some resources.
fn aggregated(spec: &Value, side: Side, of: impl Fn(&str) -> bool) -> Map<String, Value> {
    let all = podspec::aggregate(spec, side, &[], |_, _| {});
    all.sorted().into_iter().filter(|(name, _)| of(name)).map(|(name, amount)| (name.to_owned(), amount.to_string().into())).collect()
}

fn fill(resources: &mut Value, name: &str, from: &Map<String, Value>) {
    let Some(target) = make_child(resources, name) else { return };
    for (key, value) in from {
        default_to(target, key, value.clone());
    }
    if target.as_object().is_some_and(Map::is_empty) {
        remove(resources, name);
    }
}

/// With host networking a container port is the host's port.
fn host_ports(container: &mut Value) {
    for port in each(container, "ports") {
        if let Some(number) = port.int("containerPort") {
            default_number(port, "hostPort", number);
        }
    }
}

/// Whether an image reference's tag is `latest`, which it also is where there is neither tag nor digest (`parsers.ParseImageName`).
fn tag_is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none() && !image.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(mut object: Value) -> Value {
        pod(&mut object);
        object
    }

    #[test]
    fn a_small_pod_gets_all_defaults() {
        let found = defaulted(json!({"spec": {"containers": [{"name": "a", "image": "nginx", "ports": [{"containerPort": 80}]}]}}));
        let wanted = json!({
            "containers": [{
                "name": "a", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {},
            }],
            "enableServiceLinks": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
        });
        assert_eq!(found["spec"], wanted);
        assert_eq!(defaulted(found.clone()), found, "defaults are idempotent");
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("reg:5000/nginx", true),
            ("reg:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
            ("nginx:latest@sha256:abc", true),
            ("", false),
        ];
        for (image, latest) in cases {
            assert_eq!(tag_is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn probes_and_handlers_are_filled() {
        let found = defaulted(json!({"spec": {"containers": [{
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0}, "startupProbe": {"grpc": {"port": 1}, "timeoutSeconds": 4},
            "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
        }]}}));
        let container = &found["spec"]["containers"][0];
        let wanted = json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(container["livenessProbe"], wanted);
        assert_eq!(container["startupProbe"]["grpc"]["service"], "");
        assert_eq!(container["startupProbe"]["timeoutSeconds"], 4);
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    }

    #[test]
    fn volumes_are_filled() {
        let found = defaulted(json!({"spec": {"volumes": [
            {"name": "a"}, {"name": "b", "configMap": {"name": "x"}}, {"name": "c", "hostPath": {"path": "/"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"downwardAPI": {"items": [{"fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
            {"name": "e", "secret": {"defaultMode": 256}}, {"name": "f", "emptyDir": {"sizeLimit": "1024Ki"}},
        ]}}));
        let wanted = json!([
            {"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "x", "defaultMode": 420}}, {"name": "c", "hostPath": {"path": "/", "type": ""}},
            {"name": "d", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                {"downwardAPI": {"items": [{"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}]}}]}},
            {"name": "e", "secret": {"defaultMode": 256}}, {"name": "f", "emptyDir": {"sizeLimit": "1Mi"}},
        ]);
        assert_eq!(found["spec"]["volumes"], wanted);
    }

    #[test]
    fn resources_and_host_ports_are_filled() {
        let found = defaulted(json!({"spec": {"hostNetwork": true, "containers": [
            {"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": "0.5"}}, "ports": [{"containerPort": 80}]},
        ]}}));
        let container = &found["spec"]["containers"][0];
        assert_eq!(container["resources"], json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
    }

    #[test]
    fn pod_level_requests_follow_containers_then_limits() {
        let found = defaulted(
            json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}, "containers": [{"resources": {"requests": {"cpu": "250m"}}}, {"resources": {"requests": {"cpu": "250m"}}}]}}),
        );
        assert_eq!(found["spec"]["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
    }

    #[test]
    fn pods_that_say_something_are_limited_to_their_containers_huge_pages() {
        let huge = json!({"resources": {"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}}});
        let of = |own: Value| {
            let found = defaulted(json!({"spec": {"resources": own, "containers": [huge, huge]}}));
            found["spec"]["resources"].clone()
        };
        let both = |limits: Value, requests: Value| json!({"limits": limits, "requests": requests});
        assert_eq!(
            of(json!({"requests": {"cpu": "3"}})),
            both(json!({"hugepages-2Mi": "4Mi"}), json!({"cpu": "3", "hugepages-2Mi": "4Mi"}))
        );
        assert_eq!(
            of(json!({"limits": {"cpu": "3", "hugepages-2Mi": "8Mi"}})),
            both(json!({"cpu": "3", "hugepages-2Mi": "8Mi"}), json!({"cpu": "2", "hugepages-2Mi": "8Mi"}))
        );
        assert_eq!(of(json!({})), json!({}));
    }
}
