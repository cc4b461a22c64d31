//! The configuration, ready for use: which providers read and write a resource's values.
//!
//! Sources: apiserver `pkg/server/options/encryptionconfig/config.go`, `pkg/storage/value/transformer.go`, `encrypt/identity`.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use sha2::{Digest, Sha256};

use super::{
    ENCRYPTED,
    ciphers::KeyCipher,
    config::{Config, Keys, ProviderConfig, parse_resource, yaml_name},
    kms::{Kms, Patience},
};

/// What encrypts what.
pub struct Encryption {
    /// By group and resource, each of which may be `*`.
    by_resource: HashMap<(String, String), Vec<Arc<Provider>>>,
    kms: Vec<Arc<Kms>>,
    /// Of the file.
    pub(super) hash: [u8; 32],
}

/// One way to write values, or to read them.
struct Provider {
    prefix: Vec<u8>,
    cipher: Cipher,
}

enum Cipher {
    Identity,
    /// By the name that stands before the value, with its colon.
    Keys {
        keys: Vec<(Vec<u8>, KeyCipher)>,
        none: &'static str,
    },
    Kms(Arc<Kms>),
}

/// A value in the clear.
pub(super) struct Opened {
    pub plain: Bytes,
    /// It would be written otherwise now.
    pub is_stale: bool,
}

impl Encryption {
    /// From a file's text; each KMS is asked once whether it is there. `reload`: the file may change while the server runs.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub async fn read(path: &str, text: &str, reload: bool) -> Result<Self, String> {
        let config = Config::read(path, text, reload).map_err(|why| format!("error while parsing file: {why}"))?;
        let hash = Sha256::digest(text).into();
        let made = Self::of(&config, hash).map_err(|why| format!("error while building transformers: {why}"))?;
        made.prime().await;
        Ok(made)
    }

    fn of(config: &Config, hash: [u8; 32]) -> Result<Self, String> {
        let mut out = Self { by_resource: HashMap::new(), kms: Vec::new(), hash };
        for rule in &config.resources {
            let mut providers = Vec::new();
            for provider in &rule.providers {
                providers.push(Arc::new(out.provider(provider)?));
            }
            for name in &rule.resources {
                let (group, resource) = parse_resource(name);
                for mask in [(group.as_str(), "*"), ("*", "*")] {
                    if out.by_resource.contains_key(&(mask.0.to_owned(), mask.1.to_owned())) {
                        let (name, mask) = (yaml_name(&group, &resource), yaml_name(mask.0, mask.1));
                        return Err(format!("resource {name:?} is masked by earlier rule {mask:?}"));
                    }
                }
                out.by_resource.entry((group, resource)).or_default().extend(providers.iter().cloned());
            }
        }
        Ok(out)
    }

    fn provider(&mut self, config: &ProviderConfig) -> Result<Provider, String> {
        const AES: &str = "no matching key was found for the provided AES transformer";
        const SECRETBOX: &str = "no matching key was found for the provided Secretbox transformer";
        let of_keys = |prefix: &str, config: &Keys, none: &'static str, make: fn(&[u8]) -> Result<KeyCipher, String>| {
            let mut keys = Vec::new();
            for (name, secret) in config.decoded() {
                let cipher = make(&secret).map_err(|why| format!("error while creating cipher for named key {name}: {why}"))?;
                keys.push((format!("{name}:").into_bytes(), cipher));
            }
            Ok(Provider { prefix: prefix.as_bytes().to_vec(), cipher: Cipher::Keys { keys, none } })
        };
        match config {
            ProviderConfig { aesgcm: Some(keys), .. } => of_keys("k8s:enc:aesgcm:v1:", keys, AES, KeyCipher::gcm),
            ProviderConfig { aescbc: Some(keys), .. } => of_keys("k8s:enc:aescbc:v1:", keys, AES, KeyCipher::cbc),
            ProviderConfig { secretbox: Some(keys), .. } => of_keys("k8s:enc:secretbox:v1:", keys, SECRETBOX, KeyCipher::secretbox),
            ProviderConfig { kms: Some(config), .. } => {
                let prefix = format!("k8s:enc:kms:v2:{}:", config.name).into_bytes();
                let kms = Arc::new(Kms::of(config)?);
                self.kms.push(kms.clone());
                Ok(Provider { prefix, cipher: Cipher::Kms(kms) })
            }
            ProviderConfig { identity: Some(_), .. } => Ok(Provider { prefix: Vec::new(), cipher: Cipher::Identity }),
            _ => Err("provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity".into()),
        }
    }

    pub fn kms(&self) -> &[Arc<Kms>] {
        &self.kms
    }

    /// What its KMSs know that were there before.
    pub(super) fn inherit(&self, before: &Self) {
        for kms in &self.kms {
            before.kms.iter().filter(|old| old.is_same_plugin(kms)).for_each(|old| kms.inherit(old));
        }
    }

    /// Each KMS says which key it has; one that does not is asked again later.
    async fn prime(&self) {
        join_all(self.kms.iter().map(|kms| async {
            if let Err(error) = kms.check().await {
                tracing::error!(name = kms.name(), error, "kms plugin failed health check probe");
            }
        }))
        .await;
    }

    /// `transformerFromOverrides`. `None`: its values are not encrypted.
    fn providers(&self, group: &str, resource: &str) -> Option<&Vec<Arc<Provider>>> {
        let find = |group: &str, resource: &str| self.by_resource.get(&(group.to_owned(), resource.to_owned()));
        find(group, resource).or_else(|| find(group, "*")).or_else(|| find("*", "*"))
    }

    /// With the first provider, under `key` of the store.
    ///
    /// # Errors
    /// A KMS has given no key, or none for too long.
    pub(super) fn seal(&self, group: &str, resource: &str, key: &str, plain: &Bytes) -> Result<Bytes, String> {
        match self.providers(group, resource).and_then(|providers| providers.first()) {
            None => Ok(plain.clone()),
            Some(provider) => provider.seal(key, plain),
        }
    }

    /// With the first provider that can.
    ///
    /// # Errors
    /// None can: what those said that should.
    pub(super) fn open(&self, group: &str, resource: &str, key: &str, stored: &Bytes) -> Result<Opened, String> {
        let Some(providers) = self.providers(group, resource) else {
            return unencrypted(stored).map(|plain| Opened { plain, is_stale: false });
        };
        let mut errors = Vec::new();
        for (at, provider) in providers.iter().enumerate().filter(|(_, provider)| stored.starts_with(&provider.prefix)) {
            match provider.open(key, &stored.slice(provider.prefix.len()..)) {
                Ok(opened) => return Ok(Opened { is_stale: opened.is_stale || at > 0, ..opened }),
                // Encrypted, and another provider's.
                Err(_) if provider.prefix.is_empty() => {}
                Err(why) => errors.push(why),
            }
        }
        Err(aggregate(errors, "no matching prefix found"))
    }

    /// Asks each KMS for the keys of these values that are not known yet.
    pub(super) async fn learn(&self, values: impl Iterator<Item = &Bytes>, patience: Patience) {
        if self.kms.is_empty() {
            return;
        }
        let of_kms: Vec<&Bytes> = values.filter(|value| value.starts_with(b"k8s:enc:kms:v2:")).collect();
        if !of_kms.is_empty() {
            join_all(self.kms.iter().map(|kms| kms.learn(&of_kms, patience))).await;
        }
    }
}

