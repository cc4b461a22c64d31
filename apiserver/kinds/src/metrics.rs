//! NodeMetrics and PodMetrics: what nodes and pods use, as their agents tell it when somebody asks.
//!
//! Nothing of it is kept: each is derived of the node or pod of its name ([`Derived`]). Source: metrics-server `pkg/api` and `pkg/storage`.

mod measured;
mod page;
mod sampler;
mod schema;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use api::{
    GroupResource, Key, Status,
    quantity::Quantity,
    time::{Timestamp, rfc3339},
};
use apiserver::{
    connect::Agents,
    engine::Object,
    kind::{Column, Derived, Kind, Made, Name, Origins, Scope, Storage, Strategy, names},
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::yield_now;

use self::{
    measured::{Rate, Series},
    sampler::Sampler,
};
use crate::common::{Read, read};

pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

const COLUMNS: &[Column] = &[
    Column {
        name: Name::Borrowed("Name"),
        typ: Name::Borrowed("string"),
        format: Name::Borrowed("name"),
        description: Name::Borrowed("Name of the resource"),
        priority: 0,
    },
    column("cpu", "quantity"),
    column("memory", "quantity"),
    column("Window", "duration"),
];
/// So many objects are written before others have the thread.
const TURN_OBJECTS: usize = 256;

/// Where a pod is.
const NODE: &str = "spec.nodeName";

const fn column(name: &'static str, format: &'static str) -> Column {
    let (name, typ, format) = (Name::Borrowed(name), Name::Borrowed("string"), Name::Borrowed(format));
    Column { name, typ, format, description: Name::Borrowed(""), priority: 0 }
}

/// Both kinds. Agents are called through `agents`, when somebody asks and not before.
pub fn kinds(agents: &Arc<Agents>) -> [Kind; 2] {
    let agents = agents.clone();
    let ask: sampler::Ask = Arc::new(move |target| {
        let agents = agents.clone();
        Box::pin(async move { apiserver::connect::page(&agents, &target, sampler::PAGE_BYTES_MAX).await })
    });
    of(&Sampler::new(ask))
}

fn of(sampler: &Arc<Sampler>) -> [Kind; 2] {
    [kind("NodeMetrics", "nodes", Scope::Cluster, sampler), kind("PodMetrics", "pods", Scope::Namespaced, sampler)]
}

fn kind(name: &'static str, plural: &'static str, scope: Scope, sampler: &Arc<Sampler>) -> Kind {
    Kind {
        singular: "".into(),
        scope,
        verbs: names(&["get", "list"]),
        storage: Storage::Nowhere,
        columns: Cow::Borrowed(COLUMNS),
        schema: schema::of(name),
        ..crate::common::kind(GROUP, VERSION, name, plural, "", Metrics { plural, sampler: sampler.clone() })
    }
}

struct Metrics {
    plural: &'static str,
    sampler: Arc<Sampler>,
}

impl Strategy for Metrics {
    fn derived(&self) -> Option<&dyn Derived> {
        Some(self)
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let usages = || object.at("usage").into_iter().chain(object.list("containers").iter().filter_map(|c| c.at("usage")));
        let sum = |resource: &str| {
            let all = usages().filter_map(|usage| Quantity::parse(usage.text(resource)).ok());
            all.reduce(Quantity::plus).unwrap_or(Quantity::from_units(0)).to_string()
        };
        vec![read::name(object).into(), sum("cpu").into(), sum("memory").into(), object.text("window").into()]
    }
}

#[async_trait]
impl Derived for Metrics {
    fn origin(&self) -> Option<GroupResource> {
        Some(GroupResource::new("", self.plural))
    }

    async fn derive(&self, origins: &Origins) -> Result<Vec<Made>, Status> {
        if self.plural == "nodes" { self.nodes(origins).await } else { self.pods(origins).await }
    }

    /// As client-go's lister of nodes words it; that of pods names the resource.
    fn no_origin(&self, _origin: &GroupResource, key: &Key) -> Status {
        let named = if self.plural == "nodes" { "node" } else { "pods" };
        Status::not_found(&GroupResource::new("", named), &key.name)
    }

    fn nothing(&self, _kind: &Kind, key: &Key) -> Status {
        if self.plural == "nodes" {
            return Status::not_found(&GroupResource::new(GROUP, "nodemetrics"), &key.name);
        }
        Status::not_found(&GroupResource::new(GROUP, "podmetrics"), &format!("{}/{}", key.namespace, key.name))
    }
}

impl Metrics {
    async fn nodes(&self, origins: &Origins) -> Result<Vec<Made>, Status> {
        let names = origins.objects.iter().map(|node| node.key.name.clone()).collect();
        let measured = self.sampler.measured(&origins.engine, names).await;
        let now = Timestamp::now();
        let one = |node: &Arc<Object>| {
            let rate = measured.get(&node.key.name)?.node.as_ref().and_then(Series::rate)?;
            Some(made(node, now, &rate, &format!("\"usage\":{}", usage(&rate))))
        };
        Ok(origins.objects.iter().filter_map(one).collect())
    }

    async fn pods(&self, origins: &Origins) -> Result<Vec<Made>, Status> {
        let measured = self.sampler.measured(&origins.engine, nodes_of(origins)).await;
        let (now, mut out) = (Timestamp::now(), Vec::new());
        for pods in origins.objects.chunks(TURN_OBJECTS) {
            out.extend(pods.iter().filter_map(|pod| {
                // What a node says of pods that are not its own is not looked at.
                let containers = measured.get(origins.field(pod, NODE)).and_then(|node| node.pods.get(&pod.key))?;
                pod_made(pod, now, containers)
            }));
            yield_now().await;
        }
        Ok(out)
    }
}

/// Where the pods are, each once.
fn nodes_of(pods: &Origins) -> Vec<String> {
    let named = pods.objects.iter().map(|pod| pods.field(pod, NODE)).filter(|node| !node.is_empty());
    named.collect::<BTreeSet<&str>>().into_iter().map(str::to_owned).collect()
}

/// `None` where a container was measured but once.
fn pod_made(pod: &Object, now: Timestamp, containers: &BTreeMap<Box<str>, Series>) -> Option<Made> {
    let rates: Option<Vec<(&str, Rate)>> = containers.iter().map(|(name, series)| Some((&**name, series.rate()?))).collect();
    let rates = rates?;
    let earliest = rates.iter().map(|(_, rate)| rate).min_by_key(|rate| rate.at_ms)?;
    let mut text = String::from("\"containers\":[");
    for (at, (name, rate)) in rates.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{{\"name\":{},\"usage\":{}}}", json!(name), usage(rate));
    }
    text.push(']');
    Some(made(pod, now, earliest, &text))
}

/// An object as Go writes it. `rest` are its last fields.
fn made(origin: &Object, now: Timestamp, rate: &Rate, rest: &str) -> Made {
    let key = origin.key.clone();
    let mut metadata = json!({"name": key.name});
    if !key.namespace.is_empty() {
        metadata["namespace"] = key.namespace.as_str().into();
    }
    metadata["creationTimestamp"] = rfc3339(now).into();
    let labels: BTreeMap<&str, &str> = origin.labels().collect();
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    let at = Timestamp::from_millisecond(rate.at_ms).unwrap_or(now);
    let json = format!("{{\"metadata\":{metadata},\"timestamp\":\"{}\",\"window\":\"{}\",{rest}}}", rfc3339(at), rate.window());
    Made { key, json: Bytes::from(json) }
}

fn usage(rate: &Rate) -> Value {
    let memory = i64::try_from(rate.memory_bytes).unwrap_or(i64::MAX);
    json!({"cpu": rate.cpu().to_string(), "memory": Quantity::from_bytes(memory).to_string()})
}

#[cfg(test)]
mod tests;
