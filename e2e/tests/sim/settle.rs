//! What is stored -> what is not yet as users asked. Nothing, some time after the last fault.

use serde_json::{Value, json};

use crate::{
    invariants::{State, controls, is_active, is_over, is_ready, text},
    jobs, losses, sets,
};

/// All that has not converged.
pub fn unsettled(state: &State) -> Vec<String> {
    let mut left = losses::unsettled(&state.objects);
    left.extend(sets::unsettled(state));
    for deployment in state.of("deployments", "") {
        left.extend(of_deployment(state, deployment).into_iter().map(|why| format!("deployment {}: {why}", name(deployment))));
    }
    for namespace in state.of("namespaces", "").filter(|n| !text(n, "/metadata/deletionTimestamp").is_empty()) {
        left.push(format!("namespace {} is still there: {}", name(namespace), namespace["status"]));
    }
    for pod in state.of("pods", "") {
        left.extend(of_pod(state, pod).map(|why| format!("pod {}: {why}", name(pod))));
    }
    for set in state.of("replicasets", "").filter(|set| !state.of("deployments", "").any(|d| controls(d, set))) {
        left.push(format!("replica set {} has no deployment", name(set)));
    }
    for job in state.of("jobs", "") {
        left.extend(jobs::unsettled(job).map(|why| format!("job {}: {why}", name(job))));
    }
    for service in state.of("services/specs", "") {
        left.extend(of_service(state, service).map(|why| format!("service {}: {why}", name(service))));
    }
    for quota in state.of("resourcequotas", "") {
        left.extend(of_quota(state, quota).map(|why| format!("quota {}: {why}", name(quota))));
    }
    for node in state.of("minions", "") {
        if node.pointer("/spec/taints").is_some() || !is_ready(node) {
            left.push(format!("node {}: {} {}", name(node), node["spec"], node["status"]["conditions"]));
        }
    }
    left
}

fn of_deployment(state: &State, deployment: &Value) -> Option<String> {
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let desired = number("/spec/replicas");
    let pods: Vec<&Value> = state.pods_of(deployment).filter(|p| is_active(p)).collect();
    let ready = pods.iter().filter(|p| is_ready(p)).count() as i64;
    if pods.len() as i64 != desired || ready != desired {
        return Some(format!("wants {desired}, has {}, {ready} ready: {}", pods.len(), deployment["status"]));
    }
    let told = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].map(|f| number(&format!("/status/{f}")));
    if told != [desired; 4] || number("/status/observedGeneration") != number("/metadata/generation") {
        return Some(format!("wants {desired}, says {}", deployment["status"]));
    }
    (!text(deployment, "/metadata/deletionTimestamp").is_empty()).then(|| "being deleted".to_owned())
}

fn of_pod(state: &State, pod: &Value) -> Option<String> {
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        return Some("being deleted".into());
    }
    if let Some(job) = state.of("jobs", "").find(|job| controls(job, pod)) {
        let is_held = pod.pointer("/metadata/finalizers").is_some();
        return (jobs::is_over(job) && (is_held || !is_over(pod))).then(|| format!("its job is over: {}", pod["status"]));
    }
    let owners = ["replicasets", "statefulsets", "daemonsets"];
    if !owners.iter().any(|plural| state.of(plural, "").any(|set| controls(set, pod))) {
        return Some("has no owner".into());
    }
    (text(pod, "/spec/nodeName").is_empty() && !is_over(pod)).then(|| format!("not bound: {}", pod["status"]))
}

/// The ready addresses of its slices, and of its Endpoints, are those of the ready pods that it selects.
fn of_service(state: &State, service: &Value) -> Option<String> {
    let (namespace, app) = (text(service, "/metadata/namespace"), text(service, "/spec/selector/app"));
    if app.is_empty() {
        return None;
    }
    let pods = state.of("pods", namespace).filter(|p| text(p, "/metadata/labels/app") == app && is_active(p) && is_ready(p));
    let mut wanted: Vec<&str> = pods.map(|p| text(p, "/status/podIP")).collect();
    let own = |o: &&Value| text(o, "/metadata/labels/kubernetes.io~1service-name") == text(service, "/metadata/name");
    let slices = state.of("endpointslices", namespace).filter(own);
    let endpoints = slices.flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|e| e.pointer("/conditions/ready") == Some(&Value::Bool(true)));
    let mut sliced: Vec<&str> = ready.flat_map(|e| e["addresses"].as_array().into_iter().flatten()).filter_map(Value::as_str).collect();
    let endpoints = state.of("services/endpoints", namespace).find(|e| e["metadata"]["name"] == service["metadata"]["name"]);
    let subsets = endpoints.and_then(|e| e["subsets"].as_array()).into_iter().flatten();
    let addresses = subsets.flat_map(|s| s["addresses"].as_array().into_iter().flatten());
    let mut old: Vec<&str> = addresses.map(|a| text(a, "/ip")).collect();
    [&mut wanted, &mut sliced, &mut old].into_iter().for_each(|list| list.sort_unstable());
    (wanted != sliced || wanted != old).then(|| format!("ready pods {wanted:?}, slices {sliced:?}, endpoints {old:?}"))
}

/// What its status says is used is what there is.
fn of_quota(state: &State, quota: &Value) -> Option<String> {
    let namespace = text(quota, "/metadata/namespace");
    let count = |resource: &str| state.of(resource, namespace).count().to_string();
    let living = state.of("pods", namespace).filter(|pod| !is_over(pod)).count().to_string();
    let wanted = json!({"pods": living, "count/pods": count("pods"), "count/replicasets.apps": count("replicasets")});
    let (used, told) = (&quota["status"]["used"], &quota["status"]["hard"]);
    (*used != wanted || *told != quota["spec"]["hard"]).then(|| format!("{used} is used, {wanted} is there"))
}

fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}