impl Provider {
    fn seal(&self, key: &str, plain: &Bytes) -> Result<Bytes, String> {
        let (name, sealed) = match &self.cipher {
            Cipher::Identity => return Ok(plain.clone()),
            Cipher::Kms(kms) => (&[][..], kms.seal(plain, key.as_bytes())?),
            Cipher::Keys { keys, none } => {
                let (name, cipher) = keys.first().ok_or(*none)?;
                (name.as_slice(), cipher.seal(plain, key.as_bytes())?)
            }
        };
        Ok([&self.prefix, name, &sealed].concat().into_boxed_slice().into())
    }

    fn open(&self, key: &str, sealed: &Bytes) -> Result<Opened, String> {
        match &self.cipher {
            Cipher::Identity => unencrypted(sealed).map(|plain| Opened { plain, is_stale: false }),
            Cipher::Kms(kms) => kms.open(sealed, key.as_bytes()).map(|(plain, is_stale)| Opened { plain: plain.into(), is_stale }),
            Cipher::Keys { keys, none } => {
                let mut errors = Vec::new();
                for (at, (name, cipher)) in keys.iter().enumerate() {
                    let Some(rest) = sealed.strip_prefix(name.as_slice()) else { continue };
                    match cipher.open(rest, key.as_bytes()) {
                        Ok(plain) => return Ok(Opened { plain: plain.into_boxed_slice().into(), is_stale: at > 0 }),
                        Err(why) => errors.push(why),
                    }
                }
                Err(aggregate(errors, none))
            }
        }
    }
}

/// What is not encrypted, as it is.
///
/// # Errors
/// It is.
pub(super) fn unencrypted(stored: &Bytes) -> Result<Bytes, String> {
    if stored.starts_with(ENCRYPTED) { Err("identity transformer tried to read encrypted data".into()) } else { Ok(stored.clone()) }
}

/// `NewAggregate`, each text once.
fn aggregate(mut errors: Vec<String>, none: &str) -> String {
    let mut seen = std::collections::HashSet::new();
    errors.retain(|error| seen.insert(error.clone()));
    match errors.as_slice() {
        [] => none.to_owned(),
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}
