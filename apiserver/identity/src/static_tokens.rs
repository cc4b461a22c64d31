//! A file of tokens -> who bears them. Source: apiserver `pkg/authentication/token/tokenfile/tokenfile.go`.

use std::{collections::HashMap, path::Path, sync::Arc};

use api::Status;
use apiserver::{
    engine::Engine,
    identity::{Authenticator, Known, User},
};
use async_trait::async_trait;
use csv::ReaderBuilder;
use sha2::{Digest, Sha256};

/// Tokens that hold for as long as the server runs.
pub struct StaticTokens {
    /// By digest: neither is a token kept, nor does the time of a look-up tell of one.
    users: HashMap<[u8; 32], User>,
    /// The API server's own.
    audiences: Vec<String>,
}

impl StaticTokens {
    /// Reads lines of `token,user name,user uid,"group1,group2"`; the groups may be left out.
    ///
    /// # Errors
    /// The file cannot be read, or a line has not three columns.
    pub fn open(file: &Path, audiences: &[String]) -> Result<Self, String> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::read(&text, audiences, &file.display().to_string())
    }

    fn read(text: &[u8], audiences: &[String], file: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        for (at, record) in reader.records().enumerate() {
            let record = record.map_err(|error| format!("{file}: {error}"))?;
            let (Some(token), Some(name), Some(uid)) = (record.get(0), record.get(1), record.get(2)) else {
                return Err(format!(
                    "token file '{file}' must have at least 3 columns (token, user name, user uid), found {}",
                    record.len()
                ));
            };
            let record_number = at + 1;
            if token.is_empty() {
                tracing::warn!(file, record_number, "empty token has been found in token file");
                continue;
            }
            let groups = record.get(3).map(|groups| groups.split(',').map(str::to_owned).collect()).unwrap_or_default();
            let user = User { name: name.to_owned(), uid: uid.to_owned(), groups, ..User::default() };
            if users.insert(Sha256::digest(token).into(), user).is_some() {
                tracing::warn!(file, record_number, "duplicate token has been found in token file");
            }
        }
        Ok(Self { users, audiences: audiences.to_vec() })
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn token(&self, _: &Arc<Engine>, token: &str, audiences: &[String]) -> Result<Option<Known>, Status> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let Some(user) = self.users.get(&digest) else { return Ok(None) };
        Ok(Known::of_the_server(user.clone(), &self.audiences, audiences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user<'a>(tokens: &'a StaticTokens, token: &str) -> Option<&'a User> {
        tokens.users.get(&<[u8; 32]>::from(Sha256::digest(token)))
    }

    #[test]
    fn lines_are_upstreams() {
        let text = "t1,jane,u1,\"dev,ops\"\n,nobody,u\nt2,joe,u2\nt3,\"with,comma\",u3,one\nt1,again,u4\n";
        let tokens = StaticTokens::read(text.as_bytes(), &[], "f").unwrap();
        assert_eq!(user(&tokens, "t1").unwrap().name, "again", "the last counts");
        assert_eq!(user(&tokens, "t2").unwrap(), &User { name: "joe".into(), uid: "u2".into(), ..User::default() });
        assert_eq!(user(&tokens, "t3").unwrap().groups, ["one"]);
        assert_eq!(user(&tokens, "t3").unwrap().name, "with,comma");
        assert_eq!(user(&tokens, ""), None);
        let groups = StaticTokens::read(b"t,jane,u,\"dev,ops\"", &[], "f").unwrap();
        assert_eq!(user(&groups, "t").unwrap().groups, ["dev", "ops"]);
        let why = StaticTokens::read(b"t,jane", &[], "f").err().unwrap();
        assert_eq!(why, "token file 'f' must have at least 3 columns (token, user name, user uid), found 2");
    }
}
