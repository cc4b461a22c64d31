//! One object: made, read, changed, patched, removed; and what is refused on the way.

use e2e::{Patch, object};
use serde_json::{Value, json};

use crate::world::{CONFIGMAPS, PODS, World, configmap, message, names, version};

pub async fn create_get_update_delete(w: &World) {
    let made = w.configmap("a", json!({"k": "1"})).await;
    assert!(made["metadata"]["uid"].as_str().is_some_and(|u| u.len() == 36) && made["metadata"]["creationTimestamp"].is_string());
    let path = format!("{CONFIGMAPS}/a");
    assert_eq!(w.api.get(&path).await.expect(200), made);
    let mut changed = made.clone();
    changed["data"]["k"] = "2".into();
    let updated = w.api.put(&path, &changed).await.expect(200);
    assert_eq!((&updated["data"]["k"], &updated["metadata"]["uid"]), (&json!("2"), &made["metadata"]["uid"]));
    assert_ne!(version(&updated), version(&made));
    // An update that changes nothing makes no revision.
    let same = w.api.put(&path, &updated).await.expect(200);
    assert_eq!(version(&same), version(&updated));
    let status = w.api.delete(&path).await.expect(200);
    assert_eq!((&status["status"], &status["details"]["uid"]), (&json!("Success"), &made["metadata"]["uid"]));
    let gone = w.api.get(&path).await.refused(404, "NotFound");
    assert_eq!(message(&gone), "configmaps \"a\" not found");
    let again = w.configmap("a", json!({})).await;
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
}

pub async fn names_are_generated(w: &World) {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let one = w.api.post(CONFIGMAPS, &body).await.expect(201);
    let two = w.api.post(CONFIGMAPS, &body).await.expect(201);
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    assert_ne!(name(&one), name(&two));
    assert!(name(&one).starts_with("x-") && name(&one).len() == 7, "{one}");
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let refused = w.api.post(CONFIGMAPS, &nameless).await.refused(422, "Invalid");
    assert!(message(&refused).contains("metadata.name: Required value: name or generateName is required"), "{refused}");
}

pub async fn a_dry_run_leaves_nothing(w: &World) {
    let dry = w.api.post(&format!("{CONFIGMAPS}?dryRun=All"), &configmap("d", json!({}))).await.expect(201);
    assert!(dry["metadata"]["uid"].is_string());
    w.api.get(&format!("{CONFIGMAPS}/d")).await.refused(404, "NotFound");
    let made = w.configmap("d", json!({"k": "1"})).await;
    let path = format!("{CONFIGMAPS}/d");
    let patched = w.api.patch(&format!("{path}?dryRun=All"), Patch::Merge, &json!({"data": {"k": "2"}})).await.expect(200);
    assert_eq!(patched["data"]["k"], "2");
    w.api.delete(&format!("{path}?dryRun=All")).await.expect(200);
    w.api.delete_with(&path, json!({"dryRun": ["All"]})).await.expect(200);
    assert_eq!(w.api.get(&path).await.expect(200), made);
    w.api.post(&format!("{CONFIGMAPS}?dryRun=Some"), &configmap("e", json!({}))).await.refused(422, "Invalid");
    w.api.post("/api/v1/namespaces?dryRun=All", &object("v1", "Namespace", "dry", json!({}))).await.expect(201);
    w.api.get("/api/v1/namespaces/dry").await.refused(404, "NotFound");
}

