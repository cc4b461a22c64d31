//! Good inputs, to be spoiled.

pub const JSON: &[&[u8]] = &[
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"a"},"annotations":{"x/y":"z"}},"spec":{"containers":[{"name":"c","image":"example.test/c:1","command":["sh","-c","sleep 1"],"ports":[{"containerPort":80,"hostPort":8080,"protocol":"TCP"}],"env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],"resources":{"limits":{"cpu":"100m","memory":"64Mi"}},"livenessProbe":{"httpGet":{"path":"/","port":"http"},"periodSeconds":5},"volumeMounts":[{"name":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Gi"}}],"tolerations":[{"key":"k","operator":"Exists","effect":"NoExecute","tolerationSeconds":3}],"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]}]}}}}}"#,
    br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"d"}},"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}},"template":{"metadata":{"labels":{"app":"d"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"type":"NodePort","selector":{"a":"b"},"ports":[{"name":"http","port":80,"targetPort":"web","nodePort":30080}],"clusterIP":"10.96.0.20","sessionAffinity":"ClientIP","externalIPs":["192.0.2.1"]}}"#,
    br#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"podCIDR":"10.244.1.0/24","taints":[{"key":"k","value":"v","effect":"NoSchedule"}]},"status":{"capacity":{"cpu":"2","memory":"4Gi","pods":"110"},"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2026-01-02T03:04:05Z"}]}}"#,
    br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"type":"Opaque","data":{"k":"djE="},"stringData":{"p":"q"}}"#,
    br#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["pods/log"],"verbs":["get"]}]}"#,
    br#"{"a":[1,-2.5e3,true,null,"\u00e4\n",{"":{}}],"a":2}"#,
];

pub const FIELDS: &[&[u8]] = &[
    br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}"#,
    br#"{"f:metadata":{"f:finalizers":{".":{},"v:\"a/b\"":{},"v:1":{},"v:1.5":{},"v:true":{},"v:null":{}}},"i:0":null,"z:later":{"f:x":{}}}"#,
    br#"{"k:{}":{},"k:{\"a\":{\"b\":[1]}}":{},"v:\"\u003c\"":{},"f:":{},".":{}}"#,
];

pub const YAML: &[&[u8]] = &[
    b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {app: a, 'on': \"yes\"}\nspec:\n  containers:\n  - name: c\n    image: x:1\n    args: [\"-a\", 0644, 0o17, 1_000, .5, ~]\n",
    b"a: &x\n  b: |-\n    one\n    two\nc: *x\nd:\n  <<: *x\n  e: >\n    folded\n    text\n",
    b"---\n# comment\n? complex\n: value\nlist:\n- - 1\n  - 2\n- !!str 3\n- 2026-01-02T03:04:05Z\n- .inf\n",
    b"{\"json\": [1, 2, {\"is\": \"yaml\"}]}",
];

pub const SELECTORS: &[&[u8]] = &[
    b"a=b,c!=d,e in (f,g),h notin (i),j,!k,example.test/x==y,n>1,m<2",
    b"metadata.name=a,spec.nodeName!=b,status.phase=a\\,b\\=c",
    b"x in (a, b , ), y",
];

pub const QUANTITIES: &[&[u8]] = &[
    b"1",
    b"-0.5",
    b"100m",
    b"1.5Gi",
    b"12e6",
    b"3E",
    b"+7Ki",
    b"9223372036854775807",
    b"0.000000001",
    b"1n",
    b".5",
    b"5.",
    b"1e-3",
    b"123456789123456789123456789Ei",
];

pub const PATCHES: &[&[u8]] = &[
    br#"{"spec":{"containers":[{"name":"c","env":[{"name":"A","$patch":"delete"},{"name":"N","value":"2"}]},{"name":"new","image":"x"}],"$setElementOrder/containers":[{"name":"new"},{"name":"c"}]}}"#,
    br#"{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/"}}],"tolerations":[{"$patch":"replace"},{"key":"z"}]}}"#,
    br#"{"metadata":{"labels":{"app":null},"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["b"],"annotations":{"$patch":"replace","q":"r"}}}"#,
];

pub const EXPRESSIONS: &[&[u8]] = &[
    b"self.spec.containers.all(c, c.image.startsWith('example.test/') && size(c.env) < 10)",
    b"has(self.metadata.labels) && 'app' in self.metadata.labels ? self.metadata.labels['app'].matches('^[a-z]+$') : false",
    b"self.spec.containers.map(c, c.ports.map(p, p.containerPort)).exists(l, l.sum() == 80)",
    b"quantity('100m').isLessThan(quantity('1')) && duration('1h30m').getMinutes() == 90 && ip('10.0.0.1').family() == 4",
    b"[1, 2.5, 3u, 'a', b'b', null, true, {'k': [1]}][0] == 1 && '%s %d %x'.format(['a', 1, 255]) == 'a 1 ff'",
    b"timestamp('2026-01-02T03:04:05Z').getFullYear() + int('7') - -9223372036854775807 * 2 / 1 % 3 > 0",
    b"cel.bind(x, 'a,b,c'.split(','), x.join('-').replace('-', '', -1).substring(1, 2) == x[1])",
    b"self.?spec.?nothing.orValue('none') == 'none' && url('https://example.test/a?b=c').getQuery()['b'][0] == 'c'",
];

pub const PATHS: &[&[u8]] = &[
    b".spec.containers[0].ports[?(@.containerPort==80)].protocol",
    b".metadata.labels.app",
    b".metadata.annotations['x\\/y']",
    b".spec.containers[*].env[-1].name",
    b".spec.containers[?(@.image!=\"x\")].livenessProbe.httpGet[\"path\"]",
    b".spec.tolerations[?(@.tolerationSeconds>=3)].key",
];

/// Answers of a conversion webhook that was asked for one object.
pub const CONVERTED: &[&[u8]] = &[
    br#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"1","result":{"status":"Success"},"convertedObjects":[{"apiVersion":"example.test/v2","kind":"Boat","metadata":{"name":"a","namespace":"b","uid":"u","labels":{"x":"z"},"annotations":{"q":"r"},"resourceVersion":"9","finalizers":["g"]},"spec":{"masts":1}}]}}"#,
    br#"{"kind":"ConversionReview","apiVersion":"apiextensions.k8s.io/v1","response":{"convertedObjects":[],"uid":"1","result":{"status":"Failure","message":"no"}}}"#,
];

/// Configurations of the first object of [`JSON`].
pub const APPLIED: &[&[u8]] = &[
    br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"b","new":"c"},"finalizers":["x/y"]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP","name":"n"},{"containerPort":81,"protocol":"UDP"}],"env":[{"name":"A","value":"2"}]},{"name":"d","command":["x"]}]}}"#,
    br#"{"spec":{"volumes":[{"name":"v","emptyDir":{}},{"name":"w","hostPath":{"path":"/"}}],"tolerations":[{"key":"z"}],"nodeSelector":{"a":"b"},"hostAliases":[{"ip":"192.0.2.1","hostnames":["h"]}],"imagePullSecrets":[{"name":"s"}]}}"#,
];

