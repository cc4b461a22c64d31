//! Every shared definition is accepted, served and described; every good sample is stored, every bad one refused by its rule.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    files::{below, objects, shared},
    room::{DEFINITIONS, Room, condition, eventually},
};

/// Where objects of a kind are, and whether they are in namespaces.
type Places = HashMap<(String, String), (String, bool)>;

/// What a rule is called in the index, and what the refusal says.
const WORDS: [(&str, &str); 14] = [
    ("CEL: ", ""),
    ("duplicate", "Duplicate value"),
    ("required", "Required value"),
    ("does not match pattern", "should match"),
    ("above maximum", "should be less than or equal to"),
    ("below minimum", "should be greater than or equal to"),
    ("minLength", "should be at least"),
    ("maxLength", "Too long"),
    ("maxItems", "Too many"),
    ("minItems", "should have at least"),
    ("minProperties", "should have at least"),
    ("oneOf", "(oneOf)"),
    ("enum", "Unsupported value"),
    (": type ", "must be of type"),
];

async fn defined(room: &Room) -> Places {
    let mut all = BTreeMap::new();
    for path in below(&shared("crds")) {
        for definition in objects(&path) {
            all.entry(definition["metadata"]["name"].as_str().unwrap().to_owned()).or_insert(definition);
        }
    }
    let mut places = Places::new();
    for (name, definition) in &all {
        let (code, reply) = room.post(DEFINITIONS, definition).await;
        assert_eq!(code, 201, "{name}: {reply}");
        let spec = &definition["spec"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        for version in spec["versions"].as_array().unwrap() {
            // Such objects wait for their webhook.
            let is_converted = spec["conversion"]["strategy"] == "Webhook" && version["storage"] != true;
            if version["served"] == true && !is_converted {
                let api_version = format!("{}/{}", word(&spec["group"]), word(&version["name"]));
                places.insert((api_version, word(&spec["names"]["kind"])), (word(&spec["names"]["plural"]), spec["scope"] == "Namespaced"));
            }
        }
    }
    eventually("all are established", async || {
        let (_, list) = room.get(DEFINITIONS).await;
        let items = list["items"].as_array().unwrap();
        items.len() == all.len() && items.iter().all(|item| condition(item, "Established") == "True")
    })
    .await;
    places
}

fn collection(places: &Places, object: &Value) -> Option<String> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let (plural, is_namespaced) = places.get(&(api_version.to_owned(), kind.to_owned()))?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Some(if *is_namespaced {
        format!("/apis/{api_version}/namespaces/{namespace}/{plural}")
    } else {
        format!("/apis/{api_version}/{plural}")
    })
}

