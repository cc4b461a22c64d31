//! Good bytes -> bytes that are nearly good.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Longer inputs find nothing that shorter ones do not, but slowly.
const BYTES_MAX: usize = 16 << 10;

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-0",
    b"1e999",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"18446744073709551616",
    b"0x",
    b"0.1e-400",
    b":",
    b",",
    b"\n",
    b"\r\n",
    b"  ",
    b"\t",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!binary ",
    b"|",
    b"---\n",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"$patch",
    b"$retainKeys",
    b"$setElementOrder/containers",
    b"%00",
    b"%2e%2e/",
    b"..",
    b"/",
    b"!=",
    b" in (",
    b" notin (",
    b"=",
    b"Ki",
    b"Ei",
    b"n",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x7f",
    b"name",
    b"metadata",
    b"spec",
];

pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    random: StdRng,
}

impl Mutator {
    pub fn new(corpus: &[&[u8]], seed: u64) -> Self {
        Self { corpus: corpus.iter().map(|b| b.to_vec()).collect(), random: StdRng::seed_from_u64(seed) }
    }

    pub fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.pick();
        for _ in 0..self.random.random_range(1..6) {
            self.once(&mut bytes);
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }

    fn pick(&mut self) -> Vec<u8> {
        self.corpus.choose(&mut self.random).cloned().unwrap_or_default()
    }

    fn once(&mut self, bytes: &mut Vec<u8>) {
        let (from, to) = self.range(bytes.len());
        match self.random.random_range(0..9) {
            0 if !bytes.is_empty() => bytes[from.min(to)] ^= 1 << self.random.random_range(0..8),
            1 if !bytes.is_empty() => bytes[from.min(to)] = self.random.random(),
            2 => drop(bytes.drain(from..to)),
            3 => {
                let word = WORDS.choose(&mut self.random).copied().unwrap_or_default();
                bytes.splice(from..from, word.iter().copied());
            }
            4 => {
                let word = WORDS.choose(&mut self.random).copied().unwrap_or_default();
                bytes.splice(from..to, word.iter().copied());
            }
            5 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(to..to, copy);
            }
            6 => {
                // A piece of another sample.
                let other = self.pick();
                let (a, b) = self.range(other.len());
                bytes.splice(from..to, other[a..b].iter().copied());
            }
            7 => {
                // A piece many times over: depth, and length.
                let times = self.random.random_range(2..400);
                let piece = bytes[from..to.min(from + 8)].repeat(times);
                bytes.splice(from..from, piece);
            }
            _ => bytes.truncate(from),
        }
    }

    /// Somewhere in `0..len`, short more often than long; `from < to` unless empty.
    fn range(&mut self, len: usize) -> (usize, usize) {
        if len == 0 {
            return (0, 0);
        }
        let from = self.random.random_range(0..len);
        let most = if self.random.random_bool(0.8) { 16 } else { len };
        (from, (from + self.random.random_range(1..=most)).min(len))
    }
}
