//! Each rule in upstream's words; what a recorded stock server says is compared by e2e `--test diff`.

use api::field_errors::FieldErrors;
use serde_json::{Value, json};

use super::{claim, class, slice, template};

fn made(kind: &apiserver::kind::Kind, mut object: Value) -> Vec<String> {
    kind.strategy.default(&mut object);
    let mut causes = FieldErrors::default();
    kind.strategy.validate(&object, &mut causes);
    kind.strategy.validate_create(&object, &mut causes);
    texts(&causes)
}

fn texts(causes: &FieldErrors) -> Vec<String> {
    causes.0.iter().map(|cause| cause.text()).collect()
}

fn claiming(devices: Value) -> Vec<String> {
    made(&claim::kind(), json!({"spec": {"devices": devices}}))
}

fn request(exactly: Value) -> Value {
    json!({"requests": [{"name": "r", "exactly": exactly}]})
}

#[test]
fn requests_have_defaults_and_rules() {
    let mut object = json!({"spec": {"devices": {"requests": [
        {"name": "a", "exactly": {"deviceClassName": "c", "tolerations": [{"key": "k"}], "capacity": {"requests": {"m": "1024Mi"}}}},
        {"name": "b", "firstAvailable": [{"name": "s", "deviceClassName": "c", "allocationMode": "All"}]},
    ]}}});
    claim::kind().strategy.default(&mut object);
    let requests = &object["spec"]["devices"]["requests"];
    assert_eq!((&requests[0]["exactly"]["allocationMode"], &requests[0]["exactly"]["count"]), (&json!("ExactCount"), &json!(1)));
    assert_eq!(requests[0]["exactly"]["tolerations"][0]["operator"], "Equal");
    assert_eq!(requests[0]["exactly"]["capacity"]["requests"]["m"], "1Gi");
    assert_eq!(requests[1]["firstAvailable"][0].get("count"), None);

    let path = "spec.devices.requests[0]";
    let exactly = |fields: Value| {
        let mut exactly = json!({"deviceClassName": "c"});
        exactly.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request(exactly)
    };
    let cases = [
        (exactly(json!({})), vec![]),
        (
            json!({"requests": [{"name": "r"}]}),
            vec![format!("{path}: Required value: exactly one of `exactly` or `firstAvailable` is required")],
        ),
        (exactly(json!({"count": -1})), vec![format!("{path}.exactly.count: Invalid value: -1: must be greater than zero")]),
        (
            exactly(json!({"allocationMode": "All", "count": 3})),
            vec![format!("{path}.exactly.count: Invalid value: 3: must not be specified when allocationMode is 'All'")],
        ),
        (
            exactly(json!({"tolerations": [{"operator": "Exists", "value": "v", "effect": "No"}]})),
            vec![
                format!("{path}.exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`"),
                format!(
                    "{path}.exactly.tolerations[0].effect: Unsupported value: \"No\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""
                ),
            ],
        ),
        (exactly(json!({"selectors": [{}]})), vec![format!("{path}.exactly.selectors[0].cel: Required value")]),
        (
            json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}, {"name": "r", "exactly": {"deviceClassName": "c"}}]}),
            vec!["spec.devices.requests[1]: Duplicate value: \"r\"".into()],
        ),
    ];
    for (devices, wanted) in cases {
        assert_eq!(claiming(devices.clone()), wanted, "{devices}");
    }
}

#[test]
fn constraints_and_configuration_name_requests() {
    let with = |field: &str, value: Value| {
        let mut devices = json!({"requests": [
            {"name": "r", "exactly": {"deviceClassName": "c"}},
            {"name": "s", "firstAvailable": [{"name": "t", "deviceClassName": "c"}]},
        ]});
        devices[field] = json!([value]);
        claiming(devices)
    };
    let reference = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    assert!(with("constraints", json!({"requests": ["r", "s", "s/t"], "matchAttribute": "d.example.com/x"})).is_empty());
    for (name, known) in [("s/u", false), ("r/t", false), ("none", false), ("s/t/u", false), ("s/t", true)] {
        let found = with("constraints", json!({"requests": [name], "distinctAttribute": "d.example.com/x"}));
        let wanted = format!("spec.devices.constraints[0].requests[0]: Invalid value: {name:?}: {reference}");
        assert_eq!(found, if known { vec![] } else { vec![wanted] }, "{name}");
    }
    assert!(with("constraints", json!({}))[0].starts_with("spec.devices.constraints[0]: Required value: exactly one of"));
    assert_eq!(
        with("constraints", json!({"matchAttribute": "a"})),
        [
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must be a domain and a name separated by a slash"
        ]
    );
    assert_eq!(with("config", json!({})), ["spec.devices.config[0].opaque: Required value"]);
    let opaque = |parameters: Value| with("config", json!({"opaque": {"driver": "d", "parameters": parameters}}));
    assert!(opaque(json!({})).is_empty());
    assert_eq!(opaque(Value::Null), ["spec.devices.config[0].opaque.parameters: Required value"]);
    assert_eq!(
        opaque(json!(7)),
        ["spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"]
    );
    assert_eq!(
        opaque(json!({"a": "x".repeat(10 << 10)})),
        ["spec.devices.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"]
    );
}

