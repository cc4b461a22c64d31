//! A Service, its endpoint slices and what its server answers -> the condition Available.
//!
//! Source: kube-aggregator `pkg/controllers/status/remote/remote_available_controller.go`, `pkg/controllers/status/local`.

use std::time::Duration;

use api::metrics::Family;
use apiserver::{
    delegation::{Asking, Delegate},
    identity::User,
};
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    apiservice::spec::{ServiceReference, Spec},
    common::Read,
    service::shape,
};

/// How often a server is asked before it counts as failing; one success is enough.
const ATTEMPTS: usize = 5;
/// The others are asked once the first has failed, or has taken so long. (Upstream asks all of them at once.)
const FIRST_ALONE: Duration = Duration::from_secs(1);
/// An answer's head.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// All attempts.
const ALL_BOUND: Duration = Duration::from_secs(6);

/// The condition, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Available {
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    pub fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".into() }
    }

    /// Whether trying again soon may help: nothing tells us when it does.
    pub fn is_retried(&self) -> bool {
        self.reason == "FailedDiscoveryCheck"
    }

    pub fn condition(&self) -> Value {
        json!({"type": "Available", "status": self.status, "reason": self.reason, "message": self.message})
    }

    pub fn stands_in(&self, object: &Value) -> bool {
        let found = object.at("status").list("conditions").iter().find(|c| c.text("type") == "Available");
        (found.text("status"), found.text("reason"), found.text("message")) == (self.status, self.reason, self.message.as_str())
    }
}

static UNAVAILABLE: Family = Family::gauge(
    "aggregator_unavailable_apiservice",
    "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.",
    &["name"],
);
static BECAME_UNAVAILABLE: Family = Family::counter(
    "aggregator_unavailable_apiservice_total",
    "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
    &["name", "reason"],
);

/// For metrics (`pkg/controllers/status/metrics`); `was` is whether it was available until now.
pub fn told(name: &str, available: &Available, was: bool) {
    let is_available = available.status == "True";
    UNAVAILABLE.set(&[name], i64::from(!is_available));
    if !is_available {
        BECAME_UNAVAILABLE.with(&[name, available.reason]).add(i64::from(was));
    }
}

/// There is no such APIService any more.
pub fn forgotten(name: &str) {
    UNAVAILABLE.forget(&[name]);
}

/// What is wrong before the server is asked. `slices` are those of the Service.
pub fn wrong(reference: &ServiceReference, service: Option<&Value>, slices: &[Value]) -> Option<Available> {
    let ServiceReference { namespace, name, port, .. } = reference;
    let place = format!("service/{name} in {namespace:?}");
    let Some(service) = service else { return Some(Available::no("ServiceNotFound", format!("{place} is not present"))) };
    if !matches!(service.at("spec").text("type"), "ClusterIP" | "") {
        return None;
    }
    let Some(found) = shape::ports(service).iter().find(|p| p.int("port") == Some(i64::from(*port))) else {
        return Some(Available::no("ServicePortError", format!("{place} is not listening on port {port}")));
    };
    if slices.is_empty() {
        return Some(Available::no("EndpointsNotFound", format!("cannot find endpointslices for {place}")));
    }
    let port = found.text("name");
    let message = || format!("endpointslices for {place} have no addresses with port name {port:?}");
    (!slices.iter().any(|slice| has_endpoint(slice, port))).then(|| Available::no("MissingEndpoints", message()))
}

/// `hasAvailableEndpoint`
fn has_endpoint(slice: &Value, port: &str) -> bool {
    let is_ready = |endpoint: &Value| endpoint.at("conditions").flag("ready").unwrap_or(true);
    let is_it = |of: &Value| of.at("name").and_then(Value::as_str) == Some(port) && of.at("port").is_some();
    slice.list("endpoints").iter().any(is_ready) && slice.list("ports").iter().any(is_it)
}

/// Whether the server answers for its group version.
pub async fn asked(delegate: &Delegate, spec: &Spec) -> Available {
    let path = format!("/apis/{}/{}", spec.group, spec.version);
    let user = User { name: "system:kube-aggregator".into(), groups: vec!["system:masters".into()], ..User::default() };
    let attempt = || one(delegate, &path, &user);
    let all = async {
        let mut running = FuturesUnordered::new();
        running.push(attempt());
        let mut last = match timeout(FIRST_ALONE, running.next()).await {
            Ok(Some(Ok(()))) => return Ok(()),
            Ok(Some(Err(why))) => why,
            Ok(None) | Err(_) => String::new(),
        };
        (1..ATTEMPTS).for_each(|_| running.push(attempt()));
        while let Some(answered) = running.next().await {
            match answered {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
        }
        Err(last)
    };
    let late = async {
        sleep(ALL_BOUND).await;
        Err(format!("timed out waiting for {}", url(delegate, &path)))
    };
    let answered = tokio::select! {
        answered = all => answered,
        late = late => late,
    };
    match answered {
        Ok(()) => Available { status: "True", reason: "Passed", message: "all checks passed".into() },
        Err(why) => Available::no("FailedDiscoveryCheck", why),
    }
}

fn url(delegate: &Delegate, path: &str) -> String {
    format!("https://{}{path}", delegate.place().unwrap_or_default())
}

async fn one(delegate: &Delegate, path: &str, user: &User) -> Result<(), String> {
    let place = delegate.place()?;
    let url = format!("https://{place}{path}");
    let asking = Asking { place: &place, path, user, accept: "*/*", etag: None, bytes_max: None, bound: ANSWER_BOUND };
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let code = delegate.ask(asking).await.map_err(|why| failed(format!("Get {url:?}: {why}")))?.code;
    if (200..300).contains(&code) { Ok(()) } else { Err(failed(format!("bad status from {url}: {code}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_upstreams_words() {
        let object = json!({"spec": {"group": "a", "version": "v1", "service": {"namespace": "n", "name": "s"}}});
        let reference = Spec::read(&object).service.unwrap();
        let service = |port: u16| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "web", "port": port}]}});
        let slice =
            |port: &str, ready: Value| json!({"endpoints": [{"conditions": {"ready": ready}}], "ports": [{"name": port, "port": 1}]});
        let told =
            |service: Option<&Value>, slices: &[Value]| wrong(&reference, service, slices).map(|found| (found.reason, found.message));
        assert_eq!(told(None, &[]), Some(("ServiceNotFound", "service/s in \"n\" is not present".into())));
        assert_eq!(told(Some(&service(80)), &[]), Some(("ServicePortError", "service/s in \"n\" is not listening on port 443".into())));
        assert_eq!(told(Some(&service(443)), &[]), Some(("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"".into())));
        for missing in [slice("web", json!(false)), slice("other", json!(true)), json!({})] {
            let words = "endpointslices for service/s in \"n\" have no addresses with port name \"web\"";
            assert_eq!(told(Some(&service(443)), &[missing]), Some(("MissingEndpoints", words.into())));
        }
        for ready in [json!(true), Value::Null] {
            assert_eq!(told(Some(&service(443)), &[json!({}), slice("web", ready)]), None);
        }
        assert_eq!(told(Some(&json!({"spec": {"type": "ExternalName"}})), &[]), None, "only the server can tell");
    }

    #[test]
    fn what_stands_already_is_known() {
        let local = Available::local();
        let mut object = json!({"status": {"conditions": [local.condition()]}});
        assert!(local.stands_in(&object));
        object["status"]["conditions"][0]["status"] = "False".into();
        assert!(!local.stands_in(&object) && !local.stands_in(&json!({})));
    }
}
