//! Saved state: plain values with their kind and version, for live upgrade and live migration.
//!
//! A payload is a list of three: the kind, the version and the value. [`to_bytes`] writes it in CBOR (RFC 8949), and
//! [`from_bytes`] reads it in CBOR and in JSON, which earlier versions wrote. [`Sealed`] is a payload inside another one,
//! or inside a JSON document. Rules of the format:
//!
//! - Any change raises [`Payload::VERSION`]. A field that a later version adds has a default, so that an older value
//!   loads; golden files of every version show that.
//! - A newer version than the reader's is refused by name ([`PayloadError::Newer`]), before its value is looked at.
//! - A value may come from another host, so it is trusted no more than a packet. Its owner checks it at load.

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;

/// A kind of value, and its format.
pub trait Payload {
    /// Name of the kind in a payload.
    const KIND: &'static str;
    /// Version of the format that this process writes. It can read this version and all earlier ones.
    const VERSION: u32;
    /// Name that the kind had before. It can still be read.
    const FORMER_KIND: Option<&'static str> = None;
}

impl<T: Payload> Payload for [T] {
    const KIND: &'static str = T::KIND;
    const VERSION: u32 = T::VERSION;
}

impl<T: Payload, const N: usize> Payload for [T; N] {
    const KIND: &'static str = T::KIND;
    const VERSION: u32 = T::VERSION;
}

impl<T: Payload> Payload for Vec<T> {
    const KIND: &'static str = T::KIND;
    const VERSION: u32 = T::VERSION;
}

impl<T: Payload + ?Sized> Payload for &T {
    const KIND: &'static str = T::KIND;
    const VERSION: u32 = T::VERSION;
}

/// The reason why a payload cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are not in a format that hawser writes.
    #[error(
        "saved state cannot be read ({0}): the payload was damaged; start the upgrade or migration again, and report \
         the versions on both sides if that repeats"
    )]
    Malformed(String),
    /// The payload is not the expected one, or this process cannot read it.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

impl From<serde_json::Error> for PayloadError {
    fn from(why: serde_json::Error) -> Self {
        Self::Malformed(why.to_string())
    }
}

/// A payload of another kind, or of a version that this process cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The payload has another kind than expected.
    #[error(
        "a payload of kind \"{found}\" was found in place of \"{expected}\": check that both sides are hawser and that \
         the payloads are in order"
    )]
    Kind {
        /// Expected kind of the payload.
        expected: &'static str,
        /// Kind that was found.
        found: String,
    },
    /// The payload was written by a newer hawser.
    #[error(
        "payload \"{kind}\" has version {found}, this hawser reads up to {known}: install the hawser that saved the \
         state, or a newer one, here first, then start again"
    )]
    Newer {
        /// Kind of the payload.
        kind: &'static str,
        /// Version of the payload.
        found: u32,
        /// Newest version that this process can read.
        known: u32,
    },
    /// The payload has version 0, which does not exist.
    #[error("payload \"{0}\" has version 0; versions start at 1")]
    Zero(&'static str),
}

impl Mismatch {
    /// Checks the head of a payload that should hold a `T`.
    fn check<T: Payload>(head: &Head) -> Result<(), Self> {
        let kind = T::KIND;
        match head.version {
            _ if head.kind != kind && Some(head.kind.as_str()) != T::FORMER_KIND => Err(Self::Kind {
                expected: kind,
                found: head.kind.clone(),
            }),
            0 => Err(Self::Zero(kind)),
            found if found > T::VERSION => Err(Self::Newer {
                kind,
                found,
                known: T::VERSION,
            }),
            _ => Ok(()),
        }
    }
}

/// A value that is serialised with its kind and version. Deserialising another kind or a newer version fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed<T>(pub T);

impl<T: Payload + Serialize> Serialize for Sealed<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (T::KIND, T::VERSION, &self.0).serialize(to)
    }
}

impl<'de, T: Payload + Deserialize<'de>> Deserialize<'de> for Sealed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(SealedVisitor(PhantomData)).map(Self)
    }
}

struct SealedVisitor<T>(PhantomData<T>);

impl<'de, T: Payload + Deserialize<'de>> Visitor<'de> for SealedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a payload of kind \"{}\"", T::KIND)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        let head = Head::next(&mut list)?;
        Mismatch::check::<T>(&head).map_err(A::Error::custom)?;
        let value = next(&mut list, "value")?;
        match list.next_element::<IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom("a payload with more than a value")),
        }
    }
}

/// Kind and version of a payload, without the value that follows them.
struct Head {
    kind: String,
    version: u32,
}

impl Head {
    fn next<'de, A: SeqAccess<'de>>(list: &mut A) -> Result<Self, A::Error> {
        Ok(Self {
            kind: next(list, "kind")?,
            version: next(list, "version")?,
        })
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct HeadVisitor;

        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a payload")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Head, A::Error> {
                let head = Head::next(&mut list)?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(head)
            }
        }

        from.deserialize_seq(HeadVisitor)
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(list: &mut A, what: &str) -> Result<T, A::Error> {
    let found = list.next_element()?;
    found.ok_or_else(|| A::Error::custom(format_args!("a payload without {what}")))
}

