//! Values that Go's own packages encrypted (crypto/aes, x/crypto/nacl/secretbox, x/crypto/hkdf), and upstream's words for what is wrong with a file.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{ciphers::KeyCipher, envelope::Dek, *};

const PLAIN: &[u8] = br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#;
const KEY: &str = "/registry/secrets/default/a";
const GCM: [&str; 3] = [
    "ZGVmZ2hpamtsbW5vUHqXkeNQXhqNBw5jaEetd+RLiTdY+66sJwjHiidAChamq7aZgaHJeuy3Liqm/8FErS23E2L2PNPZqxiHHiH9hhaityyWezDyU3M6",
    "ZGVmZ2hpamtsbW5v3woVz/PL0mgF0cHcxNxr/XK9ajjn2gVDBOtL1T7b1/WjOUuXVgFjOwtJyndYZE9PBhPiHBU27gLVxPVOCHTM9YvkXAWxLP0p50cI",
    "ZGVmZ2hpamtsbW5vG30YJf/mnkPaBMr7akmMHti9ebuWsJJz07uNkVvbywVOovRn5HCfZm51+xhkKJxHhIzlr9pFnrikh/KQeuKqFOkE2utEShDeNMLk",
];
const CBC: [&str; 3] = [
    "MjM0NTY3ODk6Ozw9Pj9AQSLqknv46RrB/wR2ciqXN4BGE8g0+QQKEx/rlPPgUHsmbvSheuk+aEBF4gn1ejab9/uO9bbk/EHVrxoEetNSXt0=",
    "MjM0NTY3ODk6Ozw9Pj9AQcyIapE4aGI2nLuJ8u6YTmS8S4PgM1sZNIDkn75fSKTjcXNN+3spcTiJn5CHfIQEJgU95sO/wZrq6ScRPSami9w=",
    "MjM0NTY3ODk6Ozw9Pj9AQQv1qwOqnthtgsWWIa62KeMOVgOpALFiHzf5IWYAYtTzbSuaiLHWnIhsxniGqfhFR045RDPN/PcCh+itWMP46o8=",
];
const SECRETBOX: &str =
    "BwgJCgsMDQ4PEBESExQVFhcYGRobHB0enBV65mqGGUYS6m78Bv/BtvxXcyHzrSfwn5jdVjIiNUG8j82bkhhulw+6IhnWa3IHlMtQ6I2AOIShQnykwTyDd6SdYiOa8mGssefU";
const SEEDED: &str = "PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltkZWZnaGlqa2xtbm/ZLzlJjPCjCBVT8e1uUF8p/tMi3CXS1lILxNykw9XXEQSwXOrBWxbORRljKFdtK/k19W57qGE+gQjG39EOT/bxU1AMRBqEXxZSKwc=";

