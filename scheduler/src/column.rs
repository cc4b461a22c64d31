//! Slot -> value: one array per fact, so that a pass over all nodes reads only what it needs.

/// Values by small dense indices; what was never set is the default.
#[derive(Clone, Debug, Default)]
pub struct Column<T>(Vec<T>);

impl<T: Copy + Default> Column<T> {
    pub fn get(&self, at: usize) -> T {
        self.0.get(at).copied().unwrap_or_default()
    }

    pub fn slot(&mut self, at: usize) -> &mut T {
        if at >= self.0.len() {
            self.0.resize(at + 1, T::default());
        }
        self.0.get_mut(at).expect("the column was just made long enough")
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().copied()
    }
}
