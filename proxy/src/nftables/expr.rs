//! Steps of a rule -> expressions of nf_tables. Source of the numbers: the kernel's `linux/netfilter/nf_tables.h`.

use std::borrow::Cow;

use crate::netlink::{LIST_ELEMENT, Writer};

/// A place of four bytes; what is wider takes those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// What of a packet can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Source,
    Destination,
    Protocol,
    Port,
    Mark,
    CtState,
    CtStatus,
    /// The kind of address, as routes tell it.
    SourceKind,
    DestinationKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// Of a set or map.
pub type Name = Cow<'static, str>;

/// One step; a rule ends where a condition does not hold. Words are as registers have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Load(Field, Reg),
    /// `reg = reg & mask ^ flip`
    Bits(Reg, u32, u32),
    Is(Reg, u32),
    IsNot(Reg, u32),
    /// For fields of one byte.
    IsByte(Reg, u8),
    /// For fields of two bytes: the word's first.
    IsShort(Reg, u32),
    Among(Name, Reg),
    NotAmong(Name, Reg),
    /// Map, key, value.
    Lookup(Name, Reg, Reg),
    /// A map of verdicts.
    Branch(Name, Reg),
    /// So many bytes of a word.
    Put(Reg, u32, usize),
    /// A random one of `count` numbers from `first` on.
    Draw {
        to: Reg,
        count: u32,
        first: u32,
    },
    /// Writes an element of a set, for some time from here on.
    Remember {
        set: String,
        key: Reg,
        seconds: u32,
    },
    SetMark(Reg),
    /// The address, and the port in the register after it.
    Dnat(Reg),
    Masquerade,
    /// ICMP port unreachable.
    Reject,
    End(Verdict),
}

/// `RTN_LOCAL`
pub const LOCAL: u32 = 2;
pub const CT_INVALID: u32 = 1;
pub const CT_NEW: u32 = 8;
/// Established and related.
pub const CT_KNOWN: u32 = 2 | 4;
/// `IPS_DST_NAT`
pub const CT_DNAT: u32 = 0x20;

const VERDICT_REG: u32 = 0;
const FIRST_WORD_REG: u32 = 8;

impl Reg {
    fn number(self) -> u32 {
        FIRST_WORD_REG + u32::from(self.0)
    }
}

impl Step {
    pub fn write(&self, w: &mut Writer) {
        w.nested(LIST_ELEMENT, |w| {
            w.text(1, self.name());
            w.nested(2, |w| self.write_body(w));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Step::Load(Field::Source | Field::Destination | Field::Port, _) => "payload",
            Step::Load(Field::Protocol | Field::Mark, _) | Step::SetMark(_) => "meta",
            Step::Load(Field::CtState | Field::CtStatus, _) => "ct",
            Step::Load(Field::SourceKind | Field::DestinationKind, _) => "fib",
            Step::Bits(..) => "bitwise",
            Step::Is(..) | Step::IsNot(..) | Step::IsByte(..) | Step::IsShort(..) => "cmp",
            Step::Among(..) | Step::NotAmong(..) | Step::Lookup(..) | Step::Branch(..) => "lookup",
            Step::Draw { .. } => "numgen",
            Step::Remember { .. } => "dynset",
            Step::Dnat(_) => "nat",
            Step::Masquerade => "masq",
            Step::Reject => "reject",
            Step::End(_) | Step::Put(..) => "immediate",
        }
    }

    fn write_body(&self, w: &mut Writer) {
        match self {
            Step::Load(field, to) => load(*field, *to, w),
            Step::Bits(reg, mask, flip) => {
                numbers(w, &[(1, reg.number()), (2, reg.number()), (3, 4)]);
                word(w, 4, *mask);
                word(w, 5, *flip);
            }
            Step::Is(reg, value) => compare(*reg, 0, &value.to_ne_bytes(), w),
            Step::IsNot(reg, value) => compare(*reg, 1, &value.to_ne_bytes(), w),
            Step::IsByte(reg, value) => compare(*reg, 0, &[*value], w),
            Step::IsShort(reg, value) => compare(*reg, 0, value.to_ne_bytes().get(..2).unwrap_or_default(), w),
            Step::Among(set, reg) => lookup(set, &[(2, reg.number())], w),
            Step::NotAmong(set, reg) => lookup(set, &[(2, reg.number()), (5, 1)], w),
            Step::Lookup(map, key, value) => lookup(map, &[(2, key.number()), (3, value.number())], w),
            Step::Branch(map, key) => lookup(map, &[(2, key.number()), (3, VERDICT_REG)], w),
            Step::Draw { to, count, first } => numbers(w, &[(1, to.number()), (2, *count), (3, 1), (4, *first)]),
            Step::Remember { set, key, seconds } => {
                lookup(set, &[(3, 1), (4, key.number())], w);
                w.number64(6, u64::from(*seconds) * 1000);
            }
            Step::Put(to, value, bytes) => {
                numbers(w, &[(1, to.number())]);
                w.nested(2, |w| w.attr(1, value.to_ne_bytes().get(..*bytes).unwrap_or_default()));
            }
            Step::SetMark(reg) => numbers(w, &[(2, 3), (3, reg.number())]),
            Step::Dnat(reg) => numbers(w, &[(1, 1), (2, 2), (3, reg.number()), (5, reg.number() + 1)]),
            Step::Masquerade => w.number(1, 16),
            Step::Reject => {
                w.number(1, 0);
                w.attr(2, &[3]);
            }
            Step::End(verdict) => {
                w.number(1, VERDICT_REG);
                w.nested(2, |w| verdict.write(w));
            }
        }
    }
}

impl Verdict {
    /// As the data of an expression or an element.
    pub fn write(&self, w: &mut Writer) {
        let (code, chain): (i32, _) = match self {
            Verdict::Drop => (0, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        w.nested(2, |w| {
            w.attr(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                w.text(2, chain);
            }
        });
    }
}

fn load(field: Field, to: Reg, w: &mut Writer) {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let to = (1, to.number());
    match field {
        Field::Source => numbers(w, &[to, (2, NETWORK), (3, 12), (4, 4)]),
        Field::Destination => numbers(w, &[to, (2, NETWORK), (3, 16), (4, 4)]),
        Field::Port => numbers(w, &[to, (2, TRANSPORT), (3, 2), (4, 2)]),
        Field::Mark => numbers(w, &[to, (2, 3)]),
        Field::Protocol => numbers(w, &[to, (2, 16)]),
        Field::CtState => numbers(w, &[to, (2, 0)]),
        Field::CtStatus => numbers(w, &[to, (2, 2)]),
        Field::SourceKind => numbers(w, &[to, (2, 3), (3, 1)]),
        Field::DestinationKind => numbers(w, &[to, (2, 3), (3, 2)]),
    }
}

fn compare(reg: Reg, operation: u32, value: &[u8], w: &mut Writer) {
    numbers(w, &[(1, reg.number()), (2, operation)]);
    w.nested(3, |w| w.attr(1, value));
}

fn lookup(set: &str, attributes: &[(u16, u32)], w: &mut Writer) {
    w.text(1, set);
    numbers(w, attributes);
}

fn numbers(w: &mut Writer, attributes: &[(u16, u32)]) {
    attributes.iter().for_each(|(kind, value)| w.number(*kind, *value));
}

fn word(w: &mut Writer, kind: u16, value: u32) {
    w.nested(kind, |w| w.attr(1, &value.to_ne_bytes()));
}
