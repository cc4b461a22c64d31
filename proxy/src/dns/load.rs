//! A DNS server by itself, and an asker that spares the machine: for the bench, and to look at where the time goes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use api::task::Group;
use serde_json::json;

use super::{
    batch::{Inbox, Outbox},
    bind, forward, index, resolv, server, zone,
};
use crate::Error;

/// After which what was not answered is lost.
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// Numbers of questions.
const IDS: usize = 1 << 16;

/// Serves one service, `default/kubernetes` with that cluster IP, in the zone `cluster.local`; all other names fail.
///
/// # Errors
/// Where the address cannot be bound.
pub async fn serve(address: SocketAddr, service: IpAddr, group: &Group) -> Result<(), Error> {
    let (udp, tcp) = bind(address).await?;
    let index = index::Index::default();
    let object =
        json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "spec": {"clusterIP": service, "ports": [{"port": 443}]}});
    let object = serde_json::from_value(object).expect("the service is well formed");
    index.service(None, Some(&Arc::new(object)));
    index.set_complete();
    let zone = zone::Zone::new("cluster.local", service, index);
    let forwarder = forward::Forwarder::new(resolv::Upstreams::new("/nowhere".into(), address));
    Arc::new(server::Server::new(zone, forwarder)).start(udp, tcp, group).map_err(|why| Error::Bind { address, why })
}

/// Asks `question` so many times, at most `window` at once, and shows each answer to `check`; how many were never answered. Blocks.
///
/// # Errors
/// The socket's, `check`'s, and where nothing is answered at all, or what was not asked.
pub fn ask(server: SocketAddr, question: &[u8], count: usize, window: usize, check: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<usize> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_BOUND))?;
    let (mut inbox, mut outbox, mut question) = (Inbox::default(), Outbox::default(), question.to_vec());
    let (mut flying, mut sent, mut answered) = (vec![false; IDS], 0, 0);
    while answered < count {
        // Half a window at a time, or what is left: a call for each would be the asker's work, and the server's is what is measured.
        let room = (window - (sent - answered)).min(count - sent);
        if room >= (window / 2).max(1) || sent + room == count {
            for id in sent..sent + room {
                question.iter_mut().zip((id as u16).to_be_bytes()).for_each(|(byte, new)| *byte = new);
                flying.iter_mut().skip(id % IDS).take(1).for_each(|f| *f = true);
                outbox.add(None, &question);
            }
            send_all(&mut outbox, &socket)?;
            sent += room;
        }
        match inbox.take(&socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && answered > 0 => return Ok(count - answered),
            came => answered += came?,
        }
        for (answer, _) in inbox.datagrams() {
            let id = answer.first_chunk().map(|id| usize::from(u16::from_be_bytes(*id)));
            let asked = id.and_then(|id| flying.get_mut(id)).is_some_and(std::mem::take);
            if !asked {
                return Err(io::Error::other(format!("an answer to no question: {answer:02x?}")));
            }
            check(answer)?;
        }
    }
    Ok(0)
}

fn send_all(outbox: &mut Outbox, socket: &UdpSocket) -> io::Result<()> {
    let mut gone = 0;
    while gone < outbox.len() {
        gone += outbox.put(socket, gone)?;
    }
    outbox.clear();
    Ok(())
}
