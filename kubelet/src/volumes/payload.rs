//! Volume source + the objects it names -> the files it shows.
//!
//! Source: `MakePayload` in `pkg/volume/{configmap,secret}`, `CollectData` in `pkg/volume/downwardapi`, `collectData` in `pkg/volume/projected`.

use std::collections::BTreeMap;

use api::k8s::{
    ByteString,
    api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, VolumeProjection},
};

use super::{
    objects::All,
    ownership::{fs_group, fs_user},
};
use crate::{
    downward::{self, Allocatable},
    meta,
};

/// A file's content, permission bits, and owner where it is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;
/// Audience (empty: the API server's) and lifetime in seconds.
pub type Wanted = (String, i64);
/// What became of each token that was asked for.
pub type Tokened = BTreeMap<Wanted, Result<String, String>>;

/// Most that the files of one volume may take, in bytes as [`room`] counts them: a few lines of a pod show one key under ten thousand names.
pub const VOLUME_BYTES_MAX: u64 = 32 << 20;

/// What a file takes of a file system in memory: whole pages, and one for its name.
fn room(file: &File) -> u64 {
    const PAGE: u64 = 4096;
    (file.data.len() as u64).next_multiple_of(PAGE) + PAGE
}

/// What all files of a volume take.
pub fn size(files: &Payload) -> u64 {
    files.values().map(room).sum()
}

/// The files of one volume, as they are gathered.
#[derive(Default)]
struct Gathered {
    files: Payload,
    bytes: u64,
}

impl Gathered {
    fn add(&mut self, path: &str, data: &[u8], mode: u32) -> Result<(), String> {
        let file = File { data: data.to_vec(), mode, owner: None };
        self.bytes += room(&file);
        self.files.insert(path.to_owned(), file);
        fits(self.bytes)
    }
}

fn fits(bytes: u64) -> Result<(), String> {
    if bytes <= VOLUME_BYTES_MAX {
        return Ok(());
    }
    Err(format!("the volume's files take more than {VOLUME_BYTES_MAX} bytes"))
}

const MODE: i32 = 0o644;
/// Of `expirationSeconds` where it is not given.
const TOKEN_SECONDS: i64 = 3600;

/// One volume's source, with what it is read from.
pub struct Reading<'a> {
    pub pod: &'a Pod,
    pub all: &'a All,
    pub tokens: &'a Tokened,
    pub allocatable: Allocatable,
}

/// The mode of `defaultMode`.
pub fn mode(given: Option<i32>) -> u32 {
    u32::try_from(given.unwrap_or(MODE)).unwrap_or(0o644) & 0o7777
}

