//! What the engine passes to a protocol with each call.

use crate::counters::Counters;
use crate::frame::GuestSink;
use crate::nat::address_map::AddressMap;
use crate::nat::flow_owners::{Claim, Owners};
use crate::nat::link::Link;
use crate::packet::FlowId;
use crate::poller::Poller;
use crate::time::Instant;

/// The context of one call.
pub struct Context<'a> {
    /// The time of the call.
    pub now: Instant,
    /// Addresses and MTU of the guest's link.
    pub link: &'a Link,
    /// How the guest's addresses map to the host's.
    pub nat: &'a AddressMap,
    /// Poller that watches the sockets.
    pub poller: &'a Poller,
    /// Counters of the worker.
    pub counters: &'a Counters,
    /// The directory of flows, if there are several workers.
    pub owners: Option<&'a Owners>,
    /// Queues that deliver frames to the guest.
    pub sink: &'a mut dyn GuestSink,
}

debug_fields!(Context<'_> { now });

impl Context<'_> {
    /// Records this worker as the owner of a new flow, if there are several workers.
    pub fn claim(&self, flow: FlowId) -> Option<Claim> {
        self.owners.map(|owners| owners.claim(flow))
    }
}
