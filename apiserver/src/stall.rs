//! What a peer does not take -> given up after a while: a reply that waits for its reader holds memory, and there may be thousands.
//!
//! Two things can stand still: the connection (nothing of it is read; `api::seats`), and one stream of HTTP/2, whose reader gives no
//! window while it reads other streams. hyper has no bound for the second: each stream is a task here that ends when its body waits too long.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use api::seats::{Pace, Stall};
use bytes::Bytes;
use futures::future::poll_fn;
use http_body::{Body as _, Frame, SizeHint};
use hyper_util::rt::TokioExecutor;

use crate::body::{Body, BodyError, Response, boxed};

/// How long a reply may wait for its reader, all waits together, until [`TAKEN_BYTES_MIN`] of it are taken.
pub(crate) const STALL_MAX: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(60) };
/// What a reader must take in that time.
pub(crate) const TAKEN_BYTES_MIN: usize = 64 << 10;
/// The slowest that a connection or a stream may be read.
pub(crate) const PACE: Pace = Pace { window: STALL_MAX, bytes: TAKEN_BYTES_MIN };
/// Bytes of one reply that may wait in HTTP/2's buffers, besides one chunk.
pub(crate) const STREAM_BUFFER_BYTES_MAX: usize = 64 << 10;
/// What of a reply is handed to HTTP/2 at a time, which takes it as soon as its reader has room for one byte: so much may stay there unseen,
/// of a small reply, and of the end of a large one.
pub(crate) const PIECE_BYTES_MAX: usize = 16 << 10;

/// A reply whose reader may take as long as it likes: a person reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patient;

/// The bytes of a stream's reply that were handed out, and how many of them HTTP/2 has found room for. Only the stream's own task uses it.
#[derive(Default)]
struct Ledger {
    given: AtomicUsize,
    taken: AtomicUsize,
}

tokio::task_local! {
    /// Of the stream that this task serves.
    static LEDGER: Arc<Ledger>;
}

/// Runs the streams of HTTP/2 connections, each as a task that gives up when its reply stands still.
#[derive(Clone, Default)]
pub(crate) struct Streams(TokioExecutor);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.execute(async move {
            let ledger = Arc::<Ledger>::default();
            let mut stream = pin!(LEDGER.scope(ledger.clone(), stream));
            let (mut stall, mut seen) = (Stall::default(), 0);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let taken = ledger.taken.load(Relaxed);
                if taken != seen {
                    stall.went(taken.wrapping_sub(seen), PACE);
                    seen = taken;
                }
                if ledger.given.load(Relaxed) == taken {
                    return Poll::Pending;
                }
                stall.poll_over(cx, PACE).map(|()| tracing::debug!("a reply was not read: its stream is reset"))
            })
            .await;
        });
    }
}

/// The reply of a stream, whatever its size: what of it waits is known. A large one goes in pieces, and its task is there until the last one
/// had room.
pub(crate) fn paced(response: Response) -> Response {
    if response.extensions().get::<Patient>().is_some() {
        return response;
    }
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    if let Some(size) = size.filter(|size| *size <= PIECE_BYTES_MAX) {
        // HTTP/2 takes it whole, and then the task ends; or it waits for room.
        let _ = LEDGER.try_with(|ledger| ledger.given.store(size, Relaxed));
        return response;
    }
    let Ok(ledger) = LEDGER.try_with(Arc::clone) else { return response };
    response.map(|inner| boxed(Paced { inner, rest: Bytes::new(), ledger }))
}

