//! A socket's datagrams, many to a system call: questions in, answers out.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, addr::SocketAddrArg, sendmmsg, sendto};
use tokio::{io::Interest, net::UdpSocket, time::timeout};

/// Datagrams to a call: what a few hundred askers at once can fill, and less than a millisecond's work.
pub const BATCH: usize = 32;
/// Of a question. The largest that is read has a name of 255 bytes and a few options; larger datagrams are dropped.
const DATAGRAM_MAX: usize = 4096;
/// After which answers that the kernel does not take are dropped, as a network would drop them.
const SEND_BOUND: Duration = Duration::from_millis(100);

/// What came. The memory is reused from batch to batch, and untouched where few come at a time. For one socket: the room that the kernel
/// has for a sender's address is what the last one needed.
pub struct Inbox {
    space: Box<[u8]>,
    headers: MultiHeaders<SockaddrStorage>,
    /// Length and sender of each datagram; 0 where it did not fit.
    came: Vec<(usize, SocketAddr)>,
}

/// What goes.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    parcels: Vec<(Range<usize>, Option<SocketAddrAny>)>,
}

impl Default for Inbox {
    fn default() -> Self {
        let headers = MultiHeaders::preallocate(BATCH, None);
        Self { space: vec![0; BATCH * DATAGRAM_MAX].into(), headers, came: Vec::with_capacity(BATCH) }
    }
}

impl Inbox {
    /// Waits until something came, and takes what is there, at most [`BATCH`].
    ///
    /// # Errors
    /// The socket's.
    pub async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        loop {
            socket.readable().await?;
            // Where the wake-up was for nothing, the socket is not even asked, and the last batch must not be answered twice.
            self.came.clear();
            let taken = socket.try_io(Interest::READABLE, || match self.take(socket)? {
                BATCH => Ok(()),
                // The socket is empty: there is no need to hear that from the kernel.
                _ => Err(io::ErrorKind::WouldBlock.into()),
            });
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.came.is_empty() => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => return Ok(()),
            }
        }
    }

    /// Waits for the first datagram as the socket does, for no other; how many came.
    ///
    /// # Errors
    /// The socket's; then nothing came.
    pub fn take(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.came.clear();
        let mut slots: Vec<[IoSliceMut<'_>; 1]> = self.space.chunks_exact_mut(DATAGRAM_MAX).map(|s| [IoSliceMut::new(s)]).collect();
        let fd = socket.as_fd().as_raw_fd();
        for message in recvmmsg(fd, &mut self.headers, slots.iter_mut(), MsgFlags::MSG_WAITFORONE, None)? {
            let fits = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let sender = message.address.as_ref().and_then(socket_address);
            let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
            self.came.push((if fits && sender.is_some() { message.bytes } else { 0 }, sender.unwrap_or(nobody)));
        }
        Ok(self.came.len())
    }

    /// What came last, without what did not fit.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let all = self.space.chunks_exact(DATAGRAM_MAX).zip(&self.came);
        all.filter_map(|(slot, (length, sender))| Some((slot.get(..*length).filter(|d| !d.is_empty())?, *sender)))
    }

    /// More may be there.
    pub fn is_full(&self) -> bool {
        self.came.len() == BATCH
    }
}

impl Outbox {
    pub fn add(&mut self, to: Option<SocketAddr>, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.parcels.push((start..self.bytes.len(), to.map(|a| a.as_any())));
    }

    /// Sends all, and forgets all.
    pub async fn send(&mut self, socket: &UdpSocket) {
        let mut gone = 0;
        while gone < self.parcels.len() {
            match socket.try_io(Interest::WRITABLE, || self.put(socket, gone)) {
                Ok(count) => gone += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !matches!(timeout(SEND_BOUND, socket.writable()).await, Ok(Ok(()))) {
                        tracing::debug!(count = self.parcels.len() - gone, "socket is full; DNS replies dropped");
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to send DNS reply");
                    gone += 1;
                }
            }
        }
        self.clear();
    }

    /// Sends as many as the kernel takes, from the `gone`th on; how many those were, at least one.
    ///
    /// # Errors
    /// Of the first.
    pub fn put(&self, socket: &impl AsFd, gone: usize) -> io::Result<usize> {
        let parcels = self.parcels.get(gone..).unwrap_or_default();
        if let [(part, Some(to))] = parcels {
            return Ok(sendto(socket, self.bytes.get(part.clone()).unwrap_or_default(), SendFlags::empty(), to).map(|_| 1)?);
        }
        let bodies: Vec<[IoSlice<'_>; 1]> =
            parcels.iter().map(|(part, _)| [IoSlice::new(self.bytes.get(part.clone()).unwrap_or_default())]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = parcels.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let all = parcels.iter().zip(&bodies).zip(&mut controls);
        let mut headers: Vec<MMsgHdr<'_>> = all
            .map(|(((_, to), body), control)| match to {
                Some(to) => MMsgHdr::new_with_addr(to, body, control),
                None => MMsgHdr::new(body, control),
            })
            .collect();
        Ok(sendmmsg(socket, &mut headers, SendFlags::empty())?)
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parcels.clear();
    }

    pub fn len(&self) -> usize {
        self.parcels.len()
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}
