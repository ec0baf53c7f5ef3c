//! Starts and stops the rings of a worker.

use super::command::{RingRole, RingSetup};
use super::slot::RingState;
use super::{Link, Worker, event_owner};
use crate::counters::DropReason;
use crate::frame::GuestSink as _;
use crate::poller::{Interest, Token};
use crate::time::Instant;
use crate::virtio::GuestMap;
use crate::virtio::control::{Control, Served};
use crate::virtio::features::Features;
use crate::virtio::ring::{Ring, RingLayout};
use crate::virtio::transmit::Transmit;
use std::fmt::Display;
use std::sync::Arc;

const ROLES: [RingRole; 3] = [RingRole::Receive, RingRole::Transmit, RingRole::Control];

impl RingRole {
    const fn kick_token(self) -> Token {
        let owner = match self {
            Self::Receive => event_owner::RECEIVE_KICK,
            Self::Transmit => event_owner::TRANSMIT_KICK,
            Self::Control => event_owner::CONTROL_KICK,
        };
        Token::new(owner, 0)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
            Self::Control => "control",
        }
    }
}

impl Worker {
    pub(super) fn set_memory(&mut self, map: Option<Arc<GuestMap>>) {
        let gone = map.is_none();
        self.halt_all();
        self.map = map;
        for role in ROLES {
            if gone {
                self.slots[role as usize] = super::Slot::default();
            } else {
                self.slots[role as usize].retry();
                self.try_run(role);
            }
        }
        if gone {
            self.set_features(Features::default());
        }
    }

    pub(super) fn set_features(&mut self, features: Features) {
        self.features = features;
        self.apply_nic_state();
        if let Some(transmit) = &mut self.transmit {
            transmit.set_features(features);
        }
        if let Some(control) = &mut self.control {
            control.set_features(features);
        }
    }

    /// Applies the NIC settings of the guest's driver if they have changed.
    pub(super) fn follow_nic_state(&mut self) {
        let version = self.nic.version();
        if version != self.nic_version {
            self.nic_version = version;
            self.apply_nic_state();
        }
    }

    fn apply_nic_state(&mut self) {
        let before = self.receive.caps();
        let state = self.nic.state(self.features);
        self.receive.set_features(state.features);
        self.receive.passage_mut().filter = state.filter;
        let caps = self.receive.caps();
        if caps != before {
            self.mode.on_offloads(caps);
        }
    }

    pub(super) fn start_ring(&mut self, role: RingRole, setup: RingSetup) {
        self.halt(role);
        if role == RingRole::Control && setup.next_avail == 0 {
            // A new driver does not know the settings of its predecessor.
            self.nic.reset();
            self.follow_nic_state();
        }
        self.slots[role as usize].set_up(setup);
        self.try_run(role);
    }

    pub(super) fn stop_ring(&mut self, role: RingRole) -> Option<u16> {
        self.halt(role);
        self.slots[role as usize].tear_down()
    }

    pub(super) fn set_enabled(&mut self, now: Instant, role: RingRole, enabled: bool) {
        let slot = &mut self.slots[role as usize];
        slot.enabled = enabled;
        if role == RingRole::Transmit {
            self.retired_at = (!enabled && slot.is_running()).then_some(now);
            if slot.is_running() {
                // Frames still in the ring are sent or discarded now.
                slot.due = true;
                return;
            }
        }
        if enabled {
            self.try_run(role);
        } else {
            self.halt(role);
        }
    }

    /// Runs the frame rings that the front end has enabled, or none if the link is down.
    pub(super) fn set_link(&mut self, up: bool) {
        self.admin = if up { Link::Up } else { Link::Down };
        for role in [RingRole::Receive, RingRole::Transmit] {
            if up {
                self.try_run(role);
            } else {
                self.halt(role);
            }
        }
    }

