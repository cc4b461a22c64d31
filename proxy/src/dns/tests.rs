//! Questions over real sockets on loopback -> the answers of the specification.

use std::{
    collections::BTreeSet,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{k8s::api::discovery::v1::EndpointConditions, task::Group};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, PTR},
    },
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{
    Transport,
    batch::BATCH,
    bind,
    forward::{Forwarder, read_message, write_message},
    index::Index,
    reply::encode,
    resolv::Upstreams,
    server::Server,
    zone::{Answer, Names, Zone},
};
use crate::testing::{service, slice, with};

const BOUND: Duration = Duration::from_secs(5);

struct TestServer {
    address: SocketAddr,
    index: Index,
    server: Arc<Server>,
    group: Group,
    _resolv: tempfile::NamedTempFile,
}

impl TestServer {
    async fn new(upstreams: &[SocketAddr]) -> Self {
        Self::at("127.0.0.1:0", upstreams).await
    }

    async fn at(address: &str, upstreams: &[SocketAddr]) -> Self {
        let (udp, tcp) = bind(address.parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut resolv = tempfile::NamedTempFile::new().unwrap();
        upstreams.iter().for_each(|u| writeln!(resolv, "nameserver {u}").unwrap());
        let (index, group) = (cluster(), Group::new());
        let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), index.clone());
        let forwarder = Forwarder::new(Upstreams::new(resolv.path().into(), address));
        let server = Arc::new(Server::new(zone, forwarder));
        server.start(udp, tcp, &group).unwrap();
        Self { address, index, server, group, _resolv: resolv }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        ask(self.address, &query(name, kind)).await
    }

    /// Code, and answers as `TYPE data`, sorted.
    async fn hears(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = self.ask(name, kind).await;
        let mut answers: Vec<String> = reply.answers.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect();
        answers.sort();
        (reply.metadata.response_code, answers)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.group.stop();
    }
}

fn cluster() -> Index {
    let index = Index::default();
    let services = [
        service(
            "d/web",
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        service("d/db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("d/empty", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        service("d/early", json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"port": 80}]})),
        service("d/out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service("d/inner", json!({"type": "ExternalName", "externalName": "web.d.svc.cluster.local"})),
        service("d/loop", json!({"type": "ExternalName", "externalName": "loop.d.svc.cluster.local"})),
    ];
    services.into_iter().for_each(|s| index.service(None, Some(&Arc::new(s))));
    let unready = |_: usize, e: &mut api::k8s::api::discovery::v1::Endpoint| {
        e.conditions = Some(EndpointConditions { ready: Some(false), ..EndpointConditions::default() });
    };
    let db =
        with(&slice("d/db", "sql", "TCP", 5432, &["10.0.0.1@n", "10.0.0.2@n"]), |i, e| e.hostname = (i == 0).then(|| "db-0".to_owned()));
    let slices = [
        db,
        slice("d/web", "http", "TCP", 8080, &["10.0.0.3@n"]),
        with(&slice("d/empty", "", "TCP", 80, &["10.0.0.4@n"]), unready),
        with(&slice("d/early", "", "TCP", 80, &["10.0.0.5@n"]), unready),
    ];
    slices.into_iter().for_each(|s| index.slice(None, Some(&Arc::new(s))));
    index.set_complete();
    index
}

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask(address: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), address).await.unwrap();
    let mut buffer = [0; 4096];
    let (size, peer) = tokio::time::timeout(BOUND, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..size]).unwrap();
    assert_eq!((reply.metadata.id, peer), (message.metadata.id, address));
    reply
}

