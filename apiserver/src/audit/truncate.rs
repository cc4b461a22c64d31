//! Events that are too large -> the same without the objects in them. Source: apiserver `plugin/pkg/audit/truncate`.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::Sink;

const TOO_LARGE: &str = "event is too large even after truncating";

/// A sink that gets no event that is larger (`--audit-log-truncate-enabled` and its kin).
pub struct Truncate {
    pub sink: Box<dyn Sink>,
    pub event_bytes_max: usize,
}

#[async_trait]
impl Sink for Truncate {
    fn name(&self) -> &'static str {
        self.sink.name()
    }

    fn is_strict(&self) -> bool {
        self.sink.is_strict()
    }

    async fn take(&self, event: Bytes) -> Result<(), String> {
        self.sink.take(self.truncated(event)?).await
    }

    fn take_now(&self, event: Bytes) -> Result<(), String> {
        self.sink.take_now(self.truncated(event)?)
    }

    fn lost(&self) -> u64 {
        self.sink.lost()
    }
}

impl Truncate {
    /// # Errors
    /// It is too large all the same.
    fn truncated(&self, event: Bytes) -> Result<Bytes, String> {
        if event.len() <= self.event_bytes_max {
            return Ok(event);
        }
        let Ok(Value::Object(mut map)) = serde_json::from_slice(&event) else { return Err(TOO_LARGE.to_owned()) };
        if !matches!(map.get("level").and_then(Value::as_str), Some("Request" | "RequestResponse")) {
            return Err(TOO_LARGE.to_owned());
        }
        for object in ["requestObject", "responseObject"] {
            map.shift_remove(object);
        }
        let annotations = map.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert("audit.k8s.io/truncated".to_owned(), "true".into());
            annotations.sort_keys();
        }
        let line = Bytes::from(format!("{}\n", Value::Object(map)));
        if line.len() <= self.event_bytes_max { Ok(line) } else { Err(TOO_LARGE.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    struct Kept(Arc<Mutex<Vec<Bytes>>>);

    #[async_trait]
    impl Sink for Kept {
        fn name(&self) -> &'static str {
            "kept"
        }

        fn is_strict(&self) -> bool {
            false
        }

        async fn take(&self, event: Bytes) -> Result<(), String> {
            self.take_now(event)
        }

        fn take_now(&self, event: Bytes) -> Result<(), String> {
            self.0.lock().push(event);
            Ok(())
        }
    }

    #[tokio::test]
    async fn large_events_lose_their_objects() {
        let kept = Arc::<Mutex<Vec<Bytes>>>::default();
        let sink = Truncate { sink: Box::new(Kept(kept.clone())), event_bytes_max: 200 };
        let line = |value: Value| Bytes::from(format!("{value}\n"));
        let small = line(json!({"kind": "Event", "level": "Request", "requestObject": {}}));
        sink.take(small.clone()).await.unwrap();
        let large = |level: &str, uri: &str| {
            line(json!({"kind": "Event", "level": level, "requestURI": uri, "requestObject": {"x": "x".repeat(300)}, "responseObject": {},
                "annotations": {"z": "1"}}))
        };
        sink.take(large("RequestResponse", "/a")).await.unwrap();
        assert_eq!(sink.take_now(large("Metadata", "/a")).unwrap_err(), TOO_LARGE);
        assert_eq!(sink.take_now(large("Request", &"x".repeat(300))).unwrap_err(), TOO_LARGE);
        let cut = line(json!({"kind": "Event", "level": "RequestResponse", "requestURI": "/a",
            "annotations": {"audit.k8s.io/truncated": "true", "z": "1"}}));
        assert_eq!(*kept.lock(), [small, cut]);
    }
}
