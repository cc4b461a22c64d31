//! A token, a key, and the certificate that comes of them, over HTTPS: as a joining machine and as an administrator.

use std::process::Command;

use apiserver::certs::{issue, request};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{Api, Kubectl, eventually, object, skiff};
use serde_json::{Value, json};

use crate::world::{SOON, World};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// `skiff token ...` on the server's data: what it printed.
fn token(w: &World, arguments: &[&str]) -> String {
    let mut command = Command::new(skiff());
    let done = command.arg("token").args(arguments).arg("--data-dir").arg(w.server.data_dir()).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn asking(name: &str, signer: &str, pem: &str, usages: &[&str]) -> Value {
    let spec = json!({"request": STANDARD.encode(pem), "signerName": signer, "usages": usages});
    object("certificates.k8s.io/v1", "CertificateSigningRequest", name, json!({"spec": spec}))
}

async fn certificate(api: &Api, name: &str) -> Vec<u8> {
    let path = format!("{REQUESTS}/{name}");
    let mut found = Vec::new();
    eventually("the certificate is there", SOON, async || {
        let request = api.get(&path).await.json();
        found = STANDARD.decode(request["status"]["certificate"].as_str().unwrap_or_default()).unwrap();
        if found.is_empty() { Err(request.to_string()) } else { Ok(()) }
    })
    .await;
    found
}

pub async fn a_token_a_key_and_a_node(w: &World) {
    let printed = token(w, &["create", "--ttl", "1h", "--description", "for the test"]);
    let bare = printed.rsplit("::").next().unwrap().to_owned();
    assert!(printed.starts_with("K10"), "{printed}");
    let listed = token(w, &["list"]);
    assert!(listed.contains(&bare) && listed.contains("for the test"), "{listed}");
    let anybody = Api::anonymous(&w.server.kubeconfig()).unwrap();
    let signature = format!("jws-kubeconfig-{}", &bare[..6]);
    eventually("cluster-info is signed", SOON, async || {
        let info = anybody.get(CLUSTER_INFO).await.expect(200);
        if info["data"][&signature].is_string() { Ok(()) } else { Err(info.to_string()) }
    })
    .await;
    let machine = Api::with_token(&w.server.kubeconfig(), &bare).unwrap();
    machine.get("/api/v1/nodes").await.refused(403, "Forbidden");
    machine.get("/api/v1/namespaces/kube-system/secrets").await.refused(403, "Forbidden");
    let key = issue::key().unwrap();
    let pem = request::ask(&key, "system:node:x", "system:nodes", &[], &[]).unwrap();
    let usages = ["digital signature", "client auth"];
    machine.post(REQUESTS, &asking("x", "kubernetes.io/kube-apiserver-client-kubelet", &pem, &usages)).await.expect(201);
    let made = certificate(&machine, "x").await;
    let node = Api::with_certificate(&w.server.kubeconfig(), &made, key.as_bytes()).unwrap();
    node.post("/api/v1/nodes", &object("v1", "Node", "x", json!({}))).await.expect(201);
    node.post("/api/v1/nodes", &object("v1", "Node", "y", json!({}))).await.refused(403, "Forbidden");
    token(w, &["delete", &printed]);
    eventually("the token is refused", SOON, async || machine.get(REQUESTS).await.status == 401).await;
}

pub async fn by_hand(w: &World) {
    let key = issue::key().unwrap();
    let pem = request::ask(&key, "jane", "readers", &[], &[]).unwrap();
    let signer = "kubernetes.io/kube-apiserver-client";
    w.api.post(REQUESTS, &asking("jane", signer, &pem, &["client auth"])).await.expect(201);
    let masters = request::ask(&key, "jane", "system:masters", &[], &[]).unwrap();
    w.api.post(REQUESTS, &asking("masters", signer, &masters, &["client auth"])).await.refused(403, "Forbidden");
    let kubectl = Kubectl::newer(&w.server);
    let shown = kubectl.ok("get csr jane").await;
    assert!(shown.contains("Pending") && shown.contains(signer), "{shown}");
    kubectl.ok("certificate approve jane").await;
    let made = certificate(&w.api, "jane").await;
    let shown = kubectl.ok("get csr jane").await;
    assert!(shown.contains("Approved,Issued"), "{shown}");
    let jane = Api::with_certificate(&w.server.kubeconfig(), &made, key.as_bytes()).unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let told = jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.expect(201);
    assert_eq!(told["status"]["userInfo"]["username"], "jane");
    assert_eq!(told["status"]["userInfo"]["groups"], json!(["readers", "system:authenticated"]));
}
