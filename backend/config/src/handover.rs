//! Guards that another process can take over.
//!
//! A guard undoes something when it is dropped: it removes a socket's file, closes a listener, detaches a program,
//! restores an interface. A process that is replaced while its guest runs must not undo anything.
//! [`Handover::into_handover`] turns a guard into a record, which is plain data, and descriptors, which keep the
//! underlying kernel objects alive. [`Handover::take_over`] rebuilds the guard from both.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::vec;

/// Descriptors that were handed over, in the order in which the guards returned them.
pub type Descriptors = vec::IntoIter<OwnedFd>;

/// A guard that can be handed over instead of dropped.
pub trait Handover: Sized {
    /// The guard's state apart from its descriptors. The first field is a [`Version`].
    type Record: Serialize + DeserializeOwned;

    /// Consumes the guard without undoing anything.
    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>);

    /// Rebuilds the guard, taking its descriptors from the front of `descriptors`. Dropping the new guard undoes what
    /// dropping the original would have undone.
    ///
    /// # Errors
    /// [`HandoverError`]. In that case nothing is undone.
    fn take_over(record: Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError>;
}

/// A guard that cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There are fewer descriptors than the records need.
    #[error("no descriptor of {0} was handed over: stop the old process and start a new one")]
    Missing(&'static str),
    /// The kernel does not recognise what was handed over.
    #[error("{what} cannot be taken over: {source}; stop the old process and start a new one")]
    System {
        /// What the guard protects.
        what: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
}

/// Takes the next descriptor, which belongs to `what`.
///
/// # Errors
/// [`HandoverError::Missing`]
pub fn next_of(what: &'static str, descriptors: &mut Descriptors) -> Result<OwnedFd, HandoverError> {
    descriptors.next().ok_or(HandoverError::Missing(what))
}

impl<G: Handover> Handover for Option<G> {
    type Record = Option<G::Record>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        self.map_or_else(Default::default, |guard| {
            let (record, descriptors) = guard.into_handover();
            (Some(record), descriptors)
        })
    }

    fn take_over(record: Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        record.map(|record| G::take_over(record, descriptors)).transpose()
    }
}

impl<G: Handover> Handover for Vec<G> {
    type Record = Vec<G::Record>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        let (records, descriptors): (_, Vec<_>) = self.into_iter().map(G::into_handover).unzip();
        (records, descriptors.into_iter().flatten().collect())
    }

    fn take_over(record: Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        record.into_iter().map(|one| G::take_over(one, descriptors)).collect()
    }
}

/// Version of a record's fields. It is serialised as the number `N`, and deserialising any other number fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version<const N: u32>;

impl<const N: u32> From<Version<N>> for u32 {
    fn from(_: Version<N>) -> Self {
        N
    }
}

impl<const N: u32> TryFrom<u32> for Version<N> {
    type Error = String;

    fn try_from(found: u32) -> Result<Self, String> {
        if found == N {
            Ok(Self)
        } else {
            Err(format!(
                "the record has version {found}, and this hawser reads version {N}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read as _, Write as _, pipe};

    /// Keeps the reading end of a pipe open.
    #[derive(Debug)]
    struct Kept {
        name: String,
        reader: PipeReader,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct KeptRecord {
        version: Version<7>,
        name: String,
    }

    impl Handover for Kept {
        type Record = KeptRecord;

        fn into_handover(self) -> (KeptRecord, Vec<OwnedFd>) {
            let (version, name) = (Version, self.name);
            (KeptRecord { version, name }, vec![self.reader.into()])
        }

        fn take_over(record: KeptRecord, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
            let reader = next_of("a pipe", descriptors)?.into();
            let name = record.name;
            Ok(Self { name, reader })
        }
    }

    #[test]
    fn each_of_several_guards_gets_its_own_descriptor_back() {
        let guard = |name: &str| {
            let (reader, mut writer) = pipe().unwrap();
            writer.write_all(name.as_bytes()).unwrap();
            let name = name.into();
            Kept { name, reader }
        };
        let (record, descriptors) = vec![Some(guard("a")), None, Some(guard("b"))].into_handover();
        let saved = serde_json::to_string(&record).unwrap();
        let read = || serde_json::from_str(&saved).unwrap();
        let mut descriptors = descriptors.into_iter();
        let guards = Vec::<Option<Kept>>::take_over(read(), &mut descriptors).unwrap();
        assert_eq!((guards.len(), descriptors.len()), (3, 0));
        for mut guard in guards.into_iter().flatten() {
            let mut text = String::new();
            guard.reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, guard.name);
        }
        let error = Vec::<Option<Kept>>::take_over(read(), &mut descriptors).unwrap_err();
        assert!(error.to_string().starts_with("no descriptor of a pipe"), "{error}");
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let read = serde_json::from_str::<KeptRecord>;
        assert_eq!(read(r#"{"version":7,"name":"a"}"#).unwrap().name, "a");
        let error = read(r#"{"version":8,"fields":"others"}"#).unwrap_err().to_string();
        assert!(
            error.contains("version 8") && error.contains("reads version 7"),
            "{error}"
        );
    }
}
