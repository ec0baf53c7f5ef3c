//! Flows that move between workers.
//!
//! A guest may disable queue pairs (`ethtool -L`). The worker of such a pair has no ring to the guest, so its flows
//! move to workers whose pair is enabled. If all pairs are disabled, as when the device stops, no worker can take the
//! flows, and they stay until a pair is enabled again.
//!
//! A flow also follows the guest: virtio 1.2, 5.1.6.5.6.1 (automatic receive steering) requires that frames of a flow
//! arrive on the pair on which the guest sends it. A flow with [`OFTEN`] consecutive frames on another pair moves to
//! that pair's worker.
//!
//! The flow's socket moves from one poller to another. Since the watch is edge-triggered, the new poller reports at
//! once whether there is something to read.

use super::engine::{Engine, NoServices};
use super::steering::{MovedFlow, Steering};
use crate::counters::Count;
use crate::frame::{GuestFrame, GuestSink, GuestSlice, HEAD_MAX};
use crate::packet::FlowId;
use crate::packet::protocol;
use crate::time::Instant;
use std::collections::HashMap;
use std::time::Duration;

/// How long a pair must be disabled before its flows move. A device that stops disables its rings one after another,
/// and flows must not move in that case.
const SETTLED: Duration = Duration::from_millis(100);
/// Maximum flows that move in one turn of the worker.
const FLOWS_PER_TURN: usize = 256;
/// After this many consecutive frames on another pair, the guest is assumed to send the flow there. Fewer frames may
/// come from a thread that runs briefly on another CPU.
const OFTEN: u8 = 8;
/// Maximum number of flows that are remembered because they had frames on other pairs.
const REMEMBERED: usize = 1024;

/// Queue pairs on which the guest sends flows that other workers have handed over.
#[derive(Debug, Default)]
pub(super) struct Habits(HashMap<FlowId, (usize, u8)>);

impl Habits {
    /// Counts a frame of the flow that arrived on the pair of worker `from`. True if the flow now belongs to that pair.
    fn note(&mut self, key: FlowId, from: usize) -> bool {
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

impl Engine {
    /// Call this when the queue pair was enabled or disabled. Its flows may have to move after [`SETTLED`].
    pub(super) fn on_pair(&mut self, now: Instant, up: bool) {
        let Some(steering) = &self.surroundings.steering else {
            return;
        };
        steering.set_up(up);
        self.leave_at = (!up).then(|| now + SETTLED);
    }

    /// Moves flows to enabled pairs, if this worker's pair has been disabled for long enough.
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

    fn any_flow(&self) -> Option<FlowId> {
        self.tcp.any().or_else(|| self.udp.any())
    }

    /// Hands a flow of this worker to another worker.
    fn give(&mut self, key: FlowId, to: usize) {
        let poller = &self.surroundings.poller;
        let moved = match key.protocol {
            protocol::TCP => self.tcp.release(&key, poller).map(MovedFlow::Tcp),
            _ => self.udp.release(&key, poller).map(MovedFlow::Udp),
        };
        if let (Some(flow), Some(steering)) = (moved, &self.surroundings.steering) {
            self.surroundings.counters.add(Count::FlowsMoved, 1);
            steering.give(to, key, flow);
        }
    }

    /// Handles frames and flows from other workers in the mailbox.
    pub fn on_handover(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        let handed = self
            .surroundings
            .steering
            .as_ref()
            .map(Steering::take)
            .unwrap_or_default();
        self.take_in(now, sink);
        self.leave(now);
        for handed in handed {
            let slices = [GuestSlice::from_bytes(&handed.bytes)];
            let frame = GuestFrame {
                head: &handed.bytes[..handed.bytes.len().min(HEAD_MAX)],
                parsed: handed.parsed,
                slices: &slices,
                len: handed.bytes.len(),
                offload: handed.offload,
            };
            // The worker that received the frame has already offered it to the services.
            self.on_packets(now, &[frame], &mut NoServices, sink);
            self.follow_guest(handed.from);
        }
    }

    /// Adds the flows that other workers have moved to this one.
    pub(super) fn take_in(&mut self, now: Instant, sink: &mut dyn GuestSink) {
        let Some(steering) = &self.surroundings.steering else {
            return;
        };
        let flows = steering.take_flows();
        if flows.is_empty() {
            return;
        }
        if !steering.is_up() {
            // The pair was disabled in the meantime.
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

    /// Records that a frame came from worker `from`. The packet of its flow, if there is one, is in `sorted`.
    fn follow_guest(&mut self, from: usize) {
        let tcp = self.sorted.segments.first().map(|s| s.key);
        let Some(key) = tcp.or_else(|| self.sorted.datagrams.first().map(|d| d.key)) else {
            return;
        };
        if self.habits.note(key, from) {
            self.give(key, from);
        }
    }
}

#[cfg(test)]
#[path = "moving_tests.rs"]
mod tests;
