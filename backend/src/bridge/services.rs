//! What is answered here instead of by the segment, because the segment cannot: the guest's
//! DHCP, where nobody there has an address for it (nothing the guest says to UDP port 67
//! reaches the segment then), and the questions for its neighbours, where the segment carries
//! packets only.

use crate::config::{Forwarding, LeaseConfig};
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestFrame, GuestSink, Offload};
use crate::responder::{Answer, LeaseServer, MAX_FRAME, NeighbourProxy, Replies};
use std::sync::Arc;

/// Answers between the guest and the segment.
pub(super) struct Services {
    lease: Option<LeaseServer>,
    neighbours: Option<NeighbourProxy>,
    replies: Replies,
    counters: Arc<Counters>,
}

impl Services {
    /// The services there are, if any: a lease with the segment's MTU, and what `forwarding` asks for.
    pub(super) fn new(
        lease: Option<(&LeaseConfig, u16)>,
        forwarding: Forwarding,
        counters: Arc<Counters>,
    ) -> Option<Self> {
        let neighbours = match forwarding {
            Forwarding::Switched => None,
            Forwarding::Routed { .. } => Some(NeighbourProxy),
        };
        if lease.is_none() && neighbours.is_none() {
            return None;
        }
        Some(Self {
            lease: lease.map(|(config, mtu)| LeaseServer::new(config, mtu)),
            neighbours,
            replies: Replies::default(),
            counters,
        })
    }

    /// True for what does not go to the segment.
    pub(super) fn wants(&self, frame: &GuestFrame<'_>) -> bool {
        self.is_for_lease(frame) || self.neighbours.is_some_and(|proxy| proxy.wants(frame.head))
    }

    fn is_for_lease(&self, frame: &GuestFrame<'_>) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.wants(frame.head, frame.len))
    }

    /// Deals with a frame that is wanted.
    pub(super) fn answer(&mut self, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let mut copy = [0; MAX_FRAME];
        let n = frame.copy_to(0, &mut copy);
        let answer = if frame.len > MAX_FRAME {
            Answer::Refused(DropReason::BadService)
        } else if let (true, Some(lease)) = (self.is_for_lease(frame), &self.lease) {
            lease.answer(&copy[..n], &self.counters, &mut self.replies)
        } else {
            let proxy = self.neighbours.unwrap_or_default();
            proxy.answer(&copy[..n], &mut self.replies)
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
