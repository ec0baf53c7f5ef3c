//! What every protocol of masquerade is handed with a call.

use super::{AddressMap, Link};
use crate::counters::Counters;
use crate::frame::GuestSink;
use crate::poller::Poller;
use crate::time::Instant;

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
    /// The guest's receive side.
    pub sink: &'a mut dyn GuestSink,
}
