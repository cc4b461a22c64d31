//! Names of CustomResourceDefinitions -> what is wrong with them. Source: apimachinery `pkg/util/validation` (`IsDNS1035Label`).

const LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_LENGTH_MAX: usize = 63;

pub fn label_1035(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_LENGTH_MAX {
        out.push(format!("must be no more than {LABEL_LENGTH_MAX} bytes"));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(inner) && !text.ends_with('-')) {
        out.push(LABEL.to_owned());
    }
    out
}
