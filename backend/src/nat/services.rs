//! Services of the gateway beside NAT: ARP, neighbour discovery, DHCP, router advertisements and
//! echo of its own addresses.

use crate::config::Resolvers;
use crate::counters::{Counters, DropReason};
use crate::frame::{GuestFrame, GuestSink, Offload};
use crate::nat::engine::Service;
use crate::responder::{Answer, MAX_FRAME, Replies, Responders};
use crate::time::Instant;
use std::sync::Arc;

/// Responders, and the replies not sent yet.
pub(super) struct Services {
    responders: Responders,
    replies: Replies,
    counters: Arc<Counters>,
}

impl crate::nat::engine::Services for Services {
    #[inline]
    fn answer(&mut self, now: Instant, frame: &GuestFrame<'_>, sink: &mut dyn GuestSink) -> Service {
        if self.responders.wants(frame.head, &frame.parsed) && frame.len <= MAX_FRAME {
            self.answer_whole(now, frame, sink)
        } else {
            Service::Pass
        }
    }
}

impl Services {
    pub(super) fn new(responders: Responders, counters: Arc<Counters>) -> Self {
        Self {
            responders,
            replies: Replies::default(),
            counters,
        }
    }

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

    pub(super) fn set_resolvers(&mut self, now: Instant, resolvers: &Resolvers) {
        self.responders.set_resolvers(now, resolvers);
    }

    pub(super) fn on_timer(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.responders.on_timer(now, &self.counters, &mut self.replies);
        self.flush(sink);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.responders.deadline()
    }

    pub(super) fn on_link_up(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        self.responders.on_link_up(now, &self.counters, &mut self.replies);
        self.flush(sink);
    }

    pub(super) fn on_link_down(&mut self) {
        self.responders.on_link_down();
    }

    fn flush(&mut self, sink: &mut dyn GuestSink) {
        for reply in self.replies.iter() {
            if sink.send(Offload::NONE, &[reply]).is_err() {
                self.counters.count_drop(DropReason::NoRoom);
            }
        }
        self.replies.clear();
    }
}
