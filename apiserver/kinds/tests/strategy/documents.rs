//! The whole table through the front door: discovery, OpenAPI and bodies agree on every kind.

use std::sync::Arc;

use api::task::Group;
use apiserver::{body::full, discovery::Discovery, engine::Engine, front::Front, identity::Auth, kind::Kind, openapi::OpenApi};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::room::Everyone;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

struct House {
    front: Front,
    kinds: Vec<Arc<Kind>>,
}

impl House {
    fn new() -> Self {
        let auth = Auth { authorizers: vec![Arc::new(Everyone)], ..Auth::default() };
        let kinds = kinds::table(&kinds::Config::default());
        let engine = Engine::new(Arc::new(store::memory::Memory::new()), kinds.clone(), auth, Group::new());
        let front = Front::builder(engine.clone()).mount(Discovery::default().routes(engine.clone()));
        let front = front.mount(OpenApi::default().routes(engine)).build();
        Self { front, kinds }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (StatusCode, Vec<u8>) {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.front.clone().oneshot(request.body(full(body)).unwrap()).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn get(&self, path: &str, accept: &str) -> Value {
        let (status, body) = self.ask("GET", path, &[("accept", accept)], Vec::new()).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        serde_json::from_slice(&body).unwrap()
    }
}

fn place(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("api/{}", kind.version) } else { format!("apis/{}/{}", kind.group, kind.version) }
}

#[tokio::test]
async fn documents_that_nobody_accepts_are_refused_without_a_word() {
    let house = House::new();
    for path in ["/openapi/v2", "/openapi/v3/apis/apps/v1"] {
        let answer = house.ask("GET", path, &[("accept", "application/xml")], Vec::new()).await;
        assert_eq!(answer, (StatusCode::NOT_ACCEPTABLE, Vec::new()), "{path}");
    }
}

#[tokio::test]
async fn both_forms_of_discovery_name_every_kind() {
    let house = House::new();
    let mut aggregated = Vec::new();
    for root in ["/api", "/apis"] {
        for group in house.get(root, AGGREGATED).await["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                let name = group["metadata"]["name"].as_str().unwrap_or_default();
                let resources = version["resources"].as_array().unwrap().iter().map(|r| r["resource"].as_str().unwrap().to_owned());
                aggregated.extend(resources.map(|r| (name.to_owned(), version["version"].as_str().unwrap().to_owned(), r)));
            }
        }
    }
    for kind in &house.kinds {
        let wanted = (kind.group.to_string(), kind.version.to_string(), kind.plural.to_string());
        assert!(aggregated.contains(&wanted), "{wanted:?}");
        let list = house.get(&format!("/{}", place(kind)), "application/json").await;
        let found = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == kind.plural.as_ref());
        assert_eq!(found.unwrap()["kind"], kind.kind.as_ref());
    }
}

#[tokio::test]
async fn openapi_describes_every_kind_and_refers_to_nothing_missing() {
    let house = House::new();
    let root = house.get("/openapi/v3", "application/json").await;
    for kind in &house.kinds {
        let url = root["paths"][place(kind)]["serverRelativeURL"].as_str().unwrap();
        let document = house.get(url, "application/json").await;
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let named = &schemas[kind.schema.name()]["x-kubernetes-group-version-kind"][0];
        assert_eq!(named["kind"], kind.kind.as_ref(), "{}", kind.schema.name());
        for reference in document.to_string().split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(schemas.contains_key(reference), "{reference}");
        }
        if kind.serves("patch") {
            let patches = document["paths"].as_object().unwrap().values().map(|item| &item["patch"]);
            let mut own = patches.filter(|patch| patch["x-kubernetes-group-version-kind"]["kind"] == kind.kind.as_ref());
            let parameters = own.next().unwrap()["parameters"].to_string();
            assert!(parameters.contains("fieldValidation") && parameters.contains("dryRun"), "{}", kind.kind);
        }
    }
}

#[tokio::test]
async fn openapi_v2_is_there_in_both_forms() {
    let house = House::new();
    let document = house.get("/openapi/v2", "application/json").await;
    assert!(house.kinds.iter().all(|kind| document["definitions"][kind.schema.name()]["properties"].is_object()));
    let (status, packed) = house.ask("GET", "/openapi/v2", &[("accept", GNOSTIC)], Vec::new()).await;
    assert_eq!((status, packed.get(..5)), (StatusCode::OK, Some(b"\x0a\x032.0".as_slice())));
}

#[tokio::test]
async fn bodies_of_every_form_are_taken() {
    let house = House::new();
    let meta = [b"\x0a\x02v1\x12\x09Namespace".to_vec()].concat();
    let raw = b"\x0a\x05\x0a\x03one";
    let mut protobuf = b"k8s\0\x0a".to_vec();
    protobuf.push(u8::try_from(meta.len()).unwrap());
    protobuf.extend_from_slice(&meta);
    protobuf.push(0x12);
    protobuf.push(u8::try_from(raw.len()).unwrap());
    protobuf.extend_from_slice(raw);
    let bodies: [(&str, &str, Vec<u8>); 3] = [
        ("application/vnd.kubernetes.protobuf", "one", protobuf),
        ("application/yaml", "two", b"metadata:\n  name: two\n".to_vec()),
        ("application/json", "three", br#"{"metadata":{"name":"three"}}"#.to_vec()),
    ];
    for (form, name, body) in bodies {
        let (status, reply) = house.ask("POST", "/api/v1/namespaces", &[("content-type", form)], body).await;
        assert_eq!(status, StatusCode::CREATED, "{form}: {}", String::from_utf8_lossy(&reply));
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!((&reply["kind"], &reply["metadata"]["name"]), (&"Namespace".into(), &name.into()));
    }
}
