//! A directory -> certificates and keys: read, checked against each other, written whole, all or none, and only where nothing stands.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::certificate::Identity;
use rcgen::{KeyPair, PublicKeyData};
use store::files::{self, Dir};

use super::{
    Error,
    issue::{Seen, look},
};

/// The directory the files stand in.
#[derive(Clone, Debug)]
pub struct Files(Arc<dyn files::Files>);

/// Files to be written, by name.
pub type Fresh = Vec<(String, String)>;

impl Files {
    /// Makes the directory where it is missing, for its owner alone, and ends what an interrupted run began.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let files = Dir::open(dir).map_err(|e| Error::io(dir, e))?;
        Self::open_in(Arc::new(files))
    }

    /// For looking only, as things stand.
    pub fn read_only(dir: &Path) -> Self {
        Self(Arc::new(Dir::read_only(dir)))
    }

    pub(super) fn open_in(files: Arc<dyn files::Files>) -> Result<Self, Error> {
        files::settle(&*files).map_err(|e| Error::io(&files.path(""), e))?;
        Ok(Self(files))
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path(file)
    }

    pub fn damaged(&self, file: &str, why: impl ToString) -> Error {
        Error::Damaged { path: self.path(file), why: why.to_string() }
    }

    /// `None` where the file does not exist.
    pub fn read(&self, file: &str) -> Result<Option<String>, Error> {
        match files::read_settled(&*self.0, file) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| self.damaged(file, "it is not PEM text")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&self.path(file), error)),
        }
    }

    /// `<name>.crt` and `<name>.key`, of one key. A key alone counts as nothing: whoever made it was interrupted before it was used.
    pub fn pair(&self, name: &str) -> Result<Option<(Identity, Seen)>, Error> {
        let (cert_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        let (certificate, key) = match (self.read(&cert_file)?, self.read(&key_file)?) {
            (None, _) => return Ok(None),
            (Some(_), None) => return Err(self.damaged(&key_file, format!("it is missing, though {cert_file} is there"))),
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let seen = look(&certificate).map_err(|why| self.damaged(&cert_file, why))?;
        let parsed = KeyPair::from_pem(&key).map_err(|why| self.damaged(&key_file, why))?;
        if parsed.der_bytes() != seen.public_key {
            return Err(self.damaged(&key_file, format!("it is not the key of {cert_file}")));
        }
        Ok(Some((Identity { chain_pem: certificate, key_pem: key }, seen)))
    }

    /// All of them or, whenever this is interrupted, none.
    pub fn write(&self, fresh: &Fresh) -> Result<(), Error> {
        files::replace_all(&*self.0, fresh).map_err(|e| Error::io(&self.path(""), e))
    }
}

/// Adds both files of a pair.
pub fn add_pair(fresh: &mut Fresh, name: &str, pair: &Identity) {
    fresh.push((format!("{name}.key"), pair.key_pem.clone()));
    fresh.push((format!("{name}.crt"), pair.chain_pem.clone()));
}