struct Paced {
    inner: Body,
    /// Of the frame that is being given out.
    rest: Bytes,
    ledger: Arc<Ledger>,
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Who asks for more had room for what went before.
        let given = self.ledger.given.load(Relaxed);
        self.ledger.taken.store(given, Relaxed);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => return Poll::Ready(None),
            }
        }
        let size = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(size);
        self.ledger.given.store(given.wrapping_add(size), Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use api::{seats::Seats, task::Group};
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::{http1, http2};
    use hyper_util::rt::TokioIo;
    use rustls_pki_types::ServerName;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;
    use crate::{
        body::Request,
        certs::{Certs, ServingNames},
        serve,
        tls::{Tls, client_config},
    };

    const BOUND: Duration = Duration::from_secs(20);
    const LONG_BYTES: usize = 100 << 10;
    const SMALL_BYTES: usize = 1 << 10;
    const CHUNK_BYTES: usize = 64 << 10;

    /// A reply without end, and how much of it was asked for.
    #[derive(Clone, Default)]
    struct Endless(Arc<AtomicUsize>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            static PIECE: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
            self.0.fetch_add(CHUNK_BYTES, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE)))))
        }
    }

    /// A reply of known size, kept as endless ones are.
    struct Kept(#[expect(dead_code, reason = "counted")] Endless, usize);

    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            static ZEROS: [u8; LONG_BYTES] = [0; LONG_BYTES];
            &ZEROS[..self.1]
        }
    }

    impl Endless {
        fn asked_bytes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }

        async fn is_dropped_in_time(&self) {
            let dropped = async {
                while Arc::strong_count(&self.0) > 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(BOUND, dropped).await.expect("the reply is kept");
        }
    }

    struct House {
        endless: Endless,
        certs: Certs,
        address: SocketAddr,
        group: Group,
        _dir: tempfile::TempDir,
    }

    impl House {
        /// `/endless` is without end, `/long` longer than what is left to HTTP/2, `/small` not. The house holds the reply twice: itself, and
        /// in its service.
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let certs = Certs::open(dir.path(), &ServingNames::standard("h", &[], None, "cluster.local")).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, group, tls, endless) =
                (listener.local_addr().unwrap(), Group::new(), Arc::new(Tls::new(&certs).unwrap()), Endless::default());
            let served = endless.clone();
            let service = tower::service_fn(move |request: Request| {
                let body = match request.uri().path() {
                    "/endless" => boxed(served.clone()),
                    "/long" => crate::body::full(Bytes::from_owner(Kept(served.clone(), LONG_BYTES))),
                    "/small" => crate::body::full(Bytes::from_owner(Kept(served.clone(), SMALL_BYTES))),
                    _ => crate::body::full("short"),
                };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            let server = serve::serve(listener, Seats::new(serve::CONNECTIONS_MAX), tls, service, group.clone(), 0.0);
            group.spawn_careful(async move { server.await.unwrap() });
            Self { endless, certs, address, group, _dir: dir }
        }

        async fn connect(&self) -> TokioIo<TlsStream<TcpStream>> {
            let config = client_config(self.certs.ca(), &self.certs.leaves().admin).unwrap();
            let tcp = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("kubernetes.default").unwrap();
            TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
        }
    }

    fn ask(path: &str) -> http::Request<Empty<Bytes>> {
        http::Request::get(format!("https://h{path}")).header("host", "h").body(Empty::new()).unwrap()
    }

    /// Ten replies over a connection whose streams have so much room, until the server has reset them.
    async fn unread(house: &House, path: &str, window: u32) -> http2::SendRequest<Empty<Bytes>> {
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(window);
        let (mut sender, connection) = client.handshake(house.connect().await).await.unwrap();
        house.group.spawn(async move { drop(connection.await) });
        let mut replies = Vec::new();
        for _ in 0..10 {
            replies.push(sender.send_request(ask(path)).await.unwrap());
        }
        let reset = async {
            while Arc::strong_count(&house.endless.0) > 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, reset).await.expect("replies are kept");
        for reply in replies {
            assert!(reply.into_body().collect().await.is_err(), "it was reset");
        }
        sender
    }

    #[tokio::test]
    async fn no_reply_is_kept_for_who_does_not_read_it_whatever_its_size() {
        let house = House::new().await;
        drop(unread(&house, "/small", 0).await);
        drop(unread(&house, "/long", 0).await);
        // It may not be the end either that is kept.
        let mut sender = unread(&house, "/long", 1 << 10).await;
        let read = sender.send_request(ask("/long")).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read.len(), LONG_BYTES, "who reads has all of it");
        assert!(house.group.drain(BOUND).await);
    }

    // The service is cloned once more for each connection, and for each request while it is answered.
    #[tokio::test]
    async fn a_connection_that_nobody_reads_ends() {
        let house = House::new().await;
        let (mut sender, connection) = http1::handshake(house.connect().await).await.unwrap();
        {
            let mut connection = pin!(connection);
            let reply = tokio::select! {
                reply = sender.send_request(ask("/endless")) => reply.unwrap(),
                _ = &mut connection => panic!("the connection ended"),
            };
            house.endless.is_dropped_in_time().await;
            assert_eq!(reply.status(), 200);
        }
        assert!(house.endless.asked_bytes() < 32 << 20, "no more than the kernel takes: {}", house.endless.asked_bytes());
        assert!(house.group.drain(BOUND).await);
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_is_reset_and_the_others_go_on() {
        let house = House::new().await;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), house.connect().await).await.unwrap();
        house.group.spawn(async move { drop(connection.await) });
        let mut replies = Vec::new();
        for _ in 0..10 {
            replies.push(sender.send_request(ask("/endless")).await.unwrap());
        }
        let of_streams = house.endless.clone();
        let reset = async {
            // What is left belongs to the house and the connection, and is this clone.
            while Arc::strong_count(&of_streams.0) > 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, reset).await.expect("the streams are kept");
        // hyper's client has a window of 2 MiB a stream.
        let most = 10 * ((2 << 20) + STREAM_BUFFER_BYTES_MAX + 4 * CHUNK_BYTES);
        assert!(of_streams.asked_bytes() <= most, "{} > {most}", of_streams.asked_bytes());
        let short = sender.send_request(ask("/")).await.unwrap();
        assert_eq!(short.status(), 200);
        drop(replies);
        assert!(house.group.drain(BOUND).await);
    }
}
