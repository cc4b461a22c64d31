use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use apiserver::{identity::Authenticator, jws::SigningKey};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde_json::json;

use super::*;
use crate::{
    AuthenticationConfig, Jwts,
    file::Reload,
    testing::{Outside, engine, eventually, json_response, status},
};

type Pages = Arc<Mutex<HashMap<String, Value>>>;

/// An issuer with pages that tests change.
struct Idp {
    outside: Outside,
    pages: Pages,
    key: SigningKey,
    /// Milliseconds that each page takes.
    slow: Arc<AtomicU64>,
}

fn key() -> SigningKey {
    SigningKey::of_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap()
}

fn keys(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.public().jwk()).collect::<Vec<_>>()})
}

impl Idp {
    async fn start() -> Self {
        let pages = Pages::default();
        let (served, slow) = (pages.clone(), Arc::<AtomicU64>::default());
        let slowly = slow.clone();
        let outside = Outside::start(move |asked| {
            let page = served.lock().get(&asked.path).cloned();
            let slow = Duration::from_millis(slowly.load(Ordering::Relaxed));
            async move {
                tokio::time::sleep(slow).await;
                match page {
                    None => status(404),
                    Some(Value::String(text)) if text == "hangs" => std::future::pending().await,
                    Some(Value::String(text)) if text == "redirect" => {
                        let elsewhere = http::Response::builder().status(302).header("location", "/elsewhere");
                        elsewhere.body(http_body_util::Full::default()).unwrap()
                    }
                    Some(Value::String(text)) => http::Response::new(http_body_util::Full::new(text.into())),
                    Some(page) => json_response(&page),
                }
            }
        })
        .await;
        let this = Self { outside, pages, key: key(), slow };
        this.page("/.well-known/openid-configuration", json!({"issuer": this.url(), "jwks_uri": format!("{}/keys", this.url())}));
        this.page("/keys", keys(&[&this.key]));
        this
    }

    fn url(&self) -> String {
        self.outside.url()
    }

    fn page(&self, path: &str, page: Value) {
        self.pages.lock().insert(path.to_owned(), page);
    }

    fn text(&self, more: &str) -> String {
        let ca = self.outside.authority.replace('\n', "\n      ");
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    audiences: [kubernetes, other]\n    audienceMatchPolicy: MatchAny\n    certificateAuthority: |\n      {ca}\n{more}",
            self.url()
        )
    }

    fn jwts(&self, more: &str) -> Arc<Jwts> {
        let config = AuthenticationConfig::parse(&self.text(more), &[]).unwrap();
        Jwts::new(&config, &Algorithm::ALL, &["api".to_owned()], &[], &self.outside.group).unwrap()
    }

    async fn ready(&self, more: &str) -> Arc<Jwts> {
        let jwts = self.jwts(more);
        eventually(|| jwts.are_healthy()).await;
        jwts
    }

    fn claims(&self) -> Value {
        let now = Timestamp::now().as_second();
        json!({"iss": self.url(), "aud": "kubernetes", "exp": now + 600, "iat": now, "sub": "jane", "groups": ["dev", "ops"], "jti": "j1"})
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.key.sign(&claims).unwrap()
    }
}

const SIMPLE: &str = "  claimMappings:\n    username: {claim: sub, prefix: 'oidc:'}\n    groups: {claim: groups, prefix: 'oidc:'}\n";

async fn known(idp: &Idp, jwts: &Jwts, token: &str) -> Result<Option<Known>, String> {
    jwts.token(&engine(&idp.outside.group), token, &[]).await.map_err(|status| status.message)
}

async fn user(idp: &Idp, jwts: &Jwts, token: &str) -> Arc<User> {
    known(idp, jwts, token).await.unwrap().unwrap().user
}

