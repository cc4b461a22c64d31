//! Events beyond what a server, a namespace, a user or a source may send -> 429. Source: `plugin/pkg/admission/eventratelimit`.

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    time::Duration,
};

use api::{Status, field_errors::FieldErrors};
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::{is, writes};
use crate::common::{Path, Read, not_supported};

/// Buckets of a limit that says nothing else.
const BUCKETS: usize = 4096;
/// Of one that asks for more. A bucket takes some 100 bytes.
const BUCKETS_MAX: usize = 1 << 20;
const TYPES: &[&str] = &["Server", "Namespace", "User", "SourceAndObject"];

#[derive(Default)]
pub struct EventRateLimit(Vec<Limit>);

struct Limit {
    of: Of,
    per_second: f64,
    burst: f64,
    buckets_most: usize,
    buckets: Mutex<Buckets>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// Buckets by a hash of their key, which events choose freely; the one that was longest not asked for makes way.
#[derive(Default)]
struct Buckets {
    by_key: HashMap<u64, Bucket>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    hasher: RandomState,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
    used: u64,
}

impl EventRateLimit {
    /// # Errors
    /// What is wrong with the limits, in upstream's words.
    pub fn configured(config: Option<&Value>) -> Result<Self, String> {
        let (limits, path, mut causes) = (config.list("limits"), Path::new("limits"), FieldErrors::default());
        if limits.is_empty() {
            causes.invalid(path, Value::Array(Vec::new()), "must not be empty");
        }
        for (i, limit) in limits.iter().enumerate() {
            let (at, typ) = (path.index(i), limit.text("type"));
            if !TYPES.contains(&typ) {
                not_supported(typ, TYPES, at.field("type"), &mut causes);
            }
            for field in ["burst", "qps"] {
                let number = limit.int(field).unwrap_or(0);
                if number <= 0 {
                    causes.invalid(at.field(field), number, "must be positive");
                }
            }
            if let Some(size) = limit.int("cacheSize").filter(|size| *size < 0 && typ != "Server") {
                causes.invalid(at.field("cacheSize"), size, "must not be negative");
            }
        }
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        if texts.is_empty() { Ok(Self(limits.iter().map(Limit::of).collect())) } else { Err(texts.join(", ")) }
    }
}

#[async_trait]
impl Admission for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !is(review, "", "events") || !writes(review) || review.ctx.dry_run {
            return Ok(());
        }
        let now = Instant::now();
        let object = review.object.as_deref();
        let refused: Vec<String> = self.0.iter().filter_map(|limit| limit.refusal(&limit.key(review, object), now)).collect();
        match refused.as_slice() {
            [] => Ok(()),
            [one] => Err(too_many(one)),
            all => Err(too_many(&format!("[{}]", all.join(", ")))),
        }
    }
}

/// `NewTooManyRequestsError`
fn too_many(why: &str) -> Status {
    Status::new(429, "TooManyRequests", format!("Too many requests: {why}"))
}

impl Limit {
    fn of(limit: &Value) -> Self {
        let of = match limit.text("type") {
            "Server" => Of::Server,
            "Namespace" => Of::Namespace,
            "User" => Of::User,
            _ => Of::SourceAndObject,
        };
        let number = |field: &str| f64::from(limit.int(field).and_then(|number| i32::try_from(number).ok()).unwrap_or(i32::MAX));
        let asked = limit.int("cacheSize").and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let buckets_most = if of == Of::Server { 1 } else { asked.unwrap_or(BUCKETS).min(BUCKETS_MAX) };
        Self { of, per_second: number("qps"), burst: number("burst"), buckets_most, buckets: Mutex::default() }
    }

    fn key(&self, review: &Review<'_>, event: Option<&Value>) -> String {
        match self.of {
            Of::Server => String::new(),
            Of::Namespace => review.ctx.namespace.to_owned(),
            Of::User => review.ctx.user.name.clone(),
            Of::SourceAndObject => {
                let (source, object) = (event.at("source"), event.at("involvedObject"));
                let of = ["kind", "namespace", "name", "uid", "apiVersion"].map(|field| object.text(field)).concat();
                [source.text("component"), source.text("host"), &of].concat()
            }
        }
    }

    fn refusal(&self, key: &str, now: Instant) -> Option<String> {
        let mut buckets = self.buckets.lock();
        let hash = buckets.hasher.hash_one(key);
        if buckets.takes(hash, self, now) {
            return None;
        }
        Some(format!("limit reached on type {:?} for key {key}", self.of))
    }
}

impl Buckets {
    fn takes(&mut self, key: u64, limit: &Limit, now: Instant) -> bool {
        self.uses += 1;
        let used = self.uses;
        let bucket = self.by_key.entry(key).or_insert(Bucket { tokens: limit.burst, filled: now, used: 0 });
        self.by_use.remove(&bucket.used);
        self.by_use.insert(used, key);
        let since = now.checked_duration_since(bucket.filled).unwrap_or(Duration::ZERO).as_secs_f64();
        (bucket.tokens, bucket.filled, bucket.used) = ((bucket.tokens + since * limit.per_second).min(limit.burst), now, used);
        let is_there = bucket.tokens >= 1.0;
        if is_there {
            bucket.tokens -= 1.0;
        }
        if self.by_key.len() > limit.buckets_most
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_key.remove(&oldest);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limit(config: Value) -> Limit {
        EventRateLimit::configured(Some(&json!({"limits": [config]}))).unwrap().0.pop().unwrap()
    }

    #[tokio::test]
    async fn a_bucket_runs_dry_and_fills_again() {
        let limit = limit(json!({"type": "Namespace", "qps": 2, "burst": 3}));
        let now = Instant::now();
        let took = |key: &str, at: Instant| (0..5).filter(|_| limit.refusal(key, at).is_none()).count();
        assert_eq!((took("a", now), took("b", now)), (3, 3));
        assert_eq!(limit.refusal("a", now).unwrap(), "limit reached on type Namespace for key a");
        assert_eq!(took("a", now + Duration::from_secs(1)), 2);
        assert_eq!(took("a", now + Duration::from_secs(3600)), 3);
    }

    #[tokio::test]
    async fn as_many_buckets_are_kept_as_are_asked_for() {
        let limit = limit(json!({"type": "User", "qps": 1, "burst": 1, "cacheSize": 2}));
        let now = Instant::now();
        let takes = |key: &str| limit.refusal(key, now).is_none();
        assert!(takes("a") && takes("b") && !takes("a"));
        assert!(takes("c"), "another one takes the place of the one that was longest not used");
        assert!(!takes("a") && takes("b"), "which was not a's");
        assert_eq!(limit.buckets.lock().by_key.len(), 2);
    }

    #[test]
    fn limits_have_rules() {
        let of = |config: Value| EventRateLimit::configured(Some(&config)).err().unwrap_or_default();
        assert_eq!(of(json!({})), "limits: Invalid value: []: must not be empty");
        assert_eq!(
            of(json!({"limits": [{"type": "Node", "qps": 0, "burst": 1, "cacheSize": -1}]})),
            "limits[0].type: Unsupported value: \"Node\": supported values: \"Server\", \"Namespace\", \"User\", \"SourceAndObject\", \
             limits[0].qps: Invalid value: 0: must be positive, limits[0].cacheSize: Invalid value: -1: must not be negative"
        );
    }
}
