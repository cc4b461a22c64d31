//! Random and the schema -> objects with any field set to the ends of its type, to null, to odd words. What was taken is the base of the next.

use std::{collections::BTreeMap, sync::Arc};

use apiserver::schema::{Structure, Table, Type};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};

use super::house::Asker;

/// What loops look at: collection below the namespace (or, without one, in the cluster), definition, and one that is taken as it is.
const KINDS: &[(&str, &str, &str)] = &[
    (
        "/api/v1/namespaces/NS/pods",
        "io.k8s.api.core.v1.Pod",
        r#"{"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]},"status":{"conditions":[{"type":"Ready","status":"True"}],"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}],"phase":"Running","containerStatuses":[{"name":"c","image":"i","imageID":"x","ready":true,"restartCount":1}]}}"#,
    ),
    (
        "/api/v1/namespaces/NS/pods",
        "io.k8s.api.core.v1.Pod",
        r#"{"metadata":{"labels":{"app":"a"}},"spec":{"initContainers":[{"name":"i","image":"i","restartPolicy":"Always"}],"containers":[{"name":"c","image":"i","livenessProbe":{"tcpSocket":{"port":1}},"resources":{"requests":{"cpu":"1m"},"limits":{"memory":"1Gi"}}}],"tolerations":[{"key":"k","operator":"Exists","effect":"NoExecute","tolerationSeconds":1}],"affinity":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"z","labelSelector":{}}}]},"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"preference":{"matchExpressions":[{"key":"a","operator":"Gt","values":["1"]}]}}]}},"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"z","whenUnsatisfiable":"ScheduleAnyway","labelSelector":{}}]},"status":{"startTime":null}}"#,
    ),
    (
        "/api/v1/namespaces/NS/pods",
        "io.k8s.api.core.v1.Pod",
        r#"{"spec":{"hostname":"h","subdomain":"s","hostAliases":[{"ip":"10.0.0.1","hostnames":["a"]}],"dnsConfig":{"nameservers":["10.0.0.2"],"searches":["a"],"options":[{"name":"ndots","value":"2"}]},"securityContext":{"runAsUser":1,"fsGroup":2,"supplementalGroups":[3],"sysctls":[{"name":"kernel.shm_rmid_forced","value":"0"}],"seccompProfile":{"type":"RuntimeDefault"}},"volumes":[{"name":"m","configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"a/b","mode":256}],"defaultMode":292}},{"name":"s","secret":{"secretName":"s","optional":true}},{"name":"e","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},{"name":"h","hostPath":{"path":"/h"}},{"name":"d","downwardAPI":{"items":[{"path":"n","fieldRef":{"fieldPath":"metadata.labels['a']"}}]}},{"name":"p","projected":{"sources":[{"serviceAccountToken":{"path":"t","expirationSeconds":600}},{"configMap":{"name":"kube-root-ca.crt"}},{"downwardAPI":{"items":[{"path":"c","resourceFieldRef":{"containerName":"c","resource":"limits.cpu","divisor":"1m"}}]}}]}}],"containers":[{"name":"c","image":"i:1","command":["sh","-c","$(A) $$(A) $("],"args":["$(HOST)"],"workingDir":"/w","env":[{"name":"A","value":"$(B)"},{"name":"HOST","valueFrom":{"fieldRef":{"fieldPath":"status.hostIP"}}},{"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"requests.cpu"}}},{"name":"K","valueFrom":{"configMapKeyRef":{"name":"kube-root-ca.crt","key":"ca.crt","optional":true}}}],"envFrom":[{"prefix":"P_","configMapRef":{"name":"x","optional":true}}],"ports":[{"containerPort":80,"hostPort":8080}],"resources":{"requests":{"cpu":"1m","memory":"1Mi"},"limits":{"memory":"1Gi"}},"volumeMounts":[{"name":"e","mountPath":"/e","subPathExpr":"$(A)/b","mountPropagation":"HostToContainer"},{"name":"m","mountPath":"m","readOnly":true}],"securityContext":{"capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]},"runAsNonRoot":true,"procMount":"Default"},"lifecycle":{"postStart":{"exec":{"command":["a"]}},"preStop":{"httpGet":{"port":"p"}}},"terminationMessagePath":"/dev/termination-log"}]}}"#,
    ),
    (
        "/api/v1/namespaces/NS/services",
        "io.k8s.api.core.v1.Service",
        r#"{"spec":{"selector":{"app":"a"},"ports":[{"name":"p","port":80}]},"status":{"conditions":[{"type":"A","status":"True","reason":"R","message":"","lastTransitionTime":null}],"loadBalancer":{"ingress":[{"ip":"192.0.2.9"}]}}}"#,
    ),
    (
        "/api/v1/namespaces/NS/endpoints",
        "io.k8s.api.core.v1.Endpoints",
        r#"{"subsets":[{"addresses":[{"ip":"10.0.0.1"}],"ports":[{"port":80}]}]}"#,
    ),
    (
        "/apis/discovery.k8s.io/v1/namespaces/NS/endpointslices",
        "io.k8s.api.discovery.v1.EndpointSlice",
        r#"{"metadata":{"labels":{"kubernetes.io/service-name":"canary"}},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"hostname":"h","conditions":{"ready":true}}],"ports":[{"name":"p","port":80}]}"#,
    ),
    (
        "/api/v1/nodes",
        "io.k8s.api.core.v1.Node",
        r#"{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]},"status":{"allocatable":{"cpu":"1","memory":"1Gi","pods":"9"},"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":null}],"images":[{"names":["i"],"sizeBytes":1}],"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}"#,
    ),
    (
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "io.k8s.api.coordination.v1.Lease",
        r#"{"spec":{"holderIdentity":"h","leaseDurationSeconds":1,"renewTime":"2026-01-01T00:00:00.000000Z"}}"#,
    ),
    (
        "/apis/apps/v1/namespaces/NS/deployments",
        "io.k8s.api.apps.v1.Deployment",
        r#"{"spec":{"replicas":1,"selector":{"matchLabels":{"app":"a"}},"strategy":{"rollingUpdate":{"maxSurge":1}},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":1,"conditions":[{"type":"Progressing","status":"True","lastUpdateTime":"2026-01-01T00:00:00Z"}]}}"#,
    ),
    (
        "/apis/apps/v1/namespaces/NS/replicasets",
        "io.k8s.api.apps.v1.ReplicaSet",
        r#"{"spec":{"replicas":1,"selector":{"matchLabels":{"app":"a"}},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":1,"conditions":[{"type":"A","status":"True"}]}}"#,
    ),
    (
        "/api/v1/namespaces/NS/replicationcontrollers",
        "io.k8s.api.core.v1.ReplicationController",
        r#"{"spec":{"replicas":1,"selector":{"app":"a"},"template":{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":1}}"#,
    ),
    (
        "/apis/policy/v1/namespaces/NS/poddisruptionbudgets",
        "io.k8s.api.policy.v1.PodDisruptionBudget",
        r#"{"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"a"}}},"status":{"currentHealthy":1,"desiredHealthy":1,"disruptionsAllowed":0,"expectedPods":1,"disruptedPods":{"p":"2026-01-01T00:00:00Z"},"conditions":[{"type":"A","status":"True","reason":"R","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#,
    ),
    (
        "/api/v1/namespaces/NS/configmaps",
        "io.k8s.api.core.v1.ConfigMap",
        r#"{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"a b","uid":"u"}]},"data":{"k":"v"}}"#,
    ),
    ("/api/v1/namespaces/NS/secrets", "io.k8s.api.core.v1.Secret", r#"{"data":{"k":"dg=="}}"#),
    ("/api/v1/namespaces/NS/serviceaccounts", "io.k8s.api.core.v1.ServiceAccount", r#"{"secrets":[{"name":"s"}]}"#),
    (
        "/api/v1/namespaces",
        "io.k8s.api.core.v1.Namespace",
        r#"{"metadata":{"labels":{"a":"b"}},"status":{"conditions":[{"type":"A","status":"True","lastTransitionTime":null}]}}"#,
    ),
    (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "io.k8s.api.rbac.v1.ClusterRole",
        r#"{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}],"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]}}"#,
    ),
    (
        "/api/v1/namespaces/NS/events",
        "io.k8s.api.core.v1.Event",
        r#"{"involvedObject":{"kind":"Pod","namespace":"NS","name":"p"},"reason":"R","message":"m"}"#,
    ),
];

/// How deep what is made from nothing goes.
const DEPTH_MAX: u32 = 4;
/// After so many that were taken the base is the first again.
const GROWN_MAX: u32 = 25;

const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    100,
    65535,
    65536,
    100_000_000,
    2_147_483_646,
    2_147_483_647,
    2_147_483_648,
    -2_147_483_648,
    4_294_967_295,
    i64::MAX,
    i64::MIN,
];
/// No range that holds the cluster's pods: a node that says it has all of it leaves none for the others, upstream, too.
const WORDS: &[&str] = &[
    "",
    "a",
    "a b",
    "ä",
    "0",
    "-1",
    "a/b",
    "../x",
    "%41",
    "a,b=c",
    "\u{0}",
    "\n",
    "None",
    "True",
    "False",
    "Unknown",
    "TCP",
    "UDP",
    "SCTP",
    "Always",
    "Never",
    "OnFailure",
    "IfNotPresent",
    "Exists",
    "Equal",
    "In",
    "NotIn",
    "DoesNotExist",
    "Gt",
    "Lt",
    "NoExecute",
    "NoSchedule",
    "PreferNoSchedule",
    "Recreate",
    "RollingUpdate",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "Local",
    "Cluster",
    "ClientIP",
    "IPv4",
    "IPv6",
    "FQDN",
    "Running",
    "Pending",
    "Succeeded",
    "Failed",
    "Ready",
    "Progressing",
    "ReplicaFailure",
    "DisruptionTarget",
    "DoNotSchedule",
    "ScheduleAnyway",
    "Honor",
    "Ignore",
    "VIP",
    "Proxy",
    "SingleStack",
    "PreferDualStack",
    "File",
    "FallbackToLogsOnError",
    "Default",
    "ClusterFirst",
    "HTTPS",
    "app",
    "i",
    "c",
    "p",
    "n1",
    "canary",
    "kubernetes.io/hostname",
    "z",
    "example.com/gpu",
    "10.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1%eth0",
    "10.0.0.0/33",
    "10.245.0.0/16",
    "host.example.",
    "2147483647%",
    "99999999999999999999",
    "1e400",
    "default-scheduler",
    "controller-revision-hash",
    "foregroundDeletion",
    "orphan",
    "example.com/f",
];
const QUANTITIES: &[&str] = &[
    "0",
    "1",
    "1m",
    "1n",
    "9223372036854775807",
    "9E",
    "1e30",
    "99999999999Ei",
    "0.0000000001",
    "123456789123456789",
    "1Ki",
    "-1",
    "100m",
];
const TIMES: &[&str] = &[
    "0001-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-30T22:00:00Z",
    "2026-01-01T00:00:00+23:59",
];
const PERCENTS: &[&str] = &["0%", "25%", "100%", "2147483647%", "99999999999999999999%", "http"];

/// What is worked out by the server, or names the object.
const KEPT: &[&str] = &["apiVersion", "kind", "name", "namespace", "uid", "resourceVersion", "generateName", "selfLink", "managedFields"];

pub struct Maker {
    random: StdRng,
    table: Arc<Table>,
    schemas: Vec<Structure>,
    /// By the kind's place in [`KINDS`]: the object that was taken last, and how often in a row.
    bases: BTreeMap<usize, (Value, u32)>,
    made: u64,
    /// Those in no namespace that goes.
    standing: Vec<String>,
}

pub struct Made {
    kind: usize,
    pub collection: String,
    pub name: String,
    pub object: Value,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        let shapes = &kinds::schema::TABLES;
        let schemas = KINDS.iter().map(|(_, definition, _)| shapes.structure(definition).expect("the kind has a shape")).collect();
        let table = shapes.table().clone();
        Self { random: StdRng::seed_from_u64(seed), table, schemas, bases: BTreeMap::new(), made: 0, standing: Vec::new() }
    }

    /// One more object, to be made in its collection.
    pub fn next(&mut self, namespace: &str) -> Made {
        self.made += 1;
        let kind = self.random.random_range(0..KINDS.len());
        let (collection, _, first) = KINDS[kind];
        let grown = self.bases.get(&kind).filter(|(_, grown)| *grown < GROWN_MAX).map(|(object, _)| object.clone());
        let mut object = grown.unwrap_or_else(|| serde_json::from_str(&first.replace("NS", namespace)).expect("JSON"));
        let typ = self.schemas[kind].typ();
        for _ in 0..self.random.random_range(0..3) {
            self.mutate(&mut object, typ, 0);
        }
        let name = format!("odd-{}", self.made);
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        object["metadata"]["name"] = name.as_str().into();
        bound(&mut object);
        Made { kind, collection: collection.replace("NS", namespace), name, object }
    }

    /// What was taken is the base of the next of its kind.
    pub fn judged(&mut self, made: &Made, taken: bool) {
        if taken {
            let grown = self.bases.get(&made.kind).map_or(0, |(_, grown)| grown % GROWN_MAX + 1);
            self.bases.insert(made.kind, (made.object.clone(), grown));
            if !KINDS[made.kind].0.contains("NS") {
                self.standing.push(format!("{}/{}", made.collection, made.name));
            }
        }
    }

    /// The object that was answered, with an odd status; `None` where its kind has none.
    pub fn status(&mut self, made: &Made, answered: &Value) -> Option<Value> {
        let Type::Object(root) = self.schemas[made.kind].typ() else { return None };
        let field = self.table.definition(root).fields.iter().find(|f| f.name == "status")?.typ;
        let mut status = made.object.get("status").cloned().unwrap_or_else(|| json!({}));
        for _ in 0..self.random.random_range(0..3) {
            self.mutate(&mut status, field, 1);
        }
        let mut object = answered.clone();
        object["status"] = status;
        Some(object)
    }

    /// Deletes what does not go with the namespace, and the namespace.
    pub async fn forget(&mut self, admin: &Asker, namespace: &str) {
        let namespace = format!("/api/v1/namespaces/{namespace}");
        for path in self.standing.drain(..).chain([namespace]) {
            let _ = admin.ask("DELETE", &path, &Value::Null).await;
        }
    }

    fn mutate(&mut self, value: &mut Value, typ: Type, depth: u32) {
        // Nothing is more often forgotten than that it may be null.
        if depth > 1 && self.random.random_ratio(1, 40) {
            *value = Value::Null;
            return;
        }
        match typ {
            Type::Object(at) => self.mutate_object(value, at, depth),
            Type::List(element) => self.mutate_list(value, typ, element, depth),
            Type::Map(element) if value.is_object() && self.random.random_ratio(2, 3) => {
                let key = self.word();
                let typ = self.table.element(element);
                value[key] = self.make(typ, depth + 1);
            }
            _ => *value = self.make(typ, depth),
        }
    }

    fn mutate_object(&mut self, value: &mut Value, at: u32, depth: u32) {
        let table = self.table.clone();
        let fields: Vec<_> = table.definition(at).fields.iter().filter(|f| !KEPT.contains(&f.name.as_ref())).collect();
        let Some(field) = fields.choose(&mut self.random) else { return };
        // Where something stands already it is more often worth a look.
        let there: Vec<_> = fields.iter().filter(|f| value.get(f.name.as_ref()).is_some()).collect();
        let field = if self.random.random_ratio(1, 2) { there.choose(&mut self.random).copied().unwrap_or(field) } else { field };
        if !value.is_object() {
            *value = json!({});
        }
        let slot = &mut value[field.name.as_ref()];
        match (slot.is_null(), field.typ) {
            (true, Type::Object(_) | Type::List(_)) if depth > DEPTH_MAX => {}
            _ => self.mutate(slot, field.typ, depth + 1),
        }
    }

    fn mutate_list(&mut self, value: &mut Value, typ: Type, element: u32, depth: u32) {
        let element = self.table.element(element);
        let Some(list) = value.as_array_mut().filter(|list| !list.is_empty()) else {
            *value = self.make(typ, depth);
            return;
        };
        let at = self.random.random_range(0..list.len());
        match self.random.random_range(0..8) {
            0 => list.push(Value::Null),
            1 => drop(list.remove(at)),
            2 => list.push(list[at].clone()),
            3 => {
                let made = self.make(element, depth + 1);
                value.as_array_mut().expect("it is a list").push(made);
            }
            _ => {
                let mut changed = list[at].take();
                self.mutate(&mut changed, element, depth + 1);
                value[at] = changed;
            }
        }
    }

    fn make(&mut self, typ: Type, depth: u32) -> Value {
        match typ {
            Type::String => self.word().into(),
            Type::Bool => self.random.random_bool(0.5).into(),
            Type::Int32 | Type::Int64 => self.number(),
            Type::Double => json!(*[0.0, -1.5, 1e300].choose(&mut self.random).expect("some")),
            Type::Bytes => (*["", "dg==", "AAAA"].choose(&mut self.random).expect("some")).into(),
            Type::Time | Type::MicroTime => self.time(),
            Type::Quantity => (*QUANTITIES.choose(&mut self.random).expect("some")).into(),
            Type::IntOrString if self.random.random_bool(0.5) => self.number(),
            Type::IntOrString => (*PERCENTS.choose(&mut self.random).expect("some")).into(),
            Type::Any => json!({"a": [null, 1]}),
            Type::Object(at) => self.make_object(at, depth),
            Type::List(element) => {
                let element = self.table.element(element);
                (0..self.random.random_range(0..3)).map(|_| self.make(element, depth + 1)).collect()
            }
            Type::Map(element) => {
                let element = self.table.element(element);
                let all = (0..self.random.random_range(0..3)).map(|_| (self.word(), self.make(element, depth + 1)));
                Value::Object(all.collect::<Map<_, _>>())
            }
        }
    }

    fn make_object(&mut self, at: u32, depth: u32) -> Value {
        let table = self.table.clone();
        let mut made = Map::new();
        if depth > DEPTH_MAX {
            return Value::Object(made);
        }
        for field in &table.definition(at).fields {
            if self.random.random_ratio(1, 3) {
                made.insert(field.name.to_string(), self.make(field.typ, depth + 1));
            }
        }
        Value::Object(made)
    }

    fn number(&mut self) -> Value {
        (*NUMBERS.choose(&mut self.random).expect("some")).into()
    }

    fn word(&mut self) -> String {
        match self.random.random_range(0..40) {
            0 => "x".repeat(253),
            1 => "x".repeat(63),
            _ => (*WORDS.choose(&mut self.random).expect("some")).to_owned(),
        }
    }

    fn time(&mut self) -> Value {
        if self.random.random_ratio(1, 5) { Value::Null } else { (*TIMES.choose(&mut self.random).expect("some")).into() }
    }
}

/// Controllers make as many pods as they are told to: only what has few is worth its time here. Finalizers that nobody takes away would keep
/// what they are on for ever.
fn bound(object: &mut Value) {
    if let Some(replicas) = object.pointer_mut("/spec/replicas").filter(|n| n.as_i64().is_some_and(|n| n > 2)) {
        *replicas = 2.into();
    }
    for place in ["/metadata", "/spec/template/metadata"] {
        if let Some(metadata) = object.pointer_mut(place).and_then(Value::as_object_mut) {
            metadata.remove("finalizers");
        }
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut).filter(|spec| spec.contains_key("finalizers")) {
        spec.remove("finalizers");
    }
}