pub async fn conflicts(w: &World) {
    let made = w.configmap("a", json!({"k": "0"})).await;
    let path = format!("{CONFIGMAPS}/a");
    let status = w.api.post(CONFIGMAPS, &configmap("a", json!({}))).await.refused(409, "AlreadyExists");
    assert_eq!(message(&status), "configmaps \"a\" already exists");
    let mut first = made.clone();
    first["data"]["k"] = "1".into();
    w.api.put(&path, &first).await.expect(200);
    let late = w.api.put(&path, &first).await.refused(409, "Conflict");
    assert_eq!(
        message(&late),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Without a version the last writer wins.
    first["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    first["data"]["k"] = "2".into();
    w.api.put(&path, &first).await.expect(200);
    let versioned = json!({"metadata": {"resourceVersion": version(&made)}, "data": {"k": "3"}});
    w.api.patch(&path, Patch::Merge, &versioned).await.refused(409, "Conflict");
    // Many writers, each with a version: exactly one wins a round.
    let current = w.api.get(&path).await.expect(200);
    let mut bodies = Vec::new();
    for i in 0..8 {
        let mut body = current.clone();
        body["data"]["k"] = format!("w{i}").into();
        bodies.push(body);
    }
    let (a, b, c, d) = tokio::join!(
        w.api.put(&path, &bodies[0]),
        w.api.put(&path, &bodies[1]),
        w.api.put(&path, &bodies[2]),
        w.api.put(&path, &bodies[3])
    );
    let won = [&a, &b, &c, &d].iter().filter(|r| r.status == 200).count();
    let lost = [&a, &b, &c, &d].iter().filter(|r| r.status == 409).count();
    assert_eq!((won, lost), (1, 3));
}

pub async fn preconditions(w: &World) {
    let made = w.configmap("a", json!({})).await;
    let path = format!("{CONFIGMAPS}/a");
    let other = "00000000-0000-4000-8000-000000000000";
    w.api.delete_with(&path, json!({"preconditions": {"uid": other}})).await.refused(409, "Conflict");
    w.api.delete_with(&path, json!({"preconditions": {"resourceVersion": "1"}})).await.refused(409, "Conflict");
    let mut body = made.clone();
    body["metadata"]["uid"] = other.into();
    w.api.put(&path, &body).await.refused(409, "Conflict");
    let right = json!({"uid": made["metadata"]["uid"], "resourceVersion": version(&made)});
    w.api.delete_with(&path, json!({"preconditions": right})).await.expect(200);
    // The same name is not the same object.
    w.configmap("a", json!({})).await;
    w.api.put(&path, &made).await.refused(409, "Conflict");
}

pub async fn patches(w: &World) {
    w.configmap("a", json!({"k": "1", "gone": "x"})).await;
    let path = format!("{CONFIGMAPS}/a");
    let merged = w.api.patch(&path, Patch::Merge, &json!({"data": {"gone": null, "new": "n"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"k": "1", "new": "n"}));
    let ops = json!([{"op": "test", "path": "/data/k", "value": "1"}, {"op": "replace", "path": "/data/k", "value": "2"}]);
    assert_eq!(w.api.patch(&path, Patch::Json, &ops).await.expect(200)["data"]["k"], "2");
    w.api.patch(&path, Patch::Json, &ops).await.refused(422, "Invalid");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(w.api.patch(&path, Patch::Strategic, &labels).await.expect(200)["metadata"]["labels"]["a"], "b");
    // Strategic merge: containers are merged by name, and the directive deletes.
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [
        {"name": "one", "image": "example.test/one:1", "env": [{"name": "A", "value": "1"}]}, {"name": "two", "image": "example.test/two:1"}]}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    w.api.post(deployments, &object("apps/v1", "Deployment", "d", json!({"spec": spec}))).await.expect(201);
    let change = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "one", "env": [{"name": "B", "value": "2"}]}, {"name": "two", "$patch": "delete"}]}}}});
    let patched = w.api.patch(&format!("{deployments}/d"), Patch::Strategic, &change).await.expect(200);
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!((containers.as_array().map(Vec::len), &containers[0]["image"]), (Some(1), &json!("example.test/one:1")));
    let env: Vec<&str> = containers[0]["env"].as_array().unwrap().iter().filter_map(|e| e["name"].as_str()).collect();
    assert!(env.contains(&"A") && env.contains(&"B"), "{env:?}");
    w.api.ask("PATCH", &path, "application/json", &labels).await.refused(415, "UnsupportedMediaType");
    w.api.patch(&format!("{CONFIGMAPS}/none"), Patch::Merge, &labels).await.refused(404, "NotFound");
}

pub async fn bodies_and_forms(w: &World) {
    let yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  k: |\n    two\n    lines\n".to_vec();
    let reply = w.api.send("POST", CONFIGMAPS, &[("content-type", "application/yaml")], yaml).await.unwrap();
    assert_eq!(reply.expect(201)["data"]["k"], "two\nlines\n");
    let reply = w.api.send("GET", &format!("{CONFIGMAPS}/yaml"), &[("accept", "application/yaml")], vec![]).await.unwrap();
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/yaml"));
    assert!(reply.text().contains("kind: ConfigMap"), "{}", reply.text());
    let reply = w.api.send("GET", CONFIGMAPS, &[("accept", "image/png")], vec![]).await.unwrap();
    assert_eq!(reply.status, 406);
    w.api.ask("POST", CONFIGMAPS, "text/plain", &configmap("t", json!({}))).await.refused(415, "UnsupportedMediaType");
    // Bytes that are JSON without being told so are taken, as upstream does.
    let untold = w.api.send("POST", CONFIGMAPS, &[], configmap("u", json!({})).to_string().into_bytes()).await.unwrap();
    untold.expect(201);
}