pub const CNI: &[&[u8]] = &[
    br#"{"cniVersion":"1.0.0","name":"skiff","type":"skiff-cni","bridge":"skiff0","subnet":"10.244.0.0/24","mtu":1450,"dataDir":"/tmp/none","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}]},"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"aa:bb:cc:dd:ee:ff","sandbox":"/proc/1/ns/net"}],"ips":[{"address":"10.244.0.7/24","gateway":"10.244.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}}"#,
    br#"{"cniVersion":"0.3.1","name":"lo","type":"loopback"}"#,
];

pub const RESOLV: &[&[u8]] = &[
    b"# comment\nnameserver 192.0.2.1\nnameserver fd00::1%eth0\nsearch a.example.test b.\ndomain x\noptions ndots:5 timeout:1 rotate\n",
    // A question for kubernetes.default.svc.cluster.local., type A.
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01",
    // The same with EDNS, and a name that points at itself.
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\xc0\x0c\x00\x01\x00\x01\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00",
];

pub const LOGS: &[&[u8]] = &[
    b"2026-01-02T03:04:05.123456789Z stdout F hello\n2026-01-02T03:04:06Z stderr P part\n2026-01-02T03:04:06Z stderr F ial\n",
    b"2026-01-02T03:04:05.1+02:00 stdout P:tag a\nnot a line\n\n2026-01-02T03:04:07Z stdout F \n2026-01-02T03:04:08Z stdout F no end",
];

/// Enveloped objects: a ConfigMap and a Pod.
pub fn protobuf() -> Vec<Vec<u8>> {
    let meta = [field(1, b"a"), field(3, b"default"), field(11, &[field(1, b"app"), field(2, b"a")].concat())].concat();
    let data = field(2, &[field(1, b"key"), field(2, b"value")].concat());
    let configmap = enveloped("ConfigMap", &[field(1, &meta), data].concat());
    let port = [field(1, b"http"), vec![0x18, 80]].concat();
    let quantity = field(1, &[field(1, b"cpu"), field(2, &field(1, b"100m"))].concat());
    let container = [field(1, b"c"), field(2, b"example.test/c:1"), field(6, &port), field(8, &quantity)].concat();
    let pod = enveloped("Pod", &[field(1, &meta), field(2, &field(2, &container))].concat());
    vec![configmap, pod]
}

fn enveloped(kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &types), field(2, raw)].concat()
}

/// A length-delimited field, shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("samples are short");
    assert!(length < 128, "samples are short");
    [&[number << 3 | 2, length], bytes].concat()
}
