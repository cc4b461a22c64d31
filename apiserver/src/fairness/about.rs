//! Who asks, and for what: for who looks at the queues. Held weakly, so that a request ends when its own task has done with it.

use std::sync::{Arc, Weak};

use api::time::Timestamp;

use super::Classification;

/// What can be told of a request.
#[derive(Debug)]
pub struct Told {
    pub class: Classification,
    pub distinguisher: String,
    pub arrived: Timestamp,
    pub user: String,
    pub verb: String,
    pub path: String,
    pub namespace: String,
    pub name: String,
    /// Group and version, as `apiVersion` has them.
    pub version: String,
    pub resource: String,
    pub subresource: String,
}

/// A request that can be told of.
pub trait Asks: Send + Sync {
    fn told(&self) -> Told;
}

/// A request, for as long as it lasts. Making one allocates nothing.
#[derive(Clone)]
pub struct About(Weak<dyn Asks>);

/// No request.
struct Nobody;

impl About {
    pub fn new<T: Asks + 'static>(request: Weak<T>) -> Self {
        Self(request)
    }

    /// A request of which nothing is told.
    pub fn nobody() -> Self {
        Self(Weak::<Nobody>::new())
    }

    /// `None`: it has just ended.
    pub fn told(&self) -> Option<Told> {
        self.0.upgrade().map(|request: Arc<dyn Asks>| request.told())
    }
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("About")
    }
}

impl Asks for Nobody {
    fn told(&self) -> Told {
        unreachable!("there is none")
    }
}
