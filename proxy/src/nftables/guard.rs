//! The addresses of other nodes -> a table of its own: what is sent to the VXLAN port by anybody else is dropped, whoever serves this node's services.
//!
//! Whoever may send there may put packets into pods, from any address. The table stands at the input hook before all filters, since no other table's
//! verdict undoes a drop.

use std::net::Ipv4Addr;

use super::{
    expr::{Field, Reg, Step, Verdict},
    registers::{port_word, word},
};
use crate::{
    family::Family,
    netlink::{Error, LIST_ELEMENT, Socket, Verb, Writer},
};

const TABLE: &str = "skiff-pod-network";
const CHAIN: &str = "vxlan-input";
const NODES: &str = "nodes";
/// Before `filter` (0), after connection tracking, which puts fragments together.
const PRIORITY: i32 = -50;
const UDP: u8 = 17;
/// A list of elements must be below 64 KiB; one takes 24 bytes.
const ELEMENTS_PER_MESSAGE: usize = 1000;
/// `ipv4_addr` of nft's `datatype.h`.
const ADDRESS_TYPE: u32 = 7;

/// The table of the network namespace that it was opened in.
pub struct Guard(Socket);

impl Guard {
    /// # Errors
    /// Where the kernel has no nf_tables.
    pub fn open() -> Result<Self, Error> {
        Socket::open().map(Self)
    }

    /// The whole table, in place of what may be there under its name.
    ///
    /// # Errors
    /// Where it was not taken; what was there stays then.
    pub fn write(&self, port: u16, nodes: impl Iterator<Item = Ipv4Addr>) -> Result<(), Error> {
        let mut w = Writer::batch(Family::V4);
        removal(&mut w);
        w.change(Verb::NewTable, |w| w.text(1, TABLE));
        write_set(&mut w);
        w.change(Verb::NewChain, |w| {
            w.text(1, TABLE);
            w.text(3, CHAIN);
            w.nested(4, |w| {
                w.number(1, 1);
                w.attr(2, &PRIORITY.to_be_bytes());
            });
            w.number(5, 1);
            w.text(7, "filter");
        });
        w.change(Verb::NewRule, |w| {
            w.text(1, TABLE);
            w.text(2, CHAIN);
            w.nested(4, |w| steps(port).iter().for_each(|step| step.write(w)));
        });
        write_elements(Verb::NewElement, &nodes.collect::<Vec<_>>(), &mut w);
        self.commit(w)
    }

    /// # Errors
    /// Where it was not taken: none of it was.
    pub fn change(&self, come: &[Ipv4Addr], gone: &[Ipv4Addr]) -> Result<(), Error> {
        let mut w = Writer::batch(Family::V4);
        write_elements(Verb::NewElement, come, &mut w);
        write_elements(Verb::DelElement, gone, &mut w);
        self.commit(w)
    }

    /// Whether its rule is still there: `nft flush ruleset` removes it.
    pub fn is_whole(&self) -> bool {
        let question = Writer::dump(Family::V4, Verb::GetRule, |w| {
            w.text(1, TABLE);
            w.text(2, CHAIN);
        });
        let mut rules = 0;
        self.0.list(&question, |_| rules += 1).is_ok() && rules > 0
    }

    /// Takes the table away, if it is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove() -> Result<(), Error> {
        let mut w = Writer::batch(Family::V4);
        removal(&mut w);
        Self::open()?.commit(w)
    }

    fn commit(&self, w: Writer) -> Result<(), Error> {
        w.finish().map_or(Ok(()), |transaction| self.0.commit(&transaction))
    }
}

fn removal(w: &mut Writer) {
    w.change(Verb::NewTable, |w| w.text(1, TABLE));
    w.change(Verb::DelTable, |w| w.text(1, TABLE));
}

/// `udp dport <port> ip saddr != @nodes drop`
fn steps(port: u16) -> Vec<Step> {
    let reg = Reg(0);
    vec![
        Step::Load(Field::Protocol, reg),
        Step::IsByte(reg, UDP),
        Step::Load(Field::Port, reg),
        Step::IsShort(reg, port_word(port)),
        Step::Load(Field::Source, reg),
        Step::NotAmong(NODES.into(), reg),
        Step::End(Verdict::Drop),
    ]
}

fn write_set(w: &mut Writer) {
    let id = w.place();
    w.change(Verb::NewSet, |w| {
        w.text(1, TABLE);
        w.text(2, NODES);
        w.number(3, 0);
        w.number(4, ADDRESS_TYPE);
        w.number(5, 4);
        w.number(10, id);
    });
}

fn write_elements(verb: Verb, all: &[Ipv4Addr], w: &mut Writer) {
    for part in all.chunks(ELEMENTS_PER_MESSAGE) {
        w.change(verb, |w| {
            w.text(1, TABLE);
            w.text(2, NODES);
            w.nested(3, |w| part.iter().for_each(|ip| write_element(*ip, w)));
        });
    }
}

fn write_element(ip: Ipv4Addr, w: &mut Writer) {
    w.nested(LIST_ELEMENT, |w| w.nested(1, |w| w.attr(1, &word(ip.into()).to_ne_bytes())));
}
