//! Objects that do not stand in the store as they are shown: encrypted, with keys that change, are not to be had, or are somebody else's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{GroupResource, Key};
use apiserver::{
    at_rest::{AtRest, Encryption, Media},
    engine::{Change, Object, Unseen, View, Viewed},
};
use bytes::Bytes;
use serde_json::json;
use store::{Range, Store, memory::Memory};
use tempfile::TempDir;

use crate::{
    kit::{PLACES, Room, THINGS, thing, version},
    kms::{Mood, Plugin},
};

const KEY: &str = "/registry/things/default/a";

async fn encryption(providers: &str) -> Encryption {
    let rule = format!("resources:\n- {{resources: [things.test.io], providers: [{providers}]}}");
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n{rule}");
    Encryption::read("ec.yaml", &text, true).await.unwrap()
}

fn aes(name: &str, letter: char) -> String {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode([letter as u8; 32]);
    format!("{{aesgcm: {{keys: [{{name: {name}, secret: {secret}}}]}}}}")
}

fn kms(dir: &TempDir) -> String {
    format!("{{kms: {{apiVersion: v2, name: safe, timeout: 1s, endpoint: 'unix://{}/kms.sock'}}}}", dir.path().display())
}

async fn room(store: &Arc<Memory>, at_rest: &Arc<AtRest>) -> Room {
    Room::at_rest(store.clone(), at_rest.clone(), Vec::new(), |front| front).await
}

async fn stored(store: &Memory, key: &str) -> Bytes {
    store.get(key).await.unwrap().unwrap().value
}

