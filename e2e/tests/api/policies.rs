//! Admission policies in a whole server: of custom kinds, with parameters of custom kinds, their types, and what the audit log tells. After upstream's
//! conformance tests (`test/e2e/apimachinery/validatingadmissionpolicy.go`).

use e2e::{eventually, object};
use serde_json::{Value, json};

use crate::{audit::Audited, world::SOON};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_a_custom_kind_refuses_is_checked_and_is_told() {
    let w = Audited::start("blocking-strict").await;
    let api = w.server.api();
    api.post(DEFINITIONS, &definition()).await.expect(201);
    eventually("the kind is served", SOON, async || api.get(TABS).await.status == 200).await;
    let tab = |name: &str, replicas: u64| object("stable.example.com/v1", "CronTab", name, json!({"spec": {"replicas": replicas}}));
    api.post(TABS, &tab("limits", 3)).await.expect(201);

    let rules = json!([{"apiGroups": ["stable.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["crontabs"]}]);
    let spec = json!({"spec": {
        "matchConstraints": {"resourceRules": rules}, "paramKind": {"apiVersion": "stable.example.com/v1", "kind": "CronTab"},
        "validations": [
            {"expression": "object.spec.replicas <= params.spec.replicas", "messageExpression": "'at most ' + string(params.spec.replicas)"},
            {"expression": "!has(object.spec.maxRetries)"}],
        "auditAnnotations": [{"key": "wanted", "valueExpression": "string(object.spec.replicas)"}]}});
    let kind = |kind: &str, name: &str, spec: Value| object("admissionregistration.k8s.io/v1", kind, name, spec);
    api.post(&format!("{GROUP}/validatingadmissionpolicies"), &kind("ValidatingAdmissionPolicy", "few", spec)).await.expect(201);
    let bound = |action: &str| {
        let params = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
        let spec = json!({"spec": {"policyName": "few", "paramRef": params, "validationActions": [action]}});
        kind("ValidatingAdmissionPolicyBinding", action, spec)
    };
    let mut audits = bound("Audit");
    audits["metadata"]["name"] = json!("audits");
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    api.post(&bindings, &audits).await.expect(201);
    api.post(TABS, &tab("many", 5)).await.expect(201);
    let events = w.events(TABS, 2).await;
    let annotations = &events.last().unwrap()["annotations"];
    assert_eq!(annotations["few/wanted"], "5", "{annotations}");
    let failure: Value =
        serde_json::from_str(annotations["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap()).unwrap();
    let wanted =
        json!([{"message": "at most 3", "policy": "few", "binding": "audits", "expressionIndex": 0, "validationActions": ["Audit"]}]);
    assert_eq!(failure, wanted);

    let mut denies = bound("Deny");
    denies["metadata"]["name"] = json!("denies");
    api.post(&bindings, &denies).await.expect(201);
    api.post(TABS, &tab("more", 6)).await.refused(422, "Invalid");
    api.post(TABS, &tab("less", 2)).await.expect(201);

    let path = format!("{GROUP}/validatingadmissionpolicies/few");
    let mut warnings = Value::Null;
    eventually("the types are checked", SOON, async || {
        let policy = api.get(&path).await.expect(200);
        warnings = policy["status"]["typeChecking"]["expressionWarnings"].clone();
        !policy["status"]["typeChecking"].is_null()
    })
    .await;
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression", "{warnings}");
    assert!(warnings[0]["warning"].as_str().unwrap().contains("undefined field 'maxRetries'"), "{warnings}");
    w.server.assert_sound();
}