fn of(part: &str, dir: Option<&str>) -> Vec<std::path::PathBuf> {
    let is_in = |path: &Path| {
        let parent = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        match dir {
            Some(dir) => parent == dir,
            None => !["invalid", "update-refused", "unknown-fields"].contains(&parent),
        }
    };
    below(&shared(part)).into_iter().filter(|path| path.extension().is_some_and(|end| end == "yaml") && is_in(path)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_and_samples_of_operators_are_judged_as_their_indexes_say() {
    let room = Room::new().await;
    let places = defined(&room).await;
    described(&room, &places).await;
    good(&room, &places).await;
    bad(&room, &places).await;
    unknown(&room, &places).await;
    transitions(&room, &places).await;
}

async fn described(room: &Room, places: &Places) {
    let (code, document) = room.get("/openapi/v2").await;
    assert_eq!(code, 200);
    for (api_version, kind) in places.keys() {
        let (group, version) = api_version.split_once('/').unwrap();
        let name = format!("{}.{version}.{kind}", group.rsplit('.').collect::<Vec<_>>().join("."));
        assert!(document["definitions"].get(&name).is_some(), "{name} is not in OpenAPI v2");
    }
    for api_version in places.keys().map(|(api_version, _)| api_version).collect::<std::collections::BTreeSet<_>>() {
        let (code, document) = room.get(&format!("/openapi/v3/apis/{api_version}")).await;
        assert!(code == 200 && document["components"]["schemas"].is_object(), "{api_version}");
    }
}

/// Stored, and shown as they were sent but for defaults and what the server adds.
async fn good(room: &Room, places: &Places) {
    let mut count = 0;
    for path in of("samples", None) {
        for mut object in objects(&path) {
            let Some(place) = collection(places, &object) else { continue };
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
                metadata.entry("name").or_insert_with(|| "unnamed".into());
            }
            let (code, made) = room.post(&format!("{place}?fieldValidation=Ignore"), &object).await;
            // Two of the indexed files may hold the same object.
            if code == 409 {
                continue;
            }
            assert_eq!(code, 201, "{path:?}: {made}");
            let (_, shown) = room.get(&format!("{place}/{}", made["metadata"]["name"].as_str().unwrap())).await;
            assert_eq!(shown, made, "{path:?}");
            count += 1;
        }
    }
    assert!(count > 100 || !shared("samples").exists(), "{count} samples");
}

async fn bad(room: &Room, places: &Places) {
    for path in of("samples", Some("invalid")) {
        let index = std::fs::read_to_string(path.with_file_name("INDEX.md")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let line = index.lines().find(|line| line.contains(&format!("`{name}`"))).unwrap_or_else(|| panic!("{path:?} is not in its index"));
        let mut told = String::new();
        for object in objects(&path) {
            let Some(place) = collection(places, &object) else { continue };
            let (code, reply) = room.post(&place, &object).await;
            if code == 422 {
                told.push_str(reply["message"].as_str().unwrap());
            }
        }
        assert!(!told.is_empty(), "{path:?} is not refused: {line}");
        // What the index could not work out itself has upstream's own words.
        if line.contains("not evaluated here") {
            let message = line.split("upstream expects: ").nth(1).unwrap_or_default().trim_end_matches(')');
            assert!(!message.is_empty() && told.contains(message), "{path:?}: {message}\n{told}");
            continue;
        }
        let named: Vec<&str> = WORDS.iter().filter(|(word, _)| line.contains(word)).map(|(_, says)| *says).collect();
        assert!(named.is_empty() || named.iter().any(|says| told.contains(says)), "{path:?}: {line}\n{told}");
        // Where it is a rule alone that refuses, its message is told.
        if let [""] = named[..] {
            let message = line.split("CEL: ").nth(1).unwrap_or_default();
            let message = message.split([';', '(', '\'', '"', '[']).next().unwrap_or_default().trim();
            assert!(told.contains(message), "{path:?}: {message}\n{told}");
        }
    }
}

async fn unknown(room: &Room, places: &Places) {
    for path in of("samples", Some("unknown-fields")) {
        let (mut is_refused, mut is_there) = (false, false);
        for object in objects(&path) {
            let Some(place) = collection(places, &object) else { continue };
            let (code, reply) = room.post(&format!("{place}?fieldValidation=Strict&dryRun=All"), &object).await;
            is_refused |= code == 400 && reply["message"].as_str().is_some_and(|text| text.contains("unknown field"));
            is_there |= room.post(&format!("{place}?dryRun=All"), &object).await.0 == 201;
        }
        assert!(is_refused && is_there, "{path:?}");
    }
}

async fn transitions(room: &Room, places: &Places) {
    let files = of("samples", Some("update-refused"));
    for before in files.iter().filter(|path| path.to_string_lossy().ends_with(".before.yaml")) {
        let after = Path::new(&before.to_string_lossy().replace(".before.", ".after.")).to_owned();
        for (old, mut new) in objects(before).into_iter().zip(objects(&after)) {
            let Some(place) = collection(places, &old) else { continue };
            // A good sample may have the same name.
            let path = format!("{place}/{}", old["metadata"]["name"].as_str().unwrap());
            let (code, reply) = room.send("DELETE", &path, &json!({})).await;
            assert!(code == 200 || code == 404, "{before:?}: {reply}");
            let (code, made) = room.post(&place, &old).await;
            assert_eq!(code, 201, "{before:?}: {made}");
            new["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
            let (code, reply) = room.send("PUT", &path, &new).await;
            assert_eq!(code, 422, "{after:?}: {reply}");
            assert!(reply["message"].as_str().is_some_and(|text| text.contains("Invalid value")), "{reply}");
            assert_eq!(room.send("DELETE", &path, &json!({})).await.0, 200);
        }
    }
}
