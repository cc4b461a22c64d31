//! HTTP/2 as bytes (RFC 9113, 7541): frames that no library would send.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{BOUND, Victim};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection that has said hello, with these settings of its own (identifier, value).
pub async fn hello(victim: &Victim, settings: &[(u16, u32)]) -> TlsStream<TcpStream> {
    let mut stream = victim.api.connect_h2().await.expect("the server takes connections");
    let body: Vec<u8> = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &body)].concat();
    stream.write_all(&all).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

pub fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// A GET's header block: names from the static table, values as they are.
pub fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    assert!(length < 127);
    [&[0x82, 0x87, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat()
}

/// A whole request.
pub fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &get(path))
}

/// Writes the pieces, and reads what comes meanwhile, until the server ends the connection (true) or all is written and nothing more comes
/// for a while.
pub async fn ends(stream: TlsStream<TcpStream>, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        // Kept open: the server has to end it.
        let _ = write.flush().await;
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match timeout(BOUND, read.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => return true,
                Ok(Ok(_)) => {}
                Err(_) => return false,
            }
        }
    };
    tokio::select! {
        () = writing => unreachable!("it is kept open"),
        ended = reading => ended,
    }
}

/// Reads frames until one is what is sought: its kind, stream and body.
pub async fn until(stream: &mut TlsStream<TcpStream>, mut is: impl FnMut(u8, u32, &[u8]) -> bool) -> bool {
    let reading = async {
        let mut head = [0; 9];
        loop {
            if stream.read_exact(&mut head).await.is_err() {
                return false;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; usize::try_from(length).unwrap()];
            if stream.read_exact(&mut body).await.is_err() {
                return false;
            }
            if is(head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), &body) {
                return true;
            }
        }
    };
    timeout(BOUND, reading).await.unwrap_or(false)
}
