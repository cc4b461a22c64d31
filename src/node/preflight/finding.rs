//! One thing that was looked at -> how it is, for people.

use std::fmt;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Fine,
    /// A node works all the same.
    Warned(Fault),
    Wrong(Fault),
}

/// What is wrong, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub why: String,
    /// A command, or a deed.
    pub mend: String,
}

impl Finding {
    pub fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Fine }
    }

    pub fn warned(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Warned(Fault { why: why.into(), mend: mend.into() }) }
    }

    pub fn wrong(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Wrong(Fault { why: why.into(), mend: mend.into() }) }
    }

    /// What stands in the way, if anything does.
    pub fn wrongs(&self) -> Option<&Fault> {
        if let State::Wrong(fault) = &self.state { Some(fault) } else { None }
    }

    /// What should be heard of, whether or not it stands in the way.
    pub fn fault(&self) -> Option<&Fault> {
        match &self.state {
            State::Fine => None,
            State::Warned(fault) | State::Wrong(fault) => Some(fault),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.state {
            State::Fine => '\u{2713}',
            State::Warned(_) => '!',
            State::Wrong(_) => '\u{2717}',
        };
        write!(f, " {sign} {}", self.what)?;
        self.fault().map_or(Ok(()), |fault| write!(f, "\n     {}\n     mend with: {}", fault.why, fault.mend))
    }
}
