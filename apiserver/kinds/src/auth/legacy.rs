//! Service-account tokens that stand in Secrets -> users, for as long as the Secret has the very token and nobody marked it.
//!
//! Source: `pkg/serviceaccount/legacy.go`, KEP-2799. They have neither an end nor an audience; what ends them is their Secret.

use std::{collections::HashSet, sync::Arc};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::{Engine, Object},
    identity::{Known, User},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{audiences::Audiences, system_user};
use crate::common::Read;

/// `iss` of these tokens, whatever the others' is.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// Label of a Secret whose token is not taken any more, and since when.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Label of a Secret: the day on which its token was last seen.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

/// Such days that are written at a time.
const MARKS_MAX: usize = 64;

/// What such a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    pub iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
    pub sub: String,
    #[serde(skip_serializing_if = "no_audience")]
    pub aud: Audiences,
}

fn no_audience(audiences: &Audiences) -> bool {
    audiences.0.is_empty()
}

impl Claims {
    /// Of the token that `secret` is to have (`LegacyClaims`).
    pub fn new(namespace: &str, account: &str, uid: &str, secret: &str) -> Self {
        Self {
            iss: ISSUER.into(),
            namespace: namespace.into(),
            secret: secret.into(),
            account: account.into(),
            uid: uid.into(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            aud: Audiences::default(),
        }
    }

    /// Whether all is there.
    fn check(&self) -> Result<(), String> {
        let all = [
            (&self.sub, "sub"),
            (&self.namespace, "namespace"),
            (&self.secret, "secretName"),
            (&self.account, "serviceAccountName"),
            (&self.uid, "serviceAccountUID"),
        ];
        match all.iter().find(|(value, _)| value.is_empty()) {
            Some((_, name)) => Err(format!("{name} claim is missing")),
            None if self.sub != format!("system:serviceaccount:{}:{}", self.namespace, self.account) => Err("sub claim is invalid".into()),
            None => Ok(()),
        }
    }
}

/// Who bears it.
///
/// # Errors
/// In upstream's words.
pub(super) fn known(
    engine: &Arc<Engine>,
    marks: &Arc<Marks>,
    token: &str,
    claims: Claims,
    audiences: Vec<String>,
) -> Result<Known, String> {
    if claims.iss != ISSUER {
        return Err(format!("token issuer {:?} is invalid", claims.iss));
    }
    claims.check()?;
    let cached = |resource: &str, name: &str| engine.cached(&GroupResource::new("", resource), &Key::new(&claims.namespace, name));
    let secret = cached("secrets", &claims.secret).filter(|secret| !secret.is_deleting()).ok_or("Token has been invalidated")?;
    let value = secret.value();
    // Digests differ anywhere: how long they are compared tells nothing of the token.
    let kept = BASE64_STANDARD.decode(value.at("data").text("token")).unwrap_or_default();
    if Sha256::digest(&kept) != Sha256::digest(token) {
        return Err("Token does not match server's copy".into());
    }
    let account = cached("serviceaccounts", &claims.account);
    let account = account.ok_or_else(|| format!("serviceaccount {:?} not found", claims.account))?;
    if account.is_deleting() {
        return Err(format!("ServiceAccount {}/{} has been deleted", claims.namespace, claims.account));
    }
    if account.uid() != claims.uid {
        return Err(format!("ServiceAccount UID ({}) does not match claim ({})", account.uid(), claims.uid));
    }
    let labels = value.at("metadata").at("labels");
    marks.used(engine, &secret, labels.text(LAST_USED));
    if !labels.text(INVALID_SINCE).is_empty() {
        let (namespace, secret, account) = (&claims.namespace, &claims.secret, &claims.account);
        return Err(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    let groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{}", claims.namespace)];
    Ok(Known { user: Arc::new(User { name: claims.sub, uid: claims.uid, groups, ..User::default() }), audiences })
}

/// Writes of the day on which a token was last seen. Nobody who shows one waits for them.
#[derive(Default)]
pub(super) struct Marks(Mutex<HashSet<Key>>);

impl Marks {
    /// Notes the day, once a day. Tomorrow is as good: of several servers one's clock may be ahead.
    fn used(self: &Arc<Self>, engine: &Arc<Engine>, secret: &Arc<Object>, last: &str) {
        let now = Timestamp::now();
        let day = |seconds: i64| {
            let at = Timestamp::from_second(now.as_second() + seconds).unwrap_or(now);
            api::time::rfc3339(at).split('T').next().unwrap_or_default().to_owned()
        };
        let today = day(0);
        if last == today || last == day(24 * 3600) || !self.begins(&secret.key) {
            return;
        }
        let (marks, at, secret) = (self.clone(), engine.clone(), secret.clone());
        engine.group().spawn(Box::pin(async move {
            mark(&at, &secret, &today).await;
            marks.0.lock().remove(&secret.key);
        }));
    }

    /// One write for each Secret, and so many at a time: what is left out is noted with a later request.
    fn begins(&self, secret: &Key) -> bool {
        let mut going = self.0.lock();
        going.len() < MARKS_MAX && going.insert(secret.clone())
    }
}

async fn mark(engine: &Arc<Engine>, secret: &Object, today: &str) {
    let gr = GroupResource::new("", "secrets");
    let change = |object: &mut Value| {
        if object.at("metadata").text("uid") != secret.uid() {
            return Err(Status::conflict(&GroupResource::new("", "secrets"), &secret.key.name, "it is another one"));
        }
        if !object["metadata"]["labels"].is_object() {
            object["metadata"]["labels"] = json!({});
        }
        object["metadata"]["labels"][LAST_USED] = today.into();
        Ok(())
    };
    if let Err(status) = engine.update(&gr, &secret.key, "", &system_user(), &change).await {
        let key = &secret.key;
        tracing::error!(ns = key.namespace, name = key.name, error = status.message, "failed to label a token's secret with its last use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_one_secret_is_written_once_at_a_time_and_so_many_at_all() {
        let (marks, key) = (Marks::default(), |at: usize| Key::new("a", &format!("s{at}")));
        assert!(marks.begins(&key(0)) && !marks.begins(&key(0)));
        assert_eq!((1..2 * MARKS_MAX).filter(|at| marks.begins(&key(*at))).count(), MARKS_MAX - 1);
        marks.0.lock().remove(&key(0));
        assert!(marks.begins(&key(0)));
    }

    #[test]
    fn claims_must_be_whole() {
        let good = Claims::new("a", "robot", "u1", "robot-token");
        assert_eq!(good.check(), Ok(()));
        let text = serde_json::to_value(&good).unwrap();
        assert_eq!(text["kubernetes.io/serviceaccount/secret.name"], "robot-token");
        assert!(text.get("aud").is_none());
        for (field, why) in [
            ("sub", "sub claim is missing"),
            ("kubernetes.io/serviceaccount/namespace", "namespace claim is missing"),
            ("kubernetes.io/serviceaccount/service-account.uid", "serviceAccountUID claim is missing"),
        ] {
            let mut lacks = text.clone();
            lacks.as_object_mut().unwrap().shift_remove(field);
            assert_eq!(serde_json::from_value::<Claims>(lacks).unwrap().check().unwrap_err(), why);
        }
        assert_eq!(Claims { sub: "system:serviceaccount:b:robot".into(), ..good }.check().unwrap_err(), "sub claim is invalid");
    }
}
