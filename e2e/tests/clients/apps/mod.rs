//! Manifests as users apply them (`../shared/apps`) -> each applied twice by kubectl, client-side and server-side; the second time nothing may change.
//!
//! What is not so stands in `exceptions.txt` with its reason; a line that no longer holds fails the test. No node and no container is needed.

mod exceptions;
mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use e2e::{Api, Backend, Kubectl, Options, Server, eventually, path_of, tools};
use serde_json::{Value, json};

use exceptions::{Exceptions, Found};
use files::{Batch, File, Object};

const APPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/apps");
const DEFINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/crds");
const DEFINITIONS: [&str; 5] = [
    "cert-manager/cert-manager.io_certificates.yaml",
    "cert-manager/cert-manager.io_issuers.yaml",
    "external-snapshotter/snapshot.storage.k8s.io_volumesnapshotclasses.yaml",
    "prometheus-operator/0servicemonitorCustomResourceDefinition.yaml",
    "rook/cephblockpools.ceph.rook.io.yaml",
];
const EXCEPTIONS: &str = include_str!("exceptions.txt");
const SOON: Duration = Duration::from_secs(60);

/// Files for one process of kubectl, which costs more than what it does for a file, and has a bound.
const AT_ONCE: usize = 200;

/// How they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Which way, and whether over what was applied in the other.
#[derive(Clone, Copy)]
struct Run {
    side: Side,
    over: bool,
}

/// Kind and version -> its resource, and whether it has namespaces.
type Resources = BTreeMap<(String, String), (String, bool)>;

/// All applied objects that are there, with what names them.
type Snapshot = BTreeMap<Object, Value>;

