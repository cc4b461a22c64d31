//! A number of services -> how long the proxy alone takes for them, in a network namespace of its own. For e2e's bench; docs/performance.md.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    k8s::api::{core::v1::Service, discovery::v1::EndpointSlice},
    task::Group,
};
use nix::sched::{CloneFlags, unshare};
use parking_lot::RwLock;
use serde_json::json;

use crate::{Family, Mode, iptables::exec, model::Node, proxier::Proxier, service_tracker::ServiceTracker};

type Fault = Box<dyn std::error::Error + Send + std::marker::Sync>;

/// What was measured; the lists are sorted.
#[derive(Clone, Debug)]
pub struct Figures {
    pub services: usize,
    /// From nothing in the kernel to all services in it.
    pub cold: Duration,
    /// From one changed EndpointSlice to the kernel's word that packets see it.
    pub change: Vec<Duration>,
    /// A TCP connection through a cluster IP, from nothing to connected.
    pub first_packet: Vec<Duration>,
}

const PORT: u16 = 8080;
const CHANGES: usize = 20;
const CONNECT_BOUND: Duration = Duration::from_secs(5);
/// Endpoints: these addresses stand on the namespace's loopback.
const ENDPOINTS: [IpAddr; 3] = [endpoint(1), endpoint(2), endpoint(3)];

/// Serves that many services, each with two endpoints, and changes single ones; blocks, and needs root. Touches nothing of the machine.
///
/// # Errors
/// Where the proxy cannot work, or a connection does not arrive where it should.
pub fn measure(mode: Mode, services: usize) -> Result<Figures, Fault> {
    let work = move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Alone::measure(mode, services))
    };
    std::thread::spawn(work).join().map_err(|_| Fault::from("the bench's thread ended badly"))?
}

/// The proxy in its namespace, without an API server.
struct Alone {
    tracker: ServiceTracker,
    sync: Proxier,
    services: usize,
}

impl Alone {
    async fn measure(mode: Mode, services: usize) -> Result<Figures, Fault> {
        let mut alone = Self::new(mode, services).await?;
        let begun = Instant::now();
        alone.sync.once().await?;
        let cold = begun.elapsed();
        let first_packet = alone.connect_to_some()?;
        let mut change = Vec::new();
        for turn in 0..CHANGES {
            change.push(alone.change_one(turn).await?);
        }
        change.sort_unstable();
        Ok(Figures { services, cold, change, first_packet })
    }

    async fn new(mode: Mode, services: usize) -> Result<Self, Fault> {
        prepare_network().await?;
        let tracker = ServiceTracker::noting();
        for number in 0..services {
            tracker.service(None, Some(&Arc::new(service(number)?)));
            tracker.slice(None, Some(&Arc::new(slice(number, &ENDPOINTS[..2])?)));
        }
        let node = Arc::new(RwLock::new(Node { name: "bench".into(), ..Node::default() }));
        let cidrs = ["10.77.0.0/16".parse()?];
        let sync = Proxier::new(mode, Family::V4, tracker.clone(), node, &cidrs, Group::new())?;
        Ok(Self { sync, tracker, services })
    }

    /// The first, the middle and the last one: a search through all would show.
    fn connect_to_some(&self) -> Result<Vec<Duration>, Fault> {
        let mut all = Vec::new();
        for number in [0, self.services / 2, self.services.saturating_sub(1)] {
            for _ in 0..10 {
                all.push(connect(number)?.0);
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// To the third endpoint alone, then all three, then the first two again; and looks whether that is so.
    async fn change_one(&mut self, turn: usize) -> Result<Duration, Fault> {
        let number = self.services / 2;
        let wanted = [&ENDPOINTS[2..], &ENDPOINTS[..], &ENDPOINTS[..2]][turn % 3];
        let changed = Arc::new(slice(number, wanted)?);
        let begun = Instant::now();
        self.tracker.slice(None, Some(&changed));
        self.sync.once().await?;
        let took = begun.elapsed();
        let (_, answered) = connect(number)?;
        if wanted.contains(&answered) { Ok(took) } else { Err(format!("{answered} answered, not one of {wanted:?}").into()) }
    }
}

/// Connects through the service's address, and asks who is there.
fn connect(number: usize) -> Result<(Duration, IpAddr), Fault> {
    let address = SocketAddr::from((cluster_ip(number), 80));
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_BOUND)?;
    let took = begun.elapsed();
    stream.set_read_timeout(Some(CONNECT_BOUND))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok((took, said.parse::<SocketAddr>()?.ip()))
}

async fn prepare_network() -> Result<(), Fault> {
    exec::run("ip", &["link", "set", "lo", "up"], "").await?;
    for ip in ENDPOINTS {
        exec::run("ip", &["addr", "add", &format!("{ip}/32"), "dev", "lo"], "").await?;
    }
    exec::run("ip", &["route", "add", "10.96.0.0/12", "dev", "lo", "src", &ENDPOINTS[0].to_string()], "").await?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    // Ends with the process: it waits for connections to a namespace that nobody can reach any more.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let here = stream.local_addr().map(|a| a.to_string()).unwrap_or_default();
            let _ = std::io::Write::write_all(&mut stream, here.as_bytes());
        }
    });
    Ok(())
}

const fn endpoint(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, number))
}

fn cluster_ip(number: usize) -> Ipv4Addr {
    let offset = u32::try_from(number).unwrap_or_default() + 256;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + offset)
}

fn service(number: usize) -> Result<Service, Fault> {
    let spec = json!({"clusterIP": cluster_ip(number), "ports": [{"port": 80}]});
    Ok(serde_json::from_value(json!({"metadata": {"namespace": "bench", "name": format!("s{number}")}, "spec": spec}))?)
}

fn slice(number: usize, endpoints: &[IpAddr]) -> Result<EndpointSlice, Fault> {
    let endpoints: Vec<_> = endpoints.iter().map(|ip| json!({"addresses": [ip], "nodeName": "bench"})).collect();
    let name = format!("s{number}");
    Ok(serde_json::from_value(json!({
        "metadata": {"namespace": "bench", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "protocol": "TCP", "port": PORT}],
    }))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_modes_serve_what_the_bench_asks() {
        for (mode, services) in [(Mode::Iptables, 250), (Mode::Nftables, 600)] {
            let figures = measure(mode, services).unwrap();
            assert_eq!((figures.change.len(), figures.first_packet.len()), (CHANGES, 30));
        }
    }
}
