//! resolv.conf -> the servers to ask for names that are not ours, read again when the file changes.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

/// glibc, too, takes no more.
const SERVERS_MAX: usize = 3;

pub struct Upstreams {
    path: PathBuf,
    own: SocketAddr,
    read: Mutex<ResolvConf>,
}

#[derive(Default)]
struct ResolvConf {
    modified: Option<SystemTime>,
    servers: Arc<[SocketAddr]>,
}

impl Upstreams {
    /// `own` is where we serve: asking ourselves would go round for ever.
    pub fn new(path: PathBuf, own: SocketAddr) -> Self {
        Self { path, own, read: Mutex::default() }
    }

    /// In the file's order; empty where there are none.
    pub fn servers(&self) -> Arc<[SocketAddr]> {
        let modified = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        let mut read = self.read.lock();
        if read.modified != modified || modified.is_none() {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            *read = ResolvConf { modified, servers: parse(&text).filter(|s| *s != self.own).take(SERVERS_MAX).collect() };
        }
        read.servers.clone()
    }
}

pub(super) fn parse(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|w| *w == "nameserver").and(words.next())?;
        // Tests name a port, as some resolvers allow.
        address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).or_else(|_| address.parse()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_again_and_never_ourselves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let upstreams = Upstreams::new(file.path().into(), "10.96.0.10:53".parse().unwrap());
        assert!(upstreams.servers().is_empty());
        std::fs::write(file.path(), "# x\nsearch a b\nnameserver 10.96.0.10\nnameserver 192.0.2.1 \nnameserver junk\nnameserver fd00::1\n")
            .unwrap();
        std::fs::File::open(file.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let wanted: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(upstreams.servers().to_vec(), wanted);
        std::fs::remove_file(file.path()).unwrap();
        assert!(upstreams.servers().is_empty());
    }
}
