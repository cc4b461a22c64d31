//! Names of the cluster -> answers, on the cluster DNS address of every node; all other names -> the node's own resolvers.
//!
//! Source: the specification kubernetes/dns 1.1.0, and CoreDNS' plugin `kubernetes` where the specification is silent.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    thread,
};

use api::{
    k8s::api::{core::v1::Service, discovery::v1::EndpointSlice},
    task::Group,
};
use client::Caches;
use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt::set_socket_reuseport};
use tokio::net::TcpListener;

mod answer_cache;
mod batch;
mod cache;
mod forward;
mod index;
#[doc(hidden)]
pub mod load;
mod prepared;
mod question;
mod reply;
mod resolv;
#[cfg(test)]
mod scale;
mod server;
#[cfg(test)]
mod tests;
mod wire;
mod worker;
mod zone;

pub(crate) use index::Index;
pub(crate) use zone::{Answer, Zone};

use crate::{
    Error,
    cni::link::{End, Net, mac_of},
};

/// How the query came, and so how it is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The link that holds the DNS address.
pub const LINK: &str = "skiff-dns";

/// Sockets that share the address, each with a thread of its own: one for each core, but one thread answers some 200,000 questions a second.
const UDP_SOCKETS_MAX: usize = 4;

/// What the DNS server of a node must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Without dots at the ends: `cluster.local`.
    pub domain: String,
    /// The cluster DNS address: the tenth of the service range. This node takes it on a link of its own.
    pub address: IpAddr,
    /// 53.
    pub port: u16,
    /// Names the servers for all other names; read again when it changes. `/etc/resolv.conf`, or what the kubelet's `--resolv-conf` names.
    pub resolv_conf: PathBuf,
}

/// Reads a question and a resolv.conf, and does nothing: for the fuzz targets.
#[doc(hidden)]
pub fn read_untrusted(question: &[u8], resolv_conf: &str) -> (bool, usize) {
    (server::parse(question).is_some(), resolv::parse(resolv_conf).count())
}

/// Serves DNS, from caches that are read as [`crate::USER`]: returns when it listens, and goes on in `group` until it stops. Until the caches are filled, the cluster's names get SERVFAIL.
///
/// # Errors
/// Where the address cannot be taken or bound.
pub async fn run(config: Config, caches: Caches, group: Group) -> Result<(), Error> {
    let own = SocketAddr::from((config.address, config.port));
    take_address(config.address, &group).await?;
    let (udp, tcp) = bind(own).await?;
    let index = index::Index::follow(&caches);
    // A resolver that asks again just when we come back is not told that we are not ready.
    if caches.of::<Service>().is_synced() && caches.of::<EndpointSlice>().is_synced() {
        index.set_complete();
    }
    let zone = zone::Zone::new(&config.domain, config.address, index.clone());
    let upstreams = resolv::Upstreams::new(config.resolv_conf, own);
    let server = Arc::new(server::Server::new(zone, forward::Forwarder::new(upstreams)));
    server.start(udp, tcp, &group).map_err(|why| Error::Bind { address: own, why })?;
    group.spawn(async move {
        caches.of::<Service>().synced().await;
        caches.of::<EndpointSlice>().synced().await;
        index.set_complete();
    });
    Ok(())
}

async fn take_address(address: IpAddr, group: &Group) -> Result<(), Error> {
    let net = Net::here(&group.child())?;
    // A bridge without ports: kernels that can run pods have bridges, but not all have dummy links.
    let link = net.ensure_bridge(&End { name: LINK, mac: mac_of(address), mtu: 0 }).await?;
    net.ensure_only_address(link.index, IpNet::from(address)).await?;
    Ok(())
}

/// The TCP listener comes first and alone: it fails where another server listens already.
async fn bind(address: SocketAddr) -> Result<(Vec<UdpSocket>, TcpListener), Error> {
    let failed = |why| Error::Bind { address, why };
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;
    let sockets = thread::available_parallelism().map_or(1, usize::from).min(UDP_SOCKETS_MAX);
    let udp = (0..sockets).map(|_| bind_shared(address)).collect::<Result<_, _>>().map_err(failed)?;
    Ok((udp, tcp))
}

/// One of several sockets of one address: the kernel spreads askers over them.
fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

/// An empty zone on `address`, port 53, in the namespace of the calling thread.
#[cfg(test)]
pub(crate) async fn serve_for_test(address: IpAddr, group: &Group) {
    take_address(address, group).await.unwrap();
    let own = SocketAddr::from((address, 53));
    let (udp, tcp) = bind(own).await.unwrap();
    let zone = zone::Zone::new("cluster.local", address, index::Index::default());
    let upstreams = resolv::Upstreams::new("/nowhere".into(), own);
    Arc::new(server::Server::new(zone, forward::Forwarder::new(upstreams))).start(udp, tcp, group).unwrap();
}

/// What `dns-version` gets, as text.
#[cfg(test)]
pub(crate) fn asks_for_test(socket: &std::net::UdpSocket, server: &str) -> Option<String> {
    let question = tests::query("dns-version.cluster.local.", hickory_proto::rr::RecordType::TXT);
    socket.send_to(&question.to_vec().ok()?, server).ok()?;
    let mut buffer = [0; 512];
    let (size, sender) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!(sender.to_string(), server, "an answer comes from where it was asked");
    Some(hickory_proto::op::Message::from_vec(buffer.get(..size)?).ok()?.answers.first()?.data.to_string())
}
