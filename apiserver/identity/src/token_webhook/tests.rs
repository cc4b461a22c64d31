use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::{Outside, engine, json_response, status};

const TTL: Duration = Duration::from_secs(60);

fn own() -> Vec<String> {
    vec!["api".to_owned()]
}

async fn outside() -> Outside {
    Outside::start(|asked| async move {
        let token = asked.body["spec"]["token"].as_str().unwrap_or_default().to_owned();
        json_response(&match token.as_str() {
            "good" => {
                json!({"status": {"authenticated": true, "user": {"username": "jane", "uid": "u", "groups": ["g"], "extra": {"k": ["v"]}}}})
            }
            "vault" => json!({"status": {"authenticated": true, "audiences": ["vault"], "user": {"username": "v", "groups": null}}}),
            "told" => json!({"status": {"authenticated": false, "error": "it is over"}}),
            "hangs" => std::future::pending().await,
            "broken" => return status(503),
            "huge" => json!({"status": {"authenticated": true, "user": {"username": "x".repeat(2 << 20)}}}),
            _ => json!({"status": null}),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_whose_the_webhook_says() {
    let outside = outside().await;
    let (group, engine) = (&outside.group, engine(&outside.group));
    let webhook = TokenWebhook::open(&outside.kubeconfig("/authenticate"), "v1", TTL, &own(), group).await.unwrap();
    let known = async |token: &str, audiences: &[String]| webhook.token(&engine, token, audiences).await;
    let jane = known("good", &[]).await.unwrap().unwrap();
    let groups = ["g", "system:authenticated"].map(str::to_owned);
    assert_eq!((jane.user.name.as_str(), jane.user.groups.as_slice(), jane.audiences), ("jane", &groups[..], own()));
    assert_eq!(jane.user.extra["k"], ["v"]);
    let asked = outside.asked.lock()[0].clone();
    assert_eq!((asked.path.as_str(), asked.bearer.as_deref()), ("/authenticate", Some("ours")));
    assert_eq!((asked.body["apiVersion"].as_str(), &asked.body["spec"]["audiences"]), (Some("authentication.k8s.io/v1"), &json!(["api"])));
    known("good", &[]).await.unwrap().unwrap();
    assert_eq!(outside.calls(), 1, "an answer holds for a while");
    assert_eq!(known("good", &["vault".into()]).await.unwrap(), None, "it is for us alone, where the webhook does not say");
    assert_eq!(known("vault", &[]).await.unwrap(), None);
    assert_eq!(known("vault", &["vault".into(), "api".into()]).await.unwrap().unwrap().audiences, ["vault"]);
    assert_eq!(known("told", &[]).await.unwrap_err().message, "it is over");
    assert_eq!(known("nobody", &[]).await.unwrap(), None);
    let huge = known("huge", &[]).await.unwrap_err().message;
    assert!(huge.contains("length limit"), "{huge}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_tried_again_and_what_hangs_ends() {
    let failures = Arc::new(AtomicUsize::new(0));
    let count = failures.clone();
    let outside = Outside::start(move |asked| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            match asked.body["spec"]["token"].as_str() {
                Some("hangs") => std::future::pending().await,
                _ if first => status(500),
                _ => json_response(&json!({"status": {"authenticated": true, "user": {"username": "jane"}}})),
            }
        }
    })
    .await;
    let remote = Remote::of_kubeconfig(&outside.kubeconfig("/"), &outside.group).await.unwrap();
    assert_eq!(remote.url(), format!("{}/", outside.url()));
    let review = |token: &str| json!({"spec": {"token": token}});
    let long = Duration::from_secs(20);
    assert_eq!(remote.post(&review("good"), long, long).await.unwrap()["status"]["user"]["username"], "jane");
    assert_eq!(failures.load(Ordering::SeqCst), 2);
    let short = Duration::from_millis(300);
    assert_eq!(remote.post(&review("hangs"), short, long).await.unwrap_err().why, "context deadline exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_behind_the_address_is_not_asked() {
    let (real, other) = (outside().await, outside().await);
    let config = std::fs::read_to_string(real.kubeconfig("/")).unwrap().replace(&real.url(), &other.url());
    let webhook = TokenWebhook::open(&real.file("moved", &config), "v1", TTL, &own(), &real.group).await.unwrap();
    let why = webhook.token(&engine(&real.group), "good", &[]).await.unwrap_err().message;
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(other.calls(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_kubeconfig_is_said() {
    let outside = outside().await;
    let open = async |text: &str, version: &str| {
        TokenWebhook::open(&outside.file("bad", text), version, TTL, &own(), &outside.group).await.err().unwrap()
    };
    assert!(open("{}", "v2").await.contains("unsupported authentication webhook version"));
    assert!(open("current-context: c", "v1").await.contains("bad: "));
    let exec = "current-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {exec: {command: x}}}]";
    assert!(open(exec, "v1").await.contains("plugins are not supported"));
}
