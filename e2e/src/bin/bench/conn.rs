//! One TLS connection, HTTP/1.1 by hand: bytes out, status and body in. Cheap, since it shares the cores with what is measured.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::door::Door;

const READ_AT_ONCE: usize = 32 << 10;
const HEAD_MAX: usize = 64 << 10;

/// A connection on which one request is answered after the other.
pub struct Conn {
    stream: TlsStream<TcpStream>,
    read: BytesMut,
    body: Framing,
    /// When it was last written to or read from.
    pub used: Instant,
}

/// What is left of the body being read.
#[derive(Debug)]
enum Framing {
    Length(usize),
    Chunks(Chunks),
}

/// Where in a chunked body (RFC 9112, 7.1) we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
    End,
}

impl Conn {
    pub async fn open(door: &Door) -> anyhow::Result<Self> {
        Ok(Self { stream: door.connect().await?, read: BytesMut::new(), body: Framing::Length(0), used: Instant::now() })
    }

    /// Sends a request and reads the whole answer: its status; the body goes into `body`.
    pub async fn exchange(&mut self, request: &[u8], body: &mut Vec<u8>) -> anyhow::Result<u16> {
        body.clear();
        let status = self.begin(request).await?;
        while self.piece(|piece| body.extend_from_slice(piece)).await? {}
        Ok(status)
    }

    /// The same, for bodies that nobody keeps: status and length.
    pub async fn drain(&mut self, request: &[u8]) -> anyhow::Result<(u16, usize)> {
        let status = self.begin(request).await?;
        let mut length = 0;
        while self.piece(|piece| length += piece.len()).await? {}
        Ok((status, length))
    }

    /// Sends a request and reads the answer's head.
    pub async fn begin(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        loop {
            if let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                let head = self.read.split_to(end + 4);
                let (status, framing) = head_of(&head)?;
                self.body = framing;
                return Ok(status);
            }
            ensure!(self.read.len() < HEAD_MAX, "an endless head");
            self.fill().await?;
        }
    }

    /// What has come of the body, given to `sink` (perhaps in several calls); false at its end.
    pub async fn piece(&mut self, mut sink: impl FnMut(&[u8])) -> anyhow::Result<bool> {
        loop {
            let before = self.read.len();
            let done = self.body.feed(&mut self.read, &mut sink)?;
            if done {
                return Ok(false);
            }
            if self.read.len() < before {
                return Ok(true);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.read.reserve(READ_AT_ONCE);
        let count = self.stream.read_buf(&mut self.read).await?;
        ensure!(count > 0, "the server closed the connection");
        self.used = Instant::now();
        Ok(())
    }
}

impl Framing {
    /// Takes what it can; true at the body's end.
    fn feed(&mut self, read: &mut BytesMut, sink: &mut impl FnMut(&[u8])) -> anyhow::Result<bool> {
        match self {
            Self::Length(left) => {
                let take = read.len().min(*left);
                if take > 0 {
                    sink(&read[..take]);
                    read.advance(take);
                }
                *left -= take;
                Ok(*left == 0)
            }
            Self::Chunks(at) => {
                while *at != Chunks::End {
                    match at.step(read, sink)? {
                        Some(next) => *at = next,
                        None => return Ok(false),
                    }
                }
                Ok(true)
            }
        }
    }
}

impl Chunks {
    /// The next state, or nothing if more has to be read first.
    fn step(self, read: &mut BytesMut, sink: &mut impl FnMut(&[u8])) -> anyhow::Result<Option<Self>> {
        Ok(match self {
            Self::Size => match take_line(read) {
                Some(line) => {
                    let text = std::str::from_utf8(&line)?.split(';').next().unwrap_or_default().trim().to_owned();
                    let size = usize::from_str_radix(&text, 16).with_context(|| format!("a chunk of size {text:?}"))?;
                    Some(if size == 0 { Self::Trailer } else { Self::Data(size) })
                }
                None => None,
            },
            Self::Data(_) if read.is_empty() => None,
            Self::Data(left) => {
                let take = read.len().min(left);
                sink(&read[..take]);
                read.advance(take);
                Some(if take == left { Self::DataEnd } else { Self::Data(left - take) })
            }
            Self::DataEnd => take_line(read).map(|_| Self::Size),
            Self::Trailer => take_line(read).map(|line| if line.is_empty() { Self::End } else { Self::Trailer }),
            Self::End => Some(Self::End),
        })
    }
}

/// A line without its end, once it is there.
fn take_line(read: &mut BytesMut) -> Option<BytesMut> {
    let end = memchr::memmem::find(read, b"\r\n")?;
    let line = read.split_to(end);
    read.advance(2);
    Some(line)
}

fn head_of(head: &[u8]) -> anyhow::Result<(u16, Framing)> {
    let head = std::str::from_utf8(head)?;
    let status: u16 = head.get(9..12).and_then(|s| s.parse().ok()).with_context(|| format!("no HTTP/1.1 answer: {head}"))?;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok((status, Framing::Length(value.trim().parse()?)));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked") {
            return Ok((status, Framing::Chunks(Chunks::Size)));
        }
    }
    if status == 204 || status == 304 {
        return Ok((status, Framing::Length(0)));
    }
    bail!("an answer without a length: {head}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together_however_they_are_cut() {
        let whole = b"5\r\nhello\r\n1;x=y\r\n \r\nb\r\nwide world!\r\n0\r\n\r\n";
        for cut in 1..whole.len() {
            let (mut framing, mut read, mut out) = (Framing::Chunks(Chunks::Size), BytesMut::new(), Vec::new());
            let mut done = false;
            for piece in whole.chunks(cut) {
                read.extend_from_slice(piece);
                done = framing.feed(&mut read, &mut |p: &[u8]| out.extend_from_slice(p)).unwrap();
            }
            assert!(done, "cut every {cut}");
            assert_eq!(out, b"hello wide world!", "cut every {cut}");
        }
    }

    #[test]
    fn heads_say_how_long_the_body_is() {
        let (status, framing) = head_of(b"HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n").unwrap();
        assert!(matches!((status, framing), (201, Framing::Length(12))));
        let (_, framing) = head_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert!(matches!(framing, Framing::Chunks(Chunks::Size)));
        assert!(head_of(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