async fn refused(idp: &Idp, jwts: &Jwts, token: &str) -> String {
    known(idp, jwts, token).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_token_is_a_user() {
    let idp = Idp::start().await;
    let jwts = idp.ready(SIMPLE).await;
    let token = idp.token(|_| ());
    let jane = known(&idp, &jwts, &token).await.unwrap().unwrap();
    assert_eq!((jane.user.name.as_str(), jane.user.groups.as_slice()), ("oidc:jane", &["oidc:dev".to_owned(), "oidc:ops".into()][..]));
    assert_eq!(jane.user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j1"]);
    assert_eq!(jane.audiences, ["api"]);
    let elsewhere = jwts.token(&engine(&idp.outside.group), &token, &["vault".into()]).await.unwrap();
    assert_eq!(elsewhere, None, "it is for the API server");
    let one = idp.token(|claims| claims["groups"] = "only".into());
    assert_eq!(user(&idp, &jwts, &one).await.groups, ["oidc:only"]);
    let masters = idp.token(|claims| claims["groups"] = json!(["system:masters"]));
    assert_eq!(user(&idp, &jwts, &masters).await.groups, ["oidc:system:masters"], "the prefix stands before any name");
    let many = idp.token(|claims| claims["groups"] = (0..20_000).map(|n| format!("g{n}")).collect());
    assert_eq!(user(&idp, &jwts, &many).await.groups.len(), 20_000);
    let foreign = idp.token(|claims| claims["iss"] = "https://elsewhere".into());
    for token in [foreign.as_str(), "a.b.c", "", "abcdef.0123456789abcdef", &"x".repeat(1 << 20)] {
        assert_eq!(known(&idp, &jwts, token).await.unwrap(), None, "it is left to others");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_hold_is_refused() {
    let idp = Idp::start().await;
    let jwts = idp.ready(SIMPLE).await;
    let now = Timestamp::now().as_second();
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(move |c| c["exp"] = (now - 1).into()), "token is expired"),
        (Box::new(|c| drop(c.as_object_mut().unwrap().shift_remove("exp"))), "token is expired"),
        (Box::new(|c| c["exp"] = "tomorrow".into()), "token is expired"),
        (Box::new(move |c| c["nbf"] = (now + 120).into()), "before the nbf"),
        (Box::new(|c| c["aud"] = "x".into()), "expected audience in"),
        (Box::new(|c| c["aud"] = json!(["x", 1, null])), "expected audience in"),
        (Box::new(|c| drop(c.as_object_mut().unwrap().shift_remove("sub"))), "parse username claims \"sub\": claim not present"),
        (Box::new(|c| c["sub"] = 7.into()), "parse username claims \"sub\""),
        (Box::new(|c| c["groups"] = json!([1])), "parse groups claim \"groups\""),
    ];
    for (change, why) in cases {
        let found = refused(&idp, &jwts, &idp.token(change)).await;
        assert!(found.contains(why), "{found} lacks {why}");
    }
    let good = idp.token(|_| ());
    let parts: Vec<&str> = good.split('.').collect();
    for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "RS256", "kid": idp.key.public().id()})] {
        for signature in ["", parts[2]] {
            let forged = format!("{}.{}.{signature}", BASE64.encode(header.to_string()), parts[1]);
            refused(&idp, &jwts, &forged).await;
        }
    }
    let other = key().sign(&idp.claims()).unwrap();
    assert!(refused(&idp, &jwts, &other).await.contains("failed to verify"), "signed with another key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_fetched_and_made_up_ones_are_not_each_fetched() {
    let idp = Idp::start().await;
    let jwts = idp.ready(SIMPLE).await;
    let fetches = || idp.outside.asked.lock().iter().filter(|asked| asked.path == "/keys").count();
    assert_eq!(fetches(), 1);
    let began = std::time::Instant::now();
    for _ in 0..50 {
        refused(&idp, &jwts, &key().sign(&idp.claims()).unwrap()).await;
    }
    // Once a second, here.
    assert!(fetches() as u64 <= 2 + began.elapsed().as_secs(), "{}", fetches());
    let new = key();
    idp.page("/keys", keys(&[&idp.key, &new]));
    let token = new.sign(&idp.claims()).unwrap();
    let mut taken = false;
    for _ in 0..600 {
        taken = known(&idp, &jwts, &token).await.is_ok();
        if taken {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(taken, "{}", fetches());
    assert_eq!(user(&idp, &jwts, &idp.token(|_| ())).await.name, "oidc:jane", "the old one holds while it is there");
}

/// A stranger who knows the issuer and the audience asks with a token of a made-up key, and hangs up, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_are_learnt_while_somebody_asks_for_made_up_ones_and_goes_away() {
    let idp = Idp::start().await;
    let jwts = idp.ready(SIMPLE).await;
    let new = key();
    idp.page("/keys", keys(&[&new]));
    // The issuer takes its time.
    idp.slow.store(300, Ordering::Relaxed);
    let token = new.sign(&idp.claims()).unwrap();
    let began = std::time::Instant::now();
    let engine = engine(&idp.outside.group);
    loop {
        let made_up = key().sign(&idp.claims()).unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(20), jwts.token(&engine, &made_up, &[])).await;
        drop(gone);
        let asked = tokio::time::timeout(Duration::from_millis(100), jwts.token(&engine, &token, &[])).await;
        if matches!(asked, Ok(Ok(Some(_)))) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the new key is never learnt: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuers_of_claims_come_and_go() {
    let idp = Idp::start().await;
    let config = AuthenticationConfig::parse(&idp.text(SIMPLE), &[]).unwrap();
    let jwt = Jwt::new(&config.jwt[0], &Algorithm::ALL, &[], &idp.outside.group).unwrap();
    let good = jwt.reader.other(&idp.url().replace("127.0.0.1", "localhost"));
    let first = jwt.reader.other("https://0");
    for at in 0..100 {
        jwt.reader.other(&format!("https://{at}"));
        assert!(Arc::ptr_eq(&good, &jwt.reader.other(&idp.url().replace("127.0.0.1", "localhost"))), "who is asked for stays");
    }
    assert_eq!(jwt.reader.others.lock().len(), OTHER_ISSUERS_MAX);
    assert!(!Arc::ptr_eq(&first, &jwt.reader.other("https://0")), "who is not goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_make_users_and_refuse_them() {
    let idp = Idp::start().await;
    let rules = "  claimValidationRules:\n  - {claim: hd, requiredValue: example.com}\n  - {expression: 'claims.email_verified == true', message: verify it}\n  claimMappings:\n    username: {expression: \"claims.email + ':x'\"}\n    groups: {expression: 'claims.groups.filter(g, g != \"ops\")'}\n    uid: {expression: 'claims.sub'}\n    extra:\n    - {key: 'example.com/tenant', valueExpression: \"claims.?tenant.orValue('')\"}\n  userValidationRules:\n  - {expression: \"!user.username.startsWith('system:')\", message: reserved}\n  - {expression: \"user.groups.all(g, !g.startsWith('system:'))\", message: reserved groups}\n";
    let jwts = idp.ready(rules).await;
    let token = |email: &str, groups: Value, more: Value| {
        idp.token(|claims| {
            for (name, value) in
                [("hd", "example.com".into()), ("email", email.into()), ("email_verified", true.into()), ("groups", groups)]
            {
                claims[name] = value;
            }
            claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        })
    };
    let jane = user(&idp, &jwts, &token("jane@x", json!(["dev", "ops"]), json!({"tenant": "t1"}))).await;
    assert_eq!((jane.name.as_str(), jane.uid.as_str(), jane.groups.as_slice()), ("jane@x:x", "jane", &["dev".to_owned()][..]));
    assert_eq!(jane.extra["example.com/tenant"], ["t1"]);
    let none = user(&idp, &jwts, &token("jane@x", json!([]), json!({}))).await;
    assert!(!none.extra.contains_key("example.com/tenant"));
    for (token, why) in [
        (token("system:x", json!([]), json!({})), "validation expression '!user.username.startsWith('system:')' failed: reserved"),
        (token("x", json!(["system:masters"]), json!({})), "reserved groups"),
        (token("x", json!([]), json!({"hd": "evil"})), "required claim hd value does not match"),
        (token("x", json!([]), json!({"email_verified": false})), "failed: verify it"),
        (token("x", json!(7), json!({})), "error evaluating group claim expression"),
    ] {
        let found = refused(&idp, &jwts, &token).await;
        assert!(found.contains(why), "{found} lacks {why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_misbehaves_is_not_ready_and_holds_nobody_up() {
    let idp = Idp::start().await;
    let configuration = "/.well-known/openid-configuration";
    let good = idp.pages.lock()[configuration].clone();
    let huge = format!("{{\"issuer\": \"{}\"}}", "x".repeat(4 << 20));
    let plain = json!({"issuer": idp.url(), "jwks_uri": "http://127.0.0.1/keys"});
    let cases = [
        (json!("redirect"), "302"),
        (json!(huge), "length limit"),
        (json!({"issuer": "https://elsewhere", "jwks_uri": "https://x"}), "issuer did not match"),
        (json!({"issuer": idp.url()}), "did not return JWKS URL"),
        (plain, "scheme must be https"),
        (json!("no json"), "failed to decode provider discovery"),
    ];
    for (page, why) in cases {
        idp.page(configuration, page);
        let config = AuthenticationConfig::parse(&idp.text(SIMPLE), &[]).unwrap();
        let verifier = Arc::new(Verifier::new(&config.jwt[0].issuer, &Algorithm::ALL, &idp.outside.group).unwrap());
        let found = verifier.load().await.unwrap_err();
        assert!(found.contains(why), "{found} lacks {why}");
    }
    idp.page(configuration, json!("hangs"));
    let jwts = idp.jwts(SIMPLE);
    let began = std::time::Instant::now();
    assert!(refused(&idp, &jwts, &idp.token(|_| ())).await.contains("not initialized"));
    assert!(began.elapsed() < Duration::from_secs(5));
    idp.page(configuration, good);
    idp.page("/keys", json!({"keys": [{"kty": "oct", "k": "AAAA"}, null, 7, {"kty": "OKP"}, idp.key.public().jwk()]}));
    let odd = idp.ready(SIMPLE).await;
    assert_eq!(user(&idp, &odd, &idp.token(|_| ())).await.name, "oidc:jane", "keys that are none are passed over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_may_stand_elsewhere() {
    let idp = Idp::start().await;
    let jwts = idp.ready(SIMPLE).await;
    let sources = |endpoint: String| {
        idp.token(|claims| {
            claims.as_object_mut().unwrap().shift_remove("groups");
            claims["_claim_names"] = json!({"groups": "src"});
            claims["_claim_sources"] = json!({"src": {"endpoint": endpoint, "access_token": "secret"}});
        })
    };
    idp.page("/groups", json!(idp.token(|claims| claims["groups"] = json!(["far"]))));
    let jane = user(&idp, &jwts, &sources(format!("{}/groups", idp.url()))).await;
    assert_eq!(jane.groups, ["oidc:far"]);
    assert!(idp.outside.asked.lock().iter().any(|asked| asked.path == "/groups" && asked.bearer.as_deref() == Some("secret")));
    idp.page("/forged", json!(key().sign(&idp.claims()).unwrap()));
    for (path, why) in [("/forged", "verify distributed claim token"), ("/none", "404")] {
        let found = refused(&idp, &jwts, &sources(format!("{}{path}", idp.url()))).await;
        assert!(found.contains(why), "{found} lacks {why}");
    }
    assert!(refused(&idp, &jwts, &sources("http://127.0.0.1/x".into())).await.contains("https"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_taken_once_its_issuers_are_known() {
    let idp = Idp::start().await;
    let first = idp.text(SIMPLE);
    let jwts = idp.ready(SIMPLE).await;
    let file = idp.outside.file("authentication.yaml", &first);
    let takes = Arc::new(AtomicUsize::new(0));
    let (count, take) = (takes.clone(), jwts.take());
    let take: crate::file::Take = Arc::new(move |text| {
        count.fetch_add(1, Ordering::SeqCst);
        take(text)
    });
    idp.outside.group.spawn(Reload { file: file.clone(), text: first.clone(), take }.follow_each(Duration::from_millis(20)));
    let write = |text: &str| std::fs::rename(idp.outside.file("next", text), &file).unwrap();
    let name = async || user(&idp, &jwts, &idp.token(|_| ())).await.name.clone();
    for broken in ["", "jwt: [", &first.replace("https://", "http://"), &format!("{first}anonymous: {{enabled: false}}\n")] {
        let before = takes.load(Ordering::SeqCst);
        write(broken);
        eventually(|| takes.load(Ordering::SeqCst) > before).await;
        assert_eq!(name().await, "oidc:jane", "what was read before holds");
    }
    write(&first.replace("oidc:", "new:"));
    for _ in 0..600 {
        if name().await == "new:jane" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the new file was not taken");
}
