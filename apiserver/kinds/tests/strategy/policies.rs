//! Admission policies and match conditions: what they refuse, warn of, write down and change. After upstream's
//! `test/e2e/apimachinery/{validatingadmissionpolicy,mutatingadmissionpolicy}.go` and `test/integration/apiserver/cel`.

use apiserver::identity::{Auth, Peer, User};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::room::Room;

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const CHANGES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const CHANGE_BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn room() -> Room {
    let auth = Auth { admission: kinds::admission::chain(), ..Auth::default() };
    let room = Room::new(kinds::table(&kinds::Config::default()), auth).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "default", "labels": {"env": "test"}}})).await);
    room
}

fn about(group: &str, version: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": [version], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]})
}

fn policy(name: &str, about: Value, more: Value) -> Value {
    let mut spec = json!({"matchConstraints": about});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn binding(policy: &str, more: Value) -> Value {
    let mut spec = json!({"policyName": policy});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": format!("{policy}-binding")}, "spec": spec})
}

/// A validating policy, in force.
async fn refuse(room: &Room, name: &str, about: Value, spec: Value, bound: Value) {
    Room::ok(room.post(POLICIES, policy(name, about, spec)).await);
    let mut bound = bound;
    if bound["validationActions"].is_null() {
        bound["validationActions"] = json!(["Deny"]);
    }
    Room::ok(room.post(BINDINGS, binding(name, bound)).await);
}

/// A mutating policy, in force.
async fn change(room: &Room, name: &str, spec: Value) {
    let mut spec = spec;
    spec["reinvocationPolicy"] = json!("Never");
    Room::ok(room.post(CHANGES, policy(name, about("", "*", "configmaps"), spec)).await);
    Room::ok(room.post(CHANGE_BINDINGS, binding(name, json!({}))).await);
}

fn deployment(name: &str, replicas: u64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}}}})
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_policy_refuses_in_upstreams_words() {
    let room = room().await;
    let spec = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}],
        "validations": [
            {"expression": "variables.replicas > 1", "message": "only one"},
            {"expression": "variables.oddReplicas", "messageExpression": "'odd wanted, got ' + string(variables.replicas)", "reason": "Forbidden"}]});
    refuse(&room, "web", about("apps", "v1", "deployments"), spec, json!({})).await;
    Room::ok(room.post(DEPLOYMENTS, deployment("good", 3)).await);
    let (code, status) = room.post(DEPLOYMENTS, deployment("even", 4)).await;
    let words = "ValidatingAdmissionPolicy 'web' with binding 'web-binding' denied request: odd wanted, got 4";
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
    assert_eq!(status["message"], format!("deployments.apps \"even\" is forbidden: {words}"));
    assert_eq!(status["details"]["causes"], json!([{"message": words}]));
    let (code, status) = room.post(DEPLOYMENTS, deployment("one", 1)).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{status}");
    assert!(status["message"].as_str().unwrap().ends_with("denied request: only one"), "{status}");
    let mut page = String::new();
    api::metrics::text("apiserver_", &mut page);
    for counted in [
        r#"validating_admission_policy_check_total{policy="web",policy_binding="web-binding",error_type="no_error",enforcement_action="deny"}"#,
        r#"validating_admission_policy_check_total{policy="web",policy_binding="web-binding",error_type="no_error",enforcement_action="allow"}"#,
        "apiserver_cel_compilation_duration_seconds_count ",
        "apiserver_cel_evaluation_duration_seconds_count ",
    ] {
        assert!(page.contains(counted), "{counted}\n{page}");
    }
    // Nobody is bound to what the binding is gone of.
    room.delete(&format!("{BINDINGS}/web-binding")).await;
    Room::ok(room.post(DEPLOYMENTS, deployment("even", 4)).await);
}

