//! What plugins keep -> found again by its type: about one pod from one extension point to the next, or in the snapshot for longer.
//!
//! Source: kube-scheduler `framework/cycle_state.go`.

use std::any::Any;

/// A plugin's own type; it is what the value is found by, so that nobody else can take it for theirs.
pub trait StateData: Any + Send + Sync {}

/// One value of each type. Few: looking one up is a walk over as many as there are plugins that had something to keep.
#[derive(Default)]
pub struct CycleState(Vec<Box<dyn StateData>>);

impl CycleState {
    /// What the plugin kept; `None` if it had nothing to keep.
    pub fn read<T: StateData>(&self) -> Option<&T> {
        self.0.iter().find_map(|kept| (&**kept as &dyn Any).downcast_ref())
    }

    /// As [`CycleState::read`], to be changed.
    pub fn edit<T: StateData>(&mut self) -> Option<&mut T> {
        self.0.iter_mut().find_map(|kept| (&mut **kept as &mut dyn Any).downcast_mut())
    }

    /// Keeps the value in place of an older one.
    pub fn write<T: StateData>(&mut self, value: T) {
        match self.edit() {
            Some(kept) => *kept = value,
            None => self.0.push(Box::new(value)),
        }
    }
}

impl std::fmt::Debug for CycleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CycleState({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Mine(u8);
    #[derive(Debug, PartialEq)]
    struct Theirs(u8);

    impl StateData for Mine {}
    impl StateData for Theirs {}

    #[test]
    fn each_plugin_finds_its_own() {
        let mut states = CycleState::default();
        states.write(Mine(1));
        assert_eq!(states.read::<Theirs>(), None);
        states.write(Theirs(2));
        states.write(Mine(3));
        states.edit::<Theirs>().unwrap().0 += 2;
        assert_eq!((states.read(), states.read()), (Some(&Mine(3)), Some(&Theirs(4))));
        assert_eq!(states.0.len(), 2);
    }
}
