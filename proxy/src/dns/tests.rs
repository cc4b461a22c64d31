//! Questions over real sockets on loopback -> the answers of the specification.

use std::{io::Write, net::SocketAddr, sync::Arc, time::Duration};

use api::{k8s::api::discovery::v1::EndpointConditions, task::Group};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{
    forward::{Forwarder, read_message, write_message},
    index::Index,
    resolv::Upstreams,
    server::Server,
    zone::Zone,
};
use crate::testing::{service, slice, with};

const BOUND: Duration = Duration::from_secs(5);

struct House {
    address: SocketAddr,
    index: Index,
    server: Arc<Server>,
    group: Group,
    _resolv: tempfile::NamedTempFile,
}

impl House {
    async fn new(upstreams: &[SocketAddr]) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let mut resolv = tempfile::NamedTempFile::new().unwrap();
        upstreams.iter().for_each(|u| writeln!(resolv, "nameserver {u}").unwrap());
        let (index, group) = (cluster(), Group::new());
        let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), index.clone());
        let forwarder = Forwarder::new(Upstreams::new(resolv.path().into(), address));
        let server = Arc::new(Server::new(zone, forwarder));
        server.start(udp, tcp, &group);
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

impl Drop for House {
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
    message.add_query(Query::query(Name::from_str_relaxed(name).unwrap(), kind));
    message
}

async fn ask(address: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), address).await.unwrap();
    let mut buffer = [0; 4096];
    let size = tokio::time::timeout(BOUND, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..size]).unwrap();
    assert_eq!(reply.metadata.id, message.metadata.id);
    reply
}

/// An upstream server that answers every A question with 192.0.2.7, and nothing else.
async fn upstream(group: &Group) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let answer = |bytes: &[u8]| {
        let mut reply = Message::from_vec(bytes).unwrap().into_response();
        let name = reply.queries[0].name.clone();
        if reply.queries[0].query_type == RecordType::A {
            reply.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
        }
        reply.to_vec().unwrap()
    };
    group.spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((size, peer)) = udp.recv_from(&mut buffer).await {
            udp.send_to(&answer(&buffer[..size]), peer).await.unwrap();
        }
    });
    group.spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            while let Ok(query) = read_message(&mut stream).await {
                write_message(&mut stream, &answer(&query)).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn the_specification_by_question() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    use ResponseCode::{NXDomain, NoError};
    let house = House::new(&[]).await;
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
        assert_eq!(house.hears(name, *kind).await, (*code, wanted), "{name} {kind}");
    }
    let reverse6: String =
        format!("{:032x}", u128::from("fd00::1".parse::<std::net::Ipv6Addr>().unwrap())).chars().rev().flat_map(|c| [c, '.']).collect();
    assert_eq!(house.hears(&format!("{reverse6}ip6.arpa."), PTR).await.1, ["PTR web.d.svc.cluster.local."]);
    assert_eq!(house.ask("cluster.local.", SOA).await.answers.len(), 1);
}

#[tokio::test]
async fn refusals_may_be_kept_and_answers_say_whose_they_are() {
    let house = House::new(&[]).await;
    let reply = house.ask("nobody.d.svc.cluster.local.", RecordType::A).await;
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!((reply.authorities[0].record_type(), reply.authorities[0].ttl), (RecordType::SOA, 5));
    let reply = house.ask("_sql._tcp.db.d.svc.cluster.local.", RecordType::SRV).await;
    assert_eq!(reply.additionals.iter().filter(|r| r.record_type() == RecordType::A).count(), 2);
    let mut odd = query("web.d.svc.cluster.local.", RecordType::A);
    odd.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(house.address, &odd).await.metadata.response_code, ResponseCode::NotImp);
}

