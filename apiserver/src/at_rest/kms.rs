//! A KMS plugin (v2) on a unix socket: it encrypts seeds, says which of its keys is the present one, and gives seeds back.
//!
//! Sources: apiserver `pkg/storage/value/encrypt/envelope/kmsv2/{envelope,grpc_service}.go`, `encryptionconfig/config.go`
//! (`kmsv2PluginProbe`), `staging/src/k8s.io/kms/apis/v2/api.proto`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    flight::{Flight, Flights},
    task::Group,
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::UnixStream, sync::Semaphore, time::Instant};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    config::KmsConfig,
    envelope::{Dek, EncryptedObject, KeyName, SEED, validate_key_id},
};

/// `kmsv2PluginWriteDEKSourceMaxTTL`: how long a seed is written with while its KMS does not answer.
const WRITE_FOR: Duration = Duration::from_secs(180);
/// `kmsPluginHealthzPositiveTTL`, `kmsPluginHealthzNegativeTTL`: so long an answer of its health stands.
const HEALTHY_FOR: Duration = Duration::from_secs(20);
const UNHEALTHY_FOR: Duration = Duration::from_secs(3);
/// `kmsv2PluginHealthzPositiveInterval`, `kmsv2PluginHealthzNegativeInterval`: so often it is asked.
const POLL_HEALTHY: Duration = Duration::from_secs(60);
const POLL_UNHEALTHY: Duration = Duration::from_secs(10);
/// Keys that are remembered of one KMS (upstream: those of a day).
const KEYS_MAX: usize = 4096;
/// Keys that are asked for at a time.
const ASKED_MAX: usize = 16;

/// One provider.
pub struct Kms {
    name: String,
    /// `unix:///run/kms.sock`
    endpoint: String,
    channel: Channel,
    timeout: Duration,
    state: ArcSwapOption<State>,
    /// The API's version, as its first answer said.
    version: Mutex<String>,
    last: Mutex<Option<Answered>>,
    probing: Flight<Result<(), String>>,
    keys: Mutex<Keys>,
    /// Whether a key has been learnt.
    asking: Flights<KeyName, bool>,
    turns: Semaphore,
}

/// Who wants keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Waits for as long as the KMS may take, once in a while.
    Waits,
    /// Holds up all others meanwhile: a KMS that did not answer last is left to those who wait.
    Passes,
}

struct Answered {
    at: Instant,
    outcome: Result<(), String>,
}

#[derive(Default)]
struct Keys {
    known: HashMap<KeyName, Arc<Dek>>,
    /// When others were asked for in vain last, and why.
    failed: HashMap<KeyName, Failure>,
    /// Of the last question of any sort, where there was no answer to it.
    silent: Option<Failure>,
    /// Why the last one that was asked for is not known.
    error: String,
}

#[derive(Clone)]
struct Failure {
    at: Instant,
    why: String,
}

impl Failure {
    fn stands(&self) -> bool {
        self.at.elapsed() < UNHEALTHY_FOR
    }
}

impl Keys {
    /// Whether a key is not to be asked for now: it is known, or it or any was asked for in vain just now.
    fn is_settled(&self, name: &KeyName) -> bool {
        let failed = self.failed.get(name).into_iter().chain(&self.silent);
        self.known.contains_key(name) || failed.into_iter().any(Failure::stands)
    }

    fn fail(&mut self, name: KeyName, why: String) {
        if self.failed.len() >= KEYS_MAX {
            self.failed.retain(|_, failure| failure.stands());
        }
        if self.failed.len() < KEYS_MAX {
            self.failed.insert(name, Failure { at: Instant::now(), why: why.clone() });
        }
        self.error = why;
    }

    fn why(&self, name: &KeyName) -> &str {
        self.failed.get(name).or(self.silent.as_ref()).map_or(&self.error, |failure| &failure.why)
    }
}

