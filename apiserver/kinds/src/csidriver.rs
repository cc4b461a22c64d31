//! CSIDriver: the strategy of what a CSI driver needs of the cluster. Source: `pkg/registry/storage/csidriver`, `ValidateCSIDriver` in
//! `pkg/apis/storage/validation`, `SetDefaults_CSIDriver`.

use std::{borrow::Cow, collections::HashSet};

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Kind, Scope, Strategy};
use serde_json::{Value, json};

use crate::common::{self, Path, Read, edit, not_supported, read, table, unchanged};

const SPEC: Path<'static> = Path::new("spec");
const UPDATE_PERIOD_SECONDS: i64 = 10;
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;
const MODES: &[&str] = &["Persistent", "Ephemeral"];
/// What is a flag, in the order of the cells that begin with them, and what it is where nobody says.
const FLAGS: &[(&str, bool)] = &[
    ("attachRequired", true),
    ("podInfoOnMount", false),
    ("storageCapacity", false),
    ("requiresRepublish", false),
    ("seLinuxMount", false),
];
const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column(
        "AttachRequired",
        "boolean",
        "attachRequired indicates this CSI volume driver requires an attach operation (because it implements the CSI ControllerPublishVolume() method), and that the Kubernetes attach detach controller should call the attach volume interface which checks the volumeattachment status and waits until the volume is attached before proceeding to mounting. The CSI external-attacher coordinates with CSI volume driver and updates the volumeattachment status when the attach operation is complete. If the value is specified to false, the attach operation will be skipped. Otherwise the attach operation will be called.\n\nThis field is immutable.",
    ),
    table::column(
        "PodInfoOnMount",
        "boolean",
        "podInfoOnMount indicates this CSI volume driver requires additional pod information (like podName, podUID, etc.) during mount operations, if set to true. If set to false, pod information will not be passed on mount. Default is false.\n\nThe CSI driver specifies podInfoOnMount as part of driver deployment. If true, Kubelet will pass pod information as VolumeContext in the CSI NodePublishVolume() calls. The CSI driver is responsible for parsing and validating the information passed in as VolumeContext.\n\nThe following VolumeContext will be passed if podInfoOnMount is set to true. This list might grow, but the prefix will be used. \"csi.storage.k8s.io/pod.name\": pod.Name \"csi.storage.k8s.io/pod.namespace\": pod.Namespace \"csi.storage.k8s.io/pod.uid\": string(pod.UID) \"csi.storage.k8s.io/ephemeral\": \"true\" if the volume is an ephemeral inline volume\n                                defined by a CSIVolumeSource, otherwise \"false\"\n\n\"csi.storage.k8s.io/ephemeral\" is a new feature in Kubernetes 1.16. It is only required for drivers which support both the \"Persistent\" and \"Ephemeral\" VolumeLifecycleMode. Other drivers can leave pod info disabled and/or ignore this field. As Kubernetes 1.15 doesn't support this field, drivers can only support one mode when deployed on such a cluster and the deployment determines which mode that is, for example via a command line parameter of the driver.\n\nThis field was immutable in Kubernetes < 1.29 and now is mutable.",
    ),
    table::column(
        "StorageCapacity",
        "boolean",
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that the driver deployment will report by creating CSIStorageCapacity objects with capacity information, if set to true.\n\nThe check can be enabled immediately when deploying a driver. In that case, provisioning new volumes with late binding will pause until the driver deployment has published some suitable CSIStorageCapacity object.\n\nAlternatively, the driver can be deployed with the field unset or false and it can be flipped later when storage capacity information has been published.\n\nThis field was immutable in Kubernetes <= 1.22 and now is mutable.",
    ),
    table::column(
        "TokenRequests",
        "string",
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do necessary authentication. Kubelet will pass the tokens in VolumeContext in the CSI NodePublishVolume calls. The CSI driver should parse and validate the following VolumeContext: \"csi.storage.k8s.io/serviceAccount.tokens\": {\n  \"<audience>\": {\n    \"token\": <token>,\n    \"expirationTimestamp\": <expiration timestamp in RFC3339>,\n  },\n  ...\n}\n\nNote: Audience in each TokenRequest should be different and at most one token is empty string. To receive a new token after expiry, RequiresRepublish can be used to trigger NodePublishVolume periodically.",
    ),
    table::column(
        "RequiresRepublish",
        "boolean",
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any possible change in the mounted volume. This field defaults to false.\n\nNote: After a successful initial NodePublishVolume call, subsequent calls to NodePublishVolume should only update the contents of the volume. New mount points will not be seen by a running container.",
    ),
    table::column(
        "Modes",
        "string",
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports. The default if the list is empty is \"Persistent\", which is the usage defined by the CSI specification and implemented in Kubernetes via the usual PV/PVC mechanism.\n\nThe other mode is \"Ephemeral\". In this mode, volumes are defined inline inside the pod spec with CSIVolumeSource and their lifecycle is tied to the lifecycle of that pod. A driver has to be aware of this because it is only going to get a NodePublishVolume call for such a volume.\n\nFor more information about implementing this mode, see https://kubernetes-csi.github.io/docs/ephemeral-local-volumes.html A driver can support one or more of these modes and more modes may be added in the future.\n\nThis field is beta. This field is immutable.",
    ),
    table::AGE_COLUMN,
];

pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        columns: Cow::Borrowed(COLUMNS),
        ..common::kind("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "io.k8s.api.storage.v1", CsiDrivers)
    }
}

struct CsiDrivers;

impl Strategy for CsiDrivers {
    fn default(&self, object: &mut Value) {
        let Some(spec) = edit::make_child(object, "spec") else { return };
        for (flag, value) in FLAGS {
            edit::default_to(spec, flag, *value);
        }
        edit::default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.list("volumeLifecycleModes").is_empty() {
            edit::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
        for request in edit::each(spec, "tokenRequests") {
            // A Go string without `omitempty`: it is always written.
            edit::default_to(request, "audience", "");
        }
    }

    /// The gate `VolumeLimitScaling` is closed.
    fn prepare_create(&self, _ctx: &Ctx<'_>, object: &mut Value) {
        if let Some(spec) = edit::child(object, "spec") {
            edit::remove(spec, "preventPodSchedulingIfMissing");
        }
    }

    /// The generation starts at none, and counts the changes of the spec.
    fn prepare_update(&self, ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        if old.at("spec").at("preventPodSchedulingIfMissing").is_none() {
            self.prepare_create(ctx, new);
        }
        if !read::same(new.at("spec"), old.at("spec"))
            && let Some(metadata) = edit::child(new, "metadata")
        {
            edit::set(metadata, "generation", old.at("metadata").int("generation").unwrap_or(0) + 1);
        }
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let spec = object.at("spec");
        match spec.text("fsGroupPolicy") {
            "ReadWriteOnceWithFSType" | "File" | "None" => {}
            other => causes.not_supported(SPEC.field("fsGroupPolicy"), other, &["ReadWriteOnceWithFSType", "File", "None"]),
        }
        token_requests(spec.list("tokenRequests"), SPEC.field("tokenRequests"), causes);
        for mode in spec.list("volumeLifecycleModes").iter().filter_map(Value::as_str).filter(|mode| !MODES.contains(mode)) {
            not_supported(mode, MODES, SPEC.field("volumeLifecycleModes"), causes);
        }
        let period = SPEC.field("nodeAllocatableUpdatePeriodSeconds");
        if let Some(seconds) = spec.int("nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < UPDATE_PERIOD_SECONDS) {
            causes.invalid(period, seconds, "must be greater than or equal to 10 seconds");
        }
        if let Some(flag) = spec.flag("serviceAccountTokenInSecrets").filter(|_| spec.list("tokenRequests").is_empty()) {
            let text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            causes.invalid(SPEC.field("serviceAccountTokenInSecrets"), flag, text);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        // Upstream's path of the first is not the field's name.
        for (field, path) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            unchanged(new.at("spec").at(field), old.at("spec").at(field), SPEC.field(path), causes);
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let requests = |object: Option<&Value>| object.at("spec").at("tokenRequests").cloned();
        let spec = new.at("spec");
        let is_new = old.is_none_or(|old| !read::same(requests(Some(new)).as_ref(), requests(Some(old)).as_ref()));
        if !is_new || spec.list("tokenRequests").is_empty() || spec.at("serviceAccountTokenInSecrets").is_some() {
            return Vec::new();
        }
        let advice = "if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        vec![format!("spec.serviceAccountTokenInSecrets is unset; {advice}")]
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = object.at("spec");
        let flag = |name: &str| Value::from(spec.flag(name).unwrap_or(name == "attachRequired"));
        let words = |list: &[Value]| list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        let audiences = |list: &Value| list.as_array().into_iter().flatten().map(|r| r.text("audience")).collect::<Vec<_>>().join(",");
        vec![
            read::name(object).into(),
            flag("attachRequired"),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            spec.at("tokenRequests").map_or_else(|| "<unset>".into(), audiences).into(),
            flag("requiresRepublish"),
            table::or_none(&words(spec.list("volumeLifecycleModes"))),
            table::age(object, now),
        ]
    }
}

/// `validateTokenRequests`
fn token_requests(requests: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut audiences = HashSet::new();
    for (i, request) in requests.iter().enumerate() {
        let (at, audience) = (path.index(i), request.text("audience"));
        if !audiences.insert(audience) {
            causes.duplicate(at.field("audience"), audience);
            continue;
        }
        let Some(seconds) = request.int("expirationSeconds") else { continue };
        if seconds < *TOKEN_SECONDS.start() {
            causes.invalid(at.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > *TOKEN_SECONDS.end() {
            causes.invalid(at.field("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": spec});
        CsiDrivers.default(&mut object);
        object
    }

    fn texts(check: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut causes = FieldErrors::default();
        check(&mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn each_rule_has_its_words() {
        let requests = |of: &[(&str, i64)]| -> Value { of.iter().map(|(a, s)| json!({"audience": a, "expirationSeconds": s})).collect() };
        let cases: Vec<(Value, &[&str])> = vec![
            (Value::Null, &[]),
            (
                json!({"fsGroupPolicy": "Any"}),
                &[r#"spec.fsGroupPolicy: Unsupported value: "Any": supported values: "File", "None", "ReadWriteOnceWithFSType""#],
            ),
            (
                json!({"volumeLifecycleModes": ["Ephemeral", "Once"]}),
                &[r#"spec.volumeLifecycleModes: Unsupported value: "Once": supported values: "Persistent", "Ephemeral""#],
            ),
            (
                json!({"nodeAllocatableUpdatePeriodSeconds": 9}),
                &["spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds"],
            ),
            (
                json!({"tokenRequests": requests(&[("a", 600), ("a", 1), ("b", 599), ("c", (1 << 32) + 1)])}),
                &[
                    r#"spec.tokenRequests[1].audience: Duplicate value: "a""#,
                    "spec.tokenRequests[2].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                    "spec.tokenRequests[3].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                ],
            ),
            (
                json!({"serviceAccountTokenInSecrets": false}),
                &[
                    "spec.serviceAccountTokenInSecrets: Invalid value: false: serviceAccountTokenInSecrets is set but no tokenRequests are specified",
                ],
            ),
        ];
        for (spec, wanted) in cases {
            assert_eq!(texts(|causes| CsiDrivers.validate(&of(spec.clone()), causes)), wanted, "{spec}");
        }
    }

    #[test]
    fn what_attaches_and_how_volumes_live_stays() {
        let (old, new) =
            (of(json!({})), of(json!({"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": true})));
        assert_eq!(
            texts(|causes| CsiDrivers.validate_update(&new, &old, causes)),
            [
                "spec.attachedRequired: Invalid value: false: field is immutable",
                r#"spec.volumeLifecycleModes: Invalid value: ["Ephemeral"]: field is immutable"#,
            ]
        );
    }

    #[test]
    fn tokens_outside_of_secrets_are_warned_of_when_they_are_new() {
        let (bare, with) = (of(json!({})), of(json!({"tokenRequests": [{"audience": "x"}]})));
        assert_eq!(CsiDrivers.warnings(&with, None).len(), 1);
        assert_eq!(CsiDrivers.warnings(&with, Some(&bare)).len(), 1);
        assert!(CsiDrivers.warnings(&with, Some(&with)).is_empty() && CsiDrivers.warnings(&bare, None).is_empty());
    }

    #[test]
    fn defaults_are_shown() {
        let cells = CsiDrivers.cells(&of(json!({})), Timestamp::UNIX_EPOCH);
        let wanted = json!(["a", true, false, false, "<unset>", false, "Persistent", "<unknown>"]);
        assert_eq!(Value::from(cells), wanted);
    }
}
