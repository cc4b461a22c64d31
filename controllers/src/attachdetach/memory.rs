//! What is remembered of volumes between two looks at them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// By what nodes call the volume. Bounded by the volumes of drivers that are attached or used.
pub type Memories = Arc<Mutex<HashMap<String, Memory>>>;

/// What is remembered of a volume while somebody wants it, or it is attached.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when nobody wants it on a node that it is attached to.
    pub unwanted: HashMap<String, Instant>,
    /// The nodes whose pods were told that it is attached to another.
    pub told: HashSet<String>,
    /// How many nodes it is wanted on, and attached to.
    pub wanted: usize,
    pub attached: usize,
}
