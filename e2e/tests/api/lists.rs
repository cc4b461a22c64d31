//! Lists: pages over one snapshot, revisions, selectors, tables.

use serde_json::json;

use crate::world::{CONFIGMAPS, PODS, World, message, names, pod, version};

const OURS: &str = "labelSelector=test";

async fn filled(w: &World, count: usize) {
    for i in 0..count {
        w.labelled(&format!("t{i}"), json!({"test": i.to_string()})).await;
    }
}

pub async fn pages_stand_still(w: &World) {
    filled(w, 7).await;
    let first = w.api.get(&format!("{CONFIGMAPS}?{OURS}&limit=3")).await.expect(200);
    assert_eq!(names(&first), ["t0", "t1", "t2"]);
    w.api.delete(&format!("{CONFIGMAPS}/t4")).await.expect(200);
    w.labelled("t3x", json!({"test": "x"})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = w.api.get(&format!("{CONFIGMAPS}?{OURS}&limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["t3", "t4", "t5"]);
    assert_eq!(version(&second), version(&first));
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = w.api.get(&format!("{CONFIGMAPS}?{OURS}&limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&last), ["t6"]);
    assert!(last["metadata"]["continue"].as_str().unwrap_or("").is_empty());
    let now = w.api.get(&format!("{CONFIGMAPS}?{OURS}")).await.expect(200);
    assert_eq!(names(&now), ["t0", "t1", "t2", "t3", "t3x", "t5", "t6"]);
    let plain = w.api.get("/api/v1/namespaces?limit=1").await.expect(200);
    assert!(plain["metadata"]["remainingItemCount"].as_u64().is_some_and(|n| n >= 3), "{plain}");
}

pub async fn revisions(w: &World) {
    let first = w.labelled("a", json!({"test": "1"})).await;
    w.labelled("b", json!({"test": "2"})).await;
    let at = |rule: &str| format!("{CONFIGMAPS}?{OURS}&resourceVersion={}&resourceVersionMatch={rule}", version(&first));
    let exact = w.api.get(&at("Exact")).await.expect(200);
    assert_eq!((names(&exact), version(&exact)), (vec!["a"], version(&first)));
    assert_eq!(names(&w.api.get(&at("NotOlderThan")).await.expect(200)), ["a", "b"]);
    assert_eq!(names(&w.api.get(&format!("{CONFIGMAPS}?{OURS}&resourceVersion=0")).await.expect(200)), ["a", "b"]);
    let future = w.api.get(&format!("{CONFIGMAPS}?resourceVersion=900000000")).await;
    let future = future.refused(504, "Timeout");
    assert!(message(&future).starts_with("Too large resource version: 900000000, current: "), "{future}");
    let bad = w.api.get(&format!("{CONFIGMAPS}?resourceVersion=abc")).await.expect(400);
    assert!(message(&bad).contains("abc"), "{bad}");
    w.api.get(&format!("{CONFIGMAPS}?resourceVersionMatch=Exact")).await.refused(422, "Invalid");
    w.api.get(&format!("{CONFIGMAPS}?resourceVersion=0&resourceVersionMatch=Exact")).await.refused(422, "Invalid");
}

pub async fn selectors(w: &World) {
    filled(w, 4).await;
    let cases: [(&str, &[&str]); 6] = [
        ("labelSelector=test%3D2", &["t2"]),
        ("labelSelector=test%20in%20(0,3)", &["t0", "t3"]),
        ("labelSelector=test,test%20notin%20(0,3)", &["t1", "t2"]),
        ("labelSelector=test,!other,test!%3D1", &["t0", "t2", "t3"]),
        ("fieldSelector=metadata.name%3Dt1", &["t1"]),
        ("labelSelector=test&fieldSelector=metadata.name!%3Dt1,metadata.namespace%3Ddefault", &["t0", "t2", "t3"]),
    ];
    for (query, wanted) in cases {
        assert_eq!(names(&w.api.get(&format!("{CONFIGMAPS}?{query}")).await.expect(200)), wanted, "{query}");
    }
    let all = w.api.get("/api/v1/configmaps?labelSelector=test%3D2").await.expect(200);
    assert_eq!(names(&all), ["t2"]);
    let refused = w.api.get(&format!("{CONFIGMAPS}?fieldSelector=data.k%3D1")).await.refused(400, "BadRequest");
    assert!(message(&refused).contains("\"data.k\" is not a known field selector"), "{refused}");
    w.api.get(&format!("{CONFIGMAPS}?labelSelector=a%20b%20c")).await.refused(400, "BadRequest");
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &pod("p", json!({}))).await.expect(201);
    let pending = w.api.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D,status.phase%3DPending")).await.expect(200);
    assert_eq!(names(&pending), ["p"]);
    let running = w.api.get(&format!("{PODS}?fieldSelector=status.phase%3DRunning")).await.expect(200);
    assert_eq!(names(&running), [""; 0]);
}

pub async fn tables(w: &World) {
    w.pods_can_be_made_in("default").await;
    w.api.post(PODS, &pod("p", json!({}))).await.expect(201);
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let table = w.api.send("GET", PODS, &accept, vec![]).await.unwrap().expect(200);
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(columns, ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!((&cells[0], &cells[1], &cells[2]), (&json!("p"), &json!("0/1"), &json!("Pending")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let accept = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let partial = w.api.send("GET", PODS, &accept, vec![]).await.unwrap().expect(200);
    assert_eq!((names(&partial), partial["items"][0].get("spec")), (vec!["p"], None));
}
