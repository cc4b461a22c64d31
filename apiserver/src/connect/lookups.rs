//! A host's name -> its addresses. A name is looked up by a thread that waits for as long as the resolver is silent, longer than anybody waits for us: few
//! of them may, and one name keeps one of them, however many ask for it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, LazyLock},
    time::Duration,
};

use api::{flight::Flights, task::Group};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Names that are looked up at a time: a node says itself what it is called.
const LOOKUPS_MAX: usize = 8;
/// How long a name waits for its turn: as long as who asks for it waits.
const TURN_BOUND: Duration = Duration::from_secs(10);
/// So long a name that could not be looked up is not looked up again.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Of these.
const FAILED_MAX: usize = 256;

type Found = Result<Vec<IpAddr>, Failed>;
type Resolver = fn(&str) -> io::Result<Vec<IpAddr>>;

/// An [`io::Error`] that many take.
type Failed = (io::ErrorKind, String);

struct Lookups {
    resolver: Resolver,
    places: Arc<Semaphore>,
    flights: Flights<String, Found>,
    failed: Arc<Mutex<HashMap<String, (Instant, Failed)>>>,
}

/// The whole process has one resolver; whom its threads wait for ends with it.
static LOOKUPS: LazyLock<Lookups> = LazyLock::new(|| Lookups::of(resolved, LOOKUPS_MAX, &Group::new()));

fn resolved(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The addresses of a host.
///
/// # Errors
/// The name is nobody's, or cannot be looked up.
pub(super) async fn looked_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => LOOKUPS.of_name(host).await.map_err(|(kind, why)| io::Error::new(kind, why))?,
    };
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

impl Lookups {
    fn of(resolver: Resolver, places: usize, group: &Group) -> Self {
        Self { resolver, places: Arc::new(Semaphore::new(places)), flights: Flights::new(group), failed: Arc::default() }
    }

    async fn of_name(&self, host: &str) -> Found {
        let known = || {
            let failed = self.failed.lock();
            failed.get(host).filter(|(at, _)| at.elapsed() < FAILED_FOR).map(|(_, why)| Err(why.clone()))
        };
        let (places, failed, resolver, name) = (self.places.clone(), self.failed.clone(), self.resolver, host.to_owned());
        let look = || async move {
            let found = thread(places, resolver, name.clone()).await.map_err(|error| (error.kind(), error.to_string()));
            if let Err(why) = &found {
                note(&mut failed.lock(), name, why.clone());
            }
            found
        };
        let lost = |why: api::flight::Lost| Err((io::ErrorKind::Other, why.to_string()));
        self.flights.join(host.to_owned(), known, look).await.unwrap_or_else(lost)
    }
}

async fn thread(places: Arc<Semaphore>, resolver: Resolver, name: String) -> io::Result<Vec<IpAddr>> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "too many names are being looked up");
    let place = timeout(TURN_BOUND, places.acquire_owned()).await.map_err(late)?.map_err(io::Error::other)?;
    let look = move || {
        let _place = place;
        resolver(&name)
    };
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}

fn note(failed: &mut HashMap<String, (Instant, Failed)>, name: String, why: Failed) {
    if failed.len() >= FAILED_MAX {
        failed.retain(|_, (at, _)| at.elapsed() < FAILED_FOR);
    }
    if failed.len() < FAILED_MAX {
        failed.insert(name, (Instant::now(), why));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures::{FutureExt, future::join_all};
    use parking_lot::Condvar;

    use super::*;

    /// A resolver that says nothing until it is let go.
    static IS_OVER: Mutex<bool> = Mutex::new(false);
    static OVER: Condvar = Condvar::new();
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn resolver(name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "silent" => OVER.wait_while(&mut IS_OVER.lock(), |is_over| !*is_over),
            "nobody" => {
                ASKED.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::new(io::ErrorKind::NotFound, "no such host"));
            }
            _ => {}
        }
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }

    #[tokio::test]
    async fn addresses_are_not_looked_up() {
        assert_eq!(looked_up("192.0.2.1", 7).now_or_never().unwrap().unwrap(), ["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(looked_up("fd00::1", 7).now_or_never().unwrap().unwrap(), ["[fd00::1]:7".parse().unwrap()]);
        assert!(looked_up("localhost", 7).await.unwrap().iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }

    #[tokio::test]
    async fn one_name_keeps_one_thread_and_others_are_looked_up_beside_it() {
        let group = Group::new();
        let lookups = Lookups::of(resolver, 2, &group);
        let mut silent: Vec<_> = (0..50).map(|_| Box::pin(lookups.of_name("silent"))).collect();
        for one in &mut silent {
            assert!(one.as_mut().now_or_never().is_none(), "it waits");
        }
        assert_eq!(lookups.of_name("somebody").await, Ok(vec![Ipv4Addr::LOCALHOST.into()]));
        assert_eq!(lookups.flights.count(), 1);
        *IS_OVER.lock() = true;
        OVER.notify_all();
        assert!(join_all(silent).await.iter().all(Result::is_ok));
        assert_eq!(lookups.places.available_permits(), 2);
        for _ in 0..50 {
            assert_eq!(lookups.of_name("nobody").await, Err((io::ErrorKind::NotFound, "no such host".into())));
        }
        assert!(ASKED.load(Ordering::Relaxed) < 10, "a failure is kept for a moment");
    }
}
