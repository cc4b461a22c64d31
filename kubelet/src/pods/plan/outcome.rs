//! A call that was made -> what came of it, where the loop has to remember it.

use crate::pods::runtime_state::pod::{Container, Made, Sandbox};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `None` where the runtime did not show what it made.
    SandboxMade {
        made: Option<Sandbox>,
    },
    /// The sandbox, its cgroup or its volumes; events have been recorded.
    SandboxFailed,
    Started {
        container: String,
        made: Option<Box<Container>>,
    },
    StartFailed {
        container: String,
        reason: &'static str,
        message: String,
        cause: StartCause,
    },
    /// What it changed in the runtime is to be looked at.
    Done,
    Cleaned,
    Removed,
    Failed {
        error: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartCause {
    Pull { image: String },
    Other,
}

impl Outcome {
    /// What the call has made, where the runtime showed it.
    pub fn made(self) -> Option<Made> {
        match self {
            Self::SandboxMade { made } => made.map(Made::Sandbox),
            Self::Started { made, .. } => made.map(Made::Container),
            _ => None,
        }
    }
}
