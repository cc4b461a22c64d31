//! Addresses, ports and protocols -> the words that registers and the keys of sets have.

use std::net::IpAddr;

use crate::model::Protocol;

/// Four words as registers have them; those that a set does not use are 0.
pub type Words = [u32; 4];

/// An address of IPv4 as a register has it. One of IPv6 takes four words, and keys that hold it are longer: tables of that family are not made
/// yet (`Backend::new`).
pub fn word(ip: IpAddr) -> u32 {
    let four = if let IpAddr::V4(ip) = ip { Some(ip) } else { None };
    u32::from_ne_bytes(four.expect("the model gives a table of IPv4 no address of another family").octets())
}

/// As a register has it.
pub fn port_word(port: u16) -> u32 {
    let [high, low] = port.to_be_bytes();
    u32::from_ne_bytes([high, low, 0, 0])
}

/// Its number as a register has it.
pub fn protocol(protocol: Protocol) -> u32 {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    u32::from_ne_bytes([number, 0, 0, 0])
}