/// Half of the files: those with odd or even places. Each is applied in both ways, one half first in one of them, one in the other.
pub async fn walk(half: usize, order: [Side; 2]) {
    let files = files::read(Path::new(APPS));
    assert!(files.len() > 300, "only {} files", files.len());
    let files: Vec<File> = files.into_iter().enumerate().filter_map(|(at, file)| (at % 2 == half).then_some(file)).collect();
    let names: BTreeSet<String> = files.iter().map(|file| file.name.clone()).collect();
    // metrics-server is among the files.
    let args = ["--disable", "metrics-server"].map(str::to_owned).to_vec();
    let server = Server::start(Options { backend: Backend::Memory, args, ..Options::default() }).await;
    let api = server.api();
    let kubectl = Kubectl::new(tools().join("clients/bin/kubectl"), &server.kubeconfig());
    define(&api).await;
    let mut found = Vec::new();
    let mut batches = files::batches(files);
    // The largest has room for what comes first: it comes last, and need not go again.
    batches.reverse();
    let last = batches.len() - 1;
    for (at, batch) in batches.iter().enumerate() {
        namespaces(&api, batch).await;
        found.extend(applied_twice(Run { side: order[0], over: false }, &api, &kubectl, batch).await);
        found.extend(applied_twice(Run { side: order[1], over: true }, &api, &kubectl, batch).await);
        if at < last {
            remove(&api, batch).await;
        }
    }
    server.assert_sound();
    let wrong = Exceptions::read(EXCEPTIONS).judge(&names, &found);
    let besides: BTreeSet<&str> = found.iter().map(|found| found.file.as_str()).collect();
    println!("{} files, {} as asked", names.len(), names.len() - besides.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn applied_twice(run: Run, api: &Api, kubectl: &Kubectl, batch: &Batch) -> Vec<Found> {
    let first = apply(run, kubectl, batch, "--validate=true").await;
    let resources = resources(api, batch).await;
    let mut before = Snapshot::new();
    eventually("controllers have settled", SOON, async || {
        let now = snapshot(api, batch, &resources).await;
        let settled = now.iter().map(|(object, value)| (object, own(value))).eq(before.iter().map(|(object, value)| (object, own(value))));
        before = now;
        settled
    })
    .await;
    // What was valid is so again, and kubectl need not read the descriptions of all groups for it.
    let second = apply(run, kubectl, batch, "--validate=false").await;
    let after = snapshot(api, batch, &resources).await;
    let found = compared(run.side, batch, &resources, &before, &after, &second);
    if !found.is_empty() {
        println!("{:?}, the first time:\n{}\nthe second time:\n{}", run.side, first.errors, second.errors);
    }
    found
}

/// Each object of the files is there, was told of again, and is what it was.
fn compared(side: Side, batch: &Batch, resources: &Resources, before: &Snapshot, after: &Snapshot, second: &Applied) -> Vec<Found> {
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    let objects = || batch.files.iter().flat_map(|file| &file.objects);
    for object in objects() {
        *missing.entry(object.told()).or_default() += 1;
    }
    for told in &second.told {
        missing.entry(told.clone()).and_modify(|count| *count = count.saturating_sub(1));
    }
    let judge = |object: &Object| {
        let Some((_, spaced)) = resources.get(&object.type_of()) else { return Some(("lacks", String::new())) };
        let at = object.at(*spaced);
        match (before.get(&at), after.get(&at)) {
            (Some(before), Some(after)) if !is_same(before, after) => Some((how(before, after), format!("\n  {before}\n  {after}"))),
            (Some(_), Some(_)) if missing[&object.told()] == 0 => None,
            _ => Some(("refused", String::new())),
        }
    };
    let found = |file: &File, object: &Object| {
        judge(object).map(|(what, more)| Found {
            side,
            what,
            file: file.name.clone(),
            detail: format!("{} {:?}{more}", object.kind, object.name),
        })
    };
    batch.files.iter().flat_map(|file| file.objects.iter().filter_map(move |object| found(file, object))).collect()
}

/// What kubectl said of all files together.
#[derive(Default)]
struct Applied {
    /// Of each object that was applied: `kind.group/name`.
    told: Vec<String>,
    errors: String,
}

async fn apply(run: Run, kubectl: &Kubectl, batch: &Batch, validate: &str) -> Applied {
    let how = match run {
        // By default kubectl reads the description of the whole group for each object, twice.
        Run { side: Side::Client, .. } => "--openapi-patch=false",
        Run { side: Side::Server, over: false } => "--server-side",
        // What is applied whole (a fieldRef, an amount written otherwise) lacks the defaults that the client's own manager holds: a conflict anywhere.
        Run { side: Side::Server, over: true } => "--server-side --force-conflicts",
    };
    let mut applied = Applied::default();
    for files in batch.files.chunks(AT_ONCE) {
        let files: String = files.iter().map(|file| format!(" -f {}", file.name)).collect();
        let done = kubectl.run_in(Path::new(APPS), &format!("apply {how} {validate}{files}"), "").await;
        applied.told.extend(done.stdout.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)));
        applied.errors.push_str(&done.stderr);
    }
    applied
}

/// Definitions of the shared data that some files have resources of.
async fn define(api: &Api) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for file in DEFINITIONS {
        let text = fs::read(Path::new(DEFINED).join(file)).expect("a file of the shared data");
        let made = api.send("POST", path, &[("content-type", "application/yaml")], text).await.expect("an answer").expect(201);
        let name = made["metadata"]["name"].as_str().unwrap_or_default();
        eventually("it is served", SOON, async || {
            let conditions = api.get(&format!("{path}/{name}")).await.expect(200)["status"]["conditions"].take();
            conditions.as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "Established" && one["status"] == "True"))
        })
        .await;
    }
}

/// What the batch made goes, so that the next can have the same.
async fn remove(api: &Api, batch: &Batch) {
    let resources = resources(api, batch).await;
    let mut objects: Vec<Object> = snapshot(api, batch, &resources).await.into_keys().collect();
    // Policies first: what they name does not run.
    objects.sort_by_key(|object| !object.kind.contains("Webhook"));
    for object in &objects {
        let (resource, _) = &resources[&object.type_of()];
        let path = format!("{}/{}", path_of(&object.api_version, &object.namespace, resource), object.name);
        let status = api.delete_with(&path, json!({"propagationPolicy": "Background", "gracePeriodSeconds": 0})).await.status;
        assert!(matches!(status, 200 | 202 | 404), "{path}: {status}");
    }
    eventually("it has gone", SOON, async || {
        let left = snapshot(api, batch, &resources).await;
        if left.is_empty() { Ok(()) } else { Err(format!("{:?}", left.keys())) }
    })
    .await;
}

