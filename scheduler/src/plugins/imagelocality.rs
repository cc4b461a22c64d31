//! ImageLocality: nodes that have the images already. Source: `plugins/imagelocality`.

use std::borrow::Cow;

use super::sign;
use crate::{
    framework::{Change, Plugin, SCORE_MAX},
    node::NodeInfo,
    pod::{PodInfo, images},
    snapshot::Snapshot,
};

/// Bytes: less than this is pulled in no time.
const SMALL: i64 = 23 << 20;
/// Bytes per container: more does not count.
const LARGE: i64 = 1000 << 20;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        let images: Vec<&str> = pod.spec().into_iter().flat_map(images).collect();
        sign(signature, &images);
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(spec) = pod.spec() else { return 0 };
        if node.facts.images.is_empty() {
            return 0;
        }
        let sum = images(spec).map(|image| here(&tagged(image), node, snapshot)).fold(0, i64::saturating_add);
        let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        scaled(sum, i64::try_from(containers).unwrap_or(1))
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        false
    }
}

/// The image's bytes, less where few nodes have it: or all pods would go where the first one went.
fn here(image: &str, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
    let Some(bytes) = node.facts.images.get(image) else { return 0 };
    let spread = snapshot.nodes_with_image(image) as f64 / snapshot.len().max(1) as f64;
    (*bytes as f64 * spread) as i64
}

fn scaled(bytes: i64, containers: i64) -> i64 {
    let large = LARGE * containers.max(1);
    SCORE_MAX * (bytes.clamp(SMALL, large) - SMALL) / (large - SMALL)
}

fn tagged(image: &str) -> Cow<'_, str> {
    let tag = image.rfind(':');
    if tag.is_none() || tag < image.rfind('/') { Cow::Owned(format!("{image}:latest")) } else { Cow::Borrowed(image) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::Facts,
        tests::{node, pod},
    };
    use serde_json::json;

    #[test]
    fn names_get_their_tag() {
        let snapshot = [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("host:5000/nginx", "host:5000/nginx:latest"),
            ("a@sha256:00", "a@sha256:00"),
        ];
        for (image, want) in snapshot {
            assert_eq!(tagged(image), want);
        }
    }

    #[test]
    fn large_images_that_many_nodes_have_count() {
        let mut snapshot = Snapshot::default();
        let has =
            |name: &str| json!({"metadata": {"name": name}, "status": {"images": [{"names": ["big:latest"], "sizeBytes": 1000 << 20}]}});
        snapshot.set_node(Facts::new(&node(&has("a"))));
        snapshot.set_node(Facts::new(&node(&json!({"metadata": {"name": "b"}}))));
        let wants = pod(&json!({"spec": {"containers": [{"name": "c", "image": "big"}]}}));
        let score = |snapshot: &Snapshot, name: &str| ImageLocality.score(&wants, snapshot.find(name).unwrap(), snapshot);
        assert_eq!((score(&snapshot, "a"), score(&snapshot, "b")), (48, 0));
        snapshot.set_node(Facts::new(&node(&has("b"))));
        assert_eq!((score(&snapshot, "a"), score(&snapshot, "b")), (100, 100));
    }
}
