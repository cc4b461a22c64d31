//! Against the real API server, and against none: what is under test is what a cache holds, and when it says so.

use std::{fs, os::unix::fs::PermissionsExt, sync::atomic::AtomicBool};

use api::{
    Key,
    k8s::api::core::v1::{ConfigMap, ServiceAccount},
};
use door::{Door, until};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use super::*;
use crate::{Cache, Caches};

/// A way to a server that may be cut.
#[derive(Clone)]
struct Way {
    client: Client,
    is_cut: Arc<AtomicBool>,
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, is_cut) = (self.client.clone(), self.is_cut.clone());
        Box::pin(async move {
            if is_cut.load(Ordering::Relaxed) {
                return Err("nobody is there".into());
            }
            Ok(client.send(request).await?)
        })
    }
}

struct Run {
    group: Group,
    maps: Cache<ConfigMap>,
    client: Client,
}

/// As an agent's process: what it keeps is written when it ends.
fn run(dir: &Path, way: &Way) -> Run {
    let group = Group::new();
    let shelf = Shelf::open(dir, Duration::from_millis(500), &group).unwrap();
    let client = crate::patient(shelf.over(way.clone()), "kubelet");
    let maps = Caches::new(client.clone(), group.clone()).of::<ConfigMap>();
    Run { group, maps, client }
}

impl Run {
    async fn end(self) {
        assert!(self.group.drain(Duration::from_secs(5)).await);
    }

    fn names(&self) -> Vec<String> {
        self.maps.in_namespace("default").iter().filter_map(|map| map.metadata.name.clone()).collect()
    }

    async fn shows(&self, names: &[&str]) {
        until(&format!("{names:?}"), async || (self.names() == names).then_some(())).await;
    }
}

async fn is_current(cache: &Cache<ConfigMap>) -> bool {
    futures::future::FutureExt::now_or_never(cache.current()).is_some()
}

#[tokio::test]
async fn a_start_without_a_server_has_what_was_there_and_forgets_what_is_gone_once_one_comes() {
    let (house, dir) = (Group::new(), tempfile::tempdir().unwrap());
    let door = Door::new(&house).await;
    let way = Way { client: door.admin(), is_cut: Arc::default() };
    let maps: Api<ConfigMap> = Api::namespaced(door.admin(), "default");
    let make = async |name: &str| {
        let map = serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    };
    let place = dir.path().join("cache");
    make("a").await;
    let first = run(&place, &way);
    first.shows(&["a"]).await;
    assert!(is_current(&first.maps).await);
    make("b").await;
    first.shows(&["a", "b"]).await;
    first.end().await;
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(fs::read_dir(&place).unwrap().all(|file| file.unwrap().metadata().unwrap().permissions().mode() & 0o777 == 0o600));

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    way.is_cut.store(true, Ordering::Relaxed);
    let second = run(&place, &way);
    second.shows(&["a", "b"]).await;
    assert!(second.maps.is_synced() && !is_current(&second.maps).await, "it is of before");
    assert_eq!(second.maps.get(&Key::new("default", "b")).unwrap().data.as_ref().unwrap()["k"], "v");
    way.is_cut.store(false, Ordering::Relaxed);
    second.shows(&["b"]).await;
    make("c").await;
    second.shows(&["b", "c"]).await;
    second.end().await;

    // Cut off anywhere, it is what was once there or nothing.
    for file in fs::read_dir(&place).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    }
    let third = run(&place, &way);
    third.shows(&["b", "c"]).await;
    assert!(is_current(&third.maps).await);
    third.end().await;
    house.stop();
}

#[tokio::test]
async fn a_token_is_had_again_where_no_server_is() {
    let (house, dir) = (Group::new(), tempfile::tempdir().unwrap());
    let door = Door::new(&house).await;
    door.make_account().await;
    let way = Way { client: door.admin(), is_cut: Arc::default() };
    let request = async |client: &Client, seconds: i64| {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let body = serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": seconds}})).unwrap();
        let answer = accounts.create_token_request("default", &PostParams::default(), &body).await;
        answer.map(|answer| answer.status.unwrap().token.unwrap())
    };
    let first = run(dir.path(), &way);
    let token = request(&first.client, 3600).await.unwrap();
    first.end().await;
    way.is_cut.store(true, Ordering::Relaxed);
    let second = run(dir.path(), &way);
    until("the token of before", async || request(&second.client, 3600).await.ok().filter(|again| *again == token)).await;
    assert!(request(&second.client, 7200).await.is_err(), "another one was never given");
    second.end().await;
    house.stop();
}

