//! Questions that were answered -> the same bytes again, for as long as nothing in the cluster changes.

use std::collections::HashMap;

use hickory_proto::op::{Message, ResponseCode};

/// Questions at a time; then all are forgotten. A question is at most [`QUESTION_MAX`] bytes, its answer at most a datagram.
const QUESTIONS_MAX: usize = 4096;
/// Longer ones carry options that hardly come twice.
const QUESTION_MAX: usize = 320;
/// The number that ties an answer to its question; all else of equal questions is equal.
const ID_BYTES: usize = 2;

/// Answers by question, without their numbers. Belongs to one task: no lock.
#[derive(Default)]
pub struct Prepared {
    generation: u64,
    answers: HashMap<Box<[u8]>, Vec<u8>>,
}

impl Prepared {
    /// The answer to this question, if it was given under the same generation.
    pub fn answer(&mut self, generation: u64, query: &[u8]) -> Option<&[u8]> {
        if self.generation != generation {
            self.answers.clear();
            self.generation = generation;
        }
        let (id, question) = query.split_at_checked(ID_BYTES)?;
        let answer = self.answers.get_mut(question)?;
        answer.get_mut(..ID_BYTES)?.copy_from_slice(id);
        Some(answer)
    }

    /// Keeps an answer that was made under `generation`, where it would be the same again: several addresses are told in turns.
    pub fn keep(&mut self, generation: u64, query: &[u8], reply: &Message, answer: &[u8]) {
        let settled =
            matches!(reply.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) && reply.metadata.authoritative;
        let Some(question) = query.get(ID_BYTES..).filter(|q| q.len() <= QUESTION_MAX) else { return };
        if !settled || reply.answers.len() > 1 || generation != self.generation {
            return;
        }
        if self.answers.len() >= QUESTIONS_MAX {
            self.answers.clear();
        }
        self.answers.insert(question.into(), answer.to_vec());
    }
}
