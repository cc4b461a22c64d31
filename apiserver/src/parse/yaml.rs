//! YAML bytes -> a JSON value, as sigs.k8s.io/yaml reads them.

use serde::de::{Deserialize, Deserializer};
use serde_yaml::options::DuplicateKeyPolicy;

use super::{Parsed, seed};

struct Document(Parsed);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        seed::read(reader).map(Document)
    }
}

pub fn read(bytes: &[u8]) -> Result<Parsed, String> {
    let text = String::from_utf8_lossy(bytes);
    // The seed sees every key and notes those that stand twice.
    let options = serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options::<Document>(&text, options)
        .map(|document| document.0)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))
}
