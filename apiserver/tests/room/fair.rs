//! Many requests at a time: whose turn it is, what waits for what, and what is held how long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use apiserver::{
    body::{BoxError, Response},
    fairness::{Config, Level, Limits, Queuing, Response as Answer, Rule, Schema, Subject},
    identity::{Peer, User},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::join_all};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;

use crate::kit::{Room, THINGS, thing};

const ASKS: &str = "/apis/test.io/v1/asks";
const BOUND: Duration = Duration::from_secs(60);

/// A room of few seats, in which everybody but masters is of one level with queues.
async fn narrow(seats: usize) -> Room {
    shared(few(seats)).await
}

/// The same, and a level for `bob` with as many seats.
async fn narrow_beside_bob(seats: usize) -> Room {
    let mut config = few(2 * seats);
    let (level, subjects) = (config.levels[1].clone(), vec![Subject::User("bob".into())]);
    config.levels.push(Level { name: "bobs".into(), ..level });
    config.schemas.push(Schema {
        name: "bob".into(),
        uid: "".into(),
        level: "bobs".into(),
        precedence: 5,
        by: None,
        rules: vec![Rule::all_of(subjects)],
    });
    shared(config).await
}

/// A room that is shared as `config` says.
async fn shared(config: Config) -> Room {
    Room::behind(store::memory::Memory::new(), Vec::new(), |front| front.fairness(config)).await
}

fn few(seats: usize) -> Config {
    let mut config = Config::mandatory(Limits { reading: seats, mutating: 0, fair: true });
    for level in &mut config.levels {
        if level.name == "catch-all" {
            *level = Level { response: Answer::Queue(Queuing { queues: 64, hand: 6, length: 50 }), ..level.clone() };
        }
    }
    config
}

fn request(user: &str, method: &str, path: &str) -> http::request::Builder {
    let user = User { name: user.into(), ..User::default() };
    Request::builder().method(method).uri(path).extension(Peer::local(user))
}

async fn send(room: &Room, user: &str, method: &str, path: &str, body: &str) -> Response {
    let body = Full::new(Bytes::from(body.to_owned()));
    room.front.clone().oneshot(request(user, method, path).body(body).unwrap()).await.unwrap()
}

/// A POST whose body comes when it is sent.
fn slow_post(room: &Room, user: &str, path: &str) -> (mpsc::Sender<Bytes>, impl Future<Output = Response> + use<>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures::stream::unfold(receiver, async |mut receiver| {
        let data = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(data)), receiver))
    });
    let request = request(user, "POST", path).body(StreamBody::new(frames)).unwrap();
    let front = room.front.clone();
    (sender, async move { front.oneshot(request).await.unwrap() })
}

fn number(room: &Room, line: &str) -> f64 {
    let page = room.front.metrics().text();
    let found = page.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("no {line}\n{page}"));
    found.trim().parse().unwrap()
}

