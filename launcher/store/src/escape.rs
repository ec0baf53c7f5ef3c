//! Names as parts of keys.

use std::fmt::Write as _;

/// Converts a name to one part of a key. Characters other than letters, digits and `-_.:` are escaped as in URLs.
pub(crate) fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

/// Restores the name that [`escaped`] has converted.
pub(crate) fn plain(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(part.len()), part.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_key_is_the_name_again() {
        for name in ["a", "", "a/b%2f", "größe 1", "../x"] {
            assert_eq!(plain(&escaped(name)).as_deref(), Some(name));
            assert!(!escaped(name).contains('/'));
        }
        for damaged in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(plain(damaged), None, "{damaged}");
        }
    }
}
