//! What is asked of the server and of metrics APIs behind it, and what comes of what they say.

use std::convert::Infallible;

use api::k8s::api::autoscaling::v2::{CrossVersionObjectReference, MetricSpec};
use http::{Request, Response};
use kube::client::Body;

use super::*;

type Asking = Arc<Mutex<Vec<String>>>;

/// Answers by path; other paths are not served. `hang` is one that is never answered.
fn asks(answers: &[(&str, u16, Value)]) -> (Asks, Asking) {
    let answers: Vec<(String, u16, String)> =
        answers.iter().map(|(path, code, body)| ((*path).to_owned(), *code, body.to_string())).collect();
    let asked = Asking::default();
    let seen = asked.clone();
    let server = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().to_string();
        seen.lock().push(path.clone());
        let found = answers.iter().find(|(known, ..)| *known == path).map(|(_, code, body)| (*code, body.clone()));
        async move {
            if path.contains("hang") {
                std::future::pending::<()>().await;
            }
            let (code, body) = found.unwrap_or((404, "404 page not found".into()));
            Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
        }
    });
    (Asks::new(kube::Client::new(server, "default"), Duration::from_secs(15)), asked)
}

fn until() -> Instant {
    Instant::now() + LOOK_BOUND
}

fn target(api_version: &str, kind: &str, name: &str) -> CrossVersionObjectReference {
    CrossVersionObjectReference { api_version: Some(api_version.into()), kind: kind.into(), name: name.into() }
}

