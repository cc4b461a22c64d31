//! Machines with tokens -> nodes with certificates: whom the control plane lets in, under which name, and how often.

use api::{
    bootstrap::NODE_GROUP,
    csr,
    k8s::api::{
        certificates::v1::CertificateSigningRequest,
        core::v1::{ConfigMap, Node, Secret},
    },
    task::Group,
};
use apiserver::certs::{issue, request};
use client::kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use door::{Door, until};
use serde_json::{Value, json};

use super::{GROUPS, account, start};

const SECONDS: i32 = 3600;

struct House {
    door: Door,
    _group: Group,
}

async fn house() -> House {
    let group = Group::new();
    let door = Door::new(&group).await;
    start(&door, &group, &|name| door.client(&account(name), &GROUPS));
    House { door, _group: group }
}

impl House {
    /// Who shows the token.
    fn machine(&self, id: &str) -> Client {
        self.door.client(&format!("system:bootstrap:{id}"), &["system:bootstrappers", NODE_GROUP])
    }

    fn node(&self, name: &str) -> Client {
        self.door.client(&format!("system:node:{name}"), &["system:nodes"])
    }

    async fn token(&self, id: &str, more: Value) {
        let mut data = json!({
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let secret =
            json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "stringData": data});
        self.secrets().create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.door.admin(), "kube-system")
    }

    /// Asks, and waits for a certificate or a refusal: what is written there.
    async fn asks(&self, who: &Client, key: &str, node: &str) -> Result<String, String> {
        let pem = request::ask(key, &format!("system:node:{node}"), "system:nodes", &[], &[]).unwrap();
        self.ask(who, csr::KUBELET_CLIENT, &pem, "client auth").await
    }

    async fn ask(&self, who: &Client, signer: &str, pem: &str, usage: &str) -> Result<String, String> {
        let name = self.post(who, signer, pem, usage).await;
        let requests: Api<CertificateSigningRequest> = Api::all(who.clone());
        until("a decision", async || outcome(&requests.get(&name).await.unwrap())).await
    }

    async fn post(&self, who: &Client, signer: &str, pem: &str, usage: &str) -> String {
        let request = json!({
            "metadata": {"generateName": "csr-"},
            "spec": {
                "signerName": signer, "usages": ["digital signature", usage], "expirationSeconds": SECONDS,
                "request": serde_json::to_value(api::k8s::ByteString(pem.as_bytes().to_vec())).unwrap(),
            },
        });
        let requests: Api<CertificateSigningRequest> = Api::all(who.clone());
        requests.create(&PostParams::default(), &serde_json::from_value(request).unwrap()).await.unwrap().name_any()
    }

    async fn comes(&self, name: &str, ready: &str, addresses: &[&str]) {
        let nodes: Api<Node> = Api::all(self.node(name));
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let _ = nodes.create(&PostParams::default(), &node).await;
        let addresses: Vec<Value> = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let now = api::time::rfc3339(api::time::Timestamp::now());
        let ready = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"status": {"conditions": [ready], "addresses": addresses}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

fn outcome(request: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = request.status.clone()?;
    if let Some(certificate) = status.certificate {
        return Some(Ok(String::from_utf8(certificate.0).unwrap()));
    }
    let refused = status.conditions?.into_iter().find(|condition| ["Denied", "Failed"].contains(&condition.type_.as_str()))?;
    Some(Err(refused.message.unwrap_or_default()))
}

fn key() -> String {
    issue::key().unwrap()
}

#[tokio::test]
async fn a_machine_becomes_a_node_and_renews_its_certificate() {
    let house = house().await;
    house.token("abcdef", json!({})).await;
    let (mine, other) = (key(), key());
    let certificate = house.asks(&house.machine("abcdef"), &mine, "n1").await.unwrap();
    let seen = issue::look(&certificate).unwrap();
    assert_eq!(seen.authority_key_id, issue::look(house.door.certs.ca()).unwrap().subject_key_id);
    assert!(seen.not_after - seen.not_before < i64::from(SECONDS) + 600);
    // Under another key, as nodes renew; no token and no claim is looked at.
    house.asks(&house.node("n1"), &other, "n1").await.unwrap();
    // One node asks for another's certificate: nobody approves that.
    let pem = request::ask(&other, "system:node:n2", "system:nodes", &[], &[]).unwrap();
    let name = house.post(&house.node("n1"), csr::KUBELET_CLIENT, &pem, "client auth").await;
    let refused = house.asks(&house.machine("abcdef"), &other, "n1").await.unwrap_err();
    assert!(refused.contains("another machine is joining under it"), "{refused}");
    let left = Api::<CertificateSigningRequest>::all(house.door.admin()).get(&name).await.unwrap();
    assert_eq!(outcome(&left), None);
}

#[tokio::test]
async fn a_name_is_its_machines_while_it_lives() {
    let house = house().await;
    house.token("abcdef", json!({})).await;
    let (machine, mine, other) = (house.machine("abcdef"), key(), key());
    house.asks(&machine, &mine, "n1").await.unwrap();
    house.comes("n1", "True", &["192.0.2.1"]).await;
    let refused = house.asks(&machine, &other, "n1").await.unwrap_err();
    assert!(refused.contains("node name \"n1\" is taken") && refused.contains("kubectl delete node n1"), "{refused}");
    house.asks(&machine, &mine, "n1").await.expect("the same machine comes back, as often as it likes");
    house.comes("n1", "Unknown", &["192.0.2.1"]).await;
    until("the silence is heard of", async || house.asks(&machine, &other, "n1").await.ok()).await;
    house.comes("n1", "True", &["192.0.2.1"]).await;
    let refused = until("the node is heard of", async || house.asks(&machine, &mine, "n1").await.err()).await;
    assert!(refused.contains("is taken"), "the name is the new machine's now: {refused}");
}

#[tokio::test]
async fn a_name_is_free_as_soon_as_its_node_is_deleted() {
    let house = house().await;
    house.token("abcdef", json!({})).await;
    let (machine, mine, other) = (house.machine("abcdef"), key(), key());
    house.asks(&machine, &mine, "n1").await.unwrap();
    house.comes("n1", "True", &["192.0.2.1"]).await;
    // It has just joined, and is heard of.
    until("it is noted that the machine came", async || {
        let claim = house.secrets().get("n1.node-key.skiff").await.unwrap();
        claim.data.unwrap().contains_key("came").then_some(())
    })
    .await;
    Api::<Node>::all(house.door.admin()).delete("n1", &DeleteParams::default()).await.unwrap();
    until("the name is free", async || house.asks(&machine, &other, "n1").await.ok()).await;
    let refused = house.asks(&machine, &mine, "n1").await.unwrap_err();
    assert!(refused.contains("another machine is joining under it"), "the name is the new machine's: {refused}");
}

#[tokio::test]
async fn of_machines_that_race_one_has_the_token_and_one_the_name() {
    let house = house().await;
    house.token("once00", json!({"usage-bootstrap-one-time": "true"})).await;
    house.token("many00", json!({})).await;
    let keys: Vec<String> = (0..8).map(|_| key()).collect();
    let (once, many) = (house.machine("once00"), house.machine("many00"));
    let names: Vec<String> = (0..8).map(|at| format!("n{at}")).collect();
    let racing = keys.iter().zip(&names).map(|(key, name)| house.asks(&once, key, name));
    let outcomes = futures::future::join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().filter_map(|o| o.as_ref().err()).all(|why| why.contains("is for one node")), "{outcomes:?}");
    let racing = keys.iter().map(|key| house.asks(&many, key, "same"));
    let outcomes = futures::future::join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
}