/// What is written with.
struct State {
    dek: Arc<Dek>,
    /// Without data.
    head: EncryptedObject,
    /// No more is written with it then, unless it was prolonged.
    until: Instant,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

impl Kms {
    /// Asks nothing yet. Must be called within a runtime.
    ///
    /// # Errors
    /// Its API is v1.
    pub(super) fn of(config: &KmsConfig) -> Result<Self, String> {
        if config.version() == "v1" {
            return Err(
                "KMSv1 is not supported (it is deprecated, and off in Kubernetes 1.36): Use KMSv2 instead, with apiVersion: v2".into()
            );
        }
        // What was begun ends within the timeout, whoever asked for it.
        let (socket, group) = (config.socket(), Group::new());
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Ok(Self {
            name: config.name.clone(),
            endpoint: config.endpoint.clone(),
            channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect),
            timeout: config.timeout(),
            state: ArcSwapOption::empty(),
            version: Mutex::default(),
            last: Mutex::default(),
            probing: Flight::new(&group),
            keys: Mutex::default(),
            asking: Flights::new(&group),
            turns: Semaphore::new(ASKED_MAX),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn is_same_plugin(&self, other: &Self) -> bool {
        self.name == other.name && self.endpoint == other.endpoint
    }

    /// The keys that another of the same plugin knows: values are opened that nobody waits for, and each key would have to be asked for anew.
    pub(super) fn inherit(&self, before: &Self) {
        let known: Vec<(KeyName, Arc<Dek>)> = before.keys.lock().known.iter().map(|(name, dek)| (*name, dek.clone())).collect();
        known.into_iter().for_each(|(name, dek)| self.remember(name, dek));
    }

    /// Whether it is well; it is asked, and a new seed is made where its key is another one, unless it was just now.
    ///
    /// # Errors
    /// Why not.
    pub async fn check(self: &Arc<Self>) -> Result<(), String> {
        let stands = |answered: &&Answered| answered.at.elapsed() < if answered.outcome.is_ok() { HEALTHY_FOR } else { UNHEALTHY_FOR };
        let known = || self.last.lock().as_ref().filter(stands).map(|answered| answered.outcome.clone());
        let kms = self.clone();
        let probe = || async move {
            let outcome = kms.probe().await;
            *kms.last.lock() = Some(Answered { at: Instant::now(), outcome: outcome.clone() });
            outcome
        };
        self.probing.join((), known, probe).await.unwrap_or_else(|lost| Err(lost.to_string()))
    }

    /// As [`Kms::check`], where it is time.
    pub(super) async fn poll(self: &Arc<Self>) {
        let due = {
            let last = self.last.lock();
            last.as_ref().is_none_or(|last| last.at.elapsed() >= if last.outcome.is_ok() { POLL_HEALTHY } else { POLL_UNHEALTHY })
        };
        if due && let Err(error) = self.check().await {
            tracing::error!(name = self.name, error, "kms plugin failed health check probe");
        }
    }

    async fn probe(&self) -> Result<(), String> {
        let name = &self.name;
        let status: StatusResponse = self
            .call("/v2.KeyManagementService/Status", StatusRequest {})
            .await
            .map_err(|why| format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {why}"))?;
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if matches!(status.version.as_str(), "v2" | "v2beta1") {
            let mut version = self.version.lock();
            if version.is_empty() {
                version.clone_from(&status.version);
            }
            if *version != status.version {
                let what = "KMSv2 API version should not change after the initial status response version";
                errors.push(format!("{what} {version}, got {}", status.version));
            }
        } else {
            errors.push(format!("expected KMSv2 API version v2, got {}", status.version));
        }
        match validate_key_id(&status.key_id) {
            Err(why) => errors.push(format!("got invalid KMSv2 KeyID hash {:?}: {why}", hashed(&status.key_id))),
            Ok(()) => errors.extend(self.rotate(&status.key_id).await.err()),
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("kmsv2 Provider {name} is not healthy, error: {one}")),
            all => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", all.join(", "))),
        }
    }

    /// `rotateDEKOnKeyIDChange`: goes on with the seed where the KMS still has the key, else makes another one.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Before it is asked: no longer than that is written with what it may have given up.
        let until = Instant::now() + WRITE_FOR;
        let state = self.state.load_full();
        if let Some(state) = state.as_ref().filter(|state| state.head.key_id == key_id) {
            let prolonged = State { dek: state.dek.clone(), head: state.head.clone(), until };
            self.state.store(Some(Arc::new(prolonged)));
            return Ok(());
        }
        let failed = |why: &str, encrypted: &str| {
            let now = state.as_ref().map(|state| hashed(&state.head.key_id)).unwrap_or_default();
            let ids = format!("statusKeyIDHash={:?}, encryptKeyIDHash={:?}, stateKeyIDHash={now:?}", hashed(key_id), hashed(encrypted));
            format!("failed to rotate DEK useSeed=true, errGen={why}, {ids}")
        };
        let (dek, head) = self.generate().await.map_err(|why| failed(&why, ""))?;
        if head.key_id != key_id {
            return Err(failed("<nil>", &head.key_id));
        }
        let dek = Arc::new(dek);
        self.remember(head.key_name(), dek.clone());
        self.state.store(Some(Arc::new(State { dek, head, until })));
        Ok(())
    }

    async fn generate(&self) -> Result<(Dek, EncryptedObject), String> {
        let (dek, plaintext) = Dek::generate()?;
        let uid = uuid::Uuid::new_v4().to_string();
        let encrypted: EncryptResponse = self
            .call("/v2.KeyManagementService/Encrypt", EncryptRequest { plaintext, uid })
            .await
            .map_err(|why| format!("failed to encrypt DEK, error: {why}"))?;
        let EncryptResponse { ciphertext: source, key_id, annotations } = encrypted;
        let head = EncryptedObject { data: Bytes::new(), key_id, source, annotations, source_type: SEED };
        head.validate(false)?;
        Ok((dek, head))
    }

    /// # Errors
    /// There is no seed, or it was not prolonged for too long.
    pub(super) fn seal(&self, plain: &[u8], authenticated: &[u8]) -> Result<Vec<u8>, String> {
        let state = self.state.load();
        let Some(state) = &*state else { return Err("got unexpected nil transformer".into()) };
        if Instant::now() > state.until {
            return Err(format!("encryptedDEKSource with keyID hash {:?} expired", hashed(&state.head.key_id)));
        }
        let data = state.dek.seal(plain, authenticated)?.into();
        Ok(EncryptedObject { data, ..state.head.clone() }.encode_to_vec())
    }

    /// With a key that is known; and whether another one is written with.
    ///
    /// # Errors
    /// It is no such value, or its key is not known: why the last one that was asked for is not.
    pub(super) fn open(&self, sealed: &Bytes, authenticated: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let object = EncryptedObject::read(sealed)?;
        let (name, state) = (object.key_name(), self.state.load());
        let dek = {
            let keys = self.keys.lock();
            let known = keys.known.get(&name).cloned();
            known.ok_or_else(|| format!("failed to decrypt DEK, error: {}", keys.why(&name)))?
        };
        let plain = dek.open(&object.data, authenticated).inspect_err(|_| {
            // It may be another key than the one that was asked for: it is asked for again, unless it was made here.
            if state.as_ref().is_none_or(|state| state.head.key_name() != name) {
                self.keys.lock().known.remove(&name);
            }
        })?;
        let is_other = |state: &Arc<State>| state.head.key_id != object.key_id || state.head.source_type != object.source_type;
        Ok((plain, state.as_ref().is_some_and(is_other)))
    }

    /// Asks for the keys of these values (whole, with their prefix) that are not known. What was asked for in vain just now is not asked for again, and
    /// where there is no answer at all the others are not waited for.
    pub(super) async fn learn(self: &Arc<Self>, values: &[&Bytes], patience: Patience) {
        let prefix = format!("k8s:enc:kms:v2:{}:", self.name);
        let mut unknown = HashMap::new();
        for value in values.iter().filter(|value| value.starts_with(prefix.as_bytes())) {
            let Ok(object) = EncryptedObject::read(&value.slice(prefix.len()..)) else { continue };
            let (name, keys) = (object.key_name(), self.keys.lock());
            if !keys.is_settled(&name) && (patience == Patience::Waits || keys.silent.is_none()) {
                unknown.insert(name, EncryptedObject { data: Bytes::new(), ..object });
            }
        }
        let asked = unknown.into_iter().map(|(name, object)| self.learn_one(name, object));
        let (mut answers, mut failures) = (stream::iter(asked).buffer_unordered(ASKED_MAX), 0);
        while let Some(is_learnt) = answers.next().await {
            failures += usize::from(!is_learnt);
            if failures >= ASKED_MAX || self.keys.lock().silent.is_some() {
                return;
            }
        }
    }

    /// Whether it is known then. Who waited while others were not answered is not answered either.
    async fn learn_one(self: &Arc<Self>, name: KeyName, object: EncryptedObject) -> bool {
        let known = || {
            let keys = self.keys.lock();
            keys.is_settled(&name).then(|| keys.known.contains_key(&name))
        };
        let kms = self.clone();
        let ask = || async move {
            // Never closed.
            let _turn = kms.turns.acquire().await;
            let silent = kms.keys.lock().silent.clone().filter(Failure::stands);
            let answer = match silent {
                Some(failure) => Err(failure.why),
                None => kms.decrypt(object).await,
            };
            match answer {
                Ok(dek) => kms.remember(name, Arc::new(dek)),
                Err(why) => {
                    kms.keys.lock().fail(name, why);
                    return false;
                }
            }
            true
        };
        self.asking.join(name, known, ask).await.unwrap_or(false)
    }

    async fn decrypt(&self, object: EncryptedObject) -> Result<Dek, String> {
        let EncryptedObject { key_id, source: ciphertext, annotations, source_type, .. } = object;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = DecryptRequest { ciphertext, uid, key_id, annotations };
        let answer: DecryptResponse = self.call("/v2.KeyManagementService/Decrypt", request).await?;
        Dek::of(source_type, &answer.plaintext)
    }

    fn remember(&self, name: KeyName, dek: Arc<Dek>) {
        let mut keys = self.keys.lock();
        if keys.known.len() >= KEYS_MAX {
            let present = self.state.load().as_ref().map(|state| state.head.key_name());
            let some = keys.known.keys().find(|known| Some(**known) != present).copied();
            if let Some(some) = some {
                keys.known.remove(&some);
            }
        }
        keys.failed.remove(&name);
        keys.known.insert(name, dek);
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, String>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let again = request.clone();
        let work = async {
            match self.ask(method, request).await {
                // The first word over a connection that was lost says so; the next one makes another.
                Err(status) if status.code() == Code::Unavailable => self.ask(method, again).await,
                answer => answer,
            }
        };
        let answer = match tokio::time::timeout(self.timeout, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        let is_silent = |status: &Status| matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        let answer = answer.map_err(|status| {
            let why = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
            (is_silent(&status), why)
        });
        let silent = answer.as_ref().err().filter(|(is_silent, _)| *is_silent);
        self.keys.lock().silent = silent.map(|(_, why)| Failure { at: Instant::now(), why: why.clone() });
        answer.map_err(|(_, why)| why)
    }

    async fn ask<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = client.unary(Request::new(request), PathAndQuery::from_static(method), ProstCodec::<Q, A>::default()).await;
        answer.map(tonic::Response::into_inner)
    }
}

/// `GetHashIfNotEmpty`
fn hashed(id: &str) -> String {
    use sha2::Digest;
    if id.is_empty() {
        return String::new();
    }
    let digest = sha2::Sha256::digest(id);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