fn resources(all: &[(&str, &str)]) -> Value {
    json!({"resources": all.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_target_of_any_kind_is_found_by_discovery() {
    let group = json!({"versions": [{"version": "v2"}, {"version": "v1"}], "preferredVersion": {"version": "v1"}});
    let scale = json!({"spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "a=b"}});
    let (asks, asked) = asks(&[
        ("/apis/shop.example", 200, group),
        ("/apis/shop.example/v1", 200, resources(&[("carts", "Cart"), ("carts/scale", "Scale"), ("others", "Other")])),
        ("/apis/shop.example/v1/namespaces/n/carts/web/scale", 200, scale),
        ("/api/v1", 200, resources(&[("pods", "Pod"), ("pods/log", "Pod")])),
    ]);
    let found = asks.scale("n", &target("shop.example/v9", "Cart", "web"), until()).await.unwrap();
    assert_eq!((found.replicas, found.status_replicas, found.selector.as_str()), (3, 2, "a=b"));
    assert_eq!(
        (found.resource, found.path.as_str()),
        (Gvr::new("shop.example", "v1", "carts"), "/apis/shop.example/v1/namespaces/n/carts/web/scale")
    );
    assert_eq!(asked.lock().len(), 3);
    asks.scale("n", &target("shop.example/v1", "Cart", "web"), until()).await.unwrap();
    assert_eq!(asked.lock().len(), 4, "it is known by now");
    let refused = async |version: &str, kind: &str, name: &str| asks.scale("n", &target(version, kind, name), until()).await.unwrap_err();
    let not_there = "the server could not find the requested resource";
    assert_eq!(refused("v1", "Pod", "p").await.message, not_there, "it has no scale");
    assert_eq!(refused("shop.example/v1", "Dog", "d").await.message, "no matches for kind \"Dog\" in group \"shop.example\"");
    assert_eq!(refused("gone.example/v1", "Dog", "d").await.message, "no matches for kind \"Dog\" in group \"gone.example\"");
    assert_eq!(refused("a/b/c", "Dog", "d").await, Fault { message: "unexpected GroupVersion string: a/b/c".into(), is_of_spec: true });
    for (version, name) in [("..", "d"), ("../v1", "d"), ("shop.example/v1", ".."), ("shop.example/v1", "a/b")] {
        let kind = if version.starts_with("shop") { "Cart" } else { "Dog" };
        refused(version, kind, name).await;
    }
    assert!(asked.lock().iter().all(|path| !path.contains("..")), "{:?}", asked.lock());
}

fn metric(kind: &str, spec: Value) -> MetricSpec {
    let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
    serde_json::from_value(json!({"type": kind, field: spec})).unwrap()
}

fn named(name: &str) -> Value {
    json!({"name": name, "selector": {"matchLabels": {"verb": "GET"}}})
}

#[tokio::test]
async fn metrics_are_asked_of_three_apis() {
    let used = |name: &str, cpu: &[&str]| {
        let containers: Vec<Value> =
            cpu.iter().enumerate().map(|(at, cpu)| json!({"name": format!("c{at}"), "usage": {"cpu": cpu, "memory": "1Ki"}})).collect();
        json!({"metadata": {"name": name}, "timestamp": NOW, "window": "30s", "containers": containers})
    };
    let half =
        json!({"metadata": {"name": "half"}, "timestamp": null, "window": "0s", "containers": [{"name": "c0", "usage": {"memory": 1}}]});
    let group = json!({"preferredVersion": {"version": "v9"}, "versions": [{"version": "v9"}, {"version": "v1beta2"}]});
    let of = |name: &str, value: Value| json!({"describedObject": {"name": name}, "timestamp": NOW, "value": value});
    let custom = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/n";
    let (asks, asked) = asks(&[
        (
            "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods?labelSelector=app%3Dweb",
            200,
            json!({"items": [used("a", &["100m", "1"]), used("b", &["1n"]), half, used("none", &[])]}),
        ),
        ("/apis/custom.metrics.k8s.io", 200, group),
        (
            &format!("{custom}/pods/%2A/qps?labelSelector=app%3Dweb&metricLabelSelector=verb%3DGET"),
            200,
            json!({"items": [of("a", json!("7")), of("b", json!(0.5))]}),
        ),
        (
            &format!("{custom}/ingresses.networking.k8s.io/front/qps?metricLabelSelector=verb%3DGET"),
            200,
            json!({"items": [of("front", json!("1k"))]}),
        ),
        (
            &format!("{custom}/metrics/qps?metricLabelSelector=verb%3DGET"),
            200,
            json!({"items": [of("n", json!("2")), of("m", json!("2"))]}),
        ),
        ("/apis/networking.k8s.io", 200, json!({"preferredVersion": {"version": "v1"}})),
        ("/apis/networking.k8s.io/v1", 200, resources(&[("ingresses", "Ingress")])),
        (
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/n/queue?labelSelector=verb%3DGET",
            200,
            json!({"items": [of("", json!("3")), of("", json!(null)), of("", json!("-1"))]}),
        ),
    ]);
    let front = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"});
    let whole = json!({"kind": "Namespace", "name": "another"});
    let specs = [
        metric("Resource", json!({"name": "cpu", "target": {"type": "Value"}})),
        metric("ContainerResource", json!({"name": "cpu", "container": "c1", "target": {"type": "Value"}})),
        metric("Pods", json!({"metric": named("qps"), "target": {"type": "Value"}})),
        metric("Object", json!({"metric": named("qps"), "describedObject": front, "target": {"type": "Value"}})),
        metric("Object", json!({"metric": named("qps"), "describedObject": whole, "target": {"type": "Value"}})),
        metric("External", json!({"metric": named("queue"), "target": {"type": "Value"}})),
        metric("External", json!({"metric": {"name": "none"}, "target": {"type": "Value"}})),
    ];
    let labels = Labels::parse("app=web").unwrap();
    let all = Measuring::new(&asks, "n", &labels, until()).all(&specs).await;
    let pods = |at: usize| match &all[at].answer {
        Ok(Measured::Pods(pods)) => pods.iter().map(|(name, m)| (name.as_str(), m.value, m.window.as_secs())).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(pods(0), [("a", 1100, 30), ("b", 1, 30)], "one that is not measured whole is left out");
    assert_eq!(pods(1), [("a", 1000, 30)]);
    assert_eq!(pods(2), [("a", 7000, 60), ("b", 500, 60)]);
    assert_eq!(all[3].answer, Ok(Measured::Object(1_000_000)));
    let two =
        "unable to fetch metrics from custom metrics API: the custom metrics API server returned 2 results when we asked for exactly one";
    assert_eq!(all[4].answer, Err(two.into()));
    assert_eq!(all[5].answer, Ok(Measured::External(vec![3000, 0, -1000])));
    let none = "unable to fetch metrics from external metrics API: the server could not find the requested resource (get none.external.metrics.k8s.io)";
    assert_eq!(all[6].answer, Err(none.into()));
    let times = |part: &str| asked.lock().iter().filter(|path| path.contains(part)).count();
    assert_eq!((times("/apis/metrics.k8s.io"), times("/apis/custom.metrics.k8s.io")), (1, 4), "the version is asked for once");
}

/// Whatever an API behind the server says, there is an answer or a word why not, in time.
#[tokio::test(start_paused = true)]
async fn no_answer_is_too_odd() {
    let path = |name: &str| format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/n/{name}");
    let of = |value: Value| json!({"items": [{"value": value}]});
    let long = "x".repeat(17 << 20);
    let refusal = json!({"kind": "Status", "message": "n".repeat(9000)});
    let (asks, _) = asks(&[
        (&path("nan"), 200, of(json!("NaN"))),
        (&path("list"), 200, of(json!([]))),
        (&path("huge"), 200, of(json!("99999999999999999999999999999999999999999999E"))),
        (&path("small"), 200, of(json!(-1e300))),
        (&path("text"), 200, json!("hello")),
        (&path("nothing"), 200, json!({"items": null})),
        (&path("long"), 200, json!({"items": [], "long": long})),
        (&path("refused"), 403, refusal),
        (&path("broken"), 500, json!(7)),
    ]);
    let labels = Labels::parse("app=web").unwrap();
    for (name, wanted) in [
        ("nan", "quantities must match"),
        ("list", "a quantity is a text or a number"),
        ("text", "the answer cannot be read"),
        ("nothing", "no metrics returned from external metrics API"),
        ("long", "length limit exceeded"),
        ("refused", "nnn"),
        ("broken", "the server answered 500"),
        ("hang", "there was no answer in time"),
        ("a/b", "may not be a part of a path"),
        ("..", "may not be a part of a path"),
    ] {
        let spec = metric("External", json!({"metric": {"name": name}, "target": {"type": "Value"}}));
        let answer = Measuring::new(&asks, "n", &labels, until()).all(&[spec]).await.remove(0).answer;
        let why = answer.unwrap_err();
        assert!(why.contains(wanted) && why.len() < 2048, "{name}: {why}");
    }
    for (name, wanted) in [("huge", i64::MAX), ("small", i64::MIN)] {
        let spec = metric("External", json!({"metric": {"name": name}, "target": {"type": "Value"}}));
        let answer = Measuring::new(&asks, "n", &labels, until()).all(&[spec]).await.remove(0).answer;
        assert_eq!(answer, Ok(Measured::External(vec![wanted])), "{name}");
    }
    let hangs = [(); 50].map(|()| metric("External", json!({"metric": {"name": "hang"}, "target": {"type": "Value"}})));
    let began = Instant::now();
    let all = Measuring::new(&asks, "n", &labels, until()).all(&hangs).await;
    assert!(all.len() == 50 && began.elapsed() <= LOOK_BOUND, "{:?}", began.elapsed());
}
