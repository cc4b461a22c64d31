//! A staged volume -> published to one pod, its group given it; and once more where the driver wants that.
//!
//! Source: `csi_mounter.go`, `csi_block.go` in `pkg/volume/csi`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use api::{k8s::api::storage::v1::CSIDriverSpec, time::rfc3339};
use csi::{Driver, Supports, v1::NodePublishVolumeRequest};
use serde_json::{Value, json};

use super::{
    NAME, attachment_name, context, expand, paths, secrets,
    spec::{PERSISTENT, Recorded, Spec, pod_info},
};
use crate::{
    meta,
    volumes::{
        claims,
        ownership::{self, fs_group},
        plugin::{Mode, Mounted, VolumeToMount, blocking},
    },
};

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// What the server gives where a driver does not say.
const TOKEN_SECONDS: i64 = 3600;
/// Upstream's `fsGroupPolicy` of a driver that nothing is said of.
const USUAL_POLICY: &str = "ReadWriteOnceWithFSType";

/// All that one call takes.
struct Call {
    spec: Spec,
    driver: Driver,
    said: Option<CSIDriverSpec>,
    supports: Supports,
}

/// Publishes the volume to a pod that has it not yet, or not all of it.
///
/// # Errors
/// Upstream's words, or the driver's.
pub async fn first(volume: &VolumeToMount) -> Result<Mounted, String> {
    let call = Call::of(volume, Spec::of(volume)?).await?;
    let node = volume.node.as_ref().ok_or("it is not staged")?;
    let target = paths::target(volume.mode, &volume.dir(NAME), &node.staging, meta::uid(volume.pod()));
    paths::prepare(target.clone()).await?;
    let request = call.request(volume, &target).await?;
    if let Err(error) = call.driver.node_publish_volume(request).await {
        if error.is_final() {
            // It has ended what it did: what it left empty is in nobody's way.
            let _ = paths::unpublished(target).await;
        }
        return Err(error.to_string());
    }
    paths::check(volume.mode, target.clone()).await?;
    let read_only = call.spec.read_only;
    if volume.mode == Mode::Block {
        return Ok(Mounted { path: target, read_only });
    }
    call.give_to_group(volume, &target).await?;
    if !call.supports.stage && !call.spec.is_ephemeral {
        Box::pin(expand::before_use(volume, &target)).await?;
    }
    paths::done(target.clone(), call.data(volume)).await?;
    Ok(Mounted { path: target, read_only })
}

/// Publishes a volume that the pod has once more, where its driver wants that: tokens and contents are new then. What is mounted stays.
///
/// # Errors
/// As [`first`].
pub async fn again(volume: &VolumeToMount, of: &Recorded<'_>) -> Result<(), String> {
    let objects = &volume.host().csi.objects;
    if objects.driver_lately(of.driver).await?.is_none_or(|said| said.requires_republish != Some(true)) {
        return Ok(());
    }
    let mut volume = volume.clone();
    if !of.is_ephemeral {
        volume.claimed = claims::resolve(&volume).await?.map(Arc::new);
    }
    let call = Call::of(&volume, Spec::of(&volume)?).await?;
    let node = volume.node.as_ref().ok_or("it is not staged")?;
    let target = paths::target(volume.mode, &volume.dir(NAME), &node.staging, meta::uid(volume.pod()));
    let request = call.request(&volume, &target).await?;
    call.driver.node_publish_volume(request).await.map(drop).map_err(|error| error.to_string())
}

impl Call {
    async fn of(volume: &VolumeToMount, spec: Spec) -> Result<Self, String> {
        let csi = &volume.host().csi;
        let driver = csi.drivers.get(&spec.driver).await.map_err(|why| format!("mounter.SetUpAt failed to get CSI client: {why}"))?;
        let said = csi.objects.driver(&spec.driver).await?;
        lives_so(&spec, said.as_ref()).map_err(|why| format!("mounter.SetupAt failed to check volume lifecycle mode: {why}"))?;
        let supports = driver.supports().await.map_err(|error| error.to_string())?;
        Ok(Self { spec, driver, said, supports })
    }

    async fn request(&self, volume: &VolumeToMount, target: &Path) -> Result<NodePublishVolumeRequest, String> {
        let (spec, host) = (&self.spec, volume.host());
        let node = volume.node.as_ref().ok_or("it is not staged")?;
        let is_staged = !spec.is_ephemeral && self.supports.stage;
        let mut attributes = spec.attributes.clone();
        if self.said.as_ref().is_some_and(|said| said.pod_info_on_mount == Some(true)) {
            attributes.extend(pod_info(volume.pod(), spec.is_ephemeral));
        }
        let mut secrets = secrets(host, spec.publish_secret.as_ref(), "NodePublishSecretRef").await?;
        if let Some(tokens) = self.tokens(volume).await? {
            let in_secrets = self.said.as_ref().is_some_and(|said| said.service_account_token_in_secrets == Some(true));
            if in_secrets {
                secrets.insert(TOKENS.to_owned(), tokens);
            } else {
                attributes.insert(TOKENS.to_owned(), tokens);
            }
        }
        Ok(NodePublishVolumeRequest {
            volume_id: spec.handle.clone(),
            publish_context: context(host, node, spec).await?,
            staging_target_path: if is_staged { paths::text(&node.staging)? } else { String::new() },
            target_path: paths::text(target)?,
            volume_capability: Some(spec.capability(volume, self.supports)),
            readonly: spec.read_only,
            secrets,
            volume_context: attributes.into_iter().collect(),
        })
    }

