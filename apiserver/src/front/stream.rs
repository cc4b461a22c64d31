//! Large replies: a list as a sequence of the cached bytes, and compression on the way out.

use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    body::{Body, BodyError, BoxError, Response, boxed},
    engine::Object,
    pace::Turn,
};

/// How much is handed to the connection at a time.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Room for the object that ends a chunk; a larger one makes it grow.
const LAST_BYTES: usize = 8 << 10;
/// Replies above this are compressed for those who take it (upstream's `defaultGzipThresholdBytes`).
pub(crate) const GZIP_BYTES_MIN: u64 = 128 << 10;

/// `{..., "items":[` the cached objects, comma-separated, `]}` and the end of the line; only one chunk exists at a time.
pub(crate) struct ListBody {
    head: Bytes,
    objects: Arc<Vec<Arc<Object>>>,
    items: Items,
    next: usize,
    left: u64,
}

/// Whether items name their kind: those of upstream's own types do not, custom resources do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Items {
    Typed,
    Untyped,
}

impl ListBody {
    /// `head` ends with the opening bracket of the items.
    pub fn new(head: Bytes, objects: Arc<Vec<Arc<Object>>>, items: Items) -> Self {
        let length = |object: &Object| if items == Items::Typed { object.shown_len() } else { object.untyped_len() };
        let lengths: u64 = objects.iter().map(|object| length(object) as u64 + 1).sum();
        let left = head.len() as u64 + lengths.saturating_sub(u64::from(!objects.is_empty())) + 3;
        Self { head, objects, items, next: 0, left }
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = usize::try_from(self.left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES + LAST_BYTES);
        let mut chunk = BytesMut::with_capacity(size);
        chunk.put(std::mem::take(&mut self.head));
        while chunk.len() < CHUNK_BYTES {
            let Some(object) = self.objects.get(self.next) else {
                chunk.put_slice(b"]}\n");
                break;
            };
            if self.next > 0 {
                chunk.put_u8(b',');
            }
            match self.items {
                Items::Typed => object.put(&mut chunk),
                Items::Untyped => object.put_untyped(&mut chunk),
            }
            self.next += 1;
        }
        self.left = self.left.saturating_sub(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Compresses a reply that is known to be large. (tower-http's layer knows no turns: it goes on for as long as there is nothing to send.)
pub(crate) fn compressed(response: Response) -> Response {
    let large = response.body().size_hint().lower() > GZIP_BYTES_MIN;
    if !large || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(header::CONTENT_LENGTH);
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::new(1)));
    Response::from_parts(parts, boxed(GzipBody { inner: body, encoder, turn: Turn::default() }))
}

struct GzipBody {
    inner: Body,
    /// `None` once the end is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// What says the same over and over is read for long before there is anything to send.
    turn: Turn,
}

impl http_body::Body for GzipBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            ready!(self.turn.poll_rest(cx));
            let Some(mut encoder) = self.encoder.take() else { return Poll::Ready(None) };
            let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(cx) else {
                self.encoder = Some(encoder);
                return Poll::Pending;
            };
            match polled {
                None => return Poll::Ready(Some(encoder.finish().map(|rest| Frame::data(rest.into())).map_err(BodyError::new))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.turn.took(data.len());
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(BodyError::new(error))));
                    }
                    let ready = std::mem::take(encoder.get_mut());
                    self.encoder = Some(encoder);
                    if !ready.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(ready.into()))));
                    }
                }
            }
        }
    }
}