/// An upstream server that answers every A question with 192.0.2.7 and every PTR question with a name, and nothing else; and how many of those came.
async fn upstream(group: &Group) -> (SocketAddr, Arc<AtomicUsize>) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let answer = Arc::new(move |bytes: &[u8]| {
        let mut reply = Message::from_vec(bytes).unwrap().into_response();
        let name = reply.queries[0].name.clone();
        let kind = reply.queries[0].query_type;
        counted.fetch_add(usize::from(kind != RecordType::HINFO), Ordering::SeqCst);
        match kind {
            RecordType::A => reply.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7)))),
            RecordType::PTR => reply.add_answer(Record::from_rdata(name, 60, RData::PTR(PTR(Name::from_ascii("host.example.").unwrap())))),
            _ => &mut reply,
        };
        reply.to_vec().unwrap()
    });
    let answer_tcp = answer.clone();
    group.spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((size, peer)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&answer(&buffer[..size]), peer).await.unwrap();
        }
    });
    group.spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            while let Ok(query) = read_message(&mut stream).await {
                write_message(&mut stream, &answer_tcp(&query)).await.unwrap();
            }
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_specification_by_question() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    use ResponseCode::{NXDomain, NoError};
    let dns_server = TestServer::new(&[]).await;
    let cases: &[(&str, RecordType, ResponseCode, &[&str])] = &[
        ("web.d.svc.cluster.local.", A, NoError, &["A 10.96.0.1"]),
        ("WEB.d.SVC.cluster.local.", A, NoError, &["A 10.96.0.1"]),
        ("web.d.svc.cluster.local.", AAAA, NoError, &["AAAA fd00::1"]),
        ("web.d.svc.cluster.local.", MX, NoError, &[]),
        ("web.d.svc.cluster.local.", SRV, NoError, &["SRV 0 100 80 web.d.svc.cluster.local."]),
        ("_http._tcp.web.d.svc.cluster.local.", SRV, NoError, &["SRV 0 100 80 web.d.svc.cluster.local."]),
        ("_http._tcp.web.d.svc.cluster.local.", A, NoError, &[]),
        ("_http._udp.web.d.svc.cluster.local.", SRV, NXDomain, &[]),
        ("10-0-0-3.web.d.svc.cluster.local.", A, NoError, &["A 10.0.0.3"]),
        ("db.d.svc.cluster.local.", A, NoError, &["A 10.0.0.1", "A 10.0.0.2"]),
        ("db.d.svc.cluster.local.", AAAA, NoError, &[]),
        ("db-0.db.d.svc.cluster.local.", A, NoError, &["A 10.0.0.1"]),
        ("10-0-0-2.db.d.svc.cluster.local.", A, NoError, &["A 10.0.0.2"]),
        ("10-0-0-1.db.d.svc.cluster.local.", A, NXDomain, &[]),
        (
            "_sql._tcp.db.d.svc.cluster.local.",
            SRV,
            NoError,
            &["SRV 0 50 5432 10-0-0-2.db.d.svc.cluster.local.", "SRV 0 50 5432 db-0.db.d.svc.cluster.local."],
        ),
        ("empty.d.svc.cluster.local.", A, NXDomain, &[]),
        ("early.d.svc.cluster.local.", A, NoError, &["A 10.0.0.5"]),
        ("inner.d.svc.cluster.local.", A, NoError, &["A 10.96.0.1", "CNAME web.d.svc.cluster.local."]),
        ("out.d.svc.cluster.local.", CNAME, NoError, &["CNAME www.example.com."]),
        ("loop.d.svc.cluster.local.", A, ResponseCode::ServFail, &[]),
        ("nobody.d.svc.cluster.local.", A, NXDomain, &[]),
        ("web.other.svc.cluster.local.", A, NXDomain, &[]),
        ("x.y.web.d.svc.cluster.local.", A, NXDomain, &[]),
        ("d.svc.cluster.local.", A, NoError, &[]),
        ("other.svc.cluster.local.", A, NXDomain, &[]),
        ("svc.cluster.local.", A, NoError, &[]),
        ("what.cluster.local.", A, NXDomain, &[]),
        ("10-0-0-9.d.pod.cluster.local.", A, NoError, &["A 10.0.0.9"]),
        ("10-0-0-9.d.pod.cluster.local.", AAAA, NoError, &[]),
        ("nonsense.d.pod.cluster.local.", A, NXDomain, &[]),
        ("1.0.96.10.in-addr.arpa.", PTR, NoError, &["PTR web.d.svc.cluster.local."]),
        ("1.0.0.10.in-addr.arpa.", PTR, NoError, &["PTR db-0.db.d.svc.cluster.local."]),
        ("2.0.0.10.in-addr.arpa.", PTR, NoError, &["PTR 10-0-0-2.db.d.svc.cluster.local."]),
        ("dns-version.cluster.local.", TXT, NoError, &["TXT 1.1.0"]),
        ("cluster.local.", NS, NoError, &["NS ns.dns.cluster.local."]),
        ("ns.dns.cluster.local.", A, NoError, &["A 10.96.0.10"]),
    ];
    for (name, kind, code, answers) in cases {
        let wanted: Vec<String> = answers.iter().map(|a| (*a).to_owned()).collect();
        assert_eq!(dns_server.hears(name, *kind).await, (*code, wanted), "{name} {kind}");
    }
    let reverse6: String =
        format!("{:032x}", u128::from("fd00::1".parse::<std::net::Ipv6Addr>().unwrap())).chars().rev().flat_map(|c| [c, '.']).collect();
    assert_eq!(dns_server.hears(&format!("{reverse6}ip6.arpa."), PTR).await.1, ["PTR web.d.svc.cluster.local."]);
    assert_eq!(dns_server.ask("cluster.local.", SOA).await.answers.len(), 1);
}