    /// Tokens of the pod's account for the audiences that the driver wants, as JSON.
    async fn tokens(&self, volume: &VolumeToMount) -> Result<Option<String>, String> {
        let wanted = self.said.as_ref().and_then(|said| said.token_requests.as_deref()).unwrap_or_default();
        if wanted.is_empty() || volume.mode == Mode::Block {
            return Ok(None);
        }
        let mut tokens = BTreeMap::new();
        for request in wanted {
            let seconds = request.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let (token, expires) = volume.host().tokens.get_with_expiry(volume.pod(), &request.audience, seconds).await?;
            tokens.insert(request.audience.clone(), json!({"token": token, "expirationTimestamp": rfc3339(expires)}));
        }
        serde_json::to_string(&tokens).map(Some).map_err(|error| error.to_string())
    }

    async fn give_to_group(&self, volume: &VolumeToMount, target: &Path) -> Result<(), String> {
        let Some(group) = fs_group(volume.pod()) else { return Ok(()) };
        let policy = self.said.as_ref().map_or(Some(USUAL_POLICY), |said| said.fs_group_policy.as_deref()).unwrap_or_default();
        if policy.is_empty() {
            return Err(
                "mounter.SetupAt failed to check fsGroup policy: expected valid fsGroupPolicy, received nil value or empty string".into()
            );
        }
        if self.supports.mount_group || !is_given(&self.spec, policy) {
            return Ok(());
        }
        let (pod, target) = (volume.pod().clone(), target.to_owned());
        let given = blocking(move || ownership::apply_as_wanted(&target, group, &pod).map_err(|error| error.to_string())).await;
        given.map_err(|why| format!("applyFSGroup failed for vol {}: {why}", self.spec.handle))
    }

    /// Upstream's `vol_data.json` of a pod's mount.
    fn data(&self, volume: &VolumeToMount) -> Value {
        let node_name = &volume.host().csi.node_name;
        json!({"specVolID": volume.volume.name, "volumeHandle": self.spec.handle, "driverName": self.spec.driver, "nodeName": node_name,
            "volumeLifecycleMode": self.spec.lifecycle(), "attachmentID": attachment_name(&self.spec.handle, &self.spec.driver, node_name)})
    }
}

/// Upstream: `supportsVolumeLifecycleMode`.
fn lives_so(spec: &Spec, said: Option<&CSIDriverSpec>) -> Result<(), String> {
    let mode = spec.lifecycle();
    let modes = match said {
        None if mode == PERSISTENT => return Ok(()),
        None => return Err(format!("volume mode {mode:?} not supported by driver {} (no CSIDriver object)", spec.driver)),
        Some(said) => said.volume_lifecycle_modes.as_deref().unwrap_or_default(),
    };
    if modes.iter().any(|there| there == mode) {
        return Ok(());
    }
    Err(format!("volume mode {mode:?} not supported by driver {} (only supports {modes:?})", spec.driver))
}

/// Whether the node agent gives the volume to the pod's group. Upstream: `supportsFSGroup`.
fn is_given(spec: &Spec, policy: &str) -> bool {
    match policy {
        "None" => false,
        _ if spec.read_only => false,
        "File" => true,
        _ => !spec.fs_type.is_empty() && (spec.is_ephemeral || spec.access_modes.iter().any(|mode| mode == "ReadWriteOnce")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_given_what_the_policy_says() {
        let spec = |fs_type: &str, mode: &str| Spec { fs_type: fs_type.into(), access_modes: vec![mode.into()], ..Spec::default() };
        let usual = spec("ext4", "ReadWriteOnce");
        assert!(is_given(&usual, USUAL_POLICY) && is_given(&usual, "File") && !is_given(&usual, "None"));
        assert!(!is_given(&spec("", "ReadWriteOnce"), USUAL_POLICY) && !is_given(&spec("ext4", "ReadWriteMany"), USUAL_POLICY));
        assert!(is_given(&spec("", "ReadWriteMany"), "File"));
        assert!(!is_given(&Spec { read_only: true, ..usual.clone() }, "File"));
        assert!(is_given(&Spec { is_ephemeral: true, access_modes: vec![], ..usual }, USUAL_POLICY));
    }

    #[test]
    fn volumes_in_pods_are_of_drivers_that_say_so() {
        let (lasting, inline) =
            (Spec { driver: "d".into(), ..Spec::default() }, Spec { driver: "d".into(), is_ephemeral: true, ..Spec::default() });
        let said = |modes: &[&str]| CSIDriverSpec {
            volume_lifecycle_modes: Some(modes.iter().map(|mode| (*mode).to_owned()).collect()),
            ..CSIDriverSpec::default()
        };
        assert_eq!(lives_so(&lasting, None), Ok(()));
        assert_eq!(lives_so(&inline, None).unwrap_err(), "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)");
        assert_eq!(lives_so(&inline, Some(&said(&["Ephemeral"]))), Ok(()));
        let why = lives_so(&inline, Some(&said(&["Persistent"]))).unwrap_err();
        assert_eq!(why, "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])");
    }
}