/// 1, 2, 3, …
fn counted(length: u8) -> Vec<u8> {
    (1..=length).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

#[test]
fn what_go_encrypted_is_read_and_what_is_written_has_the_same_layout() {
    let lengths = [16, 24, 32];
    let gcm = lengths.map(|length| KeyCipher::gcm(&counted(length)).unwrap()).into_iter().zip(GCM);
    let cbc = lengths.map(|length| KeyCipher::cbc(&counted(length)).unwrap()).into_iter().zip(CBC);
    let secretbox = [(KeyCipher::secretbox(&counted(32)).unwrap(), SECRETBOX)];
    for (cipher, vector) in gcm.chain(cbc).chain(secretbox) {
        let vector = decoded(vector);
        assert_eq!(cipher.open(&vector, KEY.as_bytes()).as_deref(), Ok(PLAIN));
        let sealed = cipher.seal(PLAIN, KEY.as_bytes()).unwrap();
        assert_eq!(sealed.len(), vector.len());
        assert_ne!(sealed, cipher.seal(PLAIN, KEY.as_bytes()).unwrap(), "never the same twice");
        assert_eq!(cipher.open(&sealed, KEY.as_bytes()).as_deref(), Ok(PLAIN));
        for length in 0..sealed.len() {
            assert!(cipher.open(&sealed[..length], KEY.as_bytes()).as_deref() != Ok(PLAIN), "cut to {length}");
        }
    }
    let dek = Dek::of(super::envelope::SEED, &counted(32)).unwrap();
    assert_eq!(dek.open(&decoded(SEEDED), KEY.as_bytes()).as_deref(), Ok(PLAIN));
    assert_eq!(dek.open(&decoded(SEEDED), b"/registry/secrets/default/b"), Err("cipher: message authentication failed".into()));
    let sealed = dek.seal(PLAIN, KEY.as_bytes()).unwrap();
    assert_eq!((sealed.len(), dek.open(&sealed, KEY.as_bytes()).as_deref()), (decoded(SEEDED).len(), Ok(PLAIN)));
    assert!(Dek::of(super::envelope::SEED, &[1; 31]).is_err() && Dek::of(0, &[1; 31]).is_err());
}

fn file(resources: &str) -> String {
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{resources}")
}

async fn encryption(resources: &str) -> Result<Encryption, String> {
    Encryption::read("ec.yaml", &file(resources), false).await
}

fn aes(name: &str, byte: u8) -> String {
    format!("aescbc: {{keys: [{{name: {name}, secret: {}}}]}}", STANDARD.encode([byte; 32]))
}

#[tokio::test]
async fn a_file_that_is_wrong_is_refused_in_upstreams_words() {
    let (a, key) = (aes("a", 1), STANDARD.encode([1; 32]));
    let kms = |rest: &str| format!("- {{resources: [secrets], providers: [{{kms: {{{rest}}}}}]}}");
    let cases = [
        (
            "- {resources: [], providers: [{identity: {}}]}".to_owned(),
            "resources[0].resources: Required value: at least one resources[0].resources is required",
        ),
        ("- {resources: [secrets]}".into(), "resources[0].providers: Required value: at least one resources[0].providers is required"),
        (
            "- {resources: [secrets], providers: [{}]}".into(),
            "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
        ),
        (
            format!("- {{resources: [secrets], providers: [{{identity: {{}}, {a}}}]}}"),
            "more than one provider specified in a single element",
        ),
        (
            "- {resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}]}".into(),
            "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]",
        ),
        ("- {resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: '?'}]}}]}".into(), "secrets must be base64 encoded"),
        (
            format!("- {{resources: [secrets], providers: [{{aescbc: {{keys: [{{secret: {key}}}]}}}}]}}"),
            "resources[0].providers[0].aescbc.keys[0].name: Required value: name is a mandatory field for a key",
        ),
        (
            "- {resources: ['*'], providers: [{identity: {}}]}".into(),
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        ),
        ("- {resources: [Secrets], providers: [{identity: {}}]}".into(), "resource name should not contain capital letters"),
        ("- {resources: [secrets, '*.'], providers: [{identity: {}}]}".into(), "using overlapping resources"),
        ("- {resources: [secrets, secrets], providers: [{identity: {}}]}".into(), "the same resource cannot be specified multiple times"),
        ("- {resources: [events.events.k8s.io], providers: [{identity: {}}]}".into(), "Use 'events' instead in the config file"),
        ("- {resources: [secrets.*], providers: [{identity: {}}]}".into(), "encrypting the same resource across groups is not supported"),
        (
            "- {resources: ['*.'], providers: [{identity: {}}]}\n- {resources: [secrets], providers: [{identity: {}}]}".into(),
            "error while building transformers: resource \"secrets\" is masked by earlier rule \"*.\"",
        ),
        (
            "- {resources: ['*.*'], providers: [{identity: {}}]}\n- {resources: [a.b], providers: [{identity: {}}]}".into(),
            "resource \"a.b\" is masked by earlier rule \"*.*\"",
        ),
        ("- {resources: [secrets], providers: [{identity: {}}], else: 1}".into(), "strict decoding error: unknown field"),
        (kms("apiVersion: v2, name: 'a:b', endpoint: unix:///s"), "invalid KMS provider name a:b, must not contain ':'"),
        (kms("apiVersion: v2, name: a, endpoint: http://s"), "unsupported scheme \"http\" for KMS provider, only unix is supported"),
        (kms("apiVersion: v2, name: a, endpoint: unix:///s, timeout: 0s"), "timeout should be a positive value"),
        (kms("apiVersion: v2, name: a, endpoint: unix:///s, cachesize: 1"), "cachesize is not supported in v2"),
        (kms("apiVersion: v3, name: a, endpoint: unix:///s"), "for KMS provider, only v1 and v2 are supported"),
        (
            kms("name: a, endpoint: unix:///s"),
            "error while building transformers: KMSv1 is not supported (it is deprecated, and off in Kubernetes 1.36): Use KMSv2 instead, with apiVersion: v2",
        ),
    ];
    for (resources, words) in cases {
        let error = encryption(&resources).await.err().unwrap_or_default();
        assert!(error.contains(words), "{resources}\n{error}\n{words}");
        assert!(!error.contains(&key), "{error}");
    }
    for (text, words) in [
        ("", "encryption provider configuration file \"ec.yaml\" is empty"),
        ("a: [", "error converting YAML to JSON"),
        ("{}", "Object 'Kind' is missing"),
        ("apiVersion: v1\nkind: Pod", "no kind \"Pod\" is registered for version \"v1\""),
        (&file(""), "resources: Required value: at least one resources is required"),
    ] {
        let error = Encryption::read("ec.yaml", text, false).await.err().unwrap_or_default();
        assert!(error.starts_with("error while parsing file: ") && error.contains(words), "{error}\n{words}");
    }
}

#[tokio::test]
async fn the_first_provider_writes_and_all_read() {
    let (old, new) = (aes("old", 1), aes("new", 2));
    let before = encryption(&format!("- {{resources: [secrets], providers: [{{{old}}}, {{identity: {{}}}}]}}")).await.unwrap();
    let rotated = format!("- {{resources: [secrets], providers: [{{{new}}}, {{{old}}}, {{identity: {{}}}}]}}");
    let rotated = encryption(&rotated).await.unwrap();
    let alone = encryption(&format!("- {{resources: [secrets], providers: [{{{new}}}]}}")).await.unwrap();
    let plain = Bytes::from_static(PLAIN);
    let sealed = before.seal("", "secrets", KEY, &plain).unwrap();
    assert!(sealed.starts_with(b"k8s:enc:aescbc:v1:old:"), "{sealed:?}");
    assert_eq!(before.seal("", "configmaps", KEY, &plain).unwrap(), plain, "others are not encrypted");
    let opened =
        |encryption: &Encryption, stored: &Bytes| encryption.open("", "secrets", KEY, stored).map(|opened| (opened.plain, opened.is_stale));
    assert_eq!(opened(&before, &sealed), Ok((plain.clone(), false)));
    assert_eq!(opened(&rotated, &sealed), Ok((plain.clone(), true)));
    assert_eq!(opened(&rotated, &plain), Ok((plain.clone(), true)), "written before there was encryption");
    assert_eq!(opened(&alone, &sealed), Err("no matching key was found for the provided AES transformer".into()));
    assert_eq!(opened(&alone, &plain), Err("no matching prefix found".into()));
    let other = before.open("", "configmaps", KEY, &sealed).err();
    assert_eq!(other.as_deref(), Some("identity transformer tried to read encrypted data"));
    let rewritten = rotated.seal("", "secrets", KEY, &plain).unwrap();
    assert!(rewritten.starts_with(b"k8s:enc:aescbc:v1:new:"));
    assert_eq!(opened(&rotated, &rewritten), Ok((plain, false)));
}

#[tokio::test]
async fn wildcards_are_for_what_no_rule_names() {
    let (a, b, c) = (aes("a", 1), aes("b", 2), aes("c", 3));
    let rules = format!(
        "- {{resources: [secrets], providers: [{{{a}}}]}}\n- {{resources: [configmaps, events], providers: [{{identity: {{}}}}]}}\n\
         - {{resources: ['*.apps'], providers: [{{{b}}}]}}\n- {{resources: ['*.*'], providers: [{{{c}}}]}}"
    );
    let all = encryption(&rules).await.unwrap();
    let plain = Bytes::from_static(PLAIN);
    let written = |group: &str, resource: &str| {
        let sealed = all.seal(group, resource, KEY, &plain).unwrap();
        sealed.strip_prefix(b"k8s:enc:aescbc:v1:").map(|rest| char::from(rest[0]))
    };
    assert_eq!(written("", "secrets"), Some('a'));
    assert_eq!((written("", "configmaps"), written("", "events")), (None, None));
    assert_eq!(written("apps", "deployments"), Some('b'));
    assert_eq!((written("", "pods"), written("example.com", "secrets")), (Some('c'), Some('c')));
}

/// A value whose key is another one for each number.
fn of_kms(number: u8) -> Bytes {
    use super::envelope::{EncryptedObject, SEED};
    let object = EncryptedObject {
        data: Bytes::from_static(&[1; 64]),
        key_id: "key".into(),
        source: Bytes::copy_from_slice(&[number; 32]),
        annotations: std::collections::BTreeMap::new(),
        source_type: SEED,
    };
    [&b"k8s:enc:kms:v2:safe:"[..], &prost::Message::encode_to_vec(&object)].concat().into()
}

/// It takes connections, and says nothing.
#[tokio::test(start_paused = true)]
async fn a_kms_that_is_silent_is_waited_for_once_in_a_while_and_not_by_who_follows_the_store() {
    use std::{sync::Arc, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::kms::Kms;

    const TIMEOUT: Duration = Duration::from_secs(2);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kms.sock");
    let _silent = tokio::net::UnixListener::bind(&socket).unwrap();
    let config =
        serde_json::json!({"apiVersion": "v2", "name": "safe", "timeout": "2s", "endpoint": format!("unix://{}", socket.display())});
    let kms = Arc::new(Kms::of(&serde_json::from_value(config).unwrap()).unwrap());
    let waited = async |number: u8, patience: Patience| {
        let begun = Instant::now();
        kms.learn(&[&of_kms(number)], patience).await;
        begun.elapsed()
    };
    let begun = Instant::now();
    for number in 0..40 {
        waited(number, Patience::Waits).await;
    }
    assert!(begun.elapsed() < TIMEOUT * 2, "{:?}", begun.elapsed());
    let why = kms.open(&of_kms(7).slice("k8s:enc:kms:v2:safe:".len()..), b"k").unwrap_err();
    assert!(why.contains("context deadline exceeded"), "{why}");
    // All at once, and more than may ask at a time.
    sleep(TIMEOUT * 2).await;
    let begun = Instant::now();
    futures::future::join_all((50..90).map(|number| waited(number, Patience::Waits))).await;
    assert!(begun.elapsed() < TIMEOUT * 2, "{:?}", begun.elapsed());
    // However long ago it was that it did not answer.
    sleep(TIMEOUT * 100).await;
    assert!(waited(7, Patience::Passes).await < TIMEOUT / 2);
    assert!(waited(7, Patience::Waits).await >= TIMEOUT, "somebody has to ask it again");
    let begun = Instant::now();
    let checks = futures::future::join_all((0..8).map(|_| kms.check())).await;
    assert!(checks.iter().all(Result::is_err) && begun.elapsed() < TIMEOUT * 2, "{:?}", begun.elapsed());
}
