//! A line of a watch -> which object it is about, and what it says of it.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

/// What an event says, as far as it concerns us.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Put {
        key: String,
        revision: String,
    },
    Gone {
        key: String,
        revision: String,
    },
    /// All there is has been told.
    End {
        revision: String,
    },
    Reached {
        revision: String,
    },
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

/// `None` where it is no event that has a place among these.
pub fn read(line: &[u8]) -> Option<Told> {
    let Event { r#type, object: Object { metadata } } = serde_json::from_slice(line).ok()?;
    let (revision, key) = (metadata.resource_version, format!("{}/{}", metadata.namespace, metadata.name));
    match &*r#type {
        "ADDED" | "MODIFIED" => Some(Told::Put { key, revision }),
        "DELETED" => Some(Told::Gone { key, revision }),
        "BOOKMARK" if metadata.annotations.is_some_and(|notes| notes.contains_key("k8s.io/initial-events-end")) => {
            Some(Told::End { revision })
        }
        "BOOKMARK" => Some(Told::Reached { revision }),
        _ => None,
    }
}
