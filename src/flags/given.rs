//! A token on the command line -> a bootstrap token, and never a word of it in a message.

use std::{convert::Infallible, fmt, str::FromStr};

use api::bootstrap::Token;

/// Whatever was given: clap repeats what it refuses, and what is nearly a token is nearly a secret.
#[derive(Clone)]
pub struct Given(String);

impl Given {
    /// # Errors
    /// It has not the form of one; the text names `flag` and repeats nothing.
    pub fn token(&self, flag: &str) -> anyhow::Result<Token> {
        let why = || anyhow::anyhow!("{flag}: it must be <id>.<secret>, of six and sixteen of a-z and 0-9");
        Token::parse(&self.0).ok_or_else(why)
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&Token> for Given {
    fn from(token: &Token) -> Self {
        Self(token.text())
    }
}

impl FromStr for Given {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(..)")
    }
}
