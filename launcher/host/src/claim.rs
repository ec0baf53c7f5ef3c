//! A claim on a link of the network namespace, which lasts as long as its process.
//!
//! The kernel gives a queue of a macvtap to each process that opens its device, and spreads the
//! frames over all queues, so that two processes each lose some. For TAP devices the kernel refuses
//! the second process; for the others a claim does so among hawser processes. It is a bound abstract
//! Unix socket: such names belong to a network namespace, as links do, and disappear with their
//! process, however it ends.

use hawser_config::handover::{Descriptors, Handover, HandoverError, Version, next_of};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A link that no other hawser uses. The claim ends when its descriptor is closed, in every process
/// that has a copy.
#[derive(Debug)]
pub struct Claim {
    name: UnixDatagram,
}

impl Claim {
    /// Claims the link `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// What bind(2) returns: EADDRINUSE if another has it.
    pub fn on(name: &str) -> io::Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("hawser/link/{name}"))?;
        UnixDatagram::bind_addr(&address).map(|name| Self { name })
    }
}

/// What a claim is beside its descriptor: nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    version: Version<1>,
}

impl Handover for Claim {
    type Record = ClaimRecord;

    fn into_handover(self) -> (ClaimRecord, Vec<OwnedFd>) {
        (ClaimRecord { version: Version }, vec![self.name.into()])
    }

    fn take_over(_: ClaimRecord, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
        let name = next_of("a claim on a link", descriptors)?.into();
        Ok(Self { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_one_holder_and_is_free_again_after_it() {
        let name = format!("claim{}", std::process::id());
        let claim = Claim::on(&name).unwrap();
        let other = Claim::on(&name).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AddrInUse);
        Claim::on(&format!("{name}x")).unwrap();
        drop(claim);
        Claim::on(&name).unwrap();
    }

    #[test]
    fn a_claim_that_is_handed_over_lasts_until_its_new_holder_ends() {
        let name = format!("handed{}", std::process::id());
        let (record, descriptors) = Claim::on(&name).unwrap().into_handover();
        assert_eq!(Claim::on(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let record = serde_json::from_value(serde_json::to_value(record).unwrap()).unwrap();
        let claim = Claim::take_over(record, &mut descriptors.into_iter()).unwrap();
        assert_eq!(Claim::on(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(claim);
        Claim::on(&name).unwrap();
    }
}
