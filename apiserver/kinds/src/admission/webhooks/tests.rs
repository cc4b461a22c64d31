use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

fn answer(response: Value, may_patch: bool) -> Result<Answer, String> {
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Answer::read(body.to_string().as_bytes(), "v1", "7", may_patch)
}

#[test]
fn an_answer_must_be_one_to_the_question() {
    let patch = STANDARD.encode(r#"[{"op": "remove", "path": "/data"}]"#);
    let good = answer(
        json!({"uid": "7", "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["w"], "auditAnnotations": {"k": "v"}}),
        true,
    );
    let good = good.unwrap();
    assert!(good.allowed && good.patch.unwrap()[0]["op"] == "remove" && good.warnings == ["w"] && good.annotations["k"] == "v");
    let table = [
        (json!(null), true, "webhook response was absent"),
        (json!({"uid": "8"}), true, r#"expected response.uid="7", got "8""#),
        (json!({}), true, r#"expected response.uid="7", got """#),
        (json!({"uid": "7", "patch": patch}), true, "webhook returned response.patch but not response.patchType"),
        (json!({"uid": "7", "patchType": "JSONPatch"}), true, "webhook returned response.patchType but not response.patch"),
        (json!({"uid": "7", "patchType": "X", "patch": patch}), true, "unsupported patch type"),
        (json!({"uid": "7", "patch": patch}), false, "validating webhook may not return response.patch"),
        (json!({"uid": "7", "patchType": "JSONPatch"}), false, "validating webhook may not return response.patchType"),
        (json!({"uid": "7", "patchType": "JSONPatch", "patch": "%"}), true, "received undecodable patch"),
        (json!({"uid": "7", "patchType": "JSONPatch", "patch": STANDARD.encode("{")}), true, "received undecodable patch"),
    ];
    for (response, may_patch, wanted) in table {
        let error = answer(response, may_patch).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    for garbage in ["", "[]", "null", "<html>", r#"{"response": 7}"#, r#"{"response": {"uid": 7}}"#] {
        assert!(Answer::read(garbage.as_bytes(), "v1", "7", true).is_err(), "{garbage}");
    }
    let other =
        json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "7", "allowed": true}}).to_string();
    assert!(Answer::read(other.as_bytes(), "v1", "7", true).unwrap_err().starts_with("expected webhook response of admission.k8s.io/v1"));
    assert!(Answer::read(other.as_bytes(), "v1beta1", "another", true).unwrap().allowed, "of v1beta1 less is asked");
}

#[test]
fn a_refusal_is_in_upstreams_words() {
    let says = |status: Value| {
        let refused = answer(json!({"uid": "7", "allowed": false, "status": status}), false).unwrap().refusal("w.x.y");
        (refused.code, refused.reason.into_owned(), refused.message)
    };
    let said =
        |code: u16, reason: &str, end: &str| (code, reason.to_owned(), format!("admission webhook \"w.x.y\" denied the request{end}"));
    assert_eq!(says(Value::Null), said(400, "", " without explanation"));
    assert_eq!(says(json!({"code": 200, "status": "Success"})), said(400, "", " without explanation"));
    assert_eq!(says(json!({"code": 403, "reason": "Forbidden", "message": "no"})), said(403, "Forbidden", ": no"));
    assert_eq!(says(json!({"reason": "the container is bad"})), said(400, "the container is bad", ": the container is bad"));
    for odd in [json!({"code": 99_999}), json!({"code": -1}), json!({"code": "x"})] {
        assert_eq!(says(odd).0, 400);
    }
}
