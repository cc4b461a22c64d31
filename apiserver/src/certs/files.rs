//! A directory -> certificates and keys: read, checked against each other, written whole and only where nothing stands.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rcgen::{KeyPair, PublicKeyData};

use super::{
    Error,
    issue::{Pair, Seen, look},
};

/// The directory the files stand in.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Makes the directory where it is missing, for its owner alone.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io(dir, e))?;
        Ok(Self(dir.to_owned()))
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub fn damaged(&self, file: &str, why: impl ToString) -> Error {
        Error::Damaged { path: self.path(file), why: why.to_string() }
    }

    /// `None` where the file does not exist.
    pub fn read(&self, file: &str) -> Result<Option<String>, Error> {
        let path = self.path(file);
        match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| self.damaged(file, "it is not PEM text")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, error)),
        }
    }

    /// `<name>.crt` and `<name>.key`: both or neither, and of one key.
    pub fn pair(&self, name: &str) -> Result<Option<(Pair, Seen)>, Error> {
        let (cert_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        let (certificate, key) = match (self.read(&cert_file)?, self.read(&key_file)?) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(self.damaged(&key_file, format!("it is missing, though {cert_file} is there"))),
            (None, Some(_)) => return Err(self.damaged(&cert_file, format!("it is missing, though {key_file} is there"))),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let seen = look(&certificate).map_err(|why| self.damaged(&cert_file, why))?;
        let parsed = KeyPair::from_pem(&key).map_err(|why| self.damaged(&key_file, why))?;
        if parsed.der_bytes() != seen.public_key {
            return Err(self.damaged(&key_file, format!("it is not the key of {cert_file}")));
        }
        Ok(Some((Pair { certificate, key }, seen)))
    }

    pub fn write_pair(&self, name: &str, pair: &Pair) -> Result<(), Error> {
        self.write(&format!("{name}.key"), &pair.key)?;
        self.write(&format!("{name}.crt"), &pair.certificate)
    }

    /// Written beside, synced, then moved into place: never half there.
    pub fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let (path, beside) = (self.path(file), self.path(&format!(".{file}.new")));
        self.write_beside(&beside, text).and_then(|()| fs::rename(&beside, &path)).map_err(|e| Error::io(&path, e))
    }

    fn write_beside(&self, beside: &Path, text: &str) -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}