    /// Starts a ring if all of its parts are known.
    fn try_run(&mut self, role: RingRole) {
        let slot = &self.slots[role as usize];
        let (Some(layout), Some(map)) = (slot.layout, &self.map) else {
            return;
        };
        let may_run = slot.enabled && (role == RingRole::Control || self.admin == Link::Up);
        if slot.state != RingState::Stopped || !may_run {
            return;
        }
        if let Err(error) = self.run_ring(role, Arc::clone(map), layout) {
            self.fail(role, &*error);
            // A front end that replaces a region removes it first and then adds the new one.
            self.slots[role as usize].state = RingState::Unmapped;
            return;
        }
        let slot = &mut self.slots[role as usize];
        slot.state = RingState::Running;
        // The guest may have posted, and kicked, before the worker watched the ring.
        slot.due = true;
        let watched = slot
            .kick
            .as_ref()
            .map(|kick| self.poller.add(kick, role.kick_token(), Interest::ReadEdge));
        if let Some(Err(error)) = watched {
            self.fail(role, &format_args!("its kick cannot be watched: {error}"));
        }
    }

    fn run_ring(
        &mut self,
        role: RingRole,
        map: Arc<GuestMap>,
        layout: RingLayout,
    ) -> Result<(), Box<dyn std::error::Error>> {
        match role {
            RingRole::Receive => self.receive.start(Ring::new(map, layout, self.features)?),
            RingRole::Transmit => {
                let ring = Ring::new(map, layout, self.features)?;
                self.transmit = Some(Transmit::new(ring, self.features));
            }
            RingRole::Control => self.control = Some(Control::new(map, layout, self.features)?),
        }
        Ok(())
    }

    /// Stops serving a ring, and saves its position.
    fn halt(&mut self, role: RingRole) {
        let slot = &mut self.slots[role as usize];
        if !slot.is_running() {
            return;
        }
        slot.state = RingState::Stopped;
        slot.due = false;
        if role == RingRole::Transmit {
            self.retired_at = None;
        }
        if let Some(kick) = &slot.kick {
            // The front end keeps the descriptor open, so closing this copy would not end the watch. This fails only if
            // the descriptor was never watched.
            let _ = self.poller.remove(kick);
        }
        let layout = match role {
            RingRole::Receive => {
                let layout = self.receive.stop();
                slot.call();
                layout
            }
            RingRole::Transmit => self.transmit.take().map(|mut t| t.ring().layout()),
            RingRole::Control => self.control.take().map(|c| c.layout()),
        };
        slot.layout = layout.or(slot.layout);
    }

    pub(super) fn halt_all(&mut self) {
        ROLES.into_iter().for_each(|role| self.halt(role));
    }

    /// Stops an inconsistent ring, counts the error and reports it to the front end.
    pub(super) fn fail(&mut self, role: RingRole, error: &(impl Display + ?Sized)) {
        self.halt(role);
        let slot = &mut self.slots[role as usize];
        slot.state = RingState::Broken;
        self.counters.count_drop(DropReason::BrokenRing);
        slot.report_error();
        // This is logged once for each start of the ring.
        log::warn!("{}: the {} ring stops: {error}", self.name, role.name());
    }

    /// Stops the receive ring if a mode found it malformed.
    pub(super) fn stop_broken(&mut self) {
        if let Some(error) = self.receive.take_broken() {
            self.fail(RingRole::Receive, &error);
        }
    }

    pub(super) fn serve_control(&mut self) {
        let slot = &mut self.slots[RingRole::Control as usize];
        let Some(control) = self.control.as_mut().filter(|_| std::mem::take(&mut slot.due)) else {
            return;
        };
        let features = self.features;
        let result = control.serve(&mut |order| self.nic.apply(order, features));
        match result {
            Ok(Served { call, more }) => {
                slot.due = more;
                if call {
                    slot.call();
                }
            }
            Err(error) => self.fail(RingRole::Control, &error),
        }
        self.follow_nic_state();
    }
}
