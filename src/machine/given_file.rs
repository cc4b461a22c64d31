//! A file that a flag names -> what is in it. Whatever is wrong with it is told with the flag and the file.

use std::{fmt, fs, path::Path};

use anyhow::Context;

/// One flag (`--token-auth-file`) and its file.
#[derive(Clone, Copy, Debug)]
pub struct GivenFile<'a> {
    pub flag: &'static str,
    pub file: &'a Path,
}

impl<'a> GivenFile<'a> {
    pub fn new(flag: &'static str, file: &'a Path) -> Self {
        Self { flag, file }
    }

    /// # Errors
    /// It cannot be read.
    pub fn bytes(self) -> anyhow::Result<Vec<u8>> {
        fs::read(self.file).with_context(|| self.to_string())
    }

    /// # Errors
    /// It cannot be read, or is no text.
    pub fn text(self) -> anyhow::Result<String> {
        fs::read_to_string(self.file).with_context(|| self.to_string())
    }
}

impl fmt::Display for GivenFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_flag_and_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none");
        let why = GivenFile::new("--oidc-ca-file", &none).text().unwrap_err();
        assert_eq!(why.to_string(), format!("--oidc-ca-file {}", none.display()));
        assert!(format!("{why:#}").contains("No such file"));
        let odd = dir.path().join("odd");
        fs::write(&odd, [0xff]).unwrap();
        let odd = GivenFile::new("--x", &odd);
        assert!(odd.text().unwrap_err().to_string().starts_with("--x ") && odd.bytes().unwrap() == [0xff]);
    }
}
