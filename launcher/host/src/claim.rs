//! A claim on a link of the network namespace, which lasts as long as its process.
//!
//! The kernel gives each process that opens a macvtap device a queue, and distributes frames over all queues. If two
//! processes opened one device, each would lose frames. For TAP devices the kernel refuses the second process. For
//! other devices a claim has the same effect among hawser processes. A claim is a bound abstract Unix socket. Its name
//! belongs to a network namespace, as links do, and disappears when its process ends for any reason.

use hawser_config::handover::{Descriptors, Handover, HandoverError, next_of};
use hawser_config::payload::{Payload, Sealed};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A claim on a link that no other hawser process uses. It ends when its descriptor is closed in every process that has
/// a copy.
#[derive(Debug)]
pub struct Claim {
    name: UnixDatagram,
}

impl Claim {
    /// Claims the link `name` of the calling thread's network namespace.
    ///
    /// # Errors
    /// The error of bind(2): EADDRINUSE if another process has the link.
    pub fn on(name: &str) -> io::Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("hawser/link/{name}"))?;
        UnixDatagram::bind_addr(&address).map(|name| Self { name })
    }
}

/// The data of a claim apart from its descriptor. It is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {}

impl Payload for ClaimRecord {
    const KIND: &'static str = "link-claim";
    const VERSION: u32 = 1;
}

impl Handover for Claim {
    type Record = Sealed<ClaimRecord>;

    fn into_handover(self) -> (Self::Record, Vec<OwnedFd>) {
        (Sealed(ClaimRecord {}), vec![self.name.into()])
    }

    fn take_over(_: Self::Record, descriptors: &mut Descriptors) -> Result<Self, HandoverError> {
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
