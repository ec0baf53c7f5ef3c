//! Probes of segmentation offload: whether what the kernel splits (UDP_SEGMENT) arrives as it was sent.
//!
//! [`loopback`] tests this kernel before anything else is sent. [`routes`] tests the path to each hawser process that is
//! sent more than one datagram at a time, and so the devices and kernels on it; [`socket`] carries its messages.

mod loopback;
mod routes;
mod socket;

pub(super) use loopback::{Verdict, probe};
pub(super) use socket::ProbeSocket;

use super::paths::Path;
use super::sender::Sender;
use crate::counters::{Count, Counters, PeerLevel};
use crate::forwarding::Table;
use crate::time::Instant;
use routes::{Finding, Routes, State};

/// The probes of the paths to other processes.
pub(super) struct Probes {
    routes: Routes,
    socket: ProbeSocket,
    /// Paths on which the guest has begun to send.
    wanted: Vec<Path>,
}

impl Probes {
    /// No probes yet.
    pub(super) fn new(socket: ProbeSocket) -> Self {
        Self {
            // Without random numbers, a host that forges the peer's address could answer for it.
            routes: Routes::new(getrandom::u32().unwrap_or_default()),
            socket,
            wanted: Vec::new(),
        }
    }

    /// Has a path probed with the next [`start_wanted`](Self::start_wanted).
    #[inline]
    pub(super) fn want(&mut self, path: Option<Path>) {
        if let Some(path) = path {
            self.wanted.push(path);
        }
    }

    /// Sends the probes that are wanted.
    #[inline]
    pub(super) fn start_wanted(&mut self, now: Instant, sender: &Sender) {
        while let Some(path) = self.wanted.pop() {
            if let Some(probe) = self.routes.start(now, path.to, path.datagram_max) {
                sender.peers().set(path.to, PeerLevel::Probe, State::Running as usize);
                self.socket.send(probe);
            }
        }
    }

    /// Takes in the answers that have arrived.
    pub(super) fn on_answers(&mut self, sender: &mut Sender, counters: &Counters) {
        for (from, answer) in self.socket.answers() {
            let found = self.routes.on_answer(from, answer);
            found.into_iter().for_each(|finding| apply(finding, sender, counters));
        }
    }

    /// Time of the next [`on_timer`](Self::on_timer).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.routes.deadline()
    }

    /// Sends the next attempts, and ends probes.
    pub(super) fn on_timer(&mut self, now: Instant, sender: &mut Sender, counters: &Counters) {
        let Self { routes, socket, .. } = self;
        routes.on_timer(
            now,
            |probe| socket.send(probe),
            |finding| apply(finding, sender, counters),
        );
    }

    /// Forgets the paths to endpoints that are not in `table`.
    pub(super) fn follow(&mut self, table: &Table) {
        self.routes.follow(table);
    }
}

/// Applies the result of a probe.
fn apply(Finding { to, state }: Finding, sender: &mut Sender, counters: &Counters) {
    sender.peers().set(to, PeerLevel::Probe, state as usize);
    match state {
        State::Failed => {
            counters.add(Count::TunnelCutProbeFailed, 1);
            sender.set_failed(to, true);
        }
        State::Passed => sender.set_failed(to, false),
        // What was known before still holds.
        State::Unanswered | State::Running => {}
    }
}
