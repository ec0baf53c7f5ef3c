//! What every protocol of masquerade is handed with a call.

use super::steering::{Claim, Steering, SteeringKey};
use crate::counters::Counters;
use crate::frame::GuestSink;
use crate::nat::address_map::AddressMap;
use crate::nat::link::Link;
use crate::poller::Poller;
use crate::time::Instant;
use std::net::SocketAddr;

/// The surroundings of one call: the time, the guest, the world, and where to count.
pub struct Context<'a> {
    /// What time it is.
    pub now: Instant,
    /// Addresses and MTU of the guest's link.
    pub link: &'a Link,
    /// How the guest's addresses map to the host's.
    pub nat: &'a AddressMap,
    /// Where sockets are watched.
    pub poller: &'a Poller,
    /// Where things are counted.
    pub counters: &'a Counters,
    /// Who owns which flow, if there are several workers.
    pub steering: Option<&'a Steering>,
    /// The guest's receive side.
    pub sink: &'a mut dyn GuestSink,
}

impl Context<'_> {
    /// Notes that a flow made now belongs to this worker, if there are several.
    pub fn claim(&self, protocol: u8, guest: SocketAddr, remote: SocketAddr) -> Option<Claim> {
        let key = SteeringKey {
            protocol,
            guest,
            remote,
        };
        self.steering.map(|steering| steering.claim(key))
    }
}
