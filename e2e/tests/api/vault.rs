//! Objects at rest: what is encrypted stands in the clear nowhere on the disk, and is there after a restart; and the forms that are written.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{Backend, Options, Patch, Server, eventually, object};
use serde_json::json;

use crate::world::{CONFIGMAPS, SOON};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/e2e.io/v1/namespaces/default/widgets";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// In base64 as well, since that is how a Secret holds it.
const PASSWORD: &str = "correct-horse-battery-staple";

fn config(key: char) -> String {
    let secret = STANDARD.encode([key as u8; 32]);
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, widgets.e2e.io]\n  \
         providers:\n  - secretbox: {{keys: [{{name: one, secret: {secret}}}]}}\n  - identity: {{}}\n"
    )
}

/// Whether one of the words stands in a file below.
fn tells(dir: &Path, words: &[String]) -> Option<String> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = tells(&path, words) {
                return Some(found);
            }
            continue;
        }
        let bytes = fs::read(&path).unwrap_or_default();
        let is_in = |word: &String| bytes.windows(word.len()).any(|part| part == word.as_bytes());
        if let Some(word) = words.iter().find(|word| is_in(word)) {
            return Some(format!("{} has {word}", path.display()));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_stands_in_the_clear_nowhere_and_outlives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ec.yaml");
    fs::write(&file, config('a')).unwrap();
    let args = vec![
        format!("--encryption-provider-config={}", file.display()),
        "--encryption-provider-config-automatic-reload".into(),
        "--storage-media-type=application/vnd.kubernetes.protobuf".into(),
    ];
    let mut server = Server::start(Options { args, backend: Backend::Redb, ..Options::default() }).await;
    let api = server.api();
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let spec = json!({
        "group": "e2e.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    });
    let definition = object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "widgets.e2e.io", json!({"spec": spec}));
    api.post(DEFINITIONS, &definition).await.expect(201);
    let secret = object("v1", "Secret", "hidden", json!({"stringData": {"password": PASSWORD}}));
    let made = api.post(SECRETS, &secret).await.expect(201);
    let widget = object("e2e.io/v1", "Widget", "hidden", json!({"spec": {"word": PASSWORD}}));
    eventually("widgets are served", SOON, async || {
        let reply = api.post(WIDGETS, &widget).await;
        if matches!(reply.status, 201 | 409) { Ok(()) } else { Err(reply.text()) }
    })
    .await;
    let open = object("v1", "ConfigMap", "open", json!({"data": {"k": "not-hidden-at-all"}}));
    api.post(CONFIGMAPS, &open).await.expect(201);
    assert_eq!(api.get("/readyz/kms-providers").await.text(), "ok");
    let hidden = [PASSWORD.to_owned(), STANDARD.encode(PASSWORD)];
    assert_eq!(tells(&server.data_dir(), &hidden), None);
    assert!(tells(&server.data_dir(), &["not-hidden-at-all".to_owned()]).is_some());
    server.restart().await;
    let api = server.api();
    let one = format!("{SECRETS}/hidden");
    assert_eq!(api.get(&one).await.expect(200), made);
    assert_eq!(api.get(&format!("{WIDGETS}/hidden")).await.expect(200)["spec"]["word"], PASSWORD);
    api.patch(&one, Patch::Merge, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(tells(&server.data_dir(), &hidden), None);
    server.assert_sound();
    // Another key: what was written is not read, and nothing is taken for gone.
    fs::write(&file, config('b')).unwrap();
    server.kill_9();
    server.respawn();
    server.ready().await;
    let refused = server.api().get(SECRETS).await.expect(500);
    assert!(refused["message"].as_str().unwrap().contains("unable to transform key \"/registry/secrets/"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_wrong_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ec.yaml");
    fs::write(&file, config('a').replace("secretbox", "aesgcm").replace("one", "''")).unwrap();
    let args = vec![format!("--encryption-provider-config={}", file.display())];
    let mut server = Server::spawn("server", Options { args, backend: Backend::Memory, ..Options::default() });
    assert!(!server.ended().await.success());
    let words = "resources[0].providers[0].aesgcm.keys[0].name: Required value: name is a mandatory field for a key";
    assert!(server.log().contains(words), "{}", server.log());
}