/// Writes a payload.
///
/// # Panics
/// Never: plain values can be written, and memory takes everything.
pub fn to_bytes<T: Payload + Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&Sealed(value), &mut bytes).expect("plain values can be written");
    bytes
}

/// Reads a payload.
///
/// # Errors
/// [`PayloadError`]: the bytes are damaged, of another kind, or of a newer version.
pub fn from_bytes<T: Payload + DeserializeOwned>(bytes: &[u8]) -> Result<T, PayloadError> {
    // The head is read first, so that a newer format is reported as a newer format and not as an unknown field.
    Mismatch::check::<T>(&read(bytes)?)?;
    let Sealed(value) = read(bytes)?;
    Ok(value)
}

/// First byte of a list in JSON. In CBOR it begins no list.
const JSON: u8 = b'[';

fn read<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, PayloadError> {
    if bytes.first() == Some(&JSON) {
        return Ok(serde_json::from_slice(bytes)?);
    }
    let value = ciborium::from_reader(&mut bytes).map_err(|why| {
        PayloadError::Malformed(match why {
            ciborium::de::Error::Semantic(_, why) => why,
            ciborium::de::Error::Io(_) => "it is cut short".to_owned(),
            other => other.to_string(),
        })
    })?;
    match bytes {
        [] => Ok(value),
        _ => Err(PayloadError::Malformed("bytes follow it".to_owned())),
    }
}

/// The kind of a payload, whatever its version and value are.
///
/// # Errors
/// [`PayloadError::Malformed`]
pub fn kind(bytes: &[u8]) -> Result<String, PayloadError> {
    read(bytes).map(|head: Head| head.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        number: u8,
        /// This field is new in version 2.
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

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Outer {
        sample: Option<Sealed<Sample>>,
    }

    impl Payload for Outer {
        const KIND: &'static str = "outer";
        const VERSION: u32 = 1;
    }

    #[test]
    fn what_is_written_is_read() {
        let values = [Sample { number: 1, added: 2 }, Sample { number: 3, added: 4 }];
        assert_eq!(from_bytes::<Vec<Sample>>(&to_bytes(&values)).unwrap(), values);
        assert_eq!(from_bytes::<Vec<Sample>>(&to_bytes::<[Sample]>(&[])).unwrap(), []);
        let [first, _] = values;
        let outer = Outer {
            sample: Some(Sealed(first)),
        };
        let bytes = to_bytes(&outer);
        assert_eq!(
            bytes,
            b"\x83\x65outer\x01\xa1\x66sample\x83\x66sample\x02\xa2\x66number\x01\x65added\x02"
        );
        assert_eq!(from_bytes::<Outer>(&bytes).unwrap(), outer);
        let earlier = br#"["outer",1,{"sample":["sample",2,{"number":1,"added":2}]}]"#;
        assert_eq!(from_bytes::<Outer>(earlier).unwrap(), outer);
    }

    #[test]
    fn an_older_version_gets_the_default_of_a_field_it_lacks() {
        let old = br#"["sample",1,{"number":5}]"#;
        assert_eq!(from_bytes::<Sample>(old).unwrap(), Sample { number: 5, added: 7 });
    }

    #[test]
    fn a_newer_version_is_refused_with_the_way_out_whatever_it_contains() {
        let newer = br#"["sample",3,{"figure":"five"},{"more":0}]"#;
        let error = from_bytes::<Sample>(newer).unwrap_err();
        assert!(
            matches!(
                error,
                PayloadError::Mismatch(Mismatch::Newer { found: 3, known: 2, .. })
            ),
            "{error:?}"
        );
        let inner = br#"["outer",1,{"sample":["sample",3,{"figure":"five"}]}]"#;
        for text in [error.to_string(), from_bytes::<Outer>(inner).unwrap_err().to_string()] {
            assert!(text.contains("version 3") && text.contains("up to 2"), "{text}");
            assert!(text.contains("install the hawser that saved the state"), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        type Is = fn(&PayloadError) -> bool;
        let malformed: Is = |e| matches!(e, PayloadError::Malformed(_));
        let cases: [(&str, Is); 8] = [
            ("", malformed),
            (r#"{"kind":"sample"}"#, malformed),
            (r#"["sample"]"#, malformed),
            (r#"["sample",2]"#, malformed),
            (r#"["sample",-1,{}]"#, malformed),
            (r#"["sample",0,{"number":1}]"#, |e| {
                matches!(e, PayloadError::Mismatch(Mismatch::Zero(_)))
            }),
            (r#"["other",9,[]]"#, |e| {
                matches!(e, PayloadError::Mismatch(Mismatch::Kind { .. }))
            }),
            (r#"["sample",2,{"number":1,"more":2}]"#, malformed),
        ];
        for (text, is_expected) in cases {
            let error = from_bytes::<Sample>(text.as_bytes()).unwrap_err();
            assert!(is_expected(&error), "{text}: {error:?}");
        }
        let whole = to_bytes(&Sample { number: 1, added: 2 });
        let more = [&[0x84], &whole[1..], &[0]].concat();
        let trailing = [&whole[..], &[0]].concat();
        let cut = &whole[..whole.len() - 1];
        for bytes in [br#"["sample",2,{"number":1},3]"#, &more[..], &trailing, cut] {
            assert!(malformed(&from_bytes::<Sample>(bytes).unwrap_err()), "{bytes:?}");
        }
    }
}