/// Those that the files take for granted.
async fn namespaces(api: &Api, batch: &Batch) {
    let objects = || batch.files.iter().flat_map(|file| &file.objects);
    let made: BTreeSet<&str> = objects().filter(|object| object.kind == "Namespace").map(|object| object.name.as_str()).collect();
    let wanted: BTreeSet<&str> = objects().map(|object| object.namespace.as_str()).filter(|name| !name.is_empty()).collect();
    for name in &wanted - &made {
        let path = "/api/v1/namespaces";
        let status = api.post(path, &json!({"metadata": {"name": name}})).await.status;
        assert!(matches!(status, 201 | 409), "{name}: {status}");
    }
    for name in (&wanted - &made).into_iter().chain(["default"]) {
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        eventually("pods have an account", SOON, async || api.get(&account).await.status == 200).await;
    }
}

async fn resources(api: &Api, batch: &Batch) -> Resources {
    let versions: BTreeSet<&str> = batch.files.iter().flat_map(|file| &file.objects).map(|object| object.api_version.as_str()).collect();
    let mut resources = Resources::new();
    for version in versions {
        let root = if version.contains('/') { "/apis" } else { "/api" };
        let list = api.get(&format!("{root}/{version}")).await.json();
        for resource in list["resources"].as_array().into_iter().flatten() {
            let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
            if !text("name").contains('/') {
                let key = (version.to_owned(), text("kind"));
                resources.insert(key, (text("name"), resource["namespaced"] == true));
            }
        }
    }
    resources
}

async fn snapshot(api: &Api, batch: &Batch, resources: &Resources) -> Snapshot {
    let objects = || batch.files.iter().flat_map(|file| &file.objects);
    let kinds: BTreeSet<(String, String)> = objects().map(Object::type_of).collect();
    let mut held = Snapshot::new();
    for (key, (resource, spaced)) in kinds.into_iter().filter_map(|key| Some((key.clone(), resources.get(&key)?))) {
        let list: Value = api.get(&path_of(&key.0, "", resource)).await.expect(200);
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |key: &str| item["metadata"][key].as_str().unwrap_or_default().to_owned();
            let object = Object { api_version: key.0.clone(), kind: key.1.clone(), namespace: text("namespace"), name: text("name") };
            held.insert(object.at(*spaced), item.clone());
        }
    }
    let named: BTreeSet<Object> = objects().filter_map(|object| Some(object.at(resources.get(&object.type_of())?.1))).collect();
    held.retain(|object, _| named.contains(object));
    held
}

/// A new revision is a change, unless it is a controller's, which writes status and what is its own.
fn is_same(before: &Value, after: &Value) -> bool {
    before == after || own(before) == own(after) && before["status"] != after["status"]
}

/// Which part of it changed: who owns what, or more.
fn how(before: &Value, after: &Value) -> &'static str {
    let [before, after] = [before, after].map(|object| {
        let mut own = own(object);
        own["metadata"]["managedFields"].take();
        own
    });
    if before == after { "owners" } else { "changed" }
}

/// Without what controllers write.
fn own(object: &Value) -> Value {
    let mut own = object.clone();
    own["status"].take();
    own["metadata"]["resourceVersion"].take();
    if let Some(entries) = own["metadata"]["managedFields"].as_array_mut() {
        let is_ours = |name: &str| name.starts_with("kubectl") || name == "before-first-apply";
        entries.retain(|entry| entry["subresource"].is_null() && entry["manager"].as_str().is_some_and(is_ours));
    }
    own
}