/// Waits until a list is answered with this code.
async fn until_listed(room: &Room, code: u16) {
    for _ in 0..200 {
        if room.get(THINGS).await.code == code {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("things are not listed with {code}: {:?}", room.get(THINGS).await.body);
}

#[tokio::test]
async fn what_is_encrypted_is_served_as_ever_and_stands_in_no_clear_text() {
    let (store, at_rest) = (Arc::new(Memory::new()), AtRest::new(Some(encryption(&aes("one", 'a')).await), Media::Json));
    let room = room(&store, &at_rest).await;
    let mut watch = room.watch(&format!("{THINGS}?watch=true")).await;
    let made = room.thing("a", &json!({"tier": "hidden-label"})).await;
    assert_eq!(watch.line().await, "ADDED a");
    let place = json!({"kind": "Place", "apiVersion": "test.io/v1", "metadata": {"name": "seen"}});
    room.post(PLACES, &place).await.ok(201);
    room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"size": 5}})).await.ok(200);
    assert_eq!(watch.line().await, "MODIFIED a");
    for entry in store.range(Range { prefix: "/registry/".into(), ..Range::default() }).await.unwrap().entries {
        let is_place = entry.key.contains("places");
        assert_eq!(entry.value.starts_with(b"k8s:enc:aesgcm:v1:one:"), !is_place, "{}", entry.key);
        assert!(is_place || !String::from_utf8_lossy(&entry.value).contains("hidden"));
    }
    assert_eq!(room.get(&format!("{THINGS}/a")).await.ok(200)["spec"]["size"], 5);
    let list = room.get(&format!("{THINGS}?labelSelector=tier%3Dhidden-label")).await.ok(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    // As it was, from the store's history.
    let then = room.get(&format!("{THINGS}?resourceVersion={}&resourceVersionMatch=Exact", version(&made))).await.ok(200);
    assert_eq!(then["items"][0]["spec"]["size"], 1);
    room.post(THINGS, &thing("a", &json!({}))).await.refused(409, "already exists");
    room.delete(&format!("{THINGS}/a"), &json!({})).await.ok(200);
    assert_eq!(watch.line().await, "DELETED a");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_with_the_present_key() {
    let store = Arc::new(Memory::new());
    let plain = room(&store, &Arc::default()).await.thing("a", &json!({})).await;
    let at_rest = AtRest::new(Some(encryption(&format!("{}, {{identity: {{}}}}", aes("one", 'a'))).await), Media::Json);
    let room = room(&store, &at_rest).await;
    let path = format!("{THINGS}/a");
    let same = json!({"spec": {"size": 1}});
    assert_eq!(room.get(&path).await.ok(200), plain);
    let once = room.patch(&path, "merge-patch", &same).await.ok(200);
    assert!(version(&once) > version(&plain) && stored(&store, KEY).await.starts_with(b"k8s:enc:aesgcm:v1:one:"));
    assert_eq!(room.patch(&path, "merge-patch", &same).await.ok(200), once, "nothing to do any more");
    // Rotated while the server runs.
    at_rest.change(Arc::new(encryption(&format!("{}, {}", aes("two", 'b'), aes("one", 'a'))).await));
    assert_eq!(room.get(&path).await.ok(200), once);
    let twice = room.patch(&path, "merge-patch", &same).await.ok(200);
    assert!(version(&twice) > version(&once) && stored(&store, KEY).await.starts_with(b"k8s:enc:aesgcm:v1:two:"));
    // And given up.
    at_rest.change(Arc::new(encryption(&format!("{{identity: {{}}}}, {}", aes("two", 'b'))).await));
    room.patch(&path, "merge-patch", &same).await.ok(200);
    assert!(stored(&store, KEY).await.starts_with(b"{"));
}

#[tokio::test]
async fn what_no_key_opens_fails_its_kind_alone_until_one_does() {
    let store = Arc::new(Memory::new());
    let one = AtRest::new(Some(encryption(&aes("one", 'a')).await), Media::Json);
    room(&store, &one).await.thing("a", &json!({})).await;
    let two = AtRest::new(Some(encryption(&aes("two", 'b')).await), Media::Json);
    let room = room(&store, &two).await;
    let words = "unable to transform key \"/registry/things/default/a\": no matching key was found for the provided AES transformer";
    room.get(THINGS).await.refused(500, words);
    room.get(&format!("{THINGS}?watch=true")).await.refused(500, words);
    room.get(&format!("{THINGS}/a")).await.refused(500, "Internal error occurred: no matching key was found");
    room.delete(&format!("{THINGS}/a"), &json!({})).await.refused(500, "no matching key was found");
    room.get(PLACES).await.ok(200);
    room.thing("b", &json!({})).await;
    two.change(Arc::new(encryption(&format!("{}, {}", aes("two", 'b'), aes("one", 'a'))).await));
    until_listed(&room, 200).await;
    assert_eq!(room.get(THINGS).await.ok(200)["items"].as_array().map(Vec::len), Some(2));
    room.delete(&format!("{THINGS}/a"), &json!({})).await.ok(200);
}

struct Named;

impl Viewed for Named {
    fn read(_: &Object) -> Self {
        Self
    }

    fn bytes(&self) -> usize {
        0
    }
}

#[tokio::test]
async fn what_no_key_opens_is_not_gone_for_who_reads_caches() {
    let (store, things) = (Arc::new(Memory::new()), GroupResource::new("test.io", "things"));
    let [one, two, three] = [aes("one", 'a'), aes("two", 'b'), aes("three", 'c')];
    room(&store, &AtRest::new(Some(encryption(&one).await), Media::Json)).await.thing("a", &json!({})).await;
    let at_rest = AtRest::new(Some(encryption(&format!("{two}, {one}")).await), Media::Json);
    let room_of_two = room(&store, &at_rest).await;
    let (engine, view, gone) = (&room_of_two.engine, View::<Named>::default(), Arc::new(AtomicUsize::default()));
    view.follow(engine, &things);
    let counted = gone.clone();
    let count = move |change: &Change| {
        counted.fetch_add(usize::from(change.new.is_none()), Ordering::SeqCst);
    };
    engine.on_change(&things, Arc::new(count));
    let cached = |name: &str| engine.cached(&things, &Key::new("default", name));
    let seen = || view.of(engine, "default").map(|all| all.len());
    assert!(engine.whole(&things).is_ok() && matches!(seen(), Ok(1)));

    // A key goes; another server writes with one that comes later: then all is read anew, but for what the lost key had closed.
    at_rest.change(Arc::new(encryption(&two).await));
    room(&store, &AtRest::new(Some(encryption(&three).await), Media::Json)).await.thing("b", &json!({})).await;
    assert!(engine.whole(&things).is_err_and(|status| status.message.contains("things/default/b")));
    at_rest.change(Arc::new(encryption(&format!("{two}, {three}")).await));
    for _ in 0..200 {
        if cached("b").is_some() && engine.whole(&things).is_err_and(|status| status.message.contains("things/default/a")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cached("a").is_some() && cached("b").is_some(), "what was known stays");
    assert_eq!(gone.load(Ordering::SeqCst), 0, "nobody is told that it is gone");
    assert!(matches!(seen(), Err(Unseen::Locked(status)) if status.message.contains("unable to transform key")));
    assert!(engine.whole(&GroupResource::new("test.io", "places")).is_ok(), "others are whole");
    assert!(engine.whole(&GroupResource::new("test.io", "nothing")).is_ok(), "there is none of what is not served");

    // A server that never could read it knows at least that there is something.
    let stranger = room(&store, &AtRest::new(Some(encryption(&two).await), Media::Json)).await;
    assert!(stranger.engine.cached_list(&things, None).is_empty() && stranger.engine.whole(&things).is_err());

    at_rest.change(Arc::new(encryption(&format!("{two}, {three}, {one}")).await));
    until_listed(&room_of_two, 200).await;
    assert!(engine.whole(&things).is_ok() && matches!(seen(), Ok(2)));
    assert_eq!(gone.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_kms_that_is_well_is_asked_once_and_its_new_key_makes_values_stale() {
    let (dir, store, plugin) = (TempDir::new().unwrap(), Arc::new(Memory::new()), Plugin::new(Mood::Well));
    plugin.listen(&dir.path().join("kms.sock"));
    let at_rest = AtRest::new(Some(encryption(&kms(&dir)).await), Media::Json);
    let first = room(&store, &at_rest).await;
    for name in ["a", "b", "c"] {
        first.thing(name, &json!({})).await;
    }
    assert!(stored(&store, KEY).await.starts_with(b"k8s:enc:kms:v2:safe:"));
    assert_eq!(*plugin.decrypted.lock(), 0, "what is written here is known");
    // Another server.
    let at_rest = AtRest::new(Some(encryption(&kms(&dir)).await), Media::Json);
    let second = room(&store, &at_rest).await;
    assert_eq!(second.get(THINGS).await.ok(200)["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(*plugin.decrypted.lock(), 1);
    let (path, same) = (format!("{THINGS}/a"), json!({"spec": {"size": 1}}));
    let before = stored(&store, KEY).await;
    second.patch(&path, "merge-patch", &same).await.ok(200);
    assert_eq!(stored(&store, KEY).await, before, "another seed of the same key is not stale");
    // The configuration is read anew, and nothing else is: what is known stays known.
    at_rest.change(Arc::new(encryption(&kms(&dir)).await));
    second.patch(&path, "merge-patch", &same).await.ok(200);
    assert_eq!((stored(&store, KEY).await, *plugin.decrypted.lock()), (before.clone(), 1));
    *plugin.key_id.lock() = "key-2".into();
    at_rest.change(Arc::new(encryption(&kms(&dir)).await));
    second.patch(&path, "merge-patch", &same).await.ok(200);
    let after = stored(&store, KEY).await;
    assert_ne!(after, before);
    assert!(after.windows(5).any(|part| part == b"key-2"));
    assert_eq!(first.get(&path).await.ok(200)["spec"]["size"], 1);
}

#[tokio::test]
async fn a_kms_that_is_away_hangs_fails_or_babbles_holds_up_its_own_kinds_only() {
    let (dir, store, plugin) = (TempDir::new().unwrap(), Arc::new(Memory::new()), Plugin::new(Mood::Well));
    let socket = dir.path().join("kms.sock");
    plugin.listen(&socket);
    room(&store, &AtRest::new(Some(encryption(&kms(&dir)).await), Media::Json)).await.thing("a", &json!({})).await;
    for mood in [Mood::Hangs, Mood::Fails, Mood::Babbles] {
        *plugin.mood.lock() = mood;
        let at_rest = AtRest::new(Some(encryption(&kms(&dir)).await), Media::Json);
        let room = room(&store, &at_rest).await;
        room.get(THINGS).await.refused(500, "unable to transform key");
        room.get(&format!("{THINGS}/a")).await.refused(500, "Internal error occurred");
        room.get(PLACES).await.ok(200);
        if mood != Mood::Babbles {
            let refused = room.post(THINGS, &thing("x", &json!({}))).await;
            refused.refused(500, "Internal error occurred: got unexpected nil transformer");
            let health = apiserver::at_rest::reload::check(&at_rest)().await;
            assert!(health.is_err_and(|why| why.starts_with("kms-provider-0: failed to perform status section")));
        }
        *plugin.mood.lock() = Mood::Well;
        until_listed(&room, 200).await;
    }
    assert!(stored(&store, KEY).await.starts_with(b"k8s:enc:kms:v2:safe:"));
}

#[tokio::test]
async fn a_kms_that_comes_after_the_server_is_found() {
    let (dir, store, plugin) = (TempDir::new().unwrap(), Arc::new(Memory::new()), Plugin::new(Mood::Well));
    let at_rest = AtRest::new(Some(encryption(&kms(&dir)).await), Media::Json);
    let room = room(&store, &at_rest).await;
    room.post(THINGS, &thing("a", &json!({}))).await.refused(500, "got unexpected nil transformer");
    room.get(THINGS).await.ok(200);
    plugin.listen(&dir.path().join("kms.sock"));
    for _ in 0..200 {
        if at_rest.encryption().unwrap().kms()[0].check().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    room.thing("a", &json!({})).await;
}

#[tokio::test]
async fn a_file_that_changes_is_taken_over_and_one_that_is_wrong_is_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ec.yaml");
    let text = |providers: &str| {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- {{resources: [things.test.io], providers: [{providers}]}}"
        )
    };
    let store = Arc::new(Memory::new());
    let at_rest = AtRest::new(Some(encryption(&aes("one", 'a')).await), Media::Json);
    let room = room(&store, &at_rest).await;
    std::fs::write(&path, text("{nothing: {}}")).unwrap();
    room.group.spawn(apiserver::at_rest::reload::follow(at_rest.clone(), path.clone(), Duration::from_millis(20)));
    room.thing("a", &json!({})).await;
    assert!(stored(&store, KEY).await.starts_with(b"k8s:enc:aesgcm:v1:one:"));
    std::fs::write(&path, text(&format!("{}, {}", aes("two", 'b'), aes("one", 'a')))).unwrap();
    for _ in 0..200 {
        room.patch(&format!("{THINGS}/a"), "merge-patch", &json!({"spec": {"size": 1}})).await.ok(200);
        if stored(&store, KEY).await.starts_with(b"k8s:enc:aesgcm:v1:two:") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the file was not read anew");
}
