//! Questions about the cluster that were answered -> the answer at once, for as long as nothing in the cluster changes.

use std::collections::HashMap;

use super::{answer_cache::CachedAnswer, question::Key};

/// Questions at a time; then all are forgotten. A key has at most 272 bytes, an answer at most a datagram's 1,232.
const QUESTIONS_MAX: usize = 4096;

/// What is known of a question.
pub enum Known {
    Answer(CachedAnswer),
    /// It is not ours to answer.
    Elsewhere,
}

/// What is known, by question. Belongs to one task: no lock.
#[derive(Default)]
pub struct Prepared {
    known: HashMap<Box<[u8]>, (u64, Known)>,
}

impl Prepared {
    /// What was found under the same generation.
    pub fn find(&mut self, generation: u64, key: &Key) -> Option<&mut Known> {
        self.known.get_mut(key.bytes()).filter(|(of, _)| *of == generation).map(|(_, known)| known)
    }

    /// Keeps what was found while `generation` stood.
    pub fn keep(&mut self, generation: u64, key: &Key, known: Known) {
        if self.known.len() >= QUESTIONS_MAX {
            self.known.clear();
        }
        self.known.insert(key.bytes().into(), (generation, known));
    }
}
