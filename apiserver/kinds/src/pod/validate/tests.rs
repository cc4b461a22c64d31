//! Pods with one fault each -> the causes upstream gives.

use serde_json::json;

use super::*;
use crate::pod::defaults;

fn good() -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "default",
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "items": [{"key": "k", "path": "a/b"}]}}],
        "initContainers": [{"name": "i", "image": "x"}],
        "containers": [{"name": "a", "image": "x", "ports": [{"name": "http", "containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}],
            "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"exec": {"command": ["true"]}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            "resources": {"limits": {"cpu": "1", "example.com/gpu": 1}}, "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}}}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]}}},
        "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a.b"]}],
    }});
    defaults::pod(&mut pod);
    pod
}

/// Sets what stands at a pointer (the parent must be there; `-` appends) and gives the texts of all causes.
fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut pod = good();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match pod.pointer_mut(parent).unwrap_or_else(|| panic!("{parent} is there")) {
        Value::Array(list) if name == "-" => list.push(value),
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        Value::Object(map) => drop(map.insert(name.replace("~1", "/"), value)),
        _ => panic!("{parent} holds nothing"),
    }
    let mut causes = FieldErrors::default();
    super::pod(&pod, &mut causes);
    super::create(&pod, &mut causes);
    causes.0.iter().map(|c| c.text()).collect()
}

fn check(cases: &[(&str, Value, &[&str])]) {
    for (pointer, value, wanted) in cases {
        let found = with(pointer, value.clone());
        let fits = found.len() == wanted.len()
            && found.iter().zip(*wanted).all(|(f, w)| f == w || (w.ends_with('…') && f.starts_with(w.trim_end_matches('…'))));
        assert!(fits, "{pointer} = {value}:\n{found:#?}\nis not\n{wanted:#?}");
    }
}

#[test]
fn a_good_pod_has_no_causes() {
    assert_eq!(with("/spec/hostname", json!("h")), Vec::<String>::new());
    let mut causes = FieldErrors::default();
    let mut template = good();
    template["spec"]["containers"][0]["image"] = json!(" x");
    super::spec(&template["spec"], Owner::Template, Path::new("spec.template.spec"), &mut causes);
    assert!(causes.is_empty(), "templates may hold padded images");
}

