//! Checks names by the API server's rules (k8s.io/apimachinery `pkg/util/validation`).

/// Maximum length of a label in a DNS name (RFC 1123).
pub const MAX_LABEL: usize = 63;
/// Maximum length of a DNS name (RFC 1123).
const MAX_SUBDOMAIN: usize = 253;

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// `IsDNS1123Label`: names of namespaces and Services, host names.
///
/// # Errors
/// The rule that the text breaks.
pub fn dns_label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "give up to {MAX_LABEL} lower-case letters, digits and hyphens, with a letter or digit \
             at both ends"
        ))
    }
}

/// `IsDNS1123Subdomain`: names of most objects. A label in it may be longer than DNS permits.
fn is_subdomain(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(label)
}

/// Does the same as [`is_subdomain`].
///
/// # Errors
/// The rule that the text breaks.
pub fn dns_subdomain(text: &str) -> Result<String, String> {
    if is_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "the API server refuses this name: give up to {MAX_SUBDOMAIN} lower-case letters, \
             digits, hyphens and dots, with a letter or digit at both ends of each part"
        ))
    }
}

/// Checks the part of a label's key after the slash, or a label's value.
fn is_label_name(text: &str) -> bool {
    let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(inner)
        && end(text.bytes().next())
        && end(text.bytes().last())
}

/// `IsQualifiedName`: keys of labels, and those of annotations in lower case.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_name(name),
        None => is_label_name(text),
    }
}

/// `IsValidLabelValue`
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

/// Message about the rule for keys of labels and annotations.
pub const KEY_RULE: &str = "is not a key that the API server accepts: give [domain/]name, where \
                            the name has up to 63 letters, digits, hyphens, underscores and dots, \
                            with a letter or digit at both ends";
/// Message about the rule for values of labels.
pub const VALUE_RULE: &str = "the API server refuses this label value: give up to 63 letters, \
                              digits, hyphens, underscores and dots, with a letter or digit at \
                              both ends";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_an_api_server_takes() {
        let long = |n| "a".repeat(n);
        for (name, label, subdomain) in [
            ("vm-1", true, true),
            ("1", true, true),
            ("a.b", false, true),
            ("a..b", false, false),
            (".a", false, false),
            ("Web", false, false),
            ("web_1", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a.-b", false, false),
            ("", false, false),
            (&long(63), true, true),
            (&long(64), false, true),
            (&long(253), false, true),
            (&long(254), false, false),
        ] {
            assert_eq!(dns_label(name).is_ok(), label, "{name}");
            assert_eq!(dns_subdomain(name).is_ok(), subdomain, "{name}");
        }
        for (key, takes) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("App_1.x", true),
            ("a/b/c", false),
            ("/a", false),
            ("a/", false),
            ("-a", false),
            ("UPPER.io/name", false),
            (&long(64), false),
        ] {
            assert_eq!(is_label_key(key), takes, "{key}");
        }
        for (value, takes) in [
            ("", true),
            ("v1.2_x", true),
            ("a b", false),
            ("x-", false),
            (&long(64), false),
        ] {
            assert_eq!(is_label_value(value), takes, "{value}");
        }
    }
}
