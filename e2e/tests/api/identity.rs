//! The real binary with the flags that name issuers, webhooks and files of tokens: who is let in, as whom, and what the audit log says of it.

use std::{convert::Infallible, fs, sync::Arc};

use api::task::Group;
use apiserver::jws::SigningKey;
use e2e::{Api, Options, Server, eventually, object};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::PrivateKeyDer},
};

use crate::world::{CONFIGMAPS, SOON};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// An issuer of tokens, and a webhook for tokens and for questions.
struct Outside {
    url: String,
    authority: String,
    key: Arc<SigningKey>,
    group: Group,
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl Outside {
    async fn start() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = ca.self_signed(&ca_key).unwrap().pem();
        let (key, issuer) = (KeyPair::generate().unwrap(), Issuer::new(ca, ca_key));
        let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], private).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let key = Arc::new(SigningKey::of_pem(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap());
        let (group, acceptor, served) = (Group::new(), TlsAcceptor::from(Arc::new(config)), (url.clone(), key.clone()));
        let connections = group.child();
        group.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, served) = (acceptor.clone(), served.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(served.clone(), request));
                    // A client that goes away is no matter.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, authority, key, group }
    }

    fn token(&self, name: &str) -> String {
        let until = api::time::Timestamp::now().as_second() + 600;
        self.key.sign(&json!({"iss": self.url, "aud": "kubernetes", "exp": until, "sub": name, "groups": ["dev"]})).unwrap()
    }
}

async fn answer((url, key): (String, Arc<SigningKey>), request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = match path.as_str() {
        "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
        "/keys" => json!({"keys": [key.public().jwk()]}),
        "/tokens" if asked["spec"]["token"] == "hooked" => json!({"status": {"authenticated": true, "user": {"username": "hook:joe"}}}),
        "/may" => json!({"status": {"allowed": asked["spec"]["user"] == "hook:joe", "reason": "the hook says so"}}),
        _ => json!({"status": {}}),
    };
    Ok(Response::new(Full::new(answer.to_string().into())))
}

struct World {
    server: Server,
    outside: Outside,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let (outside, dir) = (Outside::start().await, tempfile::tempdir().unwrap());
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let ca = file("ca.pem", outside.authority.clone());
        let kubeconfig = |path: &str| {
            json!({
                "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}],
                "clusters": [{"name": "c", "cluster": {"server": format!("{}{path}", outside.url), "certificate-authority": ca}}],
            })
            .to_string()
        };
        let tokens = file("tokens.csv", "static-token,jane,u1,\"dev,ops\"\n".into());
        let hook = file("hook", kubeconfig("/tokens"));
        let may = file("may", kubeconfig("/may"));
        let issuers = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
            "jwt": [{
                "issuer": {"url": outside.url, "audiences": ["kubernetes"], "certificateAuthority": outside.authority},
                "claimMappings": {"username": {"expression": "'oidc:' + claims.sub"}, "groups": {"claim": "groups", "prefix": "oidc:"}},
                "userValidationRules": [{"expression": "user.username != 'oidc:mallory'", "message": "not you"}],
            }],
        });
        let authorizers = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [
                {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"},
                {"type": "Webhook", "name": "hook", "webhook": {
                    "timeout": "3s", "failurePolicy": "NoOpinion", "subjectAccessReviewVersion": "v1",
                    "matchConditionSubjectAccessReviewVersion": "v1", "matchConditions": [{"expression": "request.user.startsWith('hook:')"}],
                    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": may},
                }},
            ],
        });
        let policy = file(
            "policy.yaml",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: ['oidc:eve', 'hook:joe']}]\n".into(),
        );
        let args = vec![
            format!("--token-auth-file={tokens}"),
            format!("--authentication-config={}", file("issuers.yaml", issuers.to_string())),
            format!("--authorization-config={}", file("authorizers.yaml", authorizers.to_string())),
            format!("--authentication-token-webhook-config-file={hook}"),
            "--authentication-token-webhook-version=v1".into(),
            "--service-account-issuer=https://new.example.com".into(),
            "--service-account-issuer=https://old.example.com".into(),
            format!("--audit-policy-file={policy}"),
            format!("--audit-log-path={}", dir.path().join("audit.log").display()),
        ];
        Self { server: Server::start(Options { args, ..Options::default() }).await, outside, dir }
    }

    fn with(&self, token: &str) -> Api {
        Api::with_token(&self.server.kubeconfig(), token).unwrap()
    }

    async fn whoami(&self, token: &str) -> Option<Value> {
        let reply = self.with(token).post(REVIEWS, &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})).await;
        (reply.status == 201).then(|| reply.json()["status"]["userInfo"].clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_say_who_comes_in_and_who_is_asked() {
    let w = World::start().await;
    let jane = w.whoami("static-token").await.unwrap();
    assert_eq!(jane, json!({"username": "jane", "uid": "u1", "groups": ["dev", "ops", "system:authenticated"]}));
    let eve = w.outside.token("eve");
    eventually("the issuer is known", SOON, async || w.whoami(&eve).await.map(drop).ok_or_else(|| "401".to_owned())).await;
    assert_eq!(w.whoami(&eve).await.unwrap(), json!({"username": "oidc:eve", "groups": ["oidc:dev", "system:authenticated"]}));
    assert_eq!(w.whoami(&w.outside.token("mallory")).await, None);
    assert_eq!(w.whoami("hooked").await.unwrap()["username"], "hook:joe");
    assert_eq!(w.whoami("nobodys").await, None);

    // Nobody in particular is let in at one path.
    let nobody = Api::anonymous(&w.server.kubeconfig()).unwrap();
    assert_eq!(nobody.get("/livez").await.status, 200);
    nobody.get("/version").await.refused(401, "Unauthorized");

    // The webhook is asked about its own users alone, after RBAC.
    w.with("hooked").get(CONFIGMAPS).await.expect(200);
    w.with(&eve).get(CONFIGMAPS).await.refused(403, "Forbidden");
    let log = fs::read_to_string(w.dir.path().join("audit.log")).unwrap();
    let told: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let reason = |user: &str| {
        let mut events = told.iter().filter(|event| event["user"]["username"] == user && event["requestURI"] == CONFIGMAPS);
        events.next_back().unwrap()["annotations"].clone()
    };
    assert_eq!(reason("hook:joe")["authorization.k8s.io/reason"], "the hook says so");
    assert_eq!(reason("oidc:eve")["authorization.k8s.io/decision"], "forbid");

    // Tokens are made by the first issuer, and those of Secrets are taken.
    let api = w.server.api();
    let configuration = api.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(configuration["issuer"], "https://new.example.com");
    let of = json!({"annotations": {"kubernetes.io/service-account.name": "default"}});
    let secret = object("v1", "Secret", "old-token", json!({"metadata": of, "type": "kubernetes.io/service-account-token"}));
    let mut token = String::new();
    eventually("the secret is filled", SOON, async || {
        let _ = api.post(SECRETS, &secret).await;
        let found = api.get(&format!("{SECRETS}/old-token")).await;
        let data = found.json()["data"]["token"].as_str().unwrap_or_default().to_owned();
        token = String::from_utf8(base64::Engine::decode(&base64::prelude::BASE64_STANDARD, data).unwrap()).unwrap();
        if token.is_empty() { Err(found.text()) } else { Ok(()) }
    })
    .await;
    assert_eq!(w.whoami(&token).await.unwrap()["username"], "system:serviceaccount:default:default");
}
