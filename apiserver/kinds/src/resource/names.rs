//! Names of pools, drivers, devices and attributes -> what is wrong with them.

use api::field_errors::FieldErrors;

use crate::common::{Path, name_rules, well_formed};
pub use crate::csinode::driver_name;

/// `DeviceMaxDomainLength + 1 + DeviceMaxIDLength`
pub const QUALIFIED_BYTES: usize = 63 + 1 + IDENTIFIER_BYTES;
const IDENTIFIER_BYTES: usize = 32;
const POOL_BYTES: usize = 253;
const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

/// `validateDeviceName`, `validateRequestName`, `validateCounterName`
pub fn label(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    well_formed(name, name_rules::dns_label(name), path, causes);
}

/// The same, where nothing is an error of its own.
pub fn required_label(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() { causes.required(path, "") } else { label(name, path, causes) }
}

/// `validateDeviceClass`
pub fn class(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() { causes.required(path, "") } else { well_formed(name, name_rules::dns_subdomain(name), path, causes) }
}

/// `validateNodeName`
pub fn node(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    well_formed(name, name_rules::dns_subdomain(name), path, causes);
}

/// `validatePoolName`
pub fn pool(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        return causes.required(path, "");
    }
    if name.len() > POOL_BYTES {
        causes.too_long(path, POOL_BYTES);
    }
    for part in name.split('/') {
        well_formed(part, name_rules::dns_subdomain(part), path, causes);
    }
}

/// `validateUID`: the four forms that Go's parser knows, and of these one.
pub fn uid(text: &str, path: Path<'_>, causes: &mut FieldErrors) {
    const NORMAL: &str =
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    let (known, bare) = match text.len() {
        36 => (true, text),
        45 => (text.get(..9).is_some_and(|prefix| prefix.eq_ignore_ascii_case("urn:uuid:")), text.get(9..).unwrap_or_default()),
        38 => (text.starts_with('{') && text.ends_with('}'), text.get(1..37).unwrap_or_default()),
        32 => (true, text),
        length => return causes.invalid(path, text, &format!("error validating uid: invalid UUID length: {length}")),
    };
    if !known && text.len() == 45 {
        let prefix = text.get(..9).unwrap_or_default();
        return causes.invalid(path, text, &format!("error validating uid: invalid urn prefix: {prefix:?}"));
    }
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23) && bare.len() == 36;
    let fits = bare.bytes().enumerate().all(|(at, byte)| if dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    if !known || !fits {
        causes.invalid(path, text, "error validating uid: invalid UUID format");
    } else if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        causes.invalid(path, text, NORMAL);
    }
}

/// `validateQualifiedName`. More slashes than one are let through, as upstream does.
pub fn qualified(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id, path, causes),
        [domain, id] => {
            match *domain {
                "" => causes.invalid(path, "", "the domain must not be empty"),
                domain => driver_name(domain, path, causes),
            }
            match *id {
                "" => causes.invalid(path, "", "the name must not be empty"),
                id => identifier(id, path, causes),
            }
        }
        _ => {}
    }
}

/// `validateFullyQualifiedName`
pub fn fully_qualified(name: &str, path: Path<'_>, causes: &mut FieldErrors) {
    qualified(name, path, causes);
    if !name.contains('/') {
        causes.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// `validateCIdentifier`
fn identifier(id: &str, path: Path<'_>, causes: &mut FieldErrors) {
    if id.len() > IDENTIFIER_BYTES {
        causes.too_long(path, IDENTIFIER_BYTES);
    }
    let starts = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        causes.invalid(path, id, IDENTIFIER);
    }
}

/// `truncateIfTooLong`: a key as a path shows it.
pub fn shortened(key: &str, most: usize) -> String {
    let most = most.max(16);
    if key.len() <= most {
        return key.to_owned();
    }
    let kept = most - "...".len();
    let (head, tail) = (kept.div_ceil(2), key.len() - kept / 2);
    format!("{}...{}", &key[..key.floor_char_boundary(head)], &key[key.ceil_char_boundary(tail)..])
}
