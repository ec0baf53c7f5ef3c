//! Tests with a guest that uses the services, in virtual time.

mod dhcp4;
mod dhcp6;
mod lease;
mod lease6;
mod link;
mod ovn_kubernetes;
mod properties;
mod proxy;

use super::*;
use crate::counters::Count;
use crate::packet::{EthernetHeader, Headers, IcmpHeader, Network, UdpHeader};
use crate::responder::testing::{GUEST_MAC, addr6, check_reply, check_reply_from, config, icmp_message, ip, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const START: Instant = Instant::from_nanos(1_000_000_000);

/// The services under test, and the state that they share with a mode.
struct Bench {
    responders: Responders,
    held: Arc<HeldLeases>,
    counters: Counters,
    replies: Replies,
    now: Instant,
    /// Stations besides the gateway that may reply.
    servers: &'static [(MacAddr, IpAddr)],
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: ServiceConfig) -> Self {
        Self {
            held: Arc::clone(&config.held),
            responders: Responders::new(config),
            counters: Counters::default(),
            replies: Replies::default(),
            now: START,
            servers: &[],
        }
    }

    /// Passes `frame` to the services as the mode would. Checks every reply, and returns the verdict and the replies.
    fn send(&mut self, frame: &[u8]) -> (Answer, Vec<Vec<u8>>) {
        self.replies.clear();
        let head = &frame[..frame.len().min(crate::frame::HEAD_MAX)];
        let parsed = Head::parse(head, frame.len());
        let wanted = self.responders.wants(head, &parsed);
        let answer = self
            .responders
            .answer(self.now, frame, &parsed, &self.counters, &mut self.replies);
        if matches!(answer, Answer::Done) {
            assert!(wanted, "answered though not wanted: {frame:02x?}");
        } else {
            assert!(self.replies.is_empty(), "{answer:?} with replies");
        }
        (answer, self.take())
    }

    /// Returns the only reply to `frame`.
    fn reply_to(&mut self, frame: &[u8]) -> Vec<u8> {
        let (answer, mut replies) = self.send(frame);
        assert_eq!(answer, Answer::Done);
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }

    /// Asserts that `frame` is handled without a reply.
    #[track_caller]
    fn silence(&mut self, frame: &[u8]) {
        assert_eq!(self.send(frame), (Answer::Done, vec![]));
    }

    /// Asserts that `frame` is refused.
    #[track_caller]
    fn refused(&mut self, frame: &[u8], reason: DropReason) {
        assert_eq!(self.send(frame), (Answer::Refused(reason), vec![]));
    }

    /// Asserts that `frame` is for another receiver.
    #[track_caller]
    fn passed_on(&mut self, frame: &[u8]) {
        assert_eq!(self.send(frame), (Answer::NotMine, vec![]));
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let replies: Vec<_> = self.replies.iter().map(<[u8]>::to_vec).collect();
        self.replies.clear();
        for reply in &replies {
            check_reply_from(reply, self.servers);
        }
        replies
    }
}
