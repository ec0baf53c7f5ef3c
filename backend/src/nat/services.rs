//! Services of the gateway in addition to NAT: ARP, neighbour discovery, DHCP, router advertisements, and echo replies
//! from its own addresses.

use super::engine::Service;
use crate::config::Resolvers;
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestFrame, GuestSink, Offload};
use crate::responder::{Answer, MAX_FRAME, Neighbours, Replies, Responders, ServiceConfig};
use crate::time::Instant;
use std::sync::Arc;

/// Responders, and the replies that have not been sent yet.
#[derive(Debug)]
pub struct GatewayServices {
    responders: Responders,
    replies: Replies,
    counters: Arc<Counters>,
}

impl super::engine::Services for GatewayServices {
    // Each frame comes through here. As a function of its own it costs 50 instructions per frame.
    #[inline(always)]
    fn answer(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) -> Service {
        if self.responders.wants(frame.head, &frame.parsed) && frame.len <= MAX_FRAME {
            self.answer_whole(now, frame, sink)
        } else {
            Service::Pass
        }
    }
}

impl GatewayServices {
    /// The services of a gateway.
    pub fn new(config: ServiceConfig, counters: Arc<Counters>) -> Self {
        Self {
            replies: Replies::of(config.gateway),
            responders: Responders::new(config),
            counters,
        }
    }

    /// Replaces the stations for which ARP and neighbour discovery are answered, in addition to the gateway.
    pub fn set_peers(&mut self, peers: Arc<dyn Neighbours>) {
        self.responders.set_peers(peers);
    }

    /// True if a service handles the frame. This check is cheap.
    #[inline]
    pub fn wants(&self, frame: &GuestFrame<'_>) -> bool {
        self.responders.wants(frame.head, &frame.parsed)
    }

    // Out of line: few frames are for a service, and with the copy's stack frame `answer` is not inlined either.
    #[cold]
    #[inline(never)]
    fn answer_whole(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) -> Service {
        let mut copy = [0; MAX_FRAME];
        let n = frame.copy_to(0, &mut copy);
        let answer = self
            .responders
            .answer(now, &copy[..n], &frame.parsed, &self.counters, &mut self.replies);
        let service = match answer {
            Answer::NotMine => return Service::Pass,
            Answer::Done => Service::Answered {
                claimed: self.responders.take_claimed(),
            },
            Answer::Refused(reason) => Service::Refused(reason),
        };
        self.flush(sink);
        service
    }

    /// Replaces the name servers and search domains, starting with the next answer.
    pub fn set_resolvers(&mut self, now: Instant, resolvers: &Resolvers) {
        self.responders.set_resolvers(now, resolvers);
    }

    /// Tells the guest this MTU from now on.
    pub fn set_mtu(&mut self, now: Instant, mtu: u16) {
        self.responders.set_mtu(now, mtu);
    }

    /// Sends messages that are due.
    pub fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.responders.on_timer(now, &self.counters, &mut self.replies);
        self.flush(sink);
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub fn deadline(&self) -> Option<Instant> {
        self.responders.deadline()
    }

    /// Call this when the guest's driver is up.
    pub fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.responders.on_link_up(now, &self.counters, &mut self.replies);
        self.flush(sink);
    }

    /// Call this when the guest's driver is gone.
    pub fn on_link_down(&mut self) {
        self.responders.on_link_down();
    }

    fn flush(&mut self, sink: &mut dyn GuestSink) {
        deliver(&mut self.replies, &self.counters, sink);
    }
}

/// Sends replies to the guest. Replies for which it has no room are dropped.
pub fn deliver(replies: &mut Replies, counters: &Counters, sink: &mut dyn GuestSink) {
    for reply in replies.iter() {
        if sink.send(Offload::NONE, &[reply]).is_err() {
            counters.count_drop(DropReason::NoRoom);
        }
    }
    replies.clear();
}