#[tokio::test]
async fn what_cannot_be_worked_out_goes_by_the_failure_policy() {
    let room = room().await;
    let spec = |failure: &str| json!({"failurePolicy": failure, "validations": [{"expression": "object.data.a == '1'"}]});
    refuse(&room, "fail", about("", "v1", "configmaps"), spec("Fail"), json!({})).await;
    let (code, status) = room.post(MAPS, map("m", json!({}))).await;
    assert_eq!(code, 422, "{status}");
    let words = "expression 'object.data.a == '1'' resulted in error: no such key: ";
    assert!(status["message"].as_str().unwrap().contains(words), "{status}");
    Room::ok(room.post(MAPS, map("m", json!({"a": "1"}))).await);
    room.delete(&format!("{POLICIES}/fail")).await;
    refuse(&room, "ignore", about("", "v1", "configmaps"), spec("Ignore"), json!({})).await;
    Room::ok(room.post(MAPS, map("n", json!({}))).await);
    assert_eq!(room.post(MAPS, map("o", json!({"a": "2"}))).await.0, 422, "what is worked out counts");
    let costly = json!({"validations": [{"expression": "lists.range(1000).all(a, lists.range(1000).all(b, a + b >= 0))"}]});
    refuse(&room, "costly", about("", "v1", "configmaps"), costly, json!({})).await;
    let (_, status) = room.post(MAPS, map("p", json!({"a": "1"}))).await;
    assert!(status["message"].as_str().unwrap().contains("actual cost limit exceeded"), "{status}");
}

#[tokio::test]
async fn selectors_names_operations_and_conditions_narrow_it() {
    let room = room().await;
    let never = json!({"validations": [{"expression": "false"}]});
    let mut narrow = about("", "v1", "configmaps");
    narrow["objectSelector"] = json!({"matchLabels": {"watched": "yes"}});
    narrow["excludeResourceRules"] =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"], "resourceNames": ["free"]}]);
    let mut spec = never.clone();
    spec["matchConditions"] =
        json!([{"name": "not-me", "expression": "request.userInfo.username != 'me' && !('skip' in object.metadata.labels)"}]);
    refuse(&room, "narrow", narrow, spec, json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "test"}}}})).await;
    Room::ok(room.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await);
    let labelled = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let (plain, watched) = (json!({}), json!({"watched": "yes"}));
    for (path, body, code) in [
        (MAPS, labelled("a", plain), 201),
        (MAPS, labelled("b", watched.clone()), 422),
        (MAPS, labelled("free", watched.clone()), 201),
        (MAPS, labelled("c", json!({"watched": "yes", "skip": ""})), 201),
        ("/api/v1/namespaces/other/configmaps", labelled("d", watched), 201),
    ] {
        let (found, status) = room.post(path, body).await;
        assert_eq!(found, code, "{status}");
    }
    room.delete(&format!("{MAPS}/free")).await;
}

#[tokio::test]
async fn parameters_are_objects_by_name_or_selector() {
    let room = room().await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.most)", "messageExpression": "'at most ' + params.data.most"}]});
    let by_name = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    refuse(&room, "most", about("apps", "v1", "deployments"), spec, by_name).await;
    let (code, status) = room.post(DEPLOYMENTS, deployment("a", 1)).await;
    let words = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().ends_with(words), "{status}");
    Room::ok(room.post(MAPS, map("limits", json!({"most": "3"}))).await);
    Room::ok(room.post(DEPLOYMENTS, deployment("a", 3)).await);
    let (_, status) = room.post(DEPLOYMENTS, deployment("b", 4)).await;
    assert!(status["message"].as_str().unwrap().ends_with("denied request: at most 3"), "{status}");
    // The next revision counts at once.
    Room::ok(room.patch(&format!("{MAPS}/limits"), json!({"data": {"most": "5"}})).await);
    Room::ok(room.post(DEPLOYMENTS, deployment("b", 4)).await);
    let by_selector =
        json!({"spec": {"paramRef": {"name": null, "selector": {"matchLabels": {"limit": "yes"}}, "parameterNotFoundAction": "Allow"}}});
    Room::ok(room.patch(&format!("{BINDINGS}/most-binding"), by_selector).await);
    Room::ok(room.post(DEPLOYMENTS, deployment("c", 9)).await);
    for (name, most) in [("one", "7"), ("two", "8")] {
        Room::ok(room.post(MAPS, json!({"metadata": {"name": name, "labels": {"limit": "yes"}}, "data": {"most": most}})).await);
    }
    let (_, status) = room.post(DEPLOYMENTS, deployment("d", 8)).await;
    assert!(status["message"].as_str().unwrap().ends_with("at most 7"), "{status}");
    let strange = json!({"paramKind": {"apiVersion": "a.example/v1", "kind": "Nothing"}, "validations": [{"expression": "true"}]});
    let bound = json!({"paramRef": {"name": "x", "parameterNotFoundAction": "Deny"}});
    refuse(&room, "strange", about("", "v1", "secrets"), strange, bound).await;
    let (_, status) = room.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    let words = "ValidatingAdmissionPolicy 'strange' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'a.example/v1, Kind=Nothing'";
    assert!(status["message"].as_str().unwrap().ends_with(words), "{status}");
}

