//! A bootstrap token <-> its Secret.

use api::{
    bootstrap::{self, Data, Life, Token},
    human,
    k8s::api::core::v1::Secret,
    time::{Timestamp, rfc3339},
};
use serde_json::{Value, json};

/// A token as somebody asked for it.
pub struct Made<'a> {
    pub token: &'a Token,
    /// Never, if none.
    pub expires: Option<Timestamp>,
    pub one_time: bool,
    pub description: &'a str,
    /// `signing`, `authentication`.
    pub usages: &'a [String],
    pub groups: &'a [String],
}

/// The Secret to be made.
pub fn object(made: &Made<'_>) -> Value {
    let mut data = json!({bootstrap::ID: made.token.id, bootstrap::SECRET: made.token.secret});
    for usage in made.usages {
        data[format!("{}{usage}", bootstrap::USAGE_PREFIX)] = "true".into();
    }
    if made.one_time {
        data[bootstrap::USAGE_ONE_TIME] = "true".into();
    }
    let expires = made.expires.map(rfc3339).unwrap_or_default();
    let more = [
        (bootstrap::EXPIRATION, expires),
        (bootstrap::DESCRIPTION, made.description.to_owned()),
        (bootstrap::EXTRA_GROUPS, made.groups.join(",")),
    ];
    for (key, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        data[key] = value.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": bootstrap::SECRET_TYPE,
        "metadata": {"name": made.token.secret_name(), "namespace": bootstrap::NAMESPACE}, "stringData": data,
    })
}

/// As `kubeadm token list` shows it, and who has used it; none for what is no token.
pub fn row(secret: &Secret, now: Timestamp) -> Option<[String; 7]> {
    let data: Data =
        secret.data.iter().flatten().filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect();
    let kept = |key: &str| data.get(key).cloned().unwrap_or_default();
    let token = Token::parse(&format!("{}.{}", kept(bootstrap::ID), kept(bootstrap::SECRET)))?;
    let (ttl, expires) = match bootstrap::life(&data, now) {
        Life::Lasting => ("<forever>".to_owned(), "<never>".to_owned()),
        Life::Over => ("<invalid>".to_owned(), kept(bootstrap::EXPIRATION)),
        Life::Until(end) => (human::duration(end.as_second() - now.as_second()), rfc3339(end)),
    };
    let usages: Vec<&str> =
        data.iter().filter(|(_, value)| *value == "true").filter_map(|(key, _)| key.strip_prefix(bootstrap::USAGE_PREFIX)).collect();
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let used = secret.metadata.annotations.as_ref().and_then(|notes| notes.get(controllers::TOKEN_USED_BY).cloned()).unwrap_or_default();
    let (description, groups) = (or_none(kept(bootstrap::DESCRIPTION)), or_none(kept(bootstrap::EXTRA_GROUPS)));
    Some([token.text(), ttl, expires, or_none(usages.join(",")), description, groups, or_none(used)])
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;

    #[test]
    fn what_is_made_is_what_is_listed() {
        let token = Token::parse("abcdef.0123456789abcdef").unwrap();
        let now = api::time::parse("2026-01-01T00:00:00Z").unwrap();
        let (usages, groups) = (["signing", "authentication"].map(str::to_owned), [bootstrap::NODE_GROUP.to_owned()]);
        let made = Made {
            token: &token,
            expires: api::time::parse("2026-01-02T00:00:00Z"),
            one_time: true,
            description: "mine",
            usages: &usages,
            groups: &groups,
        };
        let mut object = object(&made);
        assert_eq!(
            (object["metadata"]["name"].as_str(), object["type"].as_str()),
            (Some("bootstrap-token-abcdef"), Some(bootstrap::SECRET_TYPE))
        );
        for (key, value) in object["stringData"].take().as_object().unwrap() {
            object["data"][key] = BASE64_STANDARD.encode(value.as_str().unwrap()).into();
        }
        object.as_object_mut().unwrap().shift_remove("stringData");
        let mut secret: Secret = serde_json::from_value(object).unwrap();
        let wanted = [
            "abcdef.0123456789abcdef",
            "24h",
            "2026-01-02T00:00:00Z",
            "authentication,one-time,signing",
            "mine",
            bootstrap::NODE_GROUP,
            "<none>",
        ];
        assert_eq!(row(&secret, now).unwrap(), wanted);
        secret.metadata.annotations = Some([(controllers::TOKEN_USED_BY.to_owned(), "n1".to_owned())].into());
        assert_eq!(row(&secret, now).unwrap()[6], "n1");
        assert_eq!(row(&Secret::default(), now), None);
    }

    #[test]
    fn a_lasting_token_has_no_end() {
        let token = Token::parse("abcdef.0123456789abcdef").unwrap();
        let made = Made { token: &token, expires: None, one_time: false, description: "", usages: &[], groups: &[] };
        let data = object(&made)["stringData"].clone();
        assert_eq!(data, json!({"token-id": "abcdef", "token-secret": "0123456789abcdef"}));
    }
}
