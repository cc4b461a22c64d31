//! Events that are too large -> the same without the objects in them. Source: apiserver `plugin/pkg/audit/truncate`.
//!
//! What is left out is not made of what was written, which would have to be read again: both are made of the same parts (`super::Line`).

use async_trait::async_trait;
use bytes::Bytes;

use super::Sink;

/// Under which errors are counted (`PluginName`).
pub(super) const NAME: &str = "truncate";

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

    fn event_bytes_max(&self) -> usize {
        self.event_bytes_max
    }

    async fn take(&self, event: Bytes) -> Result<(), String> {
        self.sink.take(event).await
    }

    fn take_now(&self, event: Bytes) -> Result<(), String> {
        self.sink.take_now(event)
    }

    fn lost(&self) -> u64 {
        self.sink.lost()
    }
}
