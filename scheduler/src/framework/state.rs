//! What plugins keep about one pod from one extension point to the next. Source: kube-scheduler `framework/cycle_state.go`.

use std::any::Any;

/// A plugin's own type; it is what the value is found by, so that nobody else can take it for theirs.
pub trait PluginState: Any + Send + Sync {}

/// One value of each type. Few: looking one up is a walk over as many as there are plugins that had something to keep.
#[derive(Default)]
pub struct CycleState(Vec<Box<dyn PluginState>>);

impl CycleState {
    /// What the plugin kept; `None` if it had nothing to keep.
    pub fn read<T: PluginState>(&self) -> Option<&T> {
        self.0.iter().find_map(|kept| (&**kept as &dyn Any).downcast_ref())
    }

    /// Keeps the value in place of an older one.
    pub fn write<T: PluginState>(&mut self, value: T) {
        match self.0.iter_mut().find_map(|kept| (&mut **kept as &mut dyn Any).downcast_mut()) {
            Some(kept) => *kept = value,
            None => self.0.push(Box::new(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Mine(u8);
    #[derive(Debug, PartialEq)]
    struct Theirs(u8);

    impl PluginState for Mine {}
    impl PluginState for Theirs {}

    #[test]
    fn each_plugin_finds_its_own() {
        let mut state = CycleState::default();
        state.write(Mine(1));
        assert_eq!(state.read::<Theirs>(), None);
        state.write(Theirs(2));
        state.write(Mine(3));
        assert_eq!((state.read(), state.read()), (Some(&Mine(3)), Some(&Theirs(2))));
        assert_eq!(state.0.len(), 2);
    }
}
