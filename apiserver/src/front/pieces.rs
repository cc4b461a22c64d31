//! A list in any form but that of the cached bytes -> its reply in pieces: one object at a time is parsed, shaped and written.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use api::time::Timestamp;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    negotiate::{Format, Output, Shape},
    render::{self, ListMeta},
    stream::{CHUNK_BYTES, GZIP_BYTES_MIN},
};
use crate::{
    body::{BoxError, Response, boxed, full},
    engine::{Object, form, table::Served},
    wire,
};

/// The reply. One that is short is made at once, and says how long it is.
pub(crate) fn reply(served: &Served, output: &Output, meta: &ListMeta, objects: Arc<Vec<Arc<Object>>>, now: Timestamp) -> Response {
    let media_type = if output.format == Format::Yaml { "application/yaml" } else { "application/json" };
    let mut pieces =
        Pieces { served: served.clone(), output: output.clone(), now, objects, next: 0, begun: BytesMut::new(), is_done: false };
    pieces.begin(meta);
    let mut begun = std::mem::take(&mut pieces.begun);
    pieces.fill(&mut begun, usize::try_from(GZIP_BYTES_MIN).unwrap_or(CHUNK_BYTES) + 1);
    if pieces.is_done {
        return wire::reply(StatusCode::OK, media_type, full(begun.freeze()));
    }
    pieces.begun = begun;
    wire::reply(StatusCode::OK, media_type, boxed(pieces))
}

struct Pieces {
    served: Served,
    output: Output,
    now: Timestamp,
    objects: Arc<Vec<Arc<Object>>>,
    next: usize,
    /// What has been written and not yet sent.
    begun: BytesMut,
    is_done: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut out = std::mem::take(&mut self.begun);
        if !self.is_done {
            self.fill(&mut out, CHUNK_BYTES);
        }
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
        let (head, list) = match &self.output.shape {
            Shape::Plain => (of(&kind.list_kind(), kind.api_version()), "items"),
            Shape::Partial { version } => (of("PartialObjectMetadataList", format!("meta.k8s.io/{version}")), "items"),
            Shape::Table { version, .. } => (render::table_head(kind, version, meta.value()), "rows"),
        };
        let text = match self.output.format {
            Format::Json => format!("{},\"{list}\":[", cut(&head.to_string(), "}")),
            Format::Pretty => format!("{},\n  \"{list}\": [", cut(&pretty(&head), "\n}")),
            Format::Yaml if self.objects.is_empty() => format!("{}{list}: []\n", yaml(&head)),
            Format::Yaml => format!("{}{list}:\n", yaml(&head)),
        };
        self.begun.put_slice(text.as_bytes());
    }

    /// Writes items until there are `size` bytes, and the end behind the last one.
    fn fill(&mut self, out: &mut BytesMut, size: usize) {
        while out.len() < size {
            let Some(object) = self.objects.get(self.next).cloned() else {
                let end = match (self.output.format, self.next) {
                    (Format::Json, _) => "]}",
                    (Format::Pretty, 0) => "]\n}",
                    (Format::Pretty, _) => "\n  ]\n}",
                    (Format::Yaml, _) => "",
                };
                out.put_slice(end.as_bytes());
                self.is_done = true;
                return;
            };
            if self.next > 0 && self.output.format != Format::Yaml {
                out.put_u8(b',');
            }
            self.next += 1;
            self.put(&object, out);
        }
    }

    fn put(&self, object: &Object, out: &mut BytesMut) {
        if let (Format::Json, Shape::Partial { version }) = (self.output.format, &self.output.shape)
            && render::put_partial(version, object, object.rev, out)
        {
            return;
        }
        let item = render::item(&self.served.kind, &self.output.shape, form::value(&self.served, object), self.now);
        match self.output.format {
            Format::Json => out.put_slice(item.to_string().as_bytes()),
            Format::Pretty => pretty(&item).lines().for_each(|line| {
                out.put_slice(b"\n    ");
                out.put_slice(line.as_bytes());
            }),
            Format::Yaml => out.put_slice(yaml(&[item]).as_bytes()),
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn yaml<T: Serialize>(value: &T) -> String {
    serde_yaml::to_string(value).unwrap_or_default()
}

fn cut<'a>(text: &'a str, end: &str) -> &'a str {
    text.strip_suffix(end).unwrap_or(text)
}
