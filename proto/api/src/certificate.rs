//! A certificate and its key, as they cross from who issues to who shows them.

/// A certificate with those between it and its CA, and the private key, all PEM. Go: `tls.X509KeyPair`.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pub chain_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    /// Keys are not logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}