#[tokio::test]
async fn namespace_and_authorizer_and_old_object_are_seen() {
    let room = room().await;
    let spec = json!({"validations": [
        {"expression": "namespaceObject.metadata.labels['env'] == 'test'"},
        {"expression": "authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()"},
        {"expression": "authorizer.requestResource.check('get').allowed() && authorizer.path('/healthz').check('get').allowed()"},
        {"expression": "oldObject == null || object.data.keep == oldObject.data.keep", "message": "keep it"},
        {"expression": "request.operation in ['CREATE', 'UPDATE'] && request.resource.resource == 'configmaps' && request.namespace == 'default'"}]});
    refuse(&room, "seen", about("", "v1", "configmaps"), spec, json!({})).await;
    Room::ok(room.post(MAPS, map("m", json!({"keep": "1"}))).await);
    Room::ok(room.patch(&format!("{MAPS}/m"), json!({"data": {"more": "1"}})).await);
    let (code, status) = room.patch(&format!("{MAPS}/m"), json!({"data": {"keep": "2"}})).await;
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().ends_with("keep it"), "{status}");
}

#[tokio::test]
async fn a_binding_may_warn_where_another_denies() {
    let room = room().await;
    let spec = json!({"validations": [{"expression": "'owner' in object.data", "message": "who owns it?"}]});
    refuse(&room, "owned", about("", "v1", "configmaps"), spec, json!({"validationActions": ["Warn", "Audit"]})).await;
    let body = map("m", json!({"a": "b"})).to_string();
    let request = Request::builder().method("POST").uri(MAPS).header("content-type", "application/json");
    let user = User { name: "tester".into(), ..User::default() };
    let reply = room.front.clone().oneshot(request.extension(Peer::local(user)).body(Full::new(body.into())).unwrap()).await.unwrap();
    assert_eq!(reply.status(), 201);
    let told = "Validation failed for ValidatingAdmissionPolicy 'owned' with binding 'owned-binding': who owns it?";
    assert_eq!(reply.headers()["warning"], format!("299 - {told:?}"));
}

#[tokio::test]
async fn policies_are_not_about_policies() {
    let room = room().await;
    let everything = json!({"resourceRules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]});
    refuse(&room, "all", everything, json!({"validations": [{"expression": "false"}]}), json!({})).await;
    assert_eq!(room.post(MAPS, map("m", json!({}))).await.0, 422);
    room.delete(&format!("{BINDINGS}/all-binding")).await;
    Room::ok(room.post(MAPS, map("m", json!({}))).await);
}

#[tokio::test]
async fn what_does_not_compile_is_refused_where_it_is_written() {
    let room = room().await;
    let of = |spec: Value| policy("p", about("", "v1", "configmaps"), spec);
    let cases = [
        (
            json!({"validations": [{"expression": "object.spec"}]}),
            "spec.validations[0].expression: Invalid value: \"object.spec\": must evaluate to bool but got dyn",
        ),
        (
            json!({"validations": [{"expression": "params.a == 1"}]}),
            "spec.validations[0].expression: Invalid value: \"params.a == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/').check('get').reason()"}]}),
            "undeclared reference to 'authorizer' (in container '')",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "1"}], "validations": [{"expression": "variables.a == 'x'"}]}),
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (json!({"auditAnnotations": [{"key": "k", "valueExpression": "1"}]}), "must evaluate to one of [string null_type] but got int"),
    ];
    for (spec, words) in cases {
        let (code, status) = room.post(POLICIES, of(spec)).await;
        assert_eq!(code, 422, "{status}");
        assert!(status["message"].as_str().unwrap().contains(words), "{status}\n{words}");
    }
}