#[tokio::test]
async fn other_names_go_to_the_node_s_resolvers() {
    let group = Group::new();
    let house = House::new(&["127.0.0.1:1".parse().unwrap(), upstream(&group).await]).await;
    assert_eq!(house.hears("www.example.com.", RecordType::A).await, (ResponseCode::NoError, vec!["A 192.0.2.7".to_owned()]));
    let (code, answers) = house.hears("out.d.svc.cluster.local.", RecordType::A).await;
    assert_eq!((code, answers), (ResponseCode::NoError, vec!["A 192.0.2.7".to_owned(), "CNAME www.example.com.".to_owned()]));
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    for name in ["www.example.com.", "web.d.svc.cluster.local."] {
        write_message(&mut stream, &query(name, RecordType::A).to_vec().unwrap()).await.unwrap();
        let reply = Message::from_vec(&tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap()).unwrap();
        assert_eq!(reply.answers.len(), 1, "{name}");
    }
    group.stop();
}

#[tokio::test]
async fn without_a_resolver_other_names_fail() {
    let house = House::new(&[]).await;
    assert_eq!(house.hears("www.example.com.", RecordType::A).await.0, ResponseCode::ServFail);
    let zone = Zone::new("cluster.local", "10.96.0.10".parse().unwrap(), Index::default());
    let name = Name::from_ascii("web.d.svc.cluster.local.").unwrap();
    assert_eq!(zone.answer(&name, RecordType::A), super::zone::Answer::NotYet);
}

#[tokio::test]
async fn a_resolver_that_asks_us_is_found_out() {
    // A server that passes every question on to us.
    let between = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let house = House::new(&[between.local_addr().unwrap()]).await;
    let (address, passes) = (house.address, between.clone());
    house.group.spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((size, peer)) = passes.recv_from(&mut buffer).await {
            let reply = ask(address, &Message::from_vec(&buffer[..size]).unwrap()).await;
            passes.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    let begun = std::time::Instant::now();
    while !house.server.forwarder.is_looping() {
        assert!(begun.elapsed() < BOUND);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(house.hears("www.example.com.", RecordType::A).await.0, ResponseCode::ServFail);
    assert_eq!(house.hears("web.d.svc.cluster.local.", RecordType::A).await.1, ["A 10.96.0.1"]);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_over_udp_and_whole_over_tcp() {
    let house = House::new(&[]).await;
    let endpoints: Vec<String> = (0..100).map(|i| format!("10.1.0.{i}@n")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    house.index.service(None, Some(&Arc::new(service("d/many", json!({"clusterIP": "None", "ports": [{"port": 80}]})))));
    house.index.slice(None, Some(&Arc::new(slice("d/many", "", "TCP", 80, &endpoints))));
    let question = query("many.d.svc.cluster.local.", RecordType::A);
    let reply = ask(house.address, &question).await;
    assert!(reply.metadata.truncation && reply.answers.len() < 100);
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    write_message(&mut stream, &question.to_vec().unwrap()).await.unwrap();
    let reply = Message::from_vec(&tokio::time::timeout(BOUND, read_message(&mut stream)).await.unwrap().unwrap()).unwrap();
    assert!(!reply.metadata.truncation && reply.answers.len() == 100);
}

#[tokio::test]
async fn an_answer_that_was_kept_goes_when_its_service_changes() {
    let house = House::new(&[]).await;
    let moved = |ip: &str| Arc::new(service("d/moved", json!({"clusterIP": ip, "ports": [{"port": 80}]})));
    let name = "moved.d.svc.cluster.local.";
    let (first, second) = (moved("10.96.0.50"), moved("10.96.0.51"));
    house.index.service(None, Some(&first));
    house.index.set_complete();
    for _ in 0..3 {
        assert_eq!(house.hears(name, RecordType::A).await, (ResponseCode::NoError, vec!["A 10.96.0.50".to_owned()]));
    }
    house.index.service(Some(&first), Some(&second));
    assert_eq!(house.hears(name, RecordType::A).await.1, ["A 10.96.0.51"]);
    house.index.service(Some(&second), None);
    for _ in 0..2 {
        assert_eq!(house.hears(name, RecordType::A).await.0, ResponseCode::NXDomain);
    }
}
