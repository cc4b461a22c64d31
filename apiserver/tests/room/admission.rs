//! Plugins that change objects: asked again where they want it, and what comes from outside is checked as what a client sends.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use api::Status;
use apiserver::{
    identity::{Admission, Review},
    schema::Schema,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::kit::{Room, THINGS, thing};

/// Wants the size to be twice the colour's length, whoever sets the colour: asks for another round while it is not.
#[derive(Default)]
struct Sizes(AtomicUsize);

#[async_trait]
impl Admission for Sizes {
    fn name(&self) -> &'static str {
        "Sizes"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let Some(object) = review.object.as_deref_mut() else { return Ok(()) };
        let length = object["spec"]["colour"].as_str().unwrap_or_default().len() * 2;
        object["spec"]["size"] = json!(length);
        Ok(())
    }
}

/// A webhook's part: paints, and says that who looked before should look again.
struct Painter {
    patch: fn(&mut Value),
    is_external: bool,
}

#[async_trait]
impl Admission for Painter {
    fn name(&self) -> &'static str {
        "Painter"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        match (self.is_external, review.object.as_deref_mut()) {
            (_, None) => {}
            (false, Some(object)) => (self.patch)(object),
            (true, Some(object)) => {
                let mut new = object.clone();
                (self.patch)(&mut new);
                review.replace("Painter", new)?;
            }
        }
        let round = 1 + usize::from(review.reinvocation.is_again());
        let rounds = review.reinvocation.memory::<usize>("Painter");
        *rounds += 1;
        assert_eq!(*rounds, round, "it remembers the first time");
        // A third time would be asked for as well, and is not given.
        review.reinvocation.request();
        Ok(())
    }
}

async fn room(patch: fn(&mut Value), is_external: bool) -> (Room, Arc<Sizes>) {
    let sizes = Arc::new(Sizes::default());
    let painter = Arc::new(Painter { patch, is_external });
    let room = Room::with(store::memory::Memory::new(), vec![sizes.clone(), painter]).await;
    let mut thing = crate::kit::thing_kind();
    // Takes numbers for sizes, and knows no field `extra`.
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}, "colour": {"type": "string"}}});
    thing.schema = Schema::custom(&thing.gvk(), &json!({"type": "object", "properties": {"spec": spec}}), None);
    room.engine.serve(vec![Arc::new(thing)]).await.unwrap();
    (room, sizes)
}

#[tokio::test]
async fn a_plugin_sees_what_came_after_it_once_and_no_third_time() {
    let (room, sizes) = room(|object| object["spec"]["colour"] = json!("violet"), false).await;
    let made = room.thing("a", &json!({})).await;
    assert_eq!((&made["spec"]["colour"], &made["spec"]["size"]), (&json!("violet"), &json!(12)), "the size is of the last colour");
    assert_eq!(sizes.0.swap(0, Ordering::SeqCst), 2);
    let mut blue = made.clone();
    blue["spec"]["colour"] = json!("blue");
    assert_eq!(room.put(&format!("{THINGS}/a"), &blue).await.ok(200)["spec"]["size"], 12);
    assert_eq!(sizes.0.load(Ordering::SeqCst), 2);
    let mut page = String::new();
    api::metrics::text("apiserver_admission_", &mut page);
    let counted = "apiserver_admission_controller_admission_duration_seconds_count{name=\"Sizes\",type=\"admit\",operation=\"UPDATE\",rejected=\"false\"}";
    assert!(page.contains(counted), "{page}");
    assert!(
        page.contains(
            "apiserver_admission_step_admission_duration_seconds_count{type=\"validate\",operation=\"CREATE\",rejected=\"false\"}"
        )
    );
    assert!(!page.contains("name=\"Sizes\",type=\"validate\""), "it does not validate");
}

#[tokio::test]
async fn what_comes_from_outside_is_pruned_and_defaulted_again() {
    let paint = |object: &mut Value| {
        object["spec"].as_object_mut().unwrap().remove("colour");
        object["spec"]["extra"] = json!(1);
    };
    let (outside, _) = room(paint, true).await;
    let spec = outside.thing("a", &json!({})).await["spec"].take();
    assert_eq!((spec.get("colour"), spec.get("extra")), (Some(&json!("red")), None));
    // What stands in this process is trusted to know what it writes.
    let (inside, _) = room(paint, false).await;
    let spec = inside.thing("a", &json!({})).await["spec"].take();
    assert_eq!((spec.get("colour"), spec.get("extra")), (None, Some(&json!(1))));
}

#[tokio::test]
async fn what_comes_from_outside_and_is_no_object_of_the_kind_is_stored_nowhere() {
    type Case = (fn(&mut Value), u16, &'static str);
    let spoil: [Case; 3] = [
        (
            |object| object["spec"]["size"] = json!("a"),
            500,
            r#"admission plugin "Painter" made an invalid object: Thing in version "v1" cannot be handled as a Thing"#,
        ),
        (|object| object["metadata"]["labels"] = json!(1), 500, "metadata"),
        (|object| object["metadata"]["namespace"] = json!("other"), 400, "the namespace of the provided object does not match"),
    ];
    for (patch, code, words) in spoil {
        let (room, _) = room(patch, true).await;
        room.post(THINGS, &thing("a", &json!({}))).await.refused(code, words);
        for namespace in ["default", "other"] {
            room.get(&format!("/apis/test.io/v1/namespaces/{namespace}/things/a")).await.refused(404, "not found");
        }
    }
}

/// Says of every name that it is taken.
#[derive(Default)]
struct Taken(AtomicUsize);

#[async_trait]
impl Admission for Taken {
    fn name(&self) -> &'static str {
        "Taken"
    }

    async fn validate(&self, _: &Review<'_>) -> Result<(), Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Status::new(409, "AlreadyExists", "admission webhook \"taken\" denied the request: already exists"))
    }
}

#[tokio::test]
async fn a_name_is_drawn_again_only_where_the_server_itself_has_it_already() {
    let taken = Arc::new(Taken::default());
    let room = Room::with(store::memory::Memory::new(), vec![taken.clone()]).await;
    let object = json!({"metadata": {"generateName": "x-"}, "spec": {}});
    room.post(THINGS, &object).await.refused(409, "denied the request");
    assert_eq!(taken.0.load(Ordering::SeqCst), 1);
}
