//! Secrets of type `kubernetes.io/service-account-token` -> filled with a token of their account, and gone with it.
//!
//! Source: `pkg/controller/serviceaccount/tokens_controller.go`. It runs where the tokens are signed, and not among the controllers: who may write
//! these Secrets for others may be anybody, and upstream's runs as the controller manager's own user.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api::{GroupResource, Key, Status};
use apiserver::engine::{Change, Engine, Object};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Tokens, legacy::Claims, system_user};
use crate::common::{Read, is_of_the_store};

/// `type` of these Secrets.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotations: whose token it is.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// After something went wrong.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Looks after them for as long as the server runs. `ca` is the cluster's (PEM).
pub async fn keep_token_secrets(engine: Arc<Engine>, tokens: Arc<Tokens>, ca: String) {
    let waiting = Arc::new(Waiting::default());
    waiting.follow(&engine);
    loop {
        waiting.some.notified().await;
        // One that cannot be written holds up no other: all are looked at before it comes again, unless it is the store that does not answer.
        let mut later = Vec::new();
        while let Some(what) = waiting.next() {
            if let Err(status) = Box::pin(look(&engine, &tokens, &ca, &what)).await {
                tracing::warn!(?what, error = status.message, "failed to look after the secrets of tokens");
                // What is refused as it stands is looked at when it changes.
                if !matches!(status.code, 400 | 403 | 413 | 422) {
                    later.push(what);
                }
                if is_of_the_store(&status) {
                    break;
                }
            }
        }
        if !later.is_empty() {
            tokio::time::sleep(RETRY_PAUSE).await;
            later.into_iter().for_each(|what| waiting.add(what));
        }
    }
}

/// What is to be looked at; each once, so that there are no more than objects.
#[derive(Default)]
struct Waiting {
    keys: Mutex<BTreeSet<What>>,
    some: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Secret(Key),
    /// An account that is gone.
    Account(Key),
}

impl Waiting {
    fn follow(self: &Arc<Self>, engine: &Arc<Engine>) {
        let this = self.clone();
        let on_secret = move |change: &Change| {
            if let Some(secret) = change.new.as_ref().filter(|secret| is_one(secret)) {
                this.add(What::Secret(secret.key.clone()));
            }
        };
        engine.on_change(&GroupResource::new("", "secrets"), Arc::new(on_secret));
        let this = self.clone();
        let on_account = move |change: &Change| {
            if let (None, Some(old)) = (&change.new, &change.old) {
                this.add(What::Account(old.key.clone()));
            }
        };
        engine.on_change(&GroupResource::new("", "serviceaccounts"), Arc::new(on_account));
    }

    fn add(&self, what: What) {
        self.keys.lock().insert(what);
        self.some.notify_one();
    }

    fn next(&self) -> Option<What> {
        self.keys.lock().pop_first()
    }
}

fn is_one(secret: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(default, rename = "type")]
        typ: Option<String>,
    }
    // Most secrets do not have the word in them.
    mentions(secret.stored(), TYPE) && secret.part::<Typed>().is_ok_and(|typed| typed.typ.as_deref() == Some(TYPE))
}

fn mentions(bytes: &[u8], word: &str) -> bool {
    memchr::memmem::find(bytes, word.as_bytes()).is_some()
}

async fn look(engine: &Arc<Engine>, tokens: &Tokens, ca: &str, what: &What) -> Result<(), Status> {
    match what {
        What::Secret(key) => one(engine, tokens, ca, key).await,
        What::Account(account) => {
            for secret in engine.cached_list(&secrets(), Some(&account.namespace)) {
                if is_one(&secret) && annotation(&secret.value(), ACCOUNT) == account.name {
                    one(engine, tokens, ca, &secret.key).await?;
                }
            }
            Ok(())
        }
    }
}

fn secrets() -> GroupResource {
    GroupResource::new("", "secrets")
}

fn annotation<'v>(object: &'v Value, name: &str) -> &'v str {
    object.at("metadata").at("annotations").text(name)
}

async fn one(engine: &Arc<Engine>, tokens: &Tokens, ca: &str, key: &Key) -> Result<(), Status> {
    let Some(secret) = engine.cached(&secrets(), key).filter(|secret| !secret.is_deleting()) else { return Ok(()) };
    let value = secret.value();
    let (account, uid) = (annotation(&value, ACCOUNT), annotation(&value, ACCOUNT_UID));
    if account.is_empty() {
        return Ok(());
    }
    let of_account = Key::new(&key.namespace, account);
    let found = match engine.get(&GroupResource::new("", "serviceaccounts"), &of_account).await {
        Ok(found) => Some(found).filter(|found| uid.is_empty() || found.uid() == uid),
        Err(status) if status.code == 404 => None,
        Err(status) => return Err(status),
    };
    let done = match found {
        None => {
            let options = json!({"preconditions": {"uid": secret.uid()}});
            engine.delete(&secrets(), key, options, &system_user()).await
        }
        Some(_) if is_whole(&value, ca) => return Ok(()),
        Some(found) => fill(engine, tokens, ca, &secret, &found).await,
    };
    match done {
        // Somebody else was there first: it is heard of.
        Err(status) if [404, 409].contains(&status.code) => Ok(()),
        done => done,
    }
}

fn is_whole(secret: &Value, ca: &str) -> bool {
    let data = secret.at("data");
    !data.text("token").is_empty() && !data.text("namespace").is_empty() && data.text("ca.crt") == BASE64_STANDARD.encode(ca)
}

async fn fill(engine: &Arc<Engine>, tokens: &Tokens, ca: &str, secret: &Arc<Object>, account: &Arc<Object>) -> Result<(), Status> {
    let key = &secret.key;
    let token = tokens.sign(&Claims::new(&key.namespace, &account.key.name, account.uid(), &key.name))?;
    let change = |object: &mut Value| {
        if object.at("metadata").text("uid") != secret.uid() {
            return Err(Status::conflict(&secrets(), &key.name, "it is another one"));
        }
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        let data = &mut object["data"];
        data["ca.crt"] = BASE64_STANDARD.encode(ca).into();
        for (name, text) in [("namespace", &key.namespace), ("token", &token)] {
            if data[name].as_str().unwrap_or_default().is_empty() {
                data[name] = BASE64_STANDARD.encode(text).into();
            }
        }
        if !object["metadata"]["annotations"].is_object() {
            object["metadata"]["annotations"] = json!({});
        }
        let annotations = &mut object["metadata"]["annotations"];
        annotations[ACCOUNT] = account.key.name.as_str().into();
        annotations[ACCOUNT_UID] = account.uid().into();
        Ok(())
    };
    Box::pin(engine.update(&secrets(), key, "", &system_user(), &change)).await.map(drop)
}
