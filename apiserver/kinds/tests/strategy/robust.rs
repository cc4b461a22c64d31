//! Objects of any shape -> every strategy's hooks: they may find fault, they may not panic.

use api::{field_errors::FieldErrors, time::Timestamp};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Field names that strategies look for, so that random objects get past their first steps.
const NAMES: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "annotations",
    "template",
    "selector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "containers",
    "initContainers",
    "image",
    "env",
    "valueFrom",
    "fieldRef",
    "fieldPath",
    "resourceFieldRef",
    "divisor",
    "resource",
    "ports",
    "containerPort",
    "hostPort",
    "port",
    "volumes",
    "volumeMounts",
    "mountPath",
    "subPath",
    "emptyDir",
    "sizeLimit",
    "hostPath",
    "path",
    "configMap",
    "items",
    "projected",
    "sources",
    "resources",
    "limits",
    "requests",
    "cpu",
    "memory",
    "livenessProbe",
    "httpGet",
    "exec",
    "command",
    "lifecycle",
    "preStop",
    "sleep",
    "seconds",
    "securityContext",
    "sysctls",
    "affinity",
    "nodeAffinity",
    "podAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    "tolerations",
    "effect",
    "topologySpreadConstraints",
    "strategy",
    "type",
    "rollingUpdate",
    "maxSurge",
    "maxUnavailable",
    "replicas",
    "containerStatuses",
    "state",
    "terminated",
    "conditions",
    "hostNetwork",
    "dnsConfig",
    "nameservers",
    "searches",
    "hostAliases",
    "ip",
    "schedulingGates",
    "clusterIP",
    "data",
    "rules",
    "subsets",
    "addresses",
    "endpoints",
    "taints",
    "podCIDR",
    "finalizers",
    "activeDeadlineSeconds",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "A_b",
    "..",
    "../x",
    "a/b/c",
    "100%",
    "-1",
    "1Gi",
    "x'['",
    "metadata.labels['a",
    "ä",
    "10.0.0.1",
    "fd00::1",
    "In",
    "Exists",
    "RollingUpdate",
    "True",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
    ];
    leaf.prop_recursive(8, 128, 8, |inner| {
        let name = prop::sample::select(NAMES).prop_map(str::to_owned);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            4 => prop::collection::vec((name, inner), 0..8).prop_map(|all| Value::Object(all.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_strategy_panics(mut new in value(), old in value()) {
        let now = Timestamp::UNIX_EPOCH;
        for kind in kinds::table(&kinds::Config::default()) {
            let (strategy, mut causes) = (&kind.strategy, FieldErrors::default());
            strategy.default(&mut new);
            let once = new.clone();
            strategy.default(&mut new);
            prop_assert_eq!(&once, &new, "{}'s defaults are not idempotent", kind.kind);
            strategy.validate(&new, &mut causes);
            strategy.validate_update(&new, &old, &mut causes);
            strategy.validate_subresource("status", &new, &old, &mut causes);
            let _ = (strategy.warnings(&new, None), strategy.warnings(&new, Some(&old)), strategy.grace(&new, None), strategy.holds_deletion(&new));
            let cells = strategy.cells(&new, now);
            // Upstream's printer of IPAddresses writes an age that no column is for.
            let columns = kind.columns.len() + usize::from(kind.kind == "IPAddress");
            prop_assert!(kind.storage == apiserver::kind::Storage::Nowhere || cells.len() == columns, "{} cells", kind.kind);
        }
    }
}