#[test]
fn what_is_claimed_stays() {
    let of = |class: &str| json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}}});
    let mut causes = FieldErrors::default();
    claim::kind().strategy.validate_update(&of("b"), &of("a"), &mut causes);
    let exactly =
        r#"{"DeviceClassName":"b","Selectors":null,"AllocationMode":"","Count":0,"AdminAccess":null,"Tolerations":null,"Capacity":null}"#;
    let spec = format!(
        r#"{{"Devices":{{"Requests":[{{"Name":"r","Exactly":{exactly},"FirstAvailable":null}}],"Constraints":null,"Config":null}}}}"#
    );
    assert_eq!(texts(&causes), [format!("spec: Invalid value: {spec}: field is immutable")]);
    let mut causes = FieldErrors::default();
    let template_of = |class: &str| json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": of(class)["spec"]}});
    template::kind().strategy.validate_update(&template_of("b"), &template_of("a"), &mut causes);
    assert_eq!(texts(&causes), [format!(r#"spec: Invalid value: {{"labels":{{"a":"b"}},"Spec":{spec}}}: field is immutable"#)]);
}

fn told(spec: Value, status: Value, before: Value) -> Vec<String> {
    let claim = |status: Value| json!({"metadata": {"name": "a"}, "spec": spec, "status": status});
    let mut causes = FieldErrors::default();
    claim::kind().strategy.validate_subresource("status", &claim(status), &claim(before), &mut causes);
    texts(&causes)
}

#[test]
fn a_status_fits_its_claim() {
    let spec = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}});
    let result = json!({"request": "r", "driver": "d.example.com", "pool": "p", "device": "x"});
    let allocation = json!({"devices": {"results": [result]}});
    let user = json!({"resource": "pods", "name": "p", "uid": "1"});
    let tell = |status: Value, before: Value| told(spec.clone(), status, before);
    assert!(tell(json!({"allocation": allocation, "reservedFor": [user]}), json!({})).is_empty());
    assert_eq!(
        tell(json!({"reservedFor": [user]}), json!({})),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
    assert_eq!(
        tell(json!({"allocation": allocation, "reservedFor": [user, user]}), json!({})),
        ["status.reservedFor[1]: Duplicate value: \"1\""]
    );
    let other = json!({"devices": {"results": [{"request": "none", "driver": "d.example.com", "pool": "p", "device": "x"}]}});
    assert!(
        tell(json!({"allocation": other}), json!({}))[0]
            .starts_with("status.allocation.devices.results[0].request: Invalid value: \"none\"")
    );
    assert!(
        tell(json!({"allocation": other}), json!({"allocation": allocation}))[0]
            .ends_with("\"AllocationTimestamp\":null}: field is immutable")
    );
    let device = |device: &str| json!({"driver": "d.example.com", "pool": "p", "device": device, "networkData": {"ips": ["10.0.0.1/24", "10.0.0.1"]}});
    assert_eq!(
        tell(json!({"allocation": allocation, "devices": [device("y")]}), json!({})),
        [
            r#"status.devices[0]: Invalid value: {"Driver":"d.example.com","Pool":"p","Device":"y","ShareID":""}: must be an allocated device in the claim"#,
            r#"status.devices[0].networkData.ips[1]: Invalid value: "10.0.0.1": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"#,
        ]
    );
    let mut share = result.clone();
    share["shareID"] = "x".into();
    share["bindingConditions"] = json!(["a", "a"]);
    assert_eq!(
        tell(json!({"allocation": {"devices": {"results": [share]}}}), json!({})),
        [
            "status.allocation.devices.results[0].bindingConditions[1]: Duplicate value: \"a\"",
            "status.allocation.devices.results[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
            "status.allocation.devices.results[0].shareID: Invalid value: \"x\": error validating uid: invalid UUID length: 1",
        ]
    );
}

