//! A TCP stream that sends what is in one piece as one piece: `send` costs the kernel less than `writev`, and a TLS record is one piece. It
//! holds its connection's seat, also when it is handed on as a tunnel, tells it when something was heard, and ends with an error where its
//! peer takes too little for too long: what waits for a reader holds memory, and there may be thousands.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use super::{Pace, Seat, Stall};

/// What the kernel keeps of a connection for a reader who takes nothing, besides what is on its way (`TCP_NOTSENT_LOWAT`). Without it that
/// is 4 MiB each (`tcp_wmem`). A writer is woken when half of it has gone.
pub const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// What is read of a connection in one go; then it is others' turn. Frames of a few bytes cost far more than what carries them.
const TURN_BYTES_MAX: usize = 32 << 10;

pub struct Socket {
    stream: TcpStream,
    seat: Arc<Seat>,
    stall: Stall,
    pace: Pace,
    /// Bytes read since there was nothing to read.
    turn: usize,
}

/// Bounds what the kernel keeps for readers. Connections have it from their listener.
///
/// # Errors
/// The kernel's.
pub fn bound_unsent(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}

impl Socket {
    /// `pace`: the slowest that its peer may read, unless the seat says that it need not hurry.
    pub fn new(stream: TcpStream, seat: Arc<Seat>, pace: Pace) -> Self {
        Self { stream, seat, stall: Stall::default(), pace, turn: 0 }
    }

    /// What came of a write, or the error that it has come to too little for too long.
    #[inline]
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => self.stall.went(bytes, self.pace),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return self.waits(cx),
        }
        written
    }

    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.seat.hurries() {
            return Poll::Pending;
        }
        ready!(self.stall.poll_over(cx, self.pace));
        // What is unsent goes with the connection; else the kernel keeps it for minutes more.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn >= TURN_BYTES_MAX {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        match into.filled().len() - before {
            0 => self.turn = 0,
            bytes => {
                self.turn += bytes;
                self.seat.heard();
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match pieces {
            [one] => Pin::new(&mut self.stream).poll_write(cx, one),
            several => Pin::new(&mut self.stream).poll_write_vectored(cx, several),
        };
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{
        super::{Limits, Seats},
        *,
    };

    const SOON: Pace = Pace { window: Duration::from_millis(100), bytes: 1 << 20 };
    const BOUND: Duration = Duration::from_secs(20);

    /// A listener that is bounded, a seat's socket, and its peer, which reads nothing by itself.
    async fn pair(pace: Pace) -> (Socket, TcpStream, Arc<Seat>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        bound_unsent(&listener).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let seats = Seats::new(Limits { arriving: 4, strangers: 4, known: 4 });
        let seat = Arc::new(seats.arrive(address.ip()).unwrap());
        (Socket::new(stream, seat.clone(), pace), peer, seat)
    }

    /// Writes for as long as it can; how much that was, and the error.
    async fn filled(socket: &mut Socket) -> (usize, io::Error) {
        let mut all = 0;
        let piece = vec![0; 16 << 10];
        loop {
            match poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, &piece)).await {
                Ok(bytes) => all += bytes,
                Err(error) => return (all, error),
            }
        }
    }

    #[tokio::test]
    async fn the_kernel_keeps_little_for_who_does_not_read() {
        let (mut socket, peer, _seat) = pair(SOON).await;
        assert_eq!(SockRef::from(&socket.stream).tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX, "as its listener");
        // What the peer's own kernel takes is the peer's; here both are one.
        SockRef::from(&peer).set_recv_buffer_size(64 << 10).unwrap();
        let (kept, error) = tokio::time::timeout(BOUND, filled(&mut socket)).await.expect("it ends");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(kept < (UNSENT_BYTES_MAX as usize) + (1 << 20), "{kept} bytes");
        assert_eq!(SockRef::from(&socket.stream).linger().unwrap(), Some(Duration::ZERO), "nothing is kept of it when it is closed");
    }

    #[tokio::test]
    async fn who_reads_a_trickle_is_given_up() {
        let (mut socket, mut peer, _seat) = pair(SOON).await;
        let trickle = async {
            let mut little = [0; 512];
            while peer.read_exact(&mut little).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::time::timeout(BOUND, async {
            tokio::select! {
                (_, error) = filled(&mut socket) => error,
                () = trickle => unreachable!("it is not closed"),
            }
        });
        assert_eq!(ended.await.expect("it ends").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_sends_without_end_is_read_in_turns() {
        const ALL: usize = 4 << 20;
        let (mut socket, mut peer, _seat) = pair(SOON).await;
        let (mut read, mut longest, mut piece) = (0, 0, [0; 4 << 10]);
        let reading = poll_fn(|cx| {
            let begun = read;
            loop {
                let mut into = ReadBuf::new(&mut piece);
                let polled = Pin::new(&mut socket).poll_read(cx, &mut into);
                read += into.filled().len();
                longest = longest.max(read - begun);
                match polled {
                    Poll::Ready(done) if done.is_err() || read == ALL => return Poll::Ready(done),
                    Poll::Ready(_) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let sent = vec![7; ALL];
        let (wrote, done) = tokio::time::timeout(BOUND, async { tokio::join!(peer.write_all(&sent), reading) }).await.expect("all arrives");
        wrote.and(done).unwrap();
        assert!(longest <= TURN_BYTES_MAX + piece.len(), "{longest} bytes in one turn");
    }

    #[tokio::test]
    async fn who_need_not_hurry_is_waited_for() {
        let (mut socket, peer, seat) = pair(SOON).await;
        seat.need_not_hurry();
        let waiting = tokio::time::timeout(10 * SOON.window, filled(&mut socket)).await;
        assert!(waiting.is_err(), "it waits");
        // That was one answer; the next one is of another sort.
        seat.must_hurry();
        let (_, error) = tokio::time::timeout(BOUND, filled(&mut socket)).await.expect("it ends");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(peer);
    }
}
