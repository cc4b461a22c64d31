//! Who is not who he says: tokens that are expired, forged or unsigned, and certificates of somebody else's authority.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::Api;
use jsonwebtoken::{Algorithm, EncodingKey, Header, decode_header};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::{CONFIGMAPS, Victim};

async fn status_with(victim: &Victim, token: &str) -> u16 {
    Api::with_token(&victim.server.kubeconfig(), token).unwrap().get(CONFIGMAPS).await.status
}

fn part(token: &str, at: usize) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

async fn good_token(victim: &Victim) -> String {
    let path = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = e2e::eventually("a token is given", crate::BOUND, async || {
        let reply = victim.api.post(path, &request).await;
        if reply.status == 201 { Ok(reply.json()) } else { Err(reply.text()) }
    })
    .await;
    made["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let victim = Victim::new().await;
    let good = good_token(&victim).await;
    // It is somebody, who may not list here.
    assert_eq!(status_with(&victim, &good).await, 403);
    let (header, claims) = (part(&good, 0), part(&good, 1));
    let signature = good.rsplit('.').next().unwrap();

    let mut master = claims.clone();
    master["sub"] = "system:serviceaccount:kube-system:namespace-controller".into();
    let mut none = header.clone();
    none["alg"] = "none".into();
    let public = std::fs::read(victim.server.data_dir().join("tls/sa.pub")).unwrap();
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = decode_header(&good).unwrap().kid;
    let confused = jsonwebtoken::encode(&confused, &claims, &EncodingKey::from_secret(&public)).unwrap();
    let mut expired = claims.clone();
    for (claim, value) in [("iat", 1_600_000_000), ("nbf", 1_600_000_000), ("exp", 1_600_003_600)] {
        expired[claim] = value.into();
    }
    let signed = |claims: &Value| own_signature(&victim, &good, claims);
    let mut future = claims.clone();
    future["nbf"] = 4_000_000_000_u64.into();
    future["exp"] = 4_000_003_600_u64.into();
    let mut foreign = claims.clone();
    foreign["iss"] = "https://example.test".into();
    let mut nobody = claims.clone();
    nobody["kubernetes.io"]["serviceaccount"]["uid"] = "00000000-0000-4000-8000-000000000000".into();

    // Our way of signing is the server's: else the tests below would prove nothing.
    assert_eq!(status_with(&victim, &signed(&claims)).await, 403);
    let bad = [
        ("of other claims", format!("{}.{}.{signature}", encoded(&header), encoded(&master))),
        ("without signature", format!("{}.{}.", encoded(&none), encoded(&master))),
        ("with the public key as a secret", confused),
        ("expired", signed(&expired)),
        ("of the future", signed(&future)),
        ("of another issuer", signed(&foreign)),
        ("of an account that is gone", signed(&nobody)),
        ("cut", good[..good.len() - 5].to_owned()),
        ("empty parts", "..".to_owned()),
        ("long", "a".repeat(20_000)),
        ("a bootstrap token nobody made", "abcdef.0123456789abcdef".to_owned()),
    ];
    for (what, token) in &bad {
        assert_eq!(status_with(&victim, token).await, 401, "{what}");
    }
    for header in ["Bearer", "Bearer ", "Basic YTpi", "bearer", "Negotiate x"] {
        let anonymous = Api::anonymous(&victim.server.kubeconfig()).unwrap();
        let reply = anonymous.send("GET", CONFIGMAPS, &[("authorization", header)], vec![]).await.unwrap();
        assert!([401, 403].contains(&reply.status), "{header:?}: {}", reply.status);
    }
    victim.unharmed().await;
}

/// Signs claims with the server's own key, as the server does.
fn own_signature(victim: &Victim, good: &str, claims: &Value) -> String {
    let header = decode_header(good).unwrap();
    let pem = std::fs::read(victim.server.data_dir().join("tls/sa.key")).unwrap();
    let key = match header.alg {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
        _ => EncodingKey::from_ec_pem(&pem),
    };
    jsonwebtoken::encode(&header, claims, &key.unwrap()).unwrap()
}

/// A certificate for a member of `system:masters`, by an authority of the given name that is not the cluster's.
fn forged(authority: &str) -> (String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, authority);
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, "admin");
    leaf.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (leaf.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    let victim = Victim::new().await;
    for authority in ["somebody", "kubernetes-ca", "skiff-ca", "kubernetes"] {
        let (certificate, key) = forged(authority);
        let api = Api::with_certificate(&victim.server.kubeconfig(), certificate.as_bytes(), key.as_bytes()).unwrap();
        // Ended at the handshake, or let in as nobody: both are right, being somebody is not.
        if let Ok(reply) = api.send("GET", CONFIGMAPS, &[], vec![]).await {
            assert!([401, 403].contains(&reply.status), "{authority}: {} {}", reply.status, reply.text());
        }
    }
    // The serving certificate is nobody's client certificate.
    let tls = victim.server.data_dir().join("tls");
    let (certificate, key) = (std::fs::read(tls.join("apiserver.crt")).unwrap(), std::fs::read(tls.join("apiserver.key")).unwrap());
    let api = Api::with_certificate(&victim.server.kubeconfig(), &certificate, &key).unwrap();
    if let Ok(reply) = api.send("GET", CONFIGMAPS, &[], vec![]).await {
        assert!([401, 403].contains(&reply.status), "{} {}", reply.status, reply.text());
    }
    victim.unharmed().await;
}