#[tokio::test]
async fn a_collection_that_fell_behind_is_listed_again_and_kept() {
    let (house, dir) = (Group::new(), tempfile::tempdir().unwrap());
    let door = Door::new(&house).await;
    let way = Way { client: door.admin(), is_cut: Arc::default() };
    let group = Group::new();
    let shelf = Shelf::open(dir.path(), Duration::ZERO, &group).unwrap();
    let mut shelved = shelf.over(way.clone());
    let mut ask = async |query: &str| {
        let uri = format!("/api/v1/configmaps?watch=true&{query}");
        let answer = shelved.call(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap();
        (answer.status().as_u16(), answer.into_body())
    };
    let list = "allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    // Read to the end of the list.
    let read_list = async |mut body: Answer| {
        let entry = shelf.entry("/api/v1/configmaps?").unwrap();
        while entry.told().is_none() {
            tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
        }
        entry
    };
    let (status, body) = ask(list).await;
    assert_eq!(status, 200);
    let entry = read_list(body).await;
    entry.fell_behind();
    assert!(entry.told().is_none());
    assert_eq!(ask("resourceVersion=1").await.0, 410, "it lists again");
    assert_ne!(ask("resourceVersion=1").await.0, 410, "and not with each watch, where that helps nothing");
    read_list(ask(list).await.1).await;
    group.stop();
    house.stop();
}

fn token_of(pod: &str, n: usize) -> TokenKey {
    TokenKey { name: format!("/api/v1/namespaces/n/serviceaccounts/s/token#{pod}{n}"), pod: Some(pod.to_owned()) }
}

async fn keep(shelf: &Shelf, key: &TokenKey) {
    drop(shelf.token(key, Response::new(whole("{}"))).await.unwrap());
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn tokens_go_with_their_pods() {
    let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
    let shelf = Shelf::open(dir.path(), Duration::ZERO, &group).unwrap();
    for (pod, n) in [("n/a", 1), ("n/a", 2), ("n/b", 1), ("n/c", 1)] {
        keep(&shelf, &token_of(pod, n)).await;
    }
    assert_eq!(files(dir.path()), 4);
    shelf.pods(&News::Gone("n/a"));
    assert!(shelf.flush().await);
    assert_eq!((files(dir.path()), shelf.0.entries.lock().len()), (2, 2));
    // A pod of the same name begins anew.
    keep(&shelf, &token_of("n/a", 3)).await;
    assert!(shelf.flush().await);
    assert_eq!(files(dir.path()), 3);
    // A run that knows nothing of the files of the last, but which pods there are.
    let next = Shelf::open(dir.path(), Duration::ZERO, &group).unwrap();
    let pods = [("n/b".to_owned(), Vec::new())].into();
    next.pods(&News::Listed(&pods));
    keep(&next, &token_of("n/d", 1)).await;
    assert!(next.flush().await);
    assert!(next.token_again(&token_of("n/b", 1)).await.is_some(), "its pod is there");
    assert!(next.token_again(&token_of("n/d", 1)).await.is_some(), "its pod came after the list");
    assert!(next.token_again(&token_of("n/c", 1)).await.is_none());
    assert_eq!(files(dir.path()), 2);
    group.stop();
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_makes_room_for_what_is_new() {
    let (dir, group) = (tempfile::tempdir().unwrap(), Group::new());
    let shelf = Shelf::open(dir.path(), Duration::ZERO, &group).unwrap();
    let watched = shelf.entry("/api/v1/pods?").unwrap();
    let claim = entry::Claim::of(watched).unwrap();
    for n in 0..ENTRIES_MAX + 10 {
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(shelf.entry_of(&n.to_string(), Some("n/a")).is_some(), "{n}");
    }
    let has = |key: &str| shelf.0.entries.lock().contains_key(key);
    assert_eq!(shelf.0.entries.lock().len(), ENTRIES_MAX);
    assert!(has("/api/v1/pods?") && !has("0") && !has("10") && has("11") && has(&(ENTRIES_MAX + 9).to_string()));
    drop(claim);
    group.stop();
}

#[test]
fn a_token_is_its_pods() {
    let path = "/api/v1/namespaces/ns/serviceaccounts/s/token";
    let of =
        |kind: &str, name: &str| pod_of(path, json!({"spec": {"boundObjectRef": {"kind": kind, "name": name}}}).to_string().as_bytes());
    assert_eq!(of("Pod", "a"), Some("ns/a".into()));
    assert_eq!((of("Secret", "a"), of("Pod", ""), pod_of(path, b"{}"), pod_of(path, b"x")), (None, None, None, None));
}

#[test]
fn what_is_kept_is_what_nodes_watch() {
    let asked = |method: Method, uri: &str| match asked(&Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()) {
        Asked::Listing(key) => format!("all of {key}"),
        Asked::Resuming(key, from) => format!("{key} from {from}"),
        Asked::Token(_) => "token".into(),
        Asked::Other => "-".into(),
    };
    let cases = [
        (
            "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Da&sendInitialEvents=true&resourceVersion=0",
            "all of /api/v1/pods?spec.nodeName%3Da",
        ),
        ("/api/v1/services?watch=1&resourceVersion=7", "/api/v1/services? from 7"),
        ("/api/v1/namespaces/n/secrets?watch=true&sendInitialEvents=true", "all of /api/v1/namespaces/n/secrets?"),
        ("/api/v1/pods?fieldSelector=a", "-"),
        ("/api/v1/events?watch=true&sendInitialEvents=true", "-"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=true&sendInitialEvents=true", "-"),
    ];
    for (uri, wanted) in cases {
        assert_eq!(asked(Method::GET, uri), wanted);
    }
    assert_eq!(asked(Method::POST, "/api/v1/namespaces/n/serviceaccounts/s/token"), "token");
    assert_eq!(asked(Method::POST, "/api/v1/namespaces/n/pods"), "-");
}