#[tokio::test]
async fn a_policy_changes_objects_by_configuration_and_by_patch() {
    let room = room().await;
    let apply = json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.metadata{labels: {'made': 'yes'}}, data: {'copy': object.metadata.name}}"}}]});
    change(&room, "a-apply", apply).await;
    let patch = json!({"variables": [{"name": "key", "expression": "'a/b'"}], "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'test', path: '/metadata/labels/made', value: 'yes'}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey(variables.key), value: 'x'}]"}}]});
    change(&room, "b-patch", patch).await;
    let untrue = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'test', path: '/metadata/name', value: 'another'}, JSONPatch{op: 'remove', path: '/data'}]"}}]});
    change(&room, "c-untrue", untrue).await;
    let made = Room::ok(room.post(MAPS, map("m", json!({"own": "1"}))).await);
    assert_eq!(made["data"], json!({"own": "1", "copy": "m"}));
    assert_eq!(made["metadata"]["labels"], json!({"made": "yes", "a/b": "x"}));
}

#[tokio::test]
async fn what_a_change_cannot_do_refuses_the_write() {
    let room = room().await;
    let apply =
        |expression: &str| json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    for (expression, words) in [
        ("Object{data: {'a': object.data.none}}", "no such key: none"),
        ("Object{metadata: Object.spec{name: 'x'}}", "type mismatch: unexpected type name \"Object.spec\", expected \"Object.metadata\""),
        (
            "Object{nothing: 'x'}",
            "error applying patch: failed to convert patch object to typed object: .nothing: field not declared in schema",
        ),
    ] {
        change(&room, "p", apply(expression)).await;
        let (code, status) = room.post(MAPS, map("m", json!({"own": "1"}))).await;
        assert_eq!((code, &status["reason"]), (403, &json!("Invalid")), "{status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with("policy 'p' with binding 'p-binding' denied request: "), "{message}");
        assert!(message.contains(words), "{message}");
        room.delete(&format!("{CHANGES}/p")).await;
        room.delete(&format!("{CHANGE_BINDINGS}/p-binding")).await;
    }
    // What is owned as a whole is not changed by halves.
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"}}]});
    Room::ok(room.post(CHANGES, policy("whole", about("apps", "v1", "deployments"), spec)).await);
    Room::ok(room.post(CHANGE_BINDINGS, binding("whole", json!({}))).await);
    let (code, status) = room.post(DEPLOYMENTS, deployment("d", 1)).await;
    assert_eq!(code, 403, "{status}");
    assert!(status["message"].as_str().unwrap().contains("may not mutate atomic arrays, maps or structs: .spec.selector"), "{status}");
}

/// An Event of the one group is one of the other as well.
#[tokio::test]
async fn an_equivalent_kind_is_matched_in_the_version_of_the_rule() {
    let room = room().await;
    let spec = json!({"validations": [{"expression":
        "request.resource.group == 'events.k8s.io' && request.requestResource.group == '' && object.apiVersion == 'events.k8s.io/v1' && object.note == 'fine'"}]});
    refuse(&room, "notes", about("events.k8s.io", "v1", "events"), spec, json!({})).await;
    let event = |name: &str, message: &str| {
        json!({"metadata": {"name": name}, "message": message, "type": "Normal", "reason": "Any",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}})
    };
    let events = "/api/v1/namespaces/default/events";
    Room::ok(room.post(events, event("a", "fine")).await);
    assert_eq!(room.post(events, event("b", "bad")).await.0, 422);
    Room::ok(room.patch(&format!("{POLICIES}/notes"), json!({"spec": {"matchConstraints": {"matchPolicy": "Exact"}}})).await);
    Room::ok(room.post(events, event("b", "bad")).await);
}

