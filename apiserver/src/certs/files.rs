//! A directory -> certificates and keys: read, checked against each other, written whole, all or none, and only where nothing stands.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::certificate::Identity;
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use store::files::{self, Dir};

use super::{
    Error,
    issue::{Seen, look},
};

/// The directory the files stand in. Clones take turns: one set is written at a time, and none is read while it is written.
#[derive(Clone, Debug)]
pub struct Files {
    dir: Arc<dyn files::Files>,
    turn: Arc<Mutex<()>>,
}

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
        Self::of(Arc::new(Dir::read_only(dir)))
    }

    pub(super) fn open_in(files: Arc<dyn files::Files>) -> Result<Self, Error> {
        files::settle(&*files).map_err(|e| Error::io(&files.path(""), e))?;
        Ok(Self::of(files))
    }

    fn of(dir: Arc<dyn files::Files>) -> Self {
        Self { dir, turn: Arc::default() }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path(file)
    }

    pub fn damaged(&self, file: &str, why: impl ToString) -> Error {
        Error::Damaged { path: self.path(file), why: why.to_string() }
    }

    /// `None` where the file does not exist.
    pub fn read(&self, file: &str) -> Result<Option<String>, Error> {
        let _turn = self.turn.lock();
        self.read_now(file)
    }

    fn read_now(&self, file: &str) -> Result<Option<String>, Error> {
        match files::read_settled(&*self.dir, file) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| self.damaged(file, "it is not PEM text")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&self.path(file), error)),
        }
    }

    /// `<name>.crt` and `<name>.key`, of one key. A key alone counts as nothing: whoever made it was interrupted before it was used.
    pub fn pair(&self, name: &str) -> Result<Option<(Identity, Seen)>, Error> {
        let (cert_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        let read = {
            let _turn = self.turn.lock();
            (self.read_now(&cert_file)?, self.read_now(&key_file)?)
        };
        let (certificate, key) = match read {
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
        let _turn = self.turn.lock();
        files::replace_all(&*self.dir, fresh).map_err(|e| Error::io(&self.path(""), e))
    }
}

/// Adds both files of a pair.
pub fn add_pair(fresh: &mut Fresh, name: &str, pair: &Identity) {
    fresh.push((format!("{name}.key"), pair.key_pem.clone()));
    fresh.push((format!("{name}.crt"), pair.chain_pem.clone()));
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::certs::issue::authority;

    #[test]
    fn sets_that_are_written_at_once_are_each_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let pairs = [0, 1].map(|_| authority("a", api::time::Timestamp::now()).unwrap());
        let write = &|name: &str| {
            for pair in pairs.iter().cycle().take(40) {
                let mut fresh = Fresh::new();
                add_pair(&mut fresh, name, pair);
                files.write(&fresh).unwrap();
                assert_eq!(files.pair(name).unwrap().map(|(found, _)| found).as_ref(), Some(pair));
            }
        };
        thread::scope(|scope| {
            for name in ["client", "serving", "other"] {
                scope.spawn(move || write(name));
            }
            scope.spawn(|| (0..200).for_each(|_| drop(files.pair("client").unwrap())));
        });
    }
}
