//! Answers requests that the segment cannot answer. One is DHCP, where the segment has no address for the guest.
//! Packets to UDP port 67, or to port 547 over IPv6, then never reach the segment. The other is neighbour discovery,
//! where the segment carries IP packets only.

use crate::config::{Forwarding, Lease6Config, LeaseConfig, Resolvers};
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestFrame, GuestSink, Offload};
use crate::responder::{Answer, HeldLeases, Lease6Server, LeaseServer, MAX_FRAME, NeighbourProxy, Replies};
use crate::time::Instant;
use std::sync::Arc;

/// Leases that are granted to the guest here.
#[derive(Clone, Debug, Default)]
pub struct Leases<'a> {
    /// DHCPv4 lease. `None` passes requests to the segment.
    pub ipv4: Option<&'a LeaseConfig>,
    /// DHCPv6 lease. `None` passes requests to the segment.
    pub ipv6: Option<&'a Lease6Config>,
    /// MTU of the segment.
    pub mtu: u16,
    /// Record of granted and released leases.
    pub held: Arc<HeldLeases>,
}

/// The services between the guest and the segment.
pub(super) struct Services {
    lease: Option<LeaseServer>,
    lease6: Option<Lease6Server>,
    neighbours: Option<NeighbourProxy>,
    replies: Replies,
    counters: Arc<Counters>,
}

impl Services {
    /// The services that the leases and `forwarding` require; `None` if they require none.
    pub(super) fn new(leases: Leases<'_>, forwarding: Forwarding, counters: Arc<Counters>) -> Option<Self> {
        let Leases { ipv4, ipv6, mtu, held } = leases;
        let neighbours = match forwarding {
            Forwarding::Switched => None,
            Forwarding::Routed { .. } => Some(NeighbourProxy),
        };
        if ipv4.is_none() && ipv6.is_none() && neighbours.is_none() {
            return None;
        }
        Some(Self {
            lease: ipv4.map(|config| LeaseServer::new(config, mtu, Arc::clone(&held))),
            lease6: ipv6.map(|config| Lease6Server::new(config, mtu, held)),
            neighbours,
            replies: Replies::default(),
            counters,
        })
    }

    /// Replaces the name servers and search domains, starting with the next answer.
    pub(super) fn set_resolvers(&mut self, resolvers: &Resolvers) {
        if let Some(lease) = &mut self.lease {
            lease.set_resolvers(resolvers);
        }
        if let Some(lease) = &mut self.lease6 {
            lease.set_resolvers(resolvers);
        }
    }

    /// Tells the guest this MTU from now on.
    pub(super) fn set_mtu(&mut self, now: Instant, mtu: u16) {
        if let Some(lease) = &mut self.lease {
            lease.set_mtu(mtu);
        }
        if let Some(lease) = &mut self.lease6 {
            lease.set_mtu(now, mtu);
        }
    }

    /// True for frames that are handled here and do not go to the segment.
    pub(super) fn wants(&self, frame: &GuestFrame<'_>) -> bool {
        self.is_for_lease(frame)
            || self
                .lease6
                .as_ref()
                .is_some_and(|lease| lease.wants(frame.head, &frame.parsed))
            || self
                .neighbours
                .is_some_and(|proxy| proxy.wants(frame.head, &frame.parsed))
    }

    /// True for router solicitations that are answered here. Unless [`Self::wants`] is also true, they go to the
    /// segment as well.
    pub(super) fn hears(&self, frame: &GuestFrame<'_>) -> bool {
        let lease = self.lease6.as_ref();
        lease.is_some_and(|lease| lease.hears(frame.head, &frame.parsed))
    }

    fn is_for_lease6(&self, frame: &GuestFrame<'_>) -> bool {
        let lease = self.lease6.as_ref();
        lease.is_some_and(|lease| lease.wants(frame.head, &frame.parsed) || lease.hears(frame.head, &frame.parsed))
    }

    fn is_for_lease(&self, frame: &GuestFrame<'_>) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.wants(frame.head, &frame.parsed))
    }

    /// Answers a frame for which `wants` or `hears` is true.
    pub(super) fn answer(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let mut copy = [0; MAX_FRAME];
        let n = frame.copy_to(0, &mut copy);
        let answer = if frame.len > MAX_FRAME {
            Answer::Refused(DropReason::BadService)
        } else if let (true, Some(lease)) = (self.is_for_lease(frame), &self.lease) {
            lease.answer(&copy[..n], &frame.parsed, &self.counters, &mut self.replies)
        } else if let (true, Some(lease)) = (self.is_for_lease6(frame), &mut self.lease6) {
            lease.answer(now, &copy[..n], &frame.parsed, &self.counters, &mut self.replies)
        } else {
            let proxy = self.neighbours.unwrap_or_default();
            proxy.answer(&copy[..n], &frame.parsed, &mut self.replies)
        };
        if let Answer::Refused(reason) = answer {
            self.counters.count_drop(reason);
        }
        for reply in self.replies.iter() {
            if sink.send(Offload::NONE, &[reply]).is_err() {
                self.counters.count_drop(DropReason::NoRoom);
            }
        }
        self.replies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::testing::{OwnedFrame, TestSink};
    use crate::responder::testing::{GUEST_MAC, requests};

    #[test]
    fn neighbours_are_answered_for_as_they_were_asked_for_whatever_the_guest_writes_meanwhile() {
        let forwarding = Forwarding::Routed { device: GUEST_MAC };
        let mut services = Services::new(Leases::default(), forwarding, Arc::default()).unwrap();
        let mut answer = |frame: &GuestFrame<'_>| {
            let mut sink = TestSink::default();
            if services.wants(frame) {
                services.answer(Instant::from_nanos(1), frame, &mut sink);
            }
            sink.take()
        };
        let mut answered = 0;
        for (name, request) in requests() {
            let request = OwnedFrame::new(request);
            let expected = request.with(&mut answer);
            assert_eq!(request.with_head_overwritten(&mut answer), expected, "{name}");
            answered += expected.len();
        }
        assert_ne!(answered, 0);
    }
}
