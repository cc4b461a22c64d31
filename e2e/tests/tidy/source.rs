//! The tree -> its Rust sources, with their tests and comments told apart from the rest.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use regex::Regex;

pub struct Source {
    /// From the root of the checkout.
    pub path: String,
    pub text: String,
    /// The whole file is a test: under `tests/`, or a module behind `#[cfg(test)]`.
    pub is_test: bool,
}

impl Source {
    /// How many lines count: without the tests.
    pub fn lines(&self) -> usize {
        self.product().count()
    }

    /// Line numbers and lines, without tests and comments.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.product().filter(|(_, l)| !l.trim_start().starts_with("//"));
        code.map(|(n, l)| (n, l.find(" // ").map_or(l, |at| &l[..at])))
    }

    /// Without the items behind `#[cfg(test)]`; rustfmt has laid the text out, so an item ends where its indentation comes back.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        // The indentation of the item that is skipped, and whether its first line is still to come.
        let mut behind: Option<(&str, bool)> = None;
        self.text.lines().enumerate().filter_map(move |(n, line)| {
            if let Some((indent, first)) = behind {
                let item = line.strip_prefix(indent).filter(|rest| !rest.starts_with([' ', '#']));
                let last = item.is_some_and(|rest| rest == "}" || (first && rest.ends_with(';')));
                behind = if last { None } else { Some((indent, first && item.is_none())) };
                return None;
            }
            if line.trim_start() == "#[cfg(test)]" {
                behind = Some((&line[..line.len() - line.trim_start().len()], true));
                return None;
            }
            Some((n + 1, line))
        })
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// What git keeps, or would keep with the next `git add`.
pub fn tracked() -> Vec<String> {
    let out = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output().unwrap();
    let listed = String::from_utf8(out.stdout).unwrap();
    let files: Vec<String> = listed.lines().filter(|p| root().join(p).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 100, "git ls-files lists {} files: {}", files.len(), String::from_utf8_lossy(&out.stderr));
    files
}

pub fn sources() -> Vec<Source> {
    let files: Vec<String> = tracked().into_iter().filter(|p| p.ends_with(".rs")).collect();
    let read = |path: String| Source { text: fs::read_to_string(root().join(&path)).unwrap(), is_test: false, path };
    let mut sources: Vec<Source> = files.into_iter().map(read).collect();
    let behind: HashSet<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let inside = behind.iter().any(|module| source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/")));
        source.is_test = inside || source.path.split('/').any(|part| part == "tests");
    }
    sources
}

/// The words of a line, as identifiers are written.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

/// `#[cfg(test)] mod x;` in a file -> the path of `x`, without `.rs`.
fn test_modules(of: &Source) -> Vec<String> {
    static MODULE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"#\[cfg\(test\)\]\s+(?:pub(?:\(\w+\))? )?mod (\w+);").unwrap());
    let (dir, file) = of.path.rsplit_once('/').unwrap_or(("", &of.path));
    let dir = match file {
        "lib.rs" | "main.rs" | "mod.rs" => dir.to_owned(),
        _ => format!("{dir}/{}", file.trim_end_matches(".rs")),
    };
    MODULE.captures_iter(&of.text).map(|c| format!("{dir}/{}", &c[1])).collect()
}