#[tokio::test]
async fn a_node_serves_under_its_own_addresses() {
    let house = house().await;
    let node = house.node("b");
    // Made in the same second the one comes first whose name does.
    house.comes("a", "True", &["192.0.2.2"]).await;
    house.comes("b", "True", &["192.0.2.1", "192.0.2.2"]).await;
    let serving = |address: &str| request::ask(&key(), "system:node:b", "system:nodes", &[], &[address.parse().unwrap()]).unwrap();
    let made = house.ask(&node, csr::KUBELET_SERVING, &serving("192.0.2.1"), "server auth").await.unwrap();
    assert_eq!(issue::look(&made).unwrap().addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    let refused = house.ask(&node, csr::KUBELET_SERVING, &serving("192.0.2.2"), "server auth").await.unwrap_err();
    assert!(refused.contains("reported by node \"a\""), "{refused}");
    // What is not reported yet waits until it is.
    let name = house.post(&node, csr::KUBELET_SERVING, &serving("192.0.2.3"), "server auth").await;
    house.comes("b", "True", &["192.0.2.3"]).await;
    let requests = Api::<CertificateSigningRequest>::all(house.door.admin());
    until("the new address is heard of", async || outcome(&requests.get(&name).await.unwrap())).await.unwrap();
}

#[tokio::test]
async fn cluster_info_is_signed_for_each_token_and_for_everybody_to_read() {
    let house = house().await;
    let map = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "x"}});
    let maps: Api<ConfigMap> = Api::namespaced(house.door.admin(), "kube-public");
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    house.token("abcdef", json!({})).await;
    house.token("oldold", json!({"expiration": "2026-01-01T00:00:00Z"})).await;
    let anybody: Api<ConfigMap> = Api::namespaced(house.door.client("system:anonymous", &["system:unauthenticated"]), "kube-public");
    let signed = async || anybody.get("cluster-info").await.unwrap().data.unwrap();
    let token = until("a signature", async || signed().await.get("jws-kubeconfig-abcdef").cloned()).await;
    assert!(token.contains(".."), "{token}");
    until("a token whose time is over goes", async || {
        house.secrets().get_opt("bootstrap-token-oldold").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(signed().await.len(), 2);
    house.secrets().delete("bootstrap-token-abcdef", &DeleteParams::default()).await.unwrap();
    until("its signature goes with it", async || (signed().await.len() == 1).then_some(())).await;
}