/// Nobody answers at the webhook's address: who is not asked is not missed.
#[tokio::test]
async fn a_webhook_is_asked_where_its_conditions_hold() {
    let room = room().await;
    let hook = |conditions: Value| {
        json!({"metadata": {"name": "hooks"}, "webhooks": [{
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "matchConditions": conditions}]})
    };
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let conditions = json!([{"name": "wanted", "expression": "object.metadata.name == 'wanted'"},
        {"name": "asks", "expression": "authorizer.group('').resource('configmaps').check('create').allowed()"}]);
    Room::ok(room.post(hooks, hook(conditions)).await);
    Room::ok(room.post(MAPS, map("other", json!({}))).await);
    let (code, status) = room.post(MAPS, map("wanted", json!({}))).await;
    assert_eq!(code, 500, "{status}");
    room.delete(&format!("{hooks}/hooks")).await;
    Room::ok(room.post(hooks, hook(json!([{"name": "odd", "expression": "object.data.none == 'x'"}]))).await);
    let (code, status) = room.post(MAPS, map("third", json!({"a": "b"}))).await;
    assert_eq!(code, 403, "{status}");
    let words = "configmaps \"third\" is forbidden: expression 'object.data.none == 'x'' resulted in error: no such key: none";
    assert_eq!(status["message"], words);
}

/// After upstream's conformance test "should type check validation expressions".
#[tokio::test]
async fn expressions_are_checked_against_the_types_of_what_they_are_about() {
    let room = room().await;
    kinds::admission::policies::type_checks::start(&room.engine);
    let deployments = || about("apps", "v1", "deployments");
    let good = json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}],
        "validations": [{"expression": "variables.n > 1 && object.metadata.labels.all(k, k.size() < 9)"}]});
    Room::ok(room.post(POLICIES, policy("good", deployments(), good)).await);
    let confused = json!({"validations": [
        {"expression": "object.spec.replicas > '1'", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
        {"expression": "object.spec.maxRetries < 10"}]});
    Room::ok(room.post(POLICIES, policy("confused", deployments(), confused)).await);
    let mut checked = Vec::new();
    for name in ["good", "confused"] {
        let path = format!("{POLICIES}/{name}");
        let status = tokio::time::timeout(std::time::Duration::from_secs(60), async {
            loop {
                let found = room.get(&path).await;
                if !found["status"]["typeChecking"].is_null() {
                    return found["status"].clone();
                }
                tokio::task::yield_now().await;
            }
        });
        checked.push(status.await.expect("policies are checked"));
    }
    assert_eq!(checked[0], json!({"observedGeneration": 1, "typeChecking": {}}));
    let warnings = checked[1]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let wanted = [
        ("spec.validations[0].expression", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("spec.validations[0].messageExpression", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("spec.validations[1].expression", "undefined field 'maxRetries'"),
    ];
    assert_eq!(warnings.len(), wanted.len(), "{warnings:?}");
    for (warning, (field, words)) in warnings.iter().zip(wanted) {
        assert_eq!(warning["fieldRef"], field);
        let told = warning["warning"].as_str().unwrap();
        assert!(told.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:") && told.contains(words), "{told}");
    }
}

/// Each keeps within the bounds of a policy, and all of them together would blow the object up.
#[tokio::test]
async fn what_all_policies_add_is_bounded() {
    let room = room().await;
    let patch = |name: &str| {
        let copy = |i: usize| format!("JSONPatch{{op: 'copy', from: '/data/x', path: '/data/{name}{i}'}}");
        let expression = format!("[{}, {}]", copy(0), copy(1));
        json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}]})
    };
    for name in ["a", "b", "c", "d", "e"] {
        change(&room, name, patch(name)).await;
    }
    Room::ok(room.post(MAPS, map("small", json!({"x": "y"}))).await);
    let (code, status) = room.post(MAPS, map("large", json!({"x": "y".repeat(700 << 10)}))).await;
    let why = "policy 'e' with binding 'e-binding' denied request: mutating policies may add 6291456 bytes to the object of a request";
    assert_eq!((code, status["message"].as_str()), (403, Some(why)));
}
