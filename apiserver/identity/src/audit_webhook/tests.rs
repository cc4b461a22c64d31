use std::sync::atomic::AtomicUsize;

use serde_json::{Value, json};

use super::*;
use crate::testing::{Outside, eventually, json_response, status};

fn config(outside: &Outside, mode: LogMode) -> AuditWebhookConfig {
    AuditWebhookConfig {
        file: outside.kubeconfig("/audit"),
        mode,
        initial_backoff: Duration::from_millis(20),
        buffered_max: 100,
        events_max: 10,
        bytes_max: 4 << 10,
        wait_max: Duration::from_millis(50),
        throttle: None,
    }
}

fn event(id: usize) -> Bytes {
    Bytes::from(format!("{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\",\"auditID\":\"{id}\"}}\n"))
}

/// The ids of each list that came.
fn came(outside: &Outside) -> Vec<Vec<usize>> {
    let id = |event: &Value| event["auditID"].as_str().unwrap().parse().unwrap();
    let ids = |body: &Value| body["items"].as_array().unwrap().iter().map(id).collect();
    outside.asked.lock().iter().map(|asked| ids(&asked.body)).collect()
}

async fn takes_all() -> Outside {
    Outside::start(|_| async { json_response(&json!({})) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_lists_over_tls() {
    let outside = takes_all().await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::Batch), &outside.group).await.unwrap();
    for id in 0..25 {
        webhook.take(event(id)).await.unwrap();
    }
    let all = || {
        let mut all = came(&outside).concat();
        all.sort_unstable();
        all
    };
    eventually(|| all().len() == 25).await;
    assert_eq!(all(), (0..25).collect::<Vec<_>>());
    assert!(came(&outside).iter().all(|list| list.len() <= 10), "{:?}", came(&outside));
    let asked = outside.asked.lock()[0].clone();
    assert_eq!((asked.path.as_str(), asked.bearer.as_deref()), ("/audit", Some("ours")));
    let body = asked.body;
    assert_eq!((body["kind"].as_str(), body["apiVersion"].as_str()), (Some("EventList"), Some("audit.k8s.io/v1")));
    assert_eq!(body["items"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["level", "auditID"], "items are no objects of their own");
    assert_eq!(webhook.lost(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_come_in_lists_of_their_own() {
    let outside = takes_all().await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::Batch), &outside.group).await.unwrap();
    for id in 0..3 {
        let text =
            format!("{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"auditID\":\"{id}\",\"x\":\"{}\"}}\n", "x".repeat(3 << 10));
        webhook.take(Bytes::from(text)).await.unwrap();
    }
    eventually(|| came(&outside).len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_is_sent_again_and_lost_at_last() {
    let refusals = Arc::new(AtomicUsize::new(2));
    let left = refusals.clone();
    let outside = Outside::start(move |_| {
        let refuses = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        // Whatever the code: it may be well again.
        async move { if refuses { status(403) } else { json_response(&json!({})) } }
    })
    .await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::Batch), &outside.group).await.unwrap();
    webhook.take(event(1)).await.unwrap();
    eventually(|| outside.calls() == 3).await;
    assert_eq!((came(&outside), webhook.lost()), (vec![vec![1]; 3], 0));
    refusals.store(usize::MAX, Ordering::SeqCst);
    webhook.take(event(2)).await.unwrap();
    webhook.take(event(3)).await.unwrap();
    eventually(|| webhook.lost() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_holds_up_nobody_and_fills_a_bounded_room() {
    let outside = Outside::start(|_| std::future::pending()).await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::Batch), &outside.group).await.unwrap();
    let began = Instant::now();
    let mut refused = 0;
    for id in 0..1000 {
        if let Err(why) = webhook.take(event(id)).await {
            assert_eq!(why, "audit buffer queue blocked");
            refused += 1;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    // What waits, what is being sent, and what is being put together.
    assert!(refused >= 1000 - 100 - 10 * (SENDING_MAX + 2), "{refused}");
    let large = Bytes::from("x".repeat(40 << 20));
    let fresh = AuditWebhook::open(config(&outside, LogMode::Batch), &outside.group).await.unwrap();
    fresh.take(large.clone()).await.unwrap();
    fresh.take(large).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_blocks_waits_until_it_is_taken() {
    let outside = takes_all().await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::BlockingStrict), &outside.group).await.unwrap();
    webhook.take(event(7)).await.unwrap();
    assert_eq!(came(&outside), [[7]]);
    assert!(webhook.is_strict());
    webhook.take_now(event(8)).unwrap();
    eventually(|| came(&outside).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_at_the_end_is_sent() {
    let outside = takes_all().await;
    let group = Group::new();
    let slow = AuditWebhookConfig { wait_max: Duration::from_secs(60), ..config(&outside, LogMode::Batch) };
    let webhook = AuditWebhook::open(slow, &group).await.unwrap();
    for id in 0..5 {
        webhook.take(event(id)).await.unwrap();
    }
    assert!(group.drain(END_BOUND).await);
    assert_eq!(came(&outside).concat().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_at_the_end_is_counted() {
    let outside = Outside::start(|_| std::future::pending()).await;
    let group = Group::new();
    let few = AuditWebhookConfig { events_max: 2, wait_max: Duration::from_secs(60), ..config(&outside, LogMode::Batch) };
    let webhook = AuditWebhook::open(few, &group).await.unwrap();
    for id in 0..5 {
        webhook.take(event(id)).await.unwrap();
    }
    // Two lists are on their way, and one is being put together.
    eventually(|| outside.calls() == 2).await;
    assert!(group.drain(3 * END_BOUND).await);
    assert_eq!(webhook.lost(), 5);
    webhook.take(event(6)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_an_event_is_sent_for_them_has_given_it() {
    let left = Arc::new(AtomicUsize::new(1));
    let first = left.clone();
    let outside = Outside::start(move |_| {
        let hangs = first.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move { if hangs { std::future::pending().await } else { json_response(&json!({})) } }
    })
    .await;
    let webhook = AuditWebhook::open(config(&outside, LogMode::Blocking), &outside.group).await.unwrap();
    tokio::select! {
        taken = webhook.take(event(1)) => panic!("{taken:?}"),
        () = eventually(|| outside.calls() == 1) => {}
    }
    eventually(|| outside.calls() == 2).await;
    assert_eq!((came(&outside), webhook.lost()), (vec![vec![1]; 2], 0));
}

#[test]
fn pauses_grow_and_are_never_none() {
    for (first, least) in [(Duration::ZERO, PAUSE_LEAST), (Duration::from_secs(1), Duration::from_secs(1))] {
        let mut pauses = Pauses(first);
        let mut wanted = least;
        for _ in 0..8 {
            let pause = pauses.next();
            assert!(pause >= wanted && pause <= wanted.mul_f64(1.2), "{pause:?}, {wanted:?}");
            wanted = wanted.mul_f64(1.5);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lists_come_at_a_rate() {
    let mut throttle = Throttle::new(Some((10.0, 3)));
    let began = Instant::now();
    for _ in 0..13 {
        throttle.turn().await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(990) && took < Duration::from_millis(1100), "{took:?}");
}
