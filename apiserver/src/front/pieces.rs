//! A list in any form but that of the cached bytes -> its reply in pieces: one object at a time is parsed, transformed and written.
//!
//! What is written may be much less than what is parsed for it (a table's row): both are bounded before others have their turn.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use api::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value, json};

use super::{
    negotiate::{Format, Output, Transform},
    render::{self, ListMeta},
    stream::{CHUNK_BYTES, GZIP_BYTES_MIN},
    yaml,
};
use crate::{
    body::{BoxError, Response, boxed, full},
    engine::{Object, form, registry::Served},
    lane::{self, Lane, Turns, Weight},
    wire,
};

/// Of objects that are parsed before the task makes room for others.
const PARSED_BYTES_MAX: usize = 256 << 10;

/// The reply. One that is short is made at once, and says how long it is.
pub(crate) async fn reply(
    lane: &Lane,
    served: &Served,
    output: &Output,
    meta: &ListMeta,
    objects: Arc<Vec<Arc<Object>>>,
    now: Timestamp,
) -> Response {
    let media_type = if output.format == Format::Yaml { "application/yaml" } else { "application/json" };
    let (served, output, turns) = (served.clone(), output.clone(), lane.turns());
    let mut pieces = Pieces {
        served,
        output,
        now,
        objects,
        turns,
        next: 0,
        begun: BytesMut::new(),
        parsed_bytes: 0,
        yaml_end: String::new(),
        is_done: false,
    };
    pieces.begin(meta);
    // As much as shows whether it is worth compressing.
    let size = usize::try_from(GZIP_BYTES_MIN).unwrap_or(CHUNK_BYTES) + 1;
    while !pieces.is_done && pieces.begun.len() < size {
        let weight = pieces.weight();
        lane.run(weight, pin!(async { pieces.fill(size, weight) })).await;
        if pieces.parsed_bytes >= PARSED_BYTES_MAX {
            pieces.parsed_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
    if pieces.is_done {
        return wire::reply(StatusCode::OK, media_type, full(pieces.begun.freeze()));
    }
    wire::reply(StatusCode::OK, media_type, boxed(pieces))
}

struct Pieces {
    served: Served,
    output: Output,
    now: Timestamp,
    objects: Arc<Vec<Arc<Object>>>,
    turns: Turns,
    next: usize,
    /// What has been written and not yet sent.
    begun: BytesMut,
    /// In YAML, what comes behind the list.
    yaml_end: String,
    /// Since others had their turn.
    parsed_bytes: usize,
    is_done: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.parsed_bytes >= PARSED_BYTES_MAX {
            this.parsed_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.is_done {
            ready!(this.poll_fill(cx));
        }
        let out = std::mem::take(&mut this.begun);
        Poll::Ready((!out.is_empty()).then(|| Ok(Frame::data(out.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done && self.begun.is_empty()
    }

    /// At least what is there.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.begun.len() as u64);
        hint
    }
}

impl Pieces {
    /// All that comes before the first item.
    fn begin(&mut self, meta: &ListMeta) {
        let kind = &self.served.kind;
        let of = |name: &str, api_version: String| json!({"kind": name, "apiVersion": api_version, "metadata": meta.value()});
        let (head, list) = match &self.output.transform {
            Transform::Plain => (of(&kind.list_kind(), kind.api_version()), "items"),
            Transform::Partial { version, .. } => (of("PartialObjectMetadataList", format!("meta.k8s.io/{version}")), "items"),
            Transform::Table { version, .. } => (render::table_head(kind, version, meta.value()), "rows"),
        };
        if self.objects.is_empty() && matches!(self.output.transform, Transform::Partial { .. }) {
            // A nil slice of Go's.
            self.is_done = true;
            let head = with_nothing(head);
            let text = match self.output.format {
                Format::Json | Format::Protobuf => format!("{head}\n"),
                Format::Pretty => pretty(&head),
                Format::Yaml => yaml::write(&head),
            };
            return self.begun.put_slice(text.as_bytes());
        }
        let text = match self.output.format {
            Format::Json | Format::Protobuf => format!("{},\"{list}\":[", cut(&head.to_string(), "}")),
            Format::Pretty => format!("{},\n  \"{list}\": [", cut(&pretty(&head), "\n}")),
            Format::Yaml => {
                // In order: what comes behind the list is its end.
                let (before, behind): (Map<_, _>, Map<_, _>) =
                    head.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).partition(|(name, _)| name.as_str() < list);
                self.yaml_end = if behind.is_empty() { String::new() } else { yaml::write(&Value::Object(behind)) };
                let nothing = if self.objects.is_empty() { " []" } else { "" };
                format!("{}{list}:{nothing}\n", yaml::write(&Value::Object(before)))
            }
        };
        self.begun.put_slice(text.as_bytes());
    }

    /// Of the next object.
    fn weight(&self) -> Weight {
        self.objects.get(self.next).map_or(Weight::Light, |object| Weight::of(object.shown_len()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let weight = self.weight();
        let _turn = ready!(self.turns.poll_next(cx, weight));
        lane::apart(weight, || self.fill(CHUNK_BYTES, weight));
        Poll::Ready(())
    }

    /// Writes items until there are `size` bytes or enough was parsed, and the end behind the last one. Those that are heavier than `weight`
    /// are left for another time.
    fn fill(&mut self, size: usize, weight: Weight) {
        let mut out = std::mem::take(&mut self.begun);
        while out.len() < size && self.parsed_bytes < PARSED_BYTES_MAX && (weight == Weight::Heavy || self.weight() == Weight::Light) {
            let Some(object) = self.objects.get(self.next).cloned() else {
                let end = match (self.output.format, self.next) {
                    (Format::Yaml, _) => self.yaml_end.as_str(),
                    (Format::Json | Format::Protobuf, _) => "]}\n",
                    (Format::Pretty, 0) => "]\n}",
                    (Format::Pretty, _) => "\n  ]\n}",
                };
                out.put_slice(end.as_bytes());
                self.is_done = true;
                break;
            };
            if self.next > 0 && self.output.format != Format::Yaml {
                out.put_u8(b',');
            }
            self.next += 1;
            self.parsed_bytes += object.shown_len();
            self.put(&object, &mut out);
        }
        self.begun = out;
    }

    fn put(&self, object: &Object, out: &mut BytesMut) {
        if let (Format::Json, Transform::Partial { version, .. }) = (self.output.format, &self.output.transform)
            && render::put_partial(&self.served.kind, version, object, object.rev, out)
        {
            return;
        }
        let mut item = render::item(&self.served.kind, &self.output.transform, form::value_at(&self.served, object, object.rev), self.now);
        if self.output.transform == Transform::Plain && self.served.kind.schema.has_protobuf() {
            // The list has said of which kind they are.
            item.as_object_mut().into_iter().for_each(|map| map.retain(|name, _| name != "kind" && name != "apiVersion"));
        }
        match self.output.format {
            Format::Json | Format::Protobuf => out.put_slice(item.to_string().as_bytes()),
            Format::Pretty => pretty(&item).lines().for_each(|line| {
                out.put_slice(b"\n    ");
                out.put_slice(line.as_bytes());
            }),
            Format::Yaml => out.put_slice(yaml::write(&Value::Array(vec![item])).as_bytes()),
        }
    }
}

fn with_nothing(mut head: Value) -> Value {
    head["items"] = Value::Null;
    head
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn cut<'a>(text: &'a str, end: &str) -> &'a str {
    text.strip_suffix(end).unwrap_or(text)
}
