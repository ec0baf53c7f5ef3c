//! The guest's DHCP, answered here instead of by the segment: nothing the guest says to the
//! port of DHCP servers (UDP 67) reaches the segment.

use crate::config::LeaseConfig;
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestFrame, GuestSink, Offload};
use crate::responder::{Answer, LeaseServer, MAX_FRAME, Replies};
use std::sync::Arc;

/// A DHCP server between the guest and the segment.
pub(super) struct Lease {
    server: LeaseServer,
    replies: Replies,
    counters: Arc<Counters>,
}

impl Lease {
    pub(super) fn new(config: &LeaseConfig, mtu: u16, counters: Arc<Counters>) -> Self {
        Self {
            server: LeaseServer::new(config, mtu),
            replies: Replies::default(),
            counters,
        }
    }

    /// True for what is said to a DHCP server.
    pub(super) fn wants(&self, frame: &GuestFrame<'_>) -> bool {
        self.server.wants(frame.head, frame.len)
    }

    pub(super) fn answer(&mut self, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) {
        let mut copy = [0; MAX_FRAME];
        let n = frame.copy_to(0, &mut copy);
        let answer = if frame.len <= MAX_FRAME {
            self.server.answer(&copy[..n], &self.counters, &mut self.replies)
        } else {
            Answer::Refused(DropReason::BadService)
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
