//! Datagrams and connections -> questions; answers -> back to where they came from.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    faults::{Panic, catch, catch_all},
    task::Group,
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    Transport,
    answer_cache::{Age, CachedAnswer},
    batch::{Inbox, Outbox},
    forward::{Forwarder, read_message, write_message},
    prepared::{Known, Prepared},
    question::Key,
    reply::{self, Parts},
    wire, worker,
    zone::{self, Answer, Names, Zone},
};

/// Open TCP connections; more wait to be accepted.
const CONNECTIONS_MAX: usize = 200;
/// After which a silent connection is closed (RFC 7766 speaks of seconds).
const IDLE_BOUND: Duration = Duration::from_secs(10);
/// A socket that fails is not asked again at once.
const FAILED_REST: Duration = Duration::from_millis(100);
/// How many of our own names may stand for one another in a row.
const ALIASES_MAX: usize = 8;

/// A question whose answer panics is refused, as CoreDNS does (`core/dnsserver/server.go`); no other notices.
pub struct Server<N = Zone> {
    zone: N,
    pub(super) forwarder: Forwarder,
    connections: Arc<Semaphore>,
}

/// How far a question is answered without asking anybody.
enum Lookup {
    Done(Parts),
    /// It is not ours.
    Elsewhere,
    /// One of our names stands for one that is not.
    Alias {
        answers: Vec<Record>,
        target: Name,
    },
}

/// When a question is answered: what changes later has a later generation.
#[derive(Clone, Copy)]
struct Moment {
    generation: u64,
    now: Instant,
}

