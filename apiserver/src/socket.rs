//! A connection whose peer takes nothing for too long -> an error: what waits for it holds memory.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use api::seats;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stall::Stall;

pub(crate) struct Socket {
    stream: seats::Socket,
    stall: Stall,
    leave: Leave,
}

/// Says of a socket that its peer may take as long as it likes.
#[derive(Clone, Default)]
pub(crate) struct Leave(Arc<AtomicBool>);

impl Leave {
    pub fn give(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Socket {
    pub fn new(stream: seats::Socket) -> Self {
        Self { stream, stall: Stall::default(), leave: Leave::default() }
    }

    pub fn leave(&self) -> Leave {
        self.leave.clone()
    }

    /// What came of a write, or the error that it has come to nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall.end();
            return written;
        }
        if self.leave.0.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.stall.begin();
        self.stall.poll_over(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
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
