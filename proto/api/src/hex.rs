//! Bytes -> two digits each, as digests are written.

use std::fmt::Write;

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!((hex([0x00, 0x0f, 0xf0, 0xff]).as_str(), hex([]).as_str()), ("000ff0ff", ""));
    }
}
