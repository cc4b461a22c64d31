//! What a handler left of a request's body -> read and forgotten, so that its answer arrives.
//!
//! A body that is dropped half read cancels the stream in HTTP/2 and resets the connection in HTTP/1.1: the client would see a
//! broken connection where we said 413 or 415. Go's server reads on as well.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::body::{Body, BodyError, boxed};

/// No more is read for an answer's sake.
const REST_BYTES_MAX: usize = 16 << 20;
const REST_WAIT: Duration = Duration::from_secs(5);

/// The server's hold on a body that a handler has.
pub struct Rest(Arc<Mutex<Body>>);

struct Lent(Arc<Mutex<Body>>);

/// The body for the handler, and the hold on what the handler leaves of it.
pub fn lend(body: Body) -> (Body, Option<Rest>) {
    if body.is_end_stream() {
        return (body, None);
    }
    let shared = Arc::new(Mutex::new(body));
    (boxed(Lent(shared.clone())), Some(Rest(shared)))
}

impl Rest {
    /// Reads what is left, within bounds; nothing if the handler (a proxied stream) still reads.
    pub async fn forget(self) {
        let Ok(body) = Arc::try_unwrap(self.0) else { return };
        let mut body = body.into_inner();
        let mut left = REST_BYTES_MAX;
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Whoever is slower gets the broken connection.
        tokio::time::timeout(REST_WAIT, read).await.unwrap_or_default();
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;
    use crate::body::{BoxError, empty, full};

    #[tokio::test]
    async fn what_a_handler_leaves_is_read() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BoxError>>(1);
        let stream = futures::stream::unfold(receiver, |mut r| async { r.recv().await.map(|item| (item, r)) });
        let (mut lent, rest) = lend(boxed(StreamBody::new(stream)));
        let feeding = async {
            for _ in 0..3 {
                sender.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.unwrap();
            }
            drop(sender);
        };
        let serving = async {
            lent.frame().await.unwrap().unwrap();
            drop(lent);
            rest.unwrap().forget().await;
        };
        tokio::join!(feeding, serving);
    }

    #[tokio::test]
    async fn a_body_in_use_is_left_alone() {
        let (lent, rest) = lend(full("abc"));
        rest.unwrap().forget().await;
        assert_eq!(lent.collect().await.unwrap().to_bytes(), "abc");
        assert!(lend(empty()).1.is_none());
    }
}
