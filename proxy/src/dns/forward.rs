//! A question that is not ours -> what the first upstream server that answers says, byte for byte; and for as long as that holds, again.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, Record, RecordType},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{Transport, cache::Cache, question::Key, resolv::Upstreams};

/// Questions that wait for an upstream server; more are refused (CoreDNS' `max_concurrent`).
const WAITING_MAX: usize = 1000;
/// For one server. Clients wait 5 s: two servers fit.
const SERVER_BOUND: Duration = Duration::from_secs(2);
/// The largest message there is.
const MESSAGE_MAX: usize = 65_535;

/// Below which the probe's name stands (RFC 6761: nobody's).
const PROBE_DOMAIN: &str = "skiff.invalid.";

pub struct Forwarder {
    upstreams: Upstreams,
    waiting: Semaphore,
    /// Of answers over UDP: what is asked for over TCP is too large, mostly.
    cache: Mutex<Cache>,
    /// A name that nobody but us asks for.
    probe: String,
    looping: AtomicBool,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams) -> Self {
        let probe = format!("{:016x}", rand::random::<u64>());
        Self { upstreams, waiting: Semaphore::new(WAITING_MAX), cache: Mutex::default(), probe, looping: AtomicBool::new(false) }
    }

    /// Asks the upstream servers for a name of our own making: if the question comes back to us, they ask us in turn, and every
    /// question would go round for ever. Nothing is forwarded then. Source: CoreDNS' plugin `loop`.
    pub async fn probe(&self) {
        let Ok(name) = Name::from_ascii(format!("{}.{PROBE_DOMAIN}", self.probe)) else { return };
        self.records(&name, RecordType::HINFO).await;
        if self.is_looping() {
            tracing::error!("nameservers in resolv.conf forward to this DNS server; refusing names outside the cluster");
        }
    }

    pub fn is_looping(&self) -> bool {
        self.looping.load(Ordering::Acquire)
    }

    /// Whether a question is our own probe, come back.
    pub fn is_probe(&self, name: &Name) -> bool {
        let ours = name.iter().next().is_some_and(|label| label == self.probe.as_bytes());
        if ours {
            self.looping.store(true, Ordering::Release);
        }
        ours
    }

    /// A place among those that wait; `None` where all are taken.
    pub fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Tells the answer that is kept, if one is.
    pub fn tell_kept<T>(&self, key: &Key, query: &[u8], now: Instant, tell: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.cache.lock().tell(key, query, now).map(tell)
    }

    /// `None` where no server answers, or there is none.
    pub async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        if self.is_looping() {
            return None;
        }
        let Some(key) = Key::of(query) else { return self.ask_servers(query, transport).await };
        if let Some(kept) = self.tell_kept(&key, query, Instant::now(), <[u8]>::to_vec) {
            return Some(kept);
        }
        let reply = self.ask_servers(query, transport).await?;
        if transport == Transport::Udp {
            self.cache.lock().keep(&key, query, &reply, Instant::now());
        }
        Some(reply)
    }

    async fn ask_servers(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut refused = None;
        for server in self.upstreams.servers().iter() {
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(*server, query).await,
                    Transport::Tcp => ask_tcp(*server, query).await,
                }
            };
            match timeout(SERVER_BOUND, asked).await {
                // Another server may do better.
                Ok(Ok(reply)) if matches!(rcode(&reply), 2 | 5) => refused = Some(reply),
                Ok(Ok(reply)) => return Some(reply),
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream DNS server failed"),
                Err(_) => tracing::debug!(%server, "upstream DNS server timed out"),
            }
        }
        refused
    }

    /// The records of a name that one of ours stands for; empty where nobody knows it.
    pub async fn records(&self, name: &Name, kind: RecordType) -> Option<(ResponseCode, Vec<Record>)> {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        let reply = self.ask(&message.to_vec().ok()?, Transport::Udp).await?;
        let reply = Message::from_vec(&reply).ok()?;
        Some((reply.metadata.response_code, reply.answers))
    }
}

/// From a new port, under a new number: an answer must match both, so that it is hard to forge.
async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (asked, id) = renumbered(query);
    socket.send(&asked).await?;
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let size = socket.recv(&mut buffer).await?;
        let reply = buffer.get(..size).unwrap_or_default();
        if is_reply(reply, &asked, id) {
            return Ok(with_id(reply, query));
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (asked, id) = renumbered(query);
    write_message(&mut stream, &asked).await?;
    let reply = read_message(&mut stream).await?;
    if is_reply(&reply, &asked, id) { Ok(with_id(&reply, query)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Length first, as TCP carries it.
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let size = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&size.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

pub async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let size = stream.read_u16().await?;
    let mut message = vec![0; usize::from(size)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn renumbered(query: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let (mut asked, id) = (query.to_vec(), rand::random::<u16>().to_be_bytes());
    asked.iter_mut().zip(id).for_each(|(byte, new)| *byte = new);
    (asked, id)
}

fn with_id(reply: &[u8], query: &[u8]) -> Vec<u8> {
    let mut reply = reply.to_vec();
    reply.iter_mut().zip(query.iter().take(2)).for_each(|(byte, id)| *byte = *id);
    reply
}

/// The number, the bit that makes it a response, and the question.
fn is_reply(reply: &[u8], asked: &[u8], id: [u8; 2]) -> bool {
    let question = |m: &[u8]| Message::from_vec(m).ok().map(|m| m.queries);
    reply.starts_with(&id) && reply.get(2).is_some_and(|b| b & 0x80 != 0) && question(reply) == question(asked)
}

fn rcode(reply: &[u8]) -> u8 {
    reply.get(3).map_or(2, |b| b & 0x0f)
}
