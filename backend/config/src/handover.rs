//! Guards that another process can take over.
//!
//! A guard undoes something when it is dropped: it removes a socket's file, closes a listener, detaches a program,
//! restores an interface. A process that is replaced while its guest runs must not undo anything.
//! [`Handover::into_handover`] turns a guard into a record, which is plain data, and descriptors, which keep the
//! underlying kernel objects alive. [`Handover::take_over`] rebuilds the guard from both.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::vec;

/// Descriptors that were handed over, in the order in which the guards returned them.
pub type Descriptors = vec::IntoIter<OwnedFd>;

/// A guard that can be handed over instead of dropped.
pub trait Handover: Sized {
    /// State of the guard apart from its descriptors, [`Sealed`](crate::payload::Sealed) with its kind and version.
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

/// The reason why a guard cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There are fewer descriptors than the records need.
    #[error("no descriptor of {0} was handed over: stop the old process and start a new one")]
    Missing(&'static str),
    /// The kernel does not accept the descriptors that were handed over.
    #[error("{what} cannot be taken over: {source}; stop the old process and start a new one")]
    System {
        /// Kind of guard that was handed over.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Payload, Sealed};
    use serde::Deserialize;
    use std::io::{PipeReader, Read as _, Write as _, pipe};

    /// A guard that keeps the reading end of a pipe open.
    #[derive(Debug)]
    struct Kept {
        name: String,
        reader: PipeReader,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct KeptRecord {
        name: String,
    }

    impl Payload for KeptRecord {
        const KIND: &'static str = "kept";
        const VERSION: u32 = 7;
    }

    impl Handover for Kept {
        type Record = Sealed<KeptRecord>;

        fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
            let name = self.name;
            (Sealed(KeptRecord { name }), vec![self.reader.into()])
        }

        fn take_over(Sealed(record): Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
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
}
