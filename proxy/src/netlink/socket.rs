//! Transactions and questions -> the kernel's word on them.

use std::{io, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::{NETFILTER, SocketAddrNetlink},
    recv, send, socket_with, sockopt,
};

/// `NLMSG_ERROR`, also of acknowledgements.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of an answer in many parts.
const DONE: u16 = 3;
const HEADER: usize = 16;
/// Netlink's, and the subsystem's.
const HEADERS: usize = 20;
/// Flags in the type of an attribute.
const KIND: u16 = 0x3fff;
/// Answers are acknowledgements, errors, or parts of a listing.
const ANSWER_BYTES: usize = 64 * 1024;
/// What a transaction takes beside its own size.
const SEND_SLACK: usize = 64 * 1024;

/// Why a transaction was not taken: none of it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    /// `kind` is the message's, `number` its place in the transaction.
    #[error("netfilter refused change {number} of kind {kind:#x}: {why}")]
    Refused { number: u32, kind: u16, why: io::Error },
    #[error("netfilter did not answer")]
    Silent,
}

/// A socket to netfilter in the network namespace of the thread that opened it.
pub struct Socket(OwnedFd);

impl Socket {
    /// # Errors
    /// Where the kernel has no netfilter.
    pub fn open() -> Result<Self, Error> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER)).map_err(io::Error::from)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(io::Error::from)?;
        Ok(Self(fd))
    }

    /// Applies a transaction; returns when packets see it. Blocks while the kernel works, which is below a millisecond for a few elements.
    ///
    /// # Errors
    /// With the first change that was refused.
    pub fn commit(&self, transaction: &[u8]) -> Result<(), Error> {
        self.ask(transaction)?;
        let (mut accepted, mut refused) = (false, None);
        self.answers(|message| {
            match acknowledgement(message) {
                Some(Ok(())) => accepted = true,
                Some(Err(error)) if refused.is_none() => refused = Some(error),
                _ => {}
            }
            true
        })?;
        match refused {
            Some(error) => Err(error),
            None if accepted => Ok(()),
            None => Err(Error::Silent),
        }
    }

    /// Asks for a listing; `take` gets what each of its messages has after the headers.
    ///
    /// # Errors
    /// With the kernel's refusal.
    pub fn list(&self, question: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        self.ask(question)?;
        let mut refused = None;
        self.answers(|message| {
            match acknowledgement(message) {
                Some(word) => refused = word.err(),
                None if kind_of(message) == DONE => return false,
                None => take(message.get(HEADERS..).unwrap_or_default()),
            }
            refused.is_none()
        })?;
        refused.map_or(Ok(()), Err)
    }

    fn ask(&self, bytes: &[u8]) -> Result<(), Error> {
        sockopt::set_socket_send_buffer_size_force(&self.0, bytes.len() + SEND_SLACK).map_err(io::Error::from)?;
        send(&self.0, bytes, SendFlags::empty()).map_err(io::Error::from)?;
        Ok(())
    }

    /// All that waits; the kernel answers before it returns from a send. `take` tells whether to go on.
    fn answers(&self, mut take: impl FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let size = match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, size)) => size,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let mut rest = buffer.get(..size).unwrap_or_default();
            while let Some((message, more)) = split(rest) {
                if !take(message) {
                    return Ok(());
                }
                rest = more;
            }
        }
    }
}

/// The attributes of a message, or of what one holds: kind and value. Ends where they make no sense.
pub fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & KIND;
        let value = bytes.get(4..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let message = bytes.get(..size).filter(|m| m.len() >= HEADER)?;
    Some((message, bytes.get(size.next_multiple_of(4)..).unwrap_or_default()))
}

fn kind_of(message: &[u8]) -> u16 {
    message.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b))
}

/// `None` for a message that is no acknowledgement; the error names the message.
fn acknowledgement(message: &[u8]) -> Option<Result<(), Error>> {
    if kind_of(message) != ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(*message.get(HEADER..)?.first_chunk()?);
    if code == 0 {
        return Some(Ok(()));
    }
    let of = message.get(HEADER + 4..)?;
    let number = of.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
    let why = io::Error::from_raw_os_error(-code);
    Some(Err(Error::Refused { number, kind: kind_of(of), why }))
}