#[tokio::test]
async fn refusals_may_be_kept_and_answers_say_whose_they_are() {
    let dns_server = TestServer::new(&[]).await;
    let reply = dns_server.ask("nobody.d.svc.cluster.local.", RecordType::A).await;
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!((reply.authorities[0].record_type(), reply.authorities[0].ttl), (RecordType::SOA, 5));
    let reply = dns_server.ask("_sql._tcp.db.d.svc.cluster.local.", RecordType::SRV).await;
    assert_eq!(reply.additionals.iter().filter(|r| r.record_type() == RecordType::A).count(), 2);
    let mut odd = query("web.d.svc.cluster.local.", RecordType::A);
    odd.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(dns_server.address, &odd).await.metadata.response_code, ResponseCode::NotImp);
}

#[tokio::test]
async fn other_names_go_to_the_node_s_resolvers() {
    let group = Group::new();
    let dns_server = TestServer::new(&["127.0.0.1:1".parse().unwrap(), upstream(&group).await.0]).await;
    assert_eq!(dns_server.hears("www.example.com.", RecordType::A).await, (ResponseCode::NoError, vec!["A 192.0.2.7".to_owned()]));
    let (code, answers) = dns_server.hears("out.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!((code, answers), (ResponseCode::NoError, vec!["A 192.0.2.7".to_owned(), "CNAME www.example.com.".to_owned()]));
    let mut stream = TcpStream::connect(dns_server.address).await.unwrap();
    for name in ["www.example.com.", "web.d.svc.cluster.local."] {
        write_message(&mut stream, &query(name, RecordType::A).to_vec().unwrap()).await.unwrap();
        let reply = Message::from_vec(&tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap()).unwrap();
        assert_eq!(reply.answers.len(), 1, "{name}");
    }
    group.stop();
}

#[tokio::test]
async fn without_a_resolver_other_names_fail() {
    let dns_server = TestServer::new(&[]).await;
    assert_eq!(dns_server.hears("www.example.com.", RecordType::A).await.0, ResponseCode::ServFail);
    let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), Index::default());
    let name = Name::from_ascii("web.d.svc.cluster.local.").unwrap();
    assert_eq!(zone.answer(&name, RecordType::A), Answer::NotYet);
}

