//! Handles restarts of the guest's driver, after which the guest may not know its connections any longer.
//!
//! | event | possible causes |
//! |---|---|
//! | rings stop and start | the VM was paused, migrates and fails, or has a new driver |
//! | the front end disconnects and reconnects | it, or the network between, was restarted; or there is another VM |
//! | RESET_DEVICE | the VM was reset; or a driver was unloaded, or went to sleep and keeps its connections |
//!
//! QEMU sends RESET_DEVICE for every reset of the device, including resets by the driver (virtio_reset in
//! hw/virtio/virtio.c since 9.1; earlier versions sent it only if the driver had not stopped the device first, which is
//! rare). No event therefore proves that a guest has lost its connections. The guest itself reveals it: once it has its
//! address, it answers a segment of an unknown connection with RST. Each connection is probed when rings run again,
//! then after 2 s, 4 s and so on. After RESET_DEVICE an answer must arrive within 30 s; a guest that was asleep answers
//! immediately. If no front end reconnects for two minutes, all connections end;
//! after a migration two seconds suffice. All connections also end with the process. Peers get RST, because FIN would
//! call a stream complete that the guest has not finished.

use super::connection::Progress;
use super::host_socket::make_close_a_reset;
use super::{Flow, TcpFlows, narrow};
use crate::mode::Departure;
use crate::nat::context::Context;
use crate::nat::saved::{LoadError, Nanos};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long connections wait for a front end to reconnect.
const ABANDONED: Duration = Duration::from_secs(120);
/// How long connections wait after their guest has migrated. cloud-hypervisor replaces itself by a migration within the
/// host, and the new process connects once the old one has gone.
const MIGRATED: Duration = Duration::from_secs(2);
/// Number of unanswered probes that end a connection after a reset. The last wait ends after 30 s.
const QUESTIONS_AFTER_RESET: u8 = 4;
/// Connections probed at a time. The next ones follow one step later, so that the guest has buffers for all of them.
pub(super) const AT_ONCE: usize = 64;
const STEP: Duration = Duration::from_millis(1);
/// Maximum connections ended in one turn.
const ENDS_PER_TURN: usize = 512;

/// State of the guest's driver, as far as connections depend on it.
#[derive(Debug, Default)]
pub(super) struct Driver {
    /// True if the device was reset since the rings last ran.
    was_reset: bool,
    /// Time at which all connections end, while no front end is connected.
    abandoned: Option<Instant>,
}

/// The state of a driver between two processes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDriver {
    was_reset: bool,
    /// Time until all connections end.
    abandoned_in: Option<Nanos>,
}

/// What a table does to its sockets when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// Peers of unfinished streams get RST.
    Reset,
    /// Nothing: another process has the sockets too. An option set on one of two descriptors applies to both.
    Leave,
}

impl Driver {
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.abandoned
    }
}

impl TcpFlows {
    /// Call this when the device was reset.
    pub fn on_reset(&mut self) {
        self.driver.was_reset = true;
    }

    /// Call this when the front end has disconnected.
    pub fn on_front_end_gone(&mut self, now: Instant, departure: Departure) {
        let wait = match departure {
            Departure::Disconnected => ABANDONED,
            Departure::Migrated => MIGRATED,
        };
        if !self.flows.is_empty() {
            self.driver.abandoned.get_or_insert(now + wait);
        }
    }

    /// Converts the state of the guest's driver to a plain value.
    pub fn save_driver(&self, now: Instant) -> SavedDriver {
        let Driver { was_reset, abandoned } = &self.driver;
        SavedDriver {
            was_reset: *was_reset,
            abandoned_in: abandoned.map(|at| Nanos::until(at, now)),
        }
    }

    /// Continues with the driver of another process.
    ///
    /// # Errors
    /// The connections would outlive the longest wait for a front end.
    pub fn load_driver(&mut self, saved: &SavedDriver, now: Instant) -> Result<(), LoadError> {
        let abandoned = saved.abandoned_in.map(|time| time.at_most("abandoned_in", ABANDONED));
        self.driver = Driver {
            was_reset: saved.was_reset,
            abandoned: abandoned.transpose()?.map(|time| time.after(now)),
        };
        Ok(())
    }

    /// Call this when a driver in the guest has come up.
    pub fn on_link_up(&mut self, ctx: &Context<'_>) {
        self.thaw(ctx);
        let times = self.driver.was_reset.then_some(QUESTIONS_AFTER_RESET);
        self.driver = Driver::default();
        let mut at = ctx.now;
        for (place, (slot, flow)) in self.flows.iter_mut().enumerate() {
            if place > 0 && place % AT_ONCE == 0 {
                at = at + STEP;
            }
            flow.connection.probe_from(at, times);
            if let Some(deadline) = flow.connection.deadline() {
                self.timers
                    .schedule(&mut flow.scheduled, (narrow(slot), flow.generation), deadline);
            }
        }
    }

    /// Makes the sockets of unfinished streams send RST when they are closed.
    fn make_closes_resets(&self) {
        let unfinished = |flow: &&Flow| !flow.connection.has_forwarded_fin();
        let flows = self.flows.iter().map(|(_, flow)| flow).filter(unfinished);
        flows
            .filter_map(|flow| flow.stream.as_ref())
            .for_each(make_close_a_reset);
    }

    /// Ends all connections if no front end has come back in time.
    pub(super) fn end_if_abandoned(&mut self, ctx: &mut Context<'_>) {
        if self.driver.abandoned.is_none_or(|at| at > ctx.now) {
            return;
        }
        self.end_some(ctx, ENDS_PER_TURN);
        if self.flows.is_empty() {
            self.driver.abandoned = None;
        }
    }

    /// Ends all connections. Peers get RST, and the guest too, if it has room.
    pub fn end_all(&mut self, ctx: &mut Context<'_>) {
        self.end_some(ctx, usize::MAX);
    }

    fn end_some(&mut self, ctx: &mut Context<'_>, most: usize) {
        let slots: Vec<_> = self.flows.iter().map(|(slot, _)| slot).take(most).collect();
        for slot in slots {
            let connection = &mut self.flows[slot].connection;
            connection.abort(ctx);
            self.settle(ctx, slot, Progress::Done);
        }
    }
}

impl Drop for TcpFlows {
    /// Ends the connections that are left, unless another process has them. Peers of streams that the guest has not
    /// finished get RST.
    fn drop(&mut self) {
        if self.parting == Parting::Reset {
            self.make_closes_resets();
        }
    }
}
