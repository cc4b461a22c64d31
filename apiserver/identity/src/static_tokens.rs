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
    users: HashMap<[u8; 32], Arc<User>>,
    /// The API server's own.
    audiences: Vec<String>,
}

impl StaticTokens {
    /// Reads lines of `token,user name,user uid,"group1,group2"`; the groups may be left out.
    ///
    /// # Errors
    /// The file cannot be read, a line has not three columns, or a quote stands where none may be.
    pub fn open(file: &Path, audiences: &[String]) -> Result<Self, String> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::read(&text, audiences, &file.display().to_string())
    }

    fn read(text: &[u8], audiences: &[String], file: &str) -> Result<Self, String> {
        quotes(text).map_err(|error| format!("{file}: {error}"))?;
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
            if users.insert(Sha256::digest(token).into(), User::authenticated(Arc::new(user))).is_some() {
                tracing::warn!(file, record_number, "duplicate token has been found in token file");
            }
        }
        Ok(Self { users, audiences: audiences.to_vec() })
    }
}

/// Quotes as Go's `encoding/csv` has them (`Reader.readRecord` without `LazyQuotes`): whole fields are quoted, and quotes within them doubled. The crate
/// takes any, and would swallow lines after one that is not closed.
fn quotes(text: &[u8]) -> Result<(), String> {
    const BARE: &str = "bare \" in non-quoted field";
    const LOOSE: &str = "extraneous or missing \" in quoted-field";
    let (mut is_quoted, mut began, mut end) = (false, 1, (1, 1));
    let why = |began: usize, line: usize, column: usize, why: &str| {
        let of = if began == line { String::new() } else { format!("record on line {began}; ") };
        Err(format!("{of}parse error on line {line}, column {column}: {why}"))
    };
    for (at, whole) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let (number, line) = (at + 1, whole.strip_suffix(b"\n").unwrap_or(whole));
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !is_quoted {
            began = number;
        }
        let mut pos = 0;
        loop {
            let rest = &line[pos..];
            if is_quoted {
                let Some(quote) = memchr::memchr(b'"', rest) else { break };
                match rest.get(quote + 1) {
                    Some(b'"') => pos += quote + 2,
                    Some(b',') => (is_quoted, pos) = (false, pos + quote + 2),
                    Some(_) => return why(began, number, pos + quote + 1, LOOSE),
                    None => {
                        is_quoted = false;
                        break;
                    }
                }
            } else if rest.first() == Some(&b'"') {
                (is_quoted, pos) = (true, pos + 1);
            } else {
                let comma = memchr::memchr(b',', rest);
                if let Some(quote) = memchr::memchr(b'"', &rest[..comma.unwrap_or(rest.len())]) {
                    return why(began, number, pos + quote + 1, BARE);
                }
                let Some(comma) = comma else { break };
                pos += comma + 1;
            }
        }
        end = (number, whole.len() + 1);
    }
    if is_quoted { why(began, end.0, end.1, LOOSE) } else { Ok(()) }
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
        tokens.users.get(&<[u8; 32]>::from(Sha256::digest(token))).map(|user| &**user)
    }

    #[test]
    fn lines_are_upstreams() {
        let text = "t1,jane,u1,\"dev,ops\"\n,nobody,u\nt2,joe,u2\nt3,\"with,comma\",u3,one\nt1,again,u4\n";
        let tokens = StaticTokens::read(text.as_bytes(), &[], "f").unwrap();
        assert_eq!(user(&tokens, "t1").unwrap().name, "again", "the last counts");
        let (uid, groups) = ("u2".into(), vec!["system:authenticated".into()]);
        assert_eq!(user(&tokens, "t2").unwrap(), &User { name: "joe".into(), uid, groups, ..User::default() });
        assert_eq!(user(&tokens, "t3").unwrap().groups, ["one", "system:authenticated"]);
        assert_eq!(user(&tokens, "t3").unwrap().name, "with,comma");
        assert_eq!(user(&tokens, ""), None);
        let groups = StaticTokens::read(b"t,jane,u,\"dev,ops\"", &[], "f").unwrap();
        assert_eq!(user(&groups, "t").unwrap().groups, ["dev", "ops", "system:authenticated"]);
        let whole = b"t,\"a \"\"b\"\", c\",u,\"\"\r\n\r\nt2,\"two\nlines\",u\n";
        let whole = StaticTokens::read(whole, &[], "f").unwrap();
        assert_eq!([user(&whole, "t"), user(&whole, "t2")].map(|user| user.unwrap().name.as_str()), ["a \"b\", c", "two\nlines"]);
        for (text, why) in [
            ("t,ja\"ne,u", "f: parse error on line 1, column 5: bare \" in non-quoted field"),
            ("t,jane,u\nt, \"x\",u", "f: parse error on line 2, column 4: bare \" in non-quoted field"),
            ("t,\"ja\"ne,u", "f: parse error on line 1, column 6: extraneous or missing \" in quoted-field"),
            (
                "t,jane,u,\"dev\nt2,joe,u2\n",
                "f: record on line 1; parse error on line 2, column 11: extraneous or missing \" in quoted-field",
            ),
        ] {
            assert_eq!(StaticTokens::read(text.as_bytes(), &[], "f").err().unwrap(), why, "{text}");
        }
        let why = StaticTokens::read(b"t,jane", &[], "f").err().unwrap();
        assert_eq!(why, "token file 'f' must have at least 3 columns (token, user name, user uid), found 2");
    }
}
