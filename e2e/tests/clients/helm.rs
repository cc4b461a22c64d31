//! A chart with a definition, an object of it, hooks and a test -> installed, upgraded, broken, rolled back, uninstalled.

use e2e::Server;
use serde_json::{Value, json};

use crate::run::Clients;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/sky/deployments/kite";
const KITE: &str = "/apis/sky.example/v1/namespaces/sky/kites/kite";

pub async fn walk(server: &Server, clients: &Clients) {
    let api = server.api();
    let get = async |path: &str| -> Value { api.get(path).await.expect(200) };
    let phase = async |hook: &str| get(&format!("/api/v1/namespaces/sky/pods/kite-{hook}")).await["status"]["phase"].clone();

    let said = clients.helm("install kite chart -n sky --create-namespace --wait --timeout 120s").await.ok();
    assert!(said.contains("STATUS: deployed"), "{said}");
    assert_eq!(phase("pre-install").await, "Succeeded", "the hook ran before");
    assert_eq!(get(DEPLOYMENT).await["status"]["readyReplicas"], 1, "--wait waited");
    assert_eq!(get(KITE).await["spec"], json!({"wind": "light", "tail": 3}), "definition and object, with its default");
    let again = clients.helm("install kite chart -n sky").await.failed();
    assert!(again.contains("cannot reuse a name that is still in use"), "{again}");
    clients.helm("test kite -n sky").await.ok();

    clients.helm("upgrade kite chart -n sky --set replicas=2,image=hello:v2 --wait --timeout 120s").await.ok();
    let deployment = get(DEPLOYMENT).await;
    assert_eq!(deployment["status"]["readyReplicas"], 2);
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "hello:v2");
    assert_eq!(phase("post-upgrade").await, "Succeeded");

    let refused = clients.helm("upgrade kite chart -n sky --set wind=none,replicas=2").await.failed();
    assert!(refused.contains("Unsupported value: \"none\""), "the schema's words reach the user: {refused}");
    let dry = clients.helm("upgrade kite chart -n sky --dry-run=server --set replicas=7").await.ok();
    assert!(dry.contains("replicas: 7"), "{dry}");
    assert_eq!(get(DEPLOYMENT).await["spec"]["replicas"], 2, "a dry run changes nothing");

    clients.helm("rollback kite 1 -n sky --wait --timeout 120s").await.ok();
    let deployment = get(DEPLOYMENT).await;
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "hello:v1");
    let history = clients.helm("history kite -n sky").await.ok();
    assert!(history.contains("Rollback to 1") && history.contains("failed"), "{history}");

    clients.helm("uninstall kite -n sky --wait --timeout 120s").await.ok();
    for gone in [DEPLOYMENT, KITE, "/api/v1/namespaces/sky/services/kite"] {
        assert_eq!(api.get(gone).await.status, 404, "{gone}");
    }
    let left = clients.helm("list -n sky -o json").await.ok();
    assert_eq!(left.trim(), "[]");
    // As everywhere helm leaves definitions in place.
    assert_eq!(api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/kites.sky.example").await.status, 200);
}