impl<N: Names> Server<N> {
    pub fn new(zone: N, forwarder: Forwarder) -> Self {
        Self { zone, forwarder, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Serves on these sockets, of which those for datagrams share one address.
    ///
    /// # Errors
    /// Where there is no thread for one of them.
    pub fn start(self: &Arc<Self>, udp: Vec<std::net::UdpSocket>, tcp: TcpListener, group: &Group) -> io::Result<()> {
        for socket in udp {
            let (server, tasks) = (self.clone(), group.clone());
            worker::run("dns", group, move || async move {
                match UdpSocket::from_std(socket) {
                    Ok(socket) => server.serve_udp(Arc::new(socket), tasks).await,
                    Err(error) => tracing::error!(%error, "failed to serve DNS socket"),
                }
            })?;
        }
        group.spawn_loop("dns tcp", self.clone().serve_tcp(tcp, group.clone()));
        let server = self.clone();
        group.spawn(async move { server.forwarder.probe().await });
        Ok(())
    }

    /// What is in memory is answered at once, in turn; what must be asked for waits in a task of its own, of which there is a bounded number.
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, group: Group) {
        let (mut inbox, mut outbox, mut prepared) = (Inbox::default(), Outbox::default(), Prepared::default());
        loop {
            if let Err(error) = inbox.receive(&socket).await {
                tracing::debug!(%error, "failed to receive DNS datagrams");
                tokio::time::sleep(FAILED_REST).await;
                continue;
            }
            let moment = Moment { generation: self.zone.generation(), now: Instant::now() };
            for (query, peer) in inbox.datagrams() {
                match catch("dns", || self.answer(query, moment, &mut prepared, |bytes| outbox.add(Some(peer), bytes))) {
                    Ok(Some(request)) => self.later(query.to_vec(), request, socket.clone(), peer, &group),
                    Ok(None) => {}
                    Err(panic) => {
                        if let Some(bytes) = refused(&panic, query, Transport::Udp) {
                            outbox.add(Some(peer), &bytes);
                        }
                    }
                }
            }
            outbox.send(&socket).await;
            if inbox.is_full() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Tells the answer to a datagram, if it is a question; returns the request where others must be asked.
    fn answer(&self, query: &[u8], at: Moment, prepared: &mut Prepared, mut tell: impl FnMut(&[u8])) -> Option<Message> {
        let Some(key) = Key::of(query) else { return self.answer_in_full(query, |bytes| tell(bytes)) };
        let mut is_told = |key: &Key| self.forwarder.tell_kept(key, query, at.now, &mut tell).is_some();
        match prepared.find(at.generation, &key) {
            Some(Known::Elsewhere) if is_told(&key) => return None,
            Some(Known::Elsewhere) => return parse(query),
            Some(Known::Answer(kept)) => {
                tell(kept.tell(&key, query, Age::Never));
                return None;
            }
            None => {}
        }
        let mut settled = None;
        let request = self.answer_in_full(query, |bytes| {
            settled = CachedAnswer::new(&key, query, bytes).filter(|_| is_settled(bytes)).map(Known::Answer);
            tell(bytes);
        });
        if request.is_some() {
            settled = Some(Known::Elsewhere);
        }
        if let Some(known) = settled {
            prepared.keep(at.generation, &key, known);
        }
        request.filter(|_| self.forwarder.tell_kept(&key, query, at.now, &mut tell).is_none())
    }

    fn answer_in_full(&self, query: &[u8], tell: impl FnOnce(&[u8])) -> Option<Message> {
        let request = parse(query)?;
        let Some(reply) = self.at_once(&request) else { return Some(request) };
        if let Some(bytes) = reply::encode(&reply, &request, Transport::Udp) {
            tell(&bytes);
        }
        None
    }

    fn later(self: &Arc<Self>, query: Vec<u8>, request: Message, socket: Arc<UdpSocket>, peer: SocketAddr, group: &Group) {
        let server = self.clone();
        group.spawn(async move {
            let answered = catch_all("dns", server.with_others(&query, &request, Transport::Udp)).await;
            if let Some(bytes) = answered.unwrap_or_else(|panic| refused(&panic, &query, Transport::Udp)) {
                send(&socket, peer, &bytes).await;
            }
        });
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener, group: Group) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    group.spawn(async move {
                        server.converse(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to accept DNS connection");
                    tokio::time::sleep(FAILED_REST).await;
                }
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(IDLE_BOUND, read_message(&mut stream)).await {
            let answered = catch_all("dns", self.answer_whole(&query)).await;
            let Some(bytes) = answered.unwrap_or_else(|panic| refused(&panic, &query, Transport::Tcp)) else { return };
            if !matches!(timeout(IDLE_BOUND, write_message(&mut stream, &bytes)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn answer_whole(&self, query: &[u8]) -> Option<Vec<u8>> {
        let request = parse(query)?;
        match self.at_once(&request) {
            Some(reply) => reply::encode(&reply, &request, Transport::Tcp),
            None => self.with_others(query, &request, Transport::Tcp).await,
        }
    }

    /// The reply, if nobody needs to be asked.
    pub fn at_once(&self, request: &Message) -> Option<Message> {
        let query = match reply::question(request) {
            Ok(query) => query,
            Err(code) => return Some(reply::failure(request, code)),
        };
        if query.query_class != DNSClass::IN {
            return Some(reply::failure(request, ResponseCode::Refused));
        }
        if self.forwarder.is_probe(&query.name) {
            return Some(reply::failure(request, ResponseCode::NXDomain));
        }
        match self.look(&query.name, query.query_type) {
            Lookup::Done(parts) => Some(reply::reply(request, parts)),
            Lookup::Elsewhere | Lookup::Alias { .. } => None,
        }
    }

    /// The reply's bytes for what [`Server::at_once`] could not answer.
    async fn with_others(&self, query: &[u8], request: &Message, transport: Transport) -> Option<Vec<u8>> {
        let failure = || reply::encode(&reply::failure(request, ResponseCode::ServFail), request, transport);
        let Some(_place) = self.forwarder.place() else { return failure() };
        let asked = reply::question(request).ok()?;
        let Lookup::Alias { mut answers, target } = self.look(&asked.name, asked.query_type) else {
            return self.forwarder.ask(query, transport).await.or_else(failure);
        };
        // The client gets our part in any case, and can ask for the rest itself.
        let (code, more) = self.forwarder.records(&target, asked.query_type).await.unwrap_or((ResponseCode::ServFail, Vec::new()));
        answers.extend(more);
        let parts = Parts { code: Some(code), answers, ..Parts::default() };
        reply::encode(&reply::reply(request, parts), request, transport)
    }

    fn look(&self, name: &Name, kind: RecordType) -> Lookup {
        let (mut name, mut answers) = (name.clone(), Vec::new());
        for _ in 0..ALIASES_MAX {
            match self.zone.answer(&name, kind) {
                Answer::Alias(target) => {
                    answers.push(zone::cname(&name, &target));
                    if !matches!(kind, RecordType::A | RecordType::AAAA) {
                        return Lookup::Done(Parts { answers, ..Parts::default() });
                    }
                    name = target;
                }
                Answer::NotOurs if answers.is_empty() => return Lookup::Elsewhere,
                Answer::NotOurs => return Lookup::Alias { answers, target: name },
                other => return Lookup::Done(self.parts(other, answers)),
            }
        }
        Lookup::Done(Parts { code: Some(ResponseCode::ServFail), ..Parts::default() })
    }

    fn parts(&self, answer: Answer, mut answers: Vec<Record>) -> Parts {
        let refusal = |code, answers| Parts { code: Some(code), answers, authorities: self.zone.authority(), ..Parts::default() };
        match answer {
            Answer::Records { answers: more, additionals } => {
                answers.extend(more);
                Parts { answers, additionals, ..Parts::default() }
            }
            Answer::NoData => refusal(ResponseCode::NoError, answers),
            Answer::NoName => refusal(ResponseCode::NXDomain, answers),
            Answer::NotYet | Answer::NotOurs | Answer::Alias(_) => Parts { code: Some(ResponseCode::ServFail), ..Parts::default() },
        }
    }
}

/// What is answered where the answer panicked; nothing where the question cannot even be read without a panic.
fn refused(panic: &Panic, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    tracing::error!(error = %panic, "DNS handler panicked");
    let refusal = catch("dns", || {
        let request = parse(query)?;
        reply::encode(&reply::failure(&request, ResponseCode::ServFail), &request, transport)
    });
    refusal.ok().flatten()
}

/// Whether the answer would be the same again: about our names, and no failure.
fn is_settled(reply: &[u8]) -> bool {
    wire::is_authoritative(reply) && matches!(wire::code(reply), Some(wire::NO_ERROR | wire::NO_NAME))
}

/// A request; answers that stray in are none.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    Message::from_vec(bytes).ok().filter(|m| m.metadata.message_type == MessageType::Query)
}

async fn send(socket: &UdpSocket, peer: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, peer).await {
        tracing::debug!(%peer, %error, "failed to send DNS reply");
    }
}
