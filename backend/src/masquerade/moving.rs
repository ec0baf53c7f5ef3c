//! Flows that change workers.
//!
//! A guest may switch queue pairs off (`ethtool -L`): the worker of such a pair has no ring
//! towards the guest, so its flows are given to workers that have one. Where all pairs go, as
//! when the device stops, nobody can take them and they stay until one is back.
//!
//! And a flow follows the guest: virtio 1.2, 5.1.6.5.6.1 (automatic receive steering) asks that
//! frames of a flow come on the pair the guest sends it on. One whose frames came on another
//! pair [`OFTEN`] times running is given to that pair's worker.
//!
//! A socket goes from one poller to another; edge-triggered, the other says at once what is
//! there to be read.

use super::Masquerade;
use crate::counters::Count;
use crate::frame::GuestSink;
use crate::nat::steering::{MovedFlow, SteeringKey};
use crate::nat::tcp;
use crate::packet::protocol;
use crate::time::Instant;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a pair has been off before its flows go: the rings of a device that stops are
/// stopped one after the other, and nothing is to move then.
const SETTLED: Duration = Duration::from_millis(100);
/// Flows given away before the worker looks at other things.
const FLOWS_PER_TURN: usize = 256;
/// So many frames of a flow on another pair mean that the guest sends it there now. Fewer may be
/// a thread on its way through a processor.
const OFTEN: u8 = 8;
/// Flows whose frames come on other pairs that are remembered.
const REMEMBERED: usize = 1024;

/// On which pair the guest sends the flows that others hand to us.
#[derive(Debug, Default)]
pub struct Habits(HashMap<SteeringKey, (usize, u8)>);

impl Habits {
    /// A frame of the flow came on the pair of worker `from`; true if it always does now.
    fn note(&mut self, key: SteeringKey, from: usize) -> bool {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            self.0.clear();
        }
        let (worker, times) = self.0.entry(key).or_insert((from, 0));
        if *worker != from {
            (*worker, *times) = (from, 0);
        }
        *times += 1;
        let often = *times >= OFTEN;
        if often {
            self.0.remove(&key);
        }
        often
    }
}

impl Masquerade {
    /// The queue pair has come into use or is no longer: its flows may have to go, in a moment.
    pub(super) fn on_pair(&mut self, now: Instant, up: bool) {
        let Some(steering) = &self.surroundings.steering else {
            return;
        };
        steering.set_up(up);
        self.leave_at = (!up).then(|| now + SETTLED);
    }

    /// Another pair has come into use, or it is time: flows without a pair go to one.
    pub(super) fn leave(&mut self, now: Instant) {
        let Some(steering) = self.surroundings.steering.clone() else {
            return;
        };
        if steering.is_up() || self.leave_at.is_some_and(|at| at > now) {
            return;
        }
        self.leave_at = None;
        let receivers: Vec<usize> = steering.others(true).collect();
        if receivers.is_empty() {
            return;
        }
        for turn in 0..FLOWS_PER_TURN {
            let Some(key) = self.any_flow() else { return };
            self.give(key, receivers[turn % receivers.len()]);
        }
        self.leave_at = Some(now);
    }

    fn any_flow(&self) -> Option<SteeringKey> {
        let tcp = || {
            self.tcp
                .any()
                .map(|key| steering_key(protocol::TCP, key.guest, key.remote))
        };
        let udp = || {
            self.udp
                .any()
                .map(|(guest, peer)| steering_key(protocol::UDP, guest, peer))
        };
        tcp().or_else(udp)
    }

    /// Gives one of our flows to another worker.
    fn give(&mut self, key: SteeringKey, to: usize) {
        let poller = &self.surroundings.poller;
        let moved = match key.protocol {
            protocol::TCP => {
                let key = tcp::FlowKey {
                    guest: key.guest,
                    remote: key.remote,
                };
                self.tcp.release(&key, poller).map(MovedFlow::Tcp)
            }
            _ => self.udp.release(key.guest, key.remote, poller).map(MovedFlow::Udp),
        };
        if let (Some(flow), Some(steering)) = (moved, &self.surroundings.steering) {
            self.surroundings.counters.add(Count::FlowsMoved, 1);
            steering.give(to, key, flow);
        }
    }

    /// Takes the flows that were given to us.
    pub(super) fn take_in(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        let Some(steering) = &self.surroundings.steering else {
            return;
        };
        let flows = steering.take_flows();
        if flows.is_empty() {
            return;
        }
        if !steering.is_up() {
            // The pair was switched off meanwhile.
            self.leave_at.get_or_insert(now);
        }
        let ctx = &mut self.surroundings.context(now, sink);
        for flow in flows {
            match flow {
                MovedFlow::Tcp(flow) => self.tcp.take_in(ctx, flow),
                MovedFlow::Udp(flow) => self.udp.take_in(ctx, flow),
            }
        }
    }

    /// A frame came by way of worker `from` whose flow, if any, is now in `sorted`.
    pub(super) fn follow_guest(&mut self, from: usize) {
        let tcp = self
            .sorted
            .segments
            .first()
            .map(|s| (protocol::TCP, s.key.guest, s.key.remote));
        let udp = self.sorted.datagrams.first().map(|d| (protocol::UDP, d.src, d.dst));
        let Some((protocol, guest, remote)) = tcp.or(udp) else {
            return;
        };
        let key = steering_key(protocol, guest, remote);
        if self.habits.note(key, from) {
            self.give(key, from);
        }
    }
}

const fn steering_key(protocol: u8, guest: SocketAddr, remote: SocketAddr) -> SteeringKey {
    SteeringKey {
        protocol,
        guest,
        remote,
    }
}

#[cfg(test)]
#[path = "moving_tests.rs"]
mod tests;
