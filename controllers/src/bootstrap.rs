//! Bootstrap tokens -> `cluster-info` signed with each, and those whose time is over deleted. Source: `pkg/controller/bootstrap`.

mod cleaner;
mod signer;

use api::{
    bootstrap::{Data, NAMESPACE, SECRET_TYPE},
    k8s::api::core::v1::Secret,
};
use client::{Cache, Caches};

pub use cleaner::TokenCleaner;
pub use signer::BootstrapSigner;

/// Of a token of one use, as annotations of its Secret: the digest of the key of the machine that has it, its node's name, and since when.
pub const USED_BY_KEY: &str = "skiff.local/used-by-key";
pub const USED_BY_NODE: &str = "skiff.local/used-by-node";
pub const USED_AT: &str = "skiff.local/used-at";

/// The Secrets of all tokens.
pub fn tokens(caches: &Caches) -> Cache<Secret> {
    caches.filtered(&format!("metadata.namespace={NAMESPACE},type={SECRET_TYPE}"))
}

/// A Secret's data, as far as it is text.
pub fn data(secret: &Secret) -> Data {
    let texts = secret.data.iter().flatten().filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)));
    texts.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use serde_json::json;

    use super::*;

    pub fn token(id: &str, entries: &[(&str, &str)]) -> Arc<Secret> {
        let mut data = json!({});
        for (key, value) in
            [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")].iter().chain(entries)
        {
            data[*key] = BASE64_STANDARD.encode(value).into();
        }
        let metadata = json!({"name": format!("bootstrap-token-{id}"), "namespace": NAMESPACE, "uid": "u"});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "type": SECRET_TYPE, "data": data})).unwrap())
    }

    #[test]
    fn what_is_no_text_is_left_out() {
        let token = token("abcdef", &[]);
        let mut odd = (*token).clone();
        odd.data.get_or_insert_default().insert("bytes".into(), api::k8s::ByteString(vec![0xff]));
        assert_eq!(data(&odd), data(&token));
        assert_eq!(data(&token)["token-id"], "abcdef");
    }
}
