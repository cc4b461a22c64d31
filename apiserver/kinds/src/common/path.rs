//! Steps through an object -> `spec.containers[0].env[1].name`: a field path that costs nothing until it is written out.

use std::fmt;

/// A path as a chain of stack frames; `Path::ROOT` is the object itself.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A path that begins with `name`, which may hold dots: `spec.template.spec`.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Field(name) }
    }

    pub const fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// A key of a map: `limits[cpu]`.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            first = parent.parent.is_none() && matches!(parent.step, Step::Root);
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if first => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> String {
        path.to_string()
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> String {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn paths_read_as_upstream_writes_them() {
        let (root, spec) = (Path::ROOT, Path::new("spec"));
        assert_eq!(root.field("metadata").to_string(), "metadata");
        let limits = spec.field("containers");
        let limits = limits.index(2);
        assert_eq!(limits.field("limits").key("cpu").to_string(), "spec.containers[2].limits[cpu]");
    }
}