fn executing(room: &Room) -> f64 {
    number(room, r#"apiserver_flowcontrol_current_executing_requests{flow_schema="catch-all",priority_level="catch-all"}"#)
}

async fn with_things(room: &Room, count: usize) {
    let text = "x".repeat(2_000);
    for i in 0..count {
        let mut object = thing(&format!("t{i:03}"), &json!({}));
        object["spec"]["text"] = json!(text);
        room.post(THINGS, &object).await.ok(201);
    }
}

#[tokio::test]
async fn slow_bodies_take_no_seat() {
    let room = narrow(6).await;
    let mut posts = Vec::new();
    for _ in 0..100 {
        let (sender, reply) = slow_post(&room, "slow", ASKS);
        let mut reply = Box::pin(reply);
        sender.send(Bytes::from_static(b"{\"kind\":\"Ask\",")).await.unwrap();
        assert!((&mut reply).now_or_never().is_none(), "its body is not there yet");
        posts.push((sender, reply));
        // Each begins with a whole turn of the scheduler's budget.
        tokio::task::yield_now().await;
    }
    assert_eq!(executing(&room), 0.0);
    for user in ["slow", "other"] {
        assert_eq!(send(&room, user, "GET", THINGS, "").await.status(), 200);
    }
    let ends = posts.into_iter().map(async |(sender, reply)| {
        let rest = async move { sender.send(Bytes::from_static(b"\"apiVersion\":\"test.io/v1\"}")).await.unwrap() };
        tokio::join!(rest, reply).1.status().as_u16()
    });
    let codes = tokio::time::timeout(BOUND, join_all(ends)).await.unwrap();
    assert!(codes.iter().all(|code| *code == 201), "{codes:?}");
    assert_eq!(executing(&room), 0.0);
}

/// Requests of every sort that end in 403, 404 or 405 for who may nothing.
const REFUSED: [(&str, &str); 10] = [
    ("GET", "/apis/test.io/v1/namespaces/default/things"),
    ("GET", "/apis/test.io/v1/namespaces/default/things?watch=1"),
    ("GET", "/apis/test.io/v1/namespaces/default/things/t000"),
    ("POST", "/apis/test.io/v1/namespaces/default/things"),
    ("PATCH", "/apis/test.io/v1/namespaces/default/things/t000/status"),
    ("DELETE", "/apis/test.io/v1/namespaces/default/things/t000"),
    ("GET", "/apis/test.io/v1/nothings/a/log"),
    ("PUT", "/apis/test.io/v1/namespaces/default/things"),
    ("GET", "/apis/nobody.io/v1/things"),
    ("GET", "/secret"),
];

#[tokio::test]
async fn what_is_refused_waits_for_its_turn_as_well() {
    let room = narrow_beside_bob(3).await;
    with_things(&room, 50).await;
    // All seats of the level are taken, by lists that nobody reads.
    let mut unread = Vec::new();
    for user in 0..10 {
        while let Some(reply) = send(&room, &format!("greedy-{user}"), "GET", THINGS, "").now_or_never() {
            unread.push(reply);
        }
    }
    let asked = || room.refused.load(Ordering::SeqCst);
    let (mut waiting, mut too_many) = (Vec::new(), 0);
    for (method, path) in REFUSED.iter().cycle().take(400) {
        let mut reply = Box::pin(send(&room, "nobody", method, path, "{}"));
        match (&mut reply).now_or_never() {
            Some(reply) => {
                assert_eq!(reply.status(), 429, "{method} {path}");
                too_many += 1;
            }
            None => waiting.push(reply),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!((asked(), executing(&room) as usize), (0, unread.len()), "nobody is judged before its turn");
    assert!(too_many > 0 && waiting.len() >= 100, "{too_many} of 400 are too many");
    // The other level has its own, and the administrators' has no end.
    for user in ["bob", "root"] {
        let groups = if user == "root" { vec!["system:masters".into()] } else { Vec::new() };
        let user = User { name: user.into(), groups, ..User::default() };
        for _ in 0..50 {
            let peer = Peer::local(user.clone());
            let request = Request::builder().uri(format!("{THINGS}/t001")).extension(peer).body(Full::new(Bytes::new())).unwrap();
            let reply = room.front.clone().oneshot(request).now_or_never().expect("at once").unwrap();
            assert_eq!(reply.status(), 200, "{}", user.name);
        }
    }
    drop(unread);
    let count = waiting.len();
    let codes = tokio::time::timeout(BOUND, join_all(waiting)).await.unwrap();
    assert!(codes.iter().all(|reply| reply.status() == 403), "they are refused in their turn");
    assert_eq!((asked(), executing(&room)), (count, 0.0));
}

#[tokio::test]
async fn no_body_is_read_for_who_may_not_send_it() {
    let room = narrow(3).await;
    for _ in 0..100 {
        // Its body never comes.
        let (_sender, reply) = slow_post(&room, "nobody", ASKS);
        assert_eq!(reply.now_or_never().expect("at once").status(), 403);
        assert_eq!((executing(&room), number(&room, "skiff_request_body_bytes")), (0.0, 0.0));
    }
}

#[tokio::test]
async fn readers_that_do_not_read_leave_seats_for_others() {
    let room = narrow(40).await;
    with_things(&room, 50).await;
    let mut unread = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..400 {
        let mut reply = Box::pin(send(&room, "greedy", "GET", THINGS, ""));
        match (&mut reply).now_or_never() {
            Some(reply) => unread.push(reply),
            None => waiting.push(reply),
        }
        tokio::task::yield_now().await;
    }
    assert!(unread.iter().all(|reply| reply.status() == 200 || reply.status() == 429));
    let held = unread.iter().filter(|reply| reply.status() == 200).count() as f64;
    assert_eq!(executing(&room), held, "whoever has not read its list has its seat");
    assert!(held > 10.0 && !waiting.is_empty(), "{held} of 400 sit");
    for user in ["ann", "bob", "eve"] {
        assert_eq!(send(&room, user, "GET", &format!("{THINGS}/t001"), "").now_or_never().unwrap().status(), 200);
    }
    // A list that is read, or given up, makes room for the next one.
    drop(waiting);
    let all: Value = serde_json::from_slice(&read(unread.swap_remove(0)).await).unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 50);
    drop(unread);
    assert_eq!(executing(&room), 0.0);
}

async fn read(reply: Response) -> Bytes {
    assert_eq!(reply.status(), 200);
    reply.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn who_finds_no_seat_is_told_so_as_upstream_tells_it() {
    let room = narrow(3).await;
    with_things(&room, 50).await;
    // Not before: the store works on a thread of its own, which a paused clock would not wait for.
    tokio::time::pause();
    let mut held = Vec::new();
    while let Some(reply) = send(&room, "greedy", "GET", THINGS, "").now_or_never() {
        held.push(reply);
    }
    let refused = send(&room, "greedy", "GET", THINGS, "").await;
    assert_eq!(refused.status(), 429);
    let header = |name: &str| refused.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("retry-after"), header("content-type")), ("1".into(), "text/plain; charset=utf-8".into()));
    assert!(["flowschema", "prioritylevel"].iter().all(|of| refused.headers().contains_key(format!("x-kubernetes-pf-{of}-uid"))));
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    // The administrators' are served.
    let user = User { name: "root".into(), groups: vec!["system:masters".into()], ..User::default() };
    let request = Request::builder().uri(THINGS).extension(Peer::local(user)).body(Full::new(Bytes::new())).unwrap();
    assert_eq!(room.front.clone().oneshot(request).await.unwrap().status(), 200);
    held.clear();
    assert_eq!(send(&room, "greedy", "GET", THINGS, "").await.status(), 200);
}

#[tokio::test]
async fn a_watch_has_a_seat_until_it_has_sent_what_is_there() {
    let room = narrow(200).await;
    let quiet = send(&room, "ann", "GET", "/apis/test.io/v1/places?watch=1", "").await;
    assert_eq!((quiet.status().as_u16(), executing(&room)), (200, 0.0), "there is nothing to send");
    with_things(&room, 50).await;
    let mut watch = send(&room, "ann", "GET", &format!("{THINGS}?watch=1"), "").await.into_body();
    assert_eq!(executing(&room), 1.0);
    let mut seen = 0;
    while seen < 50 {
        let frame = watch.frame().await.unwrap().unwrap().into_data().unwrap();
        seen += frame.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(executing(&room), 0.0);
    let given_up = send(&room, "ann", "GET", &format!("{THINGS}?watch=1"), "").await;
    assert_eq!(executing(&room), 1.0);
    drop(given_up);
    assert_eq!(executing(&room), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_gets_the_time_that_it_asks_for_and_no_more() {
    let room = narrow(6).await;
    for (timeout, seconds) in [("2s", 2), ("1500ms", 1), ("0s", 10), ("1h", 10)] {
        let (sender, reply) = slow_post(&room, "slow", &format!("{ASKS}?timeout={timeout}"));
        let began = tokio::time::Instant::now();
        let (_, reply) = tokio::join!(sender.send(Bytes::from_static(b"{")), reply);
        // Where it asks for more, its body stalls for longer than bodies may.
        assert_eq!((reply.status().as_u16(), began.elapsed().as_secs()), (504, seconds), "{timeout}");
        let told: Value = serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap();
        if seconds < 10 {
            assert_eq!(told["message"], "Timeout: request did not complete within the allotted timeout");
        }
        assert_eq!(told["reason"], "Timeout");
    }
    let refused = send(&room, "ann", "GET", &format!("{THINGS}?timeout=soon"), "").await;
    assert_eq!(refused.status(), 400);
    let told: Value = serde_json::from_slice(&refused.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(told["message"], "invalid timeout specified in the request URL - time: invalid duration \"soon\"");
    // A watch has none.
    assert_eq!(send(&room, "ann", "GET", &format!("{THINGS}?watch=1&timeout=soon"), "").await.status(), 200);
}

#[tokio::test]
async fn the_tables_are_for_those_who_may() {
    let room = narrow(6).await;
    for path in ["dump_priority_levels", "dump_queues", "dump_requests", "dump_requests?includeRequestDetails=1"] {
        let path = format!("/debug/api_priority_and_fairness/{path}");
        let reply = send(&room, "ann", "GET", &path, "").await;
        assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8", "{path}");
        let text = read(reply).await;
        assert!(text.starts_with(b"PriorityLevelName, "), "{path}: {text:?}");
        assert_eq!(send(&room, "nobody", "GET", &path, "").await.status(), 403);
    }
    // Whoever asks for the table is in it.
    let text = read(send(&room, "ann", "GET", "/debug/api_priority_and_fairness/dump_requests", "").await).await;
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 2, "{text:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_cut_and_its_memory_given_back() {
    let room = narrow(6).await;
    let (sender, reply) = slow_post(&room, "slow", ASKS);
    let (_, code) = tokio::join!(sender.send(Bytes::from_static(b"{")), async { reply.await.status().as_u16() });
    assert_eq!(code, 504);
    assert_eq!(number(&room, "skiff_request_body_bytes"), 0.0);
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing_behind() {
    let room = Arc::new(narrow(6).await);
    with_things(&room, 50).await;
    let random = futures::stream::iter(0..300).map(|i| {
        let room = room.clone();
        async move {
            let user = format!("u{}", i % 7);
            let mut reply = Box::pin(send(&room, &user, "GET", THINGS, ""));
            if i % 3 == 0 {
                return drop((&mut reply).now_or_never());
            }
            drop(reply.await);
        }
    });
    let all = random.buffer_unordered(50).collect::<Vec<()>>();
    tokio::time::timeout(BOUND, all).await.unwrap();
    assert_eq!(executing(&room), 0.0);
    assert_eq!(number(&room, r#"apiserver_flowcontrol_current_inqueue_requests{flow_schema="catch-all",priority_level="catch-all"}"#), 0.0);
}
