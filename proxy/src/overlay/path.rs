//! The way to a server -> the longest packet that it takes, as far as answers from there tell.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::IpMtu};

use super::mtu::LONGEST;

/// How long an answer is waited for.
const PROBE: Duration = Duration::from_millis(400);
/// Until a host sends another such answer to the same one (net.ipv4.icmp_ratelimit).
const RATE: Duration = Duration::from_millis(1200);
/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;
/// Where traceroute sends to: nobody listens there, and the kernel says so.
const NOBODYS: u16 = 33_434;
/// Lengths that ways have: of PPPoE, VXLAN, WireGuard and other tunnels; the least that IPv6 asks for.
const USUAL: [u32; 4] = [1492, 1450, 1420, 1280];
const SHORT: u32 = 100;

/// Sends packets that nobody on the way may cut, the first as long as the interface allows. `None`: the way is not known at all.
///
/// Who cannot pass one on should say so, and then the kernel knows; where nobody does, long ones vanish while short ones are answered. Where no packet is
/// answered (a firewall), that cannot be seen. `port` is one that packets of the pod network go to, where a machine on the way may treat them in its own way.
pub fn path_mtu(server: Ipv4Addr, port: u16, mtu: u32) -> Option<u32> {
    let mtu = mtu.min(LONGEST);
    let told = told_mtu(server, port, mtu)?;
    if told < mtu {
        return Some(told);
    }
    let answered = |length: u32, wait: Duration| probe(server, NOBODYS, length, wait).is_ok_and(|(_, answered)| answered);
    if answered(mtu, PROBE) || !answered(SHORT, PROBE) {
        return Some(mtu);
    }
    // Answers are few: one that does not come has to be waited for until another may be sent.
    if answered(mtu, RATE) || answered(mtu, RATE) || !answered(SHORT, RATE) {
        return Some(mtu);
    }
    Some(USUAL.into_iter().filter(|length| *length < mtu).find(|length| answered(*length, RATE)).unwrap_or(SHORT))
}

/// What the kernel knows after one long packet was sent.
fn told_mtu(server: Ipv4Addr, port: u16, mtu: u32) -> Option<u32> {
    let (socket, _) = probe(server, port, mtu, PROBE).ok()?;
    getsockopt(&socket, IpMtu).ok().and_then(|found| u32::try_from(found).ok()).map(|found| found.min(mtu))
}

/// Whether the other end said that nobody listens there: it has the packet.
fn probe(server: Ipv4Addr, port: u16, length: u32, wait: Duration) -> io::Result<(UdpSocket, bool)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, port))?;
    socket.set_read_timeout(Some(wait))?;
    let packet = vec![0; length.saturating_sub(HEADERS) as usize];
    match socket.send(&packet) {
        // The kernel knows already that it is too long.
        Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => return Ok((socket, false)),
        sent => sent?,
    };
    let answered = matches!(socket.recv(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionRefused);
    Ok((socket, answered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_takes_what_it_says() {
        assert_eq!(path_mtu(Ipv4Addr::LOCALHOST, 9, 1500), Some(1500));
        assert_eq!(path_mtu(Ipv4Addr::LOCALHOST, 9, 65_536), Some(LONGEST), "a packet is no longer, whatever the device takes");
        assert!(probe(Ipv4Addr::LOCALHOST, NOBODYS, SHORT, PROBE).unwrap().1, "nobody listens there");
    }
}
