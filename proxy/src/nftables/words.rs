//! Addresses, ports and protocols -> the words that registers and the keys of sets have.

use std::net::Ipv4Addr;

use crate::model::Protocol;

/// Four words as registers have them; those that a set does not use are 0.
pub type Words = [u32; 4];

/// An address as a register has it.
pub fn word(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
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