#[test]
fn container_faults() {
    let a = "/spec/containers/0";
    check(&[
        ("/spec/containers", json!([]), &["spec.containers: Required value"]),
        (&format!("{a}/name"), json!(""), &["spec.containers[0].name: Required value"]),
        (&format!("{a}/name"), json!("A_b"), &["spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must…"]),
        (&format!("{a}/name"), json!("i"), &["spec.initContainers[0].name: Duplicate value: \"i\""]),
        (&format!("{a}/image"), json!(""), &["spec.containers[0].image: Required value"]),
        (
            &format!("{a}/image"),
            json!(" x"),
            &["spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace"],
        ),
        (
            &format!("{a}/imagePullPolicy"),
            json!("Often"),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            "/spec/initContainers/0/livenessProbe",
            json!({"exec": {"command": ["x"]}}),
            &["spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"],
        ),
        (
            &format!("{a}/restartPolicy"),
            json!("Sometimes"),
            &["spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\""],
        ),
        (
            "/spec/ephemeralContainers",
            json!([{"name": "e", "image": "x:1", "terminationMessagePolicy": "File", "imagePullPolicy": "Always"}]),
            &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
    ]);
}

#[test]
fn port_faults() {
    let ports = "/spec/containers/0/ports";
    let port = |extra: Value| {
        let mut port = json!({"containerPort": 81, "protocol": "TCP"});
        port.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        port
    };
    check(&[
        (&format!("{ports}/0/containerPort"), json!(0), &["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            &format!("{ports}/0/containerPort"),
            json!(70000),
            &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (&format!("{ports}/-"), port(json!({"name": "http"})), &["spec.containers[0].ports[1].name: Duplicate value: \"http\""]),
        (
            &format!("{ports}/-"),
            port(json!({"name": "averylongportname"})),
            &["spec.containers[0].ports[1].name: Invalid value: \"averylongportname\": must be no more than 15 characters"],
        ),
        (
            &format!("{ports}/-"),
            port(json!({"protocol": "ICMP"})),
            &["spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
        ),
        (
            ports,
            json!([port(json!({"hostPort": 80})), port(json!({"hostPort": 80}))]),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
        (
            "/spec/hostNetwork",
            json!(true),
            &["spec.containers[0].ports[0].hostPort: Invalid value: 0: must match `containerPort` when `hostNetwork` is true"],
        ),
    ]);
}

#[test]
fn environment_faults() {
    let env = "/spec/containers/0/env/-";
    let at = "spec.containers[0].env[2]";
    check(&[
        (env, json!({"value": "x"}), &[&format!("{at}.name: Required value")]),
        (
            env,
            json!({"name": "A=B"}),
            &[&format!(
                "{at}.name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='"
            )],
        ),
        (
            env,
            json!({"name": "A", "valueFrom": {}}),
            &[&format!(
                "{at}.valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            )],
        ),
        (
            env,
            json!({"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            &[&format!("{at}.valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")],
        ),
        (
            env,
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.phase"}}}),
            &[&format!(
                "{at}.valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\",…"
            )],
        ),
        (
            env,
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}}),
            &[&format!(
                "{at}.valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x"
            )],
        ),
        (
            env,
            json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}}}),
            &[&format!(
                "{at}.valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            )],
        ),
        (
            env,
            json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x"}}}),
            &[&format!("{at}.valueFrom.configMapKeyRef.key: Required value")],
        ),
        (
            "/spec/containers/0/envFrom",
            json!([{}]),
            &["spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
        ),
    ]);
}

#[test]
fn volume_and_mount_faults() {
    let (mounts, volumes) = ("/spec/containers/0/volumeMounts/-", "/spec/volumes/-");
    let at = "spec.volumes[2]";
    check(&[
        (mounts, json!({"name": "none", "mountPath": "/x"}), &["spec.containers[0].volumeMounts[1].name: Not found: \"none\""]),
        (
            mounts,
            json!({"name": "v", "mountPath": "/v"}),
            &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique"],
        ),
        (
            mounts,
            json!({"name": "v", "mountPath": "/w", "subPath": "../x"}),
            &["spec.containers[0].volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'"],
        ),
        (
            mounts,
            json!({"name": "v", "mountPath": "/w", "mountPropagation": "Bidirectional"}),
            &[
                "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            ],
        ),
        (volumes, json!({"name": "x"}), &[&format!("{at}: Required value: must specify a volume type")]),
        (volumes, json!({"name": "v", "emptyDir": {}}), &[&format!("{at}.name: Duplicate value: \"v\"")]),
        (
            volumes,
            json!({"name": "x", "emptyDir": {}, "hostPath": {"path": "/"}}),
            &[&format!("{at}.hostPath: Forbidden: may not specify more than 1 volume type")],
        ),
        (
            volumes,
            json!({"name": "x", "hostPath": {"path": "/a/../b"}}),
            &[&format!("{at}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'")],
        ),
        (volumes, json!({"name": "x", "secret": {}}), &[&format!("{at}.secret.secretName: Required value")]),
        (
            volumes,
            json!({"name": "x", "configMap": {"name": "c", "defaultMode": 512, "items": [{"key": "k", "path": "..x"}]}}),
            &[
                &format!("{at}.configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"),
                &format!("{at}.configMap.items[0].path: Invalid value: \"..x\": must not start with '..'"),
            ],
        ),
        (
            volumes,
            json!({"name": "x", "downwardAPI": {"items": [{"path": "l"}]}}),
            &[&format!("{at}.downwardAPI: Required value: one of fieldRef and resourceFieldRef is required")],
        ),
        (
            volumes,
            json!({"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}}),
            &[&format!(
                "{at}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"
            )],
        ),
    ]);
}

#[test]
fn probe_and_handler_faults() {
    let a = "/spec/containers/0";
    check(&[
        (
            &format!("{a}/livenessProbe/httpGet/port"),
            json!(0),
            &["spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"],
        ),
        (
            &format!("{a}/livenessProbe/successThreshold"),
            json!(2),
            &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            &format!("{a}/livenessProbe/exec"),
            json!({"command": ["x"]}),
            &["spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type"],
        ),
        (
            &format!("{a}/readinessProbe/exec"),
            json!(null),
            &["spec.containers[0].readinessProbe: Required value: must specify a handler type"],
        ),
        (
            &format!("{a}/readinessProbe/timeoutSeconds"),
            json!(-1),
            &["spec.containers[0].readinessProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            &format!("{a}/lifecycle/preStop/sleep/seconds"),
            json!(31),
            &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        ),
    ]);
}

#[test]
fn a_pod_has_no_fewer_huge_pages_than_its_containers() {
    let huge = |size: &str| json!({"cpu": "1", "hugepages-2Mi": size});
    let mut pod = good();
    let both = json!({"limits": huge("4Mi"), "requests": huge("4Mi")});
    pod["spec"]["containers"] = json!([{"name": "c", "image": "i", "resources": both}, {"name": "d", "image": "i", "resources": both}]);
    pod["spec"]["resources"] = json!({"limits": {"cpu": "9", "hugepages-2Mi": "6Mi"}, "requests": {"cpu": "9", "hugepages-2Mi": "6Mi"}});
    let mut causes = FieldErrors::default();
    super::pod(&pod, &mut causes);
    let found: Vec<String> = causes.0.iter().map(|cause| cause.text()).filter(|cause| cause.contains("aggregate")).collect();
    let of = |list: &str| {
        let at = format!("spec.resources.{list}[hugepages-2Mi]");
        format!("{at}: Invalid value: \"6Mi\": must be greater than or equal to aggregate container {list} of 8Mi")
    };
    assert_eq!(found, [of("requests"), of("limits")]);
}

#[test]
fn resource_faults() {
    let resources = "/spec/containers/0/resources";
    let at = "spec.containers[0].resources";
    check(&[
        (
            &format!("{resources}/requests/cpu"),
            json!("2"),
            &[&format!("{at}.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1")],
        ),
        (
            &format!("{resources}/requests/example.com~1gpu"),
            json!("2"),
            &[&format!("{at}.requests: Invalid value: \"2\": must be equal to example.com/gpu limit of 1")],
        ),
        (
            &format!("{resources}/limits/memory"),
            json!("-1"),
            &[&format!("{at}.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0")],
        ),
        (
            &format!("{resources}/limits/disk"),
            json!("1"),
            &[
                &format!("{at}.limits[disk]: Invalid value: \"disk\": must be a standard resource type or fully qualified"),
                &format!("{at}.limits[disk]: Invalid value: \"disk\": must be a standard resource for containers"),
            ],
        ),
        (
            "/spec/resources",
            json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "600m"}}),
            &[
                "spec.resources.requests[cpu]: Invalid value: \"500m\": must be greater than or equal to aggregate container requests of 1",
                "spec.resources.containers[0][cpu].limits: Invalid value: \"1\": must be less than or equal to pod limits of 600m",
            ],
        ),
        (
            &format!("{resources}/limits/memory"),
            json!("1X"),
            &[&format!("{at}.limits[memory]: Invalid value: \"1X\": quantities must match…")],
        ),
    ]);
}

#[test]
fn scheduling_faults() {
    let term = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    check(&[
        (term, json!([]), &[&format!("{at}: Required value: must have at least one node selector term")]),
        (
            term,
            json!([{"matchExpressions": [{"key": "a", "operator": "In"}]}]),
            &[&format!("{at}[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'")],
        ),
        (
            "/spec/affinity/podAffinity",
            json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}, "topologyKey": "k", "namespaces": ["A"]}]}),
            &["spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: \"A\": a lowercase…"],
        ),
        (
            "/spec/tolerations/-",
            json!({"key": "a", "operator": "Exists", "value": "x"}),
            &["spec.tolerations[2].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'"],
        ),
        (
            "/spec/tolerations/-",
            json!({"key": "a", "effect": "Never"}),
            &[
                "spec.tolerations[2].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        (
            "/spec/topologySpreadConstraints/0/maxSkew",
            json!(0),
            &["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
        ),
        ("/spec/schedulingGates", json!([{"name": "a"}, {"name": "a"}]), &["spec.schedulingGates[1]: Duplicate value: \"a\""]),
        ("/spec/nodeSelector", json!({"a b": "c"}), &["spec.nodeSelector: Invalid value: \"a b\": name part must…"]),
    ]);
}

#[test]
fn faults_of_the_pod_itself() {
    check(&[
        (
            "/spec/restartPolicy",
            json!("always"),
            &["spec.restartPolicy: Unsupported value: \"always\": supported values: \"Always\", \"OnFailure\", \"Never\""],
        ),
        ("/spec/dnsPolicy", json!("None"), &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
        (
            "/spec/dnsConfig",
            json!({"nameservers": ["x"], "searches": ["a_b.c", "-"], "options": [{}]}),
            &[
                "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.dnsConfig.searches[1]: Invalid value: \"-\": a lowercase…",
                "spec.dnsConfig.options[0]: Required value: must not be empty",
            ],
        ),
        ("/spec/hostname", json!("a.b"), &["spec.hostname: Invalid value: \"a.b\": must not contain dots"]),
        (
            "/spec/activeDeadlineSeconds",
            json!(0),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "/spec/hostAliases/0/ip",
            json!("1.2.3"),
            &["spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        ),
        (
            "/spec/securityContext/runAsUser",
            json!(-1),
            &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        ),
        (
            "/spec/securityContext/sysctls",
            json!([{"name": "a..b"}]),
            &["spec.securityContext.sysctls[0].name: Invalid value: \"a..b\": must have at most 253 characters and match regex…"],
        ),
        (
            "/spec/securityContext/seccompProfile",
            json!({"type": "Localhost"}),
            &["spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"],
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            &[
                "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        ),
        ("/spec/os", json!({"name": "plan9"}), &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]),
        (
            "/metadata/annotations",
            json!({"kubernetes.io/config.mirror": "x"}),
            &[
                "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
            ],
        ),
    ]);
}
