//! Tests of the envelope. The values of each kind are tested beside their flows.

use super::*;

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    number: u8,
    /// New in version 2.
    #[serde(default = "usual")]
    added: u8,
}

const fn usual() -> u8 {
    7
}

impl Payload for Sample {
    const KIND: &'static str = "sample";
    const VERSION: u32 = 2;
}

#[test]
fn what_is_written_is_read() {
    let values = [Sample { number: 1, added: 2 }, Sample { number: 3, added: 4 }];
    assert_eq!(from_bytes::<Sample>(&to_bytes(&values)).unwrap(), values);
    assert_eq!(from_bytes::<Sample>(&to_bytes::<Sample>(&[])).unwrap(), []);
}

#[test]
fn an_older_version_gets_the_default_of_a_field_it_lacks() {
    let old = br#"{"kind":"sample","version":1,"values":[{"number":5}]}"#;
    assert_eq!(from_bytes::<Sample>(old).unwrap(), [Sample { number: 5, added: 7 }]);
}

#[test]
fn a_newer_version_is_refused_with_the_way_out_whatever_it_contains() {
    let newer = br#"{"kind":"sample","version":3,"values":[{"figure":"five"}],"more":{}}"#;
    let error = from_bytes::<Sample>(newer).unwrap_err();
    assert!(
        matches!(error, LoadError::Newer { found: 3, known: 2, .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("version 3") && text.contains("up to 2"), "{text}");
    assert!(text.contains("install the hawser that saved the state"), "{text}");
}

#[test]
fn anything_else_is_refused_by_name() {
    type Is = fn(&LoadError) -> bool;
    let cases: [(&str, Is); 6] = [
        ("", |e| matches!(e, LoadError::Malformed(_))),
        (r#"{"kind":"sample","version":2}"#, |e| {
            matches!(e, LoadError::Malformed(_))
        }),
        (r#"{"kind":"sample","version":-1,"values":[]}"#, |e| {
            matches!(e, LoadError::Malformed(_))
        }),
        (r#"{"kind":"sample","version":0,"values":[]}"#, |e| {
            matches!(e, LoadError::OutOfRange { field: "version", .. })
        }),
        (r#"{"kind":"other","version":9,"values":[]}"#, |e| {
            matches!(e, LoadError::Kind { .. })
        }),
        (
            r#"{"kind":"sample","version":2,"values":[{"number":1,"more":2}]}"#,
            |e| matches!(e, LoadError::Malformed(_)),
        ),
    ];
    for (text, is_expected) in cases {
        let error = from_bytes::<Sample>(text.as_bytes()).unwrap_err();
        assert!(is_expected(&error), "{text}: {error:?}");
    }
}
