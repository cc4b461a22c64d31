//! Definitions and objects that were made to hurt.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::room::{DEFINITIONS, Room};

const WIDGETS: &str = "/apis/hostile.io/v1/namespaces/default/widgets";
/// Of a debug build on a machine that does other things as well.
const LONG: Duration = Duration::from_secs(60);

fn definition(schema: Value) -> Value {
    json!({"metadata": {"name": "widgets.hostile.io"}, "spec": {"group": "hostile.io", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn with(spec: Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec}})
}

fn widget(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

/// Runs on a stack as large as the server's workers have.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

#[test]
fn what_cannot_be_is_refused_in_time() {
    run(async {
        let room = Room::new().await;
        let mut deep = json!({"type": "string"});
        for _ in 0..40 {
            deep = json!({"type": "object", "properties": {"x": deep}});
        }
        let bombs: Map<String, Value> =
            (0..300).map(|n| (format!("p{n}"), json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"}))).collect();
        let rule = |rule: &str| {
            with(
                json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"}}}, "x-kubernetes-validations": [{"rule": rule}]}),
            )
        };
        let refused = [
            with(json!({"type": "object", "properties": bombs})),
            rule(&"(".repeat(5000)),
            rule(&format!("self{}", ".x".repeat(50_000))),
            rule("self.gone == 1"),
            rule("1"),
            rule("size(self) +"),
            with(json!({"type": null, "properties": null, "items": null})),
            with(json!({"type": "array"})),
            json!(null),
        ];
        for schema in refused {
            let begun = Instant::now();
            let (code, reply) = room.post(DEFINITIONS, &definition(schema.clone())).await;
            assert!(code == 422 || code == 400, "{code} {} {reply}", schema.to_string().chars().take(200).collect::<String>());
            assert!(begun.elapsed() < LONG);
        }
        let (code, reply) = room.post(&format!("{DEFINITIONS}?dryRun=All"), &definition(with(deep))).await;
        assert_eq!(code, 201, "{reply}");
        // Everywhere null, or of another type.
        for body in [
            json!({"metadata": {"name": "widgets.hostile.io"}, "spec": null}),
            json!({"metadata": null}),
            definition(Value::Null),
            json!({"spec": {"versions": [null]}}),
        ] {
            let (code, reply) = room.post(DEFINITIONS, &body).await;
            assert!((400..500).contains(&code), "{code} {reply}");
        }
    });
}

/// As deep as JSON is read: definitions of any nesting, and a value that is written, changed, compared by rules and read again.
#[test]
fn the_deepest_that_is_read_is_judged() {
    let wraps: [fn(Value) -> Value; 6] = [
        |inner| json!({"type": "object", "properties": {"x": inner}}),
        |inner| json!({"type": "array", "items": inner}),
        |inner| json!({"type": "object", "additionalProperties": inner}),
        |inner| json!({"type": "object", "properties": {"x": inner}, "x-kubernetes-validations": [{"rule": "self == oldSelf || has(self.x)"}]}),
        |inner| json!({"not": inner}),
        |inner| json!({"anyOf": [inner]}),
    ];
    run(async {
        let room = Room::new().await;
        for (kind, wrap) in wraps.into_iter().enumerate() {
            let mut admitted = 0;
            for depth in (1..130).step_by(3) {
                let nested = (0..depth).fold(json!({"type": "string"}), |inner, _| wrap(inner));
                let schema =
                    if kind < 4 { nested } else { json!({"type": "object", "properties": {"x": {"type": "string", "not": nested}}}) };
                let (code, reply) = room.post(&format!("{DEFINITIONS}?dryRun=All"), &definition(with(schema))).await;
                assert!(code == 201 || code == 400 || code == 422, "{kind} {depth}: {reply}");
                if code == 201 {
                    admitted = depth;
                }
            }
            assert!(admitted > 0 || kind > 3, "{kind}");
        }
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-validations": [{"rule": "self == self", "messageExpression": "'%s'.format([self])"},
                {"rule": "'%s'.format([self]) != ''"}, {"rule": "self == oldSelf"}]});
        room.define(&definition(with(open))).await;
        let mut admitted = 0;
        for depth in (50..130).step_by(3) {
            let deep = |leaf: i32| (0..depth).fold(json!(leaf), |inner, at| if at % 2 == 0 { json!({"x": inner}) } else { json!([inner]) });
            let deep = |leaf: i32| json!({"x": deep(leaf)});
            let (code, made) = room.post(WIDGETS, &widget(deep(1))).await;
            if code != 201 {
                assert!(code == 400 || code == 422, "{depth}: {made}");
                continue;
            }
            admitted = depth;
            let path = format!("{WIDGETS}/a");
            let (code, reply) = room.send("PATCH", &path, &json!({"spec": deep(2)})).await;
            assert_eq!(code, 422, "{depth}: {reply}");
            assert_eq!(room.get(&path).await.1["spec"], made["spec"]);
            assert_eq!(room.send("DELETE", &path, &json!({})).await.0, 200);
        }
        assert!(admitted > 50, "{admitted}");
    });
}

#[test]
fn many_fields_are_served() {
    run(async {
        let room = Room::new().await;
        let fields: Map<String, Value> = (0..10_000).map(|n| (format!("p{n}"), json!({"type": "integer", "default": n}))).collect();
        room.define(&definition(with(json!({"type": "object", "properties": fields})))).await;
        let (code, made) = room.post(WIDGETS, &widget(json!({"p1": 5}))).await;
        assert_eq!((code, made["spec"].as_object().map(Map::len)), (201, Some(10_000)));
    });
}

#[test]
fn rules_have_an_end() {
    run(async {
        let room = Room::new().await;
        let rules = json!([
            {"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))"},
            {"rule": "cel.bind(a, self.s + self.s, cel.bind(b, a + a, cel.bind(c, b + b, cel.bind(d, c + c, (d + d + d + d).size() > 0))))"}]);
        let spec = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 100, "items": {"type": "integer"}}, "s": {"type": "string"}},
            "x-kubernetes-validations": rules});
        let mut endless = spec.clone();
        endless["properties"]["l"]["maxItems"] = serde_json::Value::Null;
        let (code, reply) = room.send("POST", DEFINITIONS, &definition(with(endless))).await;
        let words =
            "x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying";
        assert!(code == 422 && reply["message"].as_str().unwrap().contains(words), "{reply}");
        room.define(&definition(with(spec))).await;
        let begun = Instant::now();
        let long = "x".repeat(1 << 20);
        let (code, reply) = room.post(WIDGETS, &widget(json!({"l": vec![1; 100], "s": long}))).await;
        assert!(code == 422 && reply["message"].as_str().unwrap().contains("cost"), "{reply}");
        assert!(begun.elapsed() < LONG);
        let (code, reply) = room.post(WIDGETS, &widget(json!({"l": [1, 2], "s": "x"}))).await;
        assert_eq!(code, 201, "{reply}");
    });
}