pub async fn field_validation(w: &World) {
    let mut body = configmap("s", json!({}));
    body["spelled"] = "wrong".into();
    let strict = w.api.post(&format!("{CONFIGMAPS}?fieldValidation=Strict"), &body).await.refused(400, "BadRequest");
    assert!(message(&strict).contains("strict decoding error: unknown field \"spelled\""), "{strict}");
    let warned = w.api.post(CONFIGMAPS, &body).await;
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"spelled\\\"\"");
    assert_eq!(warned.expect(201)["spelled"], Value::Null);
    body["metadata"]["name"] = "silent".into();
    assert_eq!(w.api.post(&format!("{CONFIGMAPS}?fieldValidation=Ignore"), &body).await.header("warning"), "");
    // All causes are listed, not the first.
    let bad = object("v1", "Pod", "bad", json!({"spec": {"restartPolicy": "Perhaps", "containers": [{"name": "No_Name", "image": ""}]}}));
    w.pods_can_be_made_in("default").await;
    let refused = w.api.post(PODS, &bad).await.refused(422, "Invalid");
    let fields: Vec<&str> = refused["details"]["causes"].as_array().unwrap().iter().filter_map(|c| c["field"].as_str()).collect();
    for field in ["spec.restartPolicy", "spec.containers[0].name", "spec.containers[0].image"] {
        assert!(fields.contains(&field), "{field}: {refused}");
    }
}

pub async fn status_is_apart(w: &World) {
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &crate::world::pod("p", json!({}))).await.expect(201);
    let path = format!("{PODS}/p");
    let sneaked = w.api.patch(&path, Patch::Merge, &json!({"status": {"message": "hi"}})).await.expect(200);
    assert_eq!(sneaked["status"]["message"], Value::Null);
    let change = json!({"status": {"message": "hi"}, "metadata": {"labels": {"no": "no"}}, "spec": {"priority": 9}});
    let told = w.api.patch(&format!("{path}/status"), Patch::Merge, &change).await.expect(200);
    assert_eq!((&told["status"]["message"], &told["spec"]["priority"]), (&json!("hi"), &json!(0)));
    let refused = w.api.patch(&path, Patch::Merge, &json!({"spec": {"hostname": "new"}})).await.refused(422, "Invalid");
    assert!(message(&refused).contains("pod updates may not change fields other than"), "{refused}");
}

pub async fn deletecollection(w: &World) {
    for i in 0..5 {
        w.labelled(&format!("c{i}"), json!({"odd": (i % 2 == 1).to_string()})).await;
    }
    w.api.delete(&format!("{CONFIGMAPS}?labelSelector=odd%3Dtrue")).await.expect(200);
    let left = w.api.get(&format!("{CONFIGMAPS}?labelSelector=odd")).await.expect(200);
    assert_eq!(names(&left), ["c0", "c2", "c4"]);
    w.api.delete_with(CONFIGMAPS, json!({"propagationPolicy": "Background"})).await.expect(200);
    let left = w.api.get(&format!("{CONFIGMAPS}?labelSelector=odd")).await.expect(200);
    assert_eq!(names(&left), [""; 0]);
}

pub async fn what_is_refused(w: &World) {
    let nowhere = w.api.post("/api/v1/namespaces/nowhere/configmaps", &configmap("a", json!({}))).await.refused(404, "NotFound");
    assert_eq!(message(&nowhere), "namespaces \"nowhere\" not found");
    w.api.get("/api/v1/namespaces/default/nothings").await.expect(404);
    w.api.get("/apis/none.example/v1/things").await.expect(404);
    w.api.delete("/api/v1/nodes/none/status").await.refused(405, "MethodNotAllowed");
    let other = configmap("a", json!({}));
    w.api.put(&format!("{CONFIGMAPS}/b"), &other).await.refused(400, "BadRequest");
    w.api.post("/api/v1/namespaces/default/secrets", &other).await.refused(400, "BadRequest");
    let elsewhere = object("v1", "ConfigMap", "a", json!({"metadata": {"namespace": "kube-system"}}));
    let refused = w.api.post(CONFIGMAPS, &elsewhere).await.refused(400, "BadRequest");
    assert_eq!(message(&refused), "the namespace of the provided object does not match the namespace sent on the request");
    let misnamed = w.api.post(CONFIGMAPS, &configmap("Not_A_Name", json!({}))).await.refused(422, "Invalid");
    assert!(
        message(&misnamed).starts_with("ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\":"),
        "{misnamed}"
    );
}
