//! Where the guest of a port is while it moves between processes.
//!
//! A guest that moves has a process on each of two nodes. The table of both says at which endpoint its MAC is. The
//! process at another endpoint is silent: frames of its guest are dropped, and for [`LATE`] it passes on what peers still
//! send to it, because they learn of the move a little later. The process to which the guest has come accepts for the
//! same time what the earlier endpoint passes on, whose source address is not that of the sender.

use crate::forwarding::Table;
use crate::packet::MacAddr;
use crate::time::Instant;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Time for which late frames are passed on after a move.
const LATE: Duration = Duration::from_secs(10);

/// The place of the guest, as the table gives it.
#[derive(Debug)]
pub(super) struct Residence {
    mac: Option<MacAddr>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest is at this process. It may have come from another endpoint.
    Here { from: Option<Other> },
    /// The guest is at another endpoint.
    Elsewhere(Other),
}

/// Another endpoint, and the time until which frames go on from the former endpoint to the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Other {
    endpoint: SocketAddr,
    until: Instant,
}

impl Residence {
    /// The place of the guest `mac` at the start.
    pub(super) fn new(mac: Option<MacAddr>, now: Instant, table: &Table) -> Self {
        let state = State::Here { from: None };
        let mut residence = Self { mac, state };
        residence.set_table(now, table);
        residence
    }

    /// Adopts a new table.
    pub(super) fn set_table(&mut self, now: Instant, table: &Table) {
        let until = now + LATE;
        let place = self.mac.and_then(|mac| table.endpoint_of(mac));
        self.state = match (place, self.state) {
            (None, State::Elsewhere(Other { endpoint, .. })) => State::Here {
                from: Some(Other { endpoint, until }),
            },
            (Some(endpoint), State::Elsewhere(known)) if known.endpoint == endpoint => State::Elsewhere(known),
            (Some(endpoint), _) => State::Elsewhere(Other { endpoint, until }),
            (None, here) => here,
        };
    }

    /// True if the guest is at another endpoint, so that this process sends nothing for it.
    #[inline]
    pub(super) const fn is_elsewhere(&self) -> bool {
        matches!(self.state, State::Elsewhere(_))
    }

    /// True for the guest's own MAC.
    pub(super) fn is_of(&self, mac: MacAddr) -> bool {
        self.mac == Some(mac)
    }

    /// The endpoint to which a datagram from `source` is passed on. One that comes from there is not sent back: that
    /// process does not know yet that it has the guest.
    pub(super) fn way_on(&self, now: Instant, source: IpAddr) -> Option<SocketAddr> {
        let State::Elsewhere(other) = self.state else {
            return None;
        };
        (now < other.until && other.endpoint.ip() != source.to_canonical()).then_some(other.endpoint)
    }

    /// True if `source` may pass on frames of other senders.
    pub(super) fn takes_late_from(&self, now: Instant, source: IpAddr) -> bool {
        let State::Here { from: Some(other) } = self.state else {
            return false;
        };
        now < other.until && other.endpoint.ip() == source.to_canonical()
    }
}
