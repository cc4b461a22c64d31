//! What is remembered of volumes between two looks at them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::time::Instant;

pub type Memories = Arc<Mutex<Known>>;

#[derive(Debug, Default)]
pub struct Known {
    /// By what nodes call the volume. Bounded by the volumes of drivers that are attached or used.
    pub volumes: HashMap<String, Memory>,
    /// By node: the volumes that the list which is being written may name.
    pub listing: HashMap<String, HashSet<String>>,
}

/// What is remembered of a volume while somebody wants it, or it is attached.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when nobody wants it on a node that it is attached to.
    pub unwanted: HashMap<String, Instant>,
    /// The nodes whose pods were told that it is attached to another.
    pub told: HashSet<String>,
    /// The nodes that it is being detached from.
    pub leaving: HashSet<String>,
    /// How many nodes it is wanted on, and attached to.
    pub wanted: usize,
    pub attached: usize,
}

/// A list of a node that is being written: until this is dropped, however that ends.
pub struct Listing {
    memories: Memories,
    node: String,
}

impl Listing {
    pub fn new(memories: &Memories, node: &str) -> Self {
        Self { memories: memories.clone(), node: node.to_owned() }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.memories.lock().listing.remove(&self.node);
    }
}