#[tokio::test]
async fn a_resolver_that_asks_us_is_found_out() {
    // A server that passes every question on to us.
    let between = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let dns_server = TestServer::new(&[between.local_addr().unwrap()]).await;
    let (address, passes) = (dns_server.address, between.clone());
    dns_server.group.spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((size, peer)) = passes.recv_from(&mut buffer).await {
            let reply = ask(address, &Message::from_vec(&buffer[..size]).unwrap()).await;
            passes.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    let begun = std::time::Instant::now();
    while !dns_server.server.forwarder.is_looping() {
        assert!(begun.elapsed() < BOUND);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(dns_server.hears("www.example.com.", RecordType::A).await.0, ResponseCode::ServFail);
    assert_eq!(dns_server.hears("web.d.svc.cluster.local.", RecordType::A).await.1, ["A 10.96.0.1"]);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_over_udp_and_whole_over_tcp() {
    let dns_server = TestServer::new(&[]).await;
    let endpoints: Vec<String> = (0..100).map(|i| format!("10.1.0.{i}@n")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    dns_server.index.service(None, Some(&Arc::new(service("d/many", json!({"clusterIP": "None", "ports": [{"port": 80}]})))));
    dns_server.index.slice(None, Some(&Arc::new(slice("d/many", "", "TCP", 80, &endpoints))));
    let question = query("many.d.svc.cluster.local.", RecordType::A);
    let reply = ask(dns_server.address, &question).await;
    assert!(reply.metadata.truncation && reply.answers.len() < 100);
    let mut stream = TcpStream::connect(dns_server.address).await.unwrap();
    write_message(&mut stream, &question.to_vec().unwrap()).await.unwrap();
    let reply = Message::from_vec(&tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap()).unwrap();
    assert!(!reply.metadata.truncation && reply.answers.len() == 100);
}

#[tokio::test]
async fn an_answer_that_was_kept_goes_when_its_service_changes() {
    let dns_server = TestServer::new(&[]).await;
    let moved = |ip: &str| Arc::new(service("d/moved", json!({"clusterIP": ip, "ports": [{"port": 80}]})));
    let name = "moved.d.svc.cluster.local.";
    let (first, second) = (moved("10.96.0.50"), moved("10.96.0.51"));
    dns_server.index.service(None, Some(&first));
    dns_server.index.set_complete();
    for _ in 0..3 {
        assert_eq!(dns_server.hears(name, RecordType::A).await, (ResponseCode::NoError, vec!["A 10.96.0.50".to_owned()]));
    }
    dns_server.index.service(Some(&first), Some(&second));
    assert_eq!(dns_server.hears(name, RecordType::A).await.1, ["A 10.96.0.51"]);
    dns_server.index.service(Some(&second), None);
    for _ in 0..2 {
        assert_eq!(dns_server.hears(name, RecordType::A).await.0, ResponseCode::NXDomain);
    }
}

#[tokio::test]
async fn the_second_answer_is_the_first_one_s_bytes() {
    use RecordType::{A, AAAA, MX, PTR, SRV, TXT};
    let dns_server = TestServer::new(&[]).await;
    let cases = [
        ("web.d.svc.cluster.local.", A),
        ("web.d.svc.cluster.local.", AAAA),
        ("web.d.svc.cluster.local.", MX),
        ("_http._tcp.web.d.svc.cluster.local.", SRV),
        ("db.d.svc.cluster.local.", A),
        ("_sql._tcp.db.d.svc.cluster.local.", SRV),
        ("inner.d.svc.cluster.local.", A),
        ("nobody.d.svc.cluster.local.", A),
        ("loop.d.svc.cluster.local.", A),
        ("www.example.com.d.svc.cluster.local.", A),
        ("1.0.96.10.in-addr.arpa.", PTR),
        ("dns-version.cluster.local.", TXT),
        ("cluster.local.", RecordType::SOA),
    ];
    let with_edns = |m: &mut Message| {
        m.set_edns(Edns::new().set_max_payload(4096).clone());
    };
    let ways: [fn(&mut Message); 3] = [|_| {}, |m| m.metadata.recursion_desired = true, with_edns];
    for ((name, kind), way) in cases.iter().flat_map(|case| ways.map(|way| (case, way))) {
        for spelled in [name.to_string(), name.to_string(), name.to_uppercase()] {
            let mut question = query(&spelled, *kind);
            way(&mut question);
            let bytes = question.to_vec().unwrap();
            let mut made = encode(&dns_server.server.at_once(&question).unwrap(), &question, Transport::Udp).unwrap();
            let mut told = hear(dns_server.address, &bytes).await;
            if made != told {
                // Other letters are cut short elsewhere, and several addresses come in any order.
                (made, told) = (plain(&made), plain(&told));
            }
            assert_eq!(told, made, "{spelled} {kind}");
        }
    }
}

/// The bytes of a message that is written anew, in small letters, with its records sorted.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(bytes).unwrap();
    for section in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
        section.iter_mut().for_each(|r| r.name = r.name.to_lowercase());
        section.sort_by_key(|r| r.to_string());
    }
    format!("{message:?}").to_lowercase().into_bytes()
}

async fn hear(address: SocketAddr, question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    socket.send(question).await.unwrap();
    let mut buffer = [0; 4096];
    let size = tokio::time::timeout(BOUND, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer[..size].to_vec()
}

#[tokio::test]
async fn every_question_of_a_batch_is_answered_whatever_lies_between() {
    let dns_server = TestServer::new(&[]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns_server.address).await.unwrap();
    let names = ["web.d.svc.cluster.local.", "db.d.svc.cluster.local.", "nobody.d.svc.cluster.local."];
    let stray = query(names[0], RecordType::A).into_response().to_vec().unwrap();
    let garbage: [&[u8]; 5] = [&[], &[0xff; 7], &[0; 12], &[0x55; 5000], &stray];
    for count in [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 3 * BATCH + 1] {
        let mut wanted = BTreeSet::new();
        for id in 0..count as u16 {
            let mut question = query(names[usize::from(id) % names.len()], RecordType::A);
            question.metadata.id = id;
            wanted.insert((id, question.queries[0].clone().to_string()));
            socket.send(&question.to_vec().unwrap()).await.unwrap();
            if id % 9 == 0 {
                socket.send(garbage[usize::from(id / 9) % garbage.len()]).await.unwrap();
            }
        }
        let mut buffer = [0; 4096];
        while !wanted.is_empty() {
            let size = tokio::time::timeout(BOUND, socket.recv(&mut buffer)).await.expect("an answer for each question").unwrap();
            let reply = Message::from_vec(&buffer[..size]).unwrap();
            // Of a header without a question.
            if reply.metadata.response_code == ResponseCode::FormErr {
                continue;
            }
            assert!(wanted.remove(&(reply.metadata.id, reply.queries[0].to_string())), "{reply:?} of {count}");
        }
    }
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked_to_whoever_asked() {
    // A host has other addresses, too; this one is not the first of its link.
    let dns_server = TestServer::at("127.9.8.7:0", &[]).await;
    for _ in 0..20 {
        // Each asker has a port of its own; `ask` looks at the sender.
        assert_eq!(dns_server.hears("web.d.svc.cluster.local.", RecordType::A).await.1, ["A 10.96.0.1"]);
    }
}

#[tokio::test]
async fn an_address_that_is_served_already_is_not_shared() {
    let dns_server = TestServer::new(&[]).await;
    assert!(bind(dns_server.address).await.is_err());
}

#[tokio::test]
async fn endpoints_come_in_turns() {
    let dns_server = TestServer::new(&[]).await;
    let mut firsts = BTreeSet::new();
    for _ in 0..200 {
        firsts.insert(dns_server.ask("db.d.svc.cluster.local.", RecordType::A).await.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 2);
}

#[tokio::test]
async fn a_resolver_is_asked_once_for_what_holds() {
    let group = Group::new();
    let (resolver, asked) = upstream(&group).await;
    let dns_server = TestServer::new(&[resolver]).await;
    let asked = || asked.load(Ordering::SeqCst);
    for name in ["www.example.com.", "WWW.example.com.", "www.Example.com."] {
        let reply = dns_server.ask(name, RecordType::A).await;
        assert_eq!((reply.queries[0].name.to_ascii(), reply.answers.len()), (name.to_owned(), 1));
        assert!((55..=60).contains(&reply.answers[0].ttl));
    }
    assert_eq!(asked(), 1);
    let mut stream = TcpStream::connect(dns_server.address).await.unwrap();
    write_message(&mut stream, &query("www.example.com.", RecordType::A).to_vec().unwrap()).await.unwrap();
    tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap();
    assert_eq!(asked(), 1, "what came over UDP and is whole serves TCP, too");
    for more in [2, 3] {
        dns_server.hears("www.example.com.", RecordType::AAAA).await;
        assert_eq!(asked(), more, "nobody says how long this refusal holds");
    }
    for _ in 0..2 {
        dns_server.hears("out.d.svc.cluster.local.", RecordType::A).await;
        assert_eq!(asked(), 4, "what one of our names stands for is kept as well");
    }
    group.stop();
}

#[tokio::test]
async fn what_others_answered_is_ours_once_a_service_has_it() {
    let group = Group::new();
    let dns_server = TestServer::new(&[upstream(&group).await.0]).await;
    let name = "9.0.96.10.in-addr.arpa.";
    for _ in 0..2 {
        assert_eq!(dns_server.hears(name, RecordType::PTR).await.1, ["PTR host.example."]);
    }
    let late = Arc::new(service("d/late", json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]})));
    dns_server.index.service(None, Some(&late));
    assert_eq!(dns_server.hears(name, RecordType::PTR).await.1, ["PTR late.d.svc.cluster.local."]);
    dns_server.index.service(Some(&late), None);
    assert_eq!(dns_server.hears(name, RecordType::PTR).await.1, ["PTR host.example."]);
    group.stop();
}

/// The cluster's names, of which one panics at once, and one that is not ours when it is looked at again.
struct Touchy {
    zone: Zone,
    looked: AtomicBool,
}

impl Names for Touchy {
    fn generation(&self) -> u64 {
        self.zone.generation()
    }

    fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        match name.iter().next() {
            Some(b"panic") => panic!("an answer that panics"),
            Some(b"late") if self.looked.swap(true, Ordering::SeqCst) => panic!("an answer that panics later"),
            _ => self.zone.answer(name, kind),
        }
    }

    fn authority(&self) -> Vec<Record> {
        self.zone.authority()
    }
}

#[tokio::test]
async fn a_panic_is_a_failure_of_its_question_alone() {
    let (group, resolv) = (Group::new(), tempfile::NamedTempFile::new().unwrap());
    let (udp, tcp) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), cluster());
    let forwarder = Forwarder::new(Upstreams::new(resolv.path().into(), address));
    Arc::new(Server::new(Touchy { zone, looked: AtomicBool::new(false) }, forwarder)).start(udp, tcp, &group).unwrap();
    let bad = query("panic.d.svc.cluster.local.", RecordType::A);
    let good = query("web.d.svc.cluster.local.", RecordType::A);
    let heard = |reply: &Message| (reply.metadata.response_code, reply.answers.len());
    for _ in 0..3 {
        assert_eq!(heard(&ask(address, &bad).await), (ResponseCode::ServFail, 0));
        assert_eq!(heard(&ask(address, &good).await), (ResponseCode::NoError, 1));
    }
    let late = ask(address, &query("late.example.", RecordType::A)).await;
    assert_eq!(heard(&late), (ResponseCode::ServFail, 0), "while others were asked");
    // One connection goes on, too.
    let mut stream = TcpStream::connect(address).await.unwrap();
    for (question, code) in [(&bad, ResponseCode::ServFail), (&good, ResponseCode::NoError)] {
        write_message(&mut stream, &question.to_vec().unwrap()).await.unwrap();
        let reply = tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, code);
    }
    let metrics = api::faults::metrics();
    assert!(metrics.contains("skiff_panics_total{loop=\"dns\"} 5\n"), "each is counted once: {metrics}");
    assert_eq!(group.fault(), None);
    group.stop();
}