fn slicing(change: impl Fn(&mut Value)) -> Vec<String> {
    let mut spec = json!({"driver": "d.example.com", "allNodes": true, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "d"}]});
    change(&mut spec);
    made(&slice::kind(), json!({"spec": spec}))
}

#[test]
fn slices_say_where_their_devices_are() {
    assert!(slicing(|_| {}).is_empty());
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    assert_eq!(slicing(|s| s["allNodes"] = Value::Null), [format!("spec: Required value: {one}")]);
    assert_eq!(
        slicing(|s| s["nodeName"] = "n".into()),
        [format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {one}, but multiple fields are set")]
    );
    assert_eq!(slicing(|s| s["allNodes"] = false.into())[0], "spec.allNodes: Invalid value: false: must be either unset or set to true");
    let each = |device: Value| {
        slicing(|s| (s["allNodes"], s["perDeviceNodeSelection"], s["devices"][0]) = (Value::Null, true.into(), device.clone()))
    };
    assert!(each(json!({"name": "d", "nodeName": "n"})).is_empty());
    assert!(each(json!({"name": "d"}))[0].starts_with("spec.devices[0]: Required value: exactly one of `nodeName`"));
    assert!(slicing(|s| s["devices"][0]["allNodes"] = true.into())[0].starts_with("spec.devices[0]: Invalid value: null: `nodeName`"));
    let many = |taint: bool| {
        slicing(|s| {
            let devices = (0..65).map(
                |i| json!({"name": format!("d{i}"), "taints": if taint { json!([{"key": "k", "effect": "None"}]) } else { json!([]) }}),
            );
            s["devices"] = devices.collect();
        })
    };
    assert!(many(false).is_empty());
    assert_eq!(many(true), ["spec.devices: Too many: 65: must have at most 64 items"]);
}

#[test]
fn attributes_and_capacities_have_rules() {
    let device = |fields: Value| slicing(|s| s["devices"][0].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone()));
    let attribute = |value: Value| device(json!({"attributes": {"a": value}}));
    assert!(attribute(json!({"version": "1.2.3-alpha.1+b"})).is_empty());
    for bad in ["1.2", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+", "v1.2.3"] {
        assert!(attribute(json!({"version": bad}))[0].ends_with("must be a string compatible with semver.org spec 2.0.0"), "{bad}");
    }
    assert_eq!(
        attribute(json!({"string": "x".repeat(65)})),
        ["spec.devices[0].attributes[a].string: Too long: may not be more than 64 bytes"]
    );
    assert_eq!(
        device(json!({"attributes": {"/a": {"int": 1}, "d.example.com/": {"int": 1}}})),
        [
            "spec.devices[0].attributes: Invalid value: \"\": the domain must not be empty",
            "spec.devices[0].attributes: Invalid value: \"\": the name must not be empty",
        ]
    );
    let many: serde_json::Map<String, Value> = (0..33).map(|i| (format!("a{i}"), json!({"int": i}))).collect();
    assert_eq!(
        device(json!({"attributes": many})),
        ["spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32"]
    );
    let capacity = |shared: bool, policy: Value| {
        device(json!({"allowMultipleAllocations": shared, "capacity": {"m": {"value": "10Gi", "requestPolicy": policy}}}))
    };
    let at = "spec.devices[0].capacity[m].requestPolicy";
    assert_eq!(capacity(false, json!({})), [format!("{at}: Forbidden: allowMultipleAllocations must be true")]);
    assert!(capacity(true, json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]})).is_empty());
    assert_eq!(
        capacity(true, json!({"default": "3Gi", "validValues": ["2Gi", "1Gi", "11Gi"]})),
        [
            format!("{at}.validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order"),
            format!("{at}.validValues[2]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi"),
            format!("{at}.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy"),
        ]
    );
    assert_eq!(
        capacity(true, json!({"default": "1Gi", "validRange": {"min": "2Gi", "max": "1Gi", "step": "0"}})).len(),
        4,
        "below the least, the least above the most, and no step leads to either"
    );
}

#[test]
fn devices_of_features_that_are_off_lose_them_and_taints_have_a_time() {
    let classes = class::kind();
    assert!(made(&classes, json!({"spec": {"extendedResourceName": "example.com/gpu"}})).is_empty());
    assert_eq!(
        made(&classes, json!({"spec": {"extendedResourceName": "cpu"}})),
        ["spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name"]
    );
    assert_eq!(classes.strategy.name_error(&"n".repeat(254)).as_deref(), Some("must be no more than 253 bytes"));
    let upper = json!({"spec": {"driver": "D.example.com"}});
    assert_eq!(slice::kind().strategy.warnings(&upper, None).len(), 1);
}
