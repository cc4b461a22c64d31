//! Definitions of widely used operators and resources of theirs, good and bad, against the real engine over the memory store.

mod conversion;
mod files;
mod hostile;
mod life;
mod room;
mod samples;
mod trouble;
