//! A reply, and what its request holds -> a reply that drops it when its body is done or dropped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, BodyError, Response, boxed};

/// A reply up to this size has left with its head, as far as the server can tell: the connection takes it at once, or it is reset in time.
const SMALL_BYTES: u64 = crate::stall::PIECE_BYTES_MAX as u64;

/// `held` (a seat, say) is kept until the body is gone.
pub fn hold<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    if response.body().size_hint().exact().is_some_and(|size| size <= SMALL_BYTES) {
        return response;
    }
    response.map(|inner| boxed(Held { inner, held: Some(held) }))
}

struct Held<T> {
    inner: Body,
    held: Option<T>,
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        // A body of known size is not asked again after its last frame; its owner drops it when that has been taken.
        if frame.is_none() {
            self.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