/// The tokens that a pod's projected volumes ask for.
pub fn tokens_wanted(pod: &Pod) -> Vec<Wanted> {
    let volumes = meta::spec(pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let sources = volumes.iter().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    let mut wanted: Vec<Wanted> = sources.filter_map(|s| s.service_account_token.as_ref()).map(wanted_of).collect();
    wanted.sort();
    wanted.dedup();
    wanted
}

impl Reading<'_> {
    /// # Errors
    /// Upstream's words.
    pub fn config_map(&self, name: &str, items: Option<&[KeyToPath]>, mode: u32, optional: Optional) -> Result<Payload, String> {
        if let Some(why) = self.all.failed_config_map(name) {
            return Err(why.clone());
        }
        let found = match (self.all.fetched.config_map(name), optional) {
            (Err(_), Optional::Yes) => return Ok(Payload::new()),
            (found, _) => found?,
        };
        let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
        data.extend(found.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
        data.extend(found.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
        select(&data, items, mode, optional, "configmap references non-existent config key: ")
    }

    /// # Errors
    /// Upstream's words.
    pub fn secret(&self, name: &str, items: Option<&[KeyToPath]>, mode: u32, optional: Optional) -> Result<Payload, String> {
        if let Some(why) = self.all.failed_secret(name) {
            return Err(why.clone());
        }
        let found = match (self.all.fetched.secret(name), optional) {
            (Err(_), Optional::Yes) => return Ok(Payload::new()),
            (found, _) => found?,
        };
        let pairs = found.data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice()));
        select(&pairs.collect(), items, mode, optional, "references non-existent secret key: ")
    }

    /// # Errors
    /// Upstream's words.
    pub fn downward(&self, items: &[DownwardAPIVolumeFile], mode_default: u32) -> Result<Payload, String> {
        let mut gathered = Gathered::default();
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(self.pod, &field.field_path)?,
                (None, Some(resource)) => downward::resource(self.pod, None, resource, self.allocatable)?,
                (None, None) => String::new(),
            };
            let mode = item.mode.map_or(mode_default, |m| mode(Some(m)));
            gathered.add(&item.path, value.as_bytes(), mode)?;
        }
        Ok(gathered.files)
    }

    /// All sources over each other; the later wins.
    ///
    /// # Errors
    /// All that is wrong, as upstream aggregates it.
    pub fn projected(&self, source: &ProjectedVolumeSource) -> Result<Payload, String> {
        let mode = mode(source.default_mode);
        let (mut payload, mut wrong) = (Payload::new(), Vec::new());
        for one in source.sources.iter().flatten() {
            match self.projection(one, mode) {
                Ok(files) => {
                    payload.extend(files);
                    fits(size(&payload))?;
                }
                Err(why) => wrong.push(why),
            }
        }
        match wrong.as_slice() {
            [] => Ok(payload),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    fn projection(&self, source: &VolumeProjection, mode: u32) -> Result<Payload, String> {
        if let Some(s) = &source.secret {
            return self.secret(&s.name, s.items.as_deref(), mode, Optional::of(s.optional));
        }
        if let Some(c) = &source.config_map {
            return self.config_map(&c.name, c.items.as_deref(), mode, Optional::of(c.optional));
        }
        if let Some(d) = &source.downward_api {
            return self.downward(d.items.as_deref().unwrap_or_default(), mode);
        }
        let Some(token) = &source.service_account_token else {
            return Err("projections of clusterTrustBundle and podCertificate are not supported".into());
        };
        let text = self.tokens.get(&wanted_of(token)).cloned().unwrap_or_else(|| Err("no token was requested".into()))?;
        let owner = fs_user(self.pod).and_then(|user| u32::try_from(user).ok());
        // With fsGroup, ownership raises this to 0640; with one user, the file is that user's.
        let private = owner.is_some() || fs_group(self.pod).is_some();
        let file = File { data: text.into_bytes(), mode: if private { 0o600 } else { mode }, owner };
        Ok([(token.path.clone(), file)].into())
    }
}

/// Whether a missing object or key is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optional {
    Yes,
    No,
}

impl Optional {
    pub fn of(field: Option<bool>) -> Self {
        if field == Some(true) { Optional::Yes } else { Optional::No }
    }
}

fn wanted_of(token: &api::k8s::api::core::v1::ServiceAccountTokenProjection) -> Wanted {
    (token.audience.clone().unwrap_or_default(), token.expiration_seconds.unwrap_or(TOKEN_SECONDS))
}

fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode_default: u32,
    optional: Optional,
    missing: &str,
) -> Result<Payload, String> {
    let mut gathered = Gathered::default();
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        data.iter().try_for_each(|(key, bytes)| gathered.add(key, bytes, mode_default))?;
        return Ok(gathered.files);
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => gathered.add(&item.path, bytes, item.mode.map_or(mode_default, |m| mode(Some(m))))?,
            None if optional == Optional::Yes => {}
            None => return Err(format!("{missing}{}", item.key)),
        }
    }
    Ok(gathered.files)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::container_config::testing::pod;

    fn all() -> All {
        let map = serde_json::from_str(r#"{"metadata":{"name":"c"},"data":{"a":"1"},"binaryData":{"b":"AAE="}}"#).unwrap();
        let secret = serde_json::from_str(r#"{"metadata":{"name":"s"},"data":{"x":"c2VjcmV0"}}"#).unwrap();
        let mut all = All { namespace: "default".into(), ..All::default() };
        all.fetched.config_maps.insert("c".into(), Arc::new(map));
        all.fetched.secrets.insert("s".into(), Arc::new(secret));
        all
    }

    #[test]
    fn a_key_shown_over_and_over_is_refused() {
        let large = vec![b'x'; 1 << 20];
        let data = BTreeMap::from([("k", large.as_slice())]);
        let items = |count: usize| (0..count).map(|i| KeyToPath { key: "k".into(), path: format!("p{i}"), mode: None }).collect::<Vec<_>>();
        let gather = |count: usize| select(&data, Some(&items(count)), 0o644, Optional::No, "");
        assert_eq!(gather(20).unwrap().len(), 20);
        assert!(gather(40_000).unwrap_err().contains("take more than"));
        let tiny = BTreeMap::from([("k", b"x".as_slice())]);
        assert!(select(&tiny, Some(&items(40_000)), 0o644, Optional::No, "").is_err(), "names take room, too");
    }

    fn projected(p: &Pod, json: &str) -> Result<Payload, String> {
        let tokens =
            [(("aud".to_owned(), 600), Ok("tok".to_owned())), ((String::new(), 3600), Err("failed to fetch token: no".to_owned()))];
        let (all, tokens) = (all(), tokens.into());
        let reading = Reading { pod: p, all: &all, tokens: &tokens, allocatable: Allocatable::default() };
        reading.projected(&serde_json::from_str(json).unwrap())
    }

    fn shown(payload: &Payload) -> Vec<(String, String, u32)> {
        payload.iter().map(|(k, f)| (k.clone(), String::from_utf8_lossy(&f.data).into_owned(), f.mode)).collect()
    }

    #[test]
    fn sources_lie_over_each_other() {
        let p = pod(r#"{"containers":[{"name":"a"}]}"#);
        let got = projected(
            &p,
            r#"{"defaultMode":292,"sources":[{"configMap":{"name":"c","items":[{"key":"a","path":"d/a","mode":256}]}},
            {"secret":{"name":"s"}},{"secret":{"name":"none","optional":true}},{"downwardAPI":{"items":[{"path":"n","fieldRef":{"fieldPath":"metadata.name"}}]}},
            {"serviceAccountToken":{"path":"token","audience":"aud","expirationSeconds":600}}]}"#,
        );
        let wanted = [("d/a", "1", 0o400), ("n", "web", 0o444), ("token", "tok", 0o444), ("x", "secret", 0o444)];
        assert_eq!(shown(&got.unwrap()), wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c)));
    }

    #[test]
    fn tokens_are_private_to_their_user_or_group() {
        let one = r#"{"sources":[{"serviceAccountToken":{"path":"t","audience":"aud","expirationSeconds":600}}]}"#;
        let by_user = pod(r#"{"securityContext":{"runAsUser":5},"containers":[{"name":"a"}]}"#);
        assert_eq!(projected(&by_user, one).unwrap()["t"], File { data: b"tok".into(), mode: 0o600, owner: Some(5) });
        let by_group = pod(r#"{"securityContext":{"fsGroup":5},"containers":[{"name":"a"}]}"#);
        assert_eq!(projected(&by_group, one).unwrap()["t"].mode, 0o600);
    }

    #[test]
    fn all_that_is_wrong_is_said() {
        let p = pod(r#"{"containers":[{"name":"a"}]}"#);
        let got = projected(
            &p,
            r#"{"sources":[{"configMap":{"name":"c","items":[{"key":"z","path":"z"}]}},{"secret":{"name":"none"}},
            {"secret":{"name":"s","items":[{"key":"z","path":"z"}]}},{"serviceAccountToken":{"path":"token"}},{"clusterTrustBundle":{"path":"x"}}]}"#,
        );
        let text = got.unwrap_err();
        for part in [
            "[configmap references non-existent config key: z, ",
            "secret \"none\" not found, ",
            "references non-existent secret key: z, ",
            "failed to fetch token: no, ",
            "clusterTrustBundle",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn binary_keys_are_files_too() {
        let (p, all, tokens) = (pod(r#"{"containers":[]}"#), all(), Tokened::new());
        let reading = Reading { pod: &p, all: &all, tokens: &tokens, allocatable: Allocatable::default() };
        let got = reading.config_map("c", None, 0o644, Optional::No).unwrap();
        assert_eq!(got["b"].data, [0, 1]);
        assert_eq!(got.len(), 2);
        assert_eq!(mode(Some(0o400)), 0o400);
    }
}
